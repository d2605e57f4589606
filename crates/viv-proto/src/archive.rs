//! Records: a tree of files as a byte stream, in either direction. kind u8, length u32 little-endian, payload.
//!
//! A tree is its entries, a directory before what is in it, and at last [`Record::End`]: a stream without it
//! was cut short. A file's bytes follow it as [`Record::Data`] up to a [`Record::FileEnd`], so that nothing
//! depends on a size which may have changed by the time it is read, or was a lie.
//!
//! Names are the other side's: a decoder lets none through that could lead out of the directory it is meant for
//! (see [`check_path`]). A tar archive has limits of the same kind only where its reader adds them, and knows no
//! listing; decision 031 has the reasons.

use crate::ProtocolError;

/// The longest path, and the longest target of a symbolic link, in bytes: `PATH_MAX` without its end.
pub const MAX_PATH_BYTES: usize = 4095;

/// The longest component of a path, in bytes: `NAME_MAX`.
pub const MAX_NAME_BYTES: usize = 255;

/// How deep a path may be, in components: each level costs whoever walks it a descriptor.
pub const MAX_DEPTH: usize = 256;

/// The most bytes of a file in one record.
pub const MAX_DATA_BYTES: usize = 48 * 1024;

/// The longest payload of a record, in bytes: data, or an entry with a path and a target.
pub const MAX_RECORD_BYTES: usize = MAX_DATA_BYTES;

/// kind and length.
const HEADER_BYTES: usize = 5;

/// A point in time: seconds since the Unix epoch, and nanoseconds below a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Time {
    /// Seconds; negative before the epoch.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What kind of file an entry of a listing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FileKind {
    /// A regular file.
    File = 0,
    /// A directory.
    Directory = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A device node, a FIFO or a socket: never carried.
    Special = 3,
}

impl FileKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::File, Self::Directory, Self::Symlink, Self::Special].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What tells whether a file has changed since it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: Time,
    /// When anything of it was last changed, which no program sets at will.
    pub changed: Time,
    /// Its number in its file system.
    pub inode: u64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A directory.
    Directory {
        /// Where, relative to the tree's place.
        path: Vec<u8>,
        /// Permission bits.
        mode: u16,
        /// When it was last written.
        modified: Time,
    },
    /// A regular file; its data follows.
    File {
        /// Where, relative to the tree's place.
        path: Vec<u8>,
        /// Permission bits.
        mode: u16,
        /// When it was last written.
        modified: Time,
        /// Its size when it was opened: for progress, never for anything else.
        size: u64,
    },
    /// Bytes of the file before it. Never empty.
    Data(Vec<u8>),
    /// The file is whole.
    FileEnd,
    /// A symbolic link.
    Symlink {
        /// Where, relative to the tree's place.
        path: Vec<u8>,
        /// What it says. Nobody follows it on the way.
        target: Vec<u8>,
        /// When it was made.
        modified: Time,
    },
    /// An entry of a listing.
    Listed {
        /// Where, relative to the tree's place.
        path: Vec<u8>,
        /// What is known of it.
        stamp: Stamp,
    },
    /// Something that was left out: a device node, a FIFO, a socket, or a file that is not there any more.
    Skipped {
        /// Where, relative to the tree's place.
        path: Vec<u8>,
    },
    /// The tree is whole.
    End,
}

const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const DATA: u8 = 2;
const FILE_END: u8 = 3;
const SYMLINK: u8 = 4;
const LISTED: u8 = 5;
const SKIPPED: u8 = 6;
const END: u8 = 7;

/// Checks a path of a record: relative, at least one component, none of them empty, `.` or `..`, no NUL, and
/// within the limits.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("a path that is too long");
    }
    if path.contains(&0) {
        return Err("a path with a NUL in it");
    }
    let mut depth = 0;
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" => return Err("a path with an empty component"),
            b"." | b".." => return Err("a path with `.` or `..` in it"),
            name if name.len() > MAX_NAME_BYTES => return Err("a name that is too long"),
            _ => depth += 1,
        }
    }
    if depth > MAX_DEPTH { Err("a path that is too deep") } else { Ok(()) }
}

