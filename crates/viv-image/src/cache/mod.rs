//! The cache: what is made once and used by every sandbox.
//!
//! ```text
//! blobs/sha256-<hex>          the things themselves, named by their content, read-only
//! refs/<kind>/<key>.json      what a recipe made: the names, digests and stamps of its blobs
//! locks/<kind>-<key>          whoever holds its flock makes that recipe's things
//! tmp/<kind>-<key>.<random>/  a build on its way
//! scratch/<bytes>-v<n>.ext4   templates of scratch disks
//! confined/                   where layers are built, owned by other ids: see `packages::workshop`
//! kernels/selected            the digest of the own kernel that is used where none is named
//! uses/, used/                what is used now, and when it was used last
//! ```
//!
//! A key is a digest of the recipe, so a changed recipe makes anew and an old one stays until someone
//! deletes it. Everything here can be deleted at any time; what is being made then fails or is made
//! again.
//!
//! ```text
//!            stamp equal                        lock free                renamed, then the ref
//! lookup ------------------> used      missing ----------> building -------------------------> used
//!   |  stamp differs, digest equal       ^   | lock taken                 |
//!   +---------------> stamped anew, used |   +-------> waiting -> lookup  | killed
//!   |  digest differs, cut short, gone   |                                v
//!   +------------------------------------+          next builder removes what it left
//! ```
//!
//! The fast check is one `stat` per blob: size, times and inode equal to those recorded when the
//! content was last read. Only if they differ is the content read again.

mod blob;
mod leftovers;
mod listing;
mod lock;
mod uses;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result, io_error};
use crate::progress::{Progress, ProgressEvent};
pub use blob::Stamp;
pub(crate) use blob::{hash_file, hex_digest_of};
pub(crate) use leftovers::{Outside, sweep as sweep_leftovers};
pub(crate) use listing::Kept;
pub(crate) use lock::{Lock, is_at};
pub use uses::Lease;

/// The version of the ref files; others count as missing.
const FORMAT: u32 = 1;

/// A cache directory. Cheap to open: nothing is read.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// How to make something, as far as the cache needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// `kernel`, `root`, ...
    pub kind: &'static str,
    /// Everything that decides about the result. The key is its digest.
    pub text: String,
    /// What is made, for people: "the root image".
    pub what: String,
}

impl Recipe {
    fn key(&self) -> String {
        let mut key = hex_digest_of(self.text.as_bytes());
        key.truncate(24);
        key
    }
}

/// What a recipe made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    format: u32,
    /// The first line of the recipe, for people who look into the file.
    recipe: String,
    /// What else is known of it, such as the kernel's release.
    pub facts: BTreeMap<String, String>,
    pub files: Vec<MadeFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MadeFile {
    pub name: String,
    pub digest: String,
    pub stamp: Stamp,
}

impl Made {
    /// One digest for all of it: of the names and digests of its files.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for file in &self.files {
            hasher.update(format!("{} {}\n", file.name, file.digest));
        }
        hex::encode(hasher.finalize())
    }

    /// The first line of what it was made by.
    pub(crate) fn recipe_line(&self) -> &str {
        &self.recipe
    }

    pub(crate) fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }
}

/// What a build hands over: files within its [`Staging`] directory.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub facts: BTreeMap<String, String>,
    /// Names, and the files to be moved into the cache.
    pub files: Vec<(String, PathBuf)>,
}

/// Where a build works.
#[derive(Debug)]
pub(crate) struct Staging<'a> {
    /// An empty directory within the cache.
    pub directory: &'a Path,
    /// The lock this build holds; tools that run for it hold it too.
    pub lock: &'a Lock,
}

/// What a look into the cache finds.
#[derive(Debug)]
enum Lookup {
    Usable(Made),
    Missing,
    /// Why, as a clause.
    Damaged(String),
}

