//! What became of each of several sandboxes, told as it happens and, for programs, once more at the end.

use std::time::{Duration, Instant};

use serde::Serialize;
use viv_error::Report;
use viv_sandbox::named::{EndReason, Named, State};

use crate::error::Failure;
use crate::exit_code;
use crate::output::{Printer, human_duration, milliseconds, print_json};

/// What was done to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Nothing: it was so already.
    Nothing,
    /// It has a machine now.
    Started,
    /// Its machine ended in good order.
    Stopped,
    /// Its machine ended at once.
    Killed,
    /// It is forgotten, with all it had.
    Removed,
    /// Its machine stands still.
    Paused,
    /// Its machine goes on.
    Resumed,
    /// It has another name.
    Renamed,
    /// It was waited for.
    Waited,
    /// Its disk takes no more than it uses.
    Trimmed,
    /// Its disk holds more, or less.
    Resized,
    /// Its disk is thrown away.
    Discarded,
}

/// What became of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name, or the id of one that has none.
    pub name: String,
    /// What was done.
    pub done: Done,
    /// What it is doing now; none if nothing is left of it.
    pub state: Option<State>,
    /// The id of its machine, if it has one.
    pub id: Option<String>,
    /// How its machine ended, if it has none.
    pub ended: Option<EndReason>,
    /// How long that took.
    pub milliseconds: u64,
    /// The same for people, after its name.
    #[serde(skip)]
    pub words: String,
    /// The exit code of whoever asked for nothing else.
    #[serde(skip)]
    pub code: u8,
}

impl Outcome {
    /// What a sandbox is now, as it was found.
    #[must_use]
    pub fn of(named: &Named, done: Done, words: impl Into<String>) -> Self {
        Self {
            state: Some(named.state),
            id: named.id.clone(),
            ended: named.ended.as_ref().map(|ending| ending.reason),
            ..Self::gone(&named.name, done, words)
        }
    }

    /// Of one that is not there any more.
    #[must_use]
    pub fn gone(name: &str, done: Done, words: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            done,
            state: None,
            id: None,
            ended: None,
            milliseconds: 0,
            words: words.into(),
            code: 0,
        }
    }
}

/// One that was not done, as `--json` prints it.
#[derive(Serialize)]
struct Missed<'a> {
    name: &'a str,
    milliseconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Report>,
    exit_code: u8,
}

/// Of each sandbox.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Done(&'a Outcome),
    Missed(Missed<'a>),
}

/// What took less needs no mention.
const WORTH_A_WORD: Duration = Duration::from_millis(500);

/// Does something to each of several sandboxes, one after the other, and tells what becomes of each. The exit code
/// is that of the first that it cannot be done to. Interrupted, it ends with the one it is at.
///
/// # Errors
/// The first failure, which has been told; a standard output that cannot be written.
pub fn each<T>(
    all: &[T],
    name: impl Fn(&T) -> &str,
    printer: &Printer,
    mut act: impl FnMut(&T) -> Result<Outcome, Failure>,
) -> Result<u8, Failure> {
    let mut attempts: Vec<(&str, Duration, Result<Outcome, Failure>)> = Vec::new();
    for one in all {
        let began = Instant::now();
        let result = act(one);
        let took = began.elapsed();
        match &result {
            Ok(outcome) => {
                let time = if took >= WORTH_A_WORD { format!(", {}", human_duration(took)) } else { String::new() };
                printer.note(&format!("{} {}{time}", outcome.name, outcome.words));
            }
            Err(failure) => printer.failure(failure),
        }
        let is_interrupted = matches!(&result, Err(Failure { report: None, .. }));
        attempts.push((name(one), took, result));
        if is_interrupted {
            break;
        }
    }
    if printer.is_json() {
        let entries: Vec<Entry<'_>> = attempts
            .iter_mut()
            .map(|(name, took, result)| match result {
                Ok(outcome) => {
                    outcome.milliseconds = milliseconds(*took);
                    Entry::Done(outcome)
                }
                Err(Failure { report, code }) => Entry::Missed(Missed {
                    name,
                    milliseconds: milliseconds(*took),
                    error: report.as_ref(),
                    exit_code: *code,
                }),
            })
            .collect();
        print_json(&entries)?;
    }
    let codes = attempts.iter().map(|(_, _, result)| match result {
        Ok(outcome) => outcome.code,
        Err(failure) => failure.code,
    });
    match codes.into_iter().find(|code| *code != exit_code::SUCCESS) {
        Some(code) => Err(Failure::quiet(code)),
        None => Ok(exit_code::SUCCESS),
    }
}