fn check_target(target: &[u8]) -> Result<(), &'static str> {
    match target {
        [] => Err("a link to nothing"),
        target if target.len() > MAX_PATH_BYTES => Err("a link's target that is too long"),
        target if target.contains(&0) => Err("a link's target with a NUL in it"),
        _ => Ok(()),
    }
}

fn malformed(reason: impl Into<String>) -> ProtocolError {
    ProtocolError::MalformedFrame { kind: "archive record", reason: reason.into() }
}

impl Record {
    /// The path of an entry; none for data and ends.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        match self {
            Self::Directory { path, .. }
            | Self::File { path, .. }
            | Self::Symlink { path, .. }
            | Self::Listed { path, .. }
            | Self::Skipped { path } => Some(path),
            Self::Data(_) | Self::FileEnd | Self::End => None,
        }
    }

    /// Appends the record's bytes.
    ///
    /// # Errors
    /// [`ProtocolError::MalformedFrame`] if the receiver would refuse it.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        if let Some(path) = self.path() {
            check_path(path).map_err(malformed)?;
        }
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let kind = match self {
            Self::Directory { path, mode, modified } => {
                put_mode(*mode, out);
                put_time(*modified, out);
                put_bytes(path, out);
                DIRECTORY
            }
            Self::File { path, mode, modified, size } => {
                put_mode(*mode, out);
                put_time(*modified, out);
                out.extend_from_slice(&size.to_le_bytes());
                put_bytes(path, out);
                FILE
            }
            Self::Data(bytes) => {
                if bytes.is_empty() || bytes.len() > MAX_DATA_BYTES {
                    out.truncate(start);
                    return Err(malformed("data of no or too many bytes"));
                }
                out.extend_from_slice(bytes);
                DATA
            }
            Self::FileEnd => FILE_END,
            Self::Symlink { path, target, modified } => {
                if let Err(reason) = check_target(target) {
                    out.truncate(start);
                    return Err(malformed(reason));
                }
                put_time(*modified, out);
                put_bytes(path, out);
                put_bytes(target, out);
                SYMLINK
            }
            Self::Listed { path, stamp } => {
                out.push(stamp.kind as u8);
                put_mode(stamp.mode, out);
                out.extend_from_slice(&stamp.size.to_le_bytes());
                put_time(stamp.modified, out);
                put_time(stamp.changed, out);
                out.extend_from_slice(&stamp.inode.to_le_bytes());
                put_bytes(path, out);
                LISTED
            }
            Self::Skipped { path } => {
                put_bytes(path, out);
                SKIPPED
            }
            Self::End => END,
        };
        // Checked above: nothing is longer than a path and a target, or the data.
        let length = u32::try_from(out.len() - start - HEADER_BYTES).unwrap_or(u32::MAX);
        out[start] = kind;
        out[start + 1..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    fn from_parts(kind: u8, payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields(payload);
        let record = match kind {
            DIRECTORY => {
                let (mode, modified) = (fields.mode()?, fields.time()?);
                Self::Directory { path: fields.path()?, mode, modified }
            }
            FILE => {
                let (mode, modified, size) = (fields.mode()?, fields.time()?, fields.u64()?);
                Self::File { path: fields.path()?, mode, modified, size }
            }
            DATA if payload.is_empty() => return Err(malformed("data of no bytes")),
            DATA => return Ok(Self::Data(payload.to_vec())),
            FILE_END => Self::FileEnd,
            SYMLINK => {
                let modified = fields.time()?;
                let (path, target) = (fields.path()?, fields.bytes()?.to_vec());
                check_target(&target).map_err(malformed)?;
                Self::Symlink { path, target, modified }
            }
            LISTED => {
                let kind = FileKind::from_byte(fields.u8()?).ok_or_else(|| malformed("a file of no known kind"))?;
                let (mode, size) = (fields.mode()?, fields.u64()?);
                let (modified, changed, inode) = (fields.time()?, fields.time()?, fields.u64()?);
                let stamp = Stamp { kind, mode, size, modified, changed, inode };
                Self::Listed { path: fields.path()?, stamp }
            }
            SKIPPED => Self::Skipped { path: fields.path()? },
            END => Self::End,
            _ => return Err(malformed(format!("an unknown kind {kind}"))),
        };
        if fields.0.is_empty() { Ok(record) } else { Err(malformed("bytes too many")) }
    }
}

