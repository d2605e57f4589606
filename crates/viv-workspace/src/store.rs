//! The private store of a workspace.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use crate::apply::Outcome;
use crate::beneath::Beneath;
use crate::blobs::{Blobs, digest_of, write_whole};
use crate::diff::{Diff, FileChange};
use crate::entry::{Manifest, Node, decode};
use crate::error::io;
use crate::operation::Operation;
use crate::states::{About, Mode, WORKSPACE, states, stores};
use crate::view::{View, view};
use crate::{Error, ErrorKind, Limits, Notes, Result, TreePath, diff, rename};

/// What is kept of a workspace, for each sandbox that worked on it.
///
/// Calls of several processes wait for each other. Every call first completes what one that was killed left half
/// done ([`Store::recovered`]).
#[derive(Debug)]
pub struct Store {
    pub(crate) directory: PathBuf,
    pub(crate) workspace: PathBuf,
    pub(crate) limits: Limits,
    recovered: Option<Outcome>,
}

/// A store while a call uses it.
pub(crate) struct Session {
    pub(crate) directory: PathBuf,
    pub(crate) root: Beneath,
    pub(crate) blobs: Blobs,
    pub(crate) limits: Limits,
    _lock: File,
}

impl Store {
    /// The store of `workspace`, an absolute path without links in it, beneath viv's own state directory; made if
    /// missing.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if one of them cannot be used.
    pub fn open(state: &Path, workspace: &Path) -> Result<Self> {
        Self::with_limits(state, workspace, Limits::default())
    }

    /// [`Store::open`] with other limits.
    ///
    /// # Errors
    /// As there.
    pub fn with_limits(state: &Path, workspace: &Path, limits: Limits) -> Result<Self> {
        let path = workspace.as_os_str().as_bytes();
        let directory = directory_of(state, workspace);
        let failed = || io(format!("{} cannot be used", directory.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(directory.join("states")).map_err(failed())?;
        let mut store = Self { directory, workspace: workspace.to_path_buf(), limits, recovered: None };
        let (session, recovered) = store.enter()?;
        if !session.directory.join(WORKSPACE).exists() {
            write_whole(&session.directory.join(WORKSPACE), path, false)?;
        }
        store.recovered = recovered;
        Ok(store)
    }

    /// Whether there is a store of `workspace`, without making one.
    #[must_use]
    pub fn is_there(state: &Path, workspace: &Path) -> bool {
        directory_of(state, workspace).join(WORKSPACE).exists()
    }

    /// The directory it is of.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// What became of an operation that an earlier process had begun and not ended, if there was one when the store
    /// was opened.
    #[must_use]
    pub fn recovered(&self) -> Option<&Outcome> {
        self.recovered.as_ref()
    }

    /// Whether there is a state of this id.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        check_id(id).is_ok() && self.directory.join("states").join(id).join("about").exists()
    }

    /// What a sandbox changed and is not yet accepted or rejected. In live mode, the directory is looked at now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such state, or nothing was reported of a clone yet;
    /// [`ErrorKind::TooLarge`] and [`ErrorKind::Io`] of looking.
    pub fn diff(&self, id: &str) -> Result<Diff> {
        let mut session = self.session()?;
        session.diff(id)
    }

    /// All that a sandbox changed since its base was recorded, also what was accepted or rejected meanwhile. In live
    /// mode, the directory is looked at now.
    ///
    /// # Errors
    /// As [`Store::diff`].
    pub fn diff_from_start(&self, id: &str) -> Result<Diff> {
        let mut session = self.session()?;
        let (result, notes) = session.result(id)?;
        let files = diff::compare(&session.manifest(id, "start")?, &result);
        let files = rename::detect(files, |digest| session.blobs.get(digest).ok());
        Ok(Diff { files, notes })
    }

    /// When it was last said what a sandbox that works on a copy changed; none if that never was.
    #[must_use]
    pub fn reported_at(&self, id: &str) -> Option<SystemTime> {
        check_id(id).ok()?;
        // Written by [`Store::record_changes`] alone.
        let notes = self.directory.join("states").join(id).join("notes");
        std::fs::metadata(notes).and_then(|metadata| metadata.modified()).ok()
    }

    /// What there is to see of some changes, one by one.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if a content is not there any more; those of `each` end it.
    pub fn views<'a, E: From<Error>>(
        &self,
        files: impl IntoIterator<Item = &'a FileChange>,
        mut each: impl FnMut(&'a FileChange, View) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut session = self.session()?;
        for file in files {
            let view = view(&mut session.blobs, file)?;
            each(file, view)?;
        }
        Ok(())
    }

    /// The store for one call.
    pub(crate) fn session(&self) -> Result<Session> {
        self.enter().map(|(session, _)| session)
    }

    fn enter(&self) -> Result<(Session, Option<Outcome>)> {
        let failed = || io(format!("{} cannot be used", self.directory.display()));
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(self.directory.join("lock")).map_err(failed())?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed()(error.into()))?;
        let root = Beneath::open(&self.workspace)
            .map_err(io(format!("the workspace {} cannot be opened", self.workspace.display())))?;
        let blobs = Blobs::open(&self.directory.join("segments"))?;
        let directory = self.directory.clone();
        let mut session = Session { directory, root, blobs, limits: self.limits.clone(), _lock: lock };
        let recovered = match session.load::<Operation>("journal")? {
            Some(operation) => Some(session.complete(operation)?),
            None => None,
        };
        Ok((session, recovered))
    }
}

