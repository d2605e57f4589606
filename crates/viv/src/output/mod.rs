//! What `viv` itself says: to people as text on stderr, to programs as one JSON object per line.

mod board;
pub mod clean;
pub mod pipeline;
mod progress;
pub mod time;

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use owo_colors::{OwoColorize, Style};
use serde::Serialize;
use viv_error::Report;
use viv_net::event::Denial;
use viv_sandbox::{Publish, Way};

use crate::cli::Verbosity;
use crate::error::Failure;
use crate::terminal::{Descriptor, raw};
use crate::timing::Span;
use clean::{clean, clean_lines};
use pipeline::{Level, Pipeline};

pub use board::{Board, Part};
pub use progress::{ProgressReporter, Waiting};

/// How and how much is said.
#[derive(Debug)]
pub struct Printer {
    /// One JSON object per line instead of text.
    json: bool,
    quiet: bool,
    verbose: bool,
    /// The program's last byte on stderr was no line break.
    mid_line: AtomicBool,
    /// Nobody watches: nothing is drawn.
    unattended: bool,
    /// The log of a pipeline that knows commands.
    pipeline: Option<Pipeline>,
    /// One of several things that are done at once, which this printer is for.
    part: Option<Part>,
}

/// One event of `viv run --json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JsonEvent<'a> {
    /// A kernel or an image is being built.
    Preparing {
        /// What is being done.
        message: &'a str,
    },
    /// The virtual machine is about to be started. Comes again if a template turns out unusable.
    Starting {
        /// The sandbox.
        id: &'a str,
        /// From a template, or cold, and why.
        way: &'a Way,
    },
    /// The sandbox takes commands.
    Ready {
        /// The sandbox.
        id: &'a str,
        /// Since its start, by the host's clock.
        milliseconds: u64,
        /// Since its kernel's start, by the guest's clock.
        guest_uptime_ms: u64,
        /// Ports of its loopback interface, and where this host shows them.
        published: &'a [Publish],
    },
    /// The program runs, and goes on without `viv`: the last line.
    Detached {
        /// The sandbox.
        id: &'a str,
        /// The session that the program has.
        session: u32,
    },
    /// One of several attempts has come so far.
    Attempt {
        /// Which.
        name: &'a str,
        /// Its sandbox.
        id: &'a str,
        /// What it does from now on.
        state: crate::attempts::State,
    },
    /// A key pair was made inside.
    DeployKey {
        /// Its public half.
        public: &'a str,
    },
    /// The sandbox was refused a connection.
    Denied {
        /// What, why, and what would permit it.
        #[serde(flatten)]
        denial: &'a Denial,
    },
    /// Something is less than it could be.
    Warning {
        /// What.
        message: &'a str,
        /// What would mend it.
        hint: Option<&'a str>,
    },
    /// The command failed.
    Error {
        /// Why.
        error: &'a Report,
        /// The exit code of `viv`.
        exit_code: u8,
    },
    /// Where the time went, if that was asked for: the last line but one.
    Timing {
        /// The parts, each followed by those inside that it waited for.
        spans: &'a [Span],
        /// All of it, in microseconds.
        total_us: u64,
    },
    /// The program ended: the last line.
    Result {
        /// The sandbox.
        id: &'a str,
        /// The exit code of `viv`.
        exit_code: u8,
        /// The signal that ended the program.
        signal: Option<i32>,
        /// Whether `--timeout` ended it.
        timed_out: bool,
        /// Where the time went.
        timings: Timings,
    },
}

/// Where the time of a run went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Timings {
    /// Making sure of kernel and images.
    pub prepare_ms: u64,
    /// From there to a sandbox that takes commands.
    pub start_ms: u64,
    /// From the command's start to its first byte of output.
    pub first_output_ms: Option<u64>,
    /// The program itself.
    pub program_ms: u64,
    /// Flushing shares, powering off, cleaning up.
    pub stop_ms: u64,
    /// All of it.
    pub total_ms: u64,
}

impl Printer {
    /// A printer for the user's wishes.
    #[must_use]
    pub fn new(verbosity: Verbosity, json: bool) -> Self {
        Self {
            json,
            quiet: verbosity.quiet,
            verbose: verbosity.verbose,
            mid_line: AtomicBool::new(false),
            unattended: false,
            pipeline: None,
            part: None,
        }
    }

