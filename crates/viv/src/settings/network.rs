//! The values of settings that have to do with the network and with secrets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use viv_net::gateway::{Budget, Credential, Login, LoginKind, Price, Protocol};
use viv_sandbox::Publish;

/// Which way a sandbox reaches others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkChoice {
    /// Not at all.
    None,
    /// By policy, without a network device.
    #[default]
    Filtered,
    /// A device behind the host's own addresses.
    Nat,
    /// A device on a bridge of this name.
    Bridge(String),
}

/// The bridge that `--net bridge` means, which is also that of `viv net setup`.
pub const DEFAULT_BRIDGE: &str = "vivbr";

/// Reads a network mode.
///
/// # Errors
/// Names what there is.
pub fn parse_network(text: &str) -> Result<NetworkChoice, String> {
    match text.split_once(':') {
        Some(("bridge", name)) if is_interface_name(name) => Ok(NetworkChoice::Bridge(name.to_owned())),
        Some(("bridge", _)) => {
            Err("a bridge's name has 1 to 15 characters, none of them a slash or a space".to_owned())
        }
        _ => match text {
            "none" => Ok(NetworkChoice::None),
            "filtered" => Ok(NetworkChoice::Filtered),
            "nat" => Ok(NetworkChoice::Nat),
            "bridge" => Ok(NetworkChoice::Bridge(DEFAULT_BRIDGE.to_owned())),
            _ => Err("not one of none, filtered, nat, bridge, bridge:NAME".to_owned()),
        },
    }
}

/// As the kernel has it: `dev_valid_name` in net/core/dev.c.
fn is_interface_name(name: &str) -> bool {
    (1..16).contains(&name.len()) && !matches!(name, "." | "..") && !name.contains(['/', ':', ' ', '\t', '\n'])
}

/// Reads `[[ADDRESS:]HOST_PORT:]PORT`; an IPv6 address stands in brackets. Without an address it is
/// the loopback interface's, without a host port the same one.
///
/// # Errors
/// Says what it looks like.
pub fn parse_publish(text: &str) -> Result<Publish, String> {
    let shape = || format!("{text:?} is not [[ADDRESS:]HOST_PORT:]PORT, such as 8080, 3000:8080 or 0.0.0.0:80:8080");
    let (before, guest) = text.rsplit_once(':').map_or((None, text), |(before, guest)| (Some(before), guest));
    let guest_port: u16 = guest.parse().ok().filter(|port| *port != 0).ok_or_else(shape)?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = match before {
        None => SocketAddr::new(loopback, guest_port),
        Some(before) => match before.parse() {
            Ok(port) => SocketAddr::new(loopback, port),
            Err(_) => before.parse().map_err(|_| shape())?,
        },
    };
    Ok(Publish { address, guest_port })
}

/// Where a secret comes from: `env:NAME`, `file:PATH`, `command:PROGRAM ARGUMENTS`, or for a model API
/// also `login:claude[:FILE]`, `login:codex[:FILE]` and `none`.
///
/// # Errors
/// Says what there is.
pub fn parse_source(text: &str, home: Option<&Path>) -> Result<Credential, String> {
    let shape = "a source is env:NAME, file:PATH or command:PROGRAM ARGUMENTS";
    let (kind, rest) = text.split_once(':').ok_or_else(|| shape.to_owned())?;
    if rest.is_empty() {
        return Err(shape.to_owned());
    }
    match kind {
        "env" => Ok(Credential::Env(super::values::parse_environment_name(rest)?)),
        "file" => Ok(Credential::File(absolute(rest, home)?)),
        // Split at spaces, without a shell: what needs more is a script's affair.
        "command" => Ok(Credential::Command(rest.split_whitespace().map(str::to_owned).collect())),
        _ => Err(shape.to_owned()),
    }
}

fn absolute(text: &str, home: Option<&Path>) -> Result<PathBuf, String> {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Ok(home.join(rest)),
        _ if text.starts_with('/') => Ok(PathBuf::from(text)),
        _ => Err(format!("the file {text:?} needs an absolute path, or one that begins with ~/")),
    }
}

