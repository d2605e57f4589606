//! Between QEMU and passt: no frame of the guest's gets to the host itself.
//!
//! passt connects its sockets on the host, to which every address of the host is as near as the
//! loopback interface, and older versions pass on even what is addressed to 127.0.0.1. So the bytes
//! from QEMU go through here. Frames come with their length in front, four bytes, big-endian
//! (QEMU's `-netdev stream`). What does not pass is answered ([`super::refusal`]); all else that goes to
//! the guest is copied as it is.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::nat::is_passts;
use super::refusal::refuse;

/// The longest frame QEMU handles (`NET_BUFSIZE` in its net/net.h).
const LONGEST_FRAME: usize = 4096 + 65536;

/// The bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// How much is read at once: several of the longest frames.
const BUFFER_BYTES: usize = 256 * 1024;

/// For how long it is believed whose an address is; the host may get another one at any time.
const BELIEF: Duration = Duration::from_secs(1);

/// For how many addresses that is remembered.
const MOST_REMEMBERED: usize = 4096;

/// The copying in both directions. Ends when either side closes its socket, and both when it is dropped.
#[derive(Debug)]
pub struct Guard {
    vmm: UnixStream,
    passt: UnixStream,
}

impl Guard {
    /// Begins to copy between the VMM's and passt's socket, each in a thread of its own.
    ///
    /// # Errors
    /// If the host has no descriptors or threads left.
    pub fn start(vmm: UnixStream, passt: UnixStream) -> io::Result<Self> {
        let guard = Self { vmm: vmm.try_clone()?, passt: passt.try_clone()? };
        let (from_guest, to_passt) = (vmm.try_clone()?, passt.try_clone()?);
        // Whole frames are written, by passt's side or in answer to the guest's.
        let to_guest = Arc::new(Mutex::new(vmm.try_clone()?));
        let answers = Arc::clone(&to_guest);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
        };
        spawn(
            "viv-net-out",
            Box::new(move || {
                // However it ends, the connection is over.
                let _ = copy_allowed(&from_guest, &to_passt, &answers, &mut Owners::default());
                close(&from_guest, &to_passt);
            }),
        )?;
        spawn(
            "viv-net-in",
            Box::new(move || {
                let _ = copy_whole(&passt, &to_guest);
                close(&passt, &vmm);
            }),
        )?;
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        close(&self.vmm, &self.passt);
    }
}

