//! What came of an attempt, and of all of them.

use serde::Serialize;
use viv_error::Report;
use viv_net::gateway::Record;

use crate::exit_code;

/// What an attempt does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its machine starts, and gets a copy of the workspace.
    Starting,
    /// Its command runs.
    Running,
    /// What it changed is being taken.
    Taking,
    /// Its check runs.
    Checking,
    /// It is over.
    Ended,
}

/// How an attempt's command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum Ended {
    /// By itself.
    Exited {
        /// Its exit code, as `viv run` has it.
        exit_code: u8,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// Its time was up.
    TimedOut,
    /// Its sandbox was killed, crashed, or became unreachable.
    Lost,
    /// The user ended it.
    Interrupted,
    /// Its sandbox, or the command in it, could not be started.
    NotStarted,
    /// The user ended all of them before its turn.
    NotBegun,
}

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Check {
    /// It ended with 0.
    Passed,
    /// It ended with something else.
    Failed {
        /// With this.
        exit_code: u8,
    },
    /// Its time was up.
    TimedOut,
    /// There was no sandbox left to run it in, or the user ended it.
    NotRun,
}

/// What it changed of its copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Files that are new, gone, or other than they were.
    pub files: usize,
    /// Lines that are new; of binary files none.
    pub additions: usize,
    /// Lines that are gone.
    pub deletions: usize,
}

/// What it used of model APIs, as its gateway counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Calls that were let through.
    pub calls: u64,
    /// Tokens of input, cached ones included.
    pub input: u64,
    /// Tokens of output.
    pub output: u64,
    /// What that costs, in millionths of a US dollar, as far as the models have prices.
    pub microdollars: u64,
    /// Calls of models without a price.
    pub unpriced: u64,
    /// Calls whose tokens are, at least in part, an estimate.
    pub estimated: u64,
}

impl Usage {
    /// Of the calls in a sandbox's record.
    #[must_use]
    pub fn of(calls: &[Record]) -> Self {
        let mut usage = Self::default();
        for call in calls {
            let tokens = &call.tokens;
            let input = tokens.input.saturating_add(tokens.cached).saturating_add(tokens.cache_write);
            usage.calls += 1;
            usage.input = usage.input.saturating_add(input);
            usage.output = usage.output.saturating_add(tokens.output);
            usage.microdollars = usage.microdollars.saturating_add(call.microdollars.unwrap_or(0));
            usage.unpriced += u64::from(call.microdollars.is_none());
            usage.estimated += u64::from(call.estimated);
        }
        usage
    }
}

/// Where its time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Milliseconds {
    /// From its turn to a sandbox with a copy in it.
    #[serde(rename = "start_ms")]
    pub start: u64,
    /// The command itself.
    #[serde(rename = "command_ms")]
    pub command: u64,
    /// The check.
    #[serde(rename = "check_ms")]
    pub check: u64,
    /// From its turn to a sandbox that is gone.
    #[serde(rename = "total_ms")]
    pub total: u64,
}

/// An attempt that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// What it is found by.
    pub name: String,
    /// Its sandbox's id; none if it never had one.
    pub id: Option<String>,
    /// How its command ended.
    #[serde(flatten)]
    pub ended: Ended,
    /// What the check found; none if there is none.
    pub check: Option<Check>,
    /// What it changed; none if that was lost with its sandbox.
    pub changes: Option<Changes>,
    /// What it used of model APIs.
    pub usage: Usage,
    /// Where its time went.
    #[serde(flatten)]
    pub milliseconds: Milliseconds,
    /// What went wrong that was not the command's doing.
    pub error: Option<Report>,
}

impl Attempt {
    /// One whose turn never came.
    #[must_use]
    pub fn not_begun(name: &str, is_checked: bool) -> Self {
        Self { ended: Ended::NotBegun, ..Self::begin(name, None, is_checked) }
    }

