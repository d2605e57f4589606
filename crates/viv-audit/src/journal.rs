//! The monitor's side: who tells of something waits neither for a disk nor for a reader.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cast::Header;
use crate::error::{Result, failed};
use crate::event::{Event, Exec, MAX_TEXT_BYTES, ProgramEnd, cut, cut_words};
use crate::files;
use crate::transcript::FoundTranscript;
use crate::writer::Writer;

mod thread_of_writer;

/// Entries between those who tell and the thread that writes.
const QUEUED_ENTRIES: usize = 8192;

/// Output that may wait to be recorded, in bytes; what comes faster is left out.
const QUEUED_BYTES: u64 = 8 << 20;

/// What of the programs' output is recorded, from less to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recording {
    /// Nothing.
    None,
    /// That of programs with a terminal.
    #[default]
    Terminals,
    /// That of all programs.
    All,
}

impl Recording {
    /// Whether this is the usual one.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::Terminals
    }
}

/// A program that was asked for, as whoever runs it tells of it.
#[derive(Debug, Clone, Default)]
pub struct ProgramRequest {
    /// The name of the session that holds it, if one does.
    pub session: Option<String>,
    /// Program and arguments; empty for a login shell.
    pub argv: Vec<String>,
    /// Who it runs as.
    pub user: String,
    /// Where it starts.
    pub cwd: String,
    /// The names of the variables it is given.
    pub environment: Vec<String>,
    /// Columns and rows of its terminal.
    pub terminal: Option<(u16, u16)>,
}

/// A timeline to tell of events: cheap to clone, and never waits.
#[derive(Clone, Default)]
pub struct Journal(Option<Arc<Shared>>);

struct Shared {
    queue: SyncSender<Entry>,
    waiting_bytes: AtomicU64,
    lost: AtomicU64,
    programs: AtomicU64,
    recording: Recording,
    finished: Mutex<Option<Receiver<()>>>,
}

/// What goes to the thread.
enum Entry {
    Event(Event),
    Program { exec: Exec, header: Option<Header> },
    Output { program: u64, at: Duration, bytes: Vec<u8> },
    Resize { program: u64, at: Duration, columns: u16, rows: u16 },
    Gap { program: u64, at: Duration, bytes: u64 },
    Ended { program: u64, at: Duration, end: ProgramEnd },
    Follow { log: String, path: PathBuf, rotated: Option<PathBuf> },
    Transcript(FoundTranscript),
    Close(Event),
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journal")
    }
}

