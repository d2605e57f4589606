//! `cargo xtask bench net`: what a sandbox's network costs.
//!
//! Throughput is measured in one running sandbox, in turns with the raw link (see [`throughput`]);
//! what the gateway adds and what connections hold, natively (see [`native`]).

mod native;
mod throughput;
mod wire;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::figures::{print_table, require_goals};
use crate::setup;
use crate::workspace::{self, Profile};

/// `cargo xtask bench net`
#[derive(Debug, Args)]
pub struct NetArguments {
    /// How often each throughput is measured; medians are of these
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
    /// Bytes through the egress, against the raw link
    Throughput,
    /// The gateway's delay and the egress's memory, without a VM
    Native,
}

/// Measures and prints; fails where a goal is missed.
pub fn net(arguments: &NetArguments) -> Result<()> {
    setup::run(setup::Purpose::Run, false)?;
    let viv = workspace::build_viv(Profile::Release)?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir()?;
    let wanted = |part: Part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut figures = Vec::new();
    if wanted(Part::Native) {
        figures.extend(native::measure(&viv, arguments.runs)?);
    }
    if wanted(Part::Throughput) {
        figures.extend(throughput::measure(&viv, scratch.path(), arguments.runs)?);
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "figures": figures, "runs": arguments.runs }));
    } else {
        print_table(&figures, arguments.runs, "floor");
        println!("\nThe floor of throughput is the raw link: a published port in the same sandbox, with the same");
        println!("programs at both ends; its ratio is to be at least the goal. Of what the gateway adds to a call");
        println!("on the host, and of memory, it is the most they may be.");
    }
    require_goals(&figures)
}
