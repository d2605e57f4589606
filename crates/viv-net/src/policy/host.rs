//! A host as a program writes it: a name in its one normal form, or an address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use idna::AsciiDenyList;

/// The longest name, in bytes (RFC 1035, section 2.3.4, without the root's length byte and trailing dot).
const MAX_NAME_BYTES: usize = 253;

/// The longest label of a name, in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name in lower case, in ASCII (UTS #46), without a trailing dot.
    Name(String),
    /// An address. IPv4 in IPv6's clothes (`::ffff:0:0/96`) is IPv4.
    Address(IpAddr),
}

impl Host {
    /// Reads a host; an IPv6 address may stand in brackets.
    ///
    /// What only some programs take for an address (`127.1`, `0x7f000001`, `2130706433`, as inet_aton(3) does) is
    /// neither a name nor an address here.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[') {
            let address: Option<Ipv6Addr> = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
            return address.map(Self::from).ok_or("not an IPv6 address in brackets");
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::from(address));
        }
        normal_name(text).map(Self::Name)
    }

    /// As a rule or a URL's authority writes it.
    #[must_use]
    pub fn with_port(&self, port: Option<u16>) -> String {
        match (self, port) {
            (_, None) => self.to_string(),
            (Self::Address(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
            (_, Some(port)) => format!("{self}:{port}"),
        }
    }
}

impl<A: Into<IpAddr>> From<A> for Host {
    fn from(address: A) -> Self {
        Self::Address(address.into().to_canonical())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A name in its normal form.
pub(super) fn normal_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("a host name is missing");
    }
    // In ASCII a name does not get shorter; this bounds what is normalised.
    if text.len() > 4 * MAX_NAME_BYTES {
        return Err("a host name has at most 253 bytes");
    }
    let ascii = idna::domain_to_ascii_cow(text.as_bytes(), AsciiDenyList::EMPTY).map_err(|_| "not a host name")?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    if name.len() > MAX_NAME_BYTES {
        return Err("a host name has at most 253 bytes");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL_BYTES {
            return Err("the parts of a host name have 1 to 63 bytes");
        }
        // The underscore is no letter of host names, and yet found in them.
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err("a host name has letters, digits, hyphens and dots");
        }
    }
    if ends_in_a_number(name) {
        return Err("neither a host name nor an address");
    }
    Ok(name.to_owned())
}

/// What URL parsers and inet_aton(3) take for an IPv4 address (WHATWG URL, "ends in a number").
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit())
}
