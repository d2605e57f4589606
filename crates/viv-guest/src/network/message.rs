//! Questions and answers of the domain name system (RFC 1035), as far as a server needs that answers one
//! question of class IN at a time and knows addresses and the names of its own addresses only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest message over UDP that this server sends or reads, in bytes.
pub const MAX_DATAGRAM_BYTES: usize = 512;

/// The longest name as text, in bytes, without a trailing dot.
pub const MAX_NAME_BYTES: usize = 253;

const HEADER_BYTES: usize = 12;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Something this server never has.
    Other,
}

/// How a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The name has this address.
    V4(Ipv4Addr),
    /// The name has this address.
    V6(Ipv6Addr),
    /// The address has this name.
    Name(&'a str),
    /// There is such a name, but nothing of this kind.
    Nothing,
    /// There is no such name.
    NoSuchName,
    /// It cannot be told.
    Failure,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    id: [u8; 2],
    recursion_desired: bool,
    /// The question as it was asked, upper case and all: some clients compare.
    asked: Vec<u8>,
    /// The name in lower case, without a trailing dot; empty for the root, and `None` for one that has a
    /// label no host has.
    pub name: Option<String>,
    /// What is asked for.
    pub kind: Kind,
}

/// Why there is no question to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is no query, or shorter than one: nothing is to be said.
    Silence,
    /// It cannot be understood, or not by this server; this is to be said.
    Say(Vec<u8>),
}

const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// Reads a query. What follows its one question (EDNS options) is of no interest.
///
/// # Errors
/// What is to be said instead of an answer.
pub fn parse(message: &[u8]) -> Result<Question, Refusal> {
    let Some((header, body)) = message.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Refusal::Silence);
    };
    let id = [header[0], header[1]];
    if header[2] & 0x80 != 0 {
        return Err(Refusal::Silence);
    }
    let recursion_desired = header[2] & 1 != 0;
    let refuse = |code| Refusal::Say(head(id, recursion_desired, code, [0, 0]).to_vec());
    if header[2] >> 3 & 0xf != 0 {
        return Err(refuse(NOT_IMPLEMENTED));
    }
    if header[4..8] != [0, 1, 0, 0] {
        return Err(refuse(FORMAT_ERROR));
    }
    let (name, length) = read_name(body).ok_or_else(|| refuse(FORMAT_ERROR))?;
    let asked = body.get(..length + 4).ok_or_else(|| refuse(FORMAT_ERROR))?.to_vec();
    let class_in = asked[length + 2..] == [0, 1];
    let kind = match asked[length..length + 2] {
        _ if !class_in => Kind::Other,
        [0, 1] => Kind::A,
        [0, 28] => Kind::Aaaa,
        [0, 12] => Kind::Ptr,
        _ => Kind::Other,
    };
    Ok(Question { id, recursion_desired, asked, name, kind })
}

/// Reads a name without compression, which a question has no use for. Returns its length, too.
fn read_name(bytes: &[u8]) -> Option<(Option<String>, usize)> {
    const MAX_LABEL_BYTES: usize = 63;
    let mut name = String::new();
    let mut plain = true;
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        let label = bytes.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            return Some((plain.then_some(name), at));
        }
        let dot = usize::from(!name.is_empty());
        if length > MAX_LABEL_BYTES || name.len() + dot + length > MAX_NAME_BYTES {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            plain &= byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            name.push(char::from(byte.to_ascii_lowercase()));
        }
    }
}

fn head(id: [u8; 2], recursion_desired: bool, code: u8, counts: [u8; 2]) -> [u8; HEADER_BYTES] {
    const RESPONSE: u8 = 0x80;
    const RECURSION_AVAILABLE: u8 = 0x80;
    let [questions, answers] = counts;
    let flags = [RESPONSE | u8::from(recursion_desired), RECURSION_AVAILABLE | code];
    [id[0], id[1], flags[0], flags[1], 0, questions, 0, answers, 0, 0, 0, 0]
}

