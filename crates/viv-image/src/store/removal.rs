//! Removing from the cache what nobody uses.
//!
//! One process removes at a time. Each thing goes in one step, while nobody can register a use: its refs
//! first, then its file is moved away, and deleted once all is done. Killed in between, the refs are gone
//! and a file without one is left, which the next removal finds; no ref is ever without its file.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::Serialize;

use super::{Reference, Stored, StoredKind, list_stored};
use crate::cache::{Cache, Lock, sweep_leftovers};
use crate::error::{Result, io_error};
use crate::packages::{CONFINED, Workshop};
use crate::progress::NoProgress;

/// The lock of who removes, and the beginning of the name of the directory it moves things to.
const REMOVAL: &str = "removal";

/// What to do.
pub struct RemovalRequest<'a> {
    /// Only says what would go.
    pub dry_run: bool,
    /// Gives up at once if another process is removing: it does what is to be done.
    pub only_if_idle: bool,
    /// Who else uses a file, besides the holders of leases: a clause such as "template 3f2a is made from it".
    pub in_use: &'a dyn Fn(&Path) -> Option<String>,
}

/// What came of a removal.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// What is gone.
    pub removed: Vec<Stored>,
    /// What stayed although it was chosen.
    pub kept: Vec<Kept>,
    /// How many leftovers of killed processes went besides.
    pub leftovers: usize,
    /// Bytes.
    pub freed_bytes: u64,
}

/// What stayed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// It.
    pub stored: Stored,
    /// Who uses it: ids of sandboxes, or other holders of leases.
    pub holders: Vec<String>,
    /// Why it stays, as a clause, where it is no holder.
    pub because: Option<String>,
}

/// Removes those that `choose` picks, by their place in the list, unless someone uses them.
///
/// # Errors
/// [`crate::ErrorKind::Io`] if one cannot be removed.
pub fn remove_stored(
    cache: &Cache,
    request: &RemovalRequest<'_>,
    choose: impl FnOnce(&[Stored]) -> Vec<usize>,
) -> Result<Freed> {
    let locks = cache.directory("locks")?;
    let lock = if request.only_if_idle {
        let Some(lock) = Lock::try_acquire(&locks, REMOVAL)? else { return Ok(Freed::default()) };
        lock
    } else {
        Lock::acquire(&locks, REMOVAL, &mut || {})?
    };
    let stored = list_stored(cache)?;
    let chosen: BTreeSet<usize> = choose(&stored).into_iter().collect();
    let mut freed = Freed::default();
    let trash = Trash::new(cache, lock)?;
    for (_, stored) in stored.into_iter().enumerate().filter(|(at, _)| chosen.contains(at)) {
        let kept = trash.take(&stored, request)?;
        match kept {
            None => {
                freed.freed_bytes += stored.size;
                freed.removed.push(stored);
            }
            Some(kept) => freed.kept.push(kept),
        }
    }
    let (leftovers, bytes) = trash.take_leftovers(request.dry_run)?;
    freed.leftovers = leftovers;
    freed.freed_bytes += bytes;
    trash.empty()?;
    Ok(freed)
}

/// Where removed things are before they are deleted, on the cache's file system.
struct Trash<'a> {
    cache: &'a Cache,
    lock: Lock,
    directory: tempfile::TempDir,
}

/// What builds keep in `confined` stays within its directory, under such a name: it belongs to other ids,
/// so this user cannot move it elsewhere.
const GONE: &str = ".gone-";

