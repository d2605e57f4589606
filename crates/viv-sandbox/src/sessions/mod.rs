//! Sessions: programs whose terminal outlives whoever looks at it.
//!
//! The monitor runs such a program itself, keeps its screen, and shows it to any number of viewers,
//! who come and go. On the sandbox's socket:
//!
//! ```text
//! viewer  ── SESSIONS\n ── SessionRequest (JSON, a line) ─►  monitor
//!         ◄─ SessionAnswer (JSON, a line) ────────────────
//!         ◄─ frames, as a program's own connection has them ─►     after `new` and `attach`
//! ```
//!
//! What is behind the answer to `new` and `attach` is what [`crate::Sandbox::exec`] gives: output, credit and the
//! exit one way; input, credit, window sizes and signals the other. A viewer that closes the connection has
//! left; the program goes on.

mod client;

use serde::{Deserialize, Serialize};
use viv_error::Report;
use viv_proto::message::{Exec, ExitReport, TerminalSize};

pub use client::{SessionConnection, attach_session, end_session, list_sessions, new_session};

/// The first line of a connection that is about sessions.
pub(crate) const GREETING: &str = "SESSIONS";

/// How many programs a sandbox's sessions may be running at once.
pub const MOST_SESSIONS: usize = 32;

/// How many viewers a session may have at once.
pub const MOST_VIEWERS: usize = 16;

/// How many sessions that have ended are kept to be asked about, the last ones.
pub const MOST_ENDED_SESSIONS: usize = 32;

/// How many lines above the screen a session keeps, if they fit in [`MOST_HISTORY_BYTES`].
pub const MOST_HISTORY_LINES: usize = 2000;

/// How much of memory they may take, in bytes.
pub const MOST_HISTORY_BYTES: usize = 8 * 1024 * 1024;

/// The longest name of a session, in bytes.
pub const LONGEST_SESSION_NAME_BYTES: usize = 32;

/// Which size a session's terminal has, when its viewers' differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizePolicy {
    /// What fits in every viewer's window.
    #[default]
    Smallest,
    /// That of the viewer who came, typed or changed size last; others see a part of it.
    Newest,
}

/// How a viewer looks at a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewing {
    /// The viewer's window.
    pub size: TerminalSize,
    /// Whether what is typed goes nowhere, and the window's size does not matter.
    #[serde(default)]
    pub read_only: bool,
}

/// A program to be run in a session of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// The program; it has a terminal, of 80 by 24 if none is asked for.
    pub exec: Exec,
    /// A name besides the number: letters, digits, `.`, `_` and `-`, beginning with a letter.
    #[serde(default)]
    pub name: Option<String>,
    /// Which size its terminal has.
    #[serde(default)]
    pub size_policy: SizePolicy,
    /// Whether the sandbox ends, in good order, when the program does.
    #[serde(default)]
    pub ends_sandbox: bool,
    /// When its terminal is hung up if it runs for so long, in milliseconds; its exit code is 124 then.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Its first viewer, which is whoever asks; else it begins without one.
    #[serde(default)]
    pub viewing: Option<Viewing>,
}

/// A session to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSession {
    /// Its number or name; without one, the running session that was used last.
    #[serde(default)]
    pub session: Option<String>,
    /// How.
    pub viewing: Viewing,
    /// Which size its terminal has from now on; as before if none.
    #[serde(default)]
    pub size_policy: Option<SizePolicy>,
}

/// What is asked of a sandbox's sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SessionRequest {
    New(Box<NewSession>),
    Attach(AttachSession),
    List,
    /// By number or name: its program's terminal is hung up.
    End(String),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SessionAnswer {
    /// To `new`, `attach` and `end`. Frames follow the first, if it has a viewer, and the second.
    Session(Box<SessionInfo>),
    /// To `list`, by number.
    Sessions(Vec<SessionInfo>),
    Refused(Report),
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its number, from 1 on, never used twice in a sandbox's life.
    pub number: u32,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Program and arguments; empty for a login shell.
    pub command: Vec<String>,
    /// Who it runs as.
    pub user: String,
    /// Where it was started.
    pub cwd: String,
    /// The names of the variables it was given.
    pub environment: Vec<String>,
    /// Its process id inside.
    pub pid: u32,
    /// Its terminal.
    pub size: TerminalSize,
    /// Which size that is.
    pub size_policy: SizePolicy,
    /// Milliseconds since the Unix epoch.
    pub began_at_unix_ms: u64,
    /// How many look at it.
    pub viewers: usize,
    /// None while the program runs.
    pub ended: Option<SessionEnd>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// Milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What the guest said of it; none if the connection to the program was lost.
    pub report: Option<ExitReport>,
}

/// Something a session did, for a [`Recorder`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SessionEvent<'a> {
    /// It began.
    Began(&'a SessionInfo),
    /// The program wrote this; untrusted, and cut anywhere.
    Output(&'a [u8]),
    /// Its terminal has another size.
    Resized(TerminalSize),
    /// It ended.
    Ended(&'a SessionEnd),
}

/// Keeps what sessions show. Called from the thread that serves them: what it does must be quick.
pub trait Recorder: Send {
    /// Session `number` did something, at this many milliseconds since the Unix epoch.
    fn record(&mut self, number: u32, at_unix_ms: u64, event: SessionEvent<'_>);
}

/// Keeps nothing.
impl Recorder for () {
    fn record(&mut self, _: u32, _: u64, _: SessionEvent<'_>) {}
}

/// Whether a session may be called so.
#[must_use]
pub fn is_session_name(name: &str) -> bool {
    name.len() <= LONGEST_SESSION_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
