//! Where templates are kept.
//!
//! ```text
//! cache/templates/            0700
//!   <key>/                    0700, appears and disappears by a rename
//!     template.json           0600: what it is; its time of modification is that of its last use
//!     memory                  0600, sparse: the machine's memory
//!     devices                 0600: the state of its devices
//!     scratch                 0600, sparse: its disk
//!   .new-<key>-<random>/      one on its way; the maker holds the lock of its file `lock`
//!   .lock-<key>               held by the maker
//!   .failed-<key>.json        why the last attempt to make it failed
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom, flock, openat, renameat_with};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use viv_error::Report;
use viv_image::Stamp;
use viv_proto::handshake::{TOKEN_BYTES, Token};

use super::{FORMAT, Ingredients, TemplatePlan};
use crate::error::io;
use crate::spec::random_bytes;
use crate::{Error, ErrorKind, Paths, Result};

const DESCRIPTION: &str = "template.json";
pub(super) const MEMORY: &str = "memory";
pub(super) const DEVICES: &str = "devices";
pub(super) const SCRATCH: &str = "scratch";
const LOCK: &str = "lock";

/// A guest's clock may run wrong by this much between two looks at it: 6 ms in a minute.
const CLOCK_TOLERANCE_PPM: u64 = 100;

/// After a failed attempt, how long until the next one that nobody asked for.
const FAILURE_COOLS_IN: Duration = Duration::from_secs(600);

/// How many templates are kept when another one is made; the least recently used go.
const MOST_KEPT: usize = 16;

/// A template that was not used for so long goes when another one is made.
const KEPT_UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// One of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    /// SHA-256 of what is not zero.
    digest: String,
    stamp: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub format: u32,
    pub key: String,
    /// What its guest says it is.
    pub id: String,
    /// What the first session on its link begins with, in hexadecimal.
    pub link_token: String,
    pub tsc_khz: Option<u32>,
    pub created_at_unix_ms: u64,
    pub ingredients: Ingredients,
    pub files: Vec<PathBuf>,
    pub memory: Content,
    pub devices: Content,
    pub scratch: Content,
}

/// A template, as others see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TemplateInfo {
    /// Its key.
    pub key: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at_unix_ms: u64,
    /// When it was last used, or made; milliseconds since the Unix epoch.
    pub used_at_unix_ms: u64,
    /// What it takes on disk, in bytes.
    pub disk_bytes: u64,
    /// Everything that decides whether it fits.
    pub ingredients: Ingredients,
    /// The rate of the time-stamp counter that its guest goes by, in kHz, if it does.
    pub tsc_khz: Option<u32>,
    /// The files its machine is made from.
    pub files: Vec<PathBuf>,
}

/// What was removed.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Templates.
    pub templates: Vec<TemplateInfo>,
    /// What makers that were killed left, and what nobody can read any more.
    pub leftovers: usize,
    /// What all of it took on disk, in bytes.
    pub freed_bytes: u64,
}

/// A template in use: nobody can take it away any more.
pub(crate) struct Opened {
    pub(crate) id: String,
    pub(crate) token: Token,
    pub(crate) memory: File,
    pub(crate) devices: File,
    pub(crate) scratch: File,
}

/// Why there is none to use.
#[derive(Debug)]
pub(crate) struct Miss {
    pub(crate) reason: String,
    /// Whether one should be made.
    pub(crate) make: bool,
}

#[derive(Serialize, Deserialize)]
struct Failure {
    at_unix_ms: u64,
    report: Report,
}

