//! `--net nat`: a device whose traffic passt sends through sockets of the host's user.
//!
//! passt (<https://passt.top>) speaks Ethernet on a Unix socket and turns what the guest sends into
//! sockets of its own, as the user that runs it; it confines itself with namespaces and seccomp.
//! Nothing reaches the guest from outside. What passt itself does not refuse, [`super::guard`] does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use viv_proto::message::NetworkDevice;

use super::{Error, ErrorKind, Resolvers, Result, describe};

/// The guest's address: a private network that hardly any other network uses, all of it passt's.
const GUEST_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 118, 105, 15), 24);

/// Its gateway, which is passt.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 118, 105, 2);

/// Where passt hands questions for names to the host's first name server.
const NAMES_V4: Ipv4Addr = Ipv4Addr::new(10, 118, 105, 3);

/// The guest's address: a unique local one (RFC 4193), so that programs prefer IPv4 where both are
/// to be had (RFC 6724).
const GUEST_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd76, 0x6976, 0x6e61, 0, 0, 0, 0, 15), 64);

/// Its gateway, which is passt.
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd76, 0x6976, 0x6e61, 0, 0, 0, 0, 2);

/// Where passt hands questions for names to the host's first name server.
const NAMES_V6: Ipv6Addr = Ipv6Addr::new(0xfd76, 0x6976, 0x6e61, 0, 0, 0, 0, 3);

/// passt's own hardware address; it would show the guest the host's.
const PASST_MAC: &str = "02:76:69:76:00:02";

/// The largest packet the guest sends: what passt itself would announce, an Ethernet frame of 64 KiB
/// less its header, in whole words. Large ones are what makes it fast.
pub const MTU: u16 = 65520;

/// Whether an address is passt's own, at which there is nothing: passt would look for it on the host's network.
pub(super) fn is_passts(address: IpAddr) -> bool {
    [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)].contains(&address)
}

/// What passt has to know of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    ipv4: bool,
    ipv6: bool,
    name_servers: Vec<IpAddr>,
}

impl Nat {
    /// Looks at the host's routes and name servers; sends nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NoRoute`] if the host has no default route.
    pub fn probe() -> Result<Self> {
        // Addresses for documentation (RFC 5737, RFC 3849), which only a default route leads to.
        let routed =
            |from: SocketAddr, to: SocketAddr| UdpSocket::bind(from).is_ok_and(|socket| socket.connect(to).is_ok());
        let ipv4 = routed((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(198, 51, 100, 1), 9).into());
        let ipv6 =
            routed((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into());
        Self::new(ipv4, ipv6, &Resolvers::probe())
    }

    /// From which address families have a default route, and which name servers there are.
    ///
    /// # Errors
    /// [`ErrorKind::NoRoute`] if neither has one.
    pub fn new(ipv4: bool, ipv6: bool, resolvers: &Resolvers) -> Result<Self> {
        if !ipv4 && !ipv6 {
            return Err(Error::new(ErrorKind::NoRoute, "--net nat: this machine has no default route")
                .hint("ip route show default"));
        }
        let has = |version: fn(&IpAddr) -> bool| resolvers.configured.iter().any(version);
        let mut name_servers = Vec::new();
        if ipv4 && has(IpAddr::is_ipv4) {
            name_servers.push(IpAddr::V4(NAMES_V4));
        }
        if ipv6 && has(IpAddr::is_ipv6) {
            name_servers.push(IpAddr::V6(NAMES_V6));
        }
        if name_servers.is_empty() {
            // passt forwards within one address family only.
            let family = |server: &IpAddr| if server.is_ipv4() { ipv4 } else { ipv6 };
            name_servers.extend(resolvers.reachable.iter().copied().filter(family));
        }
        Ok(Self { ipv4, ipv6, name_servers })
    }

    /// What the guest is told of its device.
    #[must_use]
    pub fn guest(&self, mac: &str) -> NetworkDevice {
        let families = [
            (self.ipv4, IpNet::V4(GUEST_V4), IpAddr::V4(GATEWAY_V4)),
            (self.ipv6, IpNet::V6(GUEST_V6), IpAddr::V6(GATEWAY_V6)),
        ];
        let there = families.into_iter().filter(|(there, ..)| *there);
        describe(
            mac,
            there.clone().map(|(_, address, _)| address),
            there.map(|(.., gateway)| gateway),
            self.name_servers.iter().copied(),
        )
    }

    /// passt's arguments, which gets a connected socket as `descriptor`. Known to every version from
    /// 2023 on.
    #[must_use]
    pub fn arguments(&self, descriptor: i32) -> Vec<String> {
        let mut arguments = vec!["--foreground".to_owned(), "--quiet".to_owned()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--fd", descriptor.to_string());
        option("--mac-addr", PASST_MAC.to_owned());
        if self.ipv4 {
            option("--address", GUEST_V4.addr().to_string());
            option("--netmask", GUEST_V4.prefix_len().to_string());
            option("--gateway", GATEWAY_V4.to_string());
        }
        if self.ipv6 {
            option("--address", GUEST_V6.addr().to_string());
            option("--gateway", GATEWAY_V6.to_string());
        }
        for server in &self.name_servers {
            if [IpAddr::V4(NAMES_V4), IpAddr::V6(NAMES_V6)].contains(server) {
                option("--dns-forward", server.to_string());
            }
        }
        // Nothing comes in.
        option("--tcp-ports", "none".to_owned());
        option("--udp-ports", "none".to_owned());
        // The gateway's address is not the host's loopback interface.
        let flags = ["--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ra"];
        arguments.extend(flags.map(str::to_owned));
        match (self.ipv4, self.ipv6) {
            (true, false) => arguments.push("--ipv4-only".to_owned()),
            (false, true) => arguments.push("--ipv6-only".to_owned()),
            _ => {}
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolvers(configured: &[&str], reachable: &[&str]) -> Resolvers {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Resolvers { configured: parse(configured), reachable: parse(reachable) }
    }

    #[test]
    fn what_passt_and_the_guest_are_told() {
        let nat = Nat::new(true, true, &resolvers(&["127.0.0.53"], &[])).unwrap();
        insta::assert_snapshot!(nat.arguments(3).join(" ").replace(" --", "\n--"));
        insta::assert_json_snapshot!(nat.guest("02:00:00:00:00:01"));
    }

    #[test]
    fn one_address_family_is_enough() {
        let nat = Nat::new(true, false, &resolvers(&["192.0.2.53"], &["192.0.2.53"])).unwrap();
        assert!(nat.arguments(3).contains(&"--ipv4-only".to_owned()));
        assert!(!nat.arguments(3).contains(&GUEST_V6.addr().to_string()));
        let device = nat.guest("m");
        assert_eq!((device.addresses, device.gateways), (vec![GUEST_V4.to_string()], vec![GATEWAY_V4.to_string()]));
        let nat = Nat::new(false, true, &resolvers(&["127.0.0.53"], &["2001:db8::53", "192.0.2.1"])).unwrap();
        assert_eq!(nat.guest("m").name_servers, ["2001:db8::53"]);
        assert!(!nat.arguments(3).contains(&"--dns-forward".to_owned()));
        let error = Nat::new(false, false, &Resolvers::default()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::NoRoute);
    }
}
