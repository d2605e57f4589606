//! `viv sync` as it is typed.

use std::path::PathBuf;

use clap::Args;

/// `viv sync`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv sync review                        commits of its branches, into viv/review/BRANCH here
  viv sync review --ff                   and the branch that is checked out here moves forward to them
  viv sync review --artifacts dist,target/doc

For sandboxes that work on a copy (--workspace clone). Commits come as data and are checked; no hook, filter,
attribute or configuration of the sandbox counts. Branches that have nothing new are left out.")]
pub struct SyncArguments {
    /// Id, unique beginning of an id, or name of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Move the branch that is checked out here forward, if nothing is overwritten by that
    #[arg(long)]
    pub ff: bool,
    /// Bring these ignored directories or files of the workspace, too
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub artifacts: Vec<PathBuf>,
    /// Let the repository be partly outside of the workspace
    #[arg(long)]
    pub i_know: bool,
    /// Print one JSON object that says what was fetched
    #[arg(long)]
    pub json: bool,
}
