//! As much of yamux as two streams need, one read at a time: no flow control beyond the first
//! window, which nothing here fills.
//!
//! <https://github.com/hashicorp/yamux/blob/master/spec.md>

use std::io::{self, Read, Write};

const HEADER_BYTES: usize = 12;

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;

const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// Longer than anything that is sent here: the window that a stream begins with.
const LONGEST_BODY: u32 = 256 * 1024;

fn header(kind: u8, flags: u16, stream: u32, length: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[1] = kind;
    header[2..4].copy_from_slice(&flags.to_be_bytes());
    header[4..8].copy_from_slice(&stream.to_be_bytes());
    header[8..].copy_from_slice(&length.to_be_bytes());
    header
}

/// A session over a connected carrier, this side its client.
pub struct Session<T> {
    carrier: T,
    next: u32,
}

impl<T: Read + Write> Session<T> {
    /// A session that nothing has been sent in.
    pub fn new(carrier: T) -> Self {
        Self { carrier, next: 1 }
    }

    /// Opens a stream; its first bytes travel with the frame that opens it. One stream is used at a
    /// time: bytes of an earlier one are dropped.
    pub fn open(&mut self, first: &[u8]) -> io::Result<Stream<'_, T>> {
        let id = self.next;
        self.next += 2;
        let mut stream = Stream { session: self, id, pending: Vec::new(), ended: false };
        stream.send(SYN, first)?;
        Ok(stream)
    }
}

/// The stream in use.
pub struct Stream<'a, T> {
    session: &'a mut Session<T>,
    id: u32,
    pending: Vec<u8>,
    ended: bool,
}

impl<T: Read + Write> Stream<'_, T> {
    /// Sends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(0, bytes)
    }

    fn send(&mut self, flags: u16, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let frame = [&header(DATA, flags, self.id, length)[..], bytes].concat();
        self.session.carrier.write_all(&frame)
    }

    /// Up to and without the next newline.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            self.receive()?;
        }
    }

    /// Exactly this many bytes.
    pub fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.pending.len() < count {
            self.receive()?;
        }
        Ok(self.pending.drain(..count).collect())
    }

    /// One frame of the session, whatever it is about.
    fn receive(&mut self) -> io::Result<()> {
        if self.ended {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = [0; HEADER_BYTES];
        self.session.carrier.read_exact(&mut bytes)?;
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        let flags = u16::from_be_bytes([f0, f1]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let unexpected = || io::Error::new(io::ErrorKind::InvalidData, format!("not a frame of yamux: {bytes:?}"));
        match (version, kind) {
            (0, DATA) if length <= LONGEST_BODY => {
                let mut body = vec![0; length as usize];
                self.session.carrier.read_exact(&mut body)?;
                if stream == self.id {
                    self.pending.extend_from_slice(&body);
                }
            }
            (0, WINDOW_UPDATE) => {}
            (0, PING) if flags & SYN != 0 => self.session.carrier.write_all(&header(PING, ACK, 0, length))?,
            (0, PING) => {}
            (0, GO_AWAY) => return Err(io::ErrorKind::ConnectionReset.into()),
            _ => return Err(unexpected()),
        }
        self.ended |= stream == self.id && flags & (FIN | RST) != 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Reads what was prepared, keeps what is written.
    struct Script {
        input: Cursor<Vec<u8>>,
        written: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.input.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn session(frames: &[(u8, u16, u32, &[u8])]) -> Session<Script> {
        let mut input = Vec::new();
        for (kind, flags, stream, body) in frames {
            input.extend_from_slice(&header(*kind, *flags, *stream, body.len() as u32));
            input.extend_from_slice(body);
        }
        Session::new(Script { input: Cursor::new(input), written: Vec::new() })
    }

    #[test]
    fn a_stream_is_opened_with_its_first_bytes() {
        let mut session = session(&[]);
        session.open(b"abc").unwrap();
        session.open(b"").unwrap();
        assert_eq!(session.carrier.written, *b"\0\0\0\x01\0\0\0\x01\0\0\0\x03abc\0\0\0\x01\0\0\0\x03\0\0\0\0");
    }

    #[test]
    fn lines_and_bytes_come_in_any_pieces_and_pings_are_answered() {
        let mut session = session(&[
            (DATA, ACK, 1, b"O"),
            (PING, SYN, 0, b""),
            (WINDOW_UPDATE, 0, 1, b""),
            (DATA, 0, 1, b"K\n{}"),
            (DATA, 0, 7, b"another's"),
            (DATA, FIN, 1, b"\nrest"),
        ]);
        let mut stream = session.open(b"").unwrap();
        assert_eq!(stream.line().unwrap(), b"OK");
        assert_eq!(stream.line().unwrap(), b"{}");
        assert_eq!(stream.bytes(4).unwrap(), b"rest");
        assert_eq!(stream.bytes(1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(session.carrier.written[HEADER_BYTES..], header(PING, ACK, 0, 0));
    }

    #[test]
    fn what_is_not_yamux_is_refused() {
        for header in [[9; HEADER_BYTES], header(DATA, 0, 1, u32::MAX), header(GO_AWAY, 0, 0, 0)] {
            let mut session = Session::new(Script { input: Cursor::new(header.to_vec()), written: Vec::new() });
            assert!(session.open(b"").unwrap().line().is_err());
        }
    }
}
