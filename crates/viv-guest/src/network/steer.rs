//! The program that takes connections to everywhere: BPF of the kind `sk_lookup`, which the kernel asks
//! which socket a connection request or a datagram without one belongs to (Linux 5.9).
//!
//! ```text
//!  loopback, or an address of this machine ─────────► whoever listens there
//!  TCP                                     ─────────► the listener of captured connections
//!  UDP to port 53                          ─────────► the name server
//!  other UDP                               ─────────► no one: ICMP port unreachable, at once
//! ```

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::{self, BpfMap};

/// How many addresses of its own the machine may have that are told apart.
const MAX_ADDRESSES: u32 = 4096;

/// The port of names, in the order of the host.
const NAMES: u16 = 53;

/// Steers until it is dropped.
pub struct Steering {
    own: BpfMap<16, 4>,
    /// The program and its attachment stay while this is open. It holds the sockets' map.
    _attached: OwnedFd,
}

impl Steering {
    /// Begins: connections to `listener`, questions about names to `name_server`. Both are IPv6 sockets
    /// that take IPv4, too.
    ///
    /// # Errors
    /// As bpf(2), if the kernel has no such programs or does not let this process load one.
    pub fn start(listener: BorrowedFd<'_>, name_server: BorrowedFd<'_>) -> io::Result<Self> {
        let own = BpfMap::<16, 4>::new(sys::BPF_MAP_HASH, MAX_ADDRESSES)?;
        let sockets = BpfMap::<4, 8>::new(sys::BPF_MAP_SOCKETS, 2)?;
        for (index, socket) in [(LISTENER, listener), (NAME_SERVER, name_server)] {
            sockets.put(&index.to_ne_bytes(), &u64::from(socket.as_raw_fd().cast_unsigned()).to_ne_bytes())?;
        }
        let namespace = std::fs::File::open("/proc/self/ns/net")?;
        let program = program(own.number(), sockets.number());
        let attached = sys::bpf_choose_sockets(&program, std::os::fd::AsFd::as_fd(&namespace))?;
        let steering = Self { own, _attached: attached };
        steering.add(Ipv6Addr::LOCALHOST.into())?;
        Ok(steering)
    }

    /// An address is this machine's own: what listens there is left alone.
    ///
    /// # Errors
    /// As bpf(2), if there are too many.
    pub fn add(&self, address: IpAddr) -> io::Result<()> {
        self.own.put(&key(address), &[0; 4])
    }