/// The same, for the key of a model API.
///
/// # Errors
/// Says what there is.
pub fn parse_key(text: &str, home: Option<&Path>) -> Result<Credential, String> {
    let Some(login) = text.strip_prefix("login:") else {
        return match text {
            "none" => Ok(Credential::None),
            _ => parse_source(text, home)
                .map_err(|reason| format!("{reason}; for a key also login:claude, login:codex or none")),
        };
    };
    let (kind, file) = login.split_once(':').map_or((login, None), |(kind, file)| (kind, Some(file)));
    let (kind, usual) = match kind {
        "claude" => (LoginKind::Claude, "~/.claude/.credentials.json"),
        "codex" => (LoginKind::Codex, "~/.codex/auth.json"),
        _ => return Err("a login is that of claude or codex".to_owned()),
    };
    Ok(Credential::Login(Login { kind, file: absolute(file.unwrap_or(usual), home)?, token_url: None }))
}

/// A secret for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRequest {
    /// Its name inside.
    pub name: String,
    /// Where it comes from.
    pub source: Credential,
}

/// Reads `NAME[=SOURCE]`; without a source it is the environment variable of that name.
///
/// # Errors
/// Says what it looks like.
pub fn parse_secret(text: &str) -> Result<SecretRequest, String> {
    let (name, source) = text.split_once('=').map_or((text, None), |(name, source)| (name, Some(source)));
    let home = std::env::home_dir();
    let source = match source {
        Some(source) => parse_source(source, home.as_deref())?,
        None => Credential::Env(name.to_owned()),
    };
    Ok(SecretRequest { name: super::values::parse_environment_name(name)?, source })
}

/// A model API as the user's configuration file describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UpstreamSettings {
    /// Where it is.
    pub url: Option<String>,
    /// Whose wire format it speaks.
    pub protocol: Option<Protocol>,
    /// Where its key comes from.
    pub key: Option<String>,
}

/// Prices in US dollars per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PriceSettings {
    input: f64,
    output: f64,
    cached: Option<f64>,
    cache_write: Option<f64>,
}

impl PriceSettings {
    /// The same in millionths of a dollar; what is not said of cached tokens costs as much as other input.
    #[must_use]
    pub fn price(self) -> Price {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked when it was read")]
        let micro = |dollars: f64| (dollars * 1e6).round() as u64;
        Price {
            input: micro(self.input),
            output: micro(self.output),
            cached: micro(self.cached.unwrap_or(self.input)),
            cache_write: micro(self.cache_write.unwrap_or(self.input)),
        }
    }

    fn is_sensible(self) -> bool {
        [Some(self.input), Some(self.output), self.cached, self.cache_write]
            .into_iter()
            .flatten()
            .all(|dollars| (0.0..=1e6).contains(&dollars))
    }
}

/// The sections of the user's configuration file beside `[run]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct GatewaySections {
    /// Model APIs, by name.
    #[serde(default)]
    pub gateway: BTreeMap<String, UpstreamSettings>,
    /// By the beginning of the model's name.
    #[serde(default)]
    pub prices: BTreeMap<String, PriceSettings>,
}

/// Reads them.
///
/// # Errors
/// What is wrong, and where.
pub fn read_gateway(text: &str, home: Option<&Path>) -> Result<GatewaySections, (Range<usize>, String)> {
    let sections: GatewaySections =
        toml::from_str(text).map_err(|error| (error.span().unwrap_or(0..0), error.message().to_owned()))?;
    for (name, upstream) in &sections.gateway {
        let at = |reason: String| (0..0, format!("[gateway.{name}]: {reason}"));
        if !is_upstream_name(name) {
            return Err(at("a name is made of small letters, digits and hyphens".to_owned()));
        }
        if let Some(key) = &upstream.key {
            parse_key(key, home).map_err(at)?;
        }
        if upstream.url.as_ref().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
            return Err(at("the url must begin with https:// or http://".to_owned()));
        }
    }
    match sections.prices.iter().find(|(_, price)| !price.is_sensible()) {
        Some((name, _)) => Err((0..0, format!("[prices]: {name} needs prices from 0 to 1000000 dollars"))),
        None => Ok(sections),
    }
}

