//! What a sandbox without a network device asks of the host, and the host of it.
//!
//! | opened by | port | what is said first | then |
//! |---|---|---|---|
//! | guest | [`NAMES_PORT`] | a [`NameQuery`] line, answered by a [`NameAnswer`] line, again and again | |
//! | guest | [`CONNECT_PORT`] | a [`ConnectRequest`] line, answered by a [`ConnectAnswer`] line | the connection's bytes |
//! | guest | [`PROXY_PORT`] | | HTTP/1.1 as a client speaks it to its proxy |
//! | guest | [`GATEWAY_PORT`] | | HTTP/1.1 as a client speaks it to a model API |
//! | guest | [`SSH_AGENT_PORT`] | | the agent protocol of OpenSSH |
//! | host | [`FORWARD_PORT`] | a [`ForwardRequest`] line, answered by a [`ConnectAnswer`] line | the connection's bytes |
//!
//! Lines are JSON, end with a newline and are at most [`MAX_REQUEST_BYTES`] long.

use serde::{Deserialize, Serialize};

/// The host's port for questions about names.
pub const NAMES_PORT: u32 = 5301;

/// The host's port for TCP connections.
pub const CONNECT_PORT: u32 = 5302;

/// The host's port for the HTTP proxy.
pub const PROXY_PORT: u32 = 5303;

/// The host's port for the model gateway.
pub const GATEWAY_PORT: u32 = 5304;

/// The host's port for its SSH agent.
pub const SSH_AGENT_PORT: u32 = 5305;

/// The guest's port for connections to what listens on its loopback interface.
pub const FORWARD_PORT: u32 = 5001;

/// The TCP port of the guest's loopback interface that leads to [`PROXY_PORT`].
pub const PROXY_LISTENER: u16 = 3128;

/// The TCP port of the guest's loopback interface that leads to [`GATEWAY_PORT`].
pub const GATEWAY_LISTENER: u16 = 4180;

/// The longest line said first on these ports, in bytes, newline included.
pub const MAX_REQUEST_BYTES: usize = 4096;

/// May this name be used, and is it one?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameQuery {
    /// A host name, without a trailing dot.
    pub name: String,
}

/// What the host knows of a name. Which addresses it has is the host's affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum NameAnswer {
    /// It is one, and some port of it may be connected to.
    Known,
    /// It may not be used.
    Denied {
        /// For people.
        reason: String,
    },
    /// The host's resolver knows no such name.
    Unknown,
    /// The host's resolver did not answer.
    Failed {
        /// For people.
        reason: String,
    },
}

/// Connect this stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// A host name, or an address as a program in the guest wrote it.
    pub host: String,
    /// A TCP port.
    pub port: u16,
}

/// Connect this stream to the guest's own loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// A TCP port.
    pub port: u16,
}

/// What came of a request to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ConnectAnswer {
    /// The connection's bytes follow.
    Connected,
    /// It is not allowed. The stream ends.
    Denied {
        /// For people: the rule, and what would permit it.
        reason: String,
    },
    /// It is allowed, but there is no connection. The stream ends.
    Failed {
        /// For people.
        reason: String,
    },
}
