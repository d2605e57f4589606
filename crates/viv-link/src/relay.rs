//! Copying a connection both ways between a socket and a stream of the link.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::{Link, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// What is read at once, in bytes; yamux sends as much in one frame.
const PIECE_BYTES: usize = 16 * 1024;

/// How long a connection of which one direction has ended may stay without a byte in the other. The other
/// side may be gone without a way to say so, for yamux has no word for it once a direction has ended.
const HALF_CLOSED_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// A connection on this side.
pub trait Local: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ends it in a way that no one takes for an end in good order, where there is one.
    fn reset(self);
}

impl Local for TcpStream {
    fn reset(self) {
        // Without it the connection is closed like any other.
        let _ = self.set_zero_linger();
    }
}

impl Local for UnixStream {
    fn reset(self) {}
}

/// The same where the other side has ended its direction and does not read what is still sent to it: it is
/// gone, as a server that has refused a request is.
const UNREAD_PATIENCE: Duration = Duration::from_secs(10);

/// One direction.
struct Flow {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    ended: bool,
    done: bool,
}

impl Flow {
    /// `first` is to be written before anything is read.
    fn new(first: &[u8]) -> Self {
        let mut buffer = vec![0; PIECE_BYTES.max(first.len())];
        buffer[..first.len()].copy_from_slice(first);
        Self { buffer: buffer.into(), start: 0, end: first.len(), ended: false, done: false }
    }

    /// Goes on until one of both has to be waited for, or the reader's end has been passed on. It is not
    /// if `is_reset` says that it is none in good order.
    fn poll<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut (impl AsyncWrite + Unpin),
        moved: &mut bool,
        is_reset: impl FnOnce(&mut R, &mut Context<'_>) -> bool,
    ) -> Poll<io::Result<()>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.start < self.end {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.buffer[self.start..self.end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                *moved = true;
            }
            if self.ended {
                return self.pass_end(cx, writer);
            }
            let mut piece = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut *reader).poll_read(cx, &mut piece))?;
            (self.start, self.end) = (0, piece.filled().len());
            if self.end > 0 {
                *moved = true;
                continue;
            }
            self.ended = true;
            if is_reset(reader, cx) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            return self.pass_end(cx, writer);
        }
    }

    fn pass_end(&mut self, cx: &mut Context<'_>, writer: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        ready!(Pin::new(writer).poll_shutdown(cx))?;
        self.done = true;
        Poll::Ready(Ok(()))
    }
}

/// Copies until both directions have ended; `first` came with the stream. What goes wrong on one side is
/// a reset on the other.
pub async fn relay<L: Local>(mut local: L, link: &Link, mut stream: Stream, first: &[u8]) {
    let (mut out, mut back) = (Flow::new(&[]), Flow::new(first));
    let copied = copy(&mut local, link, &mut stream, &mut out, &mut back).await;
    if copied.is_ok() {
        return;
    }
    local.reset();
    if out.done && !back.ended {
        // The other side cannot be told any more: it was told that nothing else comes. What it still sends
        // is thrown away, else it would wait for this side for ever.
        let mut ignored = Flow::new(&[]);
        let mut nowhere = tokio::io::sink();
        let drain = poll_fn(|cx| ignored.poll(cx, &mut stream, &mut nowhere, &mut false, |_, _| false));
        // However it ends.
        let _ = tokio::time::timeout(HALF_CLOSED_PATIENCE, drain).await;
    }
}

async fn copy<L: Local>(
    local: &mut L,
    link: &Link,
    stream: &mut Stream,
    out: &mut Flow,
    back: &mut Flow,
) -> io::Result<()> {
    let mut last_moved = Instant::now();
    let patience = tokio::time::sleep(HALF_CLOSED_PATIENCE);
    tokio::pin!(patience);
    poll_fn(|cx| {
        let mut moved = false;
        let outward = out.poll(cx, local, stream, &mut moved, |_, _| false)?;
        let told = out.done;
        let is_reset = |stream: &mut Stream, cx: &mut Context<'_>| link.is_closed() || !told && stream.poll_is_cut(cx);
        let backward = back.poll(cx, stream, local, &mut moved, is_reset)?;
        if outward.is_ready() && backward.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if outward.is_ready() || backward.is_ready() {
            if moved {
                last_moved = Instant::now();
            }
            let is_unread = backward.is_ready() && out.start < out.end;
            patience.as_mut().reset(last_moved + if is_unread { UNREAD_PATIENCE } else { HALF_CLOSED_PATIENCE });
            ready!(patience.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    })
    .await
}