/// Reads what may be spent.
///
/// # Errors
/// Says what a budget looks like.
pub fn parse_budget(text: &str) -> Result<Budget, String> {
    Budget::parse(text).map_err(|error| error.to_string())
}

/// Whether a model API can be called this: it is a part of a path.
#[must_use]
pub fn is_upstream_name(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Reads a model API's name.
///
/// # Errors
/// Says what it looks like.
pub fn parse_upstream_name(text: &str) -> Result<String, String> {
    if is_upstream_name(text) {
        Ok(text.to_owned())
    } else {
        Err("not a name of small letters, digits and hyphens".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(parse_network("filtered"), Ok(NetworkChoice::Filtered));
        assert_eq!(parse_network("bridge"), Ok(NetworkChoice::Bridge("vivbr".into())));
        assert_eq!(parse_network("bridge:br0"), Ok(NetworkChoice::Bridge("br0".into())));
        for nonsense in ["", "open", "bridge:", "bridge:a b", "bridge:0123456789abcdef", "nat:x"] {
            assert!(parse_network(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn published_ports() {
        let read = |text: &str| parse_publish(text).map(|publish| (publish.address.to_string(), publish.guest_port));
        assert_eq!(read("8080"), Ok(("127.0.0.1:8080".into(), 8080)));
        assert_eq!(read("0:8080"), Ok(("127.0.0.1:0".into(), 8080)));
        assert_eq!(read("0.0.0.0:80:8080"), Ok(("0.0.0.0:80".into(), 8080)));
        assert_eq!(read("[::1]:80:8080"), Ok(("[::1]:80".into(), 8080)));
        for nonsense in ["", "0", ":80", "a:80", "1.2.3.4:80", "1:2:3", "65536"] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn sources() {
        let home = Some(Path::new("/home/ann"));
        assert_eq!(parse_source("env:A", home), Ok(Credential::Env("A".into())));
        assert_eq!(parse_source("file:~/key", home), Ok(Credential::File("/home/ann/key".into())));
        assert_eq!(
            parse_source("command:pass show x", home),
            Ok(Credential::Command(vec!["pass".into(), "show".into(), "x".into()]))
        );
        for nonsense in ["", "A", "env:", "env:1", "file:key", "login:claude", "none"] {
            assert!(parse_source(nonsense, home).is_err(), "{nonsense}");
        }
        assert!(
            matches!(parse_key("login:claude", home), Ok(Credential::Login(login)) if login.file.starts_with("/home/ann"))
        );
        assert_eq!(parse_key("none", home), Ok(Credential::None));
        assert!(parse_key("login:other", home).is_err());
    }

    #[test]
    fn model_apis_and_prices() {
        let text = "[gateway.local]\nurl = \"http://10.0.0.5:8000\"\nprotocol = \"openai\"\nkey = \"none\"\n\
                    [prices]\n\"m-1\" = { input = 3.0, output = 15, cached = 0.3 }\n[run]\ncpus = 1\n";
        let sections = read_gateway(text, None).unwrap();
        assert_eq!(sections.gateway["local"].protocol, Some(Protocol::OpenAi));
        let price = sections.prices["m-1"].price();
        assert_eq!(
            (price.input, price.output, price.cached, price.cache_write),
            (3_000_000, 15_000_000, 300_000, 3_000_000)
        );
        for nonsense in [
            "[gateway.Local]\n",
            "[gateway.a]\nurl = \"ftp://x\"\n",
            "[gateway.a]\nkey = \"sk-secret\"\n",
            "[gateway.a]\nkeys = \"none\"\n",
            "[prices]\na = { input = -1.0, output = 1.0 }\n",
        ] {
            assert!(read_gateway(nonsense, None).is_err(), "{nonsense}");
        }
    }
}
