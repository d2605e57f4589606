//! `viv run --ci`: a run that nobody watches, and what is collected of it.

mod artifacts;
mod gather;

use std::path::PathBuf;
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Serialize;
use viv_error::Report;
use viv_sandbox::{Paths, Recording, SandboxSpec};

use crate::cli::CiArguments;
use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind, Failure};
use crate::output::{Printer, Timings};
use crate::resolve::Resolved;
use crate::settings::Origin;
use crate::settings::definitions::RECORD;
use artifacts::Artifacts;

/// How long a program may run in a pipeline that says nothing about it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// What a pipeline wants to have of a run.
pub struct Ci {
    artifacts: Option<Artifacts>,
    collect: GlobSet,
}

/// How the run went: `result.json`.
#[derive(Debug, Serialize)]
pub struct Outcome<'a> {
    /// The sandbox.
    pub id: &'a str,
    /// What was run.
    pub command: &'a [String],
    /// The exit code of `viv`.
    pub exit_code: u8,
    /// The signal that ended the program.
    pub signal: Option<i32>,
    /// Whether its time was up.
    pub timed_out: bool,
    /// Where the time went; none if the program did not run to its end.
    pub timings: Option<Timings>,
    /// Why viv failed, if it did.
    pub error: Option<&'a Report>,
}

impl Ci {
    /// What is asked for, if this is for a pipeline. Makes the directory of the artifacts, which has to be out
    /// of the guest's reach.
    ///
    /// # Errors
    /// A pattern that is none; a directory that is not empty, cannot be made, or is shared with the sandbox.
    pub fn prepare(
        arguments: &CiArguments,
        sandbox: &SandboxSpec,
        host: &HostEnvironment,
    ) -> Result<Option<Self>, Error> {
        if !arguments.ci {
            return Ok(None);
        }
        let mut globs = GlobSetBuilder::new();
        for text in &arguments.collect {
            let glob = GlobBuilder::new(text).literal_separator(true).build().map_err(|error| {
                Error::new(ErrorKind::Usage, format!("{text} is no pattern")).source(error).hint("dist/**")
            })?;
            globs.add(glob);
        }
        let collect = globs.build().map_err(|error| Error::new(ErrorKind::Usage, "too many patterns").source(error))?;
        let directory = arguments.artifacts.as_ref().map(|directory| host.directory.join(directory));
        let shared: Vec<PathBuf> = std::iter::once(sandbox.workspace.clone())
            .chain(sandbox.mounts.iter().filter(|mount| !mount.read_only).map(|mount| mount.source.clone()))
            .collect();
        let artifacts = directory.map(|directory| Artifacts::create(&directory, &shared)).transpose()?;
        Ok(Some(Self { artifacts, collect }))
    }

    /// Collects what is to be kept, once the sandbox is gone. What cannot be collected is said and left out.
    ///
    /// # Errors
    /// If not even the result can be written.
    pub fn collect(
        &self,
        outcome: &Outcome<'_>,
        sandbox: &SandboxSpec,
        paths: &Paths,
        printer: &Printer,
    ) -> Result<(), Failure> {
        let Some(artifacts) = &self.artifacts else { return Ok(()) };
        artifacts.write_json("result.json", outcome)?;
        artifacts.copy_timeline(sandbox, paths, printer)?;
        if !self.collect.is_empty() {
            artifacts.gather(&sandbox.workspace, &self.collect, printer)?;
        }
        printer.note(&format!("artifacts are in {}", artifacts.path().display()));
        Ok(())
    }
}

/// What is usual in a pipeline, where nothing else was asked for.
pub fn apply(arguments: &CiArguments, resolved: &mut Resolved) {
    if arguments.ci && resolved.origins.get(RECORD.key) == Some(&Origin::Default) {
        resolved.sandbox.recording = Recording::All;
    }
    if arguments.ci && resolved.timeout.is_none() {
        resolved.timeout = Some(DEFAULT_TIMEOUT);
    }
}
