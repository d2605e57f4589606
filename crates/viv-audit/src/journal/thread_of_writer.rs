//! The thread that writes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Weak;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::{Entry, Shared, lost_since, next, written_down};
use crate::cast::CastWriter;
use crate::event::{Event, MAX_TEXT_BYTES, ProgramEnd, Recorded, Transcript, cut};
use crate::files;
use crate::follow::Follower;
use crate::transcript::{self, FoundTranscript};
use crate::writer::Writer;

/// Lines are beyond the head for no longer than this.
const SEAL_AFTER: Duration = Duration::from_secs(1);

/// How often other processes' logs are looked at.
const GLANCE: Duration = Duration::from_secs(5);

/// How often logs and recordings that grew are referred to.
const REFER_EVERY: Duration = Duration::from_secs(60);

struct Thread<'a> {
    writer: Writer,
    shared: &'a Weak<Shared>,
    casts: BTreeMap<u64, Cast>,
    logs: Vec<Follower>,
    /// When the head is to be made to say what the lines say.
    seal_at: Option<Instant>,
    glance_at: Instant,
    refer_at: Instant,
    /// Events that the disk did not take.
    failed: u64,
}

struct Cast {
    writer: CastWriter,
    is_new: bool,
}

pub(super) fn run(writer: Writer, entries: &Receiver<Entry>, shared: &Weak<Shared>) {
    let now = Instant::now();
    let mut thread = Thread {
        writer,
        shared,
        casts: BTreeMap::new(),
        logs: Vec::new(),
        seal_at: None,
        glance_at: now + GLANCE,
        refer_at: now + REFER_EVERY,
        failed: 0,
    };
    loop {
        let idle = thread.logs.is_empty() && thread.casts.is_empty();
        let until = [thread.seal_at, (!idle).then_some(thread.glance_at)].into_iter().flatten().min();
        match next(entries, until) {
            Ok(Some(Entry::Close(last))) => return thread.close(&last),
            // The monitor has let go of it without a word.
            Err(()) => {
                let _ = thread.writer.seal();
                return;
            }
            Ok(Some(entry)) => thread.take(entry),
            Ok(None) => {}
        }
        thread.do_what_is_due();
    }
}

