//! Some names of a directory in a directory of their own: what the store of a package manager is shared by.
//!
//! Each name is a mount of its own, made read-only, so that the host's kernel keeps the guest to these names: nothing
//! else of the directory exists in the namespace that the daemon lives in. To the guest they are one file system all
//! the same ([`Plain`]): overlayfs does not look through a mount in a lower layer, and hundreds of mounts would cost
//! the guest more than they cost the host.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use libc::MOUNT_ATTR_RDONLY;
use rustix::fs::{FileType, Mode, OFlags, fstat, mkdirat, open, openat, readlinkat, symlinkat};
use virtiofsd::filesystem::Entry;
use virtiofsd::fuse;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::nodes::ROOT;
use crate::sys::restrict_mount;
use crate::tree::{Mount, SHARE_ATTRIBUTES, clone_mount, place};

/// What of a directory becomes visible under its name.
pub(crate) struct Gathered {
    name: String,
    what: What,
}

enum What {
    Mount(Mount),
    Link(CString),
}

/// Clones `names` of `source`, each read-only and mounted nowhere yet.
pub(crate) fn clone(source: &Path, names: &[String]) -> Result<Vec<Gathered>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let directory = open(source, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(|errno| missing(source).source(io::Error::from(errno)))?;
    names.iter().map(|name| clone_name(&directory, source, name)).collect()
}

fn clone_name(directory: &OwnedFd, source: &Path, name: &str) -> Result<Gathered> {
    let path = || source.join(name);
    let found = openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| missing(&path()).source(io::Error::from(errno)))?;
    let failed = || format!("cannot mount {} for the file daemon", path().display());
    let kind = FileType::from_raw_mode(fstat(&found).context(ErrorKind::Mount, failed)?.st_mode);
    let what = match kind {
        FileType::Symlink => What::Link(readlinkat(&found, "", Vec::new()).context(ErrorKind::Mount, failed)?),
        FileType::Directory | FileType::RegularFile => {
            let mount = clone_mount(&found, Path::new("")).context(ErrorKind::Mount, failed)?;
            restrict_mount(&mount, SHARE_ATTRIBUTES | MOUNT_ATTR_RDONLY, true).context(ErrorKind::Mount, failed)?;
            What::Mount(Mount { mount, directory: kind == FileType::Directory })
        }
        _ => {
            return Err(Error::new(
                ErrorKind::SourceUnsupported,
                format!("cannot share {}: it is neither a directory nor a file nor a link", path().display()),
            ));
        }
    };
    Ok(Gathered { name: name.to_owned(), what })
}

fn missing(path: &Path) -> Error {
    Error::new(ErrorKind::SourceMissing, format!("cannot share {}", path.display()))
}

/// Makes the directory `entry` of `root` and puts into it what was cloned.
pub(crate) fn attach(root: &OwnedFd, entry: &str, source: &Path, gathered: &[Gathered]) -> Result<()> {
    let attach = || -> rustix::io::Result<()> {
        mkdirat(root, entry, Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(root, entry, flags, Mode::empty())?;
        gathered.iter().try_for_each(|Gathered { name, what }| match what {
            What::Mount(mount) => place(&directory, name, mount),
            What::Link(target) => symlinkat(target, directory.as_fd(), name),
        })
    };
    attach().context(ErrorKind::Mount, || format!("cannot mount what is shared of {} as {entry}", source.display()))
}

/// The directories that hold gathered names, by the guest's numbers of them: what is mounted there is not announced
/// as a file system of its own.
///
/// The daemon is not told which they are; it sees it. Every other directory in the root of the device is a mount.
#[derive(Default)]
pub(crate) struct Plain(Mutex<BTreeSet<u64>>);

impl Plain {
    /// Takes note of an entry that was found in `parent`, and corrects what it says of itself.
    pub(crate) fn learn(&self, parent: u64, entry: &mut Entry) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if parent != ROOT {
            if known.contains(&parent) {
                entry.attr.flags &= !fuse::ATTR_SUBMOUNT;
            }
        } else if entry.attr.mode & libc::S_IFMT == libc::S_IFDIR && entry.attr.flags & fuse::ATTR_SUBMOUNT == 0 {
            known.insert(entry.inode);
        }
    }

    /// Forgets them: the guest starts anew.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn directory(inode: u64, flags: u32) -> Entry {
        let attr = fuse::Attr { mode: libc::S_IFDIR | 0o755, flags, ..fuse::Attr::default() };
        Entry { inode, generation: 0, attr, attr_timeout: Duration::ZERO, entry_timeout: Duration::ZERO }
    }

    #[test]
    fn mounts_are_announced_but_in_directories_of_the_tree_itself() {
        let plain = Plain::default();
        let flags = |parent, inode, flags| {
            let mut entry = directory(inode, flags);
            plain.learn(parent, &mut entry);
            entry.attr.flags
        };
        assert_eq!(flags(ROOT, 2, fuse::ATTR_SUBMOUNT), fuse::ATTR_SUBMOUNT, "a share");
        assert_eq!(flags(2, 3, fuse::ATTR_SUBMOUNT), fuse::ATTR_SUBMOUNT, "a mount in a share");
        assert_eq!(flags(ROOT, 4, 0), 0, "a directory of the tree");
        assert_eq!(flags(4, 5, fuse::ATTR_SUBMOUNT), 0, "a name in it");
        assert_eq!(flags(5, 6, fuse::ATTR_SUBMOUNT), fuse::ATTR_SUBMOUNT, "a mount below that name");
        plain.clear();
        assert_eq!(flags(4, 7, fuse::ATTR_SUBMOUNT), fuse::ATTR_SUBMOUNT);
    }
}
