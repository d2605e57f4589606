//! Reads a directory of the host.
//!
//! Each name is opened beneath the directory without following a link, so whoever changes the tree
//! meanwhile can spoil the result, but cannot have a file from outside read.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::archive::{shown, too_large};
use super::attributes::{self, Attribute};
use super::store::Store;
use super::tree::{Attributes, Body, NodeId, Tree};
use super::{Whiteouts, erofs};
use crate::error::{Error, ErrorKind, Result, io_error};

/// The list of names, and each value: what Linux allows.
const ATTRIBUTES: usize = 64 << 10;

/// A directory on its way into a tree.
struct Source<'a> {
    path: &'a Path,
    root: OwnedFd,
    device: u64,
    owner: Owner,
    /// Files with several names, by device and inode.
    linked: HashMap<(u64, u64), NodeId>,
}

/// Who owns what in the image.
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// What belongs to an ordinary user who reads it is root's in the image: whoever unpacks a root
    /// file system without privileges owns all of it.
    fn of_this_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn map(&self, uid: u32, gid: u32) -> (u32, u32) {
        if self.uid == 0 {
            return (uid, gid);
        }
        (if uid == self.uid { 0 } else { uid }, if gid == self.gid { 0 } else { gid })
    }
}

/// One file system is read: what is mounted in it stays out, the directory it is mounted on stays.
pub(super) fn apply(tree: &mut Tree, store: &mut Store, path: &Path) -> Result<()> {
    let open = || -> io::Result<_> {
        let root: OwnedFd = File::options().read(true).open(path)?.into();
        let stat = fs::fstat(&root)?;
        Ok((root, stat))
    };
    let (root, stat) = open().map_err(io_error("read", path))?;
    let mut source =
        Source { path, root, device: stat.st_dev, owner: Owner::of_this_process(), linked: HashMap::new() };
    let attributes = source.attributes(&stat, Some(source.root.as_fd()), Path::new("."))?;
    tree.describe_root(attributes);
    let mut left = vec![PathBuf::from(".")];
    while let Some(directory) = left.pop() {
        let mut below = source.directory(tree, store, &directory)?;
        below.reverse();
        left.extend(below);
    }
    Ok(())
}

