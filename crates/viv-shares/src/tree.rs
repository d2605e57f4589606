//! Makes an empty directory all that the daemon can see, and carries out the plan of what is mounted over it.
//!
//! Two processes do this. The daemon begins with [`hide`]. Its helper, which still sees the host, makes the tree of
//! shares with [`assemble`] where the daemon can't see it, and hands it over with [`attach`]: in one step the empty
//! directory becomes the whole tree, sealed. Nothing ever leads from the daemon's mounts to the host's.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use libc::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, open, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::gather;
use crate::guard::Reserved;
use crate::plan::Step;
use crate::sys::restrict_mount;

/// The daemon's root holds one directory: page-sized nodes, and what tmpfs wants for itself.
const HIDDEN_SIZE_BYTES: u64 = 64 << 10;
const HIDDEN_INODES: u64 = 8;

/// What every share is mounted with. The daemon never follows a symbolic link in a share: the guest resolves links
/// itself, one component at a time. With `NOSYMFOLLOW` the kernel holds it to that.
pub(crate) const SHARE_ATTRIBUTES: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSYMFOLLOW;

/// Where the shares are, in the daemon's root.
pub(crate) const SHARES: &str = "/shares";

/// An empty directory, read-only and with an empty, read-only root, is all that the daemon's mount namespace holds
/// afterwards. Gives a descriptor of `/proc/self/fd` that leads nowhere else.
///
/// Needs to run as root of a mount namespace whose mounts are all private.
pub(crate) fn hide() -> Result<File> {
    let descriptors = own_descriptors()?;
    let root = mount_root(HIDDEN_SIZE_BYTES, HIDDEN_INODES)?;
    let hide = || -> io::Result<()> {
        mkdirat(&root, SHARES.trim_start_matches('/'), Mode::RWXU)?;
        restrict_mount(&root, SHARE_ATTRIBUTES | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, false)?;
        Ok(enter(&root)?)
    };
    hide().context(ErrorKind::Mount, || "cannot make an empty root for the file daemon".to_owned())?;
    Ok(descriptors)
}

/// Assembles the tree that `steps` describes: the copy that is given is mounted nowhere. With it comes what was to be
/// protected and is not there.
///
/// Needs to run as root of a mount namespace whose mounts are all private, and ruins it for other uses.
pub(crate) fn assemble(steps: &[Step]) -> Result<(OwnedFd, Vec<Reserved>)> {
    // All sources are cloned before the first mount, so that none of the mounts is part of a clone.
    let mut clones = Vec::new();
    for step in steps {
        match step {
            Step::Share { source, read_only, .. } => {
                clones.push(Clone::Mount(clone_source(source, *read_only)?));
            }
            Step::Gather { source, names, .. } => clones.push(Clone::Gathered(gather::clone(source, names)?)),
            _ => {}
        }
    }
    let mut clones = clones.into_iter();
    let mut root = None;
    let mut reserved = BTreeSet::new();
    for step in steps {
        match (step, &root) {
            (Step::Root { size_bytes, inodes }, _) => root = Some(mount_root(*size_bytes, *inodes)?),
            (Step::Share { entry, source, .. } | Step::Gather { entry, source, .. }, Some(root)) => {
                match clones.next() {
                    Some(Clone::Mount(mount)) => attach_share(root, entry, source, &mount)?,
                    Some(Clone::Gathered(clones)) => gather::attach(root, entry, source, &clones)?,
                    None => {}
                }
            }
            (Step::Pin { entry, path }, Some(root)) => drop(bind_onto_itself(root, entry, path, 0)?),
            (Step::Protect { entry, path }, Some(root)) => {
                reserved.extend(bind_onto_itself(root, entry, path, MOUNT_ATTR_RDONLY)?);
            }
            (Step::Seal, Some(root)) => {
                let attributes = SHARE_ATTRIBUTES | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC;
                restrict_mount(root, attributes, false)
                    .context(ErrorKind::Mount, || "cannot make the root of the shares read-only".to_owned())?;
            }
            (_, None) => return Err(Error::new(ErrorKind::Specification, "the plan does not begin with a root")),
        }
    }
    let root = root.ok_or_else(|| Error::new(ErrorKind::Specification, "the plan has no root"))?;
    // The kernels of today mount on a mounted tree only, and move to another namespace only what is not mounted.
    let tree = clone_mount(&root, Path::new(""))
        .context(ErrorKind::Mount, || "cannot take the shares out of the namespace of the helper".to_owned())?;
    Ok((tree, reserved.into_iter().collect()))
}

