//! `viv kernel` as it is typed.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};

/// `viv kernel`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv kernel build               build a small kernel that boots faster, and use it from now on
  viv kernel ls                  which kernels there are
  viv kernel use debian          back to Debian's
  viv run --kernel own -- true   for one run only")]
pub struct KernelArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: KernelCommand,
}

/// What to do with kernels.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Build viv's own kernel from Debian's newest kernel source, and use it from now on
    Build(KernelBuildArguments),
    /// List Debian's kernel and the own ones
    Ls(KernelListArguments),
    /// Choose the kernel that sandboxes boot where none is named
    Use(KernelUseArguments),
    /// Remove own kernels; sandboxes that run them go on
    Rm(KernelRemoveArguments),
}

impl KernelCommand {
    /// Whether its result is wanted as JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match self {
            Self::Build(arguments) => arguments.json,
            Self::Ls(arguments) => arguments.json,
            Self::Use(_) | Self::Rm(_) => false,
        }
    }
}

/// `viv kernel build`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv kernel build               about 26 minutes of processor time, shared by all processors
  viv kernel build --jobs 2      leave some for others
  viv kernel build --config      print the configuration, build nothing
  nice viv kernel build          at a lower priority

It downloads 150 MB, needs 1.5 GB for a while (TMPDIR, else /var/tmp) and keeps 24 MB.
Nothing is built if the newest source has been built already.")]
pub struct KernelBuildArguments {
    /// Compilers at work at once [default: as many as there are processors]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroU32>,
    /// Print the configuration it would be built with, and build nothing
    #[arg(long, conflicts_with_all = ["json", "jobs"])]
    pub config: bool,
    /// Print the kernel as a JSON object, and progress as lines of JSON
    #[arg(long)]
    pub json: bool,
}

/// `viv kernel ls`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv kernel ls
  viv kernel ls --json | jq -r '.[] | select(.used).release'")]
pub struct KernelListArguments {
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv kernel use`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv kernel use own             the newest own kernel
  viv kernel use 3f2a            the own kernel whose id begins so
  viv kernel use debian")]
pub struct KernelUseArguments {
    /// `debian`, `own`, or the id of an own kernel or a beginning of it
    #[arg(value_name = "KERNEL")]
    pub kernel: String,
}

/// `viv kernel rm`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv kernel rm 3f2a             if it was in use, Debian's is from now on")]
pub struct KernelRemoveArguments {
    /// Ids of own kernels, or beginnings of them
    #[arg(value_name = "KERNEL", required = true)]
    pub kernels: Vec<String>,
}
