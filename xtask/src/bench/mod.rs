//! `cargo xtask bench start`: what a start costs. `cargo xtask bench peers`: what it costs others.
//! `cargo xtask bench net`: what the network costs. `cargo xtask bench image`: what images and packages cost.
//! `cargo xtask bench workspace`: what a copy of the workspace costs, and looking at what was done.
//!
//! Most figures have goals and are ratios to a floor, taken in turns with it so that whatever else
//! the machine does falls on both. The floor of a cold start is a bare boot (see [`floor`]), that of
//! a start from a template a bare restore (see [`restore`]). Some are printed for information.

mod arguments;
mod figures;
mod floor;
mod image;
pub mod measure;
mod memory;
mod net;
mod peers;
mod restore;
mod sandbox;
mod starts;
mod templates;
mod trace;
mod workspaces;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::setup;
use crate::workspace::{self, Profile};
use arguments::BenchArguments;
use figures::{Figure, require_goals};
pub use image::{ImageArguments, image};
pub use net::{NetArguments, net};
pub use peers::{PeersArguments, peers};
use starts::Starts;
pub use workspaces::{WorkspaceArguments, workspaces};

/// `cargo xtask bench start`
#[derive(Debug, Args)]
pub struct StartArguments {
    #[command(flatten)]
    bench: BenchArguments<Part>,
    /// Draw where the time of a start goes: a page for a browser or, if it ends in .json, events for
    /// Chrome's and Perfetto's trace viewers
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Cold starts, against a bare boot
    Cold,
    /// Starts from a template, against a bare restore
    Template,
    /// Ten starts at once
    Burst,
    /// What making a template costs the run that has it made
    Making,
    /// The memory of an idle sandbox
    Memory,
    /// For information: a warm exec, the shares, peak memory, viv's size
    Inside,
}

/// What the figures are compared with.
const FLOORS: &str = "\
The floor of a cold start is the same machine with an init that prints one byte; of a start from\n\
a template, the same restore by the smallest possible client; of the shares, the same work on the\n\
guest's own disk; of memory, the most it may be.";

/// Measures and prints; fails where a goal is missed.
pub fn start(arguments: &StartArguments) -> Result<()> {
    setup::run(setup::Purpose::Run, false)?;
    let viv = workspace::build_viv(Profile::Release)?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir()?;

    // Builds the images if need be, and warms the page cache for both sides.
    let _ = measure::until_first_byte_and_end(&mut starts::run(&viv, scratch.path(), &[], &["true"]), None)
        .context("viv cannot run a command here")?;

    let figures = measured(&viv, scratch.path(), &arguments.bench)?;
    arguments.bench.print(&figures, FLOORS);
    if let Some(file) = &arguments.trace {
        trace::write(&viv, scratch.path(), file)?;
    }
    require_goals(&figures)
}

fn measured(viv: &Path, directory: &Path, arguments: &BenchArguments<Part>) -> Result<Vec<Figure>> {
    let wanted = |part: Part| arguments.wants(part);
    let starts = Starts { viv, directory, runs: arguments.runs };
    let mut figures = Vec::new();
    if wanted(Part::Cold) || wanted(Part::Template) {
        figures.extend(starts.single(wanted(Part::Cold), wanted(Part::Template))?);
    }
    if wanted(Part::Burst) {
        figures.extend(starts.burst()?);
    }
    if wanted(Part::Making) {
        figures.extend(starts.making()?);
    }
    if wanted(Part::Memory) {
        templates::build(viv, memory::SHAPE)?;
        figures.extend(memory::idle(viv, directory)?);
    }
    if wanted(Part::Inside) {
        figures.extend(sandbox::informational(viv, directory, arguments.runs)?);
        figures.push(Figure::plain("size of viv", std::fs::metadata(viv)?.len() as f64 / 1e6, "MB"));
    }
    Ok(figures)
}
