//! One rule, read from its text.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::SMTP_PORT;
use super::address::embedded;
use super::host::{Host, normal_name};
use crate::error::{Error, ErrorKind, Result};

/// One rule, as text: what may be, or may not be, connected to.
///
/// | text | means |
/// |---|---|
/// | `example.com` | that name |
/// | `*.example.com` | every name below it, at any depth; not `example.com` itself |
/// | `*` | every name, but no address that is written instead of a name |
/// | `203.0.113.7`, `[2001:db8::7]` | that address, written or resolved to |
/// | `10.0.0.0/8`, `[fd00::/8]` | those addresses |
///
/// Each may be followed by `:PORT`; IPv6 needs brackets then. Without a port it means every port, except that 25
/// (SMTP) must be named to be allowed. A name also needs a rule for it by name: an address rule says which addresses
/// a name may have, not which names may be asked for. A network wider than `/8` (IPv6: `/7`) means the public
/// addresses in it, so that `0.0.0.0/0` does not open the host's loopback interface.
///
/// Names are compared in lower case, in ASCII (UTS #46), without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RuleText", into = "RuleText")]
pub struct Rule {
    text: String,
    /// Where it comes from if not from the user's own words: `@npm`.
    pub origin: Option<String>,
    /// Whether names it allows may resolve to private addresses (RFC 1918, unique local, RFC 6598): the host's own
    /// clients are configured with them, such as a company's mirror. Loopback, link-local and the host's own
    /// addresses need an address rule all the same.
    pub private: bool,
    pattern: Pattern,
    port: Option<u16>,
}

