//! The model gateway: the guest holds a placeholder, the key is put in here.
//!
//! ```text
//!  guest: POST /anthropic/v1/messages, x-api-key: placeholder
//!    route       which upstream, who calls; keys and hop-by-hop headers out       401, 404, 426
//!    credential  the host's key: variable, file, command, login                   401, 403
//!    ledger      reserve in the budgets, record as begun                          400, 402
//!    upload      body through as it comes, model's name read, first MiB kept      413
//!    client      connect, TLS, proxy; key refused: read anew, once more           502, 504
//!    download    answer through as it comes; meter reads usage; ledger: cut or record
//! ```
//!
//! Neither bodies nor unknown headers, queries and fields are changed, with these exceptions: the key,
//! `accept-encoding` (an answer that is compressed cannot be metered), and an answer with status 401, in
//! which providers repeat parts of the key: the gateway's own takes its place.

mod answer;
mod budget;
mod client;
mod credential;
mod download;
mod ledger;
mod login;
pub mod meter;
mod route;
mod scan;
mod serve;
mod sse;
mod upload;
mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

pub use meter::Tokens;
pub use serve::Gateway;
pub use usage::{Record, USAGE_FILE, UsageLine, read_usage, summarize};

/// Variables of the host's environment that connections to upstreams go by, if [`crate::spec::Keys`]
/// has them: a proxy's URL may have a password in it.
pub const PROXY_VARIABLES: [&str; 6] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

/// Which model APIs a sandbox's agents may call, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySpec {
    /// By the first part of the path they answer at: `anthropic` for `/anthropic/v1/messages`.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Who may call.
    pub agents: Vec<Agent>,
    /// For all of them together.
    #[serde(default)]
    pub budget: Budget,
    /// US dollars per million tokens, by the beginning of the model's name; the longest one counts.
    #[serde(default)]
    pub prices: BTreeMap<String, Price>,
    /// Certificate authorities, as PEM, that upstreams are checked by in place of the host's own.
    #[serde(default)]
    pub authorities: Option<PathBuf>,
    /// For how long an upstream may send nothing, in seconds, while an answer is due.
    #[serde(default = "stalled_after")]
    pub stalled_after: u64,
}

/// Models think for minutes before they speak.
fn stalled_after() -> u64 {
    600
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            upstreams: BTreeMap::new(),
            agents: Vec::new(),
            budget: Budget::default(),
            prices: BTreeMap::new(),
            authorities: None,
            stalled_after: stalled_after(),
        }
    }
}

/// One model API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Whose wire format it speaks.
    pub protocol: Protocol,
    /// Where it is; the guest's path, without its first part, is appended.
    pub url: String,
    /// What it asks for.
    pub credential: Credential,
}

/// Whose wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Messages.
    Anthropic,
    /// Responses and Chat Completions.
    #[serde(rename = "openai")]
    OpenAi,
    /// generateContent.
    Gemini,
}

/// Where a key comes from. Read on the host; files and commands are read again after a while, and when
/// the upstream refuses the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// A variable of the environment that `viv` was started in ([`crate::spec::Keys`]).
    Env(String),
    /// The first line of a file.
    File(PathBuf),
    /// The first line that a command prints.
    Command(Vec<String>),
    /// A subscription's login, as the named program keeps it on the host; refreshed here.
    Login(Login),
    /// None: a local model.
    None,
}

/// A subscription's login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Whose file it is.
    pub kind: LoginKind,
    /// Where it is on the host.
    pub file: PathBuf,
    /// Where it is refreshed, if not at the program's usual place.
    #[serde(default)]
    pub token_url: Option<String>,
}

/// Whose login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoginKind {
    /// Claude Code's `.credentials.json`.
    Claude,
    /// Codex's `auth.json`.
    Codex,
}

/// An agent of a sandbox, as the gateway knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its number; 0 where there is only one.
    pub number: u32,
    /// The placeholder it presents instead of a key.
    pub token: String,
    /// For this one alone.
    #[serde(default)]
    pub budget: Budget,
}

/// What may be spent; nothing that is not named is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// Millionths of a US dollar.
    #[serde(default)]
    pub microdollars: Option<u64>,
    /// Input and output tokens, cached ones included.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Calls that were let through; GET and HEAD are none.
    #[serde(default)]
    pub requests: Option<u64>,
}

/// Millionths of a US dollar per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Price {
    /// Input that was not cached.
    pub input: u64,
    /// Input read from the provider's cache.
    pub cached: u64,
    /// Input written to the provider's cache.
    #[serde(default)]
    pub cache_write: u64,
    /// Output.
    pub output: u64,
}