    /// It is no more.
    pub fn remove(&self, address: IpAddr) {
        // It may never have been added.
        let _ = self.own.remove(&key(address));
    }
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Keys of the map of sockets.
const LISTENER: u32 = 0;
const NAME_SERVER: u32 = 1;

/// Offsets in the program's argument, `struct bpf_sk_lookup`.
mod argument {
    pub const FAMILY: i16 = 8;
    pub const PROTOCOL: i16 = 12;
    pub const LOCAL_IP4: i16 = 40;
    pub const LOCAL_IP6: i16 = 44;
    pub const LOCAL_PORT: i16 = 60;
}

/// Helper functions of the kernel, by their numbers.
mod helper {
    pub const MAP_LOOKUP: i32 = 1;
    pub const RELEASE: i32 = 86;
    pub const ASSIGN: i32 = 124;
}

/// One instruction: operation, destination and source register, offset, immediate value.
const fn instruction(operation: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (immediate.cast_unsigned() as u64) << 32
}

/// The operations that are used, see "BPF Instruction Set Architecture" (RFC 9669).
mod operation {
    pub const LOAD_32: u8 = 0x61;
    pub const LOAD_MAP: u8 = 0x18;
    pub const STORE_32: u8 = 0x63;
    pub const STORE_IMMEDIATE_32: u8 = 0x62;
    pub const STORE_IMMEDIATE_64: u8 = 0x7a;
    pub const MOVE: u8 = 0xbf;
    pub const MOVE_IMMEDIATE: u8 = 0xb7;
    pub const ADD_IMMEDIATE: u8 = 0x07;
    pub const AND_IMMEDIATE: u8 = 0x57;
    pub const JUMP: u8 = 0x05;
    pub const JUMP_EQUAL: u8 = 0x15;
    pub const JUMP_NOT_EQUAL: u8 = 0x55;
    pub const CALL: u8 = 0x85;
    pub const EXIT: u8 = 0x95;
}

/// The map's number goes into the first half of a double instruction.
const MAP_BY_DESCRIPTOR: u8 = 1;

/// The program, for maps with these numbers. Byte orders are those of x86.
fn program(own: u32, sockets: u32) -> Vec<u64> {
    use operation::{
        ADD_IMMEDIATE, AND_IMMEDIATE, CALL, EXIT, JUMP, JUMP_EQUAL, JUMP_NOT_EQUAL, LOAD_32, LOAD_MAP, MOVE,
        MOVE_IMMEDIATE, STORE_32, STORE_IMMEDIATE_32, STORE_IMMEDIATE_64,
    };
    const FRAME: u8 = 10;
    let op = instruction;
    // Where a jump from the instruction numbered `from` has to go to arrive at `to`.
    let jump = |from: usize, to: usize| i16::try_from(to as isize - from as isize - 1).unwrap_or(0);
    const V6: usize = 11;
    const KEYED: usize = 19;
    const OWN: usize = 25;
    const PASS: usize = 46;
    vec![
        /*  0 */ op(MOVE, 6, 1, 0, 0),
        /*  1 */ op(LOAD_32, 2, 6, argument::FAMILY, 0),
        /*  2 */ op(JUMP_NOT_EQUAL, 2, 0, jump(2, V6), libc::AF_INET),
        // IPv4, as the last word of an address ::ffff:a.b.c.d. The first byte of loopback is 127.
        /*  3 */
        op(LOAD_32, 2, 6, argument::LOCAL_IP4, 0),
        /*  4 */ op(MOVE, 3, 2, 0, 0),
        /*  5 */ op(AND_IMMEDIATE, 3, 0, 0, 0xff),
        /*  6 */ op(JUMP_EQUAL, 3, 0, jump(6, PASS), 127),
        /*  7 */ op(STORE_IMMEDIATE_64, FRAME, 0, -16, 0),
        /*  8 */ op(STORE_IMMEDIATE_32, FRAME, 0, -8, 0xffff_0000u32.cast_signed()),
        /*  9 */ op(STORE_32, FRAME, 2, -4, 0),
        /* 10 */ op(JUMP, 0, 0, jump(10, KEYED), 0),
        // IPv6; ::1 is among the machine's own.
        /* 11 */ op(LOAD_32, 2, 6, argument::LOCAL_IP6, 0),
        /* 12 */ op(STORE_32, FRAME, 2, -16, 0),
        /* 13 */ op(LOAD_32, 2, 6, argument::LOCAL_IP6 + 4, 0),
        /* 14 */ op(STORE_32, FRAME, 2, -12, 0),
        /* 15 */ op(LOAD_32, 2, 6, argument::LOCAL_IP6 + 8, 0),
        /* 16 */ op(STORE_32, FRAME, 2, -8, 0),
        /* 17 */ op(LOAD_32, 2, 6, argument::LOCAL_IP6 + 12, 0),
        /* 18 */ op(STORE_32, FRAME, 2, -4, 0),
        // Which socket it is for.
        /* 19 */
        op(STORE_IMMEDIATE_32, FRAME, 0, -20, LISTENER.cast_signed()),
        /* 20 */ op(LOAD_32, 2, 6, argument::PROTOCOL, 0),
        /* 21 */ op(JUMP_EQUAL, 2, 0, jump(21, OWN), libc::IPPROTO_TCP),
        /* 22 */ op(LOAD_32, 2, 6, argument::LOCAL_PORT, 0),
        /* 23 */ op(JUMP_NOT_EQUAL, 2, 0, jump(23, PASS), NAMES as i32),
        /* 24 */ op(STORE_IMMEDIATE_32, FRAME, 0, -20, NAME_SERVER.cast_signed()),
        // Unless the address is the machine's own.
        /* 25 */
        op(LOAD_MAP, 1, MAP_BY_DESCRIPTOR, 0, own.cast_signed()),
        /* 26 */ 0,
        /* 27 */ op(MOVE, 2, FRAME, 0, 0),
        /* 28 */ op(ADD_IMMEDIATE, 2, 0, 0, -16),
        /* 29 */ op(CALL, 0, 0, 0, helper::MAP_LOOKUP),
        /* 30 */ op(JUMP_NOT_EQUAL, 0, 0, jump(30, PASS), 0),
        /* 31 */ op(LOAD_MAP, 1, MAP_BY_DESCRIPTOR, 0, sockets.cast_signed()),
        /* 32 */ 0,
        /* 33 */ op(MOVE, 2, FRAME, 0, 0),
        /* 34 */ op(ADD_IMMEDIATE, 2, 0, 0, -20),
        /* 35 */ op(CALL, 0, 0, 0, helper::MAP_LOOKUP),
        /* 36 */ op(JUMP_EQUAL, 0, 0, jump(36, PASS), 0),
        /* 37 */ op(MOVE, 7, 0, 0, 0),
        /* 38 */ op(MOVE, 1, 6, 0, 0),
        /* 39 */ op(MOVE, 2, 7, 0, 0),
        /* 40 */ op(MOVE_IMMEDIATE, 3, 0, 0, 0),
        /* 41 */ op(CALL, 0, 0, 0, helper::ASSIGN),
        /* 42 */ op(MOVE, 1, 7, 0, 0),
        /* 43 */ op(CALL, 0, 0, 0, helper::RELEASE),
        /* 44 */ op(MOVE_IMMEDIATE, 0, 0, 0, 1),
        /* 45 */ op(EXIT, 0, 0, 0, 0),
        // To whom it would have gone without this.
        /* 46 */ op(MOVE_IMMEDIATE, 0, 0, 0, 1),
        /* 47 */ op(EXIT, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One instruction per line: number, operation, registers, offset, immediate value.
    fn listing(program: &[u64]) -> String {
        let line = |(number, word): (usize, &u64)| {
            let [operation, registers, low, high, ..] = word.to_le_bytes();
            let (destination, source) = (registers & 0xf, registers >> 4);
            let immediate = ((word >> 32) as u32).cast_signed();
            let offset = i16::from_le_bytes([low, high]);
            format!("{number:2} {operation:02x} r{destination} r{source} {offset:+} {immediate:#x}\n")
        };
        program.iter().enumerate().map(line).collect()
    }

    #[test]
    fn jumps_arrive_where_something_begins() {
        let program = program(3, 4);
        let jumps = [operation::JUMP, operation::JUMP_EQUAL, operation::JUMP_NOT_EQUAL];
        let mut targets = Vec::new();
        for (number, word) in program.iter().enumerate() {
            if jumps.contains(&word.to_le_bytes()[0]) {
                let offset = i16::from_le_bytes([word.to_le_bytes()[2], word.to_le_bytes()[3]]);
                targets.push(usize::try_from(number as i64 + 1 + i64::from(offset)).unwrap());
            }
        }
        targets.sort_unstable();
        targets.dedup();
        assert_eq!(targets, [11, 19, 25, 46]);
        let text = listing(&program);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 48);
        // RFC 9669, section 4 and 5: what each block begins with, and how it ends.
        assert_eq!(lines[0], " 0 bf r6 r1 +0 0x0");
        assert_eq!(lines[2], " 2 55 r2 r0 +8 0x2");
        assert_eq!(lines[6], " 6 15 r3 r0 +39 0x7f");
        assert_eq!(lines[8], " 8 62 r10 r0 -8 0xffff0000");
        assert_eq!(lines[11], "11 61 r2 r6 +44 0x0");
        assert_eq!(lines[21], "21 15 r2 r0 +3 0x6");
        assert_eq!(lines[23], "23 55 r2 r0 +22 0x35");
        assert_eq!([lines[25], lines[31]], ["25 18 r1 r1 +0 0x3", "31 18 r1 r1 +0 0x4"]);
        assert_eq!([lines[41], lines[43]], ["41 85 r0 r0 +0 0x7c", "43 85 r0 r0 +0 0x56"]);
        assert_eq!([lines[44], lines[45]], ["44 b7 r0 r0 +0 0x1", "45 95 r0 r0 +0 0x0"]);
        assert_eq!([lines[46], lines[47]], ["46 b7 r0 r0 +0 0x1", "47 95 r0 r0 +0 0x0"]);
    }
}
