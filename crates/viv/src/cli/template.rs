//! `viv template` as it is typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::MachineArguments;
use crate::settings::values;

/// `viv template`
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  viv template ls                        what there is, and whether it can be used
  viv template build --memory 4G         make the one for `viv run --memory 4G` now
  viv template prune                     remove what cannot be used any more

A template is a machine that has booted and was saved. `viv run` starts from it in a fraction of the
time of a boot, and has a missing one made in the background. It holds nothing of yours: no share,
no environment, no secret. Templates are safe to remove at any time.")]
pub enum TemplateCommand {
    /// List templates
    #[command(after_help = "\
Examples:
  viv template ls
  viv template ls --json | jq -r '.[] | select(.usable | not) | .key'")]
    Ls(ListArguments),
    /// Make the template that `viv run` with the same options would start from
    #[command(after_help = "\
Examples:
  viv template build                     the one for `viv run` in this directory
  viv template build --memory 8G --cpus 4
  viv template build --force             anew, though there is one")]
    Build(Box<BuildArguments>),
    /// Remove templates
    #[command(after_help = "\
Examples:
  viv template rm b45d                   a key may be shortened as long as it fits only one
  viv template rm --all")]
    Rm(RemoveArguments),
    /// Remove templates that cannot be used any more, and what was left half made
    #[command(after_help = "\
Examples:
  viv template prune                     those of another viv, another QEMU or a kernel that is gone
  viv template prune --older-than 7d     and those not used for a week
  viv template prune --all --json")]
    Prune(PruneArguments),
}

impl TemplateCommand {
    /// Whether JSON is asked for.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match self {
            Self::Ls(arguments) => arguments.json,
            Self::Build(arguments) => arguments.json,
            Self::Prune(arguments) => arguments.json,
            Self::Rm(_) => false,
        }
    }
}

/// `viv template ls`
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv template build`
#[derive(Debug, Args)]
pub struct BuildArguments {
    #[command(flatten)]
    pub machine: MachineArguments,
    /// The directory whose viv.toml counts [default: the current directory]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Make it anew if it is there already
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object; progress and errors are JSON on stderr, one object per line
    #[arg(long)]
    pub json: bool,
}

/// `viv template rm`
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// Keys, or unique beginnings of them
    #[arg(value_name = "KEY", required_unless_present = "all", conflicts_with = "all")]
    pub keys: Vec<String>,
    /// Every template
    #[arg(long)]
    pub all: bool,
}

/// `viv template prune`
#[derive(Debug, Args)]
pub struct PruneArguments {
    /// Remove every template
    #[arg(long, conflicts_with = "older_than")]
    pub all: bool,
    /// Remove also those that were not used for so long, such as 7d or 12h
    #[arg(long, value_name = "DURATION", value_parser = values::parse_duration)]
    pub older_than: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