impl Source<'_> {
    fn failed<'a>(&'a self, relative: &'a Path) -> impl FnOnce(Errno) -> Error + 'a {
        move |error| io_error("read", &self.path.join(relative))(error.into())
    }

    fn open(&self, relative: &Path, flags: OFlags) -> Result<OwnedFd> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        fs::openat2(&self.root, relative, flags, Mode::empty(), beneath).map_err(self.failed(relative))
    }

    /// Takes over what a directory holds, and returns the directories among it.
    fn directory(&mut self, tree: &mut Tree, store: &mut Store, relative: &Path) -> Result<Vec<PathBuf>> {
        let opened = self.open(relative, OFlags::DIRECTORY)?;
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(&opened).map_err(self.failed(relative))? {
            let entry = entry.map_err(self.failed(relative))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        // A file system lists them in an order of its own.
        names.sort_unstable();
        let components: Vec<&[u8]> = relative.as_os_str().as_bytes().split(|byte| *byte == b'/').collect();
        let missing = || Error::new(ErrorKind::Io, "a directory changed while it was read");
        let mut below = Vec::new();
        for name in &names {
            let child = relative.join(name);
            let stat = fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed(&child))?;
            let place = tree.resolve(&components, true)?.ok_or_else(missing)?;
            let several = stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
            let node = match self.linked.get(&(stat.st_dev, stat.st_ino)) {
                Some(node) if several => *node,
                _ => {
                    let node = self.entry(tree, store, &opened, name, &child, &stat)?;
                    if several {
                        self.linked.insert((stat.st_dev, stat.st_ino), node);
                    }
                    node
                }
            };
            tree.link(&place, name.as_bytes(), node)?;
            if tree.directory(node).is_some() && stat.st_dev == self.device {
                below.push(child);
            }
        }
        Ok(below)
    }

    fn entry(
        &self,
        tree: &mut Tree,
        store: &mut Store,
        directory: &OwnedFd,
        name: &OsStr,
        child: &Path,
        stat: &Stat,
    ) -> Result<NodeId> {
        let (attributes, body) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let file = self.open(child, OFlags::NONBLOCK)?;
                let attributes = self.attributes(stat, Some(file.as_fd()), child)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let limits = tree.limits();
                let left = limits.bytes.checked_sub(size);
                limits.bytes = left.ok_or_else(|| too_large("the directory holds more bytes than it may"))?;
                let inline = erofs::room_for_tail(&attributes.extended);
                let path = self.path.join(child);
                let content = store.keep(&mut File::from(file), size, inline, &|error| unreadable(&path, error))?;
                (attributes, Body::File(content))
            }
            FileType::Directory => {
                let opened = self.open(child, OFlags::DIRECTORY)?;
                (self.attributes(stat, Some(opened.as_fd()), child)?, Body::Directory(Default::default()))
            }
            FileType::Symlink => {
                let target = fs::readlinkat(directory, name, Vec::new()).map_err(self.failed(child))?;
                (self.attributes(stat, None, child)?, Body::Symlink(target.into_bytes()))
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
                let block = kind == FileType::BlockDevice;
                (self.attributes(stat, None, child)?, Body::Device { block, major, minor })
            }
            FileType::Fifo => (self.attributes(stat, None, child)?, Body::Fifo),
            _ => (self.attributes(stat, None, child)?, Body::Socket),
        };
        tree.add(attributes, body)
    }

    /// Extended attributes are those of files and directories: other things have none but what a security
    /// module gives them.
    fn attributes(&self, stat: &Stat, opened: Option<std::os::fd::BorrowedFd<'_>>, child: &Path) -> Result<Attributes> {
        let mut extended = Vec::new();
        if let Some(opened) = opened {
            extended = extended_attributes(opened).map_err(self.failed(child))?;
        }
        let extended = attributes::kept(extended, Whiteouts::None).map_err(|attribute| {
            let (path, name) = (shown(child.as_os_str().as_bytes()), shown(&attribute.name));
            too_large(format!("{path} has an extended attribute that is too large: {name}"))
        })?;
        let (uid, gid) = self.owner.map(stat.st_uid, stat.st_gid);
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(Attributes {
            mode: (stat.st_mode & 0o7777) as u16,
            uid,
            gid,
            modified: (stat.st_mtime, nanoseconds),
            extended,
        })
    }
}

/// Why a file could not be read, by its name.
fn unreadable(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        // It became shorter.
        io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Corrupt, format!("{} changed while it was read", path.display()))
        }
        _ => io_error("read", path)(error),
    }
}

fn extended_attributes(file: std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<Vec<Attribute>> {
    let mut buffer = vec![0; ATTRIBUTES];
    let size = match fs::flistxattr(file, &mut buffer[..]) {
        Ok(size) => size,
        // A file system without them.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names: Vec<CString> = buffer[..size]
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|name| Some(CStr::from_bytes_with_nul(name).ok()?.into()))
        .collect();
    let mut found = Vec::new();
    for name in names {
        match fs::fgetxattr(file, name.as_c_str(), &mut buffer[..]) {
            Ok(size) => found.push(Attribute { name: name.into_bytes(), value: buffer[..size].to_vec() }),
            // It went meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let said = |error| unreadable(Path::new("/srv/tree/etc/x"), error);
        let failed = said(io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
        assert_eq!((*failed.kind(), failed.to_string()), (ErrorKind::Io, "cannot read /srv/tree/etc/x".to_owned()));
        let shorter = said(io::ErrorKind::UnexpectedEof.into());
        assert_eq!(*shorter.kind(), ErrorKind::Corrupt);
        assert_eq!(shorter.to_string(), "/srv/tree/etc/x changed while it was read");
    }
}
