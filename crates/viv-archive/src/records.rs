//! Records over any byte stream.

use std::io::{self, Read, Write};

use viv_proto::archive::{Record, RecordDecoder};

/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 32 * 1024;

/// Reads records.
pub struct RecordReader<R> {
    reader: R,
    decoder: RecordDecoder,
    chunk: Box<[u8]>,
}

impl<R: Read> RecordReader<R> {
    /// A reader of records.
    pub fn new(reader: R) -> Self {
        Self { reader, decoder: RecordDecoder::default(), chunk: vec![0; CHUNK_BYTES].into() }
    }

    /// The next record. [`Record::End`] is the last one.
    ///
    /// # Errors
    /// `InvalidData` for what is none, `UnexpectedEof` at an end before [`Record::End`].
    pub fn next_record(&mut self) -> io::Result<Record> {
        loop {
            let record = self.decoder.next_record();
            if let Some(record) = record.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                return Ok(record);
            }
            match self.reader.read(&mut self.chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.decoder.push(&self.chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writes records.
pub struct RecordWriter<W> {
    writer: W,
    encoded: Vec<u8>,
}

impl<W: Write> RecordWriter<W> {
    /// A writer of records.
    pub fn new(writer: W) -> Self {
        Self { writer, encoded: Vec::new() }
    }

    /// Writes one.
    ///
    /// # Errors
    /// `InvalidInput` for a record the receiver would refuse, else the writer's own.
    pub fn send(&mut self, record: &Record) -> io::Result<()> {
        self.encoded.clear();
        record.encode(&mut self.encoded).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.writer.write_all(&self.encoded)
    }

    /// Writes [`Record::End`] and flushes.
    ///
    /// # Errors
    /// The writer's own.
    pub fn end(mut self) -> io::Result<()> {
        self.send(&Record::End)?;
        self.writer.flush()
    }
}
