//! The pump: frames one way, bytes the other, until the program, the sandbox or the user ends it.
//!
//! ```text
//!  Running ──Exit frame──► Flushing ──both outputs written──► Exited
//!     │                        │
//!     └────────────────────────┴─ timeout, broken pipe, second ctrl-C, lost sandbox ─► that end
//! ```

use std::future::Future;
use std::io;
use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use viv_link::{FrameReader, FrameWriter};
use viv_proto::credit::ReceiveCredit;
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::message::ExitReport;

use super::detach::{self, DetachFilter, DetachKeys};
use super::raw::RawMode;
use super::signals::Signals;
use super::streams::{self, Outgoing, StdinCredit, Streams, Written};
use viv_sandbox::ModeTracker;

/// Two SIGINT within this time end a program that does not end by itself.
const IMPATIENCE: Duration = Duration::from_secs(5);

/// How long an output that is stalled may hold up an end that was forced.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// How the session is to behave.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// The program has a terminal: ours, switched to raw mode.
    pub terminal: bool,
    /// Kill the program after this long.
    pub timeout: Option<Duration>,
    /// The program goes on without us: these keys leave it, and so does whatever ends us.
    pub detach: Option<DetachKeys>,
}

/// How a session ended.
#[derive(Debug)]
pub enum End<L> {
    /// The program ended, and all its output was written.
    Exited(ExitReport),
    /// Its time was up.
    TimedOut,
    /// Nobody reads our standard output any more.
    BrokenPipe,
    /// We have left, and the program goes on.
    Detached,
    /// The user wants it to end, by this signal.
    Signalled(i32),
    /// Standard output cannot be written, as on a full disk.
    OutputFailed(io::Error),
    /// The link broke before the program ended; without an error, it was closed in good order.
    Disconnected(Option<io::Error>),
    /// What was watched meanwhile came to an end.
    Lost(L),
}

/// What else is known of a session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// From the session's begin to the program's first byte of output.
    pub first_output: Option<Duration>,
    /// The program's last byte on stderr was no line break.
    pub stderr_unfinished: bool,
}

/// A program's session.
pub struct Session {
    options: SessionOptions,
    frames: mpsc::UnboundedSender<Outgoing>,
    reports: mpsc::UnboundedReceiver<Written>,
    sending: JoinHandle<()>,
    /// The keys to leave were typed.
    detached: Arc<Notify>,
    stdin: Arc<StdinCredit>,
    stdout: Output,
    stderr: Output,
    raw: Option<RawMode>,
    began: Instant,
    last_interrupt: Option<Instant>,
    summary: Summary,
}

/// One output stream on its way to a writing thread.
struct Output {
    credit: ReceiveCredit,
    /// None once the program's end of the stream was seen.
    queue: Option<blocking::Sender<Vec<u8>>>,
    finished: bool,
}

