//! Whether a timeline is as it was written.

mod transcripts;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::chain::{FORMAT, Hash, Head, Link};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, LogReference, Recorded, Transcript};
use crate::files;

/// After so many findings the rest is not looked for.
const MAX_FINDINGS: usize = 100;

/// Rotated logs besides the current one that are kept, and so can be checked.
const LOGS_KEPT: usize = 2;

/// What is compared, besides what is in the timeline's own directory.
#[derive(Default)]
pub struct VerifyOptions<'a> {
    /// The hash of a line, or of a head, that was noted elsewhere: the chain must hold it.
    pub anchor: Option<Hash>,
    /// Where a sandbox's log of a kind may be, given its id and the kind; none if it is no longer kept.
    pub logs: Option<&'a LogFinder<'a>>,
}

/// The files that a sandbox's log of a kind may be in: `(id, kind)`.
pub type LogFinder<'a> = dyn Fn(&str, &str) -> Option<Vec<PathBuf>> + 'a;

/// What was found out.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Whether nothing was found.
    pub ok: bool,
    /// Lines that are there.
    pub lines: u64,
    /// The place of the first one; what was before it was dropped by its writer.
    pub first_seq: u64,
    /// The last line's hash, to be noted elsewhere.
    pub head: Hash,
    /// Whether its writer closed it.
    pub closed: bool,
    /// Whether it is being written.
    pub running: bool,
    /// What does not fit.
    pub findings: Vec<Finding>,
    /// What cannot be said, and what is less than it could be, without being wrong.
    pub notes: Vec<String>,
}

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing it is.
    pub kind: FindingKind,
    /// The file.
    pub file: String,
    /// The line in that file, from 1.
    pub line: Option<u64>,
    /// For people.
    pub message: String,
}

/// What kind of thing does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A line, a head, a recording, a transcript or a log is not what was written.
    Changed,
    /// Lines, a file or its end are missing.
    Cut,
    /// There is more than was written, or it is in another order.
    Inserted,
    /// The noted hash is not in the chain.
    Anchor,
}

/// Compares a timeline with its hashes.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is none, [`ErrorKind::Io`] if its directory cannot be read. Whatever is wrong
/// with what is in it is a finding.
pub fn verify(directory: &Path, options: &VerifyOptions<'_>) -> Result<Verdict> {
    let running = files::is_locked(directory);
    let mut check = Check::new(directory);
    // The head first: lines that are written meanwhile come after it.
    let head = check.head();
    let segments = files::segments(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no timeline at {}", directory.display()))
        }
        _ => crate::error::failed(directory)(error),
    })?;
    check.segments(&segments, head.as_ref(), running);
    check.begin();
    if let Some(head) = &head {
        check.end(head, running);
    }
    if let Some(anchor) = options.anchor.filter(|anchor| !check.hashes.contains(&anchor.to_string())) {
        check.find(FindingKind::Anchor, files::HEAD, None, format!("no line has the hash {anchor}"));
    }
    let closed = head.as_ref().is_some_and(|head| head.closed);
    check.recordings(closed, running);
    check.transcripts(closed);
    check.logs(options.logs, running);
    Ok(Verdict {
        ok: check.findings.is_empty(),
        lines: check.lines,
        first_seq: check.first.map_or(0, |(seq, _)| seq),
        head: check.last,
        closed: head.is_some_and(|head| head.closed),
        running,
        findings: check.findings,
        notes: check.notes,
    })
}

struct Check<'a> {
    directory: &'a Path,
    findings: Vec<Finding>,
    notes: Vec<String>,
    lines: u64,
    /// The first line's place, and what it follows on.
    first: Option<(u64, Hash)>,
    first_segment: u64,
    /// The next line's place.
    next: u64,
    last: Hash,
    hashes: BTreeSet<String>,
    /// Where the last line stands.
    last_place: (String, u64),
    /// The head as it has to be after the line that it says is the last.
    at_head: Option<Head>,
    /// The number of the segment that is read, and bytes up to the end of the line.
    place: (u64, u64),
    /// The highest number of a program.
    highest_program: u64,
    beyond_head: u64,
    dropped: Vec<(u64, Hash)>,
    recorded: BTreeMap<String, (Recorded, bool)>,
    dropped_recordings: BTreeSet<String>,
    first_program: Option<u64>,
    programs: BTreeSet<String>,
    /// By their files.
    transcripts: BTreeMap<String, Transcript>,
    dropped_transcripts: BTreeSet<String>,
    /// Where a writer found that the one before it was killed.
    recovered: BTreeSet<u64>,
    sandbox: String,
    references: Vec<(String, LogReference)>,
}

