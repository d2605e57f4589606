//! `--trace FILE`: a chart of where the time of a start goes, from what `viv run --timing` says.

mod chrome;
mod page;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::templates;
use crate::command;

/// Of so many starts the one in the middle is drawn.
const STARTS: usize = 5;

/// Who did a part, in the order they are drawn in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Client,
    Monitor,
    Guest,
}

impl Place {
    const ALL: [Self; 3] = [Self::Client, Self::Monitor, Self::Guest];

    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Monitor => "monitor",
            Self::Guest => "guest",
        }
    }
}

/// A part of a start, in microseconds since viv was started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Span {
    name: String,
    #[serde(rename = "where")]
    place: Place,
    start_us: u64,
    end_us: u64,
}

/// One start.
struct Start {
    title: &'static str,
    spans: Vec<Span>,
}

impl Start {
    /// When the last part ended.
    fn end_us(&self) -> u64 {
        self.spans.iter().map(|span| span.end_us).max().unwrap_or(0)
    }
}

/// Starts viv a few times and draws the starts into `file`: a page for a browser or, if its name
/// ends in `.json`, events for Chrome's and Perfetto's trace viewers.
///
/// # Errors
/// If viv tells no times, or the file cannot be written.
pub fn write(viv: &Path, directory: &Path, file: &Path) -> Result<()> {
    templates::build(viv, &[])?;
    let starts = [
        Start { title: "From a template", spans: measured(viv, directory, &[])? },
        Start { title: "Cold", spans: measured(viv, directory, &["--cold"])? },
    ];
    let is_json = file.extension() == Some(OsStr::new("json"));
    let contents = if is_json { chrome::events(&starts).to_string() } else { page::render(&starts) };
    std::fs::write(file, contents).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("wrote {}", file.display());
    Ok(())
}

/// The start in the middle of a few, by their length.
fn measured(viv: &Path, directory: &Path, options: &[&str]) -> Result<Vec<Span>> {
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let mut command = Command::new(viv);
        command.args(["run", "--timing", "--json"]).args(options).args(["--", "true"]).current_dir(directory);
        let output = command.stdin(Stdio::null()).output().context("cannot run viv")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} ended with {}:\n{said}", command::display(&command), output.status);
        starts.push(spans(&said)?);
    }
    starts.sort_by_key(|spans| spans.iter().map(|span| span.end_us).max());
    Ok(starts.swap_remove(STARTS / 2))
}

/// The spans among viv's events, one JSON object a line.
fn spans(events: &str) -> Result<Vec<Span>> {
    let timing = events
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|event| event["event"] == "timing")
        .context("`viv run --timing --json` told no timing")?;
    let spans: Vec<Span> = serde_json::from_value(timing["spans"].clone()).context("the timing has another shape")?;
    ensure!(!spans.is_empty(), "the timing is empty");
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start as viv would tell it, with a part whose name the guest chose badly.
    pub(super) fn start() -> Start {
        let span = |name: &str, place, start_us, end_us| Span { name: name.into(), place, start_us, end_us };
        Start {
            title: "From a template",
            spans: vec![
                span("settings", Place::Client, 0, 2000),
                span("started", Place::Monitor, 2000, 12_000),
                span("configured", Place::Monitor, 12_000, 200_000),
                span("<b>names</b>\u{1b}", Place::Guest, 150_000, 200_000),
                span("stopped", Place::Client, 200_000, 260_000),
            ],
        }
    }

    #[test]
    fn the_timing_is_found_among_other_events() {
        let events = "not JSON\n{\"event\":\"ready\"}\n\
            {\"event\":\"timing\",\"spans\":[{\"name\":\"settings\",\"where\":\"client\",\"start_us\":0,\"end_us\":7}]}\n\
            {\"event\":\"result\"}\n";
        let span = Span { name: "settings".into(), place: Place::Client, start_us: 0, end_us: 7 };
        assert_eq!(spans(events).unwrap(), [span]);
        assert!(spans("{\"event\":\"result\"}\n").is_err());
        assert!(spans("{\"event\":\"timing\",\"spans\":[]}\n").is_err());
    }
}