impl<'a> Trash<'a> {
    /// Also removes what a killed removal left.
    fn new(cache: &'a Cache, lock: Lock) -> Result<Self> {
        let tmp = cache.directory("tmp")?;
        let prefix = format!("{REMOVAL}.");
        for entry in fs::read_dir(&tmp).map_err(io_error("list", &tmp))?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                open_up(&entry.path());
            }
        }
        sweep_leftovers(cache, &lock, &NoProgress)?;
        let directory = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(tmp)
            .map_err(io_error("make a directory in", cache.root()))?;
        Ok(Self { cache, lock, directory })
    }

    /// Takes one thing out of the cache, or says why it stays.
    fn take(&self, stored: &Stored, request: &RemovalRequest<'_>) -> Result<Option<Kept>> {
        let stays =
            |holders: Vec<String>, because: Option<String>| Ok(Some(Kept { stored: stored.clone(), holders, because }));
        if let Some(why) = (request.in_use)(&stored.path) {
            return stays(Vec::new(), Some(why));
        }
        if !self.owns_blobs() {
            return stays(Vec::new(), Some("its directory is a link to another cache's".to_owned()));
        }
        let locks = self.cache.directory("locks")?;
        let mut held = Vec::new();
        for name in lock_names(stored) {
            match Lock::try_acquire(&locks, &name)? {
                Some(lock) => held.push(lock),
                None => return stays(Vec::new(), Some("another viv is making or using it".to_owned())),
            }
        }
        let _nobody_begins = self.cache.lock_uses(FlockOperation::LockExclusive)?;
        let leases = self.cache.leases(true)?;
        // A tree is below builds over what it was unpacked from.
        let unpacked_from = self.cache.blob(&stored.digest);
        let holders: Vec<String> = leases
            .iter()
            .filter(|lease| lease.paths.contains(&stored.path) || lease.paths.contains(&unpacked_from))
            .map(|lease| lease.holder.clone())
            .collect();
        if !holders.is_empty() {
            return stays(holders, None);
        }
        if stored.kind != StoredKind::Image && leases.iter().any(|lease| lease.building) {
            return stays(Vec::new(), Some("another viv is building layers".to_owned()));
        }
        if !request.dry_run {
            self.cache.remove_references(stored.references.iter().map(|Reference { kind, kept }| (&**kind, kept)))?;
            // What else they led to is a leftover now, if nothing leads to it any more.
            if stored.references.is_empty() {
                let name = stored.path.file_name().unwrap_or_default().to_string_lossy();
                let gone = stored.path.with_file_name(format!("{GONE}{name}"));
                fs::rename(&stored.path, &gone).map_err(io_error("remove", &stored.path))?;
            } else {
                self.move_away(&stored.path)?;
                let _ = fs::remove_file(self.cache.use_record(&stored.digest));
            }
        }
        Ok(None)
    }

    /// Whether the blobs are this cache's: to those behind a link, others may have refs.
    fn owns_blobs(&self) -> bool {
        !self.cache.root().join("blobs").is_symlink()
    }

    /// Takes blobs that no ref leads to: their builder, or a removal, was killed.
    fn take_leftovers(&self, dry_run: bool) -> Result<(usize, u64)> {
        if !self.owns_blobs() {
            return Ok((0, 0));
        }
        let _nobody_begins = self.cache.lock_uses(FlockOperation::LockExclusive)?;
        let referenced = self.cache.referenced()?;
        let leased: BTreeSet<PathBuf> = self.cache.leases(true)?.into_iter().flat_map(|lease| lease.paths).collect();
        let blobs = self.cache.directory("blobs")?;
        let (mut count, mut bytes) = (0, 0);
        for entry in fs::read_dir(&blobs).map_err(io_error("list", &blobs))?.flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let Some(digest) = name.to_str().and_then(|name| name.strip_prefix("sha256-")) else { continue };
            if referenced.contains(digest) || leased.contains(&path) {
                continue;
            }
            count += 1;
            bytes += entry.metadata().map_or(0, |metadata| metadata.blocks() * 512);
            if !dry_run {
                self.move_away(&path)?;
            }
        }
        // Records of uses of what is gone.
        let used = self.cache.root().join("used");
        for entry in fs::read_dir(&used).into_iter().flatten().flatten() {
            if !dry_run && !blobs.join(entry.file_name()).exists() {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok((count, bytes))
    }

    fn move_away(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        match fs::rename(path, self.directory.path().join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Deletes what was moved away, now or by a removal that was killed.
    fn empty(self) -> Result<()> {
        let confined = self.cache.root().join(CONFINED);
        for part in ["trees", "downloads"] {
            for entry in fs::read_dir(confined.join(part)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // What is this user's own needs no namespace.
                if name.starts_with(GONE) && fs::remove_dir_all(entry.path()).is_err() {
                    open_up(&entry.path());
                    Workshop::open(self.cache)?.remove(&format!("{part}/{name}"), &self.lock.file)?;
                }
            }
        }
        let path = self.directory.path().to_path_buf();
        if self.directory.close().is_ok() {
            return Ok(());
        }
        // An unpacked image may have directories that their owner may not write to.
        open_up(&path);
        fs::remove_dir_all(&path).map_err(io_error("remove", &path))
    }
}

/// The locks that say that it is being made or built upon.
fn lock_names(stored: &Stored) -> Vec<String> {
    let of_tree = (stored.kind == StoredKind::Tree).then(|| format!("tree-{}", stored.digest));
    stored.references.iter().map(|Reference { kind, kept }| kept.lock_name(kind)).chain(of_tree).collect()
}

/// Lets this user remove everything below a directory.
fn open_up(directory: &Path) {
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