impl Session {
    /// A stored value; none if there is no such file.
    pub(crate) fn load<T: for<'a> Deserialize<'a>>(&self, file: impl AsRef<Path>) -> Result<Option<T>> {
        let path = self.directory.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes, &path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(format!("{} cannot be read", path.display()))(error)),
        }
    }

    /// The same of what can be done without: none, too, if a loss of power has left half of it.
    pub(crate) fn load_whole<T: for<'a> Deserialize<'a>>(&self, file: impl AsRef<Path>) -> Result<Option<T>> {
        match self.load(file) {
            Err(error) if *error.kind() == ErrorKind::Damaged => Ok(None),
            loaded => loaded,
        }
    }

    /// Where a file of a state is, relative to the store.
    pub(crate) fn state(&self, id: &str, file: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(Path::new("states").join(id).join(file))
    }

    pub(crate) fn about(&self, id: &str) -> Result<About> {
        self.load(self.state(id, "about")?)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no changes of a sandbox with the id {id:?} are known"))
        })
    }

    pub(crate) fn manifest(&self, id: &str, which: &str) -> Result<Manifest> {
        self.load(self.state(id, which)?)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("sandbox {id} has not told what it changed")))
    }

    pub(crate) fn states(&self) -> Result<Vec<About>> {
        states(&self.directory)
    }

    /// What was rejected of a copy, and is not shown again: at each path what the sandbox had there.
    pub(crate) fn rejected(&self, id: &str) -> Result<BTreeMap<TreePath, Option<Node>>> {
        Ok(self.load(self.state(id, "rejected")?)?.unwrap_or_default())
    }

    /// What there is now, and what was left out of it.
    fn result(&mut self, id: &str) -> Result<(Manifest, Notes)> {
        let about = self.about(id)?;
        Ok(match about.mode {
            Mode::Live => {
                let base = self.manifest(id, "base")?;
                let (result, recorded) = self.record_live(&about, &base)?;
                (result, recorded.notes)
            }
            Mode::Clone => (self.manifest(id, "result")?, self.load(self.state(id, "notes")?)?.unwrap_or_default()),
        })
    }

    /// As [`Store::diff`].
    pub(crate) fn diff(&mut self, id: &str) -> Result<Diff> {
        let (result, notes) = self.result(id)?;
        let base = self.manifest(id, "base")?;
        let rejected = self.rejected(id)?;
        let mut files = diff::compare(&base, &result);
        files.retain(|file| rejected.get(&file.path) != Some(&file.new));
        let files = rename::detect(files, |digest| self.blobs.get(digest).ok());
        Ok(Diff { files, notes })
    }
}

/// Where the store of a workspace is.
fn directory_of(state: &Path, workspace: &Path) -> PathBuf {
    stores(state).join(hex::encode(&digest_of(workspace.as_os_str().as_bytes()).0[..16]))
}

/// Whether an id can be a directory's name.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.chars().all(good) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotFound, format!("{id:?} is no sandbox's id")))
}
