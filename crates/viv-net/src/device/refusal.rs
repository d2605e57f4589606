//! What a guest is told of a frame that did not pass, so that its program fails at once and does not wait.
//!
//! TCP is reset as if nobody listened (RFC 9293, 3.10.7.1); for UDP and echo requests an ICMP message says
//! that it is prohibited (RFC 1812, 5.2.7.1; RFC 4443, 3.1), as a bridge's rules do. Nothing else is
//! answered: no broadcast or multicast, no fragment but the first, no error (RFC 1122, 3.2.2).

use std::net::IpAddr;

/// An Ethernet header, in bytes.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// How much of a packet an error repeats: within the 576 and 1280 bytes that every host takes.
const REPEATED: [usize; 2] = [520, 1200];

/// Numbers of protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Flags of a TCP segment.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The frame that answers a guest's frame which does not pass; none if it has no answer. Any bytes will do.
#[must_use]
pub fn refuse(frame: &[u8]) -> Option<Vec<u8>> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
    let answer = match ethernet[12..] {
        [0x08, 0x00] => refuse_v4(packet)?,
        [0x86, 0xdd] => refuse_v6(packet)?,
        _ => return None,
    };
    // Back to where it came from, in the name of whom it was for.
    let group = ethernet[0] & 1 != 0 || ethernet[6] & 1 != 0;
    (!group).then(|| [&ethernet[6..12], &ethernet[..6], &ethernet[12..], &answer].concat())
}

fn refuse_v4(packet: &[u8]) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<IPV4>()?;
    let [from, to] = [12, 16].map(|at| [header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let payload = packet.get(usize::from(header[0] & 15) * 4..length)?;
    let is_group = |address: [u8; 4]| address[0] >= 224;
    if header[0] >> 4 != 4 || offset != 0 || is_group(from) || is_group(to) {
        return None;
    }
    let pseudo = |protocol: u8, length: u16| {
        let [high, low] = length.to_be_bytes();
        [&to[..], &from, &[0, protocol, high, low]].concat()
    };
    let (protocol, body) = match header[9] {
        TCP => (TCP, reset(payload, |length| pseudo(TCP, length))?),
        UDP => (ICMP, prohibited(3, 13, &packet[..length.min(REPEATED[0])], &[])),
        // An echo request.
        ICMP if payload.first() == Some(&8) => (ICMP, prohibited(3, 13, &packet[..length.min(REPEATED[0])], &[])),
        _ => return None,
    };
    let length = u16::try_from(IPV4 + body.len()).ok()?.to_be_bytes();
    let mut answer = [&[0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0][..], &to, &from].concat();
    let sum = checksum(&answer);
    answer[10..12].copy_from_slice(&sum);
    answer.extend(body);
    Some(answer)
}

fn refuse_v6(packet: &[u8]) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<IPV6>()?;
    let (from, to) = (<[u8; 16]>::try_from(&header[8..24]).ok()?, <[u8; 16]>::try_from(&header[24..40]).ok()?);
    let length = IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let payload = packet.get(IPV6..length)?;
    if header[0] >> 4 != 6 || [from, to].into_iter().any(|address| IpAddr::from(address).is_multicast()) {
        return None;
    }
    let pseudo = |protocol: u8, length: u16| {
        let [high, low] = length.to_be_bytes();
        [&to[..], &from, &[0, 0, high, low, 0, 0, 0, protocol]].concat()
    };
    let repeated = &packet[..length.min(REPEATED[1])];
    let icmp = || {
        let length = u16::try_from(repeated.len() + 8).unwrap_or(u16::MAX);
        prohibited(1, 1, repeated, &pseudo(ICMPV6, length))
    };
    let (protocol, body) = match header[6] {
        TCP => (TCP, reset(payload, |length| pseudo(TCP, length))?),
        UDP => (ICMPV6, icmp()),
        // An echo request.
        ICMPV6 if payload.first() == Some(&128) => (ICMPV6, icmp()),
        _ => return None,
    };
    let length = u16::try_from(body.len()).ok()?.to_be_bytes();
    Some([&[0x60, 0, 0, 0, length[0], length[1], protocol, 64][..], &to, &from, &body].concat())
}

/// The segment that resets the connection of a segment, which is not one itself.
fn reset(segment: &[u8], pseudo: impl FnOnce(u16) -> Vec<u8>) -> Option<Vec<u8>> {
    const HEADER: u8 = 20;
    let header = segment.first_chunk::<{ HEADER as usize }>()?;
    let flags = header[13];
    let content = segment.len().checked_sub(usize::from(header[12] >> 4) * 4)?;
    if flags & RST != 0 {
        return None;
    }
    let (sequence, acknowledged, flags) = if flags & ACK != 0 {
        ([header[8], header[9], header[10], header[11]], [0; 4], RST)
    } else {
        let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let content = u32::try_from(content).ok()?;
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        ([0; 4], sequence.wrapping_add(content).wrapping_add(counted).to_be_bytes(), RST | ACK)
    };
    let ports = [header[2], header[3], header[0], header[1]];
    let mut answer = [&ports[..], &sequence, &acknowledged, &[(HEADER / 4) << 4, flags, 0, 0, 0, 0, 0, 0]].concat();
    let sum = checksum(&[pseudo(HEADER.into()), answer.clone()].concat());
    answer[16..18].copy_from_slice(&sum);
    Some(answer)
}

