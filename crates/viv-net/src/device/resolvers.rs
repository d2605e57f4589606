//! Which name servers the host asks.

use std::fs;
use std::net::IpAddr;

/// Where every resolver is configured (resolv.conf(5)).
const CONFIGURATION: &str = "/etc/resolv.conf";

/// What systemd-resolved itself asks, where the former names its stub on the loopback interface.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// As many as a C library reads (`MAXNS` in resolv.h).
const MOST: usize = 3;

/// The host's name servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolvers {
    /// Whom programs of the host ask.
    pub configured: Vec<IpAddr>,
    /// Whom others than the host can ask as well: none of them is on its loopback interface.
    pub reachable: Vec<IpAddr>,
}

impl Resolvers {
    /// The host's, as they are now. What cannot be read names nobody.
    #[must_use]
    pub fn probe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::from_files(&read(CONFIGURATION), &read(BEHIND_THE_STUB))
    }

    fn from_files(configuration: &str, behind_the_stub: &str) -> Self {
        let configured = name_servers(configuration);
        let beyond = |servers: &[IpAddr]| -> Vec<IpAddr> {
            servers.iter().copied().filter(|server| !server.is_loopback() && !server.is_unspecified()).collect()
        };
        let mut reachable = beyond(&configured);
        if reachable.is_empty() {
            reachable = beyond(&name_servers(behind_the_stub));
        }
        Self { configured, reachable }
    }
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        // One with a zone (`fe80::1%eth0`) means nothing to a guest.
        .filter_map(|address| address.parse().ok())
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_stub_on_the_loopback_interface_is_looked_behind() {
        let plain = Resolvers::from_files("# x\nsearch a.example\nnameserver 192.0.2.53\nnameserver ::1\n", "");
        assert_eq!(plain.configured, addresses(&["192.0.2.53", "::1"]));
        assert_eq!(plain.reachable, addresses(&["192.0.2.53"]));
        let stub = Resolvers::from_files("nameserver 127.0.0.53\n", "nameserver 198.51.100.1\nnameserver fe80::1%2\n");
        assert_eq!(stub.configured, addresses(&["127.0.0.53"]));
        assert_eq!(stub.reachable, addresses(&["198.51.100.1"]));
        assert_eq!(Resolvers::from_files("nameserver\nnameservers 1.2.3.4\n;", ""), Resolvers::default());
    }
}
