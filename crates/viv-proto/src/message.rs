//! The payloads of the control port's messages.
//!
//! | type | payload | answer |
//! |---|---|---|
//! | `heartbeat` | anything | `heartbeat_ack`, the same payload |
//! | `prepare` | [`Prepare`] | `result` |
//! | `configure` | [`Configure`] | `result`, [`Configured`] |
//! | `clock` | [`Clock`] | `result`, [`ClockReading`] |
//! | `secret` | [`Secret`] | `result`; the value is in /run/secrets |
//! | `deploy_key` | none | `result`, [`DeployKey`] |
//! | `exec` | [`Exec`] | `result`, [`Started`], then frames until [`crate::frame::Frame::Exit`] |
//! | `archive` | [`Archive`] | `result`, [`PathFacts`] for [`Archive::Look`]; else frames until [`crate::frame::Frame::Exit`] with an [`ArchiveReport`] |
//! | `status` | none | `result`, [`GuestStatus`] |
//! | `shutdown` | none | `result` once every share is flushed; the guest then powers off |
//!
//! Anything that fails is answered by `error` with a [`Failure`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The names of message types.
pub mod kind {
    /// Are you there?
    pub const HEARTBEAT: &str = "heartbeat";
    /// The answer to a heartbeat.
    pub const HEARTBEAT_ACK: &str = "heartbeat_ack";
    /// What all sandboxes restored from a template have in common; at most once, before `configure`.
    pub const PREPARE: &str = "prepare";
    /// Identity, shares and user of a fresh sandbox; once, before anything runs.
    pub const CONFIGURE: &str = "configure";
    /// Read the guest's wall clock, and step it.
    pub const CLOCK: &str = "clock";
    /// Put a secret where the ordinary user alone reads it.
    pub const SECRET: &str = "secret";
    /// Make a key pair that does not leave the guest.
    pub const DEPLOY_KEY: &str = "deploy_key";
    /// Run a program.
    pub const EXEC: &str = "exec";
    /// Put files into the guest, take them out, or list them.
    pub const ARCHIVE: &str = "archive";
    /// What the guest knows of its health.
    pub const STATUS: &str = "status";
    /// Flush everything, then power off.
    pub const SHUTDOWN: &str = "shutdown";
    /// The answer to what succeeded.
    pub const RESULT: &str = "result";
    /// The answer to what did not.
    pub const ERROR: &str = "error";
}

/// What a guest is before a template is made of it: everything that takes time and is the same for
/// all who are restored from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The ordinary user inside.
    pub user: User,
    /// The host's time zone as an IANA name, if known.
    #[serde(default)]
    pub timezone: Option<String>,
    /// What [`Configured::template`] will say: 32 hexadecimal digits, fresh for each template.
    pub template: String,
}

/// What makes a booted guest this sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// The host name inside.
    pub hostname: String,
    /// The host's wall clock, nanoseconds since the Unix epoch, read as late as possible.
    pub wall_clock_ns: u64,
    /// Fresh random bytes for the guest's generator, in hexadecimal (32 bytes).
    pub entropy: String,
    /// The machine-id inside, 32 hexadecimal digits.
    pub machine_id: String,
    /// The host's time zone as an IANA name, if known. A prepared guest has that of [`Prepare`].
    #[serde(default)]
    pub timezone: Option<String>,
    /// The ordinary user inside. A prepared guest refuses any but that of [`Prepare`].
    pub user: User,
    /// Where the shares go.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// The share `/workspace` points at: a path inside.
    #[serde(default)]
    pub workspace: Option<String>,
    /// How programs inside reach others.
    #[serde(default)]
    pub network: Network,
    /// The environment of every program, over the guest's defaults and under [`Exec::env`].
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Small files written before anything runs, over what the image has.
    #[serde(default)]
    pub files: Vec<GuestFile>,
    /// The certificate authorities to trust: a PEM file, one of the shares' destinations.
    #[serde(default)]
    pub certificates: Option<String>,
}

/// How programs inside reach others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Network {
    /// What takes connections outside.
    #[serde(default)]
    pub way: NetworkWay,
    /// Whether the model gateway answers on the loopback interface ([`crate::network::GATEWAY_LISTENER`]).
    #[serde(default)]
    pub gateway: bool,
    /// Whether the host's SSH agent answers on a socket inside, and where.
    #[serde(default)]
    pub ssh_agent: Option<String>,
}

/// What takes connections outside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkWay {
    /// Nothing.
    #[default]
    None,
    /// The link: names and TCP connections are the host's to resolve, make or refuse
    /// ([`crate::network`]); the HTTP proxy answers on [`crate::network::PROXY_LISTENER`].
    Filtered,
    /// A network device.
    Device(NetworkDevice),
}

/// A network device and its fixed configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDevice {
    /// Its hardware address, by which it is found: six bytes in hexadecimal with colons.
    pub mac: String,
    /// Its addresses with their prefix lengths, such as `192.168.83.2/24`.
    pub addresses: Vec<String>,
    /// The default gateways, one for each address family that has one.
    pub gateways: Vec<String>,
    /// Whom to ask for names.
    pub name_servers: Vec<String>,
}

/// A small file inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// An absolute path inside; its directories are made if missing.
    pub path: String,
    /// Its text.
    pub content: String,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it belongs to the ordinary user, and not to root.
    #[serde(default)]
    pub of_user: bool,
}

/// The ordinary user inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id; the host user's, or 1000.
    pub uid: u32,
    /// Group id; the host user's, or 1000.
    pub gid: u32,
    /// Home directory, made if missing.
    pub home: String,
}

