//! What an egress is told: one JSON document, without a secret in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::gateway::GatewaySpec;
use crate::policy::Policy;

/// The descriptor of the listening Unix socket, in the egress's process. Each connection says
/// `CONNECT <port>` with a port of [`viv_proto::network`] and is answered as any port is.
pub const LISTENER_DESCRIPTOR: i32 = 3;

/// The descriptor of a file with the [`EgressSpec`].
pub const SPEC_DESCRIPTOR: i32 = 4;

/// The descriptor of a file with [`Keys`]; `/dev/null` if there are none.
pub const KEYS_DESCRIPTOR: i32 = 5;

/// What one egress does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSpec {
    /// The sandbox's id.
    pub sandbox: String,
    /// Where its log and its usage are kept: made by whoever starts it, mode 0700.
    pub directory: PathBuf,
    /// What may be connected to; with none, nothing but the gateway answers.
    pub policy: Option<Policy>,
    /// How much at once.
    #[serde(default)]
    pub limits: Limits,
    /// Which model APIs, if any.
    #[serde(default)]
    pub gateway: Option<GatewaySpec>,
    /// The socket of the host's SSH agent, if the guest may use it.
    #[serde(default)]
    pub ssh_agent: Option<PathBuf>,
}

/// How much a sandbox may do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections that are open.
    pub connections: u32,
    /// New connections in a second, on average; twice as many in a burst.
    pub connections_per_second: u32,
    /// Names asked for in a second, on average; twice as many in a burst.
    pub names_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, connections_per_second: 500, names_per_second: 500 }
    }
}

/// Values of environment variables that keys come from, by the variables' names: an egress does not
/// inherit them, so that no process's environment shows them. Never logged, and wiped when dropped.
#[derive(Clone, Default, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Keys(Vec<(String, String)>);

impl Keys {
    /// Adds a variable.
    pub fn insert(&mut self, variable: &str, value: String) {
        self.0.push((variable.to_owned(), value));
    }

    /// A variable's value.
    #[must_use]
    pub fn get(&self, variable: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == variable).map(|(_, value)| value.as_str())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
