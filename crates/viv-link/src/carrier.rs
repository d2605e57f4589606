//! The carrier as yamux sees it: buffered, what the handshake read too much first, and on the
//! guest's side watched for the marker of the next session, which ends this one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use viv_proto::handshake::{MarkerScanner, TOKEN_BYTES, Token};

/// yamux reads a header, then a body: one buffer this long saves most of its reads.
const BUFFER_BYTES: usize = 64 * 1024;

/// Looks for the beginning of the next session in all that a guest reads.
pub(crate) struct Watch {
    next: MarkerScanner,
    /// The token this session began with: a host that never saw our answer repeats it as its very
    /// next bytes. Once it has sent anything else it is not looked for any more.
    repeated: Option<MarkerScanner>,
    found: Option<Vec<u8>>,
}

impl Watch {
    pub(crate) fn new(next: Token, current: Token) -> Self {
        Self { next: MarkerScanner::new(next), repeated: Some(MarkerScanner::new(current)), found: None }
    }

    /// Looks at the next piece; true once the marker was found.
    pub(crate) fn scan(&mut self, piece: &[u8]) -> bool {
        let after = self.next.scan(piece).or_else(|| {
            let repeated = self.repeated.as_mut()?;
            let after = repeated.scan(piece);
            if repeated.scanned() >= TOKEN_BYTES {
                self.repeated = None;
            }
            after
        });
        if let Some(after) = after {
            self.found = Some(piece[after..].to_vec());
        }
        self.found.is_some()
    }

    /// The bytes that followed the marker.
    pub(crate) fn take_found(&mut self) -> Option<Vec<u8>> {
        self.found.take()
    }
}

/// A watch that outlives the session it watches.
#[derive(Clone)]
pub(crate) struct SharedWatch(Arc<Mutex<Watch>>);

impl SharedWatch {
    pub(crate) fn new(watch: Watch) -> Self {
        Self(Arc::new(Mutex::new(watch)))
    }

    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Watch) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) struct Carrier<T> {
    inner: T,
    buffer: Vec<u8>,
    /// The unread bytes of the buffer.
    taken: usize,
    filled: usize,
    watch: Option<SharedWatch>,
}

impl<T> Carrier<T> {
    /// A carrier whose first bytes, `early`, have been read already.
    pub(crate) fn new(inner: T, early: Vec<u8>, watch: Option<SharedWatch>) -> Self {
        if let Some(watch) = &watch {
            watch.with(|watch| watch.scan(&early));
        }
        Self { inner, taken: 0, filled: early.len(), buffer: early, watch }
    }
}

impl<T: AsyncRead + Unpin> Carrier<T> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.taken = 0;
        self.filled = 0;
        self.buffer.resize(BUFFER_BYTES, 0);
        let mut target = ReadBuf::new(&mut self.buffer);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut target);
        self.filled = target.filled().len();
        ready!(polled)?;
        if self.filled == 0 {
            // A carrier never ends in good order, and yamux would take its end for one.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(watch) = &self.watch {
            watch.with(|watch| watch.scan(&self.buffer[..self.filled]));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> futures::io::AsyncRead for Carrier<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.taken == this.filled {
            ready!(this.poll_fill(cx))?;
        }
        if this.watch.as_ref().is_some_and(|watch| watch.with(|watch| watch.found.is_some())) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = target.len().min(this.filled - this.taken);
        target[..count].copy_from_slice(&this.buffer[this.taken..this.taken + count]);
        this.taken += count;
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncWrite + Unpin> futures::io::AsyncWrite for Carrier<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
