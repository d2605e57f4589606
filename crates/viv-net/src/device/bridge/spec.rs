//! What a bridge is to be, and the note about it that the kernel keeps.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::device::{Error, ErrorKind, Result};

/// The longest name of an interface (`IFNAMSIZ` in linux/if.h, less its end).
const LONGEST_NAME: usize = 15;

/// The first word of a bridge's alias, by which it is known for viv's.
const MARK: &str = "viv";

/// A bridge for sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeSpec {
    /// Its name: at most 15 lower-case letters, digits, `-` and `_`, a letter first.
    pub name: String,
    /// Its sandboxes' network, /16 to /29; the first address is the host's.
    pub subnet: Ipv4Net,
    /// The same for IPv6, /64 to /112; without it they have none.
    pub subnet6: Option<Ipv6Net>,
    /// The interface that leads to everywhere else.
    pub uplink: String,
}

impl BridgeSpec {
    /// A checked specification; bits of the subnets beyond their prefix are dropped.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`], saying what is possible.
    pub fn new(name: &str, subnet: Ipv4Net, subnet6: Option<Ipv6Net>, uplink: &str) -> Result<Self> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidSpec, message));
        check_name(name)?;
        if uplink.is_empty()
            || uplink.len() > LONGEST_NAME
            || !uplink.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@:".contains(c))
        {
            return invalid(format!("{uplink:?} is no interface's name"));
        }
        if uplink == name {
            return invalid(format!("{name} cannot be its own uplink"));
        }
        if !(16..=29).contains(&subnet.prefix_len()) {
            return invalid(format!("{subnet} is no network of a bridge: /16 to /29 are possible"));
        }
        if let Some(subnet6) = subnet6.filter(|subnet| !(64..=112).contains(&subnet.prefix_len())) {
            return invalid(format!("{subnet6} is no network of a bridge: /64 to /112 are possible"));
        }
        Ok(Self {
            name: name.to_owned(),
            subnet: subnet.trunc(),
            subnet6: subnet6.map(|subnet| subnet.trunc()),
            uplink: uplink.to_owned(),
        })
    }

    /// The host's address, with the prefix length.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Net {
        self.member(1).0
    }

    /// The same for IPv6.
    #[must_use]
    pub fn gateway6(&self) -> Option<Ipv6Net> {
        self.member(1).1
    }

    /// The host's addresses, of each family that there is.
    pub(super) fn gateways(&self) -> Vec<IpNet> {
        [Some(IpNet::V4(self.gateway())), self.gateway6().map(IpNet::V6)].into_iter().flatten().collect()
    }

    /// The addresses with this number, which is less than [`BridgeSpec::size`].
    pub(super) fn member(&self, number: u32) -> (Ipv4Net, Option<Ipv6Net>) {
        let v4 = Ipv4Addr::from(u32::from(self.subnet.network()).wrapping_add(number));
        let v6 = self.subnet6.map(|subnet| {
            let address = Ipv6Addr::from(u128::from(subnet.network()).wrapping_add(u128::from(number)));
            Ipv6Net::new_assert(address, subnet.prefix_len())
        });
        (Ipv4Net::new_assert(v4, self.subnet.prefix_len()), v6)
    }

    /// How many addresses there are, network and broadcast included: at most 2^16, which is what the
    /// smallest IPv6 network has as well.
    pub(super) fn size(&self) -> u32 {
        1 << (32 - u32::from(self.subnet.prefix_len()))
    }
}

/// # Errors
/// [`ErrorKind::InvalidSpec`] for what is no name of a bridge.
pub(super) fn check_name(name: &str) -> Result<()> {
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
        && name.len() <= LONGEST_NAME;
    if well_formed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidSpec,
        format!("{name:?} is no bridge's name: at most {LONGEST_NAME} of a-z, 0-9, - and _, a letter first"),
    ))
}

/// A parameter of the kernel that a bridge needs and that was otherwise before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Parameter {
    /// Whether router advertisements are taken from the uplink: 2 if in spite of forwarding. Before
    /// forwarding, or the host would lose what it learned from them.
    AcceptAdvertisements,
    /// Whether IPv6 is forwarded: one switch for all interfaces.
    Forwarding6,
    /// Whether IPv4 is forwarded that comes from the uplink.
    UplinkForwarding,
}

impl Parameter {
    /// In the order in which they are set; restored in reverse.
    pub(super) const ALL: [Self; 3] = [Self::AcceptAdvertisements, Self::Forwarding6, Self::UplinkForwarding];

    /// The kernel's name.
    pub(super) fn name(self, uplink: &str) -> String {
        match self {
            Self::AcceptAdvertisements => format!("net/ipv6/conf/{uplink}/accept_ra"),
            Self::Forwarding6 => "net/ipv6/conf/all/forwarding".to_owned(),
            Self::UplinkForwarding => format!("net/ipv4/conf/{uplink}/forwarding"),
        }
    }

    /// What a bridge needs it to be, if it matters, given what it is.
    pub(super) fn wanted(self, spec: &BridgeSpec, now: &str) -> Option<&'static str> {
        match self {
            Self::AcceptAdvertisements => (spec.subnet6.is_some() && now == "1").then_some("2"),
            Self::Forwarding6 => (spec.subnet6.is_some() && now != "1").then_some("1"),
            Self::UplinkForwarding => (now != "1").then_some("1"),
        }
    }

    /// Whether two bridges both need it.
    pub(super) fn is_shared(self, one: &BridgeSpec, other: &BridgeSpec) -> bool {
        let same_uplink = one.uplink == other.uplink;
        match self {
            Self::AcceptAdvertisements => same_uplink && other.subnet6.is_some(),
            Self::Forwarding6 => other.subnet6.is_some(),
            Self::UplinkForwarding => same_uplink,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::AcceptAdvertisements => "accept_ra",
            Self::Forwarding6 => "forwarding6",
            Self::UplinkForwarding => "forwarding",
        }
    }
}

