//! Both directions of one connection: half-closes, byte counts, little memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::hello::{Inspector, Verdict};

/// What is read at once. There is one such buffer for all connections: bytes are written on at once, and only what
/// the other side does not take is kept.
const READ_BYTES: usize = 128 * 1024;

/// What is read at once while [`Held`] is over its limit, or a hello is looked at.
const SMALL_READ_BYTES: usize = 4 * 1024;

/// As much may be kept for all connections together before they read less.
const MAX_HELD_BYTES: usize = 8 * 1024 * 1024;

/// A TLS client that has begun its hello ends it within this time.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// A connection of which one direction has ended, and that has been silent for this long, has been forgotten.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(600);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Bytes kept for all connections, because the other side does not take them yet.
#[derive(Debug, Default)]
pub(super) struct Held(AtomicUsize);

/// Bytes carried so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides were done, or the guest broke it off.
    Done,
    /// The upstream broke it off, or it was forgotten.
    Failed(String),
    /// What the guest said first was refused: nothing of it went out.
    Refused(String),
}

/// Carries bytes until both directions have ended. `early` are bytes of the guest's that were read already.
pub(super) async fn carry<G, U>(
    guest: &mut G,
    upstream: &mut U,
    early: &[u8],
    inspector: Option<Inspector>,
    counts: &Counts,
    held: &Held,
) -> End
where
    G: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = Direction::new(inspector, &counts.sent, held);
    let mut back = Direction::new(None, &counts.received, held);
    if !early.is_empty()
        && let Err(reason) = out.take_early(early)
    {
        return End::Refused(reason);
    }
    let mut idle: Option<(Pin<Box<Sleep>>, u64)> = None;
    let mut hello: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        let outward = out.poll(cx, guest, upstream);
        let inward = back.poll(cx, upstream, guest);
        match (outward, inward) {
            (Poll::Ready(Err(broken)), _) => return Poll::Ready(broken.end(false)),
            (_, Poll::Ready(Err(broken))) => return Poll::Ready(broken.end(true)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Done),
            (Poll::Pending, Poll::Pending) => {}
            _ => {
                let total = counts.sent.load(Ordering::Relaxed) + counts.received.load(Ordering::Relaxed);
                let (timer, last) = idle.get_or_insert_with(|| (Box::pin(sleep(HALF_CLOSED_IDLE)), total));
                if *last != total {
                    *last = total;
                    timer.as_mut().reset(Instant::now() + HALF_CLOSED_IDLE);
                }
                ready!(timer.as_mut().poll(cx));
                return Poll::Ready(End::Failed("half closed, and silent for 10 minutes".into()));
            }
        }
        if out.is_held_back() {
            let timer = hello.get_or_insert_with(|| Box::pin(sleep(HELLO_DEADLINE)));
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(End::Refused("a TLS ClientHello that did not end within 10 s".into()));
        }
        Poll::Pending
    })
    .await
}

/// What ended a direction before its time.
enum Broken {
    Read(io::Error),
    Write(io::Error),
    Refused(String),
}

impl Broken {
    /// `inward`: it was the direction from the upstream to the guest.
    fn end(self, inward: bool) -> End {
        match (self, inward) {
            (Self::Refused(reason), _) => End::Refused(reason),
            (Self::Read(error), true) | (Self::Write(error), false) => End::Failed(format!("broke off: {error}")),
            // A guest that goes away owes nobody a reason.
            (Self::Read(_), false) | (Self::Write(_), true) => End::Done,
        }
    }
}

struct Direction<'a> {
    /// Read and not yet written, from `written` on.
    pending: Vec<u8>,
    written: usize,
    inspector: Option<Inspector>,
    ended: bool,
    done: bool,
    count: &'a AtomicU64,
    held: &'a Held,
}

impl<'a> Direction<'a> {
    fn new(inspector: Option<Inspector>, count: &'a AtomicU64, held: &'a Held) -> Self {
        Self { pending: Vec::new(), written: 0, inspector, ended: false, done: false, count, held }
    }

    fn is_held_back(&self) -> bool {
        self.inspector.is_some() && !self.pending.is_empty()
    }

    fn take_early(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.keep(bytes);
        self.look_at(bytes)
    }

    /// Opens the gate, keeps it closed or refuses.
    fn look_at(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some(inspector) = &mut self.inspector else { return Ok(()) };
        match inspector.inspect(bytes) {
            Verdict::Wait => {}
            Verdict::Pass => self.inspector = None,
            Verdict::Refuse(reason) => return Err(reason),
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.held.0.fetch_add(bytes.len(), Ordering::Relaxed);
    }

    fn forget_pending(&mut self) {
        self.held.0.fetch_sub(self.pending.len(), Ordering::Relaxed);
        self.pending = Vec::new();
        self.written = 0;
    }

    fn wrote(&self, bytes: usize) {
        self.count.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if self.inspector.is_none() && !self.pending.is_empty() {
                ready!(self.write_pending(cx, writer)).map_err(Broken::Write)?;
            } else if self.ended {
                if !self.pending.is_empty() {
                    let reason = "a TLS ClientHello that broke off".into();
                    return Poll::Ready(Err(Broken::Refused(reason)));
                }
                // Whoever is gone already need not be told that no more will come.
                let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                self.done = true;
            } else {
                ready!(self.read(cx, reader, writer))?;
            }
        }
    }

    fn write_pending<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let bytes = ready!(Pin::new(&mut *writer).poll_write(cx, &self.pending[self.written..]))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += bytes;
            self.wrote(bytes);
        }
        self.forget_pending();
        Poll::Ready(Ok(()))
    }

    /// Reads once and passes on as much as is taken.
    fn read<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let crowded = self.inspector.is_some() || self.held.0.load(Ordering::Relaxed) > MAX_HELD_BYTES;
            let room = if crowded { SMALL_READ_BYTES } else { READ_BYTES };
            let mut buffer = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(reader).poll_read(cx, &mut buffer)).map_err(Broken::Read)?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            if self.inspector.is_some() {
                self.keep(bytes);
                return Poll::Ready(self.look_at(bytes).map_err(Broken::Refused));
            }
            let taken = match Pin::new(writer).poll_write(cx, bytes) {
                Poll::Ready(taken) => taken.map_err(Broken::Write)?,
                Poll::Pending => 0,
            };
            self.wrote(taken);
            if taken < bytes.len() {
                self.keep(&bytes[taken..]);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        self.forget_pending();
    }
}
