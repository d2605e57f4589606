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

use super::figures::{print_table, require_goals};
use crate::setup;
use crate::workspace::{self, Profile};

/// `cargo xtask bench workspace`
#[derive(Debug, Args)]
pub struct WorkspaceArguments {
    /// How often each is measured; medians are of these
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(7..=1000))]
    runs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measure only this; may be repeated
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
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

/// Measures and prints; fails where a goal is missed.
pub fn workspaces(arguments: &WorkspaceArguments) -> Result<()> {
    setup::run(setup::Purpose::Test, false)?;
    let viv = workspace::build_viv(Profile::Release)?;
    // Beside what is built: where temporary files are may be memory.
    let place = workspace::target_directory()?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir_in(place)?;
    let measured = Workspaces { viv: &viv, directory: scratch.path(), runs: arguments.runs };
    let wanted = |part: Part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut figures = Vec::new();
    if wanted(Part::Inside) {
        figures.extend(inside::measure(&measured)?);
    }
    if wanted(Part::Create) {
        figures.push(create::measure(&measured)?);
    }
    if wanted(Part::Diff) {
        figures.push(native::diff(&measured)?);
    }
    if wanted(Part::Attach) {
        figures.push(native::attach(&measured)?);
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "figures": figures, "runs": arguments.runs }));
    } else {
        print_table(&figures, arguments.runs, "floor");
        println!("\nThe floor of work inside is the same on the guest's own disk, of a clone twice git clone --shared");
        println!("there; of a diff and of attaching, it is the most they may take.");
    }
    require_goals(&figures)
}
