//! The states of all workspaces: whose they are, and which is meant by a name.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::entry::decode;
use crate::error::io;
use crate::ignored::OuterRules;
use crate::{Error, ErrorKind, Result};

/// How a sandbox works on its workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On the directory itself.
    Live,
    /// On a copy of its own.
    Clone,
}

/// Whose state something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// What the state is found by, unique among those of a workspace: letters, digits, `.`, `_` and `-`, at most
    /// 128 of them.
    pub id: String,
    /// The user's name for it.
    pub name: Option<String>,
    /// How it works.
    pub mode: Mode,
}

/// A state as it is known from the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The directory it is of.
    pub workspace: PathBuf,
    /// Whose it is.
    pub sandbox: Sandbox,
    /// When its base was recorded, milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// What several sandboxes have in common that began with the same base ([`crate::Store::record_bases`]).
    pub run: Option<String>,
}

/// What is written of a state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) mode: Mode,
    pub(crate) created_unix_ms: u64,
    pub(crate) outer: OuterRules,
}

impl About {
    pub(crate) fn sandbox(&self) -> Sandbox {
        Sandbox { id: self.id.clone(), name: self.name.clone(), mode: self.mode }
    }
}

/// The directory of all stores.
pub(crate) fn stores(state: &Path) -> PathBuf {
    state.join("workspaces")
}

/// The file that names a store's workspace.
pub(crate) const WORKSPACE: &str = "workspace";

/// The file of a state that says which run it is of.
pub(crate) const RUN: &str = "run";

/// The states in a store's directory, the newest first. One that cannot be read is none.
pub(crate) fn states(store: &Path) -> Result<Vec<About>> {
    let directory = store.join("states");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(format!("{} cannot be read", directory.display()))(error)),
    };
    let about = |state: PathBuf| {
        let path = state.join("about");
        decode::<About>(&std::fs::read(&path).ok()?, &path).ok()
    };
    let mut states: Vec<About> = entries.filter_map(|entry| about(entry.ok()?.path())).collect();
    states.sort_by(|one, other| (other.created_unix_ms, &other.id).cmp(&(one.created_unix_ms, &one.id)));
    Ok(states)
}

/// Every state beneath a state directory of viv's, the newest first.
///
/// # Errors
/// A directory that cannot be read.
pub fn list(state: &Path) -> Result<Vec<Found>> {
    let directory = stores(state);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(format!("{} cannot be read", directory.display()))(error)),
    };
    let mut found = Vec::new();
    for store in entries.flatten().map(|entry| entry.path()) {
        let Ok(workspace) = std::fs::read(store.join(WORKSPACE)) else { continue };
        let workspace = PathBuf::from(std::ffi::OsString::from_vec(workspace));
        found.extend(states(&store)?.into_iter().map(|about| Found {
            workspace: workspace.clone(),
            sandbox: about.sandbox(),
            created_unix_ms: about.created_unix_ms,
            run: std::fs::read_to_string(store.join("states").join(&about.id).join(RUN)).ok(),
        }));
    }
    found.sort_by_key(|state| std::cmp::Reverse(state.created_unix_ms));
    Ok(found)
}

/// The other sandboxes that began with the same base as one, by their ids.
///
/// # Errors
/// A directory that cannot be read.
pub fn siblings(state: &Path, of: &Found) -> Result<Vec<Found>> {
    if of.run.is_none() {
        return Ok(Vec::new());
    }
    let mut siblings = list(state)?;
    siblings
        .retain(|other| other.run == of.run && other.workspace == of.workspace && other.sandbox.id != of.sandbox.id);
    // Numbers at their end are compared as such by being compared by length first.
    siblings.sort_by(|one, other| {
        let key = |found: &Found| (found.sandbox.id.len(), found.sandbox.id.clone());
        key(one).cmp(&key(other))
    });
    Ok(siblings)
}

/// The state that is meant: of a sandbox with this name or id, or a unique beginning of an id, the newest of that
/// name; without a name the newest of the workspace that `directory` is or is in, unless that is one of several of a
/// run.
///
/// # Errors
/// [`ErrorKind::NotFound`] and [`ErrorKind::Ambiguous`], and a directory that cannot be read.
pub fn find(state: &Path, wanted: Option<&str>, directory: &Path) -> Result<Found> {
    let all = list(state)?;
    let Some(wanted) = wanted else {
        for ancestor in directory.ancestors() {
            let Some(found) = all.iter().find(|found| found.workspace == ancestor) else { continue };
            let mut siblings = siblings(state, found)?;
            if siblings.is_empty() {
                return Ok(found.clone());
            }
            siblings.push(found.clone());
            let first = siblings.iter().map(|found| found.sandbox.id.as_str()).min().unwrap_or_default();
            let message = format!("the last sandboxes on {} are {} attempts", ancestor.display(), siblings.len());
            return Err(Error::new(ErrorKind::Ambiguous, message).hint(format!("name one of them, such as {first}")));
        }
        let message = format!("no sandbox's changes to {} are known", directory.display());
        return Err(Error::new(ErrorKind::NotFound, message)
            .hint("they are from the start of `viv run` on; name a sandbox to see those of another directory"));
    };
    let is =
        |name: &Option<String>| name.as_deref().is_some_and(|name| OsStr::new(name).as_bytes() == wanted.as_bytes());
    if let Some(found) = all.iter().find(|found| is(&found.sandbox.name) || found.sandbox.id == wanted) {
        return Ok(found.clone());
    }
    let mut beginning = all.iter().filter(|found| !wanted.is_empty() && found.sandbox.id.starts_with(wanted));
    match (beginning.next(), beginning.next()) {
        (Some(only), None) => Ok(only.clone()),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::Ambiguous, format!("more than one sandbox's id begins with {wanted:?}")))
        }
        (None, _) => {
            Err(Error::new(ErrorKind::NotFound, format!("no changes of a sandbox called {wanted:?} are known")))
        }
    }
}
