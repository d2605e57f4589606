//! Files in a directory that a guest writes to.
//!
//! Whatever is there was put there by an adversary, who may change it at any moment: links, FIFOs, huge files,
//! directories where files should be. So every path is resolved beneath a descriptor and through no link
//! (`openat2(2)`), only regular files of bounded size are read, and what is written replaces, by rename.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::spec::random_bytes;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// A directory and what is beneath it.
#[derive(Debug)]
pub(super) struct Beneath(OwnedFd);

impl Beneath {
    /// The directory at a path that no guest can change.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), beneath) {
                // A rename elsewhere on the system met the resolution: the kernel asks to be asked again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// The directory at `path`, made if missing.
    pub(super) fn directory(&self, path: &Path) -> io::Result<Self> {
        let mut here = Self(self.0.try_clone()?);
        for part in path.components() {
            let Component::Normal(part) = part else { continue };
            let part = Path::new(part);
            match rustix::fs::mkdirat(&here.0, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            here = Self(here.resolve(part, DIRECTORY)?);
        }
        Ok(here)
    }

    /// The regular file at `path`, to be read.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = match self.resolve(path, flags) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err(refused("there is a link on the way to it")),
            Err(errno) => return Err(errno.into()),
        };
        if file.metadata()?.is_file() { Ok(file) } else { Err(refused("it is no regular file")) }
    }

    /// What the regular file at `path` holds, at most `limit` bytes, and its permissions; none if there is
    /// nothing at all.
    pub(super) fn read(&self, path: &Path, limit: u64) -> io::Result<Option<(Vec<u8>, Mode)>> {
        let file = match self.file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let metadata = file.metadata()?;
        if metadata.len() > limit {
            return Err(refused("it is too large"));
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(refused("it is too large"));
        }
        use std::os::unix::fs::PermissionsExt;
        Ok(Some((bytes, Mode::from_raw_mode(metadata.permissions().mode() & 0o777))))
    }

    /// Puts `bytes` at `path`, for anyone to see all of it or nothing. `new` refuses to replace.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], mode: Mode, new: bool) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = self.directory(path.parent().unwrap_or(Path::new("")))?;
        let partial = format!(".viv-{}", hex::encode(random_bytes::<8>()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&directory.0, partial.as_str(), flags, mode)?);
        let replace = if new { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        let written = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(rustix::fs::renameat_with(&directory.0, partial.as_str(), &directory.0, name, replace)?));
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&directory.0, partial.as_str(), AtFlags::empty());
        }
        written
    }

    /// Makes the directory that says that a file is being rewritten; whether nobody else had.
    pub(super) fn lock(&self, path: &Path) -> io::Result<bool> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = self.directory(path.parent().unwrap_or(Path::new("")))?;
        match rustix::fs::mkdirat(&directory.0, name, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes it again.
    pub(super) fn unlock(&self, path: &Path) {
        let Some(name) = path.file_name() else { return };
        if let Ok(directory) = self.directory(path.parent().unwrap_or(Path::new(""))) {
            let _ = rustix::fs::unlinkat(&directory.0, name, AtFlags::REMOVEDIR);
        }
    }

    /// The names in it, up to a number.
    pub(super) fn names(&self, limit: usize) -> io::Result<Vec<std::ffi::OsString>> {
        use std::os::unix::ffi::OsStringExt;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.0.as_fd())? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                if names.len() == limit {
                    break;
                }
                names.push(std::ffi::OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// What kind of file is at a name in it, and how much of the disk it takes.
    pub(super) fn look(&self, name: &Path) -> io::Result<(rustix::fs::FileType, u64)> {
        let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        Ok((rustix::fs::FileType::from_raw_mode(stat.st_mode), bytes))
    }

    /// What kind of file is at a name in it, and when it was last changed in any way: the kernel's time, which nobody
    /// who writes to the file can choose.
    pub(super) fn changed(&self, name: &Path) -> io::Result<(rustix::fs::FileType, SystemTime)> {
        let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
        let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or(0).min(999_999_999);
        let changed = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        Ok((rustix::fs::FileType::from_raw_mode(stat.st_mode), changed))
    }

    /// The directory of this name in it.
    pub(super) fn enter(&self, name: &Path) -> io::Result<Self> {
        Ok(Self(self.resolve(name, DIRECTORY | OFlags::NOFOLLOW)?))
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::other(why)
}
