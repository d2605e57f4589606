//! A scratch disk that is kept from one machine to the next.
//!
//! ```text
//! /scratch/upper, work      the overlay of the root, which a later machine mounts again
//! /scratch/over             overlays of shares: of this machine alone
//! /scratch/prepared.json    the upper layer is complete, and for whom it was made
//! ```
//!
//! What a sandbox has in common with its siblings ([`crate::identity::write_common`]) is written when the
//! disk is new. From then on it is the user's: accounts that packages added and files that were edited stay.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};
use serde::{Deserialize, Serialize};
use viv_proto::message::{FailureKind, User};

use crate::error::{Context, Result, error};
use crate::{boot, console};

/// What says that the upper layer is complete.
const MARK: &str = "prepared.json";

/// Where the disk is mounted once more to make it read-only.
const LAST: &str = "/run/viv/disk";

/// For whom a disk was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prepared {
    pub(crate) user: User,
    pub(crate) timezone: Option<String>,
}

/// What there is to do with a disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is empty: everything.
    New,
    /// A machine has used it: nothing.
    Used,
    /// The same, but in another time zone.
    Moved,
}

/// Looks at the disk at `scratch`, and empties it if an earlier machine ended before it was ready.
///
/// # Errors
/// [`FailureKind::BadRequest`] if it is another user's; a disk that cannot be read or written.
pub(crate) fn open(scratch: &Path, wanted: &Prepared) -> Result<Found> {
    // Whatever an earlier machine's shares were, they are not these.
    remove(&scratch.join("over"))?;
    match fs::read(scratch.join(MARK)) {
        Ok(text) => {
            let found: Prepared = serde_json::from_slice(&text)
                .map_err(|reason| error(FailureKind::Internal, "the disk's mark cannot be read").source(reason))?;
            if found.user != wanted.user {
                let User { name, uid, gid, home } = found.user;
                return Err(error(
                    FailureKind::BadRequest,
                    format!("the disk was made for the user {name} ({uid}:{gid}, {home}), who is another one"),
                ));
            }
            Ok(if found.timezone == wanted.timezone { Found::Used } else { Found::Moved })
        }
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => {
            // No program has run on it: there is nothing of anyone's.
            for directory in ["upper", "work"] {
                let directory = scratch.join(directory);
                remove(&directory)?;
                fs::DirBuilder::new()
                    .mode(0o755)
                    .create(&directory)
                    .context(|| format!("cannot make {}", directory.display()))?;
            }
            Ok(Found::New)
        }
        Err(reason) => Err(reason).context(|| "the disk's mark cannot be read".to_owned()),
    }
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
            Err(reason).context(|| format!("cannot empty {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Notes that the upper layer is complete; what was written of it is on the disk before.
///
/// # Errors
/// If the disk cannot be written.
pub(crate) fn mark(scratch: &Path, prepared: &Prepared) -> Result<()> {
    let write = || -> io::Result<()> {
        let text = serde_json::to_vec(prepared)?;
        rustix::fs::syncfs(File::open(scratch)?)?;
        let new = scratch.join(".prepared.new");
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, scratch.join(MARK))?;
        File::open(scratch)?.sync_all()
    };
    write().context(|| "cannot note that the disk is ready".to_owned())
}

/// Brings the disk up to date once no program runs any more, and unmounts it as far as a root can be: it is
/// made read-only. If that fails, its journal has all that is needed.
pub(crate) fn settle() {
    let settle = || -> Result<()> {
        let root = File::open("/").context(|| "cannot open the root".to_owned())?;
        rustix::fs::syncfs(&root).context(|| "cannot flush the disk".to_owned())?;
        boot::mount_scratch_at(LAST)?;
        mount_remount(LAST, MountFlags::RDONLY | MountFlags::NOATIME, c"")
            .context(|| "cannot make the disk read-only".to_owned())
    };
    if let Err(reason) = settle() {
        console::say(&crate::error::line(&reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(uid: u32, timezone: &str) -> Prepared {
        let user = User { name: "agent".into(), uid, gid: 7, home: "/home/agent".into() };
        Prepared { user, timezone: Some(timezone.into()) }
    }

    #[test]
    fn a_disk_is_new_until_it_is_marked_and_then_its_users() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let wanted = prepared(1000, "Europe/Berlin");
        assert_eq!(open(scratch.path(), &wanted).unwrap(), Found::New);
        fs::write(path("upper/half"), "").unwrap();
        fs::create_dir_all(path("work").join("work/#1")).unwrap();
        // A machine that ended before it was ready.
        assert_eq!(open(scratch.path(), &wanted).unwrap(), Found::New);
        assert!(!path("upper/half").exists() && !path("work/work").exists());
        mark(scratch.path(), &wanted).unwrap();
        fs::write(path("upper/kept"), "").unwrap();
        fs::create_dir_all(path("over/1/upper")).unwrap();
        assert_eq!(open(scratch.path(), &wanted).unwrap(), Found::Used);
        assert!(path("upper/kept").exists() && !path("over").exists());
        assert_eq!(open(scratch.path(), &prepared(1000, "Asia/Tokyo")).unwrap(), Found::Moved);
        let refused = open(scratch.path(), &prepared(1001, "Europe/Berlin")).unwrap_err();
        assert_eq!(refused.kind().0, FailureKind::BadRequest);
        fs::write(path(MARK), "{").unwrap();
        assert!(open(scratch.path(), &wanted).is_err(), "nothing is removed for what is not understood");
        assert!(path("upper/kept").exists());
    }
}
