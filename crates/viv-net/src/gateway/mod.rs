//! The model gateway: the guest holds a placeholder, the key is put in here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which model APIs a sandbox's agents may call, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Calls that were let through.
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
