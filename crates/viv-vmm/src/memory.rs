//! A machine's memory: a file without a name that only its VMM and its file daemon map, saved to
//! files with holes and filled from them.
//!
//! Filling is done with writes, before anyone has mapped the pages: a page fault for each of them
//! would take half as long again, and the VMM can start meanwhile.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, SeekFrom, memfd_create};
use rustix::io::Errno;

const PAGE: usize = 4096;

/// What is read and written at once.
const PIECE: usize = 256 << 10;

/// What one thread takes at once: small enough that two end together.
const SHARE: u64 = 4 << 20;

/// Memory for a machine, all zeros, none of it there yet.
///
/// # Errors
/// Those of memfd_create(2) and ftruncate(2).
pub fn make(bytes: u64) -> io::Result<File> {
    let memory = File::from(memfd_create("viv-memory", MemfdFlags::CLOEXEC)?);
    memory.set_len(bytes)?;
    Ok(memory)
}

/// Fills memory that nobody uses yet with what was saved, on `threads` threads.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is another size; those of reading and writing.
pub fn fill(memory: &File, saved: &File, threads: usize) -> io::Result<()> {
    if memory.metadata()?.len() != saved.metadata()?.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the saved memory has another size"));
    }
    let shares: Vec<Range<u64>> = data(saved)?.into_iter().flat_map(split).collect();
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        while let Some(share) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
            for_each_piece(share.clone(), &mut buffer, |piece, offset| {
                saved.read_exact_at(piece, offset)?;
                memory.write_all_at(piece, offset)
            })?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(shares.len())).map(|_| scope.spawn(work)).collect();
        let mut outcome = work();
        for other in others {
            outcome = outcome.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))));
        }
        outcome
    })
}

/// Saves memory that nobody changes any more to an empty file. Pages of zeros become holes; those
/// that were never used are not even looked at.
///
/// # Errors
/// Those of reading and writing.
pub fn save(memory: &File, saved: &File) -> io::Result<()> {
    saved.set_len(memory.metadata()?.len())?;
    let mut buffer = vec![0; PIECE];
    for range in data(memory)? {
        for_each_piece(range, &mut buffer, |piece, offset| {
            memory.read_exact_at(piece, offset)?;
            write_what_is_not_zero(saved, piece, offset)
        })?;
    }
    Ok(())
}

fn write_what_is_not_zero(file: &File, piece: &[u8], offset: u64) -> io::Result<()> {
    let mut begin = None;
    let write = |begin: &mut Option<usize>, end: usize| match begin.take() {
        Some(begin) => file.write_all_at(&piece[begin..end], offset + begin as u64),
        None => Ok(()),
    };
    for (number, page) in piece.chunks(PAGE).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            write(&mut begin, number * PAGE)?;
        } else {
            begin.get_or_insert(number * PAGE);
        }
    }
    write(&mut begin, piece.len())
}

fn for_each_piece(
    range: Range<u64>,
    buffer: &mut [u8],
    mut act: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let count = usize::try_from(range.end - offset).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        act(&mut buffer[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

fn split(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    (range.start..end).step_by(SHARE as usize).map(move |start| start..(start + SHARE).min(end))
}

/// Where a file has anything but holes.
fn data(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Only a hole from here on, or nothing at all.
            Err(Errno::NXIO) => return Ok(found),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        found.push(start..end);
        offset = end;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const SIZE: u64 = 64 << 20;

    fn some_memory() -> File {
        let memory = make(SIZE).unwrap();
        for (text, offset) in [("first", 0), ("in a page", 9 * 4096 + 17), ("far", 33 << 20), ("last", SIZE - 4)] {
            memory.write_all_at(text.as_bytes(), offset).unwrap();
        }
        memory.write_all_at(&[7; 5 << 20], 40 << 20).unwrap();
        // Used once, and zero again.
        memory.write_all_at(&vec![0; 2 << 20], 8 << 20).unwrap();
        memory
    }

    fn content(file: &File) -> Vec<u8> {
        let mut content = vec![0; SIZE as usize];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    }

    #[test]
    fn what_is_saved_is_what_comes_back_and_holes_take_no_room() {
        let memory = some_memory();
        let saved = tempfile::tempfile().unwrap();
        save(&memory, &saved).unwrap();
        assert!(saved.metadata().unwrap().blocks() * 512 < 6 << 20, "zeros were written");
        for threads in [1, 2, 64] {
            let restored = make(SIZE).unwrap();
            fill(&restored, &saved, threads).unwrap();
            assert!(content(&restored) == content(&memory), "{threads} threads");
            assert!(restored.metadata().unwrap().blocks() * 512 < 6 << 20, "holes were filled");
        }
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let saved = tempfile::tempfile().unwrap();
        saved.set_len(SIZE / 2).unwrap();
        assert_eq!(fill(&make(SIZE).unwrap(), &saved, 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
