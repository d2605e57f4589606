//! Recordings of programs in asciicast v2: a header line, then one JSON array a line, `[seconds, kind, data]`.
//!
//! Only output (`o`), changes of size (`r`) and marks (`m`) are recorded: what was typed is not, nor any
//! variable of the environment.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::chain::{Hash, armour};
use crate::event::Recorded;
use crate::files;

/// The longest line of a recording that is read, in bytes: an escaped 64 KiB with room to spare.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// 2.
    pub version: u32,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
    /// When it began, seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// What ran, as one would type it.
    pub command: Option<String>,
}

/// What happened at a time of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CastEvent {
    /// Seconds since it began.
    pub seconds: f64,
    /// `o` output, `r` a change of size, `m` a mark; others may be in recordings of others.
    pub kind: String,
    /// The output, the size as `80x24`, or the mark's words.
    pub data: String,
}

/// A recording that is being written.
pub(crate) struct CastWriter {
    file: BufWriter<File>,
    name: String,
    hasher: Sha256,
    bytes: u64,
    limit: u64,
    omitted: u64,
    /// The beginning of a character that has not arrived whole.
    partial: Vec<u8>,
    /// Lines end with a line feed alone, which a terminal takes for a step down.
    is_pipe: bool,
    last_was_return: bool,
    full: bool,
}

impl CastWriter {
    pub(crate) fn create(
        directory: &Path,
        program: u64,
        header: &Header,
        is_pipe: bool,
        limit: u64,
    ) -> io::Result<Self> {
        let name = files::cast_name(program);
        let file = files::private().create_new(true).open(files::cast_path(directory, &name))?;
        let mut writer = Self {
            file: BufWriter::new(file),
            name,
            hasher: Sha256::new(),
            bytes: 0,
            limit,
            omitted: 0,
            partial: Vec::new(),
            is_pipe,
            last_was_return: false,
            full: false,
        };
        writer.line(&serde_json::to_string(header)?)?;
        Ok(writer)
    }

    /// What the program wrote.
    pub(crate) fn output(&mut self, at: Duration, bytes: &[u8]) -> io::Result<()> {
        if self.full {
            self.omitted += bytes.len() as u64;
            return Ok(());
        }
        if self.bytes >= self.limit {
            self.full = true;
            self.omitted += bytes.len() as u64;
            return self.event(at, "m", "the recording ends here: it is as large as it may be");
        }
        let text = self.decode(bytes);
        if text.is_empty() { Ok(()) } else { self.event(at, "o", &text) }
    }

    /// The terminal's new size.
    pub(crate) fn resize(&mut self, at: Duration, columns: u16, rows: u16) -> io::Result<()> {
        if self.full { Ok(()) } else { self.event(at, "r", &format!("{columns}x{rows}")) }
    }

    /// Output that could not be kept.
    pub(crate) fn gap(&mut self, at: Duration, bytes: u64) -> io::Result<()> {
        self.omitted += bytes;
        if self.full { Ok(()) } else { self.event(at, "m", &format!("{bytes} bytes were too fast to record")) }
    }

    /// What is left of a character that never arrived whole.
    pub(crate) fn finish(&mut self, at: Duration) -> io::Result<()> {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.event(at, "o", "\u{fffd}")?;
        }
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// Its extent, all of it on its way to the disk.
    pub(crate) fn recorded(&mut self) -> io::Result<Recorded> {
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        Ok(Recorded {
            file: self.name.clone(),
            bytes: self.bytes,
            sha256: Hash::finish(self.hasher.clone()),
            omitted_bytes: self.omitted,
        })
    }

    fn event(&mut self, at: Duration, kind: &str, data: &str) -> io::Result<()> {
        // Microseconds, as asciinema has them.
        let data = serde_json::to_string(data)?;
        self.line(&format!("[{}.{:06},\"{kind}\",{data}]", at.as_secs(), at.subsec_micros()))
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        let mut line = armour(text.to_owned()).into_bytes();
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.hasher.update(&line);
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// The text of the bytes; what is no UTF-8 becomes U+FFFD, and a character cut in two waits for its rest.
    fn decode(&mut self, bytes: &[u8]) -> String {
        let mut pending = std::mem::take(&mut self.partial);
        pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(pending.len());
        for chunk in pending.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let is_last = chunk_ends_at_end(&pending, invalid);
            if !invalid.is_empty() {
                if is_last && may_continue(invalid) {
                    self.partial = invalid.to_vec();
                } else {
                    text.push('\u{fffd}');
                }
            }
        }
        if self.is_pipe { self.with_returns(&text) } else { text }
    }

    fn with_returns(&mut self, text: &str) -> String {
        let mut returned = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            if c == '\n' && !self.last_was_return {
                returned.push('\r');
            }
            self.last_was_return = c == '\r';
            returned.push(c);
        }
        returned
    }
}

fn chunk_ends_at_end(all: &[u8], part: &[u8]) -> bool {
    part.as_ptr_range().end == all.as_ptr_range().end
}

/// Whether bytes are the beginning of a character, and not all of it.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Reads a recording that may still be written: each call returns what is new.
#[derive(Debug)]
pub struct CastReader {
    reader: BufReader<File>,
    line: Vec<u8>,
    header: Option<Header>,
}

