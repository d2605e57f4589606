//! The life of sandboxes that have a name, as it is typed: `viv up`, `viv down` and what lies between.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::settings::values::{self, Size};

/// `viv up`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv up                         the sandbox of this directory, as viv.toml describes it
  viv up web db                  two that viv.toml describes, in this order
  viv up --all                   every one that it describes
  viv up --fresh                 with an empty disk, whatever the last one kept
  viv up --json | jq -r '.[].id'
  viv up --dry-run               what would be started, without starting it

A sandbox that is up stays as it is, and one that is paused goes on. It stays up until `viv stop`
or `viv down`, whatever becomes of this terminal. The commands of `on-create` run once for each
disk that it gets, those of `on-start` at each start.

Exit code: 0 if all are up; else of the first that is not: 125, or that of the command that failed.")]
pub struct UpArguments {
    /// Names of sandboxes, as viv.toml or your configuration describes them [default: this directory's own]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Every sandbox that is described for this directory
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// The directory whose sandboxes are meant [default: the current directory]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    #[command(flatten)]
    pub start: StartOptions,
    /// Print what would be started, and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How sandboxes are started.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct StartOptions {
    /// Throw away the disk that a sandbox with `persist` has kept
    #[arg(long)]
    pub fresh: bool,
    /// Boot the machine, even if there is a template of it
    #[arg(long)]
    pub cold: bool,
    /// Share even what viv refuses to: /, your home directory, viv's own files
    #[arg(long)]
    pub i_know: bool,
    /// Report events and errors on stderr, one JSON object per line, and print what became of each as an array
    #[arg(long)]
    pub json: bool,
}

/// `viv down`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv down                       this directory's own sandbox
  viv down --all                 every one of this directory
  viv down web

Its machine is stopped. With `persist` its disk stays for the next `viv up`; without, nothing of it
does. `viv rm` removes the disk, too; `viv stop` keeps the sandbox in `viv ps --all`.")]
pub struct DownArguments {
    /// Names, unique beginnings of names, or ids [default: this directory's own]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Every sandbox of this directory
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// The directory whose sandboxes are meant [default: the current directory]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    #[command(flatten)]
    pub output: JsonOutput,
}

/// Whether programs read what is printed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct JsonOutput {
    /// Print what became of each as an array of JSON objects, errors on stderr
    #[arg(long)]
    pub json: bool,
}

/// `viv start`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv start web
  viv start web db --cold

Like `viv up` from anywhere, for sandboxes that were up before.")]
pub struct StartArguments {
    /// Names, or unique beginnings of names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    #[command(flatten)]
    pub start: StartOptions,
}

/// `viv restart`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv restart web                what viv.toml says now counts from here on
  viv restart --fresh web        with an empty disk")]
pub struct RestartArguments {
    /// Names, or unique beginnings of names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    #[command(flatten)]
    pub start: StartOptions,
}

/// `viv stop`, `viv kill`
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// Names, ids, or unique beginnings of them
    #[arg(value_name = "SANDBOX", required_unless_present = "all", conflicts_with = "all")]
    pub sandboxes: Vec<String>,
    /// Every running sandbox of yours
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub output: JsonOutput,
}

/// `viv pause`, `viv resume`
#[derive(Debug, Args)]
pub struct NameArguments {
    /// Names, ids, or unique beginnings of them
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    #[command(flatten)]
    pub output: JsonOutput,
}

/// `viv rm`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv rm web                     what is left of it, the disk it kept included
  viv rm --force web             even if it runs: it is stopped first

What agents keep of a project stays: see `viv agent ls`. So does the project, of course.")]
pub struct RemoveArguments {
    /// Names, or unique beginnings of names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Stop those that run
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub output: JsonOutput,
}

/// `viv rename`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv rename web shop

It has to be stopped. What describes it is still found; rename it there, too, or the next `viv up`
in its directory makes one of the old name. Inside, it has the new host name from the next start on.")]
pub struct RenameArguments {
    /// Name, or unique beginning of a name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it is to be called
    #[arg(value_name = "NEW-NAME", value_parser = values::parse_name)]
    pub new_name: String,
    #[command(flatten)]
    pub output: JsonOutput,
}

/// `viv inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv inspect web
  viv inspect web | jq -r '.[0].ended.reason'
  viv inspect 3f2a               one without a name, by its id")]
pub struct InspectArguments {
    /// Names, ids, or unique beginnings of them
    #[arg(value_name = "SANDBOX", required = true)]
    pub names: Vec<String>,
    /// Print errors as JSON, too: what is there is printed so in any case
    #[arg(long)]
    pub json: bool,
}

/// `viv wait`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv wait web                   until it has stopped, for whatever reason
  viv wait --for running web     until programs can be run in it
  viv wait --timeout 10m web

Exit code: 0 after an end in good order, 137 if it was killed, 125 if it failed; 124 if the time
that --timeout gives is over.")]
pub struct WaitArguments {
    /// Names, ids, or unique beginnings of them
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// What is waited for
    #[arg(long = "for", value_name = "STATE", value_enum, default_value_t = WaitFor::Stopped)]
    pub wanted: WaitFor,
    #[arg(long, value_name = "DURATION", help = "Give up after this long, such as 90s or 5m", value_parser = values::parse_duration)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub output: JsonOutput,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WaitFor {
    /// Nothing of it runs.
    Stopped,
    /// Programs can be run in it.
    Running,
}

/// `viv disk`
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// List the disks that sandboxes keep, and what they take
    #[command(after_help = "\
Examples:
  viv disk ls
  viv disk ls --json | jq 'map(.allocated_bytes) | add'

TAKES is what a disk takes of this host's, LIMIT the most that it may hold.")]
    Ls(DiskListArguments),
    /// Give back to this host what a disk does not use
    #[command(
        visible_alias = "shrink",
        after_help = "\
Examples:
  viv disk trim web

The sandbox has to be stopped; while it runs, that happens by itself. Nothing on the disk is lost."
    )]
    Trim(NameArguments),
    /// Make a disk larger or smaller
    #[command(after_help = "\
Examples:
  viv disk resize web 40G

The sandbox has to be stopped. Nothing on the disk is lost: it does not become smaller than that.")]
    Resize(ResizeArguments),
    /// Throw a disk away; the next start makes a new one
    #[command(after_help = "\
Examples:
  viv disk discard web           what it wrote outside its workspace is lost
  viv up --fresh web             the same, and up again")]
    Discard(NameArguments),
}

impl DiskCommand {
    /// Whether programs read what is printed.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match self {
            Self::Ls(arguments) => arguments.json,
            Self::Trim(arguments) | Self::Discard(arguments) => arguments.output.json,
            Self::Resize(arguments) => arguments.output.json,
        }
    }
}

/// `viv disk ls`
#[derive(Debug, Args)]
pub struct DiskListArguments {
    /// Names, or unique beginnings of names [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv disk resize`
#[derive(Debug, Args)]
pub struct ResizeArguments {
    /// Name, or unique beginning of a name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The most that it is to hold, such as 40G
    #[arg(value_name = "SIZE")]
    pub size: Size,
    #[command(flatten)]
    pub output: JsonOutput,
}
