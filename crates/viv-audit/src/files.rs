//! The files of a timeline.
//!
//! ```text
//! audit/NAME-or-ID/           0700
//!   lock                      held by the one writer
//!   head.json                 the end of the chain
//!   timeline-000001.jsonl     segments; the chain goes on from one to the next
//!   casts/000001.cast         recordings, by the number of their program
//!   transcripts/000007        copies of agents' transcripts, by the number of the line that was to be next
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::chain::{Head, encode};

/// The head's name.
pub(crate) const HEAD: &str = "head.json";

/// The recordings' directory.
pub(crate) const CASTS: &str = "casts";

/// The transcripts' directory.
pub(crate) const TRANSCRIPTS: &str = "transcripts";

const LOCK: &str = "lock";
const PREFIX: &str = "timeline-";
const SUFFIX: &str = ".jsonl";
const CAST_SUFFIX: &str = ".cast";

/// The largest file of a timeline that is read: a segment is far smaller.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The largest head that is read.
const MAX_HEAD_BYTES: u64 = 4096;

/// The name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{PREFIX}{number:06}{SUFFIX}")
}

/// The name of a recording.
pub(crate) fn cast_name(program: u64) -> String {
    format!("{program:06}{CAST_SUFFIX}")
}

/// The number in such a name, if it is one that viv gives.
pub(crate) fn cast_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(CAST_SUFFIX)?.parse().ok()?;
    (cast_name(number) == name).then_some(number)
}

/// The name of a transcript's copy.
pub(crate) fn transcript_name(number: u64) -> String {
    format!("{number:06}")
}

/// The number in such a name, if it is one that viv gives.
pub(crate) fn transcript_number(name: &str) -> Option<u64> {
    let number = name.parse().ok()?;
    (transcript_name(number) == name).then_some(number)
}

/// The numbers of the segments that are there, in order.
pub(crate) fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    numbers(directory, |name| {
        let number = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
        (segment_name(number) == name).then_some(number)
    })
}

/// The numbers of the recordings that are there, in order.
pub(crate) fn casts(directory: &Path) -> io::Result<Vec<u64>> {
    none_if_missing(numbers(&directory.join(CASTS), cast_number))
}

/// The numbers of the transcripts that are there, in order.
pub(crate) fn transcripts(directory: &Path) -> io::Result<Vec<u64>> {
    none_if_missing(numbers(&directory.join(TRANSCRIPTS), transcript_number))
}

fn none_if_missing(numbers: io::Result<Vec<u64>>) -> io::Result<Vec<u64>> {
    match numbers {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        numbers => numbers,
    }
}

fn numbers(directory: &Path, number_of: impl Fn(&str) -> Option<u64>) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        numbers.extend(entry?.file_name().to_str().and_then(&number_of));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes a directory that nobody else can look into.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Takes the writer's lock; none if someone else has it.
pub(crate) fn lock(directory: &Path) -> io::Result<Option<File>> {
    let path = directory.join(LOCK);
    let file = match private().create(true).truncate(false).open(&path) {
        // Moved away just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Whoever had it may have moved the directory away, or removed it: then it is the lock of nothing.
        Ok(()) => Ok(is_same(&file, &path).then_some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a path still leads to an open file.
fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}

/// Whether a writer has it now.
pub(crate) fn is_locked(directory: &Path) -> bool {
    // Without making one: whoever only looks leaves nothing.
    File::open(directory.join(LOCK))
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK))
}

/// A file of the writer's: of the user alone, and not through a link.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// All of a file, unless it is larger than any of ours. Not through a link, and only a regular file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_at_most(path, MAX_FILE_BYTES)
}

fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::Error::other("it is too large to be a timeline's")) } else { Ok(bytes) }
}

/// Opens a regular file to read, not through a link.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// The head: none if there is no file, and an error if it is not, byte for byte, what a writer writes.
pub(crate) fn read_head(directory: &Path) -> io::Result<Option<Head>> {
    let bytes = match read_at_most(&directory.join(HEAD), MAX_HEAD_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let head: Head = serde_json::from_slice(&bytes)?;
    if encode(&head)? == bytes { Ok(Some(head)) } else { Err(io::Error::other("it was not written by viv")) }
}

/// Replaces the head: a loss of power leaves this one or the one before, either whole.
pub(crate) fn write_head(directory: &Path, head: &Head) -> io::Result<()> {
    let partial = directory.join(".head.partial");
    let mut file = private().create(true).truncate(true).open(&partial)?;
    file.write_all(&encode(head)?)?;
    file.sync_data()?;
    std::fs::rename(partial, directory.join(HEAD))
}

/// A directory's segment, recording or head.
pub(crate) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(segment_name(number))
}

/// Where a recording is.
pub(crate) fn cast_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(CASTS).join(name)
}

/// Where a transcript's copy is.
pub(crate) fn transcript_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(TRANSCRIPTS).join(name)
}
