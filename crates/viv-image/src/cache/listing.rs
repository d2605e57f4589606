//! What the cache keeps, and removing it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{Cache, Lock, Lookup, Made};
use crate::error::{Error, ErrorKind, Result, io_error};

/// Something the cache keeps, found without its recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Names it among those of its kind.
    key: String,
    pub made: Made,
}

impl Kept {
    /// The lock of whoever makes it.
    pub(crate) fn lock_name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.key)
    }
}

impl Cache {
    /// Whatever of that kind is there, as far as one `stat` per file tells, in no order.
    pub(crate) fn kept(&self, kind: &str) -> Result<Vec<Kept>> {
        let directory = self.root.join("refs").join(kind);
        let mut kept = Vec::new();
        for path in references(&directory)? {
            let key = path.file_stem().and_then(|stem| stem.to_str());
            let made = Self::read_made(&path).filter(|made| self.is_whole(made));
            if let (Some(key), Some(made)) = (key, made) {
                kept.push(Kept { key: key.to_owned(), made });
            }
        }
        Ok(kept)
    }

    /// Whether it is still what was made: its content is read again if anything about its files
    /// changed.
    pub(crate) fn is_intact(&self, kind: &str, kept: &Kept) -> Result<bool> {
        Ok(matches!(self.lookup_at(&self.reference(kind, kept))?, Lookup::Usable(_)))
    }

    /// Removes it, and those of its files that nothing else uses.
    ///
    /// # Errors
    /// [`ErrorKind::Cache`] if it is being made again right now.
    pub(crate) fn remove(&self, kind: &str, what: &str, kept: &Kept) -> Result<()> {
        let Some(_lock) = Lock::try_acquire(&self.directory("locks")?, &kept.lock_name(kind))? else {
            return Err(Error::new(ErrorKind::Cache, format!("another viv is making {what}")));
        };
        let _nobody_begins = self.lock_uses(FlockOperation::LockExclusive)?;
        self.remove_references([(kind, kept)])?;
        let used = self.referenced()?;
        for file in kept.made.files.iter().filter(|file| !used.contains(&file.digest)) {
            remove_file(&self.blob(&file.digest))?;
        }
        Ok(())
    }

    /// Removes refs and nothing they lead to.
    pub(crate) fn remove_references<'k>(&self, kept: impl IntoIterator<Item = (&'k str, &'k Kept)>) -> Result<()> {
        kept.into_iter().try_for_each(|(kind, kept)| remove_file(&self.reference(kind, kept)))
    }

    /// The digests of all blobs that a ref leads to.
    pub(crate) fn referenced(&self) -> Result<BTreeSet<String>> {
        let mut used = BTreeSet::new();
        let kinds = self.directory("refs")?;
        for entry in fs::read_dir(&kinds).map_err(io_error("list", &kinds))?.flatten() {
            for made in references(&entry.path())?.iter().filter_map(|path| Self::read_made(path)) {
                used.extend(made.files.into_iter().map(|file| file.digest));
            }
        }
        Ok(used)
    }

    fn reference(&self, kind: &str, kept: &Kept) -> PathBuf {
        self.root.join("refs").join(kind).join(format!("{}.json", kept.key))
    }
}

/// The refs in a directory; none if there is no such directory.
fn references(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", directory)(error)),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect())
}

/// Removes a file that someone else may have removed.
fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Built, Recipe};
    use super::*;
    use crate::progress::NoProgress;

    fn made(cache: &Cache, kind: &'static str, text: &str, content: &str) -> Made {
        let recipe = Recipe { kind, text: text.to_owned(), what: "the thing".to_owned() };
        let build = |staging: &super::super::Staging<'_>| {
            let path = staging.directory.join("out");
            fs::write(&path, content).unwrap();
            Ok(Built { facts: BTreeMap::new(), files: vec![("out".to_owned(), path)] })
        };
        cache.ensure(&recipe, &NoProgress, build).unwrap()
    }

    #[test]
    fn only_what_nothing_else_uses_goes() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        assert_eq!(cache.kept("thing").unwrap(), []);
        let shared = made(&cache, "thing", "a", "shared");
        made(&cache, "other", "b", "shared");
        let alone = made(&cache, "thing", "c", "alone");
        for kept in cache.kept("thing").unwrap() {
            assert!(cache.is_intact("thing", &kept).unwrap());
            cache.remove("thing", "the thing", &kept).unwrap();
        }
        assert_eq!(cache.kept("thing").unwrap(), []);
        assert!(cache.blob(&shared.files[0].digest).exists());
        assert!(!cache.blob(&alone.files[0].digest).exists());
        assert_eq!(cache.kept("other").unwrap().len(), 1);
    }

    #[test]
    fn what_is_gone_is_not_listed_and_what_is_changed_not_intact() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let blob = cache.blob(&made(&cache, "thing", "a", "hello").files[0].digest);
        let kept = cache.kept("thing").unwrap().remove(0);
        fs::remove_file(&blob).unwrap();
        fs::write(&blob, "HELLO").unwrap();
        assert_eq!(cache.kept("thing").unwrap(), std::slice::from_ref(&kept));
        assert!(!cache.is_intact("thing", &kept).unwrap());
        fs::write(&blob, "HELL").unwrap();
        assert_eq!(cache.kept("thing").unwrap(), []);
    }

    #[test]
    fn what_is_being_made_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        made(&cache, "thing", "a", "hello");
        let kept = cache.kept("thing").unwrap().remove(0);
        let locks = cache.directory("locks").unwrap();
        let _held = Lock::try_acquire(&locks, &format!("thing-{}", kept.key)).unwrap().unwrap();
        let error = cache.remove("thing", "the thing", &kept).unwrap_err();
        assert_eq!(error.to_string(), "another viv is making the thing");
        assert_eq!(cache.kept("thing").unwrap().len(), 1);
    }
}