    /// A printer for one of several things that are done at once: what it says begins with that one's name and comes
    /// above the board, it draws nothing itself, and of what a program prints the board shows the last line.
    #[must_use]
    pub fn of_part(&self, part: Part) -> Self {
        Self {
            json: self.json,
            quiet: self.quiet,
            verbose: self.verbose,
            mid_line: AtomicBool::new(false),
            unattended: true,
            pipeline: None,
            part: Some(part),
        }
    }

    /// The same for a run that nobody watches; under GitHub Actions, its log is written for that.
    #[must_use]
    pub fn unattended(self, is_github: bool) -> Self {
        Self { unattended: true, pipeline: is_github.then(Pipeline::new), ..self }
    }

    /// The log of the pipeline, if it knows commands.
    #[must_use]
    pub fn pipeline(&self) -> Option<&Pipeline> {
        self.pipeline.as_ref()
    }

    /// Where the program's output and its errors go.
    #[must_use]
    pub fn program_streams(&self) -> (Box<dyn Write + Send>, Box<dyn Write + Send>) {
        match (&self.pipeline, &self.part) {
            (Some(pipeline), _) => (pipeline.stream(), pipeline.stream()),
            (None, Some(part)) => (part.last_line(), part.last_line()),
            (None, None) => (Box::new(Descriptor::stdout()), Box::new(Descriptor::stderr())),
        }
    }

    /// Whether events are wanted as JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether progress is to be drawn.
    #[must_use]
    pub fn draws_progress(&self) -> bool {
        !self.json && !self.quiet && !self.unattended && std::io::stderr().is_terminal()
    }

    /// The program has left stderr in the middle of a line.
    pub fn note_unfinished_line(&self, unfinished: bool) {
        self.mid_line.store(unfinished, Ordering::Relaxed);
    }

    /// Something is less than it could be.
    pub fn warning(&self, message: &str, hint: Option<&str>) {
        let message = &*self.named(message);
        if self.json {
            self.event(&JsonEvent::Warning { message, hint });
        } else if !self.quiet {
            let mut text = format!("{} {}", "warning:".style(Style::new().yellow().bold()), clean_lines(message));
            if let Some(hint) = hint {
                text.push_str(&hint_line(hint));
            }
            match &self.pipeline {
                Some(pipeline) => {
                    let hints = hint.iter().map(|hint| (*hint).to_owned()).collect();
                    let (kind, message) = ("warning".to_owned(), message.to_owned());
                    let report = Report { kind, message, causes: Vec::new(), hints };
                    pipeline.annotate(Level::Warning, &report, &plain(&text));
                }
                None => self.line(&text),
            }
        }
    }

    /// Something worth knowing that is no warning.
    pub fn note(&self, message: &str) {
        if !self.json && !self.quiet {
            self.line(&clean_lines(&self.named(message)));
        }
    }

    /// Something only `--verbose` wants to know.
    pub fn detail(&self, message: &str) {
        if self.verbose && !self.json {
            self.line(&format!("{}", clean_lines(&self.named(message)).dimmed()));
        }
    }

    /// A step of how long it took, for `--verbose`.
    pub fn timing(&self, what: &str, took: Duration) {
        if self.verbose {
            self.detail(&format!("{what}: {}", human_duration(took)));
        }
    }

    /// An event, for `--json` alone.
    pub fn event(&self, event: &JsonEvent) {
        if self.json {
            match serde_json::to_string(event) {
                Ok(line) => self.line(&line),
                Err(error) => self.line(&error.to_string()),
            }
        }
    }

    /// Why the command failed.
    pub fn failure(&self, failure: &Failure) {
        let Some(report) = &failure.report else { return };
        if self.json {
            self.event(&JsonEvent::Error { error: report, exit_code: failure.code });
        } else if let Some(pipeline) = &self.pipeline {
            pipeline.annotate(Level::Error, report, &plain(&render_report(report)));
        } else {
            self.line(&render_report(report));
        }
    }

