//! Directories whose content somebody else may be changing at this moment, such as a guest.
//!
//! Every path is resolved beneath a descriptor and through no link (`openat2(2)` with `RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS`, Linux 5.6), so that whatever becomes of the directories on
//! the way, nothing outside is read, written or made. What is opened to be read neither blocks nor becomes a
//! controlling terminal; of which kind it is, whoever opened it has to look.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How a directory is opened.
pub const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How a file that may be anything is opened to be read: a FIFO must not block, nor a terminal become ours.
pub const READ: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::NOFOLLOW);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory that is open: it stays the same one, wherever it is moved.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// The directory at a path, links followed: the path is of whoever asks.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// The same once more.
    ///
    /// # Errors
    /// As dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// The directory at a path beneath this one; an empty path is this one.
    ///
    /// # Errors
    /// As openat2(2): `ELOOP` where there is a link on the way, `EXDEV` for a path that leads out.
    pub fn beneath(&self, path: &Path) -> io::Result<Self> {
        if path.as_os_str().is_empty() {
            return self.try_clone();
        }
        Ok(Self(self.resolve(path, DIRECTORY)?))
    }

    /// The same, each directory on the way made with these permissions if it is missing.
    ///
    /// # Errors
    /// As mkdirat(2) and [`Directory::beneath`]; `InvalidInput` for a path with `..`, or from the root.
    pub fn make(&self, path: &Path, mode: Mode) -> io::Result<Self> {
        let mut here = self.try_clone()?;
        for part in path.components() {
            let name = match part {
                Component::Normal(name) => Path::new(name),
                Component::CurDir => continue,
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            };
            match rustix::fs::mkdirat(&here.0, name, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            here = Self(here.resolve(name, DIRECTORY)?);
        }
        Ok(here)
    }

    /// What is at a path beneath this directory, open to be read, of whatever kind it is.
    ///
    /// # Errors
    /// As openat2(2): `ELOOP` where there is a link on the way or at its end.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        Ok(self.resolve(path, READ)?.into())
    }

    /// The names in it, in no order, without `.` and `..`. There is no limit to how many there are.
    ///
    /// # Errors
    /// As getdents64(2), at first and for each.
    pub fn names(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
        let entries = rustix::fs::Dir::read_from(&self.0)?;
        Ok(entries.filter_map(|entry| match entry {
            Ok(entry) => match entry.file_name().to_bytes() {
                b"." | b".." => None,
                name => Some(Ok(OsString::from_vec(name.to_vec()))),
            },
            Err(errno) => Some(Err(errno.into())),
        }))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), BENEATH) {
                // A rename elsewhere on the system met the resolution: the kernel asks to be asked again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }
}

/// One that was opened in another way.
impl From<OwnedFd> for Directory {
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
