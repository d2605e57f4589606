//! The command line: what can be typed, and nothing about what it does.

pub mod agent;
mod attempts;
pub mod audit;
pub mod bridge;
mod ci;
mod copy;
#[cfg(test)]
mod documented;
pub mod image;
mod init;
mod kernel;
pub mod life;
pub mod network;
pub mod nix;
pub mod review;
mod run;
pub mod sessions;
pub mod ssh;
mod sync;
mod template;
pub mod unit;
mod workspace;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::settings::definitions;
use crate::settings::values::{self, EnvironmentRequest};

pub use ci::CiArguments;
pub use copy::CopyArguments;
pub use init::InitArguments;
pub use kernel::{KernelArguments, KernelBuildArguments, KernelCommand};
pub use run::{MachineArguments, RunArguments};
pub use sync::SyncArguments;
pub use template::{BuildArguments, ListArguments, PruneArguments, RemoveArguments, TemplateCommand};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nguest sha256 ", env!("VIV_GUEST_SHA256"));

/// A computer of its own for a coding agent: runs any command in a microVM on this project.
#[derive(Debug, Parser)]
#[command(
    name = "viv",
    version,
    long_version = LONG_VERSION,
    styles = STYLES,
    max_term_width = 100,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  viv run                        a shell in a fresh sandbox, in this directory
  viv run -- make test           one command; its exit code is viv's
  viv doctor                     is this machine ready?",
    after_long_help = "\
Examples:
  viv run                        a shell in a fresh sandbox, in this directory
  viv run -- make test           one command; its exit code is viv's
  viv doctor                     is this machine ready?

Settings come from the command line, then viv.toml in the workspace, then
~/.config/viv/config.toml, then defaults."
)]
pub struct Cli {
    /// How much is said.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How much is said.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Verbosity {
    /// Say what is being done and how long it took
    #[arg(short, long, global = true, conflicts_with = "quiet", display_order = 900)]
    pub verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true, display_order = 901)]
    pub quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command, or a shell, in a fresh sandbox on this directory
    Run(Box<RunArguments>),
    /// Write a viv.toml that fits this project
    Init(InitArguments),
    /// Run a command, or a shell, in a running sandbox
    Exec(ExecArguments),
    /// Look at a running program's terminal again, which goes on when nobody looks
    Attach(sessions::AttachArguments),
    /// Bring up a sandbox that stays: the one viv.toml describes, or those you name
    Up(life::UpArguments),
    /// Stop sandboxes and remove what is not kept of them
    Down(life::DownArguments),
    /// Copy files and directories to or from a running sandbox
    Cp(CopyArguments),
    /// Fetch commits and ignored files of a sandbox that works on a copy
    Sync(SyncArguments),
    /// List running sandboxes
    Ps(PsArguments),
    /// Start sandboxes that were up before
    Start(life::StartArguments),
    /// Stop sandboxes: their shares are flushed, then they are powered off
    #[command(after_help = "\
Examples:
  viv stop review
  viv stop --all

Those of `viv up` are kept for `viv start`, with what `persist` keeps; those of `viv run` are gone.")]
    Stop(life::TargetArguments),
    /// Kill sandboxes at once
    #[command(after_help = "\
Examples:
  viv kill 3f2a                  at once; what the sandbox had not yet written is lost
  viv kill --all")]
    Kill(life::TargetArguments),
    /// Stop sandboxes and start them again
    Restart(life::RestartArguments),
    /// Make sandboxes stand still: they take no processor time, and keep their memory
    #[command(after_help = "\
Examples:
  viv pause web
  viv pause web db && viv ps")]
    Pause(life::NameArguments),
    /// Let sandboxes go on, their clocks set right
    #[command(after_help = "\
Examples:
  viv resume web")]
    Resume(life::NameArguments),
    /// Wait until sandboxes have stopped, or run
    Wait(life::WaitArguments),
    /// Remove sandboxes, with all they had but the project
    Rm(life::RemoveArguments),
    /// Give a sandbox another name
    Rename(life::RenameArguments),
    /// Show everything about sandboxes, as JSON
    Inspect(life::InspectArguments),
    /// List, trim, resize and discard the disks that sandboxes keep
    #[command(
        subcommand,
        after_help = "\
Examples:
  viv disk ls                    what the disks of sandboxes with `persist` take
  viv disk trim web              give back what one does not use"
    )]
    Disk(life::DiskCommand),
    /// Show what a sandbox changed in its workspace
    Diff(review::DiffArguments),
    /// Look through what a sandbox changed, and accept or reject it hunk by hunk
    Review(review::ReviewArguments),
    /// Accept what a sandbox changed: all of it, or these paths
    #[command(after_help = "\
Examples:
  viv accept                     all that the last sandbox on this directory changed
  viv accept src/ Cargo.toml     these
  viv accept web -- src          these of the sandbox named web

On a directory that the sandbox worked on itself, what is accepted is no longer shown as a change,
and `viv undo` leaves it. What a sandbox made on a copy of its own is written into the directory,
but for files that have become something else since.")]
    Accept(review::ChooseArguments),
    /// Reject what a sandbox changed: all of it, or these paths
    #[command(after_help = "\
Examples:
  viv reject package-lock.json   this file is again as it was
  viv undo --redo                or rather not
  viv reject night-1 night-3     what these attempts made, all of it