/// The templates of a cache.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(paths: &Paths) -> Self {
        Self { root: paths.cache.join("templates") }
    }

    fn directory(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// The template of a plan, if there is one that can be used. One that cannot is removed.
    pub(crate) fn open(&self, plan: &TemplatePlan) -> std::result::Result<Opened, Miss> {
        let place = self.directory(&plan.key);
        let why = loop {
            match open_directory(&place) {
                Ok(directory) => match self.open_in(&directory, plan) {
                    Ok(opened) => return Ok(opened),
                    // Replaced or removed while it was looked at: what is there now may be good.
                    Err(_) if !is_at(&directory, &place) => {}
                    Err(why) => break why,
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.none(plan)),
                Err(error) => break format!("it cannot be opened: {error}"),
            }
        };
        // If it stays, the next start finds the same.
        let _ = self.remove(&plan.key);
        Err(Miss { reason: format!("its template was dropped: {why}"), make: true })
    }

    /// What the guest of a template says it is; `None` if there is no such template.
    pub(crate) fn id_of(&self, key: &str) -> Option<String> {
        let text = fs::read(self.directory(key).join(DESCRIPTION)).ok()?;
        serde_json::from_slice::<Description>(&text).ok().map(|known| known.id)
    }

    fn none(&self, plan: &TemplatePlan) -> Miss {
        let failure = fs::read(self.failure_path(&plan.key)).ok();
        let failure = failure.and_then(|text| serde_json::from_slice::<Failure>(&text).ok());
        // One from the future tells of a clock that was set since.
        let is_recent = |failure: &Failure| failure.at_unix_ms <= now() && since(failure.at_unix_ms) < FAILURE_COOLS_IN;
        match failure.filter(is_recent) {
            Some(failure) => {
                Miss { reason: format!("making its template failed: {}", failure.report.line()), make: false }
            }
            None => Miss { reason: "there is no template of this image and shape yet".to_owned(), make: true },
        }
    }

    fn open_in(&self, directory: &File, plan: &TemplatePlan) -> std::result::Result<Opened, String> {
        let words = |error: io::Error| error.to_string();
        let mut description = File::from(open_within(directory, DESCRIPTION, OFlags::RDONLY).map_err(words)?);
        let mut known: Description = serde_json::from_reader(&mut description).map_err(|error| error.to_string())?;
        if known.format != FORMAT || known.key != plan.key || known.ingredients != plan.ingredients {
            return Err("it is another one's".to_owned());
        }
        if !same_rate(known.tsc_khz, plan.tsc_khz) {
            return Err("the host's clock runs at another rate than when it was made".to_owned());
        }
        let mut token = Token::default();
        hex::decode_to_slice(&known.link_token, &mut token).map_err(|error| error.to_string())?;
        let memory = File::from(open_within(directory, MEMORY, OFlags::RDONLY).map_err(words)?);
        let devices = File::from(open_within(directory, DEVICES, OFlags::RDONLY).map_err(words)?);
        let scratch = File::from(open_within(directory, SCRATCH, OFlags::RDONLY).map_err(words)?);
        let mut restamped = false;
        for (name, file, content) in [
            (MEMORY, &memory, &mut known.memory),
            (DEVICES, &devices, &mut known.devices),
            (SCRATCH, &scratch, &mut known.scratch),
        ] {
            let stamp = Stamp::of_file(file).map_err(words)?;
            if stamp == content.stamp {
                continue;
            }
            if stamp.size != content.stamp.size {
                return Err(format!("{name} has {} bytes instead of {}", stamp.size, content.stamp.size));
            }
            if digest(file).map_err(words)? != content.digest {
                return Err(format!("{name} has other content than when it was made"));
            }
            content.stamp = stamp;
            restamped = true;
        }
        if restamped {
            // Only a shortcut: without it the next start reads everything again.
            let _ = self.describe(&path_of(directory), &known);
        } else {
            // Only for who looks which are used.
            let _ = description.set_modified(SystemTime::now());
        }
        Ok(Opened { id: known.id, token, memory, devices, scratch })
    }

    /// Replaces a description, whole.
    fn describe(&self, directory: &Path, description: &Description) -> io::Result<()> {
        let partial = directory.join(format!(".{}-{DESCRIPTION}", hex::encode(random_bytes::<4>())));
        private_file(&partial)?.write_all(&serde_json::to_vec_pretty(description)?)?;
        fs::rename(&partial, directory.join(DESCRIPTION))
    }

    /// Removes a template; whether there was one.
    pub(crate) fn remove(&self, key: &str) -> io::Result<bool> {
        let trash = self.root.join(format!(".new-{key}-{}", hex::encode(random_bytes::<4>())));
        match fs::rename(self.directory(key), &trash) {
            Ok(()) => fs::remove_dir_all(&trash).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn failure_path(&self, key: &str) -> PathBuf {
        self.root.join(format!(".failed-{key}.json"))
    }

    /// Remembers why a template could not be made.
    pub(super) fn failed(&self, key: &str, report: Report) {
        let failure = Failure { at_unix_ms: now(), report };
        // Only for who wonders; without it the next cold start tries again.
        let _ = serde_json::to_vec(&failure).map(|text| {
            let path = self.failure_path(key);
            let _ = fs::remove_file(&path);
            private_file(&path).and_then(|mut file| file.write_all(&text))
        });
    }

    /// The maker's lock of a key; `None` if another one makes it.
    pub(super) fn lock(&self, key: &str) -> Result<Option<File>> {
        let lock = self.lock_file(key)?;
        Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(lock))
    }

    /// The same, once nobody else makes it.
    pub(super) fn wait(&self, key: &str) -> Result<File> {
        let lock = self.lock_file(key)?;
        let failed = io(format!("{} cannot be used", self.root.display()));
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(lock)
    }

    fn lock_file(&self, key: &str) -> Result<File> {
        let failed = || io(format!("{} cannot be used", self.root.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&self.root).map_err(failed())?;
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600);
        options.open(self.root.join(format!(".lock-{key}"))).map_err(failed())
    }

    /// A directory to make a template in, and its lock. What makers that were killed left is removed.
    pub(super) fn stage(&self, key: &str) -> Result<(PathBuf, File)> {
        self.sweep();
        let path = self.root.join(format!(".new-{key}-{}", hex::encode(random_bytes::<4>())));
        let make = || {
            DirBuilder::new().mode(0o700).create(&path)?;
            let lock = private_file(&path.join(LOCK))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(lock)
        };
        let lock = make().map_err(io(format!("{} could not be made", path.display())))?;
        Ok((path, lock))
    }

    /// Removes what makers that were killed left; how much that was, and its bytes on disk.
    pub(super) fn sweep(&self) -> (usize, u64) {
        let mut swept = (0, 0);
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if !entry.file_name().as_encoded_bytes().starts_with(b".new-") {
                continue;
            }
            let path = entry.path();
            let free = match File::options().write(true).open(path.join(LOCK)) {
                Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
                // Being made this moment, or being removed: who does it goes on, or the next sweep does.
                Err(_) => fs::metadata(&path).is_ok_and(|facts| {
                    facts.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > FAILURE_COOLS_IN))
                }),
            };
            if free {
                let bytes = disk_bytes(&path);
                if fs::remove_dir_all(&path).is_ok() {
                    swept = (swept.0 + 1, swept.1 + bytes);
                }
            }
        }
        swept
    }

    /// Puts what was made in `staged` in its place.
    pub(super) fn keep(&self, staged: &Path, plan: &TemplatePlan, id: String, token: &Token) -> Result<TemplateInfo> {
        let failed = || io("the template could not be written");
        let content = |name: &str| -> io::Result<Content> {
            let file = File::open(staged.join(name))?;
            // The name must not outlive a crash that the content does not.
            file.sync_data()?;
            Ok(Content { digest: digest(&file)?, stamp: Stamp::of_file(&file)? })
        };
        let description = Description {
            format: FORMAT,
            key: plan.key.clone(),
            id,
            link_token: hex::encode(token),
            tsc_khz: plan.tsc_khz,
            created_at_unix_ms: now(),
            ingredients: plan.ingredients.clone(),
            files: plan.files.clone(),
            memory: content(MEMORY).map_err(failed())?,
            devices: content(DEVICES).map_err(failed())?,
            scratch: content(SCRATCH).map_err(failed())?,
        };
        self.describe(staged, &description).map_err(failed())?;
        fs::remove_file(staged.join(LOCK)).map_err(failed())?;
        // Once it is in its place, anyone may remove it.
        let info = info_in(staged).map_err(failed())?;
        let place = self.directory(&plan.key);
        match renameat_with(CWD, staged, CWD, &place, RenameFlags::EXCHANGE) {
            // What stays of the old one is removed by the next maker.
            Ok(()) => {
                let _ = fs::remove_dir_all(staged);
            }
            Err(_) => {
                // Nothing to exchange it with, or a file system that cannot.
                self.remove(&plan.key).map_err(failed())?;
                fs::rename(staged, &place).map_err(failed())?;
            }
        }
        let _ = fs::remove_file(self.failure_path(&plan.key));
        self.make_room(&plan.key);
        Ok(info)
    }

    /// Removes what has not been used for long, and what is too much.
    fn make_room(&self, but: &str) {
        let mut others: Vec<_> = self.list().unwrap_or_default().into_iter().filter(|info| info.key != but).collect();
        others.sort_by_key(|info| std::cmp::Reverse(info.used_at_unix_ms));
        for (number, info) in others.iter().enumerate() {
            if number + 1 >= MOST_KEPT || since(info.used_at_unix_ms) > KEPT_UNUSED {
                // What stays is tried again the next time.
                let _ = self.remove(&info.key);
            }
        }
    }

    /// Where there are any, whatever they are worth.
    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let shown = |name: &std::ffi::OsStr| !name.as_encoded_bytes().starts_with(b".");
        Ok(entries.flatten().filter(|entry| shown(&entry.file_name())).map(|entry| entry.path()).collect())
    }

    /// All of them, the last used first.
    pub(crate) fn list(&self) -> io::Result<Vec<TemplateInfo>> {
        // One that vanishes meanwhile, or cannot be read, is none.
        let mut found: Vec<TemplateInfo> = self.directories()?.iter().filter_map(|path| info(path).ok()).collect();
        found.sort_by_key(|info| std::cmp::Reverse(info.used_at_unix_ms));
        Ok(found)
    }
}

