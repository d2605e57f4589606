//! `cargo xtask bench net`: what a sandbox's network costs.
//!
//! Throughput is measured in one running sandbox, in turns with the raw link (see [`throughput`]);
//! what the gateway adds and what connections hold, natively (see [`native`]).

mod native;
mod throughput;
mod wire;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::arguments::BenchArguments;
use crate::setup;
use crate::workspace::{self, Profile};

/// `cargo xtask bench net`
#[derive(Debug, Args)]
pub struct NetArguments {
    #[command(flatten)]
    bench: BenchArguments<Part>,
}

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Bytes through the egress, against the raw link
    Throughput,
    /// The gateway's delay and the egress's memory, without a VM
    Native,
}

/// What the figures are compared with.
const FLOORS: &str = "\
The floor of throughput is the raw link: a published port in the same sandbox, with the same\n\
programs at both ends; its ratio is to be at least the goal. Of what the gateway adds to a call\n\
on the host, and of memory, it is the most they may be.";

/// Measures and prints; fails where a goal is missed.
pub fn net(arguments: &NetArguments) -> Result<()> {
    setup::run(setup::Purpose::Run, false)?;
    let viv = workspace::build_viv(Profile::Release)?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir()?;
    let arguments = &arguments.bench;
    let mut figures = Vec::new();
    if arguments.wants(Part::Native) {
        figures.extend(native::measure(&viv, arguments.runs)?);
    }
    if arguments.wants(Part::Throughput) {
        figures.extend(throughput::measure(&viv, scratch.path(), arguments.runs)?);
    }
    arguments.conclude(&figures, FLOORS)
}
