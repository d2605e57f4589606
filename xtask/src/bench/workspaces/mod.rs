//! `cargo xtask bench workspace`: what working on a copy costs, and looking at what was done.
//!
//! Inside, work in a clone takes turns with the same work in an ordinary repository on the guest's own
//! disk (see [`inside`]). The making of a clone takes turns with git's own, inside as well (see [`create`]).
//! `viv diff` and `viv attach` ask nothing of the guest, so their goals are times (see [`native`]).

mod create;
mod inside;
mod native;
mod project;

use std::path::Path;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::arguments::BenchArguments;
use crate::setup;
use crate::workspace::{self, Profile};

/// `cargo xtask bench workspace`
#[derive(Debug, Args)]
pub struct WorkspaceArguments {
    #[command(flatten)]
    bench: BenchArguments<Part>,
}

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// git status, npm ci and cargo build in a clone
    Inside,
    /// Making a clone of a large repository
    Create,
    /// viv diff of many changes
    Diff,
    /// viv attach until something is seen
    Attach,
}

/// What is measured here.
#[derive(Clone, Copy)]
struct Workspaces<'a> {
    viv: &'a Path,
    /// Place for projects.
    directory: &'a Path,
    runs: u32,
}

/// What the figures are compared with.
const FLOORS: &str = "\
The floor of work inside is the same on the guest's own disk, of a clone twice git clone --shared\n\
there; of a diff and of attaching, it is the most they may take.";

/// Measures and prints; fails where a goal is missed.
pub fn workspaces(arguments: &WorkspaceArguments) -> Result<()> {
    setup::run(setup::Purpose::Test, false)?;
    let arguments = &arguments.bench;
    let viv = workspace::build_viv(Profile::Release)?;
    // Beside what is built: where temporary files are may be memory.
    let place = workspace::target_directory()?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir_in(place)?;
    let measured = Workspaces { viv: &viv, directory: scratch.path(), runs: arguments.runs };
    let mut figures = Vec::new();
    if arguments.wants(Part::Inside) {
        figures.extend(inside::measure(&measured)?);
    }
    if arguments.wants(Part::Create) {
        figures.push(create::measure(&measured)?);
    }
    if arguments.wants(Part::Diff) {
        figures.push(native::diff(&measured)?);
    }
    if arguments.wants(Part::Attach) {
        figures.push(native::attach(&measured)?);
    }
    arguments.conclude(&figures, FLOORS)
}
