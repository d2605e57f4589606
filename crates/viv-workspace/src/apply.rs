//! Doing what was decided, so that it is done wholly whatever happens in the middle.
//!
//! The operation is written to the journal first. Each step looks whether its path is as it was, and then replaces it
//! by a rename; a path that is as it is to be was done before. So an operation that was interrupted, at whatever
//! point, is completed by doing it again, which the next call of anything does.

use std::collections::BTreeSet;
use std::io;

use crate::beneath::{Beneath, Found, as_path};
use crate::blobs::Blobs;
use crate::entry::Node;
use crate::operation::{Operation, Reason, Standing, Step, standing};
use crate::{Limits, TreePath, fault, view};

/// What became of a file that something was to be done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOutcome {
    /// It was done.
    Done,
    /// It was so already.
    AlreadyThere,
    /// The directory has something else there than what was and what is to be: nothing of it was touched.
    Diverged,
    /// What was chosen has become another change since: nothing was done.
    Stale,
    /// It could not be done, and why.
    Failed(String),
}

impl FileOutcome {
    /// Whether the file is now as it was to be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::AlreadyThere)
    }
}

/// What became of what was chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// By path.
    pub files: Vec<(TreePath, FileOutcome)>,
}

impl Outcome {
    /// Whether everything is as it was to be.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.files.iter().all(|(_, outcome)| outcome.is_done())
    }

    /// Those of which this is true.
    pub fn with(&self, wanted: impl Fn(&FileOutcome) -> bool) -> impl Iterator<Item = &TreePath> {
        self.files.iter().filter(move |(_, outcome)| wanted(outcome)).map(|(path, _)| path)
    }
}

/// Does the steps of an operation, as far as they are not done.
pub(crate) fn steps(root: &Beneath, blobs: &mut Blobs, operation: &Operation, limits: &Limits) -> Vec<FileOutcome> {
    let mut outcomes = Vec::with_capacity(operation.steps.len());
    for (number, step) in operation.steps.iter().enumerate() {
        let temporary = operation.temporary(number);
        fault::point();
        outcomes.push(match one(root, blobs, step, operation.reason, &temporary, limits) {
            Ok(outcome) => outcome,
            Err(error) => FileOutcome::Failed(error.to_string()),
        });
        // What an earlier attempt left when it was killed between writing and renaming.
        root.remove_temporary(&step.path, &temporary);
    }
    outcomes
}

/// Has the disk keep the names that the steps changed; their contents are there already.
pub(crate) fn sync(root: &Beneath, operation: &Operation) {
    let directories: BTreeSet<&[u8]> =
        operation.steps.iter().flat_map(|step| step.path.ancestors().chain([&b""[..]])).collect();
    for directory in directories {
        // One that is gone is so by its parent. A file system that cannot do it has nothing better to offer.
        if let Ok(directory) = root.directory(as_path(directory)) {
            let _ = directory.sync();
        }
    }
}

fn one(
    root: &Beneath,
    blobs: &mut Blobs,
    step: &Step,
    reason: Reason,
    temporary: &str,
    limits: &Limits,
) -> io::Result<FileOutcome> {
    root.remove_temporary(&step.path, temporary);
    let found = root.look(&step.path, limits)?;
    match standing(&found, &step.before, &step.after, reason) {
        Standing::After => return Ok(FileOutcome::AlreadyThere),
        Standing::Neither => return Ok(FileOutcome::Diverged),
        Standing::Before => {}
    }
    match &step.after {
        None => root.remove(&step.path)?,
        Some(Node::Large { .. }) => return Ok(FileOutcome::Failed("its content was not kept".to_owned())),
        Some(node) => {
            if matches!(found, Found::Directory) && root.remove_empty(&step.path).is_err() {
                return Ok(FileOutcome::Failed("a directory is in its place".to_owned()));
            }
            let content = view::content(blobs, &step.after).map_err(io::Error::other)?;
            let new = matches!(found, Found::Nothing | Found::Directory);
            root.write(&step.path, node, &content, temporary, new)?;
        }
    }
    fault::point();
    Ok(FileOutcome::Done)
}
