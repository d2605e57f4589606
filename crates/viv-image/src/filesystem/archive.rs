//! Reads tar archives: ustar, GNU's long names and large numbers, and pax.
//!
//! As container runtimes read them (Go's archive/tar, which wrote most layers there are): a pax
//! record weighs more than a header's field, entries without data have none whatever their size says,
//! and global pax headers mean nothing. The format is POSIX.1-2017's `pax`, section "ustar Interchange
//! Format", and <https://www.gnu.org/software/tar/manual/html_node/Standard.html>.

use std::io::{self, Read};

use super::attributes::Attribute;
use crate::error::{Error, ErrorKind, Result};

const BLOCK: usize = 512;
/// Names, links and extended attributes of one entry: more than any file system takes.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// An archive's entries, one after another.
pub(super) struct Archive<'a> {
    reader: &'a mut dyn Read,
    /// Bytes of the entry's data that were not read yet.
    data: u64,
    padding: u64,
    /// Bytes that may still be read of the archive.
    budget: &'a mut u64,
}

/// One entry, its data aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permissions, setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since the epoch, and nanoseconds.
    pub modified: (i64, u32),
    pub attributes: Vec<Attribute>,
    /// Bytes of data that follow; zero for all but files.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Device { block: bool, major: u32, minor: u32 },
    Directory,
    Fifo,
}

/// What stands before an entry and is about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, u32)>,
    attributes: Vec<Attribute>,
}

pub(super) fn too_large(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::TooLarge, what)
        .hint("it may have been made to fill a disk; if you trust it, unpack it and give the directory to mkfs.erofs")
}

pub(super) fn damaged(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the archive is damaged: {}", why.into()))
}

pub(super) fn unreadable(error: io::Error) -> Error {
    // What comes from the system has a number; all else was said here, or by a decompressor.
    match (error.raw_os_error(), error.kind()) {
        (None, io::ErrorKind::FileTooLarge) => too_large("the archive holds more bytes than it may"),
        (None, _) => Error::new(ErrorKind::Corrupt, "the archive is damaged").source(error),
        (Some(_), _) => Error::new(ErrorKind::Io, "cannot read the archive").source(error),
    }
}

impl<'a> Archive<'a> {
    /// Reads at most `budget` bytes, and counts them off.
    pub(super) fn new(reader: &'a mut dyn Read, budget: &'a mut u64) -> Self {
        Self { reader, data: 0, padding: 0, budget }
    }

