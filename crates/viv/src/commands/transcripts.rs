//! `viv logs --transcripts`: what agents wrote down of their work.

use std::io::{ErrorKind as ErrorOfStream, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use viv_audit::{Entry, Event, Line, Transcript};

use super::logs::{cannot_read, since_latest_start, write_new};
use crate::cli::audit::LogsArguments;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::clean::{clean, clean_lines};
use crate::output::time::rfc3339;
use crate::output::{Printer, print, print_json, table};
use crate::settings::values::human_bytes;

/// A transcript, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    /// What `--transcript` calls it.
    number: u64,
    /// When it was copied, milliseconds since the Unix epoch.
    at_ms: u64,
    #[serde(flatten)]
    transcript: Transcript,
    /// Where the copy is; none if it made room for others.
    copy: Option<PathBuf>,
}

/// Lists the transcripts of the latest start, or shows one of any.
///
/// # Errors
/// One that is not there, files that cannot be read or written.
pub fn show(entry: &Entry, arguments: &LogsArguments, printer: &Printer) -> Result<u8, Failure> {
    let lines = entry.read()?;
    if let Some(number) = arguments.transcript {
        let wanted = shown(&lines, entry).into_iter().find(|shown| shown.number == number);
        let Some(path) = wanted.and_then(|shown| shown.copy) else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no transcript {number}"))
                .hint(format!("viv logs {} --transcripts", arguments.sandbox))
                .into());
        };
        return one(&path, arguments.export.as_deref()).map(|()| 0);
    }
    let transcripts = shown(since_latest_start(&lines), entry);
    if arguments.json {
        print_json(&transcripts)?;
        return Ok(0);
    }
    if transcripts.is_empty() {
        printer.note("no transcript was kept: its agents wrote none, or it has not ended");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = transcripts.iter().map(row).collect();
    print(&table(&["NUMBER", "AGENT", "SIZE", "KEPT AT", "WHAT"], &rows))?;
    Ok(0)
}

fn row(shown: &Shown) -> Vec<String> {
    let Transcript { agent, path, bytes, .. } = &shown.transcript;
    let gone = if shown.copy.is_some() { "" } else { " (made room for others)" };
    vec![
        shown.number.to_string(),
        clean(agent).into_owned(),
        human_bytes(*bytes),
        rfc3339(shown.at_ms),
        format!("{}{gone}", clean(path)),
    ]
}

fn shown(lines: &[Line], entry: &Entry) -> Vec<Shown> {
    let transcripts = lines.iter().filter_map(|line| match &line.event {
        Event::Transcript(transcript) => Some(Shown {
            number: transcript.file.parse().ok()?,
            at_ms: line.at_ms,
            transcript: transcript.clone(),
            copy: entry.transcript(&transcript.file),
        }),
        _ => None,
    });
    transcripts.collect()
}

/// What a guest wrote is text at a terminal, and itself in a file or a pipe.
fn one(path: &Path, export: Option<&Path>) -> Result<(), Failure> {
    let bytes = std::fs::read(path).map_err(cannot_read(path))?;
    let mut stdout = std::io::stdout();
    match export {
        Some(file) if file != Path::new("-") => write_new(file, &bytes)?,
        Some(_) if !stdout.is_terminal() => match stdout.write_all(&bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorOfStream::BrokenPipe => {
                return Err(Failure::quiet(exit_code::BROKEN_PIPE));
            }
            written => written.map_err(error::io("cannot write standard output"))?,
        },
        _ => print(&(clean_lines(&String::from_utf8_lossy(&bytes)) + "\n"))?,
    }
    Ok(())
}