    /// A message with the name of what it is about, if there are several.
    fn named<'m>(&self, message: &'m str) -> Cow<'m, str> {
        match self.part.as_ref().map_or("", Part::name) {
            "" => message.into(),
            name => format!("{name}: {message}").into(),
        }
    }

    fn line(&self, text: &str) {
        if let Some(pipeline) = &self.pipeline {
            return pipeline.say(&plain(text));
        }
        if let Some(part) = &self.part {
            return part.say(&format!("{text}\n"));
        }
        let begin = if self.mid_line.swap(false, Ordering::Relaxed) { "\n" } else { "" };
        let text = match raw::occupant() {
            raw::Occupant::Nobody => format!("{begin}{text}\n"),
            _ => format!("\r\n{}\r\n", text.replace('\n', "\r\n")),
        };
        // In one piece, so that others' lines do not come between. Nobody is left to tell if stderr
        // is closed.
        let _ = anstream::stderr().lock().write_all(text.as_bytes());
    }
}

/// The same without colours.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// `error:`, what it was caused by, and hints.
#[must_use]
pub fn render_report(report: &Report) -> String {
    let mut text = format!("{} {}", "error:".style(Style::new().red().bold()), clean_lines(&report.message));
    for cause in &report.causes {
        text.push_str(&format!("\n  {} {}", "caused by:".dimmed(), clean_lines(cause).replace('\n', "\n    ")));
    }
    for hint in &report.hints {
        text.push_str(&hint_line(hint));
    }
    text
}

fn hint_line(hint: &str) -> String {
    format!("\n  {} {}", "hint:".style(Style::new().cyan()), clean_lines(hint).replace('\n', "\n    "))
}

/// A length of time, such as `350 ms`, `1.2 s`, `3 min 5 s`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => {
            let seconds = duration.as_secs();
            match seconds {
                0..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
                3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
                _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
            }
        }
    }
}

/// Whole milliseconds.
#[must_use]
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes to stdout. A reader that went away is an end like `head`'s, not an error.
///
/// # Errors
/// The quiet failure of a broken pipe, or what else stdout refuses.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Failure::quiet(crate::exit_code::BROKEN_PIPE))
        }
        Err(error) => Err(crate::error::io("cannot write standard output")(error).into()),
    }
}

/// Writes a value to stdout as JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| crate::error::io("cannot write the result as JSON")(error.into()))?;
    print(&format!("{text}\n"))
}

/// The name a variant without content has in JSON, which is also its name for people.
#[must_use]
pub fn name_of(variant: &impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// Arguments as one would type them.
#[must_use]
pub fn shell_words(arguments: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    let words: Vec<String> = arguments
        .iter()
        .map(|argument| {
            if !argument.is_empty() && argument.chars().all(plain) {
                argument.clone()
            } else {
                format!("'{}'", argument.replace('\'', "'\\''"))
            }
        })
        .collect();
    words.join(" ")
}

/// Rows under headings, each column as wide as its widest cell. The last is not padded.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0).max(width(heading))
        })
        .collect();
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (cell, room) in row.iter().zip(&widths) {
            line.push_str(&clean(cell));
            line.extend(std::iter::repeat_n(' ', room + 2 - width(cell).min(*room)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        let read = |milliseconds| human_duration(Duration::from_millis(milliseconds));
        assert_eq!(
            [350, 1250, 185_000, 7_380_000, 200_000_000].map(read),
            ["350 ms", "1.2 s", "3 min 5 s", "2 h 3 min", "2 d 7 h"]
        );
    }

    #[test]
    fn reports_are_shown_whole_and_clean() {
        let report = Report {
            kind: "x".into(),
            message: "the guest said \x1b[2J".into(),
            causes: vec!["one\ntwo".into(), "three".into()],
            hints: vec!["viv doctor --fix".into()],
        };
        assert_eq!(
            anstream::adapter::strip_str(&render_report(&report)).to_string(),
            "error: the guest said \\u{1b}[2J\n  caused by: one\n    two\n  caused by: three\n  hint: viv doctor --fix"
        );
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned()], vec!["bcd".to_owned(), "x\x1b".to_owned()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID   NAME\na    long cell\nbcd  x\\u{1b}\n");
    }

    #[test]
    fn words_are_quoted_where_needed() {
        let words = ["sh", "-c", "echo 'a b'", "", "x=1"].map(str::to_owned);
        assert_eq!(shell_words(&words), "sh -c 'echo '\\''a b'\\''' '' x=1");
    }
}
