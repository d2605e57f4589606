//! One viewer of a session: what it is shown, and how far it is.
//!
//! ```text
//!                   the session's size is its own
//!   ┌────────► Direct: the program's bytes ────────┐ takes nothing for a while
//!   │              │ ▲                             ▼
//!   │ another size │ │ again its own            behind: bytes go by
//!   │              ▼ │                             │ takes again
//!   └───────── Painted: rows of the kept screen    └──► Direct, from the kept screen
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use viv_link::{FrameReader, FrameWriter};
use viv_proto::credit::{ReceiveCredit, SendCredit};
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::message::TerminalSize;
use viv_proto::{MAX_FRAME_BYTES, ProtocolError, STREAM_WINDOW_BYTES};

use super::paint::Painter;
use super::screen::{Screen, bounded};
use super::session::Event;
use crate::sessions::Viewing;
use crate::terminal_modes::ModeTracker;

/// How long the program waits for a viewer that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it does not wait at all for one that made it wait too long.
const IMPATIENCE: Duration = Duration::from_secs(5);

/// How it is shown the screen.
enum Way {
    Direct,
    Painted(Painter),
}

/// A viewer.
pub(super) struct Viewer {
    pub(super) id: u64,
    pub(super) read_only: bool,
    /// Its window.
    pub(super) size: TerminalSize,
    /// Greater for who came, typed or changed size later.
    pub(super) used: u64,
    way: Way,
    frames: mpsc::UnboundedSender<Frame>,
    reading: JoinHandle<()>,
    credit: SendCredit,
    input: ReceiveCredit,
    /// Still to be sent; at most one redrawing and one piece of output.
    backlog: VecDeque<u8>,
    /// What was sent has switched this on.
    sent: ModeTracker,
    /// Bytes of the program went by; it sees the screen again once it takes something.
    behind: bool,
    /// The program waits for it until then.
    waited_for_until: Option<Instant>,
    not_waited_for_before: Option<Instant>,
    /// What ends its connection, once it has been sent everything.
    exit: Option<Vec<u8>>,
    is_finished: bool,
}

impl Viewer {
    /// Begins to serve one. `rest` is what came behind its request.
    pub(super) fn new(id: u64, stream: UnixStream, rest: &[u8], viewing: Viewing, events: mpsc::Sender<Event>) -> Self {
        let (reader, writer) = stream.into_split();
        let reader = FrameReader::new(reader, rest);
        let (frames, queue) = mpsc::unbounded_channel();
        tokio::spawn(write(FrameWriter::new(writer), queue));
        Self {
            id,
            read_only: viewing.read_only,
            size: bounded(viewing.size),
            used: 0,
            way: Way::Direct,
            frames,
            reading: tokio::spawn(read(id, reader, events)),
            credit: SendCredit::default(),
            input: ReceiveCredit::default(),
            backlog: VecDeque::new(),
            sent: ModeTracker::default(),
            behind: false,
            waited_for_until: None,
            not_waited_for_before: None,
            exit: None,
            is_finished: false,
        }
    }

