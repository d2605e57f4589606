//! The directory that a pipeline keeps.
//!
//! ```text
//! DIR/result.json                  how the run went
//! DIR/timeline/                    `viv audit verify DIR/timeline` checks it anywhere
//! DIR/timeline/casts/000001.cast   recordings
//! DIR/logs/ID/                     what the timeline refers to: network, model calls
//! DIR/files/                       what --collect names, by its path in the workspace
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use globset::GlobSet;
use serde::Serialize;
use viv_audit::Store;
use viv_sandbox::{Paths, SandboxSpec};

use super::gather::{Gathered, gather};
use crate::commands::audit::logs_to_copy;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::Printer;

/// How many files that were left out are named.
const NAMED: usize = 10;

/// The directory.
pub(super) struct Artifacts(PathBuf);

impl Artifacts {
    /// Makes it, or takes it if it is empty.
    pub(super) fn create(directory: &Path, shared: &[PathBuf]) -> Result<Self, Error> {
        let failed = || error::io(format!("{} cannot be made", directory.display()));
        let is_new = !directory.exists();
        std::fs::create_dir_all(directory).map_err(failed())?;
        let directory = directory.canonicalize().map_err(failed())?;
        if let Some(share) = shared.iter().find(|share| directory.starts_with(share) || share.starts_with(&directory)) {
            if is_new {
                let _ = std::fs::remove_dir(&directory);
            }
            // A guest that writes there could have viv write elsewhere, and what it says of itself is no proof.
            let message = format!(
                "{} and {}, which the sandbox writes to, are in each other",
                directory.display(),
                share.display()
            );
            return Err(Error::new(ErrorKind::Usage, message).hint("--artifacts \"$RUNNER_TEMP/viv\""));
        }
        if std::fs::read_dir(&directory).map_err(failed())?.next().is_some() {
            return Err(Error::new(ErrorKind::Usage, format!("{} is not empty", directory.display())));
        }
        Ok(Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let failed = || error::io(format!("{name} cannot be written to {}", self.0.display()));
        let mut text = serde_json::to_vec_pretty(value).map_err(|error| failed()(error.into()))?;
        text.push(b'\n');
        self.create_file(Path::new(name)).and_then(|mut file| file.write_all(&text)).map_err(failed())?;
        Ok(())
    }

    /// Nobody else writes here, so that what is new is ours.
    fn create_file(&self, path: &Path) -> io::Result<File> {
        let path = self.0.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    pub(super) fn copy_timeline(&self, sandbox: &SandboxSpec, paths: &Paths, printer: &Printer) -> Result<(), Failure> {
        let entry = match Store::new(&paths.state).find(sandbox.called()) {
            Ok(entry) => entry,
            // A sandbox that was refused before it began has none.
            Err(error) if *error.kind() == viv_audit::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let timeline = entry.files()?.into_iter().map(|(name, path)| (Path::new("timeline").join(name), path));
        for (name, path) in timeline.chain(logs_to_copy(paths, &entry)?) {
            let copied = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut self.create_file(&name)?));
            if let Err(error) = copied {
                printer.warning(&format!("{} was not collected: {error}", name.display()), None);
            }
        }
        Ok(())
    }

    pub(super) fn gather(&self, workspace: &Path, wanted: &GlobSet, printer: &Printer) -> Result<(), Failure> {
        let mut take = |path: &Path, file: &mut dyn io::Read| {
            io::copy(file, &mut self.create_file(&Path::new("files").join(path))?)
        };
        let Gathered { files, left_out, stopped, .. } = gather(workspace, wanted, &mut take)
            .map_err(error::io(format!("files of {} cannot be collected", workspace.display())))?;
        for (path, why) in left_out.iter().take(NAMED) {
            printer.warning(&format!("{} was not collected: {why}", path.display()), None);
        }
        if left_out.len() > NAMED {
            printer.warning(&format!("{} more files were not collected", left_out.len() - NAMED), None);
        }
        if let Some(why) = stopped {
            printer.warning(&format!("not all was collected: {why}"), None);
        }
        printer.detail(&format!("{files} files were collected"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_within_the_guest_s_reach_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let workspace = root.join("workspace");
        std::fs::create_dir(&workspace).unwrap();
        let create = |path: &str| Artifacts::create(&root.join(path), std::slice::from_ref(&workspace));
        assert!(create("workspace/artifacts").is_err() && create("").is_err());
        let artifacts = create("artifacts").unwrap();
        assert!(create("artifacts").is_ok(), "it is empty");
        artifacts.write_json("result.json", &1).unwrap();
        assert!(artifacts.write_json("result.json", &2).is_err(), "nothing is replaced");
        assert!(create("artifacts").is_err(), "it is not empty");
    }
}
