//! The few messages of rtnetlink (rtnetlink(7)) that a machine with one fixed configuration needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The largest datagram the kernel sends here, in bytes.
const MAX_DATAGRAM_BYTES: usize = 32 * 1024;

const HEADER_BYTES: usize = 16;

/// Kinds of messages.
mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const SET_LINK: u16 = 19;
    pub const NEW_ADDRESS: u16 = 20;
    pub const DELETE_ADDRESS: u16 = 21;
    pub const GET_ADDRESSES: u16 = 22;
    pub const NEW_ROUTE: u16 = 24;
}

/// Flags of a request.
mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACKNOWLEDGE: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const CREATE: u16 = 0x400;
}

/// Attributes of addresses and routes.
mod attribute {
    pub const ADDRESS: u16 = 1;
    pub const ADDRESS_LOCAL: u16 = 2;
    pub const ADDRESS_FLAGS: u16 = 8;
    pub const ROUTE_INTERFACE: u16 = 4;
    pub const ROUTE_GATEWAY: u16 = 5;
    pub const ROUTE_SOURCE: u16 = 7;
}

/// Types of routes.
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;

/// The loopback interface's number in every network namespace.
pub const LOOPBACK: u32 = 1;

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixed {
    /// The address.
    pub address: IpAddr,
    /// In bits.
    pub length: u8,
}

impl std::str::FromStr for Prefixed {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = length.parse().ok().filter(|&length| length <= longest).ok_or(())?;
        Ok(Self { address, length })
    }
}

/// What is asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Bring an interface up.
    Up {
        /// Its number.
        interface: u32,
    },
    /// Give it an address.
    Address {
        /// Its number.
        interface: u32,
        /// The address.
        address: Prefixed,
    },
    /// Send what goes nowhere else through a gateway.
    Gateway {
        /// The interface it is behind.
        interface: u32,
        /// Its address.
        gateway: IpAddr,
    },
    /// Take every address that nothing else is known of for the machine's own.
    Everything {
        /// What connections to them come from: one of the machine's addresses.
        source: IpAddr,
    },
}