impl Thread<'_> {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Event(event) => drop(self.append(&event)),
            Entry::Program { mut exec, header } => {
                if let Some(header) = header {
                    self.make_room();
                    let (directory, limits) = (self.writer.directory(), self.writer.limits());
                    let is_pipe = exec.terminal.is_none();
                    match CastWriter::create(directory, exec.program, &header, is_pipe, limits.cast_bytes) {
                        Ok(writer) => drop(self.casts.insert(exec.program, Cast { writer, is_new: true })),
                        // A program that cannot be recorded is run all the same, and this says so.
                        Err(_) => exec.recording = None,
                    }
                }
                self.append(&Event::Exec(exec));
            }
            Entry::Output { program, at, bytes } => {
                self.cast(program, |cast| cast.output(at, &bytes));
                written_down(self.shared, bytes.len());
            }
            Entry::Resize { program, at, columns, rows } => self.cast(program, |cast| cast.resize(at, columns, rows)),
            Entry::Gap { program, at, bytes } => self.cast(program, |cast| cast.gap(at, bytes)),
            Entry::Ended { program, at, end } => self.ended(program, at, end),
            Entry::Follow { log, path, rotated } => self.logs.push(Follower::new(&log, path, rotated)),
            Entry::Transcript(found) => self.keep(found),
            Entry::Close(last) => drop(self.append(&last)),
        }
    }

    /// Copies a transcript, and then says so.
    fn keep(&mut self, found: FoundTranscript) {
        let FoundTranscript { agent, path, content, most_bytes } = found;
        self.make_room_for_transcript(most_bytes);
        let directory = self.writer.directory().to_owned();
        let file = files::transcript_name(self.writer.head().lines);
        match transcript::copy(&directory, &file, content, most_bytes) {
            Ok(copied) => {
                let (agent, path) = (cut(&agent, MAX_TEXT_BYTES), cut(&path, MAX_TEXT_BYTES));
                let (bytes, sha256) = (copied.bytes, copied.sha256);
                let told = Event::Transcript(Transcript { agent, path, file: file.clone(), bytes, sha256 });
                if !self.append(&told) {
                    // A copy that no line tells of would look like one that someone put there.
                    let _ = std::fs::remove_file(files::transcript_path(&directory, &file));
                }
            }
            Err(error) => {
                let reasons = vec![cut(&format!("{path} of {agent}: {error}"), MAX_TEXT_BYTES)];
                self.append(&Event::TranscriptsLeftOut { files: 1, reasons });
            }
        }
    }

    /// Removes the oldest transcripts, until another one has room.
    fn make_room_for_transcript(&mut self, bytes: u64) {
        let directory = self.writer.directory().to_owned();
        let most = self.writer.limits().transcripts_bytes;
        let kept: Vec<(String, u64)> = files::transcripts(&directory)
            .unwrap_or_default()
            .into_iter()
            .map(|number| {
                let file = files::transcript_name(number);
                let path = files::transcript_path(&directory, &file);
                let bytes = std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
                (file, bytes)
            })
            .collect();
        let mut all: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        for (file, size) in kept {
            if all.saturating_add(bytes) <= most {
                return;
            }
            // Said first: one that is gone without a word would be a cut.
            self.append(&Event::DroppedTranscript { file: file.clone() });
            if self.writer.seal().is_ok() && std::fs::remove_file(files::transcript_path(&directory, &file)).is_ok() {
                all -= size;
            }
        }
    }

    /// Does something to a recording; one that the disk refuses ends.
    fn cast(&mut self, program: u64, act: impl FnOnce(&mut CastWriter) -> io::Result<()>) {
        if let Some(cast) = self.casts.get_mut(&program) {
            cast.is_new = true;
            if act(&mut cast.writer).and_then(|()| cast.writer.flush()).is_err() {
                self.failed += 1;
                self.casts.remove(&program);
            }
        }
    }

    fn ended(&mut self, program: u64, at: Duration, end: ProgramEnd) {
        let recording = self.casts.remove(&program).and_then(|mut cast| {
            let recorded = cast.writer.finish(at).and_then(|()| cast.writer.recorded());
            recorded.inspect_err(|_| self.failed += 1).ok()
        });
        self.append(&Event::ExecEnded { program, end, recording });
    }

    /// Writes an event down; whether the disk took it.
    fn append(&mut self, event: &Event) -> bool {
        let lost = std::mem::take(&mut self.failed) + lost_since(self.shared);
        if lost > 0 && self.writer.append(&Event::Lost { events: lost }).is_err() {
            self.failed += lost;
        }
        let written = self.writer.append(event).is_ok();
        if !written {
            self.failed += 1;
        }
        if self.writer.is_unsealed() {
            self.seal_at.get_or_insert_with(|| Instant::now() + SEAL_AFTER);
        }
        written
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if now >= self.glance_at {
            let refer = now >= self.refer_at;
            self.look_at_logs(refer, false);
            if refer {
                self.refer_to_casts();
                self.refer_at = now + REFER_EVERY;
            }
            self.glance_at = now + GLANCE;
        }
        if self.seal_at.is_some_and(|at| now >= at) {
            // A disk that refuses is asked again in a while; the lines are there already.
            self.seal_at = self.writer.seal().is_err().then(|| now + SEAL_AFTER);
        }
    }

    fn look_at_logs(&mut self, tell: bool, closed: bool) {
        let mut logs = std::mem::take(&mut self.logs);
        for log in &mut logs {
            match log.look(tell, closed) {
                Ok(references) => {
                    for reference in references {
                        self.append(&Event::Log(reference));
                    }
                }
                Err(_) => self.failed += 1,
            }
        }
        self.logs = logs;
    }

    fn refer_to_casts(&mut self) {
        let mut recordings: Vec<(u64, Recorded)> = Vec::new();
        for (program, cast) in self.casts.iter_mut().filter(|(_, cast)| cast.is_new) {
            cast.is_new = false;
            recordings.extend(cast.writer.recorded().ok().map(|recorded| (*program, recorded)));
        }
        for (program, recording) in recordings {
            self.append(&Event::Recording { program, recording });
        }
    }

    /// Removes the oldest recordings that have ended, until another one has room.
    fn make_room(&mut self) {
        let directory = self.writer.directory().to_owned();
        let limits = self.writer.limits();
        let size_of = |number: &u64| {
            let path = files::cast_path(&directory, &files::cast_name(*number));
            std::fs::metadata(path).map_or(0, |metadata| metadata.len())
        };
        let numbers = files::casts(&directory).unwrap_or_default();
        let mut all: u64 = numbers.iter().map(size_of).sum();
        for number in numbers.iter().filter(|number| !self.casts.contains_key(number)).copied().collect::<Vec<_>>() {
            if all.saturating_add(limits.cast_bytes) <= limits.casts_bytes {
                return;
            }
            let file = files::cast_name(number);
            let bytes = size_of(&number);
            // Said first: a recording that is gone without a word would be a cut.
            self.append(&Event::DroppedRecording { file: file.clone() });
            if self.writer.seal().is_ok() && std::fs::remove_file(files::cast_path(&directory, &file)).is_ok() {
                all -= bytes;
            }
        }
    }

    fn close(mut self, last: &Event) {
        let programs: Vec<u64> = self.casts.keys().copied().collect();
        for program in programs {
            self.ended(program, Duration::ZERO, ProgramEnd::Unseen);
        }
        self.look_at_logs(true, true);
        self.append(last);
        // What cannot be sealed stays open, which is what a reader is told.
        let _ = self.writer.close();
    }
}
