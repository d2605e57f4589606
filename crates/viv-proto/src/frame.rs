//! Frames: how a running operation's bytes travel. kind u8, length u32 little-endian, payload.

use crate::{MAX_FRAME_BYTES, ProtocolError};

/// kind and length.
pub const HEADER_BYTES: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Bytes for the program's standard input (or its terminal).
    Stdin = 0,
    /// Bytes from the program's standard output (or its terminal).
    Stdout = 1,
    /// Bytes from the program's standard error.
    Stderr = 2,
    /// No more standard input follows.
    StdinEnd = 3,
    /// No more standard output follows.
    StdoutEnd = 4,
    /// No more standard error follows.
    StderrEnd = 5,
    /// The terminal's new size: columns u16, rows u16, little-endian.
    Resize = 6,
    /// A signal for the program's process group: its number, one byte.
    Signal = 7,
    /// The receiver of a byte stream has room for more: stream u8 (0, 1 or 2), bytes u32 little-endian.
    Credit = 8,
    /// The program ended: an [`crate::message::ExitReport`] as JSON. The last frame.
    Exit = 9,
}

impl FrameKind {
    const ALL: [Self; 10] = [
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::StdinEnd,
        Self::StdoutEnd,
        Self::StderrEnd,
        Self::Resize,
        Self::Signal,
        Self::Credit,
        Self::Exit,
    ];

    fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        Self::ALL.get(usize::from(byte)).copied().ok_or(ProtocolError::UnknownFrameKind(byte))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::StdinEnd => "end of stdin",
            Self::StdoutEnd => "end of stdout",
            Self::StderrEnd => "end of stderr",
            Self::Resize => "resize",
            Self::Signal => "signal",
            Self::Credit => "credit",
            Self::Exit => "exit",
        }
    }
}

/// One of the three byte streams of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ByteStream {
    /// Towards the program.
    Stdin = 0,
    /// From the program.
    Stdout = 1,
    /// From the program.
    Stderr = 2,
}

/// One frame, its payload already checked against its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream. Never empty.
    Data(ByteStream, Vec<u8>),
    /// The end of a stream.
    End(ByteStream),
    /// The terminal's new size.
    Resize {
        /// Width in cells.
        columns: u16,
        /// Height in cells.
        rows: u16,
    },
    /// A signal for the program's process group.
    Signal(u8),
    /// Room for more bytes of a stream.
    Credit(ByteStream, u32),
    /// The program ended; JSON of an [`crate::message::ExitReport`].
    Exit(Vec<u8>),
}

impl Frame {
    /// Appends the frame's bytes.
    ///
    /// # Errors
    /// [`ProtocolError::FrameTooLong`] if the receiver would refuse it.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let mut small = [0u8; 5];
        let (kind, payload): (FrameKind, &[u8]) = match self {
            Self::Data(stream, bytes) => (data_kind(*stream), bytes),
            Self::End(stream) => (end_kind(*stream), &[]),
            Self::Resize { columns, rows } => {
                small[..2].copy_from_slice(&columns.to_le_bytes());
                small[2..4].copy_from_slice(&rows.to_le_bytes());
                (FrameKind::Resize, &small[..4])
            }
            Self::Signal(number) => {
                small[0] = *number;
                (FrameKind::Signal, &small[..1])
            }
            Self::Credit(stream, bytes) => {
                small[0] = *stream as u8;
                small[1..].copy_from_slice(&bytes.to_le_bytes());
                (FrameKind::Credit, &small)
            }
            Self::Exit(report) => (FrameKind::Exit, report),
        };
        encode_parts(kind, payload, out)
    }

    fn from_parts(kind: FrameKind, payload: &[u8]) -> Result<Self, ProtocolError> {
        let malformed = |reason: &str| ProtocolError::MalformedFrame { kind: kind.name(), reason: reason.to_owned() };
        let data = |stream| {
            if payload.is_empty() {
                return Err(malformed("no bytes"));
            }
            Ok(Self::Data(stream, payload.to_vec()))
        };
        let end = |stream| {
            if payload.is_empty() { Ok(Self::End(stream)) } else { Err(malformed("unexpected bytes")) }
        };
        match kind {
            FrameKind::Stdin => data(ByteStream::Stdin),
            FrameKind::Stdout => data(ByteStream::Stdout),
            FrameKind::Stderr => data(ByteStream::Stderr),
            FrameKind::StdinEnd => end(ByteStream::Stdin),
            FrameKind::StdoutEnd => end(ByteStream::Stdout),
            FrameKind::StderrEnd => end(ByteStream::Stderr),
            FrameKind::Resize => match payload {
                &[c0, c1, r0, r1] => {
                    Ok(Self::Resize { columns: u16::from_le_bytes([c0, c1]), rows: u16::from_le_bytes([r0, r1]) })
                }
                _ => Err(malformed("not 4 bytes")),
            },
            FrameKind::Signal => match payload {
                &[number] if (1..=64).contains(&number) => Ok(Self::Signal(number)),
                _ => Err(malformed("not one signal number")),
            },
            FrameKind::Credit => match payload {
                &[stream, b0, b1, b2, b3] => {
                    let stream = match stream {
                        0 => ByteStream::Stdin,
                        1 => ByteStream::Stdout,
                        2 => ByteStream::Stderr,
                        _ => return Err(malformed("no such stream")),
                    };
                    Ok(Self::Credit(stream, u32::from_le_bytes([b0, b1, b2, b3])))
                }
                _ => Err(malformed("not 5 bytes")),
            },
            FrameKind::Exit => Ok(Self::Exit(payload.to_vec())),
        }
    }
}

fn data_kind(stream: ByteStream) -> FrameKind {
    match stream {
        ByteStream::Stdin => FrameKind::Stdin,
        ByteStream::Stdout => FrameKind::Stdout,
        ByteStream::Stderr => FrameKind::Stderr,
    }
}

fn end_kind(stream: ByteStream) -> FrameKind {
    match stream {
        ByteStream::Stdin => FrameKind::StdinEnd,
        ByteStream::Stdout => FrameKind::StdoutEnd,
        ByteStream::Stderr => FrameKind::StderrEnd,
    }
}

fn encode_parts(kind: FrameKind, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > MAX_FRAME_BYTES {
        return Err(ProtocolError::FrameTooLong(length));
    }
    out.push(kind as u8);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// Turns bytes, in pieces of any size, into frames. Holds at most one frame and one read.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    bytes: Vec<u8>,
    consumed: usize,
}

impl FrameDecoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame. After an error the stream cannot be read on.
    ///
    /// # Errors
    /// Refuses frames too long, of unknown kind, or malformed, before their payload is waited for.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let pending = &self.bytes[self.consumed..];
        let Some((&[kind, l0, l1, l2, l3], rest)) = pending.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let kind = FrameKind::from_byte(kind)?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > MAX_FRAME_BYTES {
            return Err(ProtocolError::FrameTooLong(length));
        }
        let Some(payload) = rest.get(..length as usize) else {
            return Ok(None);
        };
        let frame = Frame::from_parts(kind, payload)?;
        self.consumed += HEADER_BYTES + length as usize;
        Ok(Some(frame))
    }

    /// Whether bytes of an unfinished frame wait: an end of stream now would be a truncation.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        self.consumed < self.bytes.len()
    }
}
