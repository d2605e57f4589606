//! Which addresses are nobody's business but the host's.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of the host's own interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostAddresses(HashSet<IpAddr>);

impl FromIterator<IpAddr> for HostAddresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        Self(addresses.into_iter().map(|address| address.to_canonical()).collect())
    }
}

impl HostAddresses {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

/// What an address is for, as far as a sandbox is concerned. Ranges of documentation are public here: networks
/// that are not the Internet use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// None of the others.
    Public,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `0.0.0.0/8` and `::`, by which Linux reaches the host itself.
    Unspecified,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// RFC 1918, RFC 4193 (`fc00::/7`), RFC 6598 (`100.64.0.0/10`) and RFC 3879 (`fec0::/10`).
    Private,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `240.0.0.0/4` with the broadcast address, `192.0.0.0/24`, `100::/64`.
    Reserved,
    /// `198.18.0.0/15`, whose addresses stand for names in the guest.
    Pool,
    /// Where a cloud's machine learns its keys.
    Metadata,
    /// One of the host's own interfaces has it.
    Own,
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::LinkLocal => "a link-local address",
            Self::Private => "a private address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
            Self::Pool => "an address of the sandbox's own names",
            Self::Metadata => "a cloud's metadata service",
            Self::Own => "an address of the host",
        })
    }
}

impl AddressClass {
    /// What an address is for. IPv6 addresses that carry IPv4 ones are for what those are for.
    #[must_use]
    pub fn of(address: IpAddr, own: &HostAddresses) -> Self {
        let address = address.to_canonical();
        if own.contains(address) {
            // The host's loopback and link-local addresses are also of those classes, which say more.
            return match Self::by_range(address) {
                Self::Public | Self::Private => Self::Own,
                class => class,
            };
        }
        let by_range = Self::by_range(address);
        if by_range != Self::Public {
            return by_range;
        }
        let carried = embedded(address).into_iter().flatten().map(|v4| Self::of(IpAddr::V4(v4), own));
        carried.into_iter().find(|class| *class != Self::Public).unwrap_or(Self::Public)
    }

    /// What a rule's `private` opens.
    pub(super) fn is_private(self) -> bool {
        self == Self::Private
    }

    fn by_range(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            // Amazon, Google, Azure and most others; Alibaba; Oracle; Azure's host agent.
            [169, 254, 169, 254] | [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Self::Metadata,
            [0, ..] => Self::Unspecified,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Self::Private,
            [198, 18..=19, ..] => Self::Pool,
            [224..=239, ..] => Self::Multicast,
            [240..=255, ..] | [192, 0, 0, _] => Self::Reserved,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        match address.segments() {
            // Amazon's.
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Self::Metadata,
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            // RFC 8215: NAT64 of the local network, by rules only it knows.
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Self::Private,
            [0xff00..=0xffff, ..] => Self::Multicast,
            [0x100, 0, 0, 0, ..] => Self::Reserved,
            _ => Self::Public,
        }
    }
}

/// The IPv4 addresses an IPv6 address carries: a packet to it may arrive at one of them.
pub(super) fn embedded(address: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(address) = address else { return [None, None] };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // Mapped and compatible (RFC 4291, section 2.5.5), translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [v4(high, low), None],
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo (RFC 4380): its server, and its client with all bits inverted.
        [0x2001, 0, server_high, server_low, _, _, high, low] => [v4(server_high, server_low), v4(!high, !low)],
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [v4(high, low), None],
        _ => [None, None],
    }
}