On a directory that the sandbox worked on itself, files are again as they were. What a sandbox made
on a copy of its own is no longer shown.")]
    Reject(review::ChooseArguments),
    /// Bring back the workspace as it was before a sandbox, or before the last `viv accept`
    Undo(review::UndoArguments),
    /// Build a kernel that boots faster, and choose among kernels
    Kernel(KernelArguments),
    /// Make, fetch, list and remove images and the layers of packages over them
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// List, remove and make templates: booted machines that `viv run` starts from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Show, learn and trust what sandboxes connect to
    #[command(subcommand)]
    Net(network::NetCommand),
    /// Show a port of a running sandbox on this host
    Port(network::PortArguments),
    /// Open a shell in a running sandbox by ssh, or run a command
    Ssh(ssh::SshArguments),
    /// Make `ssh viv-NAME`, scp, rsync, git and editors reach sandboxes
    SshConfig(ssh::SshConfigArguments),
    /// Have systemd start sandboxes, now and from now on
    Enable(unit::EnableArguments),
    /// Stop sandboxes that systemd starts, and have it start them no more
    Disable(unit::DisableArguments),
    /// List the agents that `viv run` knows by name, and what they keep
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Show, follow, play and export what a sandbox's programs printed
    Logs(audit::LogsArguments),
    /// Show and verify what happened in sandboxes
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Show calls to model APIs, their tokens and their cost
    Usage(network::UsageArguments),
    /// Check whether this machine is ready, and say what to do about it
    Doctor(DoctorArguments),
    /// Print the completion script of a shell
    Completions(CompletionsArguments),
    /// Print the manual page, or write all of them into a directory
    Man(ManArguments),
}

/// `viv exec`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv exec 3f2a -- ps aux        by name, id, or a unique beginning of either
  viv exec review                a shell in the sandbox named review
  viv exec --root review -- apt-get install -y tree
  viv exec -d --session web review -- npm run dev    in the background; see `viv attach`

At a terminal, the program runs in a session: ctrl-P ctrl-Q leaves it, closing the window does too,
and `viv attach` comes back to it. Without a terminal, its input and output are viv's, and it ends
with viv.")]
pub struct ExecArguments {
    /// Name or id of the sandbox, or a unique beginning of either
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Program and arguments; a login shell without them
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Environment variable of the program: KEY=VALUE, or KEY to copy the host's
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = values::parse_environment)]
    pub env: Vec<EnvironmentRequest>,
    /// Directory inside to start in, absolute or relative to the workspace [default: as described]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User inside to run as [default: as described, or agent]
    #[arg(short, long, value_name = "NAME", value_parser = values::parse_user)]
    pub user: Option<String>,
    /// Run as root inside
    #[arg(long, conflicts_with = "user")]
    pub root: bool,
    #[arg(long, value_name = "DURATION", help = definitions::TIMEOUT.help_of_flag(), value_parser = values::parse_duration)]
    pub timeout: Option<std::time::Duration>,
    /// Begin a session and leave it to itself; print its number
    #[arg(short, long)]
    pub detach: bool,
    /// A name for the session, besides its number
    #[arg(long, value_name = "NAME", value_parser = sessions::parse_session_name)]
    pub session: Option<String>,
    /// Pass input on: always so, and here for the fingers' sake
    #[arg(short, long)]
    pub interactive: bool,
    /// Insist on a terminal, which there is anyway if input and output are one
    #[arg(short, long, conflicts_with = "detach")]
    pub tty: bool,
    #[command(flatten)]
    pub view: sessions::ViewArguments,
}

/// `viv ps`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv ps
  viv ps --all                   those of `viv up` that are stopped, too
  viv ps --json | jq -r '.[].id'
  viv ps --json | jq '.[].memory.pss_bytes'

AGE is since a sandbox was started, or since it ended. MEMORY is what it may use, MEMORY USED what all its processes take of this machine's memory
now (PSS); \"?\" if the kernel does not say.")]
pub struct PsArguments {
    /// Those that have stopped, too
    #[arg(short, long)]
    pub all: bool,
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv doctor                     what is missing, and the command that mends it
  viv doctor --fix               run those commands, each shown first
  viv doctor --json | jq '.checks[] | select(.status == \"fail\")'

Exit code: 0 if nothing fails, else 1.")]
pub struct DoctorArguments {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Mend what can be mended; uses sudo where root is needed and sudo asks nothing
    #[arg(long)]
    pub fix: bool,
}

/// `viv completions`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv completions bash > ~/.local/share/bash-completion/completions/viv
  viv completions zsh > ~/.zfunc/_viv
  viv completions fish > ~/.config/fish/completions/viv.fish")]
pub struct CompletionsArguments {
    /// Whose script
    pub shell: Shell,
}

/// `viv man`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv man | man -l -             read it
  viv man ~/.local/share/man/man1")]
pub struct ManArguments {
    /// Write viv.1, viv-run.1 and so on here
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn run(arguments: &[&str]) -> Result<RunArguments, clap::Error> {
        let all = ["viv", "run"].iter().chain(arguments);
        match Cli::try_parse_from(all)?.command {
            Command::Run(arguments) => Ok(*arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let arguments = run(&["--cpus", "4", "cargo", "test", "--cpus", "1", "-v", "--", "x"]).unwrap();
        assert_eq!(arguments.command, ["cargo", "test", "--cpus", "1", "-v", "--", "x"]);
        assert_eq!(arguments.machine.cpus, Some(4));
        assert_eq!(run(&["--", "--help"]).unwrap().command, ["--help"]);
        assert!(run(&[]).unwrap().command.is_empty());
    }

    #[test]
    fn an_unknown_flag_is_not_taken_for_the_command() {
        assert_eq!(run(&["--memmory", "4G"]).unwrap_err().kind(), clap::error::ErrorKind::UnknownArgument);
    }
}
