//! What can be typed about running a command several times, to compare what comes of it.

use clap::Args;

use crate::attempts::MOST_ATTEMPTS;

/// Options of `viv run` for several attempts at one thing.
#[derive(Debug, Clone, Default, Args)]
pub struct AttemptsArguments {
    /// Run the command so many times, each in a sandbox and on a copy of its own, and compare: NAME-1, NAME-2, …
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=i64::from(MOST_ATTEMPTS)), conflicts_with_all = ["detach", "ci", "timing", "no_review", "deploy_key"], help_heading = "Attempts")]
    pub attempts: Option<u32>,
    /// Run this inside after the command of each, for `sh -c` in the workspace; an attempt passes if it ends with 0
    #[arg(long, value_name = "CMD", requires = "attempts", help_heading = "Attempts")]
    pub check: Option<String>,
    /// Run so many at once, at most [default: as memory and processors of this host allow]
    #[arg(short, long, value_name = "NUMBER", requires = "attempts", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_ATTEMPTS)), help_heading = "Attempts")]
    pub jobs: Option<u32>,
}