/// A rule as it is written down.
#[derive(Serialize, Deserialize)]
struct RuleText {
    text: String,
    #[serde(default)]
    origin: Option<String>,
    #[serde(default)]
    private: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`
    AnyName,
    /// `*.example.com`, kept as `example.com`.
    Below(String),
    Name(String),
    Network(IpNet),
}

impl Rule {
    /// Reads a rule of the user's own.
    ///
    /// # Errors
    /// [`ErrorKind::Rule`], saying what is wrong with it and how to write it.
    pub fn parse(text: &str) -> Result<Self> {
        let (pattern, port) = parse(text).map_err(|(reason, hint)| {
            let shown: String = text.chars().take(80).collect();
            let error = Error::new(ErrorKind::Rule, format!("{shown:?} is not a rule: {reason}"));
            if hint.is_empty() { error } else { error.hint(hint) }
        })?;
        Ok(Self { text: text.to_owned(), origin: None, private: false, pattern, port })
    }

    /// The same, from a named set.
    #[must_use]
    pub fn with_origin(self, origin: &str) -> Self {
        Self { origin: Some(origin.to_owned()), ..self }
    }

    /// The same, whether names may resolve to private addresses or not ([`Rule::private`]).
    #[must_use]
    pub fn with_private(self, private: bool) -> Self {
        Self { private, ..self }
    }

    /// As written, for those who ask which rule it was.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The one port it means, if not every port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether the rule is about this name, or this address where there is no name.
    pub(super) fn matches_host(&self, host: &Host) -> bool {
        match (&self.pattern, host) {
            (Pattern::AnyName, Host::Name(_)) => true,
            (Pattern::Name(name), Host::Name(host)) => name == host,
            (Pattern::Below(domain), Host::Name(host)) => {
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Pattern::Network(network), Host::Address(address)) => network.contains(address),
            _ => false,
        }
    }

    /// As [`Rule::matches_host`]; what denies everything denies addresses too.
    pub(super) fn denies_host(&self, host: &Host) -> bool {
        match host {
            Host::Name(_) => self.matches_host(host),
            Host::Address(address) => self.pattern == Pattern::AnyName || self.denies_address(*address),
        }
    }

    /// Whether a connection to this address is denied, the IPv4 addresses within an IPv6 one included.
    pub(super) fn denies_address(&self, address: IpAddr) -> bool {
        let Pattern::Network(network) = &self.pattern else { return false };
        network.contains(&address)
            || embedded(address).into_iter().flatten().any(|v4| network.contains(&IpAddr::V4(v4)))
    }

    /// Whether it opens an address that is closed otherwise.
    pub(super) fn reaches_special(&self, address: IpAddr) -> bool {
        let Pattern::Network(network) = &self.pattern else { return false };
        let narrow = match network {
            IpNet::V4(network) => network.prefix_len() >= 8,
            IpNet::V6(network) => network.prefix_len() >= 7,
        };
        narrow && network.contains(&address)
    }

    /// Whether it allows a port, or with none at least one.
    pub(super) fn allows_port(&self, port: Option<u16>) -> bool {
        match (self.port, port) {
            (Some(ours), Some(port)) => ours == port,
            (None, Some(port)) => port != SMTP_PORT,
            (_, None) => true,
        }
    }

    /// Whether it denies a port, or with none all of them.
    pub(super) fn denies_port(&self, port: Option<u16>) -> bool {
        self.port.is_none() || self.port == port
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} ({origin})", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<RuleText> for Rule {
    type Error = Error;

    fn try_from(written: RuleText) -> Result<Self> {
        let rule = Self::parse(&written.text)?.with_private(written.private);
        Ok(Self { origin: written.origin, ..rule })
    }
}

impl From<Rule> for RuleText {
    fn from(rule: Rule) -> Self {
        Self { text: rule.text, origin: rule.origin, private: rule.private }
    }
}

/// What is wrong, and how to write it (or nothing).
type Mistake = (String, String);

fn mistake(reason: impl Into<String>, hint: impl Into<String>) -> Mistake {
    (reason.into(), hint.into())
}

fn parse(text: &str) -> std::result::Result<(Pattern, Option<u16>), Mistake> {
    if text.is_empty() {
        return Err(mistake("it is empty", "HOST[:PORT], *.HOST[:PORT], * or CIDR[:PORT]"));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        return Err(mistake("it is a URL, and paths are not policed", format!("write {host}")));
    }
    if text.starts_with('@') {
        return Err(mistake("it names a set, which has been resolved by now", ""));
    }
    let (host, port) = split_port(text)?;
    let port = port.map(parse_port).transpose()?;
    Ok((parse_pattern(host)?, port))
}

/// The host, and what follows it after a colon. An IPv6 address without brackets has no port.
fn split_port(text: &str) -> std::result::Result<(&str, Option<&str>), Mistake> {
    if let Some(inner) = text.strip_prefix('[') {
        let missing = || mistake("the bracket is not closed", "[ADDRESS]:PORT or [ADDRESS/BITS]:PORT");
        let (address, rest) = inner.split_once(']').ok_or_else(missing)?;
        if !address.contains(':') {
            return Err(mistake("only IPv6 addresses stand in brackets", ""));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, Some(port))),
            None if rest.is_empty() => Ok((address, None)),
            None => Err(mistake("after the bracket comes :PORT or nothing", "[ADDRESS/BITS]:PORT")),
        };
    }
    match text.matches(':').count() {
        0 => Ok((text, None)),
        1 => Ok(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))),
        _ => Ok((text, None)),
    }
}

fn parse_port(text: &str) -> std::result::Result<u16, Mistake> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(mistake(format!("{text:?} is not a port"), "a port is a number from 1 to 65535, or left out")),
    }
}

fn parse_pattern(host: &str) -> std::result::Result<Pattern, Mistake> {
    if host == "*" {
        return Ok(Pattern::AnyName);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Pattern::Network(IpNet::from(address.to_canonical())));
    }
    if host.contains('/') {
        return parse_network(host).map(Pattern::Network);
    }
    if host.contains(':') {
        return Err(mistake("it is not an IPv6 address", "with a port it is written [ADDRESS]:PORT"));
    }
    if let Some(domain) = host.strip_prefix("*.") {
        return named(domain).map(Pattern::Below);
    }
    named(host).map(Pattern::Name)
}

fn named(name: &str) -> std::result::Result<String, Mistake> {
    if name.contains('*') {
        let hint = "*.example.com is every name below example.com, * is every name";
        return Err(mistake("* stands alone, or for the first parts of a name", hint));
    }
    normal_name(name).map_err(|reason| mistake(reason, ""))
}

fn parse_network(text: &str) -> std::result::Result<IpNet, Mistake> {
    let hint = "a network is written 10.0.0.0/8 or fd00::/8; paths are not policed";
    let network: IpNet = text.parse().map_err(|_| mistake("it is not a network", hint))?;
    if network.trunc() != network {
        return Err(mistake("the address has bits beyond the network's", format!("write {}", network.trunc())));
    }
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err(mistake("IPv4 addresses are written as such", "10.0.0.0/8"))
        }
        network => Ok(network),
    }
}
