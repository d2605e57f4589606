//! Directories builds work in, and removing those of killed builders.
//!
//! A build in a user namespace cannot work inside the cache: its ids may not enter the user's private
//! directories. It gets a directory elsewhere, which it keeps locked: one that is not locked belongs
//! to a killed build, of this cache or of one that was deleted. What is left in there belongs to
//! subordinate ids, so it is removed from within such a namespace.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::lock::is_at;
use super::{Cache, Lock};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::progress::{Progress, ProgressEvent};
use crate::run::{self, Invocation};
use crate::tools::SYSTEM_PATH;

const PREFIX: &str = "viv-build-";

/// A directory outside of the cache, which the ids of a user namespace can reach; removed when
/// dropped.
#[derive(Debug)]
pub(crate) struct Outside {
    pub path: PathBuf,
    /// Its lock, which tools working in it hold too.
    pub lock: File,
}

impl Outside {
    /// Makes one below TMPDIR, or /var/tmp, which unlike /tmp is not held in memory, and removes those
    /// of killed builders.
    pub(crate) fn new(progress: &dyn Progress) -> Result<Self> {
        sweep_outside(progress);
        let base = bases().next().ok_or_else(|| {
            Error::new(ErrorKind::Io, "there is no directory for temporary files that everyone may enter")
                .hint("chmod 1777 /var/tmp")
        })?;
        loop {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                // The namespace's ids pass through; nobody but this user makes anything in it.
                .permissions(fs::Permissions::from_mode(0o711))
                .tempdir_in(&base)
                .map_err(io_error("make a directory in", &base))?;
            // A sweep may see it before it is locked, and take it for a leftover.
            if let Some(lock) = lock(directory.path()) {
                return Ok(Self { path: directory.keep(), lock });
            }
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next sweep.
        let _ = remove(&self.path, &self.lock);
    }
}

/// Where such directories may be, the preferred place first.
fn bases() -> impl Iterator<Item = PathBuf> {
    let candidates = [env::var_os("TMPDIR").map(PathBuf::from), Some(PathBuf::from("/var/tmp"))];
    candidates.into_iter().flatten().filter_map(|path| path.canonicalize().ok()).filter(|path| everyone_may_enter(path))
}

/// Whether any user can reach what is in a directory, and this one write to it.
fn everyone_may_enter(path: &Path) -> bool {
    path.ancestors().all(|path| path.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 != 0))
        && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The lock of a directory, if nobody has it.
fn lock(path: &Path) -> Option<File> {
    let directory = File::open(path).ok()?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    // Whoever had the lock may have removed it.
    is_at(&directory, path).then_some(directory)
}

/// What cannot be removed keeps nobody from building.
fn report(result: Result<()>, progress: &dyn Progress) {
    if let Err(error) = result {
        let message = format!("could not remove what a killed build left: {error}");
        progress.event(ProgressEvent::Step { message });
    }
}

/// Removes what killed builders left in the cache. Called by whoever holds `held`, before it has made
/// anything itself.
pub(crate) fn sweep(cache: &Cache, held: &Lock, progress: &dyn Progress) -> Result<()> {
    let (directory, locks) = (cache.directory("tmp")?, cache.directory("locks")?);
    for entry in fs::read_dir(&directory).map_err(io_error("list", &directory))?.flatten() {
        let name = entry.file_name();
        let Some((owner, _)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        // Taken by someone else: that build is alive. Held while removing.
        let other = if owner == held.name { None } else { Lock::try_acquire(&locks, owner)? };
        if owner == held.name || other.is_some() {
            report(fs::remove_dir_all(entry.path()).map_err(io_error("remove", &entry.path())), progress);
        }
    }
    Ok(())
}

/// Removes what killed builders left outside of the cache.
fn sweep_outside(progress: &dyn Progress) {
    for base in bases() {
        for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
                report(remove_if_left(&entry.path()), progress);
            }
        }
    }
}

/// Removes a directory of that name if it is this user's and nobody works in it.
fn remove_if_left(path: &Path) -> Result<()> {
    let own = fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw());
    // Only a directory of this user's is even opened.
    match own.then(|| lock(path)).flatten() {
        Some(lock) => remove(path, &lock),
        None => Ok(()),
    }
}

/// Removes an outside directory with whatever is in it.
fn remove(path: &Path, lock: &File) -> Result<()> {
    let me = rustix::process::geteuid();
    for entry in fs::read_dir(path).map_err(io_error("list", path))?.flatten() {
        let own = entry.metadata().is_ok_and(|metadata| metadata.uid() == me.as_raw());
        let child = entry.path().display().to_string();
        // Stays on one file system, so that nothing is deleted through a mount that was left behind.
        let delete = ["-xdev", "-depth", "-mindepth", "1", "-delete"];
        let words = if own { vec!["find", &child] } else { vec!["mmdebstrap", "--unshare-helper", "find", &child] };
        let program = if own { "find" } else { "mmdebstrap" };
        let arguments = words[1..].iter().chain(&delete).map(|word| (*word).to_owned()).collect();
        let environment = vec![("PATH".to_owned(), SYSTEM_PATH.to_owned())];
        let invocation = Invocation { program, arguments, environment };
        // Its own failure is seen by the removal below.
        let _ = run::run(&invocation, None, &[lock], &mut |_| {})?;
        let _ = fs::remove_dir(entry.path()).or_else(|_| fs::remove_file(entry.path()));
    }
    fs::remove_dir(path).map_err(io_error("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;

    #[test]
    fn only_what_nobody_works_in_is_removed() {
        let alive = Outside::new(&NoProgress).unwrap();
        fs::create_dir_all(alive.path.join("a/b")).unwrap();
        let left = Outside::new(&NoProgress).unwrap();
        fs::create_dir_all(left.path.join("a/b")).unwrap();
        fs::write(left.path.join("file"), "").unwrap();
        let (alive_path, left_path) = (alive.path.clone(), left.path.clone());
        // As if killed: the lock goes, the directory stays.
        let killed = std::mem::ManuallyDrop::new(left);
        flock(&killed.lock, FlockOperation::Unlock).unwrap();
        remove_if_left(&alive_path).unwrap();
        remove_if_left(&left_path).unwrap();
        assert!(alive_path.join("a/b").exists() && !left_path.exists());
        drop(alive);
        assert!(!alive_path.exists());
    }

    #[test]
    fn other_things_of_that_name_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (link, file) = (directory.path().join("viv-build-link"), directory.path().join("viv-build-file"));
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        remove_if_left(&link).unwrap();
        remove_if_left(&file).unwrap();
        assert!(link.symlink_metadata().is_ok() && file.exists());
    }
}
