//! The disk of a named sandbox that keeps it.
//!
//! While a machine has it, its monitor and its VMM hold a lock on the file; nothing else opens it then. What
//! a host crash, a killed VMM or a power cut leaves is replayed from the file system's journal and mended
//! before the next start; if that does not do it, the disk is left as it is and the start refused, by name.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use viv_image::{DiskCheck, DiskCondition};

use super::state::Request;
use super::store::Store;
use crate::error::{adopt, io};
use crate::{Error, ErrorKind, Paths, Result};

/// The file, in the sandbox's directory.
pub(super) const FILE: &str = "disk";

/// What a disk has room for, its size, is a multiple of this, in bytes. What a machine's monitor appends for
/// its guest is not.
const BLOCK_BYTES: u64 = 4096;

/// Whoever looks whether a disk is in use holds it for an instant, and is not to keep its machine from starting.
const PATIENCE_WITH_LOOKERS: Duration = Duration::from_millis(100);

/// What a kept disk takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskUse {
    /// The file.
    pub path: PathBuf,
    /// The most it may hold, in bytes; it looks as large as this.
    pub cap_bytes: u64,
    /// What it takes of the host, in bytes.
    pub allocated_bytes: u64,
    /// Whether a machine has it, or someone works on it.
    pub in_use: bool,
}

/// Where a named sandbox's disk is, whether it is there or not: for [`crate::SandboxSpec::persistent_disk`].
#[must_use]
pub fn disk_path(paths: &Paths, name: &str) -> PathBuf {
    Store::new(paths).directory(name).join(FILE)
}

/// What a named sandbox's disk takes; none if it has none.
///
/// # Errors
/// [`ErrorKind::NotFound`] for the sandbox, [`ErrorKind::Io`].
pub fn disk_of(paths: &Paths, name: &str) -> Result<Option<DiskUse>> {
    super::find_exactly(paths, name)?;
    let path = disk_path(paths, name);
    let failed = || io(format!("{} cannot be looked at", path.display()));
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed())?,
    };
    let facts = file.metadata().map_err(failed())?;
    let in_use = flock(&file, FlockOperation::NonBlockingLockShared).is_err();
    // stat(2): blocks of 512 bytes, whatever the file system's are.
    Ok(Some(DiskUse { path, cap_bytes: facts.len(), allocated_bytes: facts.blocks() * 512, in_use }))
}

/// Gives what a named sandbox's disk does not use back to the host; returns what it takes then. A machine that
/// runs does so by itself.
///
/// # Errors
/// [`ErrorKind::WrongState`] if it has a machine, [`ErrorKind::NotFound`] without a disk,
/// [`ErrorKind::DiskDamaged`], and if e2fsck is missing.
pub async fn trim_disk(paths: &Paths, name: &str) -> Result<DiskUse> {
    work_on(paths, name, |path| viv_image::check_disk(path, DiskCheck::Trim).map_err(damaged(name))).await
}

/// Makes a named sandbox's disk larger or smaller, and trims it: to `bytes`, a multiple of 4096 between 16 MiB
/// and 16 TiB. Nothing that is on it is lost: it does not become smaller than that.
///
/// # Errors
/// As [`trim_disk`]; `bad_size` for a size that cannot be.
pub async fn resize_disk(paths: &Paths, name: &str, bytes: u64) -> Result<DiskUse> {
    work_on(paths, name, |path| viv_image::resize_disk(path, bytes).map_err(damaged(name))).await
}

/// Removes a named sandbox's disk and all that is on it; the next start makes a new one. That there is none is
/// no error.
///
/// # Errors
/// [`ErrorKind::WrongState`] if it has a machine.
pub async fn discard_disk(paths: &Paths, name: &str) -> Result<()> {
    let life = super::life(paths);
    let busy = life.work_on(name, Request::Change).await?;
    // In this order: what is run once on a new disk is rather run again than never.
    life.disk_is_new(name)?;
    match std::fs::remove_file(disk_path(paths, name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("the disk could not be removed")(error)),
        _ => {
            drop(busy);
            Ok(())
        }
    }
}

