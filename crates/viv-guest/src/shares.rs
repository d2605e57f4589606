//! Shares: one virtiofs device, each of its entries mounted where the user wants it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount_bind_recursive, mount_remount};
use viv_proto::message::{FailureKind, Share, ShareKind, User};

use crate::boot;
use crate::error::{Context, Result, error};
use crate::file_share::{KeptFile, MAX_KEPT_BYTES};
use crate::identity::is_plain_path;
use crate::writable;

/// The virtiofs device's tag.
pub const TAG: &str = "viv";

/// Where the device is mounted; only root may look.
pub const DEVICE_MOUNT: &str = "/run/viv/shares";

/// Checks shares and puts them in the order they are mounted in: outer ones first.
///
/// # Errors
/// [`FailureKind::BadRequest`] for an entry that is not a plain name, or a destination that is not
/// a plain absolute path below the root.
pub fn in_order(shares: &[Share]) -> Result<Vec<&Share>> {
    for share in shares {
        let Share { entry, destination, .. } = share;
        if entry.is_empty() || entry == "." || entry == ".." || entry.contains(['/', '\0']) {
            return Err(error(FailureKind::BadRequest, format!("configure: `{entry}` is not an entry's name")));
        }
        if !is_plain_path(Path::new(destination)) || Path::new(destination).parent().is_none() {
            return Err(error(FailureKind::BadRequest, format!("configure: nothing can be shared at {destination}")));
        }
        if share.writable_overlay && !(share.read_only && share.kind == ShareKind::Directory) {
            return Err(error(
                FailureKind::BadRequest,
                format!("configure: {destination} is written elsewhere only if it is a read-only directory"),
            ));
        }
    }
    let mut ordered: Vec<&Share> = shares.iter().collect();
    ordered.sort_by_key(|share| Path::new(&share.destination).components().count());
    Ok(ordered)
}

/// What mounting the shares left to do.
#[derive(Default)]
pub struct Mounted {
    /// Places whose file systems are flushed at the end.
    pub to_sync: Vec<PathBuf>,
    /// Files that are kept in step instead of mounted.
    pub kept: Vec<KeptFile>,
    /// What the user should know.
    pub remarks: Vec<String>,
}

/// Mounts the device and every share.
///
/// # Errors
/// The first share that cannot be put in its place.
pub fn mount_all(shares: &[Share], user: &User) -> Result<Mounted> {
    let mut mounted = Mounted::default();
    let ordered = in_order(shares)?;
    if ordered.is_empty() {
        return Ok(mounted);
    }
    let mut private = fs::DirBuilder::new();
    private.mode(0o700).create(DEVICE_MOUNT).context(|| format!("cannot make {DEVICE_MOUNT}"))?;
    // Nothing on the host is a device or gives rights to root inside.
    boot::mount_on(TAG, DEVICE_MOUNT, "virtiofs", MountFlags::NOSUID | MountFlags::NODEV, "")?;
    for share in ordered {
        let source = Path::new(DEVICE_MOUNT).join(&share.entry);
        place(share, &source, user, &mut mounted)
            .map_err(|reason| error(reason.kind().0, format!("cannot share {}", share.destination)).source(reason))?;
    }
    Ok(mounted)
}

fn place(share: &Share, source: &Path, user: &User, mounted: &mut Mounted) -> Result<()> {
    let destination = Path::new(&share.destination);
    let parent = destination.parent().unwrap_or(Path::new("/"));
    // Replacing a file takes the right to write to its directory.
    let replaceable = share.kind == ShareKind::File && !share.read_only;
    make_directories(parent, user, replaceable)?;
    match share.kind {
        ShareKind::Directory => {
            make_directories(destination, user, false)?;
            if share.writable_overlay {
                writable::mount_over(source, &share.entry, destination, user)?;
            } else {
                bind(source, destination, share.read_only)?;
            }
        }
        ShareKind::File => {
            let facts = fs::metadata(source).context(|| "cannot look at the shared file".to_owned())?;
            if share.read_only || facts.len() > MAX_KEPT_BYTES {
                if !share.read_only {
                    mounted.remarks.push(format!(
                        "{} is larger than {} MiB: programs inside can write it but not replace it",
                        share.destination,
                        MAX_KEPT_BYTES / 1024 / 1024
                    ));
                }
                make_file(destination)?;
                bind(source, destination, share.read_only)?;
            } else {
                let kept =
                    KeptFile::create(source, destination, user).context(|| "cannot copy the shared file".to_owned())?;
                mounted.kept.push(kept);
            }
        }
    }
    if !share.read_only {
        mounted.to_sync.push(source.to_owned());
    }
    Ok(())
}

/// Makes a directory and those above it. Those below the user's home are the user's, others only
/// if `theirs` says so.
fn make_directories(path: &Path, user: &User, theirs: bool) -> Result<()> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    while let Some(directory) = missing.pop() {
        let made = fs::DirBuilder::new().mode(0o755).create(directory);
        made.context(|| format!("cannot make {}", directory.display()))?;
        if theirs || directory.starts_with(&user.home) {
            // Inside another share the host decides whose it is.
            let _ = std::os::unix::fs::lchown(directory, Some(user.uid), Some(user.gid));
        }
    }
    Ok(())
}

/// Something to mount a file on.
fn make_file(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Err(reason) if reason.kind() != io::ErrorKind::AlreadyExists => {
            Err(reason).context(|| format!("cannot make {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn bind(source: &Path, destination: &Path, read_only: bool) -> Result<()> {
    mount_bind_recursive(source, destination).context(|| "cannot mount it".to_owned())?;
    if read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(destination, flags, c"").context(|| "cannot make it read-only".to_owned())?;
    }
    Ok(())
}

/// Flushes what the guest still holds back of a share.
pub fn sync(place: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(place)?;
    Ok(rustix::fs::syncfs(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(entry: &str, destination: &str) -> Share {
        Share {
            entry: entry.into(),
            destination: destination.into(),
            kind: ShareKind::Directory,
            read_only: false,
            writable_overlay: false,
        }
    }

    #[test]
    fn outer_shares_come_first() {
        let shares = [share("0", "/a/b/c"), share("1", "/a"), share("2", "/z/"), share("3", "/a/b")];
        let order: Vec<_> = in_order(&shares).unwrap().into_iter().map(|share| share.entry.as_str()).collect();
        assert_eq!(order, ["1", "2", "3", "0"]);
    }

    #[test]
    fn only_a_read_only_directory_is_written_elsewhere() {
        let overlaid = Share { writable_overlay: true, ..share("0", "/nix/store") };
        let read_only = Share { read_only: true, ..overlaid.clone() };
        let file = Share { kind: ShareKind::File, ..read_only.clone() };
        assert!(in_order(&[read_only]).is_ok());
        assert!(in_order(&[overlaid]).is_err());
        assert!(in_order(&[file]).is_err());
    }

    #[test]
    fn paths_with_a_will_of_their_own_are_refused() {
        for (entry, destination) in [
            ("", "/a"),
            ("..", "/a"),
            ("a/b", "/a"),
            ("\0", "/a"),
            ("0", "/"),
            ("0", ""),
            ("0", "a"),
            ("0", "/a/../b"),
            ("0", "/a\0"),
        ] {
            assert!(in_order(&[share(entry, destination)]).is_err(), "{entry:?} {destination:?}");
        }
    }
}