impl Question {
    /// The message that answers it: never longer than [`MAX_DATAGRAM_BYTES`] if the name is none longer
    /// than [`MAX_NAME_BYTES`].
    #[must_use]
    pub fn answer(&self, answer: &Answer<'_>, ttl_seconds: u32) -> Vec<u8> {
        // Of the question's name, at the message's twelfth byte.
        const SAME_NAME: [u8; 2] = [0xc0, 12];
        let (code, data) = match answer {
            Answer::V4(address) => (0, Some((1, address.octets().to_vec()))),
            Answer::V6(address) => (0, Some((28, address.octets().to_vec()))),
            Answer::Name(name) => (0, Some((12, write_name(name)))),
            Answer::Nothing => (0, None),
            Answer::NoSuchName => (NO_SUCH_NAME, None),
            Answer::Failure => (SERVER_FAILURE, None),
        };
        let mut message = head(self.id, self.recursion_desired, code, [1, u8::from(data.is_some())]).to_vec();
        message.extend_from_slice(&self.asked);
        if let Some((kind, data)) = data {
            message.extend_from_slice(&SAME_NAME);
            message.extend_from_slice(&[0, kind, 0, 1]);
            message.extend_from_slice(&ttl_seconds.to_be_bytes());
            message.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
            message.extend_from_slice(&data);
        }
        message
    }
}

fn write_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The address whose name is asked for by a name below in-addr.arpa or ip6.arpa.
#[must_use]
pub fn address_in(name: &str) -> Option<IpAddr> {
    if let Some(numbers) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = numbers.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut address = 0u128;
    let mut count = 0;
    for digit in digits.split('.') {
        if digit.len() != 1 || count == 32 {
            return None;
        }
        address |= u128::from(u8::from_str_radix(digit, 16).ok()?) << (4 * count);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(address).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(write_name(name));
        message.extend([0, kind, 0, 1]);
        message
    }

    #[test]
    fn a_question_is_read_and_answered_in_its_own_words() {
        let mut message = query("Example.COM", 1);
        // As with EDNS: one additional record.
        message[11] = 1;
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let question = parse(&message).unwrap();
        assert_eq!((question.name.as_deref(), question.kind), (Some("example.com"), Kind::A));
        let answer = question.answer(&Answer::V4(Ipv4Addr::new(198, 19, 0, 1)), 60);
        assert_eq!(
            hex::encode(answer),
            "abcd81800001000100000000074578616d706c6503434f4d0000010001c00c000100010000003c0004c6130001"
        );
        let answer = question.answer(&Answer::NoSuchName, 60);
        assert_eq!(hex::encode(answer), "abcd81830001000000000000074578616d706c6503434f4d0000010001");
    }

    #[test]
    fn nonsense_is_refused_without_panic() {
        assert_eq!(parse(b"short"), Err(Refusal::Silence));
        let good = query("example.com", 28);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(parse(&response), Err(Refusal::Silence), "answers are not answered");
        let code = |message: &[u8]| match parse(message) {
            Err(Refusal::Say(answer)) => Some(answer[3] & 0xf),
            _ => None,
        };
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(&update), Some(NOT_IMPLEMENTED));
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(code(&two), Some(FORMAT_ERROR));
        assert_eq!(code(&good[..good.len() - 1]), Some(FORMAT_ERROR));
        let mut pointer = good[..12].to_vec();
        pointer.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(code(&pointer), Some(FORMAT_ERROR));
        assert_eq!(code(&query(&["a"; 128].join("."), 1)), Some(FORMAT_ERROR), "too long");
        assert_eq!(parse(&query("a b.example", 1)).unwrap().name, None);
        assert_eq!(parse(&query("example.com", 65)).unwrap().kind, Kind::Other);
        let longest = [&"a".repeat(63), &"b".repeat(63), &"c".repeat(63), "d".repeat(61).as_str()].join(".");
        assert_eq!(longest.len(), MAX_NAME_BYTES);
        let question = parse(&query(&longest, 28)).unwrap();
        assert!(question.answer(&Answer::V6(Ipv6Addr::LOCALHOST), 60).len() <= MAX_DATAGRAM_BYTES);
        let mut seed = 1u32;
        for _ in 0..20_000 {
            let mut message = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (seed >> 16) as usize % message.len();
                message[at] = (seed >> 8) as u8;
            }
            if let Ok(question) = parse(&message) {
                assert!(question.answer(&Answer::Name(&longest), 60).len() <= 2 * MAX_DATAGRAM_BYTES);
            }
        }
    }

    #[test]
    fn addresses_are_found_in_reverse_names() {
        assert_eq!(address_in("1.0.19.198.in-addr.arpa"), Some("198.19.0.1".parse().unwrap()));
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.6.d.6.1.6.e.6.6.7.9.6.6.7.d.f.ip6.arpa";
        assert_eq!(address_in(v6), Some("fd76:6976:6e61:6d65::2".parse().unwrap()));
        for wrong in
            ["in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "x.ip6.arpa", "300.2.3.4.in-addr.arpa"]
        {
            assert_eq!(address_in(wrong), None, "{wrong}");
        }
    }
}