impl Journal {
    /// Tells a timeline, by a thread of its own.
    ///
    /// # Errors
    /// If there can be no more threads, or no directory for the recordings.
    pub fn new(writer: Writer, recording: Recording) -> Result<Self> {
        let directory = writer.directory().to_owned();
        files::make_directory(&directory.join(files::CASTS)).map_err(failed(&directory))?;
        let (queue, entries) = sync_channel(QUEUED_ENTRIES);
        let (done, finished) = sync_channel(1);
        // A recording that a writer left half made has a number, too.
        let last_cast = files::casts(&directory).map_err(failed(&directory))?.last().copied().unwrap_or(0);
        let shared = Arc::new(Shared {
            queue,
            waiting_bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            programs: AtomicU64::new(writer.head().programs.max(last_cast)),
            recording,
            finished: Mutex::new(Some(finished)),
        });
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                thread_of_writer::run(writer, &entries, &weak);
                let _ = done.try_send(());
            })
            .map_err(failed(&directory))?;
        Ok(Self(Some(shared)))
    }

    /// A journal that keeps nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        Self(None)
    }

    /// Tells of an event. One too many is lost, which is told later.
    pub fn record(&self, event: Event) {
        if let Some(shared) = &self.0 {
            shared.send(Entry::Event(event));
        }
    }

    /// Tells of a program that is asked for.
    #[must_use]
    pub fn program(&self, request: ProgramRequest) -> Program {
        let began = Instant::now();
        let Some(shared) = &self.0 else {
            return Program { journal: self.clone(), number: 0, began, recorded: false, gap: 0, ended: true };
        };
        let number = shared.programs.fetch_add(1, Ordering::Relaxed) + 1;
        let recorded = match shared.recording {
            Recording::None => false,
            Recording::Terminals => request.terminal.is_some(),
            Recording::All => true,
        };
        let argv = cut_words(&request.argv);
        let (width, height) = request.terminal.unwrap_or((80, 24));
        let header = recorded.then(|| Header {
            version: 2,
            width,
            height,
            timestamp: Some(crate::now_ms() / 1000),
            command: Some(argv.join(" ")),
        });
        let exec = Exec {
            program: number,
            session: request.session.map(|session| cut(&session, MAX_TEXT_BYTES)),
            argv,
            user: cut(&request.user, MAX_TEXT_BYTES),
            cwd: cut(&request.cwd, MAX_TEXT_BYTES),
            environment: cut_words(&request.environment),
            terminal: request.terminal,
            recording: recorded.then(|| files::cast_name(number)),
        };
        shared.send(Entry::Program { exec, header });
        Program { journal: self.clone(), number, began, recorded, gap: 0, ended: false }
    }

    /// Refers to a log that another process keeps: at its rotation, once a minute if it grew, and at the end.
    /// `rotated` is the name it gets by then.
    pub fn follow(&self, log: &str, path: PathBuf, rotated: Option<PathBuf>) {
        if let Some(shared) = &self.0 {
            shared.send(Entry::Follow { log: log.to_owned(), path, rotated });
        }
    }

    /// Keeps a copy of a transcript, and tells of it; the oldest ones go if there are too many. It is read by the
    /// thread that writes, so [`Journal::close`] waits for that, too.
    pub fn transcript(&self, found: FoundTranscript) {
        if let Some(shared) = &self.0 {
            shared.send(Entry::Transcript(found));
        }
    }

    /// Writes everything told so far and `last`, makes it durable, and closes the timeline; what is told later
    /// is lost. Waits for the disk, at most so long; whether it was done by then. Without this, a timeline that
    /// nobody holds any more stays open, as that of a writer that was killed.
    #[must_use]
    pub fn close(&self, last: Event, patience: Duration) -> bool {
        let Some(shared) = &self.0 else { return true };
        let Some(finished) = shared.finished.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
        // A full queue is about to be emptied, and only closing waits for it.
        let begun = Instant::now();
        let mut close = Entry::Close(last);
        loop {
            match shared.queue.try_send(close) {
                Ok(()) => break,
                Err(std::sync::mpsc::TrySendError::Full(entry)) if begun.elapsed() < patience => {
                    close = entry;
                    thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
        finished.recv_timeout(patience.saturating_sub(begun.elapsed())).is_ok()
    }
}

impl Shared {
    fn send(&self, entry: Entry) {
        if self.queue.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A program whose output is recorded, and whose end is told. Dropped before that, it ended unseen.
#[derive(Debug)]
pub struct Program {
    journal: Journal,
    number: u64,
    began: Instant,
    recorded: bool,
    /// Bytes of output left out since the last that were not.
    gap: u64,
    ended: bool,
}

impl Program {
    /// Its number in the timeline, from 1; 0 if nothing is kept.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// It wrote something, whatever the bytes are. Copies them; more than can be written down is left out.
    pub fn output(&mut self, bytes: &[u8]) {
        let (Some(shared), true) = (&self.journal.0, self.recorded && !bytes.is_empty()) else { return };
        let length = bytes.len() as u64;
        if shared.waiting_bytes.load(Ordering::Relaxed) + length > QUEUED_BYTES {
            self.gap += length;
            return;
        }
        let at = self.began.elapsed();
        let program = self.number;
        if self.gap > 0 {
            if shared.queue.try_send(Entry::Gap { program, at, bytes: self.gap }).is_err() {
                self.gap += length;
                return;
            }
            self.gap = 0;
        }
        shared.waiting_bytes.fetch_add(length, Ordering::Relaxed);
        if shared.queue.try_send(Entry::Output { program, at, bytes: bytes.to_vec() }).is_err() {
            shared.waiting_bytes.fetch_sub(length, Ordering::Relaxed);
            self.gap += length;
        }
    }

    /// Its terminal has another size.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        if let (Some(shared), true) = (&self.journal.0, self.recorded) {
            shared.send(Entry::Resize { program: self.number, at: self.began.elapsed(), columns, rows });
        }
    }

    /// It ended.
    pub fn ended(mut self, end: ProgramEnd) {
        self.tell_end(end);
    }

    fn tell_end(&mut self, mut end: ProgramEnd) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let ProgramEnd::Refused { reason } = &mut end {
            *reason = cut(reason, MAX_TEXT_BYTES);
        }
        if let Some(shared) = &self.journal.0 {
            let (program, at) = (self.number, self.began.elapsed());
            if self.gap > 0 {
                shared.send(Entry::Gap { program, at, bytes: self.gap });
            }
            shared.send(Entry::Ended { program, at, end });
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.tell_end(ProgramEnd::Unseen);
    }
}

/// What the thread needs of the handles: they may all be gone.
fn lost_since(shared: &std::sync::Weak<Shared>) -> u64 {
    shared.upgrade().map_or(0, |shared| shared.lost.swap(0, Ordering::Relaxed))
}

fn written_down(shared: &std::sync::Weak<Shared>, bytes: usize) {
    if let Some(shared) = shared.upgrade() {
        shared.waiting_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// The next entry, until a time; none at that time, an error once nobody can tell anything any more.
fn next(entries: &Receiver<Entry>, until: Option<Instant>) -> std::result::Result<Option<Entry>, ()> {
    match until {
        None => entries.recv().map(Some).map_err(drop),
        Some(until) => match entries.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(entry) => Ok(Some(entry)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        },
    }
}
