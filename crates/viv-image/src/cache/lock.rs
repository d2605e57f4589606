//! One builder at a time.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Result, io_error};

/// A held lock. It is released when this and every copy of its descriptor are closed: see
/// `sys::tie`.
#[derive(Debug)]
pub(crate) struct Lock {
    pub file: File,
    pub name: String,
}

impl Lock {
    /// Waits for the lock of that name; `wait` is called once before waiting, if it comes to that.
    pub(crate) fn acquire(directory: &Path, name: &str, wait: &mut dyn FnMut()) -> Result<Self> {
        loop {
            if let Some(lock) = Self::try_acquire(directory, name)? {
                return Ok(lock);
            }
            wait();
            let path = directory.join(name);
            let file = open(&path).map_err(io_error("open", &path))?;
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Ok(()) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(io_error("lock", &path)(error.into())),
                }
            }
            if is_at(&file, &path) {
                return Ok(Self { file, name: name.to_owned() });
            }
        }
    }

    /// The lock of that name if it is free.
    pub(crate) fn try_acquire(directory: &Path, name: &str) -> Result<Option<Self>> {
        let path = directory.join(name);
        loop {
            let file = open(&path).map_err(io_error("open", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, &path) => return Ok(Some(Self { file, name: name.to_owned() })),
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(io_error("lock", &path)(error.into())),
            }
        }
    }
}

pub(super) fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether the file is still the one of that name: it may have been deleted meanwhile, and then others
/// lock another one.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(path)) => (file.dev(), file.ino()) == (path.dev(), path.ino()),
        _ => false,
    }
}
