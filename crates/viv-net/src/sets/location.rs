//! Where a URL of a client's configuration leads, and the URL without its login.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Where a URL leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// A name in lower case and ASCII, or an address; IPv6 in brackets.
    pub host: String,
    pub port: u16,
    /// The URL without user, password, query and fragment.
    pub url: String,
    /// Whether the host is an address.
    pub address: bool,
    /// Whether it had a user or a password.
    pub login: bool,
    /// Why a guest cannot be given it, if it cannot.
    pub unreachable: Option<&'static str>,
}

/// Longer URLs are not read.
const MAX_URL_BYTES: usize = 2048;

/// Kinds of registries that clients write before the URL: a sparse index of cargo, a repository.
const PREFIXES: [&str; 2] = ["sparse+", "git+"];

impl Location {
    /// Reads `https:`, `http:`, `ssh:` and `git:` URLs. `None` for anything else, such as a path.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > MAX_URL_BYTES {
            return None;
        }
        let prefix = PREFIXES.into_iter().find(|prefix| text.starts_with(prefix)).unwrap_or_default();
        let text = &text[prefix.len()..];
        let (scheme, _) = text.split_once("://")?;
        let default = match scheme.to_ascii_lowercase().as_str() {
            "https" => 443,
            "http" => 80,
            "ssh" => 22,
            "git" => 9418,
            _ => return None,
        };
        let mut url = Url::parse(text).ok()?;
        let Place { host, address, unreachable } = match url.host()? {
            Host::Domain(name) => Place::named(name)?,
            Host::Ipv4(address) => Place::of(address.into(), address.to_string()),
            Host::Ipv6(address) => Place::of(address.into(), format!("[{address}]")),
        };
        let port = url.port().unwrap_or(default);
        let login = url.password().is_some() || (default != 22 && !url.username().is_empty());
        // The user of ssh is part of the place, and no secret.
        if default != 22 {
            url.set_username("").ok()?;
        }
        url.set_password(None).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        Some(Self { host, port, url: format!("{prefix}{url}"), address, login, unreachable })
    }

    /// The same as git reads it: `[user@]host:path` too, with no slash before the first colon (git-clone(1),
    /// "GIT URLS"). The path can be empty, because what git rewrites URLs to is the beginning of one.
    pub fn parse_git(text: &str) -> Option<Self> {
        if text.contains("://") || text.len() > MAX_URL_BYTES {
            return Self::parse(text);
        }
        let (place, path) = text.split_once(':')?;
        // `NAME::ADDRESS` is for a helper of that name (gitremote-helpers(7)).
        if place.contains('/') || path.starts_with(':') || text.contains(char::is_control) {
            return None;
        }
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        let Place { host, address, unreachable } = Place::named(host)?;
        Some(Self { host, port: 22, url: text.to_owned(), address, login: false, unreachable })
    }

    /// A URL as it may be kept: with `login` for a login. What is no URL is kept as it is.
    pub fn without_login(text: &str) -> String {
        match Self::parse(text) {
            Some(Self { url, login: true, .. }) => url.replacen("://", "://login@", 1),
            _ => text.to_owned(),
        }
    }

    /// As a rule of a policy.
    pub fn rule(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A host.
struct Place {
    host: String,
    address: bool,
    unreachable: Option<&'static str>,
}

impl Place {
    fn of(address: IpAddr, host: String) -> Self {
        Self { host, address: true, unreachable: not_from_inside(address) }
    }

    /// A host's name, or its IPv4 address, checked: the crate `url` does that only for schemes of the URL standard.
    fn named(name: &str) -> Option<Self> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Some(Self::of(address.into(), name));
        }
        let fits = |label: &str| {
            let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            inner && !label.starts_with('-') && (1..=63).contains(&label.len())
        };
        // The URL standard's "ends in a number": programs take these for addresses, each in its own way.
        let last = name.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
        if name.len() > 253 || number || !name.split('.').all(fits) {
            return None;
        }
        let local = name == "localhost" || name.ends_with(".localhost");
        Some(Self { host: name, address: false, unreachable: local.then_some(LOOPBACK) })
    }
}

const LOOPBACK: &str = "is on this machine's loopback interface, and inside that name means the sandbox itself: \
                        give it another name or address";
const LINK_LOCAL: &str = "is a link-local address, where machines keep what is for them alone";

/// Why an address means something else inside, or must not be reached from there.
fn not_from_inside(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    if address.is_loopback() || address.is_unspecified() {
        return Some(LOOPBACK);
    }
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    };
    link_local.then_some(LINK_LOCAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Location::parse_git(text) {
            None => "-".to_owned(),
            Some(at) => {
                let marks = [(at.login, " login"), (at.unreachable.is_some(), " unreachable")];
                let marks: String = marks.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
                format!("{} {}{marks}", at.rule(), at.url)
            }
        }
    }

    #[test]
    fn urls_of_all_kinds() {
        let urls = [
            "https://Mirror.example",
            "https://user:secret@mirror.example:8443/a/b?token=secret#x",
            "http://token@mirror.example/simple/",
            "sparse+https://crates.example/index/",
            "ssh://git@git.example/x.git",
            "ssh://git:secret@git.example:2222/x.git",
            "git@git.example:team/x.git",
            "git.example:x",
            "git://git.example/x",
            "http://[2001:db8::1]:4873/",
            "http://bücher.example/",
            "http://0x7f.1/",
            "http://[::ffff:127.0.0.1]/",
            "ssh://127.0.0.1/x",
            "ssh://2130706433/x",
            "0x7f.0x1:x",
            "127.0.0.1:x",
            "10.1.2.3:x",
            "http://localhost:4873/",
            "http://169.254.169.254/latest",
            "https://good.example\\@evil.example/",
            "-oProxyCommand=x:y",
            "ssh://-oProxyCommand=x/y",
            "ext::sh -c x",
            "file:///etc/passwd",
            "/srv/git/x.git",
            "./a:b",
            "https:///x",
        ];
        let lines: Vec<String> = urls.iter().map(|url| format!("{url} => {}", shown(url))).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
