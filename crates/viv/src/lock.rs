//! What a project's viv.lock says of a run.

use std::path::Path;

use viv_image::{ImageSource, LockFile, RootImage};

use crate::error::Failure;
use crate::resolve::Resolved;

/// The lock of a run's workspace.
#[derive(Debug)]
pub struct ProjectLock {
    file: LockFile,
    /// The image as it was asked for.
    source: ImageSource,
}

impl ProjectLock {
    /// Reads the lock of the workspace, if it has one, and puts what it says in the place of what was asked for.
    ///
    /// # Errors
    /// A lock that cannot be read.
    pub fn apply_to(resolved: &mut Resolved) -> Result<(), Failure> {
        let Some(file) = LockFile::read(&resolved.sandbox.workspace)? else { return Ok(()) };
        Self::apply(file, resolved);
        Ok(())
    }

    /// The same with a lock that was read before.
    pub fn apply(file: LockFile, resolved: &mut Resolved) {
        let sandbox = &mut resolved.sandbox;
        let source = sandbox.image.clone().unwrap_or_default();
        let applied = file.apply(&sandbox.workspace, &source, &sandbox.packages);
        sandbox.image = sandbox.image.is_some().then_some(applied.image);
        sandbox.packages = applied.packages;
        resolved.details.extend(applied.notes.iter().map(ToString::to_string));
        resolved.lock = Some(Self { file, source });
    }

    /// That the image of a sandbox on `workspace` is the one that was locked.
    ///
    /// # Errors
    /// If it is another.
    pub fn check(&self, workspace: &Path, root: &RootImage) -> Result<(), Failure> {
        match &root.pin {
            Some(pin) => Ok(self.file.check_image(workspace, &self.source, pin)?),
            None => Ok(()),
        }
    }

    /// Says of a package that is not to be had any more what the lock has to do with it.
    #[must_use]
    pub fn explain(&self, error: viv_image::Error) -> viv_image::Error {
        self.file.explain(error)
    }
}
