//! Records of named sandboxes on disk: each whole or not there, whatever kills who writes it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind as IoErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::place::{ENDED, Told};
use super::{Ending, State};
use crate::error::io;
use crate::paths::private_directory;
use crate::{Error, ErrorKind, Paths, Result, new_id};

/// Below the state directory.
const DIRECTORY: &str = "sandboxes";

const RECORD: &str = "record.json";
const LOCK: &str = "lock";

/// Directories that are being made, and those that are being removed, begin so.
const HIDDEN: char = '.';

/// What is written of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) workspace: PathBuf,
    pub(super) definition_file: PathBuf,
    pub(super) persist: bool,
    pub(super) autostart: bool,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) created_at_unix_ms: u64,
    pub(super) state: State,
    /// Its machine, or the last one it had.
    #[serde(default)]
    pub(super) machine: Option<MachineName>,
    #[serde(default)]
    pub(super) ended: Option<Ending>,
    #[serde(default)]
    pub(super) on_create_done: bool,
}

/// Which machine is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineName {
    pub(super) id: String,
    /// The boot of the host it was started in.
    pub(super) boot_id: String,
    pub(super) started_at_unix_ms: u64,
}

/// Where the records are.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: PathBuf,
    state: PathBuf,
}

/// Held while records are read and changed.
pub(super) struct Guard(#[expect(dead_code, reason = "the lock is held as long as the file is open")] File);

/// Held while a sandbox's machine is made or its disk is worked on.
#[derive(Debug)]
pub(super) struct Busy(#[expect(dead_code, reason = "the lock is held as long as the file is open")] File);

impl Store {
    pub(super) fn new(paths: &Paths) -> Self {
        Self { root: paths.state.join(DIRECTORY), state: paths.state.clone() }
    }

    pub(super) fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits for whoever else reads or changes records, and removes what killed ones left.
    pub(super) fn lock(&self) -> Result<Guard> {
        private_directory(&self.state)?;
        private_directory(&self.root)?;
        let failed = || io(format!("{} could not be locked", self.root.display()));
        let file = private_file(&self.root.join(".lock")).map_err(failed())?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| failed()(error.into()))?;
        for entry in fs::read_dir(&self.root).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if is_hidden(&path) && path.is_dir() {
                // Tried again by the next look.
                let _ = fs::remove_dir_all(&path);
            }
        }
        Ok(Guard(file))
    }

    /// The names there are, in order.
    pub(super) fn names(&self, _held: &Guard) -> Result<Vec<String>> {
        let failed = || io(format!("{} could not be read", self.root.display()));
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            names.extend(name.filter(|name| super::is_name(name) && path.is_dir()).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// A record; none if there is no such sandbox. The inner error is for one that cannot be understood.
    pub(super) fn read(&self, _held: &Guard, name: &str) -> Result<Option<std::result::Result<Document, String>>> {
        let path = self.directory(name).join(RECORD);
        if !super::is_name(name) || !self.directory(name).is_dir() {
            return Ok(None);
        }
        match fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|error| error.to_string()))),
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(Some(Err("it is missing".to_owned()))),
            Err(error) => Err(io(format!("{} could not be read", path.display()))(error)),
        }
    }

    /// Replaces a record, or makes the sandbox. The change is on the disk when this returns.
    pub(super) fn write(&self, _held: &Guard, name: &str, document: &Document) -> Result<()> {
        let directory = self.directory(name);
        let failed = || io(format!("the record of {name} could not be written"));
        if directory.is_dir() {
            return write_whole(&directory, RECORD, document).map_err(failed());
        }
        // Made aside, so that there is no sandbox without a record.
        let new = self.root.join(format!("{HIDDEN}new-{}", new_id()));
        let make = || {
            DirBuilder::new().mode(0o700).create(&new)?;
            write_whole(&new, RECORD, document)?;
            fs::rename(&new, &directory)?;
            File::open(&self.root)?.sync_all()
        };
        make().map_err(failed())
    }

    /// How a machine ended, if its monitor said so.
    pub(super) fn told(&self, _held: &Guard, name: &str, id: &str) -> Option<Ending> {
        let text = fs::read(self.directory(name).join(ENDED)).ok()?;
        let told: Told = serde_json::from_slice(&text).ok()?;
        (told.id == id).then_some(told.ending)
    }

    pub(super) fn rename(&self, _held: &Guard, name: &str, to: &str) -> Result<()> {
        let rename = || {
            fs::rename(self.directory(name), self.directory(to))?;
            File::open(&self.root)?.sync_all()
        };
        rename().map_err(io(format!("{name} could not be renamed")))
    }

    /// Removes a sandbox in one step, as far as others see; what that leaves is removed next.
    pub(super) fn remove(&self, _held: &Guard, name: &str) -> Result<PathBuf> {
        let gone = self.root.join(format!("{HIDDEN}gone-{}", new_id()));
        fs::rename(self.directory(name), &gone).map_err(io(format!("{name} could not be removed")))?;
        Ok(gone)
    }

    /// Takes the right to make a sandbox's machine or to work on its disk; none if someone has it.
    pub(super) fn try_busy(&self, name: &str) -> Result<Option<Busy>> {
        let path = self.directory(name).join(LOCK);
        let failed = || io(format!("{} could not be locked", path.display()));
        let file = match private_file(&path) {
            Err(error) if error.kind() == IoErrorKind::NotFound => return Err(no_such(name)),
            file => file.map_err(failed())?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed()(error.into())),
            // Meanwhile renamed or removed, perhaps with another one in its place: that one's is another file.
            Ok(()) if !is_at(&file, &path) => Ok(None),
            Ok(()) => Ok(Some(Busy(file))),
        }
    }

    /// Whether someone makes its machine, or works on its disk.
    pub(super) fn is_busy(&self, name: &str) -> bool {
        let Ok(file) = File::open(self.directory(name).join(LOCK)) else { return false };
        matches!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
    }
}

pub(super) fn no_such(wanted: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no sandbox is called {wanted:?}")).hint("viv ps --all")
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(&[HIDDEN as u8]))
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |facts: fs::Metadata| (facts.dev(), facts.ino());
    let ours = file.metadata().map(identity);
    let theirs = fs::metadata(path).map(identity);
    matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
}

fn private_file(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Replaces a file in one step, which a power cut does not undo or halve.
pub(super) fn write_whole(directory: &Path, name: &str, content: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(content)?;
    let partial = directory.join(format!("{HIDDEN}{name}.partial"));
    let mut file = private_file(&partial)?;
    file.set_len(0)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&partial, directory.join(name))?;
    File::open(directory)?.sync_all()
}
