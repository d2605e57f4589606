//! Who uses what of the cache, so that nothing is removed from under anyone.
//!
//! ```text
//! uses/.lock            shared by who registers a use or keeps something new, exclusive to who removes
//! uses/<name>.<random>  a lease: the paths in use; its holder keeps its flock
//! used/sha256-<hex>     its time of modification is when that blob was last used
//! ```
//!
//! A lease is a file with a list, locked by the process that uses what is on it. The kernel releases the
//! lock when that process ends, however it ends, and the next removal takes the file away. Who removes
//! looks at the leases while nobody can register another, so a path is either on a lease before, and
//! stays, or its user finds it gone, and makes it again.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Cache;
use crate::error::{Result, io_error};

/// A use is recorded if the last record is older: most starts write nothing.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);

/// What a sandbox uses of the cache, which keeps it there. Given back when dropped, or when its process
/// ends.
#[derive(Debug)]
pub struct Lease {
    cache: Cache,
    file: File,
    path: PathBuf,
    content: LeaseContent,
}

/// A lease's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseContent {
    /// Whose it is.
    pub holder: String,
    pub paths: BTreeSet<PathBuf>,
    /// Whether layers are being built, over others that are on no lease yet.
    #[serde(default)]
    pub building: bool,
}

impl Lease {
    /// What is on it.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.content.paths.iter().map(PathBuf::as_path)
    }

    /// Adds what is used from here on, and records the use. Returns whether all of it is there: what
    /// another process has removed meanwhile has to be made again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] and [`crate::ErrorKind::NoSpace`] if that cannot be written.
    pub fn add<'p>(&mut self, paths: impl IntoIterator<Item = &'p Path>) -> Result<bool> {
        let paths: Vec<PathBuf> = paths.into_iter().map(Path::to_path_buf).collect();
        {
            let _present = self.cache.lock_uses(FlockOperation::LockShared)?;
            if !paths.iter().all(|path| path.exists()) {
                return Ok(false);
            }
            self.content.paths.extend(paths.iter().cloned());
            self.write()?;
        }
        let now = SystemTime::now();
        paths.iter().try_for_each(|path| self.cache.record_use(path, now))?;
        Ok(true)
    }

    /// Says that layers are built from here on, or no more: meanwhile no layer is removed, nor what layers
    /// are built over.
    ///
    /// # Errors
    /// As [`Lease::add`].
    pub fn set_building(&mut self, building: bool) -> Result<()> {
        let _present = self.cache.lock_uses(FlockOperation::LockShared)?;
        self.content.building = building;
        self.write()
    }

    /// Writes the list; with the lock of uses held, so that who removes sees it whole.
    fn write(&mut self) -> Result<()> {
        let mut write = || {
            self.file.rewind()?;
            self.file.set_len(0)?;
            serde_json::to_writer(&mut self.file, &self.content)?;
            self.file.flush()
        };
        write().map_err(io_error("write", &self.path))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Left over, it would be removed by the next removal.
        let _ = fs::remove_file(&self.path);
    }
}

impl Cache {
    /// A lease for `holder`, such as a sandbox's id, with nothing on it yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] and [`crate::ErrorKind::NoSpace`] if it cannot be written.
    pub fn lease(&self, holder: &str) -> Result<Lease> {
        let _present = self.lock_uses(FlockOperation::LockShared)?;
        let directory = self.directory("uses")?;
        let plain: String = holder.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
        let (file, path) = tempfile::Builder::new()
            .prefix(&format!("{plain}."))
            .tempfile_in(&directory)
            .and_then(|file| Ok(file.keep()?))
            .map_err(io_error("make a file in", &directory))?;
        // Who lists leases may have it for a moment.
        lock_file(&file, &path, FlockOperation::LockExclusive)?;
        let content = LeaseContent { holder: holder.to_owned(), ..LeaseContent::default() };
        Ok(Lease { cache: self.clone(), file, path, content })
    }

