//! `viv diff`, `viv review`, `viv accept`, `viv reject` and `viv undo` as they are typed.

use std::path::PathBuf;

use clap::Args;

/// Whose changes, and which of them.
#[derive(Debug, Clone, Args)]
pub struct ChangeArguments {
    /// A sandbox's name or id, then paths; without a sandbox the last one on this directory, without paths everything
    #[arg(value_name = "SANDBOX|PATH")]
    pub words: Vec<String>,
    /// Paths, whatever sandboxes are called
    #[arg(last = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Name, id, or unique beginning of the id of the sandbox
    #[arg(short, long, value_name = "SANDBOX")]
    pub sandbox: Option<String>,
}

/// `viv diff`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv diff                       what the last sandbox on this directory changed
  viv diff web --stat            the same in numbers, of the sandbox named web
  viv diff src/                  of these files alone
  viv diff > work.patch          a patch, exact to the byte
  viv diff --json | jq -r '.files[].path'

On a terminal, output goes through $PAGER, and control characters in it are shown escaped.")]
pub struct DiffArguments {
    #[command(flatten)]
    pub changes: ChangeArguments,
    /// Show how many lines of each file were added and removed
    #[arg(long, conflicts_with_all = ["name_only", "json"])]
    pub stat: bool,
    /// Show the paths alone
    #[arg(long, conflicts_with = "json")]
    pub name_only: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write to the terminal itself
    #[arg(long)]
    pub no_pager: bool,
}

/// `viv review`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv review                     look through what the last sandbox on this directory changed
  viv review web

Keys: a accepts, r rejects, u takes either back, for the hunk or the file under the cursor; A accepts
whatever is left; ? shows all keys. Nothing is done before you leave with q and say yes.")]
pub struct ReviewArguments {
    #[command(flatten)]
    pub changes: ChangeArguments,
}

/// `viv accept` and `viv reject`
#[derive(Debug, Args)]
pub struct ChooseArguments {
    #[command(flatten)]
    pub changes: ChangeArguments,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `viv undo`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv undo                       this directory is again as it was before the last sandbox on it
  viv undo --redo                and now it is not
  viv undo --start               undo what was accepted as well

Files of the directory that the sandbox changed are written, new ones are removed. Ignored files
and .git stay as they are. See docs/review.md.")]
pub struct UndoArguments {
    /// Name, id, or unique beginning of the id of the sandbox [default: the last one on this directory]
    #[arg(value_name = "SANDBOX")]
    pub sandbox: Option<String>,
    /// Take the last undo or reject back
    #[arg(long, conflicts_with = "start")]
    pub redo: bool,
    /// Bring back what was there at the start, also where a change was accepted since
    #[arg(long)]
    pub start: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