    /// The next entry. What was not read of the previous one's data is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        let mut extensions = Extensions::default();
        loop {
            self.pass_over()?;
            let mut header = [0; BLOCK];
            if !self.block(&mut header)? {
                return Ok(None);
            }
            if header == [0; BLOCK] {
                // The end is two blocks of zeros, and what may follow them is padding.
                if self.block(&mut header)? && header != [0; BLOCK] {
                    return Err(damaged("a block of zeros stands between two entries"));
                }
                while self.read(&mut header).map_err(unreadable)? > 0 {}
                return Ok(None);
            }
            check_sum(&header)?;
            match header[156] {
                b'x' => {
                    let records = self.extension(&header)?;
                    extensions.pax(&records)?;
                }
                b'L' => extensions.path = Some(until_nul(&self.extension(&header)?).to_vec()),
                b'K' => extensions.link = Some(until_nul(&self.extension(&header)?).to_vec()),
                // They are about all that follows. git puts a comment there.
                b'g' => self.data = number(&header[124..136])?,
                _ => return self.member(&header, extensions).map(Some),
            }
            self.pad();
        }
    }

    fn member(&mut self, header: &[u8; BLOCK], extensions: Extensions) -> Result<Member> {
        // GNU's own format has other things where ustar has the first part of a long name.
        let ustar = &header[257..263] == b"ustar\0";
        let name = until_nul(&header[..100]);
        let prefix = if ustar { until_nul(&header[345..500]) } else { &[] };
        let path = extensions.path.unwrap_or_else(|| match prefix {
            [] => name.to_vec(),
            _ => [prefix, b"/", name].concat(),
        });
        let link = || extensions.link.clone().unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let device = |block| -> Result<Kind> {
            let part =
                |field: &[u8]| u32::try_from(number(field)?).map_err(|_| damaged("a device number is too large"));
            Ok(Kind::Device { block, major: part(&header[329..337])?, minor: part(&header[337..345])? })
        };
        let kind = match header[156] {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => device(false)?,
            b'4' => device(true)?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(sparse(&path)),
            other => {
                let message =
                    format!("{} is of a type that is not supported: {}", shown(&path), [other].escape_ascii());
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        };
        let size = match kind {
            Kind::File => extensions.size.map_or_else(|| number(&header[124..136]), Ok)?,
            _ => 0,
        };
        let id = |extension: Option<u64>, field: &[u8]| {
            let id = u32::try_from(extension.map_or_else(|| number(field), Ok)?).ok();
            // The largest means "no such user" to the kernel.
            id.filter(|id| *id != u32::MAX)
                .ok_or_else(|| damaged(format!("{} has an owner beyond 32 bits", shown(&path))))
        };
        let (uid, gid) = (id(extensions.uid, &header[108..116])?, id(extensions.gid, &header[116..124])?);
        let modified = extensions.modified.map_or_else(|| Ok((signed(&header[136..148])?, 0)), Ok)?;
        let mode = (number(&header[100..108])? & 0o7777) as u16;
        self.data = size;
        self.pad();
        Ok(Member { path, kind, mode, uid, gid, modified, attributes: extensions.attributes, size })
    }

    /// The data of a header that is about the next one.
    fn extension(&mut self, header: &[u8; BLOCK]) -> Result<Vec<u8>> {
        let size = number(&header[124..136])?;
        if size > EXTENSION_LIMIT {
            let message = format!("an entry has {size} bytes of names and attributes; {EXTENSION_LIMIT} are allowed");
            return Err(too_large(message));
        }
        // Little, so that it does not matter if it is not there.
        let mut content = vec![0; size as usize];
        self.read_exact(&mut content).map_err(unreadable)?;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(content)
    }

    /// After the data's size is known.
    fn pad(&mut self) {
        if self.data > 0 {
            self.padding = self.data.wrapping_neg() % BLOCK as u64;
        }
    }

    fn pass_over(&mut self) -> Result<()> {
        let mut left = u128::from(self.data) + u128::from(self.padding);
        (self.data, self.padding) = (0, 0);
        let mut buffer = [0; 8192];
        while left > 0 {
            let part = left.min(buffer.len() as u128) as usize;
            self.read_exact(&mut buffer[..part]).map_err(unreadable)?;
            left -= part as u128;
        }
        Ok(())
    }

    /// False at the end of the archive.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.read(&mut block[filled..]).map_err(unreadable)? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(damaged("it is cut short")),
                count => filled += count,
            }
        }
        Ok(true)
    }

    /// The data of the entry that was given out last.
    pub(super) fn data(&mut self) -> Data<'_, 'a> {
        Data(self)
    }
}

/// The archive's bytes, counted.
impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        match self.budget.checked_sub(count as u64) {
            Some(left) => *self.budget = left,
            None => return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it holds more than it may")),
        }
        Ok(count)
    }
}

/// The data of one entry.
pub(super) struct Data<'b, 'a>(&'b mut Archive<'a>);

impl Read for Data<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = buffer.len().min(usize::try_from(self.0.data).unwrap_or(usize::MAX));
        if part == 0 {
            return Ok(0);
        }
        let count = self.0.read(&mut buffer[..part])?;
        self.0.data -= count as u64;
        Ok(count)
    }
}

