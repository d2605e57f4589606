//! A stream whose reader's bytes are also seen by a [`Tap`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::tap::Tap;

/// Carries bytes both ways until both sides are done or one fails, and tells the tap.
pub(super) async fn carry<C, G>(client: &mut C, guest: &mut G, tap: Tap, size: usize)
where
    C: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite + Unpin,
{
    let tap = Arc::new(Mutex::new(tap));
    let mut client = Tapped { stream: client, tap: Arc::clone(&tap), tell: Tap::client };
    let mut guest = Tapped { stream: guest, tap, tell: Tap::guest };
    // Whichever side fails, both are closed.
    let _ = copy_bidirectional_with_sizes(&mut client, &mut guest, size, size).await;
}

struct Tapped<'a, S> {
    stream: &'a mut S,
    tap: Arc<Mutex<Tap>>,
    tell: fn(&mut Tap, &[u8]),
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.stream).poll_read(context, buffer);
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            (self.tell)(&mut self.tap.lock().unwrap_or_else(PoisonError::into_inner), read);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
