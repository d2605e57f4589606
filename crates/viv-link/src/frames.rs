//! Frames over any byte stream.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use viv_proto::MAX_FRAME_BYTES;
use viv_proto::frame::{Frame, FrameDecoder};

/// Reads frames.
pub struct FrameReader<R> {
    reader: R,
    decoder: FrameDecoder,
    chunk: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader whose first bytes, `already_read`, came along with the line before the frames.
    pub fn new(reader: R, already_read: &[u8]) -> Self {
        let mut decoder = FrameDecoder::default();
        decoder.push(already_read);
        Self { reader, decoder, chunk: vec![0; MAX_FRAME_BYTES].into() }
    }

    /// The next frame; `None` at an end between two frames. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidData` for a frame that breaks the protocol, `UnexpectedEof` for a truncated one.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let frame = self.decoder.next_frame().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if frame.is_some() {
                return Ok(frame);
            }
            let read = self.reader.read(&mut self.chunk).await?;
            if read == 0 {
                if self.decoder.has_partial() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok(None);
            }
            self.decoder.push(&self.chunk[..read]);
        }
    }
}

/// Writes frames.
pub struct FrameWriter<W> {
    writer: W,
    encoded: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// A writer of frames.
    pub fn new(writer: W) -> Self {
        Self { writer, encoded: Vec::new() }
    }

    /// Writes one frame. Not cancel-safe: a frame half written cannot be continued.
    ///
    /// # Errors
    /// `InvalidInput` for a frame the peer would refuse, else the writer's own error.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.encoded.clear();
        frame.encode(&mut self.encoded).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.writer.write_all(&self.encoded).await?;
        self.writer.flush().await
    }

    /// Closes the stream: nothing follows.
    ///
    /// # Errors
    /// The writer's own.
    pub async fn close(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }
}
