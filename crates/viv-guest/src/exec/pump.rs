//! One byte stream of a program: bytes with credit, in order, each exactly once.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::termios::{LocalModes, SpecialCodeIndex};
use tokio::sync::{Notify, mpsc};
use viv_proto::credit::{ReceiveCredit, SendCredit};
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::{MAX_FRAME_BYTES, ProtocolError};

use super::start::Io;
use crate::reaper::{self, Exit};

/// The most that is still read from a terminal after its program has ended. The kernel holds less.
const TERMINAL_DRAIN_BYTES: usize = 1024 * 1024;

/// How often a terminal no one holds is looked at again while its program runs on.
const TERMINAL_RETRY: Duration = Duration::from_millis(100);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard input on its way to the program.
#[derive(Default)]
pub(super) struct Input {
    state: Mutex<InputState>,
    changed: Notify,
}

#[derive(Default)]
struct InputState {
    /// At most a window: the sender had credit for it.
    bytes: Vec<u8>,
    credit: ReceiveCredit,
    ended: bool,
    /// No one reads any more: what arrives is dropped.
    closed: bool,
}

impl Input {
    /// Bytes have arrived.
    ///
    /// # Errors
    /// If the sender had no credit for them, or had ended the stream.
    pub fn push(&self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let mut state = lock(&self.state);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        state.credit.receive(length)?;
        if state.ended {
            return Err(ProtocolError::MalformedFrame { kind: "stdin", reason: "after its end".to_owned() });
        }
        if !state.closed {
            state.bytes.extend_from_slice(bytes);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// No more follows.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_one();
    }

    /// Hands everything to the program as it takes it, and grants credit for it.
    pub async fn feed(&self, io: Option<Io>, terminal: bool, frames: mpsc::Sender<Frame>) -> Infallible {
        if let Some(io) = io {
            // Whatever ends it, `io` is closed by then.
            let _ = self.feed_until_end(io, terminal, &frames).await;
        }
        self.close();
        drop(frames);
        pending().await
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.bytes = Vec::new();
    }

    async fn feed_until_end(&self, io: Io, terminal: bool, frames: &mpsc::Sender<Frame>) -> io::Result<()> {
        let mut chunk = Vec::new();
        let mut at_line_start = true;
        while self.next(&mut chunk).await {
            let mut written = 0;
            while written < chunk.len() {
                let count = write(&io, &chunk[written..]).await?;
                written += count;
                let grant = lock(&self.state).credit.deliver(u32::try_from(count).unwrap_or(u32::MAX));
                if let Some(grant) = grant
                    && frames.send(Frame::Credit(ByteStream::Stdin, grant)).await.is_err()
                {
                    return Ok(());
                }
            }
            at_line_start = matches!(chunk.last(), Some(b'\n' | b'\r'));
            chunk.clear();
        }
        if terminal { end_of_terminal_input(&io, at_line_start).await } else { Ok(()) }
    }

    /// Waits for bytes; false at the end.
    async fn next(&self, chunk: &mut Vec<u8>) -> bool {
        loop {
            {
                let mut state = lock(&self.state);
                if !state.bytes.is_empty() {
                    mem::swap(&mut state.bytes, chunk);
                    return true;
                }
                if state.ended {
                    return false;
                }
            }
            self.changed.notified().await;
        }
    }
}

/// A terminal has no end of its own: what a user would do is press ctrl-D. A line begun takes it
/// twice, once to hand over the line. A program that reads keys, not lines, is left alone.
async fn end_of_terminal_input(io: &Io, at_line_start: bool) -> io::Result<()> {
    let modes = rustix::termios::tcgetattr(io.get_ref())?;
    if modes.local_modes.contains(LocalModes::ICANON) {
        let end = modes.special_codes[SpecialCodeIndex::VEOF];
        for _ in 0..if at_line_start { 1 } else { 2 } {
            write(io, &[end]).await?;
        }
    }
    Ok(())
}

async fn write(io: &Io, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let mut ready = io.writable().await?;
        if let Ok(written) = ready.try_io(|io| Ok(rustix::io::write(io, bytes)?)) {
            return written;
        }
    }
}

/// Standard output or error on its way to the host.
pub(super) struct Output {
    io: Io,
    stream: ByteStream,
    terminal: bool,
    credit: Mutex<SendCredit>,
    granted: Notify,
}

impl Output {
    pub fn new(io: Io, stream: ByteStream, terminal: bool) -> Self {
        Self { io, stream, terminal, credit: Mutex::default(), granted: Notify::new() }
    }

    /// The host has room for more.
    pub fn grant(&self, bytes: u32) {
        lock(&self.credit).grant(bytes);
        self.granted.notify_one();
    }

    /// Sends all there is until the stream ends. Once the program has ended, that is when what it
    /// left is sent, whoever else holds the other end.
    pub async fn carry(&self, frames: &mpsc::Sender<Frame>, mut exit: Exit) {
        let mut buffer = vec![0; MAX_FRAME_BYTES];
        // Bytes still to send once the program has ended.
        let mut left = None;
        loop {
            if left.is_none() && exit.borrow().is_some() {
                left = Some(self.waiting());
            }
            if left == Some(0) {
                break;
            }
            let credit = lock(&self.credit).available() as usize;
            if credit == 0 {
                tokio::select! {
                    () = self.granted.notified() => {}
                    _ = reaper::ended(&mut exit), if left.is_none() => {}
                }
                continue;
            }
            let limit = credit.min(buffer.len()).min(left.unwrap_or(usize::MAX));
            let result = match left {
                Some(_) => rustix::io::read(self.io.get_ref(), &mut buffer[..limit]),
                None => {
                    let mut ready = tokio::select! {
                        Ok(ready) = self.io.readable() => ready,
                        _ = reaper::ended(&mut exit) => continue,
                    };
                    match ready.try_io(|io| Ok(rustix::io::read(io, &mut buffer[..limit])?)) {
                        Ok(result) => result.map_err(|reason| Errno::from_io_error(&reason).unwrap_or(Errno::IO)),
                        // Nothing there yet: wait for the next change.
                        Err(_) => continue,
                    }
                }
            };
            match result {
                Ok(0) => break,
                Ok(read) => {
                    lock(&self.credit).spend(u32::try_from(read).unwrap_or(u32::MAX));
                    left = left.map(|left| left - read);
                    if frames.send(Frame::Data(self.stream, buffer[..read].to_vec())).await.is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                // No one holds the terminal; its program may open it again.
                Err(Errno::IO) if self.terminal && left.is_none() => {
                    let _ = tokio::time::timeout(TERMINAL_RETRY, reaper::ended(&mut exit)).await;
                }
                // While draining, this is the end: the kernel delivers what was written before it
                // says that there is nothing.
                Err(_) => break,
            }
        }
        // With no one left to send to, nothing needs an end.
        let _ = frames.send(Frame::End(self.stream)).await;
    }

    /// How much the program has left behind, bytes.
    fn waiting(&self) -> usize {
        if self.terminal {
            return TERMINAL_DRAIN_BYTES;
        }
        let waiting = rustix::io::ioctl_fionread(self.io.get_ref()).unwrap_or(0);
        usize::try_from(waiting).unwrap_or(usize::MAX)
    }
}
