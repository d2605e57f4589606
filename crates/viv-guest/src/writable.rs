//! A read-only share that programs may write over: an overlay with the share below and the scratch disk above.
//!
//! The host never sees what is written. The overlay of the root could not hold it: overlayfs takes no overlay for its
//! upper layer.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, unmount};
use viv_proto::message::User;

use crate::boot;
use crate::error::{Context, Result};

/// Where the scratch disk is while an overlay is made; only root may look.
const SCRATCH: &str = "/run/viv/scratch";

/// Mounts `share`, the share named `entry`, on `destination`, to be written by `user`.
///
/// # Errors
/// If the scratch disk or the overlay cannot be mounted.
pub(crate) fn mount_over(share: &Path, entry: &str, destination: &Path, user: &User) -> Result<()> {
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(SCRATCH).context(|| format!("cannot make {SCRATCH}"))?;
    boot::mount_scratch_at(SCRATCH)?;
    let mounted = overlay(share, entry, destination, user);
    // The overlay keeps what it needs of it.
    let unmounted = unmount(SCRATCH, UnmountFlags::DETACH).context(|| format!("cannot unmount {SCRATCH}"));
    mounted.and(unmounted)
}

fn overlay(share: &Path, entry: &str, destination: &Path, user: &User) -> Result<()> {
    let place = Path::new(SCRATCH).join("over").join(entry);
    let (upper, work) = (place.join("upper"), place.join("work"));
    for directory in [&upper, &work] {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .context(|| format!("cannot make {}", directory.display()))?;
    }
    // Who owns the upper layer's root owns that of both.
    chown(&upper, Some(user.uid), Some(user.gid)).context(|| format!("cannot give away {}", upper.display()))?;
    // The dot makes the kernel mount what virtiofs announces as a file system of its own, which overlayfs does not do.
    let layers = format!("lowerdir={}/.,upperdir={},workdir={}", share.display(), upper.display(), work.display());
    let wanted = format!("{layers},redirect_dir=on,metacopy=on,index=off,volatile");
    let flags = MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV;
    let destination = &destination.to_string_lossy();
    // An older kernel: without its refinements.
    boot::mount_on("overlay", destination, "overlay", flags, &wanted)
        .or_else(|_| boot::mount_on("overlay", destination, "overlay", flags, &layers))
}
