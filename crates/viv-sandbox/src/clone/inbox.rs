//! Where commits of a copy wait until git has taken them, and who may take them at a time.
//!
//! ```text
//! $XDG_STATE_HOME/viv/sync/DIGEST/     0700, one for each workspace
//!   lock            held by whoever syncs, and by each git that it started
//!   quarantine/     what came, in a repository of viv's own; there only while somebody syncs
//! ```
//!
//! Nothing has to be undone if viv is killed: what came is not in the host's repository before git puts it there, and
//! git goes on to its end without viv (`git::run_apart`). Whoever comes next waits for that, and removes what was left.

use std::fs::{DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use viv_archive::Directory;
use viv_proto::archive::FileKind;

use super::fault;
use super::git::ask;
use crate::error::io;
use crate::{Paths, Result};

/// The directory of viv's state that holds one for each workspace.
const INBOXES: &str = "sync";

/// Where viv puts branches, in a repository.
const BRANCHES: &str = "refs/heads/viv";

/// How deep branches' directories are looked at.
const MOST_NESTED: usize = 100;

/// The place for what comes, for one process at a time. What came goes when this does.
#[derive(Debug)]
pub(super) struct Inbox {
    directory: PathBuf,
    lock: File,
}

impl Inbox {
    /// That of a workspace, an absolute path without links in it. Waits for another process that has it, and for each
    /// git that such a process has started and left. What was left there, and in those of other workspaces that nobody
    /// is at, is removed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if it cannot be made or locked.
    pub(super) fn open(paths: &Paths, workspace: &Path) -> Result<Self> {
        let all = paths.state.join(INBOXES);
        let digest = Sha256::digest(workspace.as_os_str().as_bytes());
        let directory = all.join(hex::encode(&digest[..16]));
        let failed = || io(format!("{} cannot be used", directory.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed())?;
        let lock = lock_file(&directory).map_err(failed())?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed()(error.into()))?;
        let inbox = Self { directory, lock };
        if inbox.quarantine().exists() {
            // Another one of this repository did not get to its end. What git locked of viv's own branches stays
            // locked if git itself was killed; nobody else has a part in them.
            remove_locks(workspace);
            forget(&inbox.quarantine());
        }
        for other in std::fs::read_dir(&all).into_iter().flatten().flatten() {
            sweep(&other.path());
        }
        Ok(inbox)
    }

    /// Where what comes is put.
    pub(super) fn quarantine(&self) -> PathBuf {
        quarantine(&self.directory)
    }

    /// The same, where there is nothing any more.
    pub(super) fn emptied(&self) -> PathBuf {
        forget(&self.quarantine());
        self.quarantine()
    }

    /// What is locked while this is there.
    pub(super) fn lock(&self) -> &File {
        &self.lock
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        fault::point();
        forget(&self.quarantine());
    }
}

fn quarantine(directory: &Path) -> PathBuf {
    directory.join("quarantine")
}

fn lock_file(directory: &Path) -> std::io::Result<File> {
    // Each git appends to it what it says.
    File::options().create(true).append(true).read(true).mode(0o600).open(directory.join("lock"))
}

/// Removes what is left in the inbox of another workspace, unless somebody is at it.
fn sweep(directory: &Path) {
    if !quarantine(directory).exists() {
        return;
    }
    let Ok(lock) = lock_file(directory) else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        forget(&quarantine(directory));
    }
}

fn forget(directory: &Path) {
    // What cannot be removed is in the way of the next one, which says so.
    let _ = std::fs::remove_dir_all(directory);
}

/// Removes what git locks branches with, of those that viv puts into a repository.
fn remove_locks(workspace: &Path) {
    let Ok(Some(told)) = ask(workspace, &["rev-parse", "--path-format=absolute", "--git-path", BRANCHES]) else {
        return;
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(told.trim_ascii_end()));
    if let Ok(directory) = Directory::open(path) {
        remove_locks_beneath(&directory, MOST_NESTED);
    }
}

fn remove_locks_beneath(directory: &Directory, depth: usize) {
    use std::os::fd::AsFd;
    for name in directory.names(b"").unwrap_or_default() {
        match directory.look(&name, false).map(|look| look.stamp.kind) {
            Ok(FileKind::Directory) if depth > 0 => {
                if let Ok(below) = directory.enter(&name, false) {
                    remove_locks_beneath(&below, depth - 1);
                }
            }
            // No branch is called like this.
            Ok(FileKind::File) if name.as_bytes().ends_with(b".lock") => {
                // If it stays, git says so.
                let _ = rustix::fs::unlinkat(directory.as_fd(), name.as_os_str(), AtFlags::empty());
            }
            _ => {}
        }
    }
}