impl Session {
    /// Begins to pump: stdin towards the guest at once. With a terminal, it is in raw mode from
    /// here until the session is dropped.
    ///
    /// # Errors
    /// If no thread can be started, or the terminal refuses raw mode.
    pub fn begin<W>(writer: FrameWriter<W>, streams: Streams, options: SessionOptions) -> io::Result<Self>
    where
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let modes = Arc::new(Mutex::new(ModeTracker::default()));
        let raw = if options.terminal { Some(RawMode::enter(Arc::clone(&modes))?) } else { None };
        let (frames, to_send) = mpsc::unbounded_channel();
        let (report, reports) = mpsc::unbounded_channel();
        let tracked = options.terminal.then_some(modes);
        let output = |queue| Output { credit: ReceiveCredit::default(), queue: Some(queue), finished: false };
        let stdout = streams::spawn_writer(ByteStream::Stdout, streams.stdout, tracked, report.clone())?;
        let stderr = streams::spawn_writer(ByteStream::Stderr, streams.stderr, None, report)?;
        let stdin = Arc::new(StdinCredit::default());
        streams::spawn_reader(streams.stdin, Arc::clone(&stdin), frames.clone(), options.terminal)?;
        let detached = Arc::new(Notify::new());
        let filter = options.detach.map(|keys| (DetachFilter::new(keys), Arc::clone(&detached)));
        Ok(Self {
            options,
            frames,
            reports,
            sending: tokio::spawn(send_all(writer, to_send, filter)),
            detached,
            stdin,
            stdout: output(stdout),
            stderr: output(stderr),
            raw,
            began: Instant::now(),
            last_interrupt: None,
            summary: Summary::default(),
        })
    }

    /// Pumps until the session ends, one way or another. `lost` resolves if the sandbox ends.
    pub async fn run<R, L>(
        mut self,
        mut reader: FrameReader<R>,
        signals: &mut Signals,
        lost: impl Future<Output = L>,
    ) -> (End<L>, Summary)
    where
        R: AsyncRead + Unpin,
    {
        tokio::pin!(lost);
        let end = self.pump(&mut reader, signals, lost).await;
        self.finish(&end).await;
        (end, self.summary)
    }

    async fn pump<R, L>(
        &mut self,
        reader: &mut FrameReader<R>,
        signals: &mut Signals,
        mut lost: impl Future<Output = L> + Unpin,
    ) -> End<L>
    where
        R: AsyncRead + Unpin,
    {
        let deadline = self.options.timeout.map(|limit| self.began + limit);
        let detached = Arc::clone(&self.detached);
        let mut exit = None;
        loop {
            if self.stdout.finished
                && self.stderr.finished
                && let Some(report) = exit.take()
            {
                return End::Exited(report);
            }
            tokio::select! {
                // What the program still said comes before the news of the sandbox's end.
                biased;
                Some(report) = self.reports.recv() => {
                    if let Some(end) = self.on_written(report) {
                        return end;
                    }
                }
                number = signals.next() => {
                    if let Some(end) = self.on_signal(number, exit.is_some()) {
                        return end;
                    }
                }
                frame = reader.next(), if exit.is_none() => match frame {
                    Ok(Some(Frame::Exit(report))) => match serde_json::from_slice(&report) {
                        Ok(report) => {
                            self.stdout.queue = None;
                            self.stderr.queue = None;
                            exit = Some(report);
                        }
                        Err(error) => return End::Disconnected(Some(error.into())),
                    },
                    Ok(Some(frame)) => {
                        if let Err(error) = self.on_frame(frame) {
                            return End::Disconnected(Some(error));
                        }
                    }
                    Ok(None) => return End::Disconnected(None),
                    Err(error) => return End::Disconnected(Some(error)),
                },
                () = detached.notified(), if exit.is_none() => return End::Detached,
                () = at(deadline), if exit.is_none() => return End::TimedOut,
                ended = &mut lost, if exit.is_none() => return End::Lost(ended),
            }
        }
    }

    fn on_frame(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Data(stream @ (ByteStream::Stdout | ByteStream::Stderr), bytes) => {
                self.summary.first_output.get_or_insert_with(|| self.began.elapsed());
                if stream == ByteStream::Stderr {
                    self.summary.stderr_unfinished = bytes.last() != Some(&b'\n');
                }
                let output = self.output(stream);
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                output.credit.receive(length).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                match &output.queue {
                    // The thread outlives the queue; a send cannot fail before its end.
                    Some(queue) => drop(queue.send(bytes)),
                    None => return Err(io::Error::new(io::ErrorKind::InvalidData, "data after the end of its stream")),
                }
            }
            Frame::End(stream @ (ByteStream::Stdout | ByteStream::Stderr)) => self.output(stream).queue = None,
            Frame::Credit(ByteStream::Stdin, bytes) => self.stdin.grant(bytes),
            Frame::Data(..) | Frame::End(_) | Frame::Credit(..) | Frame::Resize { .. } | Frame::Signal(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that only a host sends"));
            }
            Frame::Exit(_) => {}
        }
        Ok(())
    }

    fn on_written<L>(&mut self, report: Written) -> Option<End<L>> {
        match report {
            Written::Bytes(stream, bytes) => {
                if let Some(grant) = self.output(stream).credit.deliver(bytes) {
                    self.send(Frame::Credit(stream, grant));
                }
                None
            }
            Written::Finished(stream) => {
                self.output(stream).finished = true;
                None
            }
            // Errors nobody reads are no reason to end what the program does.
            Written::Failed(ByteStream::Stderr, _) => None,
            Written::Failed(_, error) if error.kind() == io::ErrorKind::BrokenPipe => Some(End::BrokenPipe),
            Written::Failed(_, error) => Some(End::OutputFailed(error)),
        }
    }

    fn on_signal<L>(&mut self, number: i32, exited: bool) -> Option<End<L>> {
        match number {
            libc::SIGWINCH => self.send_size(),
            libc::SIGTSTP => {
                // Sent by someone else: ctrl-Z goes to the program. Stop as one expects of a
                // command, without leaving the shell a raw terminal.
                if let Some(raw) = &self.raw {
                    raw.suspend();
                }
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            }
            libc::SIGCONT => {
                if let Some(raw) = &self.raw {
                    raw.resume();
                }
                self.send_size();
            }
            libc::SIGTERM | libc::SIGHUP if self.options.detach.is_some() && !exited => return Some(End::Detached),
            libc::SIGTERM | libc::SIGHUP if self.options.terminal => return Some(End::Signalled(number)),
            // Only a stalled reader of our output keeps us now.
            libc::SIGINT | libc::SIGTERM | libc::SIGHUP if exited => return Some(End::Signalled(number)),
            libc::SIGINT if self.last_interrupt.is_some_and(|last| last.elapsed() < IMPATIENCE) => {
                return Some(End::Signalled(number));
            }
            _ => {
                if number == libc::SIGINT {
                    self.last_interrupt = Some(Instant::now());
                }
                if let Ok(number) = u8::try_from(number) {
                    self.send(Frame::Signal(number));
                }
            }
        }
        None
    }

    fn send_size(&self) {
        let size = super::size();
        self.send(Frame::Resize { columns: size.columns, rows: size.rows });
    }

    fn send(&self, frame: Frame) {
        // Fails only when the link is gone, which the reader is about to notice.
        let _ = self.frames.send(Outgoing::Frame(frame));
    }

    fn output(&mut self, stream: ByteStream) -> &mut Output {
        if stream == ByteStream::Stderr { &mut self.stderr } else { &mut self.stdout }
    }

    /// Kills a program that is still running, writes what arrived of its output, and gives the
    /// terminal back.
    async fn finish<L>(&mut self, end: &End<L>) {
        self.stdout.queue = None;
        self.stderr.queue = None;
        match end {
            End::Exited(_) | End::Detached | End::Disconnected(_) | End::Lost(_) => {}
            End::BrokenPipe | End::OutputFailed(_) if self.options.detach.is_some() => {}
            End::BrokenPipe => self.kill(libc::SIGPIPE),
            End::TimedOut | End::Signalled(_) | End::OutputFailed(_) => self.kill(libc::SIGKILL),
        }
        let flushing = async {
            while !(self.stdout.finished && self.stderr.finished) {
                match self.reports.recv().await {
                    Some(Written::Finished(stream)) => self.output(stream).finished = true,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let _ = timeout(FLUSH_PATIENCE, flushing).await;
        let _ = self.frames.send(Outgoing::Close);
        let _ = timeout(FLUSH_PATIENCE, &mut self.sending).await;
        self.sending.abort();
        self.raw = None;
    }

    fn kill(&self, signal: i32) {
        if let Ok(signal) = u8::try_from(signal) {
            self.send(Frame::Signal(signal));
        }
    }
}

/// Sends what there is to send, and what is typed without the keys that leave the session.
async fn send_all<W: AsyncWrite + Unpin>(
    mut writer: FrameWriter<W>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    mut filter: Option<(DetachFilter, Arc<Notify>)>,
) {
    let mut held_until = None;
    loop {
        let outgoing = tokio::select! {
            outgoing = queue.recv() => outgoing,
            () = at(held_until) => {
                held_until = None;
                if let Some((filter, _)) = &mut filter
                    && writer.send(&Frame::Data(ByteStream::Stdin, filter.release())).await.is_err()
                {
                    return;
                }
                continue;
            }
        };
        let Some(Outgoing::Frame(mut frame)) = outgoing else { break };
        if let (Frame::Data(ByteStream::Stdin, typed), Some((filter, detached))) = (&mut frame, &mut filter) {
            let (passed, leaves) = filter.feed(typed);
            if leaves {
                detached.notify_one();
            }
            held_until = filter.is_holding().then(|| Instant::now() + detach::HOLD);
            *typed = passed;
            if typed.is_empty() {
                continue;
            }
        }
        if writer.send(&frame).await.is_err() {
            return;
        }
    }
    let _ = writer.close().await;
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
