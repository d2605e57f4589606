//! The one writer of a timeline.
//!
//! Lines are written at once, so that they outlive a writer that is killed. What the head says is on the disk
//! before the head is: a host that loses power comes back with a head that is true, and perhaps more lines
//! behind it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::chain::{FORMAT, Hash, Head, Line, Link, MAX_LINE_BYTES, encode};
use crate::error::{Error, ErrorKind, Result, failed};
use crate::event::Event;
use crate::files;

/// How large a timeline may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// At this size, in bytes, a segment is followed by the next one.
    pub segment_bytes: u64,
    /// So many segments are kept.
    pub segments: u64,
    /// A recording ends at this size, in bytes.
    pub cast_bytes: u64,
    /// All recordings together, in bytes; the oldest go first.
    pub casts_bytes: u64,
    /// All transcripts together, in bytes; the oldest go first.
    pub transcripts_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: 4 << 20,
            segments: 8,
            cast_bytes: 64 << 20,
            casts_bytes: 256 << 20,
            transcripts_bytes: 256 << 20,
        }
    }
}

/// A timeline that is open for writing.
pub struct Writer {
    directory: PathBuf,
    limits: Limits,
    file: File,
    head: Head,
    /// Lines that the head on the disk does not know of.
    unsealed: bool,
    /// The last line may be torn: writing it failed.
    broken: bool,
    _lock: File,
}

impl Writer {
    /// Opens the timeline in a directory, or begins one. What a writer that was killed left is
    /// made whole, and a timeline that does not verify at its end is moved out of the way; either is the first
    /// thing that is written.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while someone else writes it, [`ErrorKind::Io`].
    pub fn open(directory: &Path, limits: Limits) -> Result<Self> {
        let failed = || failed(directory);
        files::make_directory(directory).map_err(failed())?;
        let busy = || Error::new(ErrorKind::Busy, format!("another process writes {}", directory.display()));
        let lock = files::lock(directory).map_err(failed())?.ok_or_else(busy)?;
        match recover(directory).map_err(failed())? {
            Left::Nothing => Self::begin(directory, limits, lock).map_err(failed()),
            Left::Whole(whole) => Self::go_on(directory, limits, lock, whole).map_err(failed()),
            Left::Damaged => {
                let aside = set_aside(directory).map_err(failed())?;
                drop(lock);
                files::make_directory(directory).map_err(failed())?;
                let lock = files::lock(directory).map_err(failed())?.ok_or_else(busy)?;
                let mut writer = Self::begin(directory, limits, lock).map_err(failed())?;
                writer.append(&Event::SetAside { directory: aside }).map_err(failed())?;
                Ok(writer)
            }
        }
    }

    fn begin(directory: &Path, limits: Limits, lock: File) -> io::Result<Self> {
        let head = Head {
            format: FORMAT,
            sandbox: String::new(),
            at_ms: 0,
            lines: 0,
            hash: Hash::ZERO,
            segment: 1,
            segment_bytes: 0,
            programs: 0,
            closed: false,
        };
        let file = files::private().create_new(true).open(files::segment_path(directory, head.segment))?;
        files::write_head(directory, &head)?;
        Ok(Self { directory: directory.to_owned(), limits, file, head, unsealed: false, broken: false, _lock: lock })
    }

    fn go_on(directory: &Path, limits: Limits, lock: File, whole: Whole) -> io::Result<Self> {
        let Whole { mut head, adopted_lines, torn } = whole;
        let was_closed = head.closed;
        head.closed = false;
        let mut file = files::private().open(files::segment_path(directory, head.segment))?;
        file.set_len(head.segment_bytes)?;
        file.seek(SeekFrom::End(0))?;
        file.sync_data()?;
        let mut writer =
            Self { directory: directory.to_owned(), limits, file, head, unsealed: false, broken: false, _lock: lock };
        writer.seal()?;
        if !was_closed {
            let torn_sha256 = (!torn.is_empty()).then(|| Hash::of(&torn));
            writer.append(&Event::Recovered { adopted_lines, torn_bytes: torn.len() as u64, torn_sha256 })?;
        }
        Ok(writer)
    }

    /// The end of what was written.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The directory it is in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether there are lines that the head on the disk does not know of.
    #[must_use]
    pub fn is_unsealed(&self) -> bool {
        self.unsealed
    }