    /// One whose turn it is: nothing has come of it yet.
    #[must_use]
    pub fn begin(name: &str, id: Option<&str>, is_checked: bool) -> Self {
        Self {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            ended: Ended::NotStarted,
            check: is_checked.then_some(Check::NotRun),
            changes: None,
            usage: Usage::default(),
            milliseconds: Milliseconds::default(),
            error: None,
        }
    }

    /// Whether its command ended with 0, what it changed is kept, its check passed, if there is one, and nothing else
    /// went wrong.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.ended == (Ended::Exited { exit_code: 0, signal: None })
            && self.changes.is_some()
            && self.error.is_none()
            && matches!(self.check, None | Some(Check::Passed))
    }

    /// Whether its command ran at all.
    fn ran(&self) -> bool {
        !matches!(self.ended, Ended::NotStarted | Ended::NotBegun)
    }
}

/// What came of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At least one succeeded.
    Succeeded,
    /// None did.
    NoneSucceeded,
    /// Not one could be started.
    NoneRan,
    /// The user ended them, with this signal.
    Interrupted(i32),
}

impl Verdict {
    /// Of these attempts.
    #[must_use]
    pub fn of(attempts: &[Attempt], interrupted: Option<i32>) -> Self {
        match interrupted {
            Some(number) => Self::Interrupted(number),
            None if attempts.iter().any(Attempt::succeeded) => Self::Succeeded,
            None if attempts.iter().any(Attempt::ran) => Self::NoneSucceeded,
            None => Self::NoneRan,
        }
    }

    /// The exit code of `viv`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Succeeded => exit_code::SUCCESS,
            Self::NoneSucceeded => exit_code::NO_ATTEMPT_SUCCEEDED,
            Self::NoneRan => exit_code::VIV_FAILED,
            Self::Interrupted(number) => exit_code::of_signal(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use viv_net::gateway::Tokens;

    fn attempt(ended: Ended, check: Option<Check>) -> Attempt {
        Attempt { ended, check, changes: Some(Changes::default()), ..Attempt::not_begun("x-1", false) }
    }

    fn exited(exit_code: u8) -> Ended {
        Ended::Exited { exit_code, signal: None }
    }

    #[test]
    fn one_that_ended_well_and_passed_is_enough() {
        let code = |attempts: &[Attempt]| Verdict::of(attempts, None).exit_code();
        let good = attempt(exited(0), Some(Check::Passed));
        let bad = attempt(exited(0), Some(Check::Failed { exit_code: 2 }));
        let lost = attempt(Ended::Lost, None);
        let unstarted = attempt(Ended::NotStarted, None);
        assert_eq!(code(&[bad.clone(), good.clone(), lost.clone()]), 0);
        assert_eq!(code(&[attempt(exited(0), None)]), 0);
        for none in [bad, lost, attempt(exited(3), None), attempt(Ended::TimedOut, Some(Check::Passed))] {
            assert_eq!(code(&[none, unstarted.clone()]), 1);
        }
        assert_eq!(code(&[attempt(exited(0), Some(Check::NotRun))]), 1);
        assert_eq!(code(&[Attempt { changes: None, ..attempt(exited(0), None) }]), 1, "nothing is left of it");
        assert_eq!(code(&[unstarted]), 125);
        assert_eq!(Verdict::of(&[good], Some(2)).exit_code(), 130);
    }

    #[test]
    fn calls_are_added_up() {
        let record = |microdollars, estimated| Record {
            call: 1,
            at_ms: 0,
            upstream: "anthropic".into(),
            agent: 0,
            model: None,
            tokens: Tokens { input: 10, cached: 4, cache_write: 1, output: 3 },
            microdollars,
            status: Some(200),
            estimated,
        };
        let usage = Usage::of(&[record(Some(7), false), record(None, true), record(Some(u64::MAX), false)]);
        assert_eq!(usage, Usage { calls: 3, input: 45, output: 9, microdollars: u64::MAX, unpriced: 1, estimated: 1 });
    }
}
