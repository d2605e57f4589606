//! Several things that are done at once: a line for each where someone watches.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Printer;
use super::clean::clean;

/// How often lines are drawn anew, for the time in them.
const TICK: Duration = Duration::from_millis(250);

/// Of a line that a program prints so much is kept, in bytes: more than any terminal is wide.
const LONGEST_LINE_BYTES: usize = 1024;

/// A line for each of several things.
#[derive(Debug, Clone)]
pub struct Board(Option<MultiProgress>);

/// One of the things.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    board: Board,
    line: Option<Line>,
}

/// Its line on the board.
#[derive(Debug, Clone)]
struct Line {
    bar: ProgressBar,
    /// What is being done.
    state: Arc<Mutex<String>>,
}

impl Board {
    /// A board without lines. Nothing is drawn where the printer would draw nothing.
    #[must_use]
    pub fn new(printer: &Printer) -> Self {
        Self(printer.draws_progress().then(MultiProgress::new))
    }

    /// Adds a line at the end, its name padded to `width` characters.
    #[must_use]
    pub fn part(&self, name: &str, width: usize) -> Part {
        let line = self.0.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner().with_style(style(false)));
            bar.set_prefix(format!("{:width$}", clean(name)));
            Line { bar, state: Arc::default() }
        });
        Part { name: name.to_owned(), board: self.clone(), line }
    }

    /// What is none of the things, and has no line: for what concerns all of them.
    #[must_use]
    pub fn aside(&self) -> Part {
        Part { name: String::new(), board: self.clone(), line: None }
    }

    /// Takes all lines off the terminal.
    pub fn clear(&self) {
        if let Some(bars) = &self.0 {
            // A terminal that is gone shows nothing anyway.
            let _ = bars.clear();
        }
    }
}

/// What varies in length comes last, and is cut at the terminal's edge.
fn style(takes_time: bool) -> ProgressStyle {
    let template = if takes_time { "{prefix:.cyan}  {elapsed:>4}  {wide_msg}" } else { "{prefix}        {wide_msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Part {
    /// What it is called; empty for what concerns all of them.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has a line that someone sees.
    #[must_use]
    pub fn is_drawn(&self) -> bool {
        self.line.is_some()
    }

    /// This is being done from now on; if it `takes_time`, how long is shown.
    pub fn state(&self, what: &str, takes_time: bool) {
        let Some(Line { bar, state }) = &self.line else { return };
        what.clone_into(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        bar.set_style(style(takes_time));
        bar.set_message(clean(what).into_owned());
        bar.reset_elapsed();
        if takes_time {
            bar.enable_steady_tick(TICK);
        } else {
            bar.disable_steady_tick();
        }
        bar.tick();
    }

    /// A writer that shows the last line that is written to it beside what is being done.
    #[must_use]
    pub fn last_line(&self) -> Box<dyn Write + Send> {
        match &self.line {
            Some(line) => Box::new(LastLine { line: line.clone(), unfinished: Vec::new() }),
            None => Box::new(io::sink()),
        }
    }

    /// Says something above the board.
    pub fn say(&self, text: &str) {
        let write = || {
            // In one piece, so that others' lines do not come between. Nobody is left to tell if it is closed.
            let _ = anstream::stderr().lock().write_all(text.as_bytes());
        };
        match &self.board.0 {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

struct LastLine {
    line: Line,
    unfinished: Vec<u8>,
}

impl Write for LastLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(last) = last_line(&mut self.unfinished, bytes) {
            let state = self.line.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.line.bar.set_message(format!("{state}  {}", clean(&last)));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last line that is whole and not empty, after these bytes, without what drives a terminal. What follows it is
/// kept for the next time, as far as it is not too long to be shown.
fn last_line(unfinished: &mut Vec<u8>, bytes: &[u8]) -> Option<String> {
    let mut last = None;
    let mut lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
    let mut next = lines.next();
    while let Some(part) = next {
        next = lines.next();
        let room = LONGEST_LINE_BYTES.saturating_sub(unfinished.len());
        unfinished.extend(part.iter().take(room));
        if next.is_some() {
            let text = String::from_utf8_lossy(unfinished);
            let text = anstream::adapter::strip_str(&text).to_string();
            last = Some(text.trim().to_owned()).filter(|text| !text.is_empty()).or(last);
            unfinished.clear();
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_line_is_what_is_seen() {
        let mut kept = Vec::new();
        let mut last = |bytes: &[u8]| last_line(&mut kept, bytes);
        assert_eq!(last(b"one\ntw"), Some("one".to_owned()));
        assert_eq!(last(b"o"), None);
        assert_eq!(last(b"\n\n  \n"), Some("two".to_owned()));
        assert_eq!(last(b"10%\r20%\r30"), Some("20%".to_owned()));
        assert_eq!(last(b"%\n\x1b[1mbold\x1b[0m\n"), Some("bold".to_owned()));
        assert_eq!(last(&[b'x'; 5000]), None);
        assert_eq!(last(b"yyy\n").map(|line| line.len()), Some(LONGEST_LINE_BYTES));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_program_prints_is_bounded(chunks: Vec<Vec<u8>>) {
            let mut kept = Vec::new();
            for chunk in chunks {
                let line = last_line(&mut kept, &chunk).unwrap_or_default();
                // What is no UTF-8 becomes a mark of three bytes for each.
                proptest::prop_assert!(line.len() <= 3 * LONGEST_LINE_BYTES && kept.len() <= LONGEST_LINE_BYTES);
                proptest::prop_assert!(!clean(&line).chars().any(char::is_control));
            }
        }
    }
}
