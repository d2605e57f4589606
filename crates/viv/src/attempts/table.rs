//! Attempts side by side.

use serde::Serialize;

use super::outcome::{Attempt, Check, Ended, Usage};
use crate::output;

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Table<'a> {
    /// What the attempts are called after.
    pub name: &'a str,
    /// The directory that they worked on copies of.
    pub workspace: &'a str,
    /// What each of them ran.
    pub command: &'a [String],
    /// What was run after it.
    pub check: Option<&'a str>,
    /// In the order of their names.
    pub attempts: &'a [Attempt],
    /// Those that ended with 0 and passed.
    pub succeeded: Vec<&'a str>,
    /// The exit code of `viv`.
    pub exit_code: u8,
}

/// The table for people: a row for each. Columns that would be the same in all rows, because there is no check or
/// no model was called, are left out.
#[must_use]
pub fn render(attempts: &[Attempt]) -> String {
    let is_checked = attempts.iter().any(|attempt| attempt.check.is_some());
    let has_calls = attempts.iter().any(|attempt| attempt.usage.calls > 0);
    let mut headings = vec!["NAME", "EXIT"];
    headings.extend(is_checked.then_some("CHECK"));
    headings.extend(["FILES", "LINES"]);
    headings.extend(has_calls.then_some("COST"));
    headings.push("TIME");
    let row = |attempt: &Attempt| {
        let mut row = vec![attempt.name.clone(), exit(&attempt.ended)];
        row.extend(is_checked.then(|| attempt.check.as_ref().map_or_else(nothing, check)));
        match &attempt.changes {
            Some(changes) => {
                row.extend([changes.files.to_string(), format!("+{} -{}", changes.additions, changes.deletions)]);
            }
            None => row.extend([nothing(), nothing()]),
        }
        row.extend(has_calls.then(|| cost(&attempt.usage)));
        let took = std::time::Duration::from_millis(attempt.milliseconds.command);
        row.push(if took.is_zero() { nothing() } else { output::human_duration(took) });
        row
    };
    output::table(&headings, &attempts.iter().map(row).collect::<Vec<_>>())
}

fn nothing() -> String {
    "-".to_owned()
}

/// How a command ended, in a word or two.
#[must_use]
pub fn exit(ended: &Ended) -> String {
    match ended {
        Ended::Exited { exit_code, signal: None } => exit_code.to_string(),
        Ended::Exited { exit_code, signal: Some(number) } => format!("{exit_code} (signal {number})"),
        Ended::TimedOut => "timed out".to_owned(),
        Ended::Lost => "lost".to_owned(),
        Ended::Interrupted => "interrupted".to_owned(),
        Ended::NotStarted => "not started".to_owned(),
        Ended::NotBegun => "not begun".to_owned(),
    }
}

/// What a check found, in a word or two.
#[must_use]
pub fn check(check: &Check) -> String {
    match check {
        Check::Passed => "passed".to_owned(),
        Check::Failed { exit_code } => format!("failed ({exit_code})"),
        Check::TimedOut => "timed out".to_owned(),
        Check::NotRun => "not run".to_owned(),
    }
}

/// What calls cost, as far as that is known.
#[allow(clippy::cast_precision_loss, reason = "four decimals are shown")]
fn cost(usage: &Usage) -> String {
    let tokens = usage.input.saturating_add(usage.output);
    let about = if usage.estimated > 0 { "~" } else { "" };
    match (usage.calls, usage.unpriced) {
        (0, _) => nothing(),
        (calls, unpriced) if calls == unpriced => format!("{about}{tokens} tokens"),
        (_, 0) => format!("{about}{:.4} USD", usage.microdollars as f64 / 1e6),
        _ => format!("over {:.4} USD", usage.microdollars as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{Changes, Milliseconds, Verdict};
    use super::*;
    use viv_error::Report;

    fn attempts() -> Vec<Attempt> {
        let base = |number: u32| Attempt {
            name: format!("night-{number}"),
            id: Some(format!("3f2a91c{number}")),
            ended: Ended::Exited { exit_code: 0, signal: None },
            check: Some(Check::Passed),
            changes: Some(Changes { files: 3, additions: 41, deletions: 7 }),
            usage: Usage { calls: 14, input: 20_000, output: 1200, microdollars: 120_341, unpriced: 0, estimated: 0 },
            milliseconds: Milliseconds { start: 2400, command: 123_000, check: 4100, total: 131_000 },
            error: None,
        };
        let lost = Report {
            kind: "vmm".into(),
            message: "the virtual machine was killed (signal 9)".into(),
            causes: vec![],
            hints: vec![],
        };
        vec![
            base(1),
            Attempt {
                ended: Ended::Exited { exit_code: 1, signal: None },
                check: Some(Check::Failed { exit_code: 101 }),
                usage: Usage { unpriced: 2, estimated: 1, ..base(2).usage },
                ..base(2)
            },
            Attempt {
                ended: Ended::Lost,
                check: Some(Check::NotRun),
                changes: None,
                usage: Usage { calls: 1, input: 9, output: 3, microdollars: 0, unpriced: 1, estimated: 1 },
                error: Some(lost),
                ..base(3)
            },
            Attempt { ended: Ended::TimedOut, check: Some(Check::TimedOut), usage: Usage::default(), ..base(4) },
            Attempt { ended: Ended::Exited { exit_code: 137, signal: Some(9) }, ..base(5) },
            Attempt::not_begun("night-6", true),
        ]
    }

    #[test]
    fn the_table_reads_well() {
        let all = attempts();
        insta::assert_snapshot!(render(&all));
        let plain: Vec<Attempt> = all
            .iter()
            .take(2)
            .map(|attempt| Attempt { check: None, usage: Usage::default(), ..attempt.clone() })
            .collect();
        insta::assert_snapshot!(render(&plain));
    }

    #[test]
    fn programs_get_all_of_it() {
        let all = attempts();
        let command = ["claude".to_owned(), "fix it".to_owned()];
        insta::assert_json_snapshot!(Table {
            name: "night",
            workspace: "/w/project",
            command: &command,
            check: Some("make test"),
            attempts: &all,
            succeeded: all.iter().filter(|attempt| attempt.succeeded()).map(|attempt| attempt.name.as_str()).collect(),
            exit_code: Verdict::of(&all, None).exit_code(),
        });
    }
}
