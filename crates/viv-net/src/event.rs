//! What happened on a sandbox's network: a line of its log.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The log's name in [`crate::spec::EgressSpec::directory`]: one [`Event`] a line, as JSON.
pub const LOG_FILE: &str = "log.jsonl";

/// The log before that, beside it.
pub const ROTATED_LOG_FILE: &str = "log.1.jsonl";

/// The longest text an event holds, in bytes.
pub const MAX_TEXT_BYTES: usize = 255;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. Text that comes from the guest is cleaned of control characters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A connection was made.
    Connected {
        /// Who asked.
        via: Via,
        /// The name, or address, asked for.
        host: String,
        /// The TCP port.
        port: u16,
        /// Whom it reached.
        address: IpAddr,
        /// The rule that allowed it.
        rule: String,
    },
    /// Such a connection ended.
    Closed {
        /// The name, or address, asked for.
        host: String,
        /// The TCP port.
        port: u16,
        /// Bytes that left the sandbox.
        sent: u64,
        /// Bytes that came in.
        received: u64,
        /// How long it lasted.
        milliseconds: u64,
    },
    /// Something was refused. The same refusal within a second is told once.
    Denied(Denial),
    /// A connection that was allowed could not be made, or broke off.
    Failed {
        /// Who asked.
        via: Via,
        /// The name, or address, asked for.
        host: String,
        /// The TCP port; 0 for a name alone.
        port: u16,
        /// For people.
        reason: String,
    },
    /// The gateway answered a call to a model API.
    Call {
        /// The upstream's name in the configuration.
        upstream: String,
        /// The agent's number.
        agent: u32,
        /// The model, if one was named.
        model: Option<String>,
        /// The HTTP status answered.
        status: u16,
        /// How long it took.
        milliseconds: u64,
    },
    /// The gateway refused a call, or cut it.
    Refused {
        /// The upstream's name in the configuration.
        upstream: String,
        /// The agent's number.
        agent: u32,
        /// For people.
        reason: String,
    },
}

impl What {
    /// The same with all its text cleaned: what could move a terminal's cursor, or turn the direction of
    /// writing, is replaced, and nothing is longer than [`MAX_TEXT_BYTES`].
    #[must_use]
    pub fn cleaned(mut self) -> Self {
        match &mut self {
            Self::Connected { host, rule, .. } => [host, rule].into_iter().for_each(clean),
            Self::Closed { host, .. } => clean(host),
            Self::Denied(denial) => {
                [&mut denial.host, &mut denial.rule, &mut denial.reason].into_iter().for_each(clean);
                denial.allow.iter_mut().for_each(clean);
            }
            Self::Failed { host, reason, .. } => [host, reason].into_iter().for_each(clean),
            Self::Call { upstream, model, .. } => {
                clean(upstream);
                model.iter_mut().for_each(clean);
            }
            Self::Refused { upstream, reason, .. } => [upstream, reason].into_iter().for_each(clean),
        }
        self
    }
}

fn clean(text: &mut String) {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES - '…'.len_utf8()).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    if text.chars().any(is_unsafe_to_show) {
        // What replaces it is never longer.
        *text = text.chars().map(|c| if is_unsafe_to_show(c) { '?' } else { c }).collect();
    }
}

/// Control characters, and those that reorder or hide what stands beside them (Unicode's Bidi_Control, UAX #9, and
/// zero-width characters).
fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Which way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// A question for a name.
    Name,
    /// A TCP connection of any program.
    Tcp,
    /// The HTTP proxy.
    Proxy,
}

/// What was refused, why, and what would permit it: the one reason, wherever it shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Denial {
    /// Who asked.
    pub via: Via,
    /// The name, or address, asked for.
    pub host: String,
    /// The TCP port; 0 for a name alone.
    pub port: u16,
    /// The rule that decided, or `default`.
    pub rule: String,
    /// Why, in one sentence.
    pub reason: String,
    /// The value of `--allow` that would permit it, if there is one.
    pub allow: Option<String>,
}
