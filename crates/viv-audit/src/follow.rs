//! Logs that other processes keep, referred to by length and hash instead of being written twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::chain::Hash;
use crate::event::{LogReference, cut};
use crate::files;

/// So much of a log is read at a time.
const MOST_BYTES_AT_ONCE: u64 = 64 << 20;

/// The longest line whose event is counted.
const MAX_COUNTED_LINE_BYTES: usize = 64 * 1024;

/// Kinds of events that are counted; beyond it they are counted as `other`.
const MAX_KINDS: usize = 32;

/// Follows one log as it grows and is rotated by rename.
pub(crate) struct Follower {
    log: String,
    path: PathBuf,
    rotated: Option<PathBuf>,
    current: Option<Current>,
}

struct Current {
    inode: u64,
    bytes: u64,
    hasher: Sha256,
    events: BTreeMap<String, u64>,
    /// What the last reference said.
    told_bytes: u64,
}

#[derive(Deserialize)]
struct Tag {
    event: Option<String>,
}

impl Follower {
    pub(crate) fn new(log: &str, path: PathBuf, rotated: Option<PathBuf>) -> Self {
        Self { log: log.to_owned(), path, rotated, current: None }
    }

    /// Reads what is new. Returns a reference to a file that was rotated away, and one to the current file if
    /// `tell` asks for it and there is something new.
    pub(crate) fn look(&mut self, tell: bool, closed: bool) -> io::Result<Vec<LogReference>> {
        let mut references = Vec::new();
        let file = match files::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(references),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        if let Some(mut before) = self.current.take_if(|current| current.inode != inode) {
            if let Some(rest) = self.rotated.as_ref().and_then(|path| files::open(path).ok())
                && rest.metadata()?.ino() == before.inode
            {
                before.read(rest)?;
            }
            references.push(before.reference(&self.log, true));
        }
        let current = self.current.get_or_insert_with(|| Current {
            inode,
            bytes: 0,
            hasher: Sha256::new(),
            events: BTreeMap::new(),
            told_bytes: 0,
        });
        current.read(file)?;
        if closed || (tell && current.bytes > current.told_bytes) {
            references.push(current.reference(&self.log, closed));
        }
        Ok(references)
    }
}

impl Current {
    fn read(&mut self, mut file: File) -> io::Result<()> {
        file.seek(SeekFrom::Start(self.bytes))?;
        let mut reader = BufReader::new(file.take(MOST_BYTES_AT_ONCE));
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                // Half a line waits for its end.
                return Ok(());
            }
            self.hasher.update(&line);
            self.bytes += line.len() as u64;
            self.count(&line);
        }
    }

    fn count(&mut self, line: &[u8]) {
        let tag: Option<Tag> =
            if line.len() > MAX_COUNTED_LINE_BYTES { None } else { serde_json::from_slice(line).ok() };
        let mut kind = cut(&tag.and_then(|tag| tag.event).unwrap_or_else(|| "other".to_owned()), 64);
        if self.events.len() >= MAX_KINDS && !self.events.contains_key(&kind) {
            kind = "other".to_owned();
        }
        *self.events.entry(kind).or_default() += 1;
    }

    fn reference(&mut self, log: &str, closed: bool) -> LogReference {
        self.told_bytes = self.bytes;
        LogReference {
            log: log.to_owned(),
            inode: self.inode,
            bytes: self.bytes,
            sha256: Hash::finish(self.hasher.clone()),
            events: self.events.clone(),
            closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_is_followed_across_its_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("log.jsonl"), directory.path().join("log.1.jsonl"));
        let mut follower = Follower::new("network", path.clone(), Some(rotated.clone()));
        assert!(follower.look(true, true).unwrap().is_empty());

        let mut file = File::create(&path).unwrap();
        file.write_all(b"{\"event\":\"denied\"}\n{\"event\":\"den").unwrap();
        let [first] = &follower.look(true, false).unwrap()[..] else { panic!() };
        assert_eq!((first.bytes, first.events["denied"], first.closed), (19, 1, false));
        assert_eq!(first.sha256, Hash::of(b"{\"event\":\"denied\"}\n"));
        assert!(follower.look(true, false).unwrap().is_empty(), "nothing new");

        file.write_all(b"ied\"}\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        std::fs::write(&path, "garbage\n").unwrap();
        let [old, new] = &follower.look(true, true).unwrap()[..] else { panic!() };
        assert_eq!((old.bytes, old.events["denied"], old.closed), (38, 2, true));
        assert_eq!((new.bytes, new.events["other"], new.closed), (8, 1, true));
    }
}
