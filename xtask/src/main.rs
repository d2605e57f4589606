//! The tool of this repository: set-up, demo, tests, benchmarks and generated documents.
//!
//! It builds and runs `viv` from the outside, as a user would, and depends on none of its crates.

mod bench;
mod command;
mod demo;
mod docs;
mod fuzz;
mod processes;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, demo, tests, benchmarks and generated documents of Vivarium")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, running and testing need, without a question; nothing if all is there
    Setup {
        /// Print what would be done and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Set up, build viv, run a command in a microVM on a scratch project and show what came of it
    Demo,
    /// Set up, then format, lints, every test (also on real VMs), and a closing summary
    Test {
        /// Only the tests that this nextest filter expression selects, without format and lints
        #[arg(long, value_name = "EXPRESSION")]
        filter: Option<String>,
    },
    /// Measure
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Fuzz the protocol's decoders; needs cargo-fuzz and a nightly compiler
    Fuzz {
        /// How long, in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Regenerate docs/reference.md from viv itself
    Docs {
        /// Change nothing; fail if the file is not current
        #[arg(long)]
        check: bool,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// What a start costs, against a bare boot and a bare restore
    Start(bench::StartArguments),
    /// What one command costs with virtme-ng, on the same kernel
    Peers(bench::PeersArguments),
    /// What the network costs, against the raw link and direct calls
    Net(bench::NetArguments),
    /// What images and packages cost, against package managers and other tools
    Image(bench::ImageArguments),
    /// What working on a copy costs, and looking at what was done
    Workspace(bench::WorkspaceArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup { dry_run } => setup::run(setup::Purpose::Test, dry_run),
        Task::Demo => demo::run(),
        Task::Test { filter } => test::run(filter.as_deref()),
        Task::Bench { what: Bench::Start(arguments) } => bench::start(&arguments),
        Task::Bench { what: Bench::Peers(arguments) } => bench::peers(&arguments),
        Task::Bench { what: Bench::Net(arguments) } => bench::net(&arguments),
        Task::Bench { what: Bench::Image(arguments) } => bench::image(&arguments),
        Task::Bench { what: Bench::Workspace(arguments) } => bench::workspaces(&arguments),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Docs { check } => docs::run(check),
    }
}
