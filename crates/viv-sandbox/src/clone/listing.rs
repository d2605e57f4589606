//! What a copy has become: two listings of it, one from its start, compared as they come.
//!
//! A listing is in one order only ([`viv_proto::message::Archive::List`]), so neither has to be in memory: what is in
//! both and looks the same has not changed. A listing out of order is refused, which is also how a name that comes
//! twice is. Nothing that a guest says of its files is believed further than which of them are worth asking for.

use std::cmp::Ordering;
use std::io::{self, Read, Write};

use viv_archive::{RecordReader, RecordWriter};
use viv_proto::archive::{FileKind, Record, Stamp};

use crate::{Error, ErrorKind, Result};

/// The most entries of a listing: ignored files count, too.
const MOST_ENTRIES: u64 = 10_000_000;

/// The most changes that are reported.
const MOST_CHANGES: usize = 200_000;

const IGNORE_FILE: &[u8] = b".gitignore";

/// Which files are not asked for, as the copy's own `.gitignore` files have it.
pub trait Ignored {
    /// In this directory, relative to the workspace, there is such a file. Comes before all else that is in the
    /// directory.
    fn rules(&mut self, directory: &[u8], text: &[u8]);

    /// Whether a file that was not there at the start is to be ignored.
    fn ignores(&mut self, path: &[u8]) -> bool;
}

/// What may have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// New, or with another content or mode.
    pub(super) changed: Vec<Vec<u8>>,
    /// Gone.
    pub(super) gone: Vec<Vec<u8>>,
    /// New device nodes, FIFOs and sockets.
    pub(super) special: u64,
}

/// Copies a listing without what it brings along.
///
/// # Errors
/// [`ErrorKind::Guest`] for what is none, or the writer's own.
pub(super) fn keep(reader: &mut RecordReader<impl Read>, writer: impl Write) -> Result<u64> {
    let mut listing = Listing::new(reader);
    let mut writer = RecordWriter::new(writer);
    let failed = |error: io::Error| Error::new(ErrorKind::Io, "the copy's listing cannot be kept").source(error);
    while let Some((path, stamp)) = listing.next(&mut NoRules)? {
        writer.send(&Record::Listed { path, stamp }).map_err(failed)?;
        // The reader of a listing expects it.
        if listing.has_text {
            writer.send(&Record::FileEnd).map_err(failed)?;
        }
    }
    writer.end().map_err(failed)?;
    Ok(listing.entries)
}

/// Compares a listing with that of the start.
///
/// # Errors
/// [`ErrorKind::Guest`] for what is none, or has too many entries or changes.
pub(super) fn compare(
    start: &mut RecordReader<impl Read>,
    now: &mut RecordReader<impl Read>,
    ignored: &mut dyn Ignored,
) -> Result<Differences> {
    let (mut start, mut now) = (Listing::new(start), Listing::new(now));
    let mut differences = Differences::default();
    let mut old = start.next(&mut NoRules)?;
    let mut new = now.next(ignored)?;
    loop {
        let order = match (&old, &new) {
            (None, None) => return Ok(differences),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => order(old, new),
        };
        match order {
            Ordering::Less => {
                let next = start.next(&mut NoRules)?;
                differences.gone.extend(std::mem::replace(&mut old, next).map(|(path, _)| path));
            }
            Ordering::Greater => {
                let next = now.next(ignored)?;
                match std::mem::replace(&mut new, next) {
                    Some((_, stamp)) if stamp.kind == FileKind::Special => differences.special += 1,
                    Some((path, _)) if !ignored.ignores(&path) => differences.changed.push(path),
                    _ => {}
                }
            }
            Ordering::Equal => {
                let (next_old, next_new) = (start.next(&mut NoRules)?, now.next(ignored)?);
                let was = std::mem::replace(&mut old, next_old);
                let is = std::mem::replace(&mut new, next_new);
                if let (Some((path, was)), Some((_, is))) = (was, is)
                    && was != is
                {
                    match is.kind {
                        FileKind::File | FileKind::Symlink => differences.changed.push(path),
                        FileKind::Directory | FileKind::Special => differences.gone.push(path),
                    }
                }
            }
        }
        if differences.changed.len() + differences.gone.len() > MOST_CHANGES {
            return Err(Error::new(ErrorKind::Guest, format!("more than {MOST_CHANGES} files have changed"))
                .hint("name what is made inside in .gitignore, or take it with viv cp or viv sync --artifacts"));
        }
    }
}

struct NoRules;

impl Ignored for NoRules {
    fn rules(&mut self, _directory: &[u8], _text: &[u8]) {}

    fn ignores(&mut self, _path: &[u8]) -> bool {
        false
    }
}

struct Listing<'a, R> {
    reader: &'a mut RecordReader<R>,
    entries: u64,
    last: Vec<u8>,
    /// Whether the entry before brought a text along.
    has_text: bool,
}

impl<'a, R: Read> Listing<'a, R> {
    fn new(reader: &'a mut RecordReader<R>) -> Self {
        Self { reader, entries: 0, last: Vec::new(), has_text: false }
    }