/// An ICMP message about a packet.
fn prohibited(kind: u8, code: u8, packet: &[u8], pseudo: &[u8]) -> Vec<u8> {
    let mut answer = [&[kind, code, 0, 0, 0, 0, 0, 0][..], packet].concat();
    let sum = checksum(&[pseudo, &answer].concat());
    answer[2..4].copy_from_slice(&sum);
    answer
}

/// The checksum of the Internet's protocols (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded, it has 16 bits.
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame from 10.0.0.2 or fd00::2 to 203.0.113.2 or 2001:db8::2.
    fn frame(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let macs = [2, 0, 0, 0, 0, 0xaa, 2, 0, 0, 0, 0, 0xbb];
        let length = |header: usize| u16::try_from(header + payload.len()).unwrap().to_be_bytes();
        if v6 {
            let [high, low] = length(0);
            let (mut from, mut to) = ([0; 16], [0; 16]);
            (from[0], from[15], to[0], to[15]) = (0xfd, 2, 0x20, 2);
            let header = [0x60, 0, 0, 0, high, low, protocol, 64];
            [&macs[..], &[0x86, 0xdd], &header, &from, &to, payload].concat()
        } else {
            let [high, low] = length(IPV4);
            let header = [0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 203, 0, 113, 2];
            [&macs[..], &[0x08, 0x00], &header, payload].concat()
        }
    }

    fn segment(flags: u8, content: usize) -> Vec<u8> {
        let mut segment = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 100, 0, 0, 0, 7, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
        segment.resize(20 + content, 1);
        segment
    }

    /// The answer's protocol and what it carries, its frame and checksums verified.
    fn answered(v6: bool, answer: &[u8]) -> (u8, Vec<u8>) {
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, 0xaa]);
        let packet = &answer[ETHERNET..];
        let sound = |bytes: &[u8]| assert_eq!(checksum(bytes), [0, 0]);
        let (protocol, body, mut pseudo) = if v6 {
            (packet[6], &packet[IPV6..], packet[8..IPV6].to_vec())
        } else {
            assert_eq!(packet[12..IPV4], [203, 0, 113, 2, 10, 0, 0, 2]);
            sound(&packet[..IPV4]);
            (packet[9], &packet[IPV4..], packet[12..IPV4].to_vec())
        };
        if protocol == ICMP {
            pseudo.clear();
        } else {
            pseudo.extend([0, protocol]);
            pseudo.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        }
        sound(&[&pseudo, body].concat());
        (protocol, body.to_vec())
    }

    #[test]
    fn a_connection_is_reset() {
        for v6 in [false, true] {
            let (protocol, body) = answered(v6, &refuse(&frame(v6, TCP, &segment(SYN, 0))).unwrap());
            assert_eq!(
                (protocol, &body[..14]),
                (TCP, &[0, 80, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0, 101, 0x50, RST | ACK][..])
            );
            let (_, body) = answered(v6, &refuse(&frame(v6, TCP, &segment(ACK, 5))).unwrap());
            assert_eq!(body[4..14], [0, 0, 0, 7, 0, 0, 0, 0, 0x50, RST]);
            assert_eq!(refuse(&frame(v6, TCP, &segment(RST, 0))), None, "no reset for a reset");
        }
    }

    #[test]
    fn datagrams_and_echoes_are_prohibited_and_errors_are_not_answered() {
        for (v6, icmp, echo, unreachable) in [(false, ICMP, 8, [3, 13]), (true, ICMPV6, 128, [1, 1])] {
            for (protocol, payload) in [(UDP, vec![1; 3000]), (icmp, vec![echo; 8])] {
                let refused = frame(v6, protocol, &payload);
                let answer = refuse(&refused).unwrap();
                let (protocol, body) = answered(v6, &answer);
                assert_eq!((protocol, &body[..2]), (icmp, &unreachable[..]));
                assert!(refused[ETHERNET..].starts_with(&body[8..]) && body.len() < 1232);
                assert_eq!(refuse(&answer), None);
            }
        }
    }

    #[test]
    fn what_is_for_many_or_cut_short_is_not_answered() {
        for v6 in [false, true] {
            let whole = frame(v6, TCP, &segment(SYN, 0));
            assert!((0..whole.len()).all(|length| refuse(&whole[..length]).is_none()));
            let mut to_all = whole.clone();
            to_all[0] = 0xff;
            assert_eq!(refuse(&to_all), None);
            let mut multicast = whole.clone();
            multicast[ETHERNET + if v6 { 24 } else { 16 }] = if v6 { 0xff } else { 224 };
            assert_eq!(refuse(&multicast), None);
        }
        let mut fragment = frame(false, UDP, &[0; 8]);
        fragment[ETHERNET + 7] = 1;
        assert_eq!(refuse(&fragment), None);
    }
}
