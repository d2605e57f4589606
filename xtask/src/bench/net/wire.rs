//! The host's ends of connections to `xtask/src/bin/net-peer.rs`, and carrying bytes over them.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::command;

/// What is read and written at once, in bytes: as much as the other end does.
const PIECE: usize = 64 * 1024;

/// Nothing on a connection takes a tenth of it, emulation included.
const DEADLINE: Duration = Duration::from_secs(300);

/// One connection to the peer.
pub struct Wire {
    reader: Box<dyn Read + Send>,
    writer: Box<dyn Write + Send>,
}

impl Wire {
    fn new(connection: TcpStream) -> Result<Self> {
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(DEADLINE))?;
        connection.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { reader: Box::new(connection.try_clone()?), writer: Box::new(connection) })
    }

    /// Takes one that the peer makes.
    pub fn accept(listener: &TcpListener) -> Result<Self> {
        let mut wire = Self::new(listener.accept()?.0)?;
        let mut first = [0];
        wire.reader.read_exact(&mut first)?;
        ensure!(first == *b"+", "whoever connected is not the peer");
        Ok(wire)
    }

    /// Makes one to a peer that listens.
    pub fn connect(port: u16) -> Result<Self> {
        Self::new(TcpStream::connect(("127.0.0.1", port))?)
    }

    /// The standard input and output of a peer.
    pub fn spawn(peer: &mut Command) -> Result<(Self, Child)> {
        peer.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = peer.spawn().with_context(|| format!("cannot run {}", command::display(peer)))?;
        let reader = Box::new(child.stdout.take().context("a piped output is there")?);
        let writer = Box::new(child.stdin.take().context("a piped input is there")?);
        Ok((Self { reader, writer }, child))
    }

    fn carry(&mut self, direction: Direction, bytes: u64) -> io::Result<()> {
        let kind = match direction {
            Direction::IntoGuest => b't',
            Direction::OutOfGuest => b'g',
        };
        let [a, b, c, d, e, f, g, h] = bytes.to_be_bytes();
        self.writer.write_all(&[kind, a, b, c, d, e, f, g, h])?;
        match direction {
            Direction::IntoGuest => {
                let piece = [0; PIECE];
                let mut left = bytes;
                while left > 0 {
                    let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                    self.writer.write_all(&piece[..most])?;
                    left -= most as u64;
                }
                self.writer.flush()?;
                self.reader.read_exact(&mut [0])
            }
            Direction::OutOfGuest => {
                self.writer.flush()?;
                let mut piece = [0; PIECE];
                let mut left = bytes;
                while left > 0 {
                    let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                    match self.reader.read(&mut piece[..most])? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        taken => left -= taken as u64,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A download, as the guest sees it.
    IntoGuest,
    /// An upload.
    OutOfGuest,
}

/// Carries so many bytes over all wires together, at the same time; returns how long it took until the
/// last was there.
pub fn carry(wires: &mut [Wire], direction: Direction, bytes: u64) -> Result<Duration> {
    let share = bytes / wires.len() as u64;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = wires.iter_mut().map(|wire| scope.spawn(move || wire.carry(direction, share))).collect();
        running.into_iter().try_for_each(|running| match running.join() {
            Ok(carried) => carried.context("a connection broke off"),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer for one command.
    fn peer(connection: TcpStream) {
        let (mut connection, mut command) = (connection, [0; 9]);
        while connection.read_exact(&mut command).is_ok() {
            let [kind, count @ ..] = command;
            let mut bytes = vec![0; usize::try_from(u64::from_be_bytes(count)).unwrap()];
            if kind == b't' {
                connection.read_exact(&mut bytes).unwrap();
                connection.write_all(b".").unwrap();
            } else {
                connection.write_all(&bytes).unwrap();
            }
        }
    }

    #[test]
    fn all_bytes_are_there_at_the_end_of_a_measurement() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut wires = Vec::new();
        for _ in 0..2 {
            std::thread::spawn(move || {
                let mut connection = TcpStream::connect(address).unwrap();
                connection.write_all(b"+").unwrap();
                peer(connection);
            });
            wires.push(Wire::accept(&listener).unwrap());
        }
        // Neither is a multiple of a piece.
        for (direction, bytes) in [(Direction::IntoGuest, 300_000), (Direction::OutOfGuest, 100)] {
            carry(&mut wires, direction, bytes).unwrap();
            carry(&mut wires[..1], direction, bytes).unwrap();
        }
    }

    #[test]
    fn a_connection_that_breaks_off_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut wires = [Wire::connect(listener.local_addr().unwrap().port()).unwrap()];
        drop(listener.accept().unwrap());
        assert!(carry(&mut wires, Direction::OutOfGuest, 1).is_err());
    }
}
