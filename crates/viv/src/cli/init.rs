//! `viv init` as it is typed.

use std::path::PathBuf;

use clap::Args;

/// `viv init`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv init                       a viv.toml that fits this project
  viv init --print               only show it
  viv init ~/src/shop --force    in place of the one that is there")]
pub struct InitArguments {
    /// The project's directory [default: the current directory]
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Write over a viv.toml that is there
    #[arg(long, conflicts_with = "print")]
    pub force: bool,
    /// Print the file, and write nothing
    #[arg(long)]
    pub print: bool,
    /// Print what was found and what was written, as JSON
    #[arg(long)]
    pub json: bool,
}