/// Shows the daemon the tree. Needs to run in the mount namespace it has hidden in.
pub(crate) fn attach(tree: &OwnedFd) -> Result<()> {
    move_mount(tree, "", CWD, SHARES, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context(ErrorKind::Mount, || "cannot show the shares to the file daemon".to_owned())
}

/// virtiofsd turns its path descriptors into others through `/proc/self/fd`, and so needs that directory where there
/// is no `/proc`. As a mount of its own, it has no parent directory: `..` does not lead to the host's `/proc`.
fn own_descriptors() -> Result<File> {
    clone_mount(CWD, Path::new("/proc/self/fd"))
        .map(File::from)
        .context(ErrorKind::Mount, || "cannot open /proc/self/fd for the file daemon".to_owned())
}

/// A private, restricted clone of a source, mounted nowhere yet.
fn clone_source(source: &Path, read_only: bool) -> Result<Mount> {
    let found = open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        let kind = match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => ErrorKind::SourceMissing,
            Errno::ACCESS | Errno::PERM => ErrorKind::SourceDenied,
            _ => ErrorKind::Mount,
        };
        Error::new(kind, format!("cannot share {}", source.display())).source(io::Error::from(errno))
    })?;
    let failed = || format!("cannot mount {} for the file daemon", source.display());
    let kind = FileType::from_raw_mode(fstat(&found).context(ErrorKind::Mount, failed)?.st_mode);
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(Error::new(
            ErrorKind::SourceUnsupported,
            format!("cannot share {}: it is neither a directory nor a regular file", source.display()),
        ));
    }
    let mount = clone_mount(&found, Path::new("")).context(ErrorKind::Mount, failed)?;
    let attributes = SHARE_ATTRIBUTES | if read_only { MOUNT_ATTR_RDONLY } else { 0 };
    restrict_mount(&mount, attributes, true).context(ErrorKind::Mount, failed)?;
    Ok(Mount { mount, directory: kind == FileType::Directory })
}

/// What was cloned for one step.
enum Clone {
    Mount(Mount),
    Gathered(Vec<gather::Gathered>),
}

/// A mount of a directory or a file that is mounted nowhere yet.
pub(crate) struct Mount {
    pub(crate) mount: OwnedFd,
    pub(crate) directory: bool,
}

pub(crate) fn clone_mount(directory: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(directory, path, flags)
}

/// Mounts the empty root over `/`, where it needs no directory of the host as its place.
fn mount_root(size_bytes: u64, inodes: u64) -> Result<OwnedFd> {
    let mount = || -> rustix::io::Result<OwnedFd> {
        let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(tmpfs.as_fd(), "size", size_bytes.to_string())?;
        fsconfig_set_string(tmpfs.as_fd(), "nr_inodes", inodes.to_string())?;
        fsconfig_set_string(tmpfs.as_fd(), "mode", "0700")?;
        fsconfig_create(tmpfs.as_fd())?;
        let root = fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        move_mount(root.as_fd(), "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(root)
    };
    mount().context(ErrorKind::Mount, || "cannot mount a tmpfs for the file daemon".to_owned())
}

fn attach_share(root: &OwnedFd, entry: &str, source: &Path, clone: &Mount) -> Result<()> {
    place(root, entry, clone)
        .context(ErrorKind::Mount, || format!("cannot mount {} as share {entry}", source.display()))
}

/// Mounts a clone at a name of `directory`, where there is nothing yet.
pub(crate) fn place(directory: &OwnedFd, name: &str, clone: &Mount) -> rustix::io::Result<()> {
    if clone.directory {
        mkdirat(directory, name, Mode::RWXU)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    }
    move_mount(clone.mount.as_fd(), "", directory.as_fd(), name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Binds what is at `path` of a share onto itself, with attributes of its own; gives its name. If it does not exist, that
/// is the first name on the way to it that does not; a file where a directory would have to be takes its place.
fn bind_onto_itself(root: &OwnedFd, entry: &str, path: &Path, attributes: u64) -> Result<Option<Reserved>> {
    let failed = || format!("cannot protect {} of share {entry}", path.display());
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut place = openat2(root, entry, flags, Mode::empty(), beneath).context(ErrorKind::Mount, failed)?;
    let mut reserved = None;
    for component in path.components() {
        let name = component.as_os_str();
        let next = match openat2(&place, name, flags, Mode::empty(), beneath) {
            Ok(next) => next,
            Err(Errno::NOENT) => return reserve(&place, name).map(Some).context(ErrorKind::Mount, failed),
            // A file: what is to be below it cannot come to be as long as it stays.
            Err(Errno::NOTDIR) => break,
            Err(Errno::LOOP) => {
                return Err(Error::new(
                    ErrorKind::ProtectedLink,
                    format!("cannot protect {}: there is a symbolic link in it", path.display()),
                )
                .hint("put the file or directory itself there, or ask for it to be writable"));
            }
            Err(errno) => return Err(Error::new(ErrorKind::Mount, failed()).source(io::Error::from(errno))),
        };
        reserved = Some(reserve(&place, name).context(ErrorKind::Mount, failed)?);
        place = next;
    }
    let bind = || -> io::Result<()> {
        let clone = clone_mount(&place, Path::new(""))?;
        restrict_mount(&clone, attributes, true)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(clone.as_fd(), "", place.as_fd(), "", flags)?)
    };
    bind().context(ErrorKind::Mount, failed).map(|()| reserved)
}

fn reserve(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<Reserved> {
    // A name that is not text comes from nobody: the specification is text.
    Ok(Reserved { directory: fstat(directory)?.st_ino, name: name.to_string_lossy().into_owned() })
}

/// Changes the root and lets go of the old one, so that no path leads back.
fn enter(root: &OwnedFd) -> rustix::io::Result<()> {
    fchdir(root)?;
    // With the same directory in both places, the old root ends up mounted over the new one, where the working
    // directory still is.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}