impl<'a> Check<'a> {
    fn new(directory: &'a Path) -> Self {
        Self {
            directory,
            findings: Vec::new(),
            notes: Vec::new(),
            lines: 0,
            first: None,
            first_segment: 1,
            next: 0,
            last: Hash::ZERO,
            hashes: BTreeSet::new(),
            last_place: (files::segment_name(1), 0),
            at_head: None,
            place: (1, 0),
            highest_program: 0,
            beyond_head: 0,
            dropped: Vec::new(),
            recorded: BTreeMap::new(),
            dropped_recordings: BTreeSet::new(),
            first_program: None,
            programs: BTreeSet::new(),
            transcripts: BTreeMap::new(),
            dropped_transcripts: BTreeSet::new(),
            recovered: BTreeSet::new(),
            sandbox: String::new(),
            references: Vec::new(),
        }
    }

    fn find(&mut self, kind: FindingKind, file: &str, line: Option<u64>, message: impl Into<String>) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { kind, file: file.to_owned(), line, message: message.into() });
        }
    }

    fn head(&mut self) -> Option<Head> {
        match files::read_head(self.directory) {
            Ok(Some(head)) => Some(head),
            Ok(None) => {
                self.find(FindingKind::Cut, files::HEAD, None, "the head is missing");
                None
            }
            Err(error) => {
                self.find(FindingKind::Changed, files::HEAD, None, format!("the head was changed: {error}"));
                None
            }
        }
    }

    fn segments(&mut self, numbers: &[u64], head: Option<&Head>, running: bool) {
        for (index, number) in numbers.iter().enumerate() {
            let name = files::segment_name(*number);
            let bytes = match files::read(&self.directory.join(&name)) {
                Ok(bytes) => bytes,
                // The oldest one was dropped after the others were listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && running && index == 0 => continue,
                Err(error) => {
                    self.find(FindingKind::Changed, &name, None, format!("it cannot be read: {error}"));
                    continue;
                }
            };
            let (whole, torn) = match bytes.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => bytes.split_at(end + 1),
                None => (&bytes[..0], &bytes[..]),
            };
            self.place = (*number, 0);
            for (index, line) in whole.split_inclusive(|byte| *byte == b'\n').enumerate() {
                self.line(&name, index as u64 + 1, line, head);
            }
            if !torn.is_empty() {
                self.torn(&name, torn.len(), index + 1 == numbers.len(), head, running);
            }
        }
    }

    fn torn(&mut self, name: &str, bytes: usize, is_last: bool, head: Option<&Head>, running: bool) {
        if is_last && head.is_some_and(|head| !head.closed && self.next >= head.lines) {
            if !running {
                self.notes.push(format!("the last line of {name} is torn ({bytes} bytes): its writer was killed"));
            }
        } else {
            let line = self.last_place.1 + 1;
            self.find(FindingKind::Changed, name, Some(line), format!("{bytes} bytes that are no line"));
        }
    }

    fn line(&mut self, name: &str, number: u64, line: &[u8], head: Option<&Head>) {
        self.place.1 += line.len() as u64;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let hash = Hash::of(line);
        let before = std::mem::replace(&mut self.last_place, (name.to_owned(), number));
        self.lines += 1;
        let Ok(link) = serde_json::from_slice::<Link>(line) else {
            self.find(FindingKind::Changed, name, Some(number), "it is no line of a timeline any more");
            // What follows is judged by the line after it.
            self.last = hash;
            self.next += 1;
            return;
        };
        match self.first {
            None => {
                self.first = Some((link.seq, link.prev));
                self.first_segment = self.place.0;
            }
            Some(_) if link.seq > self.next => {
                let count = link.seq - self.next;
                self.find(FindingKind::Cut, name, Some(number), format!("{} before it", missing(count)));
            }
            Some(_) if link.seq < self.next => {
                let message = format!("line {} of the chain stands here again, or in the wrong place", link.seq);
                self.find(FindingKind::Inserted, name, Some(number), message);
            }
            Some(_) if link.prev != self.last => {
                let message = "it was changed: the line after it follows on another";
                self.find(FindingKind::Changed, &before.0, Some(before.1), message);
            }
            Some(_) => {}
        }
        self.last = hash;
        self.hashes.insert(hash.to_string());
        self.next = link.seq.saturating_add(1);
        if let Ok(event) = serde_json::from_value::<Event>(link.event) {
            self.event(event, link.seq);
        }
        let Some(head) = head else { return };
        self.beyond_head += u64::from(link.seq >= head.lines);
        if self.next == head.lines {
            self.at_head = Some(Head {
                format: FORMAT,
                sandbox: self.sandbox.clone(),
                at_ms: link.at_ms,
                lines: self.next,
                hash,
                segment: self.place.0,
                segment_bytes: self.place.1,
                programs: self.highest_program,
                closed: head.closed,
            });
        }
    }

    fn event(&mut self, event: Event, seq: u64) {
        match event {
            Event::Start { sandbox, .. } => self.sandbox = sandbox,
            Event::Dropped { through_seq, through_hash, sandbox, programs, .. } => {
                self.dropped.push((through_seq, through_hash));
                self.sandbox = sandbox;
                self.highest_program = self.highest_program.max(programs);
            }
            Event::DroppedRecording { file } => drop(self.dropped_recordings.insert(file)),
            Event::Exec(exec) => {
                self.first_program.get_or_insert(exec.program);
                self.highest_program = self.highest_program.max(exec.program);
                self.programs.extend(exec.recording);
            }
            Event::ExecEnded { recording: Some(recording), .. } => {
                self.recorded.insert(recording.file.clone(), (recording, true));
            }
            Event::Recording { recording, .. } => {
                self.recorded.insert(recording.file.clone(), (recording, false));
            }
            Event::Transcript(transcript) => {
                self.transcripts.insert(transcript.file.clone(), transcript);
            }
            Event::DroppedTranscript { file } => drop(self.dropped_transcripts.insert(file)),
            Event::Recovered { .. } => drop(self.recovered.insert(seq)),
            Event::Log(reference) => self.references.push((self.sandbox.clone(), reference)),
            _ => {}
        }
    }

    /// The first line follows on nothing, or on what its writer said that it dropped.
    fn begin(&mut self) {
        let Some((seq, prev)) = self.first else { return };
        let file = files::segment_name(self.first_segment);
        let allowed = if seq == 0 {
            prev == Hash::ZERO
        } else {
            self.dropped.iter().any(|(through, hash)| through.saturating_add(1) == seq && *hash == prev)
        };
        if seq == 0 && !allowed {
            self.find(FindingKind::Changed, &file, Some(1), "the first line follows on something");
        } else if !allowed {
            let message = format!("{} at the beginning, and none says that it was dropped", missing(seq));
            self.find(FindingKind::Cut, &file, Some(1), message);
        } else if seq > 0 {
            self.notes.push(format!("the first {seq} lines were dropped by their writer, to stay within the limit"));
        }
    }

    fn end(&mut self, head: &Head, running: bool) {
        let (file, line) = self.last_place.clone();
        if self.next < head.lines {
            let count = head.lines - self.next;
            self.find(FindingKind::Cut, &file, Some(line), format!("{} at the end", missing(count)));
        } else if head.lines == 0 {
            let empty = Head { hash: Hash::ZERO, segment: 1, segment_bytes: 0, programs: 0, at_ms: 0, ..head.clone() };
            if *head != (Head { format: FORMAT, sandbox: String::new(), closed: false, ..empty }) {
                self.find(FindingKind::Changed, files::HEAD, None, "the head of an empty timeline is not empty");
            }
        } else if self.at_head.as_ref().is_none_or(|at_head| at_head.hash != head.hash) {
            let message = "the last line that the head knows of was changed, or the head was";
            self.find(FindingKind::Changed, &file, Some(line), message);
        } else if self.at_head.as_ref().is_none_or(|at_head| !is_same_end(at_head, head)) {
            // Lines that are missing move those after them, which says nothing more.
            if self.findings.is_empty() {
                self.find(FindingKind::Changed, files::HEAD, None, "the head does not fit the line that it names");
            }
        } else if self.beyond_head > 0 && head.closed {
            let message = format!("{} lines were added after its writer closed it", self.beyond_head);
            self.find(FindingKind::Inserted, &file, Some(line), message);
        } else if !running {
            if self.beyond_head > 0 {
                self.notes.push(format!(
                    "{} lines are beyond the head, as a writer that is killed leaves them: chained, but what may \
                     have followed them is not known",
                    self.beyond_head
                ));
            }
            if !head.closed {
                self.notes.push("its writer did not close it: the monitor was killed".to_owned());
            }
        }
    }

    fn recordings(&mut self, closed: bool, running: bool) {
        for (file, (recorded, ended)) in std::mem::take(&mut self.recorded) {
            let name = format!("{}/{file}", files::CASTS);
            if self.dropped_recordings.contains(&file) {
                continue;
            }
            if files::cast_number(&file).is_none() {
                self.find(FindingKind::Changed, &name, None, "no recording has such a name");
                continue;
            }
            match prefix(&files::cast_path(self.directory, &file), recorded.bytes) {
                Err(_) => self.find(FindingKind::Cut, &name, None, "the recording is missing or shorter than it was"),
                Ok((hash, _)) if hash != recorded.sha256 => {
                    self.find(FindingKind::Changed, &name, None, "the recording was changed");
                }
                Ok((_, more)) if more && ended => {
                    self.find(FindingKind::Inserted, &name, None, "something was added to the recording");
                }
                Ok((_, more)) if more && !running => {
                    self.notes.push(format!("the end of {name} is not known to the timeline"));
                }
                Ok(_) => {}
            }
        }
        for number in files::casts(self.directory).unwrap_or_default() {
            let file = files::cast_name(number);
            let is_known = self.programs.contains(&file) || self.first_program.is_none_or(|first| number < first);
            if closed && !is_known {
                let name = format!("{}/{file}", files::CASTS);
                self.find(FindingKind::Inserted, &name, None, "no line tells of this recording");
            }
        }
    }

    fn logs(&mut self, finder: Option<&LogFinder<'_>>, running: bool) {
        let Some(finder) = finder else { return };
        // Of each file the last reference covers those before; of each log the last files are kept.
        let mut logs: BTreeMap<(String, String), Vec<LogReference>> = BTreeMap::new();
        for (sandbox, reference) in std::mem::take(&mut self.references) {
            let of_log = logs.entry((sandbox, reference.log.clone())).or_default();
            match of_log.last_mut() {
                Some(last) if last.inode == reference.inode => *last = reference,
                _ => of_log.push(reference),
            }
        }
        for ((sandbox, log), references) in logs {
            let name = format!("{log} log of {sandbox}");
            let Some(paths) = finder(&sandbox, &log) else {
                self.notes.push(format!("the {name} is no longer kept"));
                continue;
            };
            let recent = references.len().saturating_sub(LOGS_KEPT);
            for (index, reference) in references.iter().enumerate() {
                let found: Vec<(Hash, bool)> =
                    paths.iter().filter_map(|path| prefix(path, reference.bytes).ok()).collect();
                match found.iter().find(|(hash, _)| *hash == reference.sha256) {
                    Some((_, true)) if reference.closed => {
                        self.find(FindingKind::Inserted, &name, None, "something was added after its end");
                    }
                    Some((_, true)) if !running => {
                        self.notes.push(format!("the end of the {name} is not known to the timeline"));
                    }
                    Some(_) => {}
                    None if index < recent => self.notes.push(format!("an older part of the {name} is gone")),
                    None if found.is_empty() => {
                        self.find(FindingKind::Cut, &name, None, "it is missing or shorter than it was");
                    }
                    None => self.find(FindingKind::Changed, &name, None, "it was changed"),
                }
            }
        }
    }
}

/// For people: how many lines are not there.
fn missing(count: u64) -> String {
    if count == 1 { "a line is missing".to_owned() } else { format!("{count} lines are missing") }
}

/// Whether a head says what is found. A segment that was just begun holds no line yet.
fn is_same_end(found: &Head, head: &Head) -> bool {
    let next = Head { segment: found.segment.saturating_add(1), segment_bytes: 0, ..found.clone() };
    found == head || next == *head
}

/// The hash of a file's first bytes, and whether there are more. A file that is shorter is an error.
fn prefix(path: &Path, bytes: u64) -> io::Result<(Hash, bool)> {
    let file = files::open(path)?;
    let length = file.metadata()?.len();
    let mut hasher = Sha256::new();
    let mut reader = file.take(bytes);
    let mut buffer = vec![0; 64 * 1024];
    let mut done = 0;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        done += read as u64;
    }
    if done < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((Hash::finish(hasher), length > bytes))
}