impl Cache {
    /// Opens the cache at `root`, which is made if need be, with mode 0700.
    ///
    /// # Errors
    /// [`ErrorKind::Cache`] if it belongs to someone else; [`ErrorKind::Io`] and
    /// [`ErrorKind::NoSpace`] if it cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        make_directory(root)?;
        let metadata = root.metadata().map_err(io_error("look at", root))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::new(ErrorKind::Cache, format!("the cache {} belongs to another user", root.display()))
                .hint("name another with XDG_CACHE_HOME"));
        }
        // Who can write here decides what kernel a sandbox boots.
        if metadata.mode() & 0o077 != 0 {
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(root, mode).map_err(io_error("change the mode of", root))?;
        }
        // What is recorded and handed out holds wherever the caller goes.
        let root = root.canonicalize().map_err(io_error("look at", root))?;
        Ok(Self { root })
    }

    /// Its directory, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where content of that digest lies.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(format!("sha256-{digest}"))
    }

    /// A subdirectory, made if need be.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        make_directory(&path)?;
        Ok(path)
    }

    /// What the recipe makes, made now if it is not there or damaged. One process at a time makes it,
    /// others wait.
    ///
    /// # Errors
    /// Those of `build`, and those of reading and writing the cache.
    pub(crate) fn ensure(
        &self,
        recipe: &Recipe,
        progress: &dyn Progress,
        build: impl FnOnce(&Staging<'_>) -> Result<Built>,
    ) -> Result<Made> {
        self.ensure_if(recipe, &|_| true, progress, build)
    }

    /// As [`Cache::ensure`], but what is there and is not `usable` is made again, and kept until it has been.
    pub(crate) fn ensure_if(
        &self,
        recipe: &Recipe,
        usable: &dyn Fn(&Made) -> bool,
        progress: &dyn Progress,
        build: impl FnOnce(&Staging<'_>) -> Result<Built>,
    ) -> Result<Made> {
        match self.lookup(recipe)? {
            Lookup::Usable(made) if usable(&made) => return Ok(made),
            _ => {}
        }
        let lock_name = format!("{}-{}", recipe.kind, recipe.key());
        let mut waited = false;
        let lock = Lock::acquire(&self.directory("locks")?, &lock_name, &mut || {
            waited = true;
            progress.event(ProgressEvent::Waiting { what: recipe.what.clone() });
        })?;
        // Whoever held the lock may have made it.
        match self.lookup(recipe)? {
            Lookup::Usable(made) if usable(&made) => {
                if waited {
                    progress.event(ProgressEvent::Finished);
                }
                return Ok(made);
            }
            Lookup::Damaged(why) => {
                let message = format!("{} in the cache is damaged ({why}): making it again", recipe.what);
                progress.event(ProgressEvent::Step { message });
                self.forget(recipe)?;
            }
            Lookup::Usable(_) | Lookup::Missing => {}
        }
        leftovers::sweep(self, &lock, progress)?;
        progress.event(ProgressEvent::Started { what: recipe.what.clone() });
        let directory = tempfile::Builder::new()
            .prefix(&format!("{lock_name}."))
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(self.directory("tmp")?)
            .map_err(io_error("make a directory in", &self.root))?;
        let staging = Staging { directory: directory.path(), lock: &lock };
        let made = self.keep(recipe, build(&staging)?)?;
        progress.event(ProgressEvent::Finished);
        Ok(made)
    }

    /// Whether what the recipe makes is there, as far as one `stat` per file tells. Changes nothing.
    pub(crate) fn has(&self, recipe: &Recipe) -> bool {
        self.peek(recipe).is_some()
    }

    /// What the recipe made, if it is there as far as one `stat` per file tells. Changes nothing.
    pub(crate) fn peek(&self, recipe: &Recipe) -> Option<Made> {
        self.known(recipe).filter(|made| self.is_whole(made))
    }

    /// Whether every file is there in its size.
    fn is_whole(&self, made: &Made) -> bool {
        let whole =
            |file: &MadeFile| Stamp::of(&self.blob(&file.digest)).is_ok_and(|stamp| stamp.size == file.stamp.size);
        made.files.iter().all(whole)
    }

    fn ref_path(&self, recipe: &Recipe) -> PathBuf {
        self.root.join("refs").join(recipe.kind).join(format!("{}.json", recipe.key()))
    }

    /// What the recipe made, whether that is still there or not.
    pub(crate) fn known(&self, recipe: &Recipe) -> Option<Made> {
        Self::read_made(&self.ref_path(recipe))
    }

    /// A ref that cannot be read counts as none: it is written again.
    fn read_made(path: &Path) -> Option<Made> {
        let made: Made = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let plain = |file: &MadeFile| file.digest.len() == 64 && file.digest.bytes().all(|b| b.is_ascii_hexdigit());
        (made.format == FORMAT && made.files.iter().all(plain)).then_some(made)
    }

    fn lookup(&self, recipe: &Recipe) -> Result<Lookup> {
        self.lookup_at(&self.ref_path(recipe))
    }

    fn lookup_at(&self, reference: &Path) -> Result<Lookup> {
        let Some(mut made) = Self::read_made(reference) else { return Ok(Lookup::Missing) };
        let mut restamped = false;
        for file in &mut made.files {
            let path = self.blob(&file.digest);
            let stamp = match Stamp::of(&path) {
                Ok(stamp) => stamp,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Lookup::Missing),
                Err(error) => return Err(io_error("look at", &path)(error)),
            };
            if stamp == file.stamp {
                continue;
            }
            if stamp.size != file.stamp.size {
                let why = format!("{} has {} bytes instead of {}", file.name, stamp.size, file.stamp.size);
                return Ok(Lookup::Damaged(why));
            }
            if hash_file(&path).map_err(io_error("read", &path))? != file.digest {
                return Ok(Lookup::Damaged(format!("{} has other content", file.name)));
            }
            file.stamp = stamp;
            restamped = true;
        }
        if restamped {
            self.write_ref(reference, &made)?;
        }
        Ok(Lookup::Usable(made))
    }

    /// Removes a ref and the blobs of it that are damaged.
    fn forget(&self, recipe: &Recipe) -> Result<()> {
        let Some(made) = self.known(recipe) else { return Ok(()) };
        for file in &made.files {
            let path = self.blob(&file.digest);
            if hash_file(&path).is_ok_and(|digest| digest != file.digest) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        self.forget_reference(recipe)
    }

    /// Removes a ref, and not what it leads to.
    pub(crate) fn forget_reference(&self, recipe: &Recipe) -> Result<()> {
        let path = self.ref_path(recipe);
        fs::remove_file(&path).map_err(io_error("remove", &path))
    }

    /// Moves what was built into the cache and records it: the blobs first, the ref last.
    fn keep(&self, recipe: &Recipe, built: Built) -> Result<Made> {
        self.directory("blobs")?;
        let mut hashed = Vec::new();
        for (name, path) in built.files {
            let digest = hash_file(&path).map_err(io_error("read", &path))?;
            hashed.push((name, path, digest));
        }
        // A blob without a ref is taken for a leftover by whoever removes.
        let _present = self.lock_uses(FlockOperation::LockShared)?;
        let mut files = Vec::new();
        for (name, path, digest) in hashed {
            let blob = self.blob(&digest);
            let same = hash_file(&blob).is_ok_and(|present| present == digest);
            if !same {
                let settle = || {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o400))?;
                    // The name must not outlive a crash that the content does not.
                    File::open(&path)?.sync_data()?;
                    fs::rename(&path, &blob)
                };
                settle().map_err(io_error("write", &blob))?;
            }
            let stamp = Stamp::of(&blob).map_err(io_error("look at", &blob))?;
            files.push(MadeFile { name, digest, stamp });
        }
        let recipe_line = recipe.text.lines().next().unwrap_or_default().to_owned();
        let made = Made { format: FORMAT, recipe: recipe_line, facts: built.facts, files };
        self.directory("refs").and_then(|_| self.directory(&format!("refs/{}", recipe.kind)))?;
        self.write_ref(&self.ref_path(recipe), &made)?;
        Ok(made)
    }

    /// Writes a ref, in place of the one that may be there.
    fn write_ref(&self, path: &Path, made: &Made) -> Result<()> {
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(&self.root))?;
            serde_json::to_writer_pretty(&mut file, made)?;
            file.flush()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(io_error("write", path))
    }
}

/// Makes a directory and those above it, 0700.
fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the directory", path))
}

#[cfg(test)]
mod tests;