/// One share: an entry at the root of the virtiofs device, and its place inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The entry's name at the device's root.
    pub entry: String,
    /// The absolute path inside; its directories are made if missing.
    pub destination: String,
    /// A directory or a single file.
    pub kind: ShareKind,
    /// Enforced by the host; known here so that the mount says so too.
    #[serde(default)]
    pub read_only: bool,
    /// Whether programs may write over it all the same, into the sandbox's own disk. For a directory that
    /// is read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writable_overlay: bool,
}

/// What a share is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareKind {
    /// Mounted.
    Directory,
    /// Mounted if read-only; else a file kept in step with the share, so that replacing it by
    /// rename works (a mount point cannot be renamed over).
    File,
}

/// The answer to [`Configure`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// The version of viv-guest.
    pub guest_version: String,
    /// Milliseconds from the kernel's start to this answer, by the guest's clock.
    pub uptime_ms: u64,
    /// The guest's wall clock as this was answered, nanoseconds since the Unix epoch.
    pub wall_clock_ns: u64,
    /// What [`Prepare::template`] said, if the guest was prepared.
    #[serde(default)]
    pub template: Option<String>,
    /// What was done since the boot or, in a restored guest, since `configure` arrived.
    #[serde(default)]
    pub marks: Vec<Mark>,
}

/// A part of the start that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which one.
    pub name: String,
    /// When, in microseconds since the kernel's start.
    pub at_us: u64,
}

/// Reads the guest's wall clock, after stepping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clock {
    /// What is added to the clock first, in nanoseconds; with 0 it is only read.
    #[serde(default)]
    pub step_ns: i64,
}

/// The answer to [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// The guest's wall clock, nanoseconds since the Unix epoch.
    pub wall_clock_ns: u64,
}

/// A secret for the ordinary user, in a file of its name under /run/secrets (a tmpfs, mode 0400).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The file's name.
    pub name: String,
    /// Its content.
    pub value: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The answer to `deploy_key`: the public half of an ed25519 key, made once in a sandbox's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployKey {
    /// As in `authorized_keys`, without a comment.
    pub public: String,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; empty for the user's login shell. A program without a slash is
    /// looked for in the PATH of `env`.
    pub argv: Vec<String>,
    /// The whole environment, over the guest's defaults (HOME, USER, LOGNAME, SHELL, PATH, LANG).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The directory to start in.
    pub cwd: String,
    /// Who to run as: `USER`, `UID`, `USER:GROUP`, `UID:GID` or a mixture of these, as in an OCI image's
    /// configuration. Numbers need not be in the account files.
    pub user: String,
    /// A terminal of this size; without one, three separate pipes.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}

/// A terminal's size in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// The program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id inside.
    pub pid: u32,
}

/// How the program ended, and what the guest noticed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// The exit code, or 128 plus the signal's number.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Processes the kernel killed for want of memory while the program ran. Only looked for if it
    /// failed.
    #[serde(default)]
    pub out_of_memory_kills: u64,
    /// The scratch disk has less than one percent left.
    #[serde(default)]
    pub scratch_full: bool,
    /// No process is left inside and nothing is held back from a share: the machine may go at once.
    #[serde(default)]
    pub settled: bool,
}

/// What to do with files inside, as root: trees go as [records](crate::archive) in standard input (to the guest)
/// and standard output (from it).
///
/// All paths are absolute and without `..`; links on the way to them are followed, links beneath them are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Archive {
    /// What is there?
    Look {
        /// Where.
        path: String,
    },
    /// Put the tree of standard input into a directory. All of it belongs to the ordinary user.
    Put {
        /// Which one.
        directory: String,
        /// Whether it, and those above it, are made if missing.
        make: bool,
    },
    /// Take what is at a path, under the path's last name.
    Get {
        /// Where.
        path: String,
        /// Whether a link there is followed.
        follow: bool,
    },
    /// Take those files of a directory whose paths, relative to it and each ended by a NUL, come in standard
    /// input. One that is not there is skipped.
    Pick {
        /// Which one.
        directory: String,
    },
    /// List all that is beneath a directory, each directory's names in the order of their bytes but a
    /// `.gitignore` first, with the data of every `.gitignore`. What is in `.git` is left out, at any depth.
    List {
        /// Which one.
        directory: String,
    },
}

/// The answer to [`Archive::Look`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFacts {
    /// What is there, after a link was followed.
    pub kind: PathKind,
    /// Whether there is a link that was followed.
    pub link: bool,
    /// Whether what is above it is a directory.
    pub parent: bool,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Nothing.
    Missing,
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else.
    Other,
}

/// How an [`Archive`] operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// Files, directories and links that were carried.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Device nodes, FIFOs and sockets, which are never carried.
    pub skipped: u64,
    /// Why it did not end well.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// What the guest knows of its health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStatus {
    /// Running programs started by `exec`.
    pub running: u32,
    /// Total memory, bytes.
    pub memory_total: u64,
    /// Available memory, bytes.
    pub memory_available: u64,
    /// Scratch disk size, bytes.
    pub scratch_total: u64,
    /// Scratch disk free, bytes.
    pub scratch_free: u64,
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// To match on.
    pub kind: FailureKind,
    /// For people; may quote guest data, so it is cleaned before it is shown.
    pub message: String,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist (exit code 127).
    NotFound,
    /// The program exists but cannot be executed (exit code 126).
    NotExecutable,
    /// The directory to start in cannot be entered.
    BadDirectory,
    /// No such user inside.
    UnknownUser,
    /// The request is malformed, of another version, or comes at the wrong time.
    BadRequest,
    /// The guest could not do it.
    Internal,
    /// A kind this side does not know.
    #[serde(other)]
    Unknown,
}
