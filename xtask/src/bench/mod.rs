//! `cargo xtask bench start`: what a start costs.
//!
//! Two figures have goals and are ratios to the bare floor (see [`floor`]), taken in turns with it
//! so that whatever else the machine does falls on both. The others are printed for information.

mod figures;
mod floor;
pub mod measure;
mod sandbox;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::setup;
use crate::workspace::{self, Profile};
use figures::{Figure, median, print_table};

/// Cold start to the command's first output byte: at most this much slower than the floor.
const FIRST_BYTE_GOAL: f64 = 1.35;

/// From start to end, the teardown included.
const END_TO_END_GOAL: f64 = 1.5;

/// `cargo xtask bench start`
#[derive(Debug, Args)]
pub struct StartArguments {
    /// How often each start is measured; medians are of these
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(7..=1000))]
    runs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measure the starts only, not what is printed for information
    #[arg(long)]
    starts_only: bool,
}

/// Measures and prints; fails where a goal is missed.
pub fn start(arguments: &StartArguments) -> Result<()> {
    setup::run(setup::Purpose::Run, false)?;
    let viv = workspace::build_viv(Profile::Release)?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir()?;

    // Builds the images if need be, and warms the page cache for both sides.
    let _ = measure::until_first_byte_and_end(&mut echo(&viv, scratch.path()), None)
        .context("viv cannot run a command here")?;

    let mut figures = starts(&viv, scratch.path(), arguments.runs)?;
    if !arguments.starts_only {
        figures.extend(sandbox::informational(&viv, scratch.path(), arguments.runs)?);
        figures.push(Figure::plain("size of viv", std::fs::metadata(&viv)?.len() as f64 / 1e6, "MB"));
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "figures": figures }));
    } else {
        print_table(&figures, arguments.runs);
    }
    let missed: Vec<&str> =
        figures.iter().filter(|figure| figure.holds == Some(false)).map(|figure| figure.name).collect();
    if !missed.is_empty() {
        bail!("goal missed: {}", missed.join(", "));
    }
    Ok(())
}

fn starts(viv: &Path, directory: &Path, runs: u32) -> Result<Vec<Figure>> {
    let sandbox = sandbox::Running::start(viv, directory)?;
    let floor = floor::Floor::prepare(&sandbox.machine()?, directory)?;
    sandbox.stop()?;
    let _ = floor.run().context("the bare floor does not boot")?;
    let (mut first_bytes, mut ends) = (Pairs::default(), Pairs::default());
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        let bare = floor.run()?;
        let whole = measure::until_first_byte_and_end(&mut quiet_run(viv, directory, &["true"]), None)?;
        let spoken = measure::until_first_byte_and_end(&mut echo(viv, directory), None)?;
        first_bytes.push(spoken.first_byte, bare.first_byte);
        ends.push(whole.end, bare.end);
    }
    Ok(vec![
        first_bytes.figure("cold start to first output byte", FIRST_BYTE_GOAL),
        ends.figure("start to end, with teardown", END_TO_END_GOAL),
    ])
}

#[derive(Default)]
struct Pairs {
    ours: Vec<Duration>,
    floor: Vec<Duration>,
}

impl Pairs {
    fn push(&mut self, ours: Duration, floor: Duration) {
        self.ours.push(ours);
        self.floor.push(floor);
    }

    fn figure(mut self, name: &'static str, goal: f64) -> Figure {
        Figure::compared(
            name,
            milliseconds(median(&mut self.ours)),
            milliseconds(median(&mut self.floor)),
            "ms",
            Some(goal),
        )
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn echo(viv: &Path, directory: &Path) -> Command {
    quiet_run(viv, directory, &["echo", "x"])
}

fn quiet_run(viv: &Path, directory: &Path, program: &[&str]) -> Command {
    let mut command = Command::new(viv);
    command.args(["run", "--quiet", "--"]).args(program).current_dir(directory);
    command
}