    /// Whether it sees the program's bytes, so that its terminal answers what the program asks.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct) && !self.behind
    }

    /// Whether it is painted a frame at a time.
    pub(super) fn is_painted(&self) -> bool {
        matches!(self.way, Way::Painted(_))
    }

    /// Until when the program waits for it.
    pub(super) fn waited_for_until(&self) -> Option<Instant> {
        self.waited_for_until
    }

    /// Whether it has got all there will ever be.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Shows it the screen for the first time.
    pub(super) fn begin(&mut self, screen: &Screen) {
        if self.size == screen.size() {
            self.backlog.extend(screen.redraw(true));
        } else {
            self.paint_anew(screen);
        }
        self.flush();
    }

    /// The session's size, or the window's, has changed.
    pub(super) fn on_size(&mut self, screen: &Screen) {
        let fits = self.size == screen.size();
        match &self.way {
            // Its own terminal has done the same.
            Way::Direct if fits => return,
            Way::Direct => self.paint_anew(screen),
            Way::Painted(_) if fits => {
                self.abandon_backlog();
                self.backlog.extend(self.sent.restoration());
                self.way = Way::Direct;
                self.backlog.extend(screen.redraw(false));
            }
            Way::Painted(_) => self.paint_anew(screen),
        }
        self.flush();
    }

    fn paint_anew(&mut self, screen: &Screen) {
        self.abandon_backlog();
        self.behind = false;
        self.backlog.extend(self.sent.restoration());
        let (mut painter, begin) = Painter::new(self.size);
        self.backlog.extend(begin);
        self.backlog.extend(painter.paint(screen));
        self.way = Way::Painted(painter);
    }

    fn abandon_backlog(&mut self) {
        self.backlog.clear();
        self.waited_for_until = None;
    }

    /// The program wrote something, which is on the screen already.
    pub(super) fn on_output(&mut self, bytes: &[u8]) {
        if !self.is_direct() {
            return;
        }
        self.backlog.extend(bytes);
        self.flush();
        if !self.backlog.is_empty() {
            let now = Instant::now();
            if self.not_waited_for_before.is_some_and(|end| now < end) {
                self.fall_behind();
            } else {
                self.waited_for_until.get_or_insert(now + PATIENCE);
            }
        }
    }

    /// The program has waited long enough.
    pub(super) fn on_deadline(&mut self, now: Instant) {
        if self.waited_for_until.is_some_and(|until| until <= now) {
            self.not_waited_for_before = Some(now + IMPATIENCE);
            self.fall_behind();
        }
    }

    fn fall_behind(&mut self) {
        self.abandon_backlog();
        self.behind = true;
    }

    /// Paints what has changed, if it is shown frames and has taken the last one.
    pub(super) fn paint(&mut self, screen: &Screen) {
        if let Way::Painted(painter) = &mut self.way
            && self.backlog.is_empty()
        {
            self.backlog.extend(painter.paint(screen));
            self.flush();
        }
    }

    /// It has room for more output.
    pub(super) fn on_credit(&mut self, bytes: u32, screen: &Screen) {
        self.credit.grant(bytes);
        if self.behind && self.credit.available() >= STREAM_WINDOW_BYTES / 2 {
            self.behind = false;
            self.backlog.extend(self.sent.restoration());
            self.backlog.extend(screen.redraw(false));
        }
        if self.waited_for_until.is_some() {
            self.waited_for_until = Some(Instant::now() + PATIENCE);
        }
        self.flush();
    }

    /// It typed something.
    ///
    /// # Errors
    /// If it had no credit for that.
    pub(super) fn on_input(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.input.receive(u32::try_from(bytes.len()).unwrap_or(u32::MAX))
    }

    /// What it typed has left for the program, or is not for it.
    pub(super) fn took_input(&mut self, bytes: usize) {
        if let Some(grant) = self.input.deliver(u32::try_from(bytes).unwrap_or(u32::MAX)) {
            self.send(Frame::Credit(ByteStream::Stdin, grant));
        }
    }

    /// The program has ended; `exit` is the last frame's content.
    pub(super) fn finish(&mut self, exit: Vec<u8>, screen: &Screen) {
        if self.behind {
            // It will take no more before it has seen the rest.
            self.behind = false;
            self.backlog.extend(self.sent.restoration());
            self.backlog.extend(screen.redraw(false));
        } else if let Way::Painted(painter) = &mut self.way {
            self.backlog.extend(painter.paint(screen));
            self.backlog.extend(b"\x1b[?1049l\x1b[?7h");
        }
        self.exit = Some(exit);
        self.flush();
    }

    /// As [`Viewer::finish`], for one that came after the end: it sees `last`.
    pub(super) fn show_end(&mut self, last: &[u8], exit: Vec<u8>) {
        self.backlog.extend(last);
        self.exit = Some(exit);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.backlog.is_empty() && self.credit.available() > 0 {
            let length = self.backlog.len().min(self.credit.available() as usize).min(MAX_FRAME_BYTES);
            let piece: Vec<u8> = self.backlog.drain(..length).collect();
            self.sent.feed(&piece);
            self.credit.spend(u32::try_from(length).unwrap_or(u32::MAX));
            self.send(Frame::Data(ByteStream::Stdout, piece));
        }
        if self.backlog.is_empty() {
            self.waited_for_until = None;
            if let Some(exit) = self.exit.take() {
                self.send(Frame::End(ByteStream::Stdout));
                self.send(Frame::End(ByteStream::Stderr));
                self.send(Frame::Exit(exit));
                self.is_finished = true;
            }
        }
    }

    fn send(&self, frame: Frame) {
        // Fails only for one that has gone, which is about to be noticed.
        let _ = self.frames.send(frame);
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // What is queued is still written; nothing more is read.
        self.reading.abort();
    }
}

async fn read(id: u64, mut reader: FrameReader<tokio::net::unix::OwnedReadHalf>, events: mpsc::Sender<Event>) {
    // A viewer that breaks the protocol has left, too.
    while let Ok(Some(frame)) = reader.next().await {
        if events.send(Event::Frame(id, frame)).await.is_err() {
            return;
        }
    }
    let _ = events.send(Event::Gone(id)).await;
}

async fn write(mut writer: FrameWriter<OwnedWriteHalf>, mut queue: mpsc::UnboundedReceiver<Frame>) {
    while let Some(frame) = queue.recv().await {
        if writer.send(&frame).await.is_err() {
            return;
        }
    }
    let _ = writer.close().await;
}
