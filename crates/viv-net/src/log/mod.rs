//! The log of a sandbox's network: who records an event waits neither for a disk nor for a reader.
//!
//! ```text
//!  tasks ─ EventSink ─► queue of 4096 ─► thread: same refusals once a second ─► log.jsonl (16 MiB, then log.1.jsonl)
//! ```
//!
//! A full queue loses events, never time: the guest decides how many there are.

mod reader;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use reader::{LogReader, read_log};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Denial, Event, LOG_FILE, ROTATED_LOG_FILE, What};

/// At this size the log becomes [`ROTATED_LOG_FILE`], in place of the one before, and a new one begins.
pub const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// Events between those who record them and the thread that writes.
const QUEUED_EVENTS: usize = 4096;

/// The same refusal within this time is told once.
const REPEAT_MS: u64 = 1000;

/// Refusals remembered for that; beyond it the oldest are told again.
const REMEMBERED_REFUSALS: usize = 1024;

/// As much is collected into one write.
const BATCH_BYTES: usize = 64 * 1024;

/// How long [`EventLog::finish`] waits for the disk.
const FINISH_DEADLINE: Duration = Duration::from_secs(2);

/// What takes an event down.
enum Entry {
    Event(Event),
    /// Answered when everything before it has been written.
    Written(SyncSender<()>),
}

/// A handle to record events with: cheap to clone, and never waits.
#[derive(Clone)]
pub struct EventSink {
    to: Destination,
}

#[derive(Clone)]
enum Destination {
    Log(SyncSender<Entry>),
    Channel(SyncSender<Event>),
    Nowhere,
}

impl EventSink {
    /// Takes an event down, its text cleaned as [`What::cleaned`] does; one too many is lost.
    pub fn record(&self, what: What) {
        let event = || Event { at_ms: now_ms(), what: what.cleaned() };
        match &self.to {
            Destination::Log(queue) => _ = queue.try_send(Entry::Event(event())),
            Destination::Channel(queue) => _ = queue.try_send(event()),
            Destination::Nowhere => {}
        }
    }

    /// A sink whose events are received by whoever made it.
    #[must_use]
    pub fn channel(capacity: usize) -> (Self, Receiver<Event>) {
        let (sender, receiver) = sync_channel(capacity);
        (Self { to: Destination::Channel(sender) }, receiver)
    }

    /// A sink that keeps nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { to: Destination::Nowhere }
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}

/// The thread behind an [`EventSink`].
pub struct EventLog {
    queue: SyncSender<Entry>,
}

impl EventLog {
    /// Opens, or continues, the log in a directory.
    ///
    /// # Errors
    /// [`ErrorKind::Log`] if the log cannot be opened, or there can be no more threads.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_with(directory, MAX_LOG_BYTES)
    }

    fn open_with(directory: &Path, max_bytes: u64) -> Result<Self> {
        let failed = |error: io::Error| Error::new(ErrorKind::Log, "the network's log cannot be opened").source(error);
        let file = LogFile::open(directory, max_bytes).map_err(failed)?;
        let (queue, entries) = sync_channel(QUEUED_EVENTS);
        thread::Builder::new().name("log".into()).spawn(move || write_log(&entries, file)).map_err(failed)?;
        Ok(Self { queue })
    }

    /// A handle to record with.
    #[must_use]
    pub fn sink(&self) -> EventSink {
        EventSink { to: Destination::Log(self.queue.clone()) }
    }

    /// Waits until everything recorded so far is in the file, or for two seconds.
    pub fn finish(&self) {
        let (written, done) = sync_channel(1);
        if self.queue.send(Entry::Written(written)).is_ok() {
            let _ = done.recv_timeout(FINISH_DEADLINE);
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn write_log(entries: &Receiver<Entry>, mut file: LogFile) {
    let mut seen = Repeats::default();
    let mut batch = Vec::new();
    while let Ok(first) = entries.recv() {
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry {
                Entry::Event(event) => take_down(&event, &mut seen, &mut batch),
                Entry::Written(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH_BYTES { entries.try_recv().ok() } else { None };
        }
        file.append(&batch);
        batch.clear();
        for done in waiting {
            let _ = done.try_send(());
        }
    }
}

fn take_down(event: &Event, seen: &mut Repeats, batch: &mut Vec<u8>) {
    if let What::Denied(denial) = &event.what
        && seen.is_repeat(denial, event.at_ms)
    {
        return;
    }
    let Ok(line) = serde_json::to_vec(event) else { return };
    batch.extend_from_slice(&line);
    batch.push(b'\n');
}

/// When each refusal was last told.
#[derive(Default)]
struct Repeats {
    told: HashMap<Denial, u64>,
}

impl Repeats {
    fn is_repeat(&mut self, denial: &Denial, at_ms: u64) -> bool {
        if let Some(last) = self.told.get_mut(denial) {
            // A clock set back makes an event look early: that is no repeat.
            if at_ms >= *last && at_ms - *last < REPEAT_MS {
                return true;
            }
            *last = at_ms;
            return false;
        }
        if self.told.len() >= REMEMBERED_REFUSALS {
            self.told.retain(|_, last| at_ms.saturating_sub(*last) < REPEAT_MS);
            if self.told.len() >= REMEMBERED_REFUSALS {
                self.told.clear();
            }
        }
        self.told.insert(denial.clone(), at_ms);
        false
    }
}

/// The file, append only and of limited size.
struct LogFile {
    path: PathBuf,
    rotated: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
    /// The last line did not end: it was cut off with its writer, or the disk was full.
    torn: bool,
}

impl LogFile {
    fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        let path = directory.join(LOG_FILE);
        let mut file = open_log(&path)?;
        let bytes = file.metadata()?.len();
        let mut last = [b'\n'];
        if bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        let rotated = directory.join(ROTATED_LOG_FILE);
        Ok(Self { path, rotated, file, bytes, max_bytes, torn: last != *b"\n" })
    }

    fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.bytes >= self.max_bytes {
            self.rotate();
        }
        if self.torn && self.file.write_all(b"\n").is_ok() {
            self.torn = false;
            self.bytes += 1;
        }
        match self.file.write_all(lines) {
            Ok(()) => self.bytes += lines.len() as u64,
            // A full disk loses lines; the network goes on.
            Err(_) => self.torn = true,
        }
    }

    fn rotate(&mut self) {
        let renamed = std::fs::rename(&self.path, &self.rotated);
        if let Ok(file) = renamed.and_then(|()| open_log(&self.path)) {
            self.file = file;
            self.bytes = 0;
            self.torn = false;
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests;