/// Of the template in its place.
fn info(directory: &Path) -> io::Result<TemplateInfo> {
    let info = info_in(directory)?;
    if directory.file_name().is_none_or(|name| name.as_encoded_bytes() != info.key.as_bytes()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is another one's"));
    }
    Ok(info)
}

/// Of a template wherever it is.
fn info_in(directory: &Path) -> io::Result<TemplateInfo> {
    let path = directory.join(DESCRIPTION);
    let known: Description = serde_json::from_slice(&fs::read(&path)?)?;
    let used = fs::metadata(&path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(TemplateInfo {
        key: known.key,
        created_at_unix_ms: known.created_at_unix_ms,
        used_at_unix_ms: used.as_millis() as u64,
        disk_bytes: disk_bytes(directory),
        ingredients: known.ingredients,
        tsc_khz: known.tsc_khz,
        files: known.files,
    })
}

/// What the files of a directory take, in bytes.
fn disk_bytes(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|facts| facts.blocks() * 512).sum()
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Whether a directory is the one at a path.
fn is_at(directory: &File, path: &Path) -> bool {
    let identity = |facts: fs::Metadata| (facts.dev(), facts.ino());
    let [ours, theirs] = [directory.metadata(), fs::symlink_metadata(path)].map(|facts| facts.map(identity).ok());
    ours == theirs
}

/// A path to an open directory that holds wherever it is moved.
fn path_of(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

fn open_within(directory: &File, name: &str, flags: OFlags) -> io::Result<std::os::fd::OwnedFd> {
    Ok(openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a file no one else can read.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    File::options().create_new(true).write(true).mode(0o600).open(path)
}

/// SHA-256 over the blocks of a sparse file that hold anything, and their places. Leaves the file at its
/// beginning, where who reads it next expects it.
fn digest(file: &File) -> io::Result<String> {
    const BLOCK: usize = 64 << 10;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let size = file.metadata()?.len();
    hasher.update(size.to_le_bytes());
    let mut offset = 0;
    while offset < size {
        match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) => offset = data / BLOCK as u64 * BLOCK as u64,
            // Only a hole from here on.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        }
        let count = usize::try_from(size - offset).map_or(BLOCK, |rest| rest.min(BLOCK));
        let block = &mut buffer[..count];
        file.read_exact_at(block, offset)?;
        // Whether a hole or zeros: the same to who reads it.
        if block.iter().any(|byte| *byte != 0) {
            hasher.update(offset.to_le_bytes());
            hasher.update(&*block);
        }
        offset += count as u64;
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(hex::encode(hasher.finalize()))
}

/// Whether a guest that goes by one of these clocks finds the other right.
pub(super) fn same_rate(ours: Option<u32>, theirs: Option<u32>) -> bool {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => {
            u64::from(ours.abs_diff(theirs)) * 1_000_000 <= u64::from(theirs) * CLOCK_TOLERANCE_PPM
        }
        (ours, theirs) => ours == theirs,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn since(unix_ms: u64) -> Duration {
    Duration::from_millis(now().saturating_sub(unix_ms))
}

/// The templates there are, the last used first.
///
/// # Errors
/// [`ErrorKind::Io`] if the cache cannot be read.
pub fn list_templates(paths: &Paths) -> Result<Vec<TemplateInfo>> {
    Store::new(paths).list().map_err(io("the templates could not be listed"))
}

/// Removes a template, by its key or a unique beginning of it.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Ambiguous`], [`ErrorKind::Io`].
pub fn remove_template(paths: &Paths, wanted: &str) -> Result<TemplateInfo> {
    let store = Store::new(paths);
    let all = list_templates(paths)?;
    let mut matching = all.into_iter().filter(|info| !wanted.is_empty() && info.key.starts_with(wanted));
    let info = match (matching.next(), matching.next()) {
        (Some(only), None) => only,
        (None, _) => {
            return Err(
                Error::new(ErrorKind::NotFound, format!("there is no template {wanted:?}")).hint("viv template ls")
            );
        }
        (Some(_), Some(_)) => {
            return Err(Error::new(
                ErrorKind::Ambiguous,
                format!("more than one template's key begins with {wanted:?}"),
            )
            .hint("viv template ls --json shows them whole"));
        }
    };
    store.remove(&info.key).map_err(io(format!("the template {} could not be removed", info.key)))?;
    Ok(info)
}

/// Removes the templates that `keep` does not want, those that cannot be read, and what makers that
/// were killed left behind.
///
/// # Errors
/// [`ErrorKind::Io`] if one cannot be removed.
pub fn prune_templates(paths: &Paths, keep: impl Fn(&TemplateInfo) -> bool) -> Result<Pruned> {
    let store = Store::new(paths);
    let (leftovers, freed_bytes) = store.sweep();
    let mut pruned = Pruned { templates: Vec::new(), leftovers, freed_bytes };
    for directory in store.directories().map_err(io("the templates could not be listed"))? {
        let failed = || io(format!("the template in {} could not be removed", directory.display()));
        match info(&directory) {
            Ok(info) if keep(&info) => {}
            Ok(info) => {
                store.remove(&info.key).map_err(failed())?;
                pruned.freed_bytes += info.disk_bytes;
                pruned.templates.push(info);
            }
            // Removed by someone else this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => {}
            Err(_) => {
                let bytes = disk_bytes(&directory);
                let name = directory.file_name().unwrap_or_default().to_string_lossy();
                store.remove(&name).map_err(failed())?;
                pruned.leftovers += 1;
                pruned.freed_bytes += bytes;
            }
        }
    }
    Ok(pruned)
}

const _: () = assert!(TOKEN_BYTES == 16, "a token is 32 hexadecimal digits in a description");

#[cfg(test)]
mod tests;
