//! The guest's part of `cargo xtask bench image`: reads files and says how long that took.
//!
//! ```text
//! read-files LIST       reads each file that a line of LIST names, one after the other
//! ```
//!
//! It has the kernel forget what it knows of files before (Linux's `drop_caches`), so it runs as root. It
//! prints two numbers: bytes read, and nanoseconds.
//!
//! Built static, by itself: little of it to translate under emulation, so the time is the kernel's.

use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

/// What is read at once, in bytes.
const PIECE: usize = 128 * 1024;

fn main() -> io::Result<()> {
    let list = std::env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let list = std::fs::read_to_string(list)?;
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    let begun = Instant::now();
    for path in list.lines() {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut piece)? {
                0 => break,
                count => total += count as u64,
            }
        }
    }
    println!("{total} {}", begun.elapsed().as_nanos());
    Ok(())
}
