//! A directory and what is beneath it, whatever someone else does there meanwhile (see [`viv_beneath`]).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use viv_beneath::{DIRECTORY, READ};
use viv_proto::archive::{FileKind, Stamp, Time};

/// The most names of one directory that are read.
const MOST_NAMES: usize = 1 << 21;

/// A directory that is open.
#[derive(Debug)]
pub struct Directory(viv_beneath::Directory);

/// What is at a name.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What tells whether it has changed.
    pub stamp: Stamp,
}

impl Look {
    fn of(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Special,
        };
        let time = |seconds, nanoseconds| Time {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0).min(999_999_999),
        };
        let stamp = Stamp {
            kind,
            mode: (stat.st_mode & 0o7777) as u16,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        };
        Self { stamp }
    }
}

impl Directory {
    /// The directory at a path, links followed: the path is of whoever asks.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        viv_beneath::Directory::open(path).map(Self)
    }

    /// The directory at a path beneath this one, through no link; an empty path is this one.
    ///
    /// # Errors
    /// As openat2(2): `ELOOP` where there is a link on the way.
    pub fn beneath(&self, path: &[u8]) -> io::Result<Self> {
        self.0.beneath(Path::new(OsStr::from_bytes(path))).map(Self)
    }

    /// What is at a name in it; a link is looked at itself unless `follow`.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn look(&self, name: &OsStr, follow: bool) -> io::Result<Look> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        Ok(Look::of(&rustix::fs::statat(&self.0, name, flags)?))
    }

    /// The directory of this name in it, not through a link unless `follow`.
    ///
    /// # Errors
    /// As openat(2).
    pub fn enter(&self, name: &OsStr, follow: bool) -> io::Result<Self> {
        let flags = if follow { DIRECTORY } else { DIRECTORY | OFlags::NOFOLLOW };
        Ok(Self(rustix::fs::openat(&self.0, name, flags, Mode::empty())?.into()))
    }

    /// The regular file of this name in it, open for reading, and what is known of it; none if it is of another
    /// kind.
    ///
    /// # Errors
    /// As openat(2).
    pub fn read(&self, name: &OsStr, follow: bool) -> io::Result<Option<(File, Look)>> {
        let flags = if follow { READ.difference(OFlags::NOFOLLOW) } else { READ };
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        let look = Look::of(&rustix::fs::fstat(&file)?);
        Ok((look.stamp.kind == FileKind::File).then(|| (File::from(file), look)))
    }

    /// What a link of this name in it says.
    ///
    /// # Errors
    /// As readlinkat(2).
    pub fn link(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }

    /// The names in it, in the order of their bytes, but `first` before all others.
    ///
    /// # Errors
    /// As getdents64(2); `FileTooLarge` for a directory of more than two million names.
    pub fn names(&self, first: &[u8]) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for name in self.0.names()? {
            if names.len() == MOST_NAMES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            names.push(name?);
        }
        names.sort_unstable_by(|one, other| {
            let key = |name: &OsString| name.as_bytes() != first;
            key(one).cmp(&key(other)).then_with(|| one.cmp(other))
        });
        Ok(names)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A path's directory and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}