/// What is known of a bridge that is there: kept as the bridge's alias, so that it is gone when the
/// bridge is, and nothing else has to be kept in step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) spec: BridgeSpec,
    /// What was before, of what was changed.
    pub(super) before: Vec<(Parameter, String)>,
}

impl Note {
    /// The note on the bridge `name`, if viv left one.
    pub(super) fn parse(name: &str, alias: &str) -> Option<Self> {
        let mut words = alias.split(' ');
        if words.next() != Some(MARK) {
            return None;
        }
        let (mut subnet, mut subnet6, mut uplink, mut before) = (None, None, None, Vec::new());
        for word in words {
            let (key, value) = word.split_once('=')?;
            match key {
                "subnet" => subnet = Some(value.parse().ok()?),
                "subnet6" => subnet6 = Some(value.parse().ok()?),
                "uplink" => uplink = Some(value),
                key => {
                    let parameter = Parameter::ALL.into_iter().find(|parameter| parameter.word() == key)?;
                    value.parse::<i32>().ok()?;
                    before.push((parameter, value.to_owned()));
                }
            }
        }
        let spec = BridgeSpec::new(name, subnet?, subnet6, uplink?).ok()?;
        Some(Self { spec, before })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK} subnet={}", self.spec.subnet)?;
        if let Some(subnet6) = self.spec.subnet6 {
            write!(f, " subnet6={subnet6}")?;
        }
        write!(f, " uplink={}", self.spec.uplink)?;
        self.before.iter().try_for_each(|(parameter, value)| write!(f, " {}={value}", parameter.word()))
    }
}

/// The addresses of a sandbox on a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The interface on the host.
    pub interface: String,
    /// The guest's hardware address.
    pub mac: String,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address, if it has one.
    pub v6: Option<Ipv6Addr>,
}

impl Port {
    /// The link-local address that the guest's kernel makes from its hardware address (RFC 4291,
    /// appendix A); none if that is not one.
    pub(super) fn link_local(&self) -> Option<Ipv6Addr> {
        let bytes: Vec<u8> =
            self.mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<std::result::Result<_, _>>().ok()?;
        let [a, b, c, d, e, f] = <[u8; 6]>::try_from(bytes).ok()?;
        Some(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
    }

    /// All its IPv6 addresses.
    pub(super) fn all_v6(&self) -> Vec<Ipv6Addr> {
        self.v6.map(|address| [Some(address), self.link_local()].into_iter().flatten().collect()).unwrap_or_default()
    }
}

/// Whether two networks have an address in common.
pub(super) fn overlap(one: IpNet, other: IpAddr, prefix: u8) -> bool {
    IpNet::new(other, prefix).is_ok_and(|other| one.contains(&other.network()) || other.contains(&one.network()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BridgeSpec {
        BridgeSpec::new("vivbr", "192.168.83.0/24".parse().unwrap(), Some("fd00:83::/64".parse().unwrap()), "eth0")
            .unwrap()
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let before = vec![(Parameter::AcceptAdvertisements, "1".to_owned()), (Parameter::Forwarding6, "0".to_owned())];
        let note = Note { spec: spec(), before };
        let text = note.to_string();
        assert_eq!(text, "viv subnet=192.168.83.0/24 subnet6=fd00:83::/64 uplink=eth0 accept_ra=1 forwarding6=0");
        assert_eq!(Note::parse("vivbr", &text), Some(note));
        for other in ["", "viv", "uplink", "viv subnet=x uplink=eth0", "viv subnet=10.0.0.0/24 uplink=e forwarding=x"] {
            assert_eq!(Note::parse("vivbr", other), None, "{other}");
        }
    }

    #[test]
    fn members_are_numbered_in_both_families() {
        let (v4, v6) = spec().member(2);
        assert_eq!((v4.to_string(), v6.unwrap().to_string()), ("192.168.83.2/24".into(), "fd00:83::2/64".into()));
        assert_eq!(spec().gateway().to_string(), "192.168.83.1/24");
        assert_eq!(spec().size(), 256);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let subnet = "10.0.0.0/24".parse().unwrap();
        for name in ["", "9br", "Br", "a-name-too-long-for-it", "a b", "a;b", "a\"b"] {
            assert!(BridgeSpec::new(name, subnet, None, "eth0").is_err(), "{name}");
        }
        for uplink in ["", "eth0\"", "a b", "br"] {
            assert!(BridgeSpec::new("br", subnet, None, uplink).is_err(), "{uplink}");
        }
        let error = BridgeSpec::new("br", "10.0.0.0/30".parse().unwrap(), None, "eth0").unwrap_err();
        assert_eq!(error.to_string(), "10.0.0.0/30 is no network of a bridge: /16 to /29 are possible");
        assert!(BridgeSpec::new("br", subnet, Some("fd00::/48".parse().unwrap()), "eth0").is_err());
    }

    #[test]
    fn link_local_addresses_come_from_the_hardware_address() {
        let port =
            Port { interface: "viv0".into(), mac: "02:12:34:56:78:9a".into(), v4: Ipv4Addr::LOCALHOST, v6: None };
        assert_eq!(port.link_local().unwrap().to_string(), "fe80::12:34ff:fe56:789a");
        assert_eq!(Port { mac: "02:12".into(), ..port }.link_local(), None);
    }
}