    fn next(&mut self, ignored: &mut dyn Ignored) -> Result<Option<(Vec<u8>, Stamp)>> {
        let broken = |error: io::Error| Error::new(ErrorKind::Guest, "the copy's listing makes no sense").source(error);
        let nonsense = |reason: &'static str| broken(io::Error::other(reason));
        let (path, stamp) = match self.reader.next_record().map_err(broken)? {
            Record::End => return Ok(None),
            Record::Listed { path, stamp } => (path, stamp),
            _ => return Err(nonsense("a record that has no place here")),
        };
        if self.entries > 0 && order(&self.last, &path) != Ordering::Less {
            return Err(nonsense("names out of order"));
        }
        path.clone_into(&mut self.last);
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            return Err(nonsense("too many entries"));
        }
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path.as_slice()),
        };
        self.has_text = name == IGNORE_FILE && stamp.kind == FileKind::File;
        if self.has_text {
            let mut text = Vec::new();
            loop {
                match self.reader.next_record().map_err(broken)? {
                    Record::Data(bytes) if text.len() < MOST_TEXT_BYTES => text.extend(bytes),
                    Record::FileEnd => break,
                    _ => return Err(nonsense("a .gitignore without an end")),
                }
            }
            ignored.rules(directory, &text);
        }
        Ok(Some((path, stamp)))
    }
}

/// More than a guest sends of one.
const MOST_TEXT_BYTES: usize = 512 * 1024;

/// The order of a listing: by component, each in the order of its bytes, but `.gitignore` first.
fn order(one: &[u8], other: &[u8]) -> Ordering {
    let key = |path: &[u8]| -> Vec<(bool, Vec<u8>)> {
        path.split(|byte| *byte == b'/').map(|name| (name != IGNORE_FILE, name.to_vec())).collect()
    };
    if one == other {
        return Ordering::Equal;
    }
    // What both begin with says nothing; going back to its component's start keeps the rest comparable.
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let start = one[..same].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    key(&one[start..]).cmp(&key(&other[start..]))
}

#[cfg(test)]
mod tests {
    use viv_proto::archive::Time;

    use super::*;

    fn stamp(size: u64) -> Stamp {
        let time = Time { seconds: 1, nanoseconds: 2 };
        Stamp { kind: FileKind::File, mode: 0o644, size, modified: time, changed: time, inode: 9 }
    }

    fn listing(entries: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, size) in entries {
            let path = path.as_bytes().to_vec();
            let is_ignore = path.ends_with(IGNORE_FILE);
            Record::Listed { path, stamp: stamp(*size) }.encode(&mut bytes).unwrap();
            if is_ignore {
                Record::Data(b"*.o\n".to_vec()).encode(&mut bytes).unwrap();
                Record::FileEnd.encode(&mut bytes).unwrap();
            }
        }
        Record::End.encode(&mut bytes).unwrap();
        bytes
    }

    #[derive(Default)]
    struct ByEnding(Vec<Vec<u8>>);

    impl Ignored for ByEnding {
        fn rules(&mut self, directory: &[u8], text: &[u8]) {
            assert_eq!(text, b"*.o\n");
            self.0.push(directory.to_vec());
        }

        fn ignores(&mut self, path: &[u8]) -> bool {
            path.ends_with(b".o")
        }
    }

    fn differences(start: &[(&str, u64)], now: &[(&str, u64)]) -> Result<Differences> {
        let (start, now) = (listing(start), listing(now));
        let mut kept = Vec::new();
        keep(&mut RecordReader::new(start.as_slice()), &mut kept)?;
        let mut start = RecordReader::new(kept.as_slice());
        compare(&mut start, &mut RecordReader::new(now.as_slice()), &mut ByEnding::default())
    }

    #[test]
    fn what_is_new_other_or_gone_is_found() {
        let start = [(".gitignore", 1), ("a", 1), ("b/.gitignore", 1), ("b/-", 1), ("b/kept.o", 1), ("c", 1)];
        assert_eq!(differences(&start, &start).unwrap(), Differences::default());
        let now =
            [(".gitignore", 1), ("b/.gitignore", 1), ("b/-", 2), ("b/kept.o", 3), ("b/new.o", 1), ("c", 1), ("d", 1)];
        let found = differences(&start, &now).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(found.changed, names(&["b/-", "b/kept.o", "d"]), "what is ignored now was tracked before");
        assert_eq!(found.gone, names(&["a"]));
        assert_eq!(differences(&start, &[]).unwrap().gone.len(), start.len());
        assert_eq!(differences(&[], &start).unwrap().changed.len(), start.len() - 1);
    }

    #[test]
    fn names_out_of_order_or_twice_are_refused() {
        for now in [
            &[("b", 1), ("a", 1)][..],
            &[("a", 1), ("a", 1)],
            &[("a-b", 1), ("a/b", 1)],
            &[("-", 1), (".gitignore", 1)],
        ] {
            assert!(differences(&[], now).is_err(), "{now:?}");
        }
        assert!(differences(&[], &[("a/b", 1), ("a-b", 1)]).is_ok(), "by component");
    }

    #[test]
    fn a_listing_that_breaks_off_is_refused() {
        let bytes = listing(&[("a", 1), ("b", 1)]);
        for end in 0..bytes.len() {
            assert!(keep(&mut RecordReader::new(&bytes[..end]), io::sink()).is_err(), "{end}");
        }
    }
}