impl Extensions {
    /// `LENGTH KEY=VALUE\n`, where the length counts the record. Values are any bytes, newlines included.
    fn pax(&mut self, mut records: &[u8]) -> Result<()> {
        let malformed = || damaged("a pax record is not written as such records are");
        while !records.is_empty() {
            let space = records.iter().take(8).position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = decimal(&records[..space]).and_then(|length| usize::try_from(length).ok());
            let (record, rest) = length.and_then(|length| records.split_at_checked(length)).ok_or_else(malformed)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(malformed)?;
            let equals = memchr::memchr(b'=', record).ok_or_else(malformed)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let malformed = || damaged(format!("the pax record {} has no such value", shown(key)));
        // An empty value takes back what was said before.
        let given = (!value.is_empty()).then_some(value);
        let number = || given.map(|value| decimal(value).ok_or_else(malformed)).transpose();
        match key {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.modified = given.map(|value| time(value).ok_or_else(malformed)).transpose()?,
            _ if key.starts_with(b"GNU.sparse.") => return Err(sparse(self.path.as_deref().unwrap_or(b"a file"))),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.retain(|attribute| attribute.name != name);
                    self.attributes.push(Attribute { name: name.to_vec(), value: value.to_vec() });
                }
            }
        }
        Ok(())
    }
}

fn sparse(path: &[u8]) -> Error {
    let message = format!("{} is stored as a sparse file, which is not supported", shown(path));
    Error::new(ErrorKind::Corrupt, message).hint("make the archive without tar's --sparse")
}

/// A name for people, without what a terminal would heed, and cut.
pub(super) fn shown(name: &[u8]) -> String {
    const SHOWN: usize = 200;
    let end = if name.len() > SHOWN { "..." } else { "" };
    format!("`{}{end}`", name[..name.len().min(SHOWN)].escape_ascii())
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..memchr::memchr(0, field).unwrap_or(field.len())]
}

/// The sum of the header's bytes, its own field taken for spaces. Old archivers added signed ones.
fn check_sum(header: &[u8; BLOCK]) -> Result<()> {
    let said = signed(&header[148..156])?;
    let bytes = || header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let old: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    if said == unsigned || said == old { Ok(()) } else { Err(damaged("the sum of a header is wrong")) }
}

/// A header's number that cannot be negative.
fn number(field: &[u8]) -> Result<u64> {
    u64::try_from(signed(field)?).map_err(|_| damaged("a number is negative"))
}

/// Octal digits, or GNU's binary: the first bit set, then a big-endian two's complement.
fn signed(field: &[u8]) -> Result<i64> {
    let odd = || damaged("a header holds a number that is none");
    if field[0] & 0x80 != 0 {
        // The second bit is the sign.
        let start = if field[0] & 0x40 != 0 { -1 } else { 0 };
        let first = i64::from(field[0] & 0x3f) | (start << 6);
        return field[1..].iter().try_fold(first, |value, byte| {
            value.checked_mul(256).and_then(|value| value.checked_add(i64::from(*byte))).ok_or_else(odd)
        });
    }
    let digits = until_nul(field.trim_ascii_start()).trim_ascii();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value + i64::from(digit - b'0')).ok_or_else(odd),
        _ => Err(odd()),
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds with a fraction, of which nanoseconds count.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, [].as_slice()),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0").unwrap(), 8 << 30);
        assert_eq!(signed(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe").unwrap(), -2);
        for odd in [b"00009999".as_slice(), b"-0000001", b"\xff\xff\xff\xff\xff\xff\xff\xff", &[0x8f; 12]] {
            assert!(number(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        for odd in [b"".as_slice(), b".5", b"1.x", b"99999999999999999999"] {
            assert_eq!(time(odd), None);
        }
    }

    #[test]
    fn pax_values_are_any_bytes() {
        let mut extensions = Extensions::default();
        extensions.pax(b"28 SCHILY.xattr.user.a=\n\0=\n\n13 mtime=1.5\n9 path=a\n").unwrap();
        assert_eq!(extensions.attributes, [Attribute { name: b"user.a".to_vec(), value: b"\n\0=\n".to_vec() }]);
        assert_eq!((extensions.modified, extensions.path), (Some((1, 500_000_000)), Some(b"a".to_vec())));
        for odd in [b"x".as_slice(), b"5 a=b", b"99 a=b\n", b"3 a=b\n", b"6 a=b\nx", b"0 a=b\n", b"11 size=-1\n"] {
            assert!(Extensions::default().pax(odd).is_err(), "{}", odd.escape_ascii());
        }
    }
}