fn close(one: &UnixStream, other: &UnixStream) {
    // One that is closed already is what is wanted.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

/// Copies whole frames, and answers those that may not pass instead.
fn copy_allowed(from: impl Read, mut to: impl Write, back: &Mutex<impl Write>, owners: &mut Owners) -> io::Result<()> {
    read_frames(from, |frames| {
        let mut answers = Vec::new();
        let kept =
            keep_allowed(frames, &mut |address| is_passts(address) || owners.is_the_hosts(address), &mut answers);
        to.write_all(&frames[..kept])?;
        write_whole(back, &answers)
    })
}

/// Copies whole frames.
fn copy_whole(from: impl Read, to: &Mutex<impl Write>) -> io::Result<()> {
    read_frames(from, |frames| write_whole(to, frames))
}

fn write_whole(to: &Mutex<impl Write>, frames: &[u8]) -> io::Result<()> {
    if frames.is_empty() {
        return Ok(());
    }
    to.lock().unwrap_or_else(PoisonError::into_inner).write_all(frames)
}

/// Reads to the end, as many whole frames at once as there are.
fn read_frames(mut from: impl Read, mut take: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        let count = match from.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let whole = whole_frames(&buffer[..filled])?;
        take(&mut buffer[..whole])?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// The frame at the front, without its length; none if it is not all there.
fn first_frame(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > LONGEST_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    Ok(rest.get(..length))
}

/// How many bytes at the front are whole frames.
fn whole_frames(bytes: &[u8]) -> io::Result<usize> {
    let mut whole = 0;
    while let Some(frame) = first_frame(&bytes[whole..])? {
        whole += LENGTH_BYTES + frame.len();
    }
    Ok(whole)
}

/// Moves the frames that may pass to the front, and makes the answers to the others. Returns how many
/// bytes pass.
fn keep_allowed(frames: &mut [u8], is_the_hosts: &mut dyn FnMut(IpAddr) -> bool, answers: &mut Vec<u8>) -> usize {
    let (mut used, mut kept) = (0, 0);
    // They were found to be whole.
    while let Ok(Some(frame)) = first_frame(&frames[used..]) {
        let end = used + LENGTH_BYTES + frame.len();
        if may_pass(frame, is_the_hosts) {
            frames.copy_within(used..end, kept);
            kept += end - used;
        } else if let Some(answer) = refuse(frame) {
            // One is shorter than the longest frame.
            answers.extend((answer.len() as u32).to_be_bytes());
            answers.extend(answer);
        }
        used = end;
    }
    kept
}

/// Whether an Ethernet frame of a guest is for others than the host, or for passt alone.
///
/// `is_the_hosts` tells whether an address is one of the host's own. ARP and neighbour discovery
/// pass, which passt answers by itself; nothing but IP passes besides.
pub fn may_pass(frame: &[u8], is_the_hosts: &mut dyn FnMut(IpAddr) -> bool) -> bool {
    /// Router solicitation to neighbour advertisement (RFC 4861).
    const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=136;
    const ICMPV6: u8 = 58;
    let (Some(kind), Some(packet)) = (frame.get(12..14), frame.get(14..)) else { return false };
    let address = match *kind {
        [0x08, 0x06] => return true,
        [0x08, 0x00] => {
            let Some(address) = packet.get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) else {
                return false;
            };
            if packet[0] >> 4 != 4 {
                return false;
            }
            IpAddr::V4(Ipv4Addr::from(address))
        }
        [0x86, 0xdd] => {
            let Some(address) = packet.get(24..40).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) else {
                return false;
            };
            if packet[0] >> 4 != 6 {
                return false;
            }
            if packet[6] == ICMPV6 && packet.get(40).is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind)) {
                return true;
            }
            IpAddr::V6(Ipv6Addr::from(address))
        }
        _ => return false,
    };
    !is_never_beyond_the_host(address) && !is_the_hosts(address)
}

/// Addresses that mean the host itself, or whoever is next to it: unspecified ("this host", RFC
/// 1122), loopback, link-local (where clouds keep their machines' credentials), multicast, broadcast
/// and reserved; and IPv4 ones in the clothes of IPv6.
fn is_never_beyond_the_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first == 0 || first >= 224 || address.is_loopback() || address.is_link_local()
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            // ::/80 holds the unspecified address, loopback and both forms of embedded IPv4 addresses.
            segments[..5] == [0; 5] || address.is_multicast() || address.is_unicast_link_local()
        }
    }
}

/// Remembers which addresses are the host's own.
#[derive(Debug, Default)]
struct Owners(HashMap<IpAddr, (bool, Instant)>);

impl Owners {
    fn is_the_hosts(&mut self, address: IpAddr) -> bool {
        if let Some((is, since)) = self.0.get(&address)
            && since.elapsed() < BELIEF
        {
            return *is;
        }
        if self.0.len() >= MOST_REMEMBERED {
            self.0.clear();
        }
        let is = is_the_hosts(address);
        self.0.insert(address, (is, Instant::now()));
        is
    }
}

