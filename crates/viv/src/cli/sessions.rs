//! `viv attach`, and what `viv exec` and `viv run` have to do with sessions.

use clap::Args;
use viv_sandbox::SizePolicy;

use crate::terminal::DetachKeys;

/// `viv attach`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv attach review                 the session that was used last; ctrl-P ctrl-Q leaves it again
  viv attach review 2               by its number
  viv attach review build           by the name that --session gave it
  viv attach review --list
  viv attach review build --end     hang up its terminal, which ends what runs on it

A session goes on when nobody looks at it: after ctrl-P ctrl-Q, and also when the window is closed
or the connection breaks. Several may look at it, and type, at the same time.

Exit code: the program's if it ended, 0 if you left.")]
pub struct AttachArguments {
    /// Name or id of the sandbox, or a unique beginning of either
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Number or name of the session [default: the running one that was used last]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// List the sandbox's sessions, also the last ones that have ended
    #[arg(long, conflicts_with_all = ["session", "end", "read_only"])]
    pub list: bool,
    /// With --list: print an array of JSON objects
    #[arg(long, requires = "list")]
    pub json: bool,
    /// End the session: its terminal is hung up
    #[arg(long, requires = "session", conflicts_with = "read_only")]
    pub end: bool,
    /// Only look: what is typed goes nowhere, and the window's size does not matter
    #[arg(long)]
    pub read_only: bool,
    #[command(flatten)]
    pub view: ViewArguments,
}

/// How a session is looked at.
#[derive(Debug, Clone, Args)]
pub struct ViewArguments {
    /// Which size the terminal has if several look at it: that of the smallest window [default], or of the
    /// newest, which is the one that was used last
    #[arg(long, value_name = "smallest|newest", value_parser = parse_size_policy)]
    pub size: Option<SizePolicy>,
    /// Keys that leave the session, separated by commas; '' for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
}

fn parse_size_policy(text: &str) -> Result<SizePolicy, String> {
    match text {
        "smallest" => Ok(SizePolicy::Smallest),
        "newest" => Ok(SizePolicy::Newest),
        _ => Err("smallest or newest".to_owned()),
    }
}

/// Checks the name of a session.
///
/// # Errors
/// What names are like.
pub fn parse_session_name(text: &str) -> Result<String, String> {
    if viv_sandbox::is_session_name(text) {
        Ok(text.to_owned())
    } else {
        let longest = viv_sandbox::LONGEST_SESSION_NAME_BYTES;
        Err(format!("a session's name is up to {longest} letters, digits, '.', '_' and '-', beginning with a letter"))
    }
}
