//! Reading a log that someone else is writing.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, ROTATED_LOG_FILE};

/// A line longer than this is none of ours and is skipped.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Everything a log holds, the part before its last rotation included. A log that is not there holds nothing.
///
/// # Errors
/// [`ErrorKind::Log`] if it cannot be read.
pub fn read_log(path: &Path) -> Result<Vec<Event>> {
    let mut events = LogReader::new(&path.with_file_name(ROTATED_LOG_FILE)).next_events()?;
    events.append(&mut LogReader::new(path).next_events()?);
    Ok(events)
}

/// Follows a log as it grows: each call returns what is new.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    offset: u64,
    inode: u64,
}

impl LogReader {
    /// From the log's beginning.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, inode: 0 }
    }

    /// The events of the lines that are complete and have not been returned yet. Lines that are no events (one
    /// that was torn when its writer was killed) are passed over. A log that is not there has none.
    ///
    /// # Errors
    /// [`ErrorKind::Log`] if the log cannot be read.
    pub fn next_events(&mut self) -> Result<Vec<Event>> {
        self.read().map_err(|error| {
            let message = format!("the network's log {} cannot be read", self.path.display());
            Error::new(ErrorKind::Log, message).source(error)
        })
    }

    fn read(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(events),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if metadata.ino() != self.inode {
            if self.inode != 0 {
                self.read_rotated(&mut events)?;
            }
            self.inode = metadata.ino();
            self.offset = 0;
        }
        self.offset += read_lines(file, self.offset, &mut events)?;
        Ok(events)
    }

    /// The rest of the log that was being read, if it has become the one before.
    fn read_rotated(&self, events: &mut Vec<Event>) -> io::Result<()> {
        let Ok(file) = File::open(self.path.with_file_name(ROTATED_LOG_FILE)) else { return Ok(()) };
        if file.metadata()?.ino() == self.inode {
            read_lines(file, self.offset, events)?;
        }
        Ok(())
    }
}

/// Reads the complete lines from an offset on; returns how many bytes they are.
fn read_lines(mut file: File, offset: u64, events: &mut Vec<Event>) -> io::Result<u64> {
    file.seek(SeekFrom::Start(offset))?;
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut consumed = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? as u64;
        if line.last() == Some(&b'\n') {
            events.extend(serde_json::from_slice::<Event>(&line));
        } else if read < MAX_LINE_BYTES {
            return Ok(consumed);
        }
        consumed += read;
    }
}