impl CastReader {
    /// From its beginning.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { reader: BufReader::new(files::open(path)?), line: Vec::new(), header: None })
    }

    /// The header, once it is there.
    ///
    /// # Errors
    /// If it cannot be read, or is no asciicast v2.
    pub fn header(&mut self) -> io::Result<Option<&Header>> {
        if self.header.is_none()
            && let Some(line) = self.next_line()?
        {
            let header: Header = serde_json::from_slice(&line)?;
            if header.version != 2 {
                return Err(io::Error::other(format!("asciicast of version {}", header.version)));
            }
            self.header = Some(header);
        }
        Ok(self.header.as_ref())
    }

    /// The next event, if its line is there whole.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn next_event(&mut self) -> io::Result<Option<CastEvent>> {
        if self.header()?.is_none() {
            return Ok(None);
        }
        let Some(line) = self.next_line()? else { return Ok(None) };
        let (seconds, kind, data): (f64, String, String) = serde_json::from_slice(&line)?;
        if !seconds.is_finite() || seconds < 0.0 {
            return Err(io::Error::other("an event before the recording began"));
        }
        Ok(Some(CastEvent { seconds, kind, data }))
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let room = MAX_LINE_BYTES.saturating_sub(self.line.len() as u64);
        if room == 0 {
            return Err(io::Error::other("a line is too long"));
        }
        (&mut self.reader).take(room).read_until(b'\n', &mut self.line)?;
        if self.line.last() != Some(&b'\n') {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.line)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header { version: 2, width: 80, height: 24, timestamp: Some(1_767_225_600), command: Some("sh".into()) }
    }

    fn cast(is_pipe: bool, limit: u64) -> (tempfile::TempDir, CastWriter) {
        let directory = tempfile::tempdir().unwrap();
        files::make_directory(&directory.path().join(files::CASTS)).unwrap();
        let writer = CastWriter::create(directory.path(), 1, &header(), is_pipe, limit).unwrap();
        (directory, writer)
    }

    fn read(directory: &Path) -> (String, Vec<CastEvent>) {
        let path = files::cast_path(directory, "000001.cast");
        let mut reader = CastReader::open(&path).unwrap();
        assert_eq!(reader.header().unwrap(), Some(&header()));
        let events = std::iter::from_fn(|| reader.next_event().unwrap()).collect();
        (std::fs::read_to_string(path).unwrap(), events)
    }

    #[test]
    fn the_file_has_the_form_of_the_specification() {
        let (directory, mut writer) = cast(false, 10_000);
        writer.output(Duration::from_micros(1_500_042), b"\x1b[31mred\xc3").unwrap();
        writer.output(Duration::from_secs(2), b"\xbc\x9b\xff\r\n").unwrap();
        writer.resize(Duration::from_secs(3), 100, 30).unwrap();
        writer.output(Duration::from_secs(4), b"\xe2\x82").unwrap();
        writer.finish(Duration::from_secs(5)).unwrap();
        let recorded = writer.recorded().unwrap();
        let (text, _) = read(directory.path());
        let expected = "{\"version\":2,\"width\":80,\"height\":24,\"timestamp\":1767225600,\"command\":\"sh\"}\n\
             [1.500042,\"o\",\"\\u001b[31mred\"]\n\
             [2.000000,\"o\",\"ü\u{fffd}\u{fffd}\\r\\n\"]\n\
             [3.000000,\"r\",\"100x30\"]\n\
             [5.000000,\"o\",\"\u{fffd}\"]\n";
        assert_eq!(text, expected);
        assert_eq!((recorded.bytes, recorded.sha256), (text.len() as u64, Hash::of(text.as_bytes())));
    }

    #[test]
    fn what_is_beyond_the_limit_is_left_out_and_counted() {
        let (directory, mut writer) = cast(false, 200);
        for _ in 0..10 {
            writer.output(Duration::ZERO, &[b'x'; 100]).unwrap();
        }
        writer.finish(Duration::ZERO).unwrap();
        assert_eq!(writer.recorded().unwrap().omitted_bytes, 800);
        let (_, events) = read(directory.path());
        assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<String>(), "oom");
    }

    proptest! {
        /// However the output is cut into pieces, all of it is played, and no line holds a control character.
        #[test]
        fn pieces_make_no_difference(bytes in proptest::collection::vec(any::<u8>(), 0..200), cuts in proptest::collection::vec(0..200_usize, 0..8), is_pipe: bool) {
            let (directory, mut writer) = cast(is_pipe, 1 << 20);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                writer.output(Duration::ZERO, &bytes[pair[0]..pair[1]]).unwrap();
            }
            writer.finish(Duration::ZERO).unwrap();
            let (text, events) = read(directory.path());
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
            let played: String = events.into_iter().map(|event| event.data).collect();
            let expected = String::from_utf8_lossy(&bytes).into_owned();
            if is_pipe {
                prop_assert_eq!(played.replace('\r', ""), expected.replace('\r', ""));
            } else {
                prop_assert_eq!(played, expected);
            }
        }
    }
}
