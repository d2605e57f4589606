//! What a sandbox changed in its copy, as it comes.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use viv_archive::RecordReader;
use viv_proto::archive::Record;

use super::listing::Differences;
use crate::Result;
use crate::error::adopt;

/// The most bytes that are taken of one copy's changes.
const MOST_BYTES: u64 = 64 << 30;

/// Chunks of a file that wait to be read.
const QUEUED: usize = 4;

/// One change. Paths are relative to the workspace; nobody has looked whether git's own files are among them.
#[derive(Debug)]
pub enum Changed {
    /// What was there is not there any more.
    Gone {
        /// Where.
        path: Vec<u8>,
    },
    /// A regular file, new or other than before.
    File {
        /// Where.
        path: Vec<u8>,
        /// Its permissions, low nine bits.
        mode: u16,
        /// What it holds. What is not read of it is skipped.
        content: Content,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: Vec<u8>,
        /// What it says.
        target: Vec<u8>,
    },
}

/// What a file holds, as it comes.
#[derive(Debug)]
pub struct Content {
    chunks: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    read: usize,
    ended: bool,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.current.len() && !self.ended {
            match self.chunks.recv() {
                // An empty one is the file's end; without it, the stream broke off.
                Ok(Ok(chunk)) if chunk.is_empty() => self.ended = true,
                Ok(Ok(chunk)) => (self.current, self.read) = (chunk, 0),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = buffer.len().min(self.current.len() - self.read);
        buffer[..count].copy_from_slice(&self.current[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

/// Gives `take` the changes: those of `differences` that are gone, then those that `reader` brings, which are to be
/// the ones that were asked for, in their order.
pub(super) fn report<T, K: viv_error::Kind>(
    reader: &mut RecordReader<impl Read + Send>,
    differences: Differences,
    take: impl FnOnce(&mut dyn Iterator<Item = io::Result<Changed>>) -> std::result::Result<T, viv_error::Error<K>>,
) -> Result<T> {
    let Differences { changed, gone, .. } = differences;
    std::thread::scope(|scope| {
        let (sender, received) = sync_channel(0);
        let producer = scope.spawn(move || produce(reader, &changed, &sender));
        let gone = gone.into_iter().map(|path| Ok(Changed::Gone { path }));
        let taken = take(&mut gone.chain(received.iter())).map_err(adopt);
        // Whoever took no more ends the production.
        drop(received);
        // What was taken of a production that broke down is not all there was.
        match producer.join() {
            Ok(()) => taken,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn produce(reader: &mut RecordReader<impl Read>, wanted: &[Vec<u8>], out: &SyncSender<io::Result<Changed>>) {
    if let Err(error) = try_produce(reader, wanted, out) {
        let _ = out.send(Err(error));
    }
}

fn try_produce(
    reader: &mut RecordReader<impl Read>,
    wanted: &[Vec<u8>],
    out: &SyncSender<io::Result<Changed>>,
) -> io::Result<()> {
    let nonsense = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut left = MOST_BYTES;
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    for wanted in wanted {
        let record = reader.next_record()?;
        if record.path() != Some(wanted.as_slice()) {
            return Err(nonsense("the guest sent another file than was asked for"));
        }
        match record {
            Record::File { path, mode, .. } => {
                let (chunks, received) = sync_channel(QUEUED);
                let content = Content { chunks: received, current: Vec::new(), read: 0, ended: false };
                out.send(Ok(Changed::File { path, mode: mode & 0o777, content })).map_err(|_| gone())?;
                carry(reader, &chunks, &mut left)?;
            }
            Record::Symlink { path, target, .. } => {
                out.send(Ok(Changed::Link { path, target })).map_err(|_| gone())?;
            }
            // It went, or became something else, since it was listed: the next look will see it.
            Record::Skipped { .. } | Record::Directory { .. } => {}
            _ => return Err(nonsense("a record that has no place here")),
        }
    }
    match reader.next_record()? {
        Record::End => Ok(()),
        _ => Err(nonsense("the guest sent more than was asked for")),
    }
}

fn carry(
    reader: &mut RecordReader<impl Read>,
    chunks: &SyncSender<io::Result<Vec<u8>>>,
    left: &mut u64,
) -> io::Result<()> {
    loop {
        match reader.next_record() {
            Ok(Record::Data(bytes)) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
                // Nobody may be interested in the rest of it.
                let _ = chunks.send(Ok(bytes));
            }
            Ok(Record::FileEnd) => {
                let _ = chunks.send(Ok(Vec::new()));
                return Ok(());
            }
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a file without an end")),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use viv_proto::archive::Time;

    use super::*;
    use crate::ErrorKind;

    fn stream(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes).unwrap());
        bytes
    }

    fn file(path: &str, content: &[&[u8]]) -> Vec<Record> {
        let path = path.as_bytes().to_vec();
        let begin = Record::File { path, mode: 0o4755, modified: Time::default(), size: 3 };
        let data = content.iter().map(|bytes| Record::Data(bytes.to_vec()));
        std::iter::once(begin).chain(data).chain([Record::FileEnd]).collect()
    }

    /// What was taken, in words; files of this many bytes are read and no more.
    fn taken(records: &[Record], changed: &[&str], limit: u64) -> Result<Vec<String>> {
        let bytes = stream(records);
        let names = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let differences = Differences { changed: names(changed), gone: names(&["gone"]), special: 0 };
        report(&mut RecordReader::new(bytes.as_slice()), differences, |changes| {
            let mut words = Vec::new();
            for change in changes {
                let change = change.map_err(|error| crate::Error::new(ErrorKind::Guest, error.to_string()))?;
                words.push(match change {
                    Changed::Gone { path } => format!("-{}", String::from_utf8_lossy(&path)),
                    Changed::Link { path, target } => {
                        format!("{}->{}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&target))
                    }
                    Changed::File { path, mode, content } => {
                        let mut text = String::new();
                        let read = content.take(limit).read_to_string(&mut text);
                        read.map_err(|error| crate::Error::new(ErrorKind::Guest, error.to_string()))?;
                        format!("{} {mode:o} {text}", String::from_utf8_lossy(&path))
                    }
                });
            }
            Ok::<_, crate::Error>(words)
        })
    }

    #[test]
    fn changes_come_as_they_are_and_unread_content_is_skipped() {
        let long: &[u8] = &[b'x'; 1000];
        let link = Record::Symlink { path: b"l".to_vec(), target: b"/etc".to_vec(), modified: Time::default() };
        let mut records = file("a", &[b"12", b"3"]);
        records.extend(file("big", &[long; 50]));
        records.extend([Record::Skipped { path: b"s".to_vec() }, link, Record::End]);
        let words = taken(&records, &["a", "big", "s", "l"], 4).unwrap();
        assert_eq!(words, ["-gone", "a 755 123", "big 755 xxxx", "l->/etc"]);
    }

    #[test]
    fn another_file_than_was_asked_for_is_refused() {
        let mut records = file("b", &[b"1"]);
        records.push(Record::End);
        assert!(taken(&records, &["a"], 10).is_err());
        assert!(taken(&records, &["b", "c"], 10).is_err(), "too few");
        assert!(taken(&records, &[], 10).is_err(), "too many");
        assert!(taken(&records[..1], &["b"], 10).is_err(), "cut");
        assert!(taken(&records, &["b"], 10).is_ok());
    }
}
