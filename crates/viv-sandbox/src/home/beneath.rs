//! Files in a directory that a guest writes to.
//!
//! Whatever is there was put there by an adversary, who may change it at any moment: links, FIFOs, huge files,
//! directories where files should be. So paths are resolved by [`viv_beneath`], only regular files of bounded size
//! are read, and what is written replaces, by rename.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use viv_beneath::Directory;

use crate::spec::random_bytes;

/// A directory and what is beneath it.
#[derive(Debug)]
pub(super) struct Beneath(Directory);

impl Beneath {
    /// The directory at a path that no guest can change.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Directory::open(path).map(Self)
    }

    /// The directory at `path`, made if missing.
    pub(super) fn directory(&self, path: &Path) -> io::Result<Self> {
        self.0.make(path, Mode::RWXU).map(Self)
    }

    /// The regular file at `path`, to be read.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        let file = self.0.file(path).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => refused("there is a link on the way to it"),
            _ => error,
        })?;
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
        let mut names = self.0.names()?.take(limit).collect::<io::Result<Vec<_>>>()?;
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
        self.0.beneath(name).map(Self)
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::other(why)
}