async fn work_on(paths: &Paths, name: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<DiskUse> {
    let busy = super::life(paths).work_on(name, Request::Change).await?;
    let path = disk_path(paths, name);
    if !path.exists() {
        return Err(no_disk(name));
    }
    let disk = lock(&path)?;
    drop_appendix(&disk).map_err(io(format!("{} could not be shortened", path.display())))?;
    work(&path)?;
    drop(disk);
    drop(busy);
    disk_of(paths, name)?.ok_or_else(|| no_disk(name))
}

/// Makes sure of a disk before its machine starts: makes it, or mends what an unclean end left. Called with
/// the sandbox claimed.
pub(super) fn prepare(path: &Path, bytes: u64) -> Result<()> {
    if !path.exists() {
        remove_half_made(path);
        return viv_image::make_disk(path, bytes).map_err(adopt);
    }
    let disk = lock(path)?;
    let failed = || io(format!("{} cannot be read", path.display()));
    drop_appendix(&disk).map_err(failed())?;
    let name = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    match viv_image::disk_condition(&disk).map_err(failed())? {
        DiskCondition::Clean => Ok(()),
        DiskCondition::Unclean => viv_image::check_disk(path, DiskCheck::Mend).map_err(damaged(&name)),
        DiskCondition::NotExt4 => {
            Err(Error::new(ErrorKind::DiskDamaged, format!("{} holds no ext4 file system", path.display()))
                .hint(format!("viv disk discard {name}, which loses what was on it")))
        }
    }
}

/// A maker that was killed leaves its file, under a name of its own.
fn remove_half_made(path: &Path) {
    let siblings = path.parent().and_then(|directory| directory.read_dir().ok());
    for sibling in siblings.into_iter().flatten().flatten() {
        if sibling.file_name().as_encoded_bytes().starts_with(viv_image::HALF_MADE_DISK.as_bytes()) {
            // Tried again the next time.
            let _ = std::fs::remove_file(sibling.path());
        }
    }
}

/// Opens a disk for its machine, which holds it as long as the descriptor, or a copy of it, is open.
pub(crate) fn open_kept(path: &Path) -> Result<File> {
    let disk = lock(path)?;
    drop_appendix(&disk).map_err(io(format!("{} could not be shortened", path.display())))?;
    Ok(disk)
}

/// Opens a disk that is to be nobody else's.
fn lock(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(io(format!("{} could not be opened", path.display())))?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE_WITH_LOOKERS => {
                std::thread::sleep(PATIENCE_WITH_LOOKERS / 50);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let used = format!("{} is used by another process", path.display());
                return Err(Error::new(ErrorKind::DiskInUse, used).hint("viv ps"));
            }
            Err(error) => return Err(io(format!("{} could not be locked", path.display()))(error.into())),
        }
    }
}

/// What an earlier machine's monitor appended for its guest is no part of the disk: the file system says how
/// long that is, and one that says it is longer than its file does not grow.
fn drop_appendix(disk: &File) -> std::io::Result<()> {
    let length = disk.metadata()?.len();
    match viv_image::disk_bytes(disk)? {
        Some(bytes) if bytes < length && length - bytes <= BLOCK_BYTES => disk.set_len(bytes),
        _ => Ok(()),
    }
}

fn no_disk(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{name} keeps no disk")).hint("persist = true")
}

/// What e2fsprogs refused, as what it means for a sandbox.
fn damaged(name: &str) -> impl FnOnce(viv_image::Error) -> Error {
    move |error| {
        if *error.kind() != viv_image::ErrorKind::Build {
            return adopt(error);
        }
        let error = adopt(error);
        let hints = [format!("viv disk discard {name}, which loses what was on it")];
        let outer = Error::new(ErrorKind::DiskDamaged, format!("the disk of {name} is damaged")).source(error);
        hints.into_iter().fold(outer, Error::hint)
    }
}