/// Builds the message of one request.
#[must_use]
pub fn message(request: &Request, sequence: u32) -> Vec<u8> {
    let create = flag::CREATE | flag::REPLACE;
    match *request {
        Request::Up { interface } => {
            let up = libc::IFF_UP as u32;
            let mut message = Message::new(kind::SET_LINK, 0, sequence);
            message.bytes(&[0; 4]).word(interface).word(up).word(up);
            message.finish()
        }
        Request::Address { interface, address: Prefixed { address, length } } => {
            // Nobody else is asked whether the address is taken: it has been assigned.
            const NO_DUPLICATE_DETECTION: u32 = 0x02;
            const NO_PREFIX_ROUTE: u32 = 0x200;
            const GLOBAL: u8 = 0;
            let mut message = Message::new(kind::NEW_ADDRESS, create, sequence);
            message.bytes(&[family(address), length, 0, GLOBAL]).word(interface);
            message.address(attribute::ADDRESS_LOCAL, address).address(attribute::ADDRESS, address);
            if address.is_ipv6() {
                // A network of one address needs no route. On the loopback interface it would be one that
                // refuses, until the kernel comes around to adding the address's own.
                let flags = NO_DUPLICATE_DETECTION | if length == 128 { NO_PREFIX_ROUTE } else { 0 };
                message.attribute(attribute::ADDRESS_FLAGS, &flags.to_ne_bytes());
            }
            message.finish()
        }
        Request::Gateway { interface, gateway } => {
            let mut message = Message::route(gateway, UNICAST, sequence);
            message.address(attribute::ROUTE_GATEWAY, gateway);
            message.attribute(attribute::ROUTE_INTERFACE, &interface.to_ne_bytes());
            message.finish()
        }
        Request::Everything { source } => {
            let mut message = Message::route(source, LOCAL, sequence);
            message.address(attribute::ROUTE_SOURCE, source);
            message.attribute(attribute::ROUTE_INTERFACE, &LOOPBACK.to_ne_bytes());
            message.finish()
        }
    }
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// A message under construction: all of these are shorter than a length field can say.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut message = Self(Vec::with_capacity(128));
        let flags = flags | flag::REQUEST | flag::ACKNOWLEDGE;
        message.word(0).bytes(&kind.to_ne_bytes()).bytes(&flags.to_ne_bytes()).word(sequence).word(0);
        message
    }

    /// A default route of the main table: what a container network adds there is more specific, and wins.
    fn route(gateway: IpAddr, kind: u8, sequence: u32) -> Self {
        const MAIN: u8 = 254;
        const BOOT: u8 = 3;
        const UNIVERSE: u8 = 0;
        const HOST: u8 = 254;
        let scope = if kind == LOCAL { HOST } else { UNIVERSE };
        let mut message = Self::new(self::kind::NEW_ROUTE, flag::CREATE | flag::REPLACE, sequence);
        message.bytes(&[family(gateway), 0, 0, 0, MAIN, BOOT, scope, kind]).word(0);
        message
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn word(&mut self, word: u32) -> &mut Self {
        self.bytes(&word.to_ne_bytes())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes(&length.to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn address(&mut self, kind: u16, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn open(flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    // No protocol is protocol 0: NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Carries out requests in their order, all in one system call.
///
/// # Errors
/// The first that the kernel refused, as it says.
pub fn carry_out(requests: &[Request]) -> io::Result<()> {
    let socket = open(SocketFlags::empty(), 0)?;
    let batch: Vec<u8> = (1..).zip(requests).flat_map(|(sequence, request)| message(request, sequence)).collect();
    rustix::net::send(&socket, &batch, SendFlags::empty())?;
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    let mut answered = 0;
    while answered < requests.len() {
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            if kind == kind::ERROR {
                match word(body) {
                    Some(0) => answered += 1,
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno.cast_signed().wrapping_neg())),
                    None => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        }
    }
    Ok(())
}

/// The messages of a datagram: their kinds and what follows their headers.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = word(rest).and_then(|length| usize::try_from(length).ok())?;
        let kind = u16::from_ne_bytes([*rest.get(4)?, *rest.get(5)?]);
        let body = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The machine got or lost an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has it now.
    Added(IpAddr),
    /// It has it no more.
    Removed(IpAddr),
}

/// A socket, nonblocking, that tells which addresses there are, and then what changes.
///
/// # Errors
/// As socket(2).
pub fn watch_addresses() -> io::Result<OwnedFd> {
    const CHANGES: u32 = 0x10 | 0x100;
    let socket = open(SocketFlags::NONBLOCK, CHANGES)?;
    ask_addresses(&socket)?;
    Ok(socket)
}

fn ask_addresses(socket: &OwnedFd) -> io::Result<()> {
    let mut message = Message::new(kind::GET_ADDRESSES, flag::DUMP, 0);
    message.bytes(&[libc::AF_UNSPEC as u8, 0, 0, 0]).word(0);
    rustix::net::send(socket, &message.finish(), SendFlags::empty())?;
    Ok(())
}

/// Reads what it tells.
///
/// # Errors
/// `WouldBlock` if there is nothing new.
pub fn read_changes(socket: &OwnedFd) -> io::Result<Vec<Change>> {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
        Ok((length, _)) => Ok(changes(&buffer[..length])),
        // More than it holds: what there is now is asked for again.
        Err(rustix::io::Errno::NOBUFS) => ask_addresses(socket).map(|()| Vec::new()),
        Err(reason) => Err(reason.into()),
    }
}

fn changes(datagram: &[u8]) -> Vec<Change> {
    const ADDRESS_HEADER_BYTES: usize = 8;
    messages(datagram)
        .take_while(|(kind, _)| *kind != kind::DONE)
        .filter_map(|(kind, body)| {
            let attributes = body.get(ADDRESS_HEADER_BYTES..)?;
            // Where both are there, one is the other end's.
            let address =
                find(attributes, attribute::ADDRESS_LOCAL).or_else(|| find(attributes, attribute::ADDRESS))?;
            match kind {
                kind::NEW_ADDRESS => Some(Change::Added(address)),
                kind::DELETE_ADDRESS => Some(Change::Removed(address)),
                _ => None,
            }
        })
        .collect()
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<IpAddr> {
    loop {
        let (header, _) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) == wanted {
            return match value.len() {
                4 => value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
                16 => value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
                _ => None,
            };
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex_of(request: Request) -> String {
        hex::encode(message(&request, 7))
    }

    #[test]
    fn requests_are_what_iproute2_sends() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            hex_of(Request::Up { interface: 2 }),
            "20000000130005000700000000000000000000000200000001000000\
             01000000"
        );
        assert_eq!(
            hex_of(Request::Address { interface: 2, address: "192.168.83.2/24".parse().unwrap() }),
            "2800000014000505070000000000000002180000020000000800\
             0200c0a853020800\
             0100c0a85302"
        );
        let gateway = hex_of(Request::Gateway { interface: 2, gateway: ip("192.168.83.1") });
        assert_eq!(gateway, "2c00000018000505070000000000000002000000fe0300010000000008000500c0a853010800040002000000");
        let everything = hex_of(Request::Everything { source: ip("fd00::1") });
        assert!(everything.contains("0a000000fe03fe02"), "{everything}");
        assert!(everything.ends_with("14000700fd0000000000000000000000000000010800040001000000"), "{everything}");
    }

    #[test]
    fn prefixes_are_read_strictly() {
        for wrong in ["", "1.2.3.4", "1.2.3.4/33", "::/129", "1.2.3.4/-1", "x/8", "1.2.3.4/"] {
            assert!(wrong.parse::<Prefixed>().is_err(), "{wrong}");
        }
        assert_eq!("fd00::2/64".parse(), Ok(Prefixed { address: "fd00::2".parse().unwrap(), length: 64 }));
    }

    #[test]
    fn changes_are_read_from_whatever_comes() {
        let added = Request::Address { interface: 2, address: "192.168.83.2/24".parse().unwrap() };
        let bytes = message(&added, 1);
        assert_eq!(changes(&bytes), [Change::Added("192.168.83.2".parse().unwrap())]);
        for length in 0..bytes.len() {
            assert!(changes(&bytes[..length]).len() <= 1);
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = 0xff;
            let _ = changes(&damaged);
            damaged[at] = 0;
            let _ = changes(&damaged);
        }
    }
}
