//! Files in a directory that a guest may be changing at this moment.
//!
//! Paths are resolved by [`viv_beneath`]: whatever the guest makes of the directories on the way, nothing outside the
//! workspace is read or written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use viv_beneath::Directory;

use crate::entry::{Digest, Node, Stat};
use crate::path::check_name;
use crate::{Limits, TreePath};

/// A directory and what is beneath it.
#[derive(Debug)]
pub(crate) struct Beneath(Directory);

/// A regular file's content and what is known of it.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stat: Stat,
}

impl Beneath {
    /// The directory at a path that no guest can change.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Directory::open(path).map(Self)
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The directory at `path`; the empty one is this.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<Self> {
        self.0.beneath(path).map(Self)
    }

    /// Has the disk keep the names in it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// The directory of `path`, made if missing.
    fn making_parent(&self, path: &TreePath) -> io::Result<Self> {
        let parent = path.parent().map_or(Path::new(""), as_path);
        self.0.make(parent, Mode::from_raw_mode(0o777)).map(Self)
    }

    /// What the regular file at `path` holds; none if there is no regular file, or one over `limit` bytes.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Content>> {
        let file = match self.0.file(path) {
            Ok(file) => file,
            // A socket, or a device without a driver.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NXIO | Errno::NODEV)) => return Ok(None),
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = rustix::fs::fstat(&file)?;
        let stat = stat_of(&found);
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || stat.size > limit {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(stat.size).unwrap_or(0) + 1);
        file.take(limit + 1).read_to_end(&mut bytes)?;
        // One that grows while it is read is as good as over the limit.
        Ok((bytes.len() as u64 <= limit).then_some(Content { bytes, stat }))
    }

    /// What is at `path` now, its content read.
    pub(crate) fn look(&self, path: &TreePath, limits: &Limits) -> io::Result<Found> {
        let parent = match self.directory(path.parent().map_or(Path::new(""), as_path)) {
            Ok(parent) => parent,
            Err(error) if is_absent(&error) => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let stat = match rustix::fs::statat(&parent.0, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(errno) => return Err(errno.into()),
        };
        let mode = stat.st_mode & 0o777;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&parent.0, path.name(), Vec::new())?.into_bytes();
                Ok(Found::Node(Node::Symlink { target }, Vec::new()))
            }
            FileType::RegularFile => match parent.read(as_path(path.name()), limits.file_bytes)? {
                Some(read) => {
                    let digest = Digest(Sha256::digest(&read.bytes).into());
                    let node = Node::File { digest, size: read.bytes.len() as u64, mode: read.stat.mode & 0o777 };
                    Ok(Found::Node(node, read.bytes))
                }
                None => {
                    let stat = stat_of(&stat);
                    Ok(Found::Node(Node::Large { size: stat.size, mode, stat }, Vec::new()))
                }
            },
            FileType::Directory => Ok(Found::Directory),
            _ => Ok(Found::Other),
        }
    }

    /// Puts a file or a link at `path`, for anyone to see all of it or nothing. `temporary` is the name it has
    /// until then, in the same directory. `new` refuses to replace.
    pub(crate) fn write(
        &self,
        path: &TreePath,
        node: &Node,
        content: &[u8],
        temporary: &str,
        new: bool,
    ) -> io::Result<()> {
        let parent = self.making_parent(path)?;
        match node {
            Node::File { mode, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(&parent.0, temporary, flags, Mode::RUSR | Mode::WUSR)?);
                let filled = file
                    .write_all(content)
                    .and_then(|()| Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?))
                    .and_then(|()| file.sync_data());
                if let Err(error) = filled {
                    let _ = rustix::fs::unlinkat(&parent.0, temporary, AtFlags::empty());
                    return Err(error);
                }
            }
            Node::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), &parent.0, temporary)?,
            Node::Large { .. } => return Err(io::Error::other("its content was not kept")),
        }
        crate::fault::point();
        let replace = if new { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        let renamed = match rustix::fs::renameat_with(&parent.0, temporary, &parent.0, path.name(), replace) {
            // A file system that cannot refuse to replace; that nothing is there was looked up just now.
            Err(Errno::INVAL) if new => rustix::fs::renameat(&parent.0, temporary, &parent.0, path.name()),
            renamed => renamed,
        };
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&parent.0, temporary, AtFlags::empty());
        }
        Ok(renamed?)
    }

    /// Removes the file or link at `path`, and the directories above that are then empty.
    pub(crate) fn remove(&self, path: &TreePath) -> io::Result<()> {
        let parent = self.directory(path.parent().map_or(Path::new(""), as_path))?;
        rustix::fs::unlinkat(&parent.0, path.name(), AtFlags::empty())?;
        for directory in path.ancestors() {
            let (above, name) = match directory.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => (&directory[..slash], &directory[slash + 1..]),
                None => (&b""[..], directory),
            };
            let removed = self
                .directory(as_path(above))
                .and_then(|above| Ok(rustix::fs::unlinkat(&above.0, name, AtFlags::REMOVEDIR)?));
            if removed.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Removes the directory at `path` if it is empty.
    pub(crate) fn remove_empty(&self, path: &TreePath) -> io::Result<()> {
        let parent = self.directory(path.parent().map_or(Path::new(""), as_path))?;
        Ok(rustix::fs::unlinkat(&parent.0, path.name(), AtFlags::REMOVEDIR)?)
    }

    /// Removes what an interrupted [`Beneath::write`] to `path` may have left.
    pub(crate) fn remove_temporary(&self, path: &TreePath, temporary: &str) {
        if let Ok(parent) = self.directory(path.parent().map_or(Path::new(""), as_path)) {
            let _ = rustix::fs::unlinkat(&parent.0, temporary, AtFlags::empty());
        }
    }

    /// The names in it, in the order of their bytes; none if there are more than `most`.
    pub(crate) fn list(&self, most: usize) -> io::Result<Option<Vec<Listed>>> {
        let mut listed = Vec::new();
        for name in self.0.names()? {
            if listed.len() == most {
                return Ok(None);
            }
            let name = name?.into_vec();
            listed.push(Listed { git: name == b".git", good: check_name(&name).is_ok(), name });
        }
        listed.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(listed))
    }

    /// What the kernel says of a name in it; none if it is gone.
    pub(crate) fn stat(&self, name: &[u8]) -> io::Result<Option<(FileType, Stat)>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), stat_of(&stat)))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Where the link of a name in it leads.
    pub(crate) fn link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing, or what is on the way is no directory.
    Nothing,
    /// A file with its content, or a link.
    Node(Node, Vec<u8>),
    /// A directory.
    Directory,
    /// A FIFO, a socket, a device.
    Other,
}

/// A name in a directory.
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    /// Whether it is `.git`.
    pub(crate) git: bool,
    /// Whether it can be part of a [`TreePath`].
    pub(crate) good: bool,
}

/// Bytes as a path.
pub(crate) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Nothing can be at a path on the way to which this was met.
fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    let time = |seconds: i64, nanoseconds: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Stat {
        inode: stat.st_ino,
        device: stat.st_dev,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        modified_ns: time(stat.st_mtime, stat.st_mtime_nsec),
        changed_ns: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}
