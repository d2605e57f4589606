//! An operation whose bytes are produced and consumed by code that blocks: files, mostly.
//!
//! ```text
//!   Outgoing ──chunks──► pump ─Data─┐                ┌─Data─► Incoming
//!      (a thread)          ▲ credit ├─ one stream ───┤            │ taken
//!   Incoming ◄──chunks── read ──────┘                └─Credit─────┘   (a thread of the other side)
//! ```
//!
//! The host sends standard input and receives standard output, the guest the other way round, and says at
//! last how it went ([`Frame::Exit`]). What is under way is at most a window for each direction
//! ([`viv_proto::STREAM_WINDOW_BYTES`]), whatever either side does.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use viv_proto::MAX_FRAME_BYTES;
use viv_proto::credit::{ReceiveCredit, SendCredit};
use viv_proto::frame::{ByteStream, Frame};

use crate::{FrameReader, FrameWriter};

/// Frames waiting to be written, and chunks waiting to become frames.
const QUEUED: usize = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What comes from the other side, for a thread that may block.
pub struct Incoming {
    chunks: mpsc::UnboundedReceiver<Option<Vec<u8>>>,
    current: Vec<u8>,
    read: usize,
    taken: mpsc::UnboundedSender<usize>,
    ended: bool,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.current.len() && !self.ended {
            // The sender has as much credit as was taken here, so the queue holds a window at the most.
            let _ = self.taken.send(self.current.len());
            self.read = 0;
            self.current.clear();
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.current = chunk,
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = buffer.len().min(self.current.len() - self.read);
        buffer[..count].copy_from_slice(&self.current[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

/// What goes to the other side, from a thread that may block. Its end is the other side's end of the stream;
/// what was not flushed by then is lost.
pub struct Outgoing {
    chunks: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_FRAME_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == MAX_FRAME_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.buffer);
        self.chunks.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// How an operation went, as the host sees it.
#[derive(Debug)]
pub enum Asked<T, E> {
    /// The work here ended well, and the guest said how its own did.
    Done(T, Vec<u8>),
    /// The guest ended it while there was work to do here.
    Refused(Vec<u8>),
    /// The work here failed; what the guest said of its own, if it had sent all that it had to send.
    Failed(E, Option<Vec<u8>>),
}

/// The guest's side: `work` has what the host sends, and sends what the host is to have; its value is how it
/// went. Work that ends well reads what comes to its end, so that the host's has ended, too. `rest` are bytes that were
/// read beyond the line before.
///
/// # Errors
/// If the host goes away or breaks the protocol. The work then fails at its next read or write.
pub async fn serve<S, W>(stream: &mut S, rest: &[u8], work: W) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    W: FnOnce(Incoming, Outgoing) -> Vec<u8> + Send + 'static,
{
    let (way, ends) = Way::new(ByteStream::Stdin, ByteStream::Stdout);
    let (reader, writer) = tokio::io::split(stream);
    let (frames, queue) = mpsc::channel(QUEUED);
    let Ends { incoming, outgoing, taken, chunks } = ends;
    let work = tokio::task::spawn_blocking(move || work(incoming, outgoing));
    let finish = async {
        way.pump(chunks, &frames).await;
        let report = work.await.unwrap_or_default();
        // With no one left to send to, the operation is over.
        let _ = frames.send(Frame::Exit(report)).await;
        pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        written = write(queue, FrameWriter::new(writer)) => written,
        // Only a guest sends an exit.
        read = way.read(FrameReader::new(reader, rest)) => Err(read.err().unwrap_or(io::ErrorKind::InvalidData.into())),
        never = finish => match never {},
        never = way.grant(taken, &frames) => match never {},
    }
}

/// The host's side, as [`serve`]. The work here ends before this does, unless it still waits for something else
/// when the guest has refused it.
///
/// # Errors
/// If the guest goes away or breaks the protocol.
pub async fn ask<S, W, T, E>(stream: &mut S, rest: &[u8], work: W) -> io::Result<Asked<T, E>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    W: FnOnce(Incoming, Outgoing) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let (way, ends) = Way::new(ByteStream::Stdout, ByteStream::Stdin);
    let (reader, writer) = tokio::io::split(stream);
    let (frames, queue) = mpsc::channel(QUEUED);
    let Ends { incoming, outgoing, taken, chunks } = ends;
    let mut work: JoinHandle<Result<T, E>> = tokio::task::spawn_blocking(move || work(incoming, outgoing));
    let mut value: Option<Result<T, E>> = None;
    let mut takes = true;
    let report = {
        let read = way.read(FrameReader::new(reader, rest));
        let write = write(queue, FrameWriter::new(writer));
        let pump = async {
            way.pump(chunks, &frames).await;
            pending::<Infallible>().await
        };
        tokio::pin!(read, write, pump);
        let grant = way.grant(taken, &frames);
        tokio::pin!(grant);
        loop {
            tokio::select! {
                report = &mut read => break report,
                // A guest that ends it early takes no more, and what it says is still to be read.
                _ = &mut write, if takes => takes = false,
                done = &mut work, if value.is_none() => match done {
                    // The other side may have broken off, and is about to say why.
                    Ok(Err(error)) if !lock(&way.over).0 => return Ok(Asked::Failed(error, None)),
                    Ok(done) => value = Some(done),
                    Err(panic) => return Err(io::Error::other(panic)),
                },
                never = &mut pump => match never {},
                never = &mut grant => match never {},
            }
        }
    };
    // A work that fails because the guest is gone, or broke the protocol, says less than what was broken.
    let report = report?;
    let all_was_said = way.is_over();
    drop(way);
    let value = match value {
        None if all_was_said => Some(work.await.map_err(io::Error::other)?),
        value => value,
    };
    Ok(match value {
        Some(Ok(value)) => Asked::Done(value, report),
        Some(Err(error)) => Asked::Failed(error, Some(report)),
        None => Asked::Refused(report),
    })
}

/// What the two directions have in mind.
struct Way {
    incoming: ByteStream,
    outgoing: ByteStream,
    chunks: mpsc::UnboundedSender<Option<Vec<u8>>>,
    receive: Mutex<ReceiveCredit>,
    send: Mutex<SendCredit>,
    granted: Notify,
    /// Whether the incoming stream, and the outgoing one, came to their ends.
    over: Mutex<(bool, bool)>,
}

/// What belongs to those who use it.
struct Ends {
    incoming: Incoming,
    outgoing: Outgoing,
    taken: mpsc::UnboundedReceiver<usize>,
    chunks: mpsc::Receiver<Vec<u8>>,
}

impl Way {
    fn new(incoming: ByteStream, outgoing: ByteStream) -> (Self, Ends) {
        let (chunks_in, received) = mpsc::unbounded_channel();
        let (took, taken) = mpsc::unbounded_channel();
        let (sent, chunks) = mpsc::channel(QUEUED);
        let way = Self {
            incoming,
            outgoing,
            chunks: chunks_in,
            receive: Mutex::default(),
            send: Mutex::default(),
            granted: Notify::new(),
            over: Mutex::default(),
        };
        let incoming = Incoming { chunks: received, current: Vec::new(), read: 0, taken: took, ended: false };
        let outgoing = Outgoing { chunks: sent, buffer: Vec::with_capacity(MAX_FRAME_BYTES) };
        (way, Ends { incoming, outgoing, taken, chunks })
    }

    fn is_over(&self) -> bool {
        *lock(&self.over) == (true, true)
    }

    /// Reads until the operation is said to be over.
    async fn read(&self, mut reader: FrameReader<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
        let nonsense = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
        loop {
            match reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)? {
                Frame::Data(stream, bytes) if stream == self.incoming => {
                    if lock(&self.over).0 {
                        return Err(nonsense("bytes after the end of their stream"));
                    }
                    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let received = lock(&self.receive).receive(length);
                    received.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    // Work that has ended takes nothing any more.
                    let _ = self.chunks.send(Some(bytes));
                }
                Frame::End(stream) if stream == self.incoming => {
                    lock(&self.over).0 = true;
                    let _ = self.chunks.send(None);
                }
                Frame::Credit(stream, bytes) if stream == self.outgoing => {
                    lock(&self.send).grant(bytes);
                    self.granted.notify_one();
                }
                Frame::Exit(report) => return Ok(report),
                _ => return Err(nonsense("a frame that has no place here")),
            }
        }
    }

    /// Sends what the work here has to send, as there is credit for it.
    async fn pump(&self, mut chunks: mpsc::Receiver<Vec<u8>>, frames: &mpsc::Sender<Frame>) {
        while let Some(chunk) = chunks.recv().await {
            let mut rest = chunk.as_slice();
            while !rest.is_empty() {
                let credit = lock(&self.send).available();
                if credit == 0 {
                    self.granted.notified().await;
                    continue;
                }
                let (now, later) = rest.split_at(rest.len().min(credit as usize));
                lock(&self.send).spend(u32::try_from(now.len()).unwrap_or(u32::MAX));
                if frames.send(Frame::Data(self.outgoing, now.to_vec())).await.is_err() {
                    return;
                }
                rest = later;
            }
        }
        lock(&self.over).1 = true;
        let _ = frames.send(Frame::End(self.outgoing)).await;
    }

    /// Lets the other side send as much as was taken here.
    async fn grant(&self, mut taken: mpsc::UnboundedReceiver<usize>, frames: &mpsc::Sender<Frame>) -> Infallible {
        while let Some(bytes) = taken.recv().await {
            let grant = lock(&self.receive).deliver(u32::try_from(bytes).unwrap_or(u32::MAX));
            if let Some(grant) = grant
                && frames.send(Frame::Credit(self.incoming, grant)).await.is_err()
            {
                break;
            }
        }
        pending().await
    }
}

/// Writes frames until the last one.
async fn write(mut queue: mpsc::Receiver<Frame>, mut writer: FrameWriter<impl AsyncWrite + Unpin>) -> io::Result<()> {
    while let Some(frame) = queue.recv().await {
        writer.send(&frame).await?;
        if matches!(frame, Frame::Exit(_)) {
            return Ok(());
        }
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far more than a window, and no round number.
    const MANY: usize = 3_000_017;

    fn pattern() -> Vec<u8> {
        (0..MANY).map(|index| (index % 251) as u8).collect()
    }

    async fn both<T: Send + 'static>(
        host: impl FnOnce(Incoming, Outgoing) -> Result<T, String> + Send + 'static,
        guest: impl FnOnce(Incoming, Outgoing) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Asked<T, String>> {
        let (mut ours, mut theirs) = tokio::io::duplex(10_000);
        let served = tokio::spawn(async move { serve(&mut theirs, &[], guest).await });
        let asked = ask(&mut ours, &[], host).await;
        drop(ours);
        let _ = served.await.unwrap();
        asked
    }

    #[tokio::test]
    async fn everything_arrives_both_ways_at_once() {
        let asked = both(
            |mut incoming, mut outgoing| {
                let sender = std::thread::spawn(move || outgoing.write_all(&pattern()).and_then(|()| outgoing.flush()));
                let mut bytes = Vec::new();
                incoming.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                sender.join().unwrap().map_err(|error| error.to_string())?;
                Ok(bytes)
            },
            |mut incoming, mut outgoing| {
                let mut bytes = [0; 1000];
                let mut total = 0;
                loop {
                    match incoming.read(&mut bytes).unwrap() {
                        0 => break,
                        count => outgoing.write_all(&bytes[..count]).unwrap(),
                    }
                    total += 1;
                }
                outgoing.flush().unwrap();
                format!("{}", total > 0).into_bytes()
            },
        )
        .await
        .unwrap();
        match asked {
            Asked::Done(bytes, report) => {
                assert!(bytes == pattern());
                assert_eq!(report, b"true");
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_guest_that_refuses_ends_a_host_that_sends() {
        let asked = both(
            |_, mut outgoing| outgoing.write_all(&pattern()).map_err(|error| error.to_string()),
            |_, _| b"full".to_vec(),
        )
        .await
        .unwrap();
        assert!(matches!(asked, Asked::Refused(report) if report == b"full"));
    }

    #[tokio::test]
    async fn a_host_that_fails_ends_it() {
        let asked = both(
            |_, _| Err::<(), _>("no".to_owned()),
            |mut incoming, _| incoming.read_to_end(&mut Vec::new()).map_or_else(|_| b"cut".to_vec(), |_| Vec::new()),
        )
        .await
        .unwrap();
        assert!(matches!(asked, Asked::Failed(reason, None) if reason == "no"));
    }

    #[tokio::test]
    async fn more_than_was_granted_is_refused() {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let flood = tokio::spawn(async move {
            let mut writer = FrameWriter::new(&mut theirs);
            while writer.send(&Frame::Data(ByteStream::Stdout, vec![0; MAX_FRAME_BYTES])).await.is_ok() {}
        });
        let (release, held) = std::sync::mpsc::channel::<()>();
        let asked = ask(&mut ours, &[], move |incoming, _| {
            // Takes nothing until the test is over.
            let _ = held.recv();
            drop(incoming);
            Err::<(), _>(())
        });
        assert_eq!(asked.await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(release);
        drop(ours);
        flood.await.unwrap();
    }
}
