//! `viv logs` and `viv audit` as they are typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use viv_audit::Hash;

/// `viv logs`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv logs review                    what its programs printed, as text
  viv logs -f review                 the same, and what they print from now on
  viv logs review --json             its programs, and how each ended
  viv logs review --session 3 --play --speed 4
  viv logs 3f2a --export run.cast    for `asciinema play run.cast`
  viv logs review --transcripts      what its agents wrote down of their work
  viv logs review --transcript 7 --export session.jsonl

Programs at a terminal are recorded, others only with `viv run --record all`. What is typed is never
recorded, but a terminal shows most of it. Sandboxes that have ended are found, too: `viv audit ls`.")]
pub struct LogsArguments {
    /// Name or id of the sandbox, or a unique beginning of either
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Go on with what is printed from now on, until the sandbox ends
    #[arg(short, long, conflicts_with_all = ["json", "play", "export"])]
    pub follow: bool,
    /// One program alone: its number in `viv logs --json`, or its session's name
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// Print the programs of the latest start, or its transcripts, as a JSON array
    #[arg(long)]
    pub json: bool,
    /// Play a recording at this terminal, escape codes and all
    #[arg(long, conflicts_with = "json")]
    pub play: bool,
    /// How many times faster to play than it was
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = parse_speed, requires = "play")]
    pub speed: f64,
    /// Write a recording to a new file, in asciicast v2, or a transcript; `-` for standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "play"])]
    pub export: Option<PathBuf>,
    /// List the transcripts of its agents that were kept at the end of its latest start
    #[arg(long, conflicts_with_all = ["follow", "session", "play", "export"])]
    pub transcripts: bool,
    /// Show one transcript: its number in `viv logs --transcripts`
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["follow", "session", "play", "json", "transcripts"])]
    pub transcript: Option<u64>,
}

/// `viv audit`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List the timelines, those of sandboxes that have ended included
    Ls(AuditListArguments),
    /// Show what happened in a sandbox
    #[command(after_help = "\
Examples:
  viv audit show review
  viv audit show review --json | jq 'select(.event.type == \"exec\")'")]
    Show(AuditShowArguments),
    /// Check that nothing in a timeline was changed, cut or added
    #[command(after_help = "\
Examples:
  viv audit verify review
  viv audit verify review --json | jq -r .head        to be noted elsewhere
  viv audit verify review --head 5f2c...              and compared later
  viv audit verify ./artifacts/timeline               a copy, as `viv run --ci --artifacts` makes it

Exit code: 0 if nothing was found, else 1. Whoever can write a timeline can make all of it anew; only a
hash that was noted elsewhere shows that. See docs/audit.md.")]
    Verify(AuditVerifyArguments),
}

impl AuditCommand {
    /// Whether errors are wanted as JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match self {
            Self::Ls(arguments) => arguments.json,
            Self::Show(arguments) => arguments.json,
            Self::Verify(arguments) => arguments.json,
        }
    }
}

/// `viv audit ls`
#[derive(Debug, Args)]
pub struct AuditListArguments {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// `viv audit show`
#[derive(Debug, Args)]
pub struct AuditShowArguments {
    /// Name or id of the sandbox, or a unique beginning of either
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Print the lines of the timeline, one JSON object each
    #[arg(long)]
    pub json: bool,
}

/// `viv audit verify`
#[derive(Debug, Args)]
pub struct AuditVerifyArguments {
    /// Name or id of the sandbox, or a unique beginning of either; or the directory of a copy, with a slash
    #[arg(value_name = "SANDBOX|DIR")]
    pub sandbox: String,
    /// A hash that was noted before, which the timeline has to hold
    #[arg(long, value_name = "HASH")]
    pub head: Option<Hash>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn parse_speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && (0.01..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("a speed is a number from 0.01 to 1000".to_owned()),
    }
}