    /// Keeps what is there from being removed, or whoever registers a use from doing so, until dropped.
    pub(crate) fn lock_uses(&self, operation: FlockOperation) -> Result<File> {
        let path = self.directory("uses")?.join(".lock");
        let file = super::lock::open(&path).map_err(io_error("open", &path))?;
        lock_file(&file, &path, operation)?;
        Ok(file)
    }

    /// The leases that are held. Leftovers are taken away where `sweep` says so, for which the lock of
    /// uses has to be held exclusively.
    pub(crate) fn leases(&self, sweep: bool) -> Result<Vec<LeaseContent>> {
        let directory = self.directory("uses")?;
        let mut leases = Vec::new();
        for entry in fs::read_dir(&directory).map_err(io_error("list", &directory))?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            // Given back this moment, if it cannot be opened.
            let Ok(file) = File::open(&path) else { continue };
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) if sweep => {
                    let _ = fs::remove_file(&path);
                }
                Ok(()) => {}
                Err(_) => {
                    let content = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
                    leases.push(content.unwrap_or_default());
                }
            }
        }
        Ok(leases)
    }

    /// Where it is recorded when a blob was last used.
    pub(crate) fn use_record(&self, digest: &str) -> PathBuf {
        self.root.join("used").join(format!("sha256-{digest}"))
    }

    /// When a blob was last used, if that is known.
    pub(crate) fn last_use(&self, digest: &str) -> Option<SystemTime> {
        self.use_record(digest).metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// Records that a file of the cache is used now, if it is a blob.
    pub(crate) fn record_use(&self, path: &Path, now: SystemTime) -> Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("sha256-"));
        let Some(digest) = name.filter(|_| path.starts_with(&self.root)) else { return Ok(()) };
        let recent = |last: SystemTime| now.duration_since(last).is_ok_and(|age| age < USE_GRANULARITY);
        if self.last_use(digest).is_some_and(recent) {
            return Ok(());
        }
        self.directory("used")?;
        let record = self.use_record(digest);
        super::lock::open(&record)
            .and_then(|file| file.set_times(FileTimes::new().set_modified(now)))
            .map_err(io_error("write", &record))
    }
}

/// Waits for a lock.
fn lock_file(file: &File, path: &Path, operation: FlockOperation) -> Result<()> {
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(io_error("lock", path)(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_as_long_as_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blob = cache.directory("blobs").unwrap().join("sha256-aa");
        let mut lease = cache.lease("3f2a../x").unwrap();
        assert!(!lease.add([blob.as_path()]).unwrap(), "it is not there");
        fs::write(&blob, "").unwrap();
        assert!(lease.add([blob.as_path()]).unwrap());
        let held = cache.leases(true).unwrap();
        assert_eq!(held[0].holder, "3f2a../x");
        assert_eq!(held[0].paths, BTreeSet::from([blob.clone()]));
        assert!(cache.last_use("aa").is_some());
        let path = lease.path.clone();
        // As if killed: the lock goes, the file stays.
        flock(&lease.file, FlockOperation::Unlock).unwrap();
        assert_eq!(cache.leases(false).unwrap(), []);
        assert!(path.exists());
        assert_eq!(cache.leases(true).unwrap(), []);
        assert!(!path.exists());
        drop(lease);
        drop(cache.lease("b").unwrap());
        assert_eq!(fs::read_dir(directory.path().join("uses")).unwrap().count(), 1, "only the lock is left");
    }

    #[test]
    fn a_use_is_recorded_once_an_hour() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blob = cache.blob(&"a".repeat(64));
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let used = |after: u64| {
            cache.record_use(&blob, begin + Duration::from_secs(after)).unwrap();
            cache.last_use(&"a".repeat(64)).unwrap().duration_since(begin).unwrap().as_secs()
        };
        assert_eq!([0, 10, 3599, 3600, 3700].map(used), [0, 0, 0, 3600, 3600]);
        cache.record_use(Path::new("/elsewhere/sha256-bb"), begin).unwrap();
        assert_eq!(cache.last_use("bb"), None);
    }
}
