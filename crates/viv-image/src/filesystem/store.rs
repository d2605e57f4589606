//! File data: whole blocks go into the output as they are read, the rest of each file into a spool,
//! until it is known beside which inode it stands.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::archive::too_large;
use crate::error::{Error, Result, free_bytes, io_error, no_space};

pub(super) const BLOCK: usize = 4096;
/// Written at once.
const BUFFER: usize = 1 << 20;
/// Bytes of the file system that are left for others: what is packed small may fill any disk.
const LEFT_FREE: u64 = 128 << 20;
/// Runs of zeros of this length become holes.
const HOLE: usize = 64 << 10;

/// Where a file's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// Bytes.
    pub size: u64,
    /// The first block in the output.
    pub start: u32,
    /// Where in the spool the bytes after the last whole block are, if they are there and not in a
    /// block of their own.
    pub tail: Option<u64>,
}

impl Content {
    /// Bytes in the spool.
    pub(super) fn tail_size(&self) -> usize {
        if self.tail.is_some() { (self.size % BLOCK as u64) as usize } else { 0 }
    }

    /// Blocks in the output.
    pub(super) fn blocks(&self) -> u64 {
        (self.size - self.tail_size() as u64).div_ceil(BLOCK as u64)
    }
}

#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    output: File,
    /// What comes behind what was written, of whole blocks when nobody is writing.
    pending: Vec<u8>,
    /// Bytes written, a multiple of the block.
    written: u64,
    spool: BufWriter<File>,
    spooled: u64,
}

impl Store {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let create = || -> io::Result<_> {
            let spool = tempfile::tempfile_in(directory)?;
            Ok((File::options().read(true).write(true).create_new(true).open(path)?, spool))
        };
        let (output, spool) = create().map_err(io_error("write", path))?;
        // The first block is the superblock's.
        let pending = Vec::with_capacity(BUFFER);
        let spool = BufWriter::with_capacity(BUFFER, spool);
        Ok(Self { path: path.to_path_buf(), output, pending, written: BLOCK as u64, spool, spooled: 0 })
    }

    /// The next block.
    pub(super) fn position(&self) -> Result<u32> {
        let block = (self.written + self.pending.len() as u64) / BLOCK as u64;
        u32::try_from(block).map_err(|_| too_large("an image cannot be larger than 16 TiB"))
    }

    /// Keeps `size` bytes of `reader`. What is left after the last whole block goes to the spool if it is
    /// at most `inline` bytes, else into a block of its own. What cannot be read is the error that
    /// `unreadable` makes of it.
    pub(super) fn keep(
        &mut self,
        reader: &mut dyn Read,
        size: u64,
        inline: usize,
        unreadable: &dyn Fn(io::Error) -> Error,
    ) -> Result<Content> {
        let start = self.position()?;
        let tail = (size % BLOCK as u64) as usize;
        let mut left = size - tail as u64;
        while left > 0 {
            let used = self.pending.len();
            let part = left.min((BUFFER - used) as u64) as usize;
            self.pending.resize(used + part, 0);
            reader.read_exact(&mut self.pending[used..]).map_err(unreadable)?;
            left -= part as u64;
            self.flush_if_full()?;
        }
        let mut buffer = [0; BLOCK];
        reader.read_exact(&mut buffer[..tail]).map_err(unreadable)?;
        let spooled = if tail == 0 {
            None
        } else if tail <= inline {
            self.spool.write_all(&buffer[..tail]).map_err(io_error("write", &self.path))?;
            self.spooled += tail as u64;
            Some(self.spooled - tail as u64)
        } else {
            self.pending.extend_from_slice(&buffer);
            self.flush_if_full()?;
            None
        };
        Ok(Content { size, start, tail: spooled })
    }

    /// Appends whole blocks.
    pub(super) fn append(&mut self, blocks: &[u8]) -> Result<()> {
        for part in blocks.chunks(BUFFER) {
            if self.pending.len() + part.len() > BUFFER {
                self.flush()?;
            }
            self.pending.extend_from_slice(part);
        }
        self.position().map(|_| ())
    }

    fn flush_if_full(&mut self) -> Result<()> {
        if self.pending.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if free_bytes(&self.path).is_some_and(|free| free < LEFT_FREE) {
            return Err(no_space(&self.path, format!("{} MiB are left for others", LEFT_FREE >> 20)));
        }
        let mut place = self.written;
        // Neighbours that are written are written at once.
        for run in self.pending.chunks(HOLE).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let length: usize = run.iter().map(|part| part.len()).sum();
            if !is_zero(run[0]) {
                let from = (place - self.written) as usize;
                let bytes = &self.pending[from..from + length];
                self.output.write_all_at(bytes, place).map_err(io_error("write", &self.path))?;
            }
            place += length as u64;
        }
        self.written = place;
        self.pending.clear();
        Ok(())
    }

    /// The bytes of a file that are in the spool.
    pub(super) fn tail(&mut self, content: &Content, out: &mut Vec<u8>) -> Result<()> {
        if let Some(place) = content.tail {
            let start = out.len();
            out.resize(start + content.tail_size(), 0);
            let read = self.spool.get_ref().read_exact_at(&mut out[start..], place);
            read.map_err(io_error("read what was spooled for", &self.path))?;
        }
        Ok(())
    }

    /// Makes what was spooled readable.
    pub(super) fn end_of_data(&mut self) -> Result<()> {
        self.spool.flush().map_err(io_error("write", &self.path))
    }

    /// Writes the first block and the length. Blocks nobody uses are given back where the file system
    /// can do that; where it cannot, they stay.
    pub(super) fn finish(mut self, superblock: &[u8; BLOCK], released: &[Content]) -> Result<u64> {
        self.flush()?;
        let finish = || -> io::Result<()> {
            self.output.write_all_at(superblock, 0)?;
            self.output.set_len(self.written)?;
            for content in released.iter().filter(|content| content.blocks() > 0) {
                let (start, length) = (u64::from(content.start) * BLOCK as u64, content.blocks() * BLOCK as u64);
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match fallocate(&self.output, mode, start, length) {
                    Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => break,
                    other => other?,
                }
            }
            Ok(())
        };
        finish().map_err(io_error("write", &self.path))?;
        Ok(self.written)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // As words, which are compared at once.
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}
