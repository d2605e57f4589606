//! What keeps the host's garbage collector from store paths that a sandbox uses.
//!
//! nix takes links that were registered for roots as long as they exist
//! (<https://nix.dev/manual/nix/latest/package-management/garbage-collector-roots>). Those of a sandbox are in a
//! directory of its own:
//!
//! ```text
//! STATE/nix/           locked while a directory is made or found abandoned
//!   0123abcd/          a shared lock each of the client and of the monitor
//!     packages, ...    links that nix made
//!     shell, ...
//!     notes/           what the guest is shown
//! ```
//!
//! A directory that nobody holds any more is removed by its last holder, or by whoever makes the next one.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Result, io_error};

/// The name of the directory in the state.
const NAME: &str = "nix";

/// A sandbox's roots, held by this process. Dropped by the last one who holds them, they are removed.
#[derive(Debug)]
pub struct Roots {
    path: PathBuf,
    held: File,
}

impl Roots {
    /// Makes the directory for sandbox `id` below viv's `state`, after removing abandoned ones.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn create(state: &Path, id: &str) -> Result<Self> {
        let parent = state.join(NAME);
        let failed = || io_error("use", &parent);
        DirBuilder::new().recursive(true).mode(0o700).create(&parent).map_err(failed())?;
        let all = File::open(&parent).map_err(failed())?;
        flock(&all, FlockOperation::LockExclusive).map_err(|errno| failed()(errno.into()))?;
        for entry in fs::read_dir(&parent).map_err(failed())?.flatten() {
            remove_if_abandoned(&entry.path());
        }
        let path = parent.join(id);
        let failed = || io_error("make", &path);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed())?;
        DirBuilder::new().mode(0o755).create(path.join(super::NOTES)).map_err(failed())?;
        Self::hold(&path).map_err(failed())
    }

    /// Holds the directory that another process made, as long as this value lives.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`], also if it is gone.
    pub fn join(path: &Path) -> Result<Self> {
        Self::hold(path).map_err(io_error("use", path))
    }

    fn hold(path: &Path) -> io::Result<Self> {
        let held = File::open(path)?;
        flock(&held, FlockOperation::NonBlockingLockShared)?;
        Ok(Self { path: path.to_owned(), held })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        if flock(&self.held, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // What stays is removed by the next one.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn remove_if_abandoned(path: &Path) {
    // Whoever holds it has it locked; who made it a moment ago holds the lock of the directory above.
    if let Ok(directory) = File::open(path)
        && flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
    {
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_holder_removes_them() {
        let state = tempfile::tempdir().unwrap();
        let client = Roots::create(state.path(), "0123abcd").unwrap();
        let path = client.path().to_owned();
        let monitor = Roots::join(&path).unwrap();
        drop(client);
        assert!(path.exists());
        drop(monitor);
        assert!(!path.exists());
        assert!(Roots::join(&path).is_err());
    }

    #[test]
    fn the_next_one_removes_what_was_abandoned() {
        let state = tempfile::tempdir().unwrap();
        let killed = state.path().join("nix/dead");
        fs::create_dir_all(killed.join("notes")).unwrap();
        let one = Roots::create(state.path(), "one").unwrap();
        assert!(!killed.exists());
        let _other = Roots::create(state.path(), "other").unwrap();
        assert!(one.path().exists());
    }
}