    /// Writes one event down.
    ///
    /// # Errors
    /// The file's; the line is then not part of the chain.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        if self.broken {
            // Whatever was written of a line that failed is no line.
            self.file.set_len(self.head.segment_bytes)?;
            self.file.seek(SeekFrom::End(0))?;
            self.broken = false;
        }
        if self.head.segment_bytes >= self.limits.segment_bytes {
            self.next_segment()?;
        }
        self.append_here(event)
    }

    fn append_here(&mut self, event: &Event) -> io::Result<()> {
        let at_ms = crate::now_ms();
        let line = encode(&Line { seq: self.head.lines, at_ms, prev: self.head.hash, event: event.clone() })?;
        if line.len() > MAX_LINE_BYTES {
            return Err(io::Error::other("an event is too long for a line"));
        }
        if let Err(error) = self.file.write_all(&line) {
            self.broken = true;
            return Err(error);
        }
        match event {
            Event::Exec(exec) => self.head.programs = self.head.programs.max(exec.program),
            Event::Start { sandbox, .. } => self.head.sandbox.clone_from(sandbox),
            _ => {}
        }
        self.head.at_ms = at_ms;
        self.head.lines += 1;
        self.head.hash = Hash::of(&line[..line.len() - 1]);
        self.head.segment_bytes += line.len() as u64;
        self.unsealed = true;
        Ok(())
    }

    /// Begins the next segment, and removes the oldest ones beyond the limit. That is said before it is done.
    fn next_segment(&mut self) -> io::Result<()> {
        self.seal()?;
        let number = self.head.segment + 1;
        // One that is there already was made by a rotation that failed half way, and is empty.
        self.file = files::private().create(true).truncate(true).open(files::segment_path(&self.directory, number))?;
        self.head.segment = number;
        self.head.segment_bytes = 0;
        let kept = files::segments(&self.directory)?;
        let surplus = (kept.len() as u64).saturating_sub(self.limits.segments.max(2));
        for number in kept.into_iter().take(usize::try_from(surplus).unwrap_or(usize::MAX)) {
            let path = files::segment_path(&self.directory, number);
            let Some((through_seq, through_hash)) = last_line(&files::read(&path)?) else { continue };
            self.append_here(&Event::Dropped {
                segment: files::segment_name(number),
                through_seq,
                through_hash,
                sandbox: self.head.sandbox.clone(),
                programs: self.head.programs,
            })?;
            self.seal()?;
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Makes everything written so far durable, and then the head that says so.
    ///
    /// # Errors
    /// The disk's.
    pub fn seal(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        files::write_head(&self.directory, &self.head)?;
        self.unsealed = false;
        Ok(())
    }

    /// Seals it and says that nothing follows.
    ///
    /// # Errors
    /// As [`Writer::seal`].
    pub fn close(mut self) -> io::Result<()> {
        self.head.closed = true;
        self.seal()
    }
}

/// What is in a directory before a writer opens it.
enum Left {
    Nothing,
    Whole(Whole),
    Damaged,
}

/// A chain that can go on.
struct Whole {
    head: Head,
    adopted_lines: u64,
    torn: Vec<u8>,
}

fn recover(directory: &Path) -> io::Result<Left> {
    let segments = files::segments(directory)?;
    let mut head = match files::read_head(directory) {
        Ok(Some(head)) => head,
        Ok(None) if segments.is_empty() => return Ok(Left::Nothing),
        // The first segment is made before the first head.
        Ok(None) if segments == [1] && files::read(&files::segment_path(directory, 1))?.is_empty() => {
            std::fs::remove_file(files::segment_path(directory, 1))?;
            return Ok(Left::Nothing);
        }
        Ok(None) => return Ok(Left::Damaged),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        Err(_) => return Ok(Left::Damaged),
    };
    let Ok(bytes) = files::read(&files::segment_path(directory, head.segment)) else { return Ok(Left::Damaged) };
    let sealed = usize::try_from(head.segment_bytes).ok().and_then(|end| Some((bytes.get(..end)?, &bytes[end..])));
    let Some((sealed, beyond)) = sealed else { return Ok(Left::Damaged) };
    let is_end = match last_line(sealed) {
        Some((seq, hash)) => seq + 1 == head.lines && hash == head.hash,
        // A segment that was just begun.
        None => sealed.is_empty(),
    };
    if !is_end || (head.closed && !beyond.is_empty()) {
        return Ok(Left::Damaged);
    }
    let before = head.lines;
    let mut torn = adopt(&mut head, beyond);
    // A rotation may have begun the next one before the head knew.
    while segments.contains(&(head.segment + 1)) && torn.as_ref().is_some_and(Vec::is_empty) {
        head.segment += 1;
        head.segment_bytes = 0;
        let bytes = files::read(&files::segment_path(directory, head.segment))?;
        torn = adopt(&mut head, &bytes);
    }
    let last_is_last = segments.last() == Some(&head.segment);
    Ok(match torn {
        Some(torn) if last_is_last => Left::Whole(Whole { adopted_lines: head.lines - before, head, torn }),
        _ => Left::Damaged,
    })
}

/// Takes the lines beyond a head into it; returns what is left of a torn one, or none if a line does not
/// follow.
fn adopt(head: &mut Head, mut bytes: &[u8]) -> Option<Vec<u8>> {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = &bytes[..end];
        let link: Link = serde_json::from_slice(line).ok()?;
        if link.seq != head.lines || link.prev != head.hash {
            return None;
        }
        match serde_json::from_value(link.event) {
            Ok(Event::Exec(exec)) => head.programs = head.programs.max(exec.program),
            Ok(Event::Start { sandbox, .. }) => head.sandbox = sandbox,
            _ => {}
        }
        head.at_ms = link.at_ms;
        head.lines += 1;
        head.hash = Hash::of(line);
        head.segment_bytes += end as u64 + 1;
        bytes = &bytes[end + 1..];
    }
    Some(bytes.to_vec())
}

/// The place and hash of the last line of a segment.
fn last_line(bytes: &[u8]) -> Option<(u64, Hash)> {
    let whole = bytes.strip_suffix(b"\n")?;
    let line = whole.rsplit(|byte| *byte == b'\n').next()?;
    let link: Link = serde_json::from_slice(line).ok()?;
    Some((link.seq, Hash::of(line)))
}

/// Moves a timeline out of the way, for whoever wants to look into it; returns its new name.
fn set_aside(directory: &Path) -> io::Result<String> {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or("timeline");
    let mut at = crate::now_ms();
    loop {
        let aside = format!("{name}.damaged-{at}");
        let target = directory.with_file_name(&aside);
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            directory,
            rustix::fs::CWD,
            &target,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Ok(()) => return Ok(aside),
            Err(rustix::io::Errno::EXIST) => at += 1,
            Err(errno) => return Err(errno.into()),
        }
    }
}