/// Whether the host takes this address for its own: then a socket can be bound to it. When in doubt, it is.
#[must_use]
pub fn is_the_hosts(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => !any_address_can_be_bound(address) || is_routed_to_itself(address).unwrap_or(true),
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

/// Whether the host lets sockets be bound to addresses it does not have (`ip_nonlocal_bind`).
fn any_address_can_be_bound(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind")).is_ok_and(|text| text.trim() != "0")
}

/// Whether what is sent to an address is sent from it.
fn is_routed_to_itself(address: IpAddr) -> io::Result<bool> {
    let unspecified: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((unspecified, 0))?;
    // The discard port: a datagram's socket that is connected sends nothing.
    socket.connect(SocketAddr::new(address, 9))?;
    Ok(socket.local_addr()?.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(destination: &str) -> Vec<u8> {
        let mut frame = vec![0; 12];
        match destination.parse().unwrap() {
            IpAddr::V4(address) => {
                frame.extend([0x08, 0x00, 0x45]);
                frame.resize(14 + 16, 0);
                frame.extend(address.octets());
            }
            IpAddr::V6(address) => {
                frame.extend([0x86, 0xdd, 0x60]);
                frame.resize(14 + 24, 0);
                frame.extend(address.octets());
            }
        }
        frame
    }

    fn passes(frame: &[u8]) -> bool {
        may_pass(frame, &mut |address| ["192.0.2.2", "2001:db8::2"].contains(&address.to_string().as_str()))
    }

    #[test]
    fn what_is_for_the_host_does_not_pass() {
        for address in ["198.51.100.7", "10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1", "64:ff9b::1"] {
            assert!(passes(&frame(address)), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.251",
            "255.255.255.255",
            "192.0.2.2",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:198.51.100.7",
            "fe80::1",
            "ff02::1",
            "2001:db8::2",
        ] {
            assert!(!passes(&frame(address)), "{address}");
        }
    }

    #[test]
    fn neighbours_are_asked_for_and_nothing_but_ip_passes() {
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(passes(&arp));
        let mut solicitation = frame("ff02::1:ff00:2");
        solicitation[20] = 58;
        solicitation.push(135);
        assert!(passes(&solicitation));
        solicitation[54] = 128;
        assert!(!passes(&solicitation), "an echo request to everyone");
        let mut tagged = frame("198.51.100.7");
        tagged[12..14].copy_from_slice(&[0x81, 0x00]);
        assert!(!passes(&tagged));
        let mut other_version = frame("198.51.100.7");
        other_version[14] = 0x65;
        assert!(!passes(&other_version));
        let whole = frame("198.51.100.7");
        assert!((0..whole.len()).all(|length| !passes(&whole[..length])), "cut short");
    }

    #[test]
    fn frames_are_kept_whole_however_they_arrive() {
        let framed = |frame: &[u8]| [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        let (good, bad) = (framed(&frame("198.51.100.7")), framed(&frame("127.0.0.1")));
        let sent = [&bad[..], &good, &bad, &good, &good, &bad].concat();
        /// Reads a few bytes at a time.
        struct Drop<'a>(&'a [u8], usize);
        impl Read for Drop<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(self.0.len()).min(buffer.len());
                buffer[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        for step in [1, 3, 33, 1000] {
            let mut received = Vec::new();
            let answers = Mutex::new(Vec::new());
            copy_allowed(Drop(&sent, step), &mut received, &answers, &mut Owners::default()).unwrap();
            assert_eq!(received, good.repeat(3), "{step}");
            assert!(answers.into_inner().unwrap().is_empty(), "to what has no content");
            let copied = Mutex::new(Vec::new());
            copy_whole(Drop(&sent, step), &copied).unwrap();
            assert_eq!(copied.into_inner().unwrap(), sent, "{step}");
        }
        let none = Mutex::new(Vec::new());
        let error = copy_allowed(&u32::MAX.to_be_bytes()[..], Vec::new(), &none, &mut Owners::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_hosts_addresses_are_found_without_sending_anything() {
        assert!(is_the_hosts("127.0.0.1".parse().unwrap()));
        assert!(!is_the_hosts("198.51.100.7".parse().unwrap()));
        assert!(is_routed_to_itself("127.0.0.1".parse().unwrap()).unwrap());
    }
}
