//! `viv logs`

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anstream::adapter::StripStr;
use serde::Serialize;
use viv_audit::{CastReader, Entry, Event, Exec, Line, ProgramEnd, Recorded, Store};
use viv_sandbox::Paths;

use super::audit::end_text;
use super::{block_on, ending_signal, transcripts};
use crate::cli::audit::LogsArguments;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json, shell_words};
use crate::terminal::Signals;
use viv_sandbox::ModeTracker;

/// How often a recording is looked at that is followed.
const GLANCE: Duration = Duration::from_millis(200);

/// The longest line of text that is kept until it ends; a longer one is printed in parts, in bytes.
const LONGEST_LINE_BYTES: usize = 64 * 1024;

/// A program of a sandbox, as `--json` shows it.
#[derive(Debug, Clone, Serialize)]
struct Shown {
    /// When it was asked for, milliseconds since the Unix epoch.
    at_ms: u64,
    #[serde(flatten)]
    exec: Exec,
    /// When it ended, and how; none while it runs, or if its end is not known.
    ended_at_ms: Option<u64>,
    end: Option<ProgramEnd>,
    recorded: Option<Recorded>,
}

/// `viv logs`
///
/// # Errors
/// A sandbox that left no timeline, a program that was not recorded, files that cannot be read or written.
pub fn logs(arguments: &LogsArguments, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let store = Store::new(&paths.state);
    let entry = store.find(&arguments.sandbox)?;
    if arguments.transcripts || arguments.transcript.is_some() {
        return transcripts::show(&entry, arguments, printer);
    }
    if arguments.follow {
        return follow(&store, &entry, arguments);
    }
    let programs = chosen(&entry.read()?, arguments)?;
    if arguments.json {
        print_json(&programs)?;
        return Ok(0);
    }
    if arguments.play || arguments.export.is_some() {
        let cast = one_of(&programs, &entry, printer)?;
        return match &arguments.export {
            Some(file) => export(&cast, file),
            None => play(&cast, arguments.speed, printer),
        };
    }
    let mut reader = Readers::new(programs.len() > 1);
    for program in &programs {
        reader.show(program, &entry, true)?;
    }
    if !reader.saw_any {
        printer.note("nothing was recorded: its programs had no terminal; `viv run --record all` records all of them");
    }
    Ok(0)
}

/// The lines of the latest start, or all if that is no longer there.
pub(super) fn since_latest_start(lines: &[Line]) -> &[Line] {
    &lines[lines.iter().rposition(|line| matches!(line.event, Event::Start { .. })).unwrap_or(0)..]
}

/// The programs of the latest start, or the one that was asked for.
fn chosen(lines: &[Line], arguments: &LogsArguments) -> Result<Vec<Shown>, Failure> {
    let Some(session) = &arguments.session else { return Ok(programs(since_latest_start(lines))) };
    let number = session.parse::<u64>().ok();
    let is_it = |shown: &Shown| Some(shown.exec.program) == number || shown.exec.session.as_ref() == Some(session);
    match programs(lines).into_iter().rfind(is_it) {
        Some(shown) => Ok(vec![shown]),
        None => Err(Error::new(ErrorKind::NotFound, format!("no program or session is called {session:?}"))
            .hint(format!("viv logs {} --json", arguments.sandbox))
            .into()),
    }
}

fn programs(lines: &[Line]) -> Vec<Shown> {
    let mut programs: BTreeMap<u64, Shown> = BTreeMap::new();
    for line in lines {
        match &line.event {
            Event::Exec(exec) => {
                let shown =
                    Shown { at_ms: line.at_ms, exec: exec.clone(), ended_at_ms: None, end: None, recorded: None };
                programs.insert(exec.program, shown);
            }
            Event::ExecEnded { program, end, recording } => {
                if let Some(shown) = programs.get_mut(program) {
                    shown.ended_at_ms = Some(line.at_ms);
                    shown.end = Some(end.clone());
                    shown.recorded.clone_from(recording);
                }
            }
            _ => {}
        }
    }
    programs.into_values().collect()
}

/// Prints recordings as text, as far as they go.
struct Readers {
    headings: bool,
    last: Option<u64>,
    open: BTreeMap<u64, Text>,
    saw_any: bool,
}

struct Text {
    cast: CastReader,
    strip: StripStr,
    line: String,
    done: bool,
}

impl Readers {
    fn new(headings: bool) -> Self {
        Self { headings, last: None, open: BTreeMap::new(), saw_any: false }
    }

    /// Prints what is new of a program. A line that is not at its end waits for it, unless nothing follows.
    fn show(&mut self, shown: &Shown, entry: &Entry, is_last: bool) -> Result<(), Failure> {
        let number = shown.exec.program;
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.open.entry(number) {
            let Some(path) = shown.exec.recording.as_ref().and_then(|_| entry.recording(number)) else { return Ok(()) };
            let cast = CastReader::open(&path).map_err(cannot_read(&path))?;
            vacant.insert(Text { cast, strip: StripStr::new(), line: String::new(), done: false });
        }
        let Some(text) = self.open.get_mut(&number).filter(|text| !text.done) else { return Ok(()) };
        self.saw_any = true;
        let mut printed = String::new();
        while let Some(event) = text.cast.next_event().map_err(cannot_read(Path::new("the recording")))? {
            match event.kind.as_str() {
                "o" => text.take(&event.data, &mut printed),
                "m" => printed.push_str(&format!("({})\n", clean(&event.data))),
                _ => {}
            }
        }
        let is_over = is_last || shown.end.is_some();
        if is_over && !text.line.is_empty() {
            text.end_line(&mut printed);
        }
        text.done = is_over;
        if self.headings && (!printed.is_empty() || is_over) && self.last != Some(number) {
            let argv = if shown.exec.argv.is_empty() { "a shell".to_owned() } else { shell_words(&shown.exec.argv) };
            let end = shown.end.as_ref().map(|end| format!(", {}", end_text(end))).unwrap_or_default();
            printed.insert_str(0, &format!("--- {number}: {}{} ---\n", clean(&argv), clean(&end)));
            self.last = Some(number);
        }
        print(&printed)
    }
}