fn put_mode(mode: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&(mode & 0o7777).to_le_bytes());
}

fn put_time(time: Time, out: &mut Vec<u8>) {
    out.extend_from_slice(&time.seconds.to_le_bytes());
    out.extend_from_slice(&time.nanoseconds.min(999_999_999).to_le_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What is left of a payload.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| malformed("too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.take().map(u64::from_le_bytes)
    }

    fn mode(&mut self) -> Result<u16, ProtocolError> {
        match self.take().map(u16::from_le_bytes)? {
            mode if mode <= 0o7777 => Ok(mode),
            _ => Err(malformed("a mode that is none")),
        }
    }

    fn time(&mut self) -> Result<Time, ProtocolError> {
        let seconds = self.take().map(i64::from_le_bytes)?;
        match self.take().map(u32::from_le_bytes)? {
            nanoseconds if nanoseconds < 1_000_000_000 => Ok(Time { seconds, nanoseconds }),
            _ => Err(malformed("a time that is none")),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], ProtocolError> {
        let length = usize::from(self.take().map(u16::from_le_bytes)?);
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("too short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn path(&mut self) -> Result<Vec<u8>, ProtocolError> {
        let path = self.bytes()?;
        check_path(path).map_err(malformed)?;
        Ok(path.to_vec())
    }
}

/// Turns bytes, in pieces of any size, into records. Holds at most one record and one piece.
#[derive(Debug, Default)]
pub struct RecordDecoder {
    bytes: Vec<u8>,
    consumed: usize,
}

impl RecordDecoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole record. After an error the stream cannot be read on.
    ///
    /// # Errors
    /// [`ProtocolError::MalformedFrame`] for a record that is too long, of unknown kind, or whose content breaks
    /// a limit or could lead astray.
    pub fn next_record(&mut self) -> Result<Option<Record>, ProtocolError> {
        let pending = &self.bytes[self.consumed..];
        let Some((&[kind, l0, l1, l2, l3], rest)) = pending.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if kind > END {
            return Err(malformed(format!("an unknown kind {kind}")));
        }
        if length > MAX_RECORD_BYTES {
            return Err(malformed(format!("{length} bytes; the limit is {MAX_RECORD_BYTES}")));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let record = Record::from_parts(kind, payload)?;
        self.consumed += HEADER_BYTES + length;
        Ok(Some(record))
    }

    /// Whether bytes of an unfinished record are held.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        self.consumed < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_lead_astray_are_refused() {
        for good in ["a", "a/b", "...", "a b", "new\nline", "-dash", "a..b/.c", "\u{fc}"] {
            assert_eq!(check_path(good.as_bytes()), Ok(()), "{good:?}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b"] {
            assert!(check_path(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check_path(&[b'a'; MAX_NAME_BYTES + 1]).is_err());
        assert!(check_path("a/".repeat(MAX_DEPTH).trim_end_matches('/').as_bytes()).is_ok());
        assert!(check_path(format!("{}a", "a/".repeat(MAX_DEPTH)).as_bytes()).is_err());
    }

    #[test]
    fn what_the_receiver_would_refuse_is_not_sent() {
        let mut out = b"before".to_vec();
        let up = Record::Skipped { path: b"../x".to_vec() };
        assert!(up.encode(&mut out).is_err());
        assert!(Record::Data(Vec::new()).encode(&mut out).is_err());
        assert!(Record::Data(vec![0; MAX_DATA_BYTES + 1]).encode(&mut out).is_err());
        let nowhere = Record::Symlink { path: b"l".to_vec(), target: Vec::new(), modified: Time::default() };
        assert!(nowhere.encode(&mut out).is_err());
        assert_eq!(out, b"before");
    }
}
