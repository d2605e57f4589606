//! What a sandbox may connect to. Pure: names and addresses in, a decision out.

use serde::{Deserialize, Serialize};

/// Rules in order of their weight: any `deny` that matches wins over every `allow`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policy {
    /// What may be connected to.
    pub allow: Vec<Rule>,
    /// What may not, whatever else is allowed.
    #[serde(default)]
    pub deny: Vec<Rule>,
    /// Everything public is allowed that no rule denies: `viv net learn`.
    #[serde(default)]
    pub open: bool,
}

/// One rule, as text: `HOST[:PORT]`, `*.HOST[:PORT]`, `*[:PORT]` or `CIDR[:PORT]` (IPv6 in brackets if
/// there is a port). Without a port it means every port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// As written, for those who ask which rule it was.
    pub text: String,
    /// Where it comes from if not from the user's own words: `@npm`.
    #[serde(default)]
    pub origin: Option<String>,
    /// Whether names it allows may resolve to private addresses: the host's own clients are
    /// configured with them, such as a company's mirror. Loopback needs a CIDR all the same,
    /// unless the client's configuration names it literally.
    #[serde(default)]
    pub private: bool,
}