impl Text {
    fn take(&mut self, data: &str, printed: &mut String) {
        for visible in self.strip.strip_next(data).map(str::to_owned).collect::<Vec<_>>() {
            for c in visible.chars() {
                match c {
                    '\n' => self.end_line(printed),
                    '\u{8}' => drop(self.line.pop()),
                    c => self.line.push(c),
                }
                if self.line.len() > LONGEST_LINE_BYTES {
                    self.end_line(printed);
                }
            }
        }
    }

    /// What returned to the line's beginning is what was seen last.
    fn end_line(&mut self, printed: &mut String) {
        let line = std::mem::take(&mut self.line);
        let seen = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
        printed.push_str(&clean(seen));
        printed.push('\n');
    }
}

fn follow(store: &Store, entry: &Entry, arguments: &LogsArguments) -> Result<u8, Failure> {
    let mut readers = Readers::new(arguments.session.is_none());
    let mut known = (0, Vec::new());
    loop {
        // First whether it is written, then what: its last words are read after its end.
        let now = store.find(&entry.name)?;
        let size = entry.files()?.iter().filter_map(|(_, path)| path.metadata().ok()).map(|file| file.len()).sum();
        if known.0 != size {
            let lines = entry.read()?;
            // A program that was asked for by name may not have begun.
            known = (
                size,
                chosen(&lines, arguments).or_else(|failure| if now.running { Ok(Vec::new()) } else { Err(failure) })?,
            );
            for program in &known.1 {
                readers.show(program, entry, !now.running)?;
            }
        } else if !now.running {
            for program in &known.1 {
                readers.show(program, entry, true)?;
            }
        }
        if !now.running {
            return Ok(0);
        }
        std::thread::sleep(GLANCE);
    }
}

/// The recording to play or export: the last one, unless one was asked for.
fn one_of(programs: &[Shown], entry: &Entry, printer: &Printer) -> Result<std::path::PathBuf, Failure> {
    let mut recordings =
        programs.iter().filter_map(|shown| Some((shown.exec.program, entry.recording(shown.exec.program)?)));
    let Some((number, last)) = recordings.next_back() else {
        return Err(Error::new(ErrorKind::NotFound, "nothing was recorded: programs without a terminal are not")
            .hint("viv run --record all")
            .into());
    };
    if recordings.next().is_some() {
        printer.note(&format!("this is the last recording, of program {number}; --session chooses another"));
    }
    Ok(last)
}

fn export(cast: &Path, file: &Path) -> Result<u8, Failure> {
    // In a recording every control character is escaped: at a terminal, it is text.
    let bytes = std::fs::read(cast).map_err(cannot_read(cast))?;
    if file == Path::new("-") {
        print(&String::from_utf8_lossy(&bytes))?;
        return Ok(0);
    }
    write_new(file, &bytes)?;
    Ok(0)
}

/// Writes to a file that was not there before.
pub(super) fn write_new(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |error: std::io::Error| error::io(format!("{} cannot be written", file.display()))(error);
    let mut copy = OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    copy.write_all(bytes).map_err(failed)
}

pub(super) fn cannot_read(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    error::io(format!("{} cannot be read", path.display()))
}

/// Plays a recording as it was. Whatever it switches on in the terminal is switched off at its end.
fn play(path: &Path, speed: f64, printer: &Printer) -> Result<u8, Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Error::new(ErrorKind::Usage, "a recording is played at a terminal, and this is none")
            .hint("--export FILE.cast")
            .into());
    }
    let mut cast = CastReader::open(path).map_err(cannot_read(path))?;
    let Some(header) = cast.header().map_err(cannot_read(path))?.cloned() else { return Ok(0) };
    let size = crate::terminal::size();
    if size.columns < header.width || size.rows < header.height {
        let (width, height) = (header.width, header.height);
        printer.warning(
            &format!("it was recorded at a terminal of {width} columns and {height} rows: this one is smaller"),
            None,
        );
    }
    let mut modes = ModeTracker::default();
    let ended = block_on(play_all(&mut cast, speed, &mut modes))?;
    let undo = modes.restoration();
    let mut stdout = std::io::stdout();
    stdout.write_all(&undo).and_then(|()| stdout.flush()).map_err(error::io("cannot write standard output"))?;
    ended
}

async fn play_all(cast: &mut CastReader, speed: f64, modes: &mut ModeTracker) -> Result<u8, Failure> {
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    let began = tokio::time::Instant::now();
    while let Some(event) = cast.next_event().map_err(cannot_read(Path::new("the recording")))? {
        // A day is longer than anyone waits, and no clock's limit.
        let at = Duration::from_secs_f64((event.seconds / speed).min(86_400.0));
        tokio::select! {
            () = tokio::time::sleep_until(began + at) => {}
            number = ending_signal(&mut signals) => return Ok(exit_code::of_signal(number)),
        }
        if event.kind == "o" {
            modes.feed(event.data.as_bytes());
            let mut stdout = std::io::stdout();
            stdout
                .write_all(event.data.as_bytes())
                .and_then(|()| stdout.flush())
                .map_err(error::io("cannot write standard output"))?;
        }
    }
    Ok(0)
}
