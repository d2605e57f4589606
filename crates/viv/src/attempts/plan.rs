//! Which attempts there are, and how many of them run at once.

use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::settings::values::{human_bytes, parse_name};

/// The most attempts of one run. The states of the last 20 sandboxes of a directory are kept
/// ([`viv_workspace::Limits`]): all of a run's are among them, and what was done before is not forgotten at once.
pub const MOST_ATTEMPTS: u32 = 16;

/// What the processes of a sandbox take of the host's memory beside its guest's own, in bytes: VMM, file daemon,
/// egress and monitor. Measured under emulation, which takes more.
const OVERHEAD_BYTES: u64 = 192 << 20;

/// Virtual processors that share one of the host's. An attempt waits for a model most of the time.
const SHARED_BY: u32 = 2;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// How many attempts.
    pub attempts: u32,
    /// How many at once; none for as many as fit.
    pub jobs: Option<u32>,
    /// What the attempts are called after: the user's name for the run, or its id.
    pub base: &'a str,
    /// Memory of each, bytes.
    pub memory: u64,
    /// Virtual processors of each.
    pub cpus: u32,
    /// The agent whose home only one sandbox may use at a time, if it is for such a one.
    pub alone: Option<&'a str>,
}

/// What the host has for them.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    /// Memory that is not in use, bytes; none if unknown.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: u32,
}

/// What decides how many run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// There are no more.
    Attempts,
    /// The user.
    Asked,
    /// Memory.
    Memory,
    /// Processors.
    Processors,
    /// What the agent keeps, which one sandbox alone may use.
    AgentHome,
}

/// The attempts of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Their names, which are also the order in which they begin.
    pub names: Vec<String>,
    /// How many run at once.
    pub jobs: u32,
    /// Why not more.
    pub limited_by: Limit,
    /// What is less than it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl Plan {
    /// Plans a run.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a name that has no room for a number, and for several at once where only one can be.
    pub fn new(wanted: &Wanted, there: &Resources) -> Result<Self, Error> {
        let names: Vec<String> = (1..=wanted.attempts).map(|number| format!("{}-{number}", wanted.base)).collect();
        if let Some(longest) = names.last().filter(|name| parse_name(name).is_err()) {
            let error = Error::new(ErrorKind::Usage, format!("the last attempt would be called {longest}"));
            return Err(error.hint("a name has up to 63 characters: choose a shorter --name"));
        }
        if let (Some(agent), Some(jobs @ 2..)) = (wanted.alone, wanted.jobs) {
            let what = format!("--jobs {jobs}: one sandbox alone may use what {agent} keeps of a project");
            return Err(Error::new(ErrorKind::Usage, what).hint("--jobs 1 has them run one after the other"));
        }
        let each = wanted.memory.saturating_add(OVERHEAD_BYTES);
        let by_memory = there.memory.map(|memory| at_least_one(memory / each.max(1)));
        let by_cpus = at_least_one(u64::from(there.cpus.saturating_mul(SHARED_BY) / wanted.cpus.max(1)));
        let mut jobs = (wanted.attempts, Limit::Attempts);
        let mut limit = |most: u32, by: Limit| {
            if most < jobs.0 {
                jobs = (most, by);
            }
        };
        if wanted.alone.is_some() {
            limit(1, Limit::AgentHome);
        }
        match wanted.jobs {
            Some(most) => limit(most, Limit::Asked),
            None => {
                limit(by_memory.unwrap_or(u32::MAX), Limit::Memory);
                limit(by_cpus, Limit::Processors);
            }
        }
        let (jobs, limited_by) = jobs;
        let warning = by_memory.zip(there.memory).filter(|(fit, _)| jobs > *fit).map(|(fit, memory)| {
            format!(
                "{jobs} attempts at once may take {}, and {} are free, which is enough for {fit}",
                human_bytes(each.saturating_mul(u64::from(jobs))),
                human_bytes(memory)
            )
        });
        Ok(Self { names, jobs, limited_by, warning })
    }

    /// In a line, with what decides how many run at once if the user did not.
    #[must_use]
    pub fn describe(&self) -> String {
        let (first, last) = (self.names.first(), self.names.last());
        let names = format!("{} to {}", first.map_or("", String::as_str), last.map_or("", String::as_str));
        let why = match self.limited_by {
            Limit::Attempts => return format!("{} attempts at once, {names}", self.names.len()),
            Limit::Asked => "",
            Limit::Memory => ": the memory that is free is enough for no more",
            Limit::Processors => ": the processors of this host are enough for no more",
            Limit::AgentHome => ": one sandbox alone may use what the agent keeps",
        };
        format!("{} attempts, {names}, {} at once{why}", self.names.len(), self.jobs)
    }
}

fn at_least_one(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'static> =
        Wanted { attempts: 4, jobs: None, base: "night", memory: 2 << 30, cpus: 2, alone: None };
    const LARGE: Resources = Resources { memory: Some(64 << 30), cpus: 16 };

    fn plan(wanted: Wanted, there: Resources) -> Plan {
        Plan::new(&wanted, &there).unwrap()
    }

    #[test]
    fn what_there_is_decides_how_many_run_at_once() {
        let small = Resources { memory: Some(5 << 30), cpus: 16 };
        let slow = Resources { cpus: 2, ..LARGE };
        let none = Resources { memory: Some(1 << 20), cpus: 1 };
        let unknown = Resources { memory: None, cpus: 1 };
        let asked = Wanted { jobs: Some(3), ..WANTED };
        let plans = [
            plan(WANTED, LARGE),
            plan(WANTED, small),
            plan(WANTED, slow),
            plan(WANTED, none),
            plan(WANTED, unknown),
            plan(asked, LARGE),
            plan(asked, small),
            plan(Wanted { jobs: Some(9), ..WANTED }, LARGE),
            plan(Wanted { alone: Some("opencode"), ..WANTED }, LARGE),
            plan(Wanted { base: "3f2a91c0", attempts: MOST_ATTEMPTS, ..WANTED }, LARGE),
        ];
        let told = plans.map(|plan| match &plan.warning {
            Some(warning) => format!("{}\n  warning: {warning}", plan.describe()),
            None => plan.describe(),
        });
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |wanted: Wanted| Plan::new(&wanted, &LARGE).unwrap_err().to_string();
        let long = "x".repeat(62);
        assert_eq!(refused(Wanted { base: &long, ..WANTED }), format!("the last attempt would be called {long}-4"));
        assert_eq!(
            refused(Wanted { alone: Some("opencode"), jobs: Some(2), ..WANTED }),
            "--jobs 2: one sandbox alone may use what opencode keeps of a project"
        );
        assert_eq!(plan(Wanted { alone: Some("opencode"), jobs: Some(1), ..WANTED }, LARGE).jobs, 1);
    }
}
