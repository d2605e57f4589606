//! One session: a program on a terminal that the monitor keeps, and its viewers.
//!
//! The program never waits for somebody to look. Its bytes are drawn on the kept screen and granted anew at
//! once; the one exception is a viewer that takes bytes, only slowly, to whose pace the program is held as a
//! terminal's would be, and who gets a second for each step.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use viv_link::{FrameReader, FrameWriter};
use viv_proto::MAX_FRAME_BYTES;
use viv_proto::credit::{ReceiveCredit, SendCredit};
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::message::{ExitReport, TerminalSize};

use super::reports::without_answers;
use super::screen::{Screen, bounded};
use super::size::{Window, decide};
use super::viewer::Viewer;
use crate::sessions::{
    MOST_VIEWERS, Recorder, SessionAnswer, SessionEnd, SessionEvent, SessionInfo, SizePolicy, Viewing,
};
use crate::{Error, ErrorKind};

/// Between two frames painted for a viewer whose window has another size.
const FRAME: Duration = Duration::from_millis(40);

/// How much output is drawn in one go, in bytes, and how long before others get their turn: a few bytes can ask
/// for a great deal of drawing.
const DRAWN_AT_ONCE: usize = 256;
const TURN: Duration = Duration::from_millis(5);

/// How long viewers have to take the rest once the program has ended, before others hear of the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// How much of a terminal's answers waits for a program that does not read them, in bytes: as much as Linux keeps
/// of what is typed (`N_TTY_BUF_SIZE`). A program could ask for ever.
const MOST_ANSWER_BYTES: usize = 4096;

/// The signal that hanging up a terminal sends.
const HUNG_UP: i32 = 1;

/// The exit code of a program whose time was up, as timeout(1) has it.
const TIMED_OUT: i32 = 124;

/// What a session is told.
pub(super) enum Event {
    /// Someone wants to look, and has been answered nothing yet.
    Attach(Arrival),
    /// From a viewer.
    Frame(u64, Frame),
    /// A viewer has left.
    Gone(u64),
    /// The terminal is to be hung up.
    End,
}

/// Someone who wants to look.
pub(super) struct Arrival {
    pub(super) stream: UnixStream,
    /// What came behind the request.
    pub(super) rest: Vec<u8>,
    pub(super) viewing: Viewing,
    pub(super) size_policy: Option<SizePolicy>,
    /// Whether it is whom the program was started for: nothing has been shown yet, and the viewer's window
    /// stays as it is.
    pub(super) is_first: bool,
}

/// What others see of a session.
pub(super) struct Shared {
    info: Mutex<SessionInfo>,
    /// The command as it was asked for; others see its beginning.
    command: Vec<String>,
    /// Greater for one used later.
    used: AtomicU64,
}

impl Shared {
    pub(super) fn new(mut info: SessionInfo) -> Self {
        let beginning = super::shown(&info.command);
        let command = std::mem::replace(&mut info.command, beginning);
        let shared = Self { info: Mutex::new(info), command, used: AtomicU64::new(0) };
        shared.touch();
        shared
    }

    pub(super) fn info(&self) -> MutexGuard<'_, SessionInfo> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same with the whole command.
    pub(super) fn whole(&self) -> SessionInfo {
        SessionInfo { command: self.command.clone(), ..self.info().clone() }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// It was used just now. Returns when, which is later than any other time.
    fn touch(&self) -> u64 {
        static NOW: AtomicU64 = AtomicU64::new(1);
        let now = NOW.fetch_add(1, Ordering::Relaxed);
        self.used.store(now, Ordering::Relaxed);
        now
    }
}

/// Whoever keeps what the sessions of a sandbox show.
pub(super) type SharedRecorder = Arc<Mutex<Box<dyn Recorder>>>;

/// A program's connection.
struct Program<S> {
    reader: FrameReader<ReadHalf<S>>,
    frames: mpsc::UnboundedSender<Frame>,
    output: ReceiveCredit,
    credit: SendCredit,
    /// Typed, by whom (0 for nobody), and not yet sent; each viewer has a window of its own.
    typed: VecDeque<(u64, Vec<u8>)>,
    /// How much of that is nobody's: answers to what it asked.
    answer_bytes: usize,
}

/// A session.
pub(super) struct Session<S> {
    shared: Arc<Shared>,
    recorder: SharedRecorder,
    screen: Screen,
    policy: SizePolicy,
    viewers: Vec<Viewer>,
    next_viewer: u64,
    /// None once it has ended.
    program: Option<Program<S>>,
    /// When frames are to be painted.
    paint_at: Option<Instant>,
    /// What is shown to those who come after the end, and the last frame they get; empty if how it ended is
    /// not known.
    last: Vec<u8>,
    exit: Vec<u8>,
    events: mpsc::WeakSender<Event>,
    /// When the program's time is up, and after its end that of its viewers.
    deadline: Option<Instant>,
    /// Called once the program has ended and its viewers know, or have had time to.
    on_end: Option<Box<dyn FnOnce(Option<ExitReport>) + Send>>,
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Session<S> {
    /// Of a program that was started; `stream` is its connection, `rest` what came behind the answer.
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: S,
        rest: &[u8],
        recorder: SharedRecorder,
        events: mpsc::WeakSender<Event>,
        timeout: Option<Duration>,
        on_end: Box<dyn FnOnce(Option<ExitReport>) + Send>,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (frames, queue) = mpsc::unbounded_channel();
        tokio::spawn(write(FrameWriter::new(writer), queue));
        let program = Program {
            reader: FrameReader::new(reader, rest),
            frames,
            output: ReceiveCredit::default(),
            credit: SendCredit::default(),
            typed: VecDeque::new(),
            answer_bytes: 0,
        };
        let info = shared.whole();
        let session = Self {
            screen: Screen::new(info.size),
            policy: info.size_policy,
            viewers: Vec::new(),
            next_viewer: 1,
            program: Some(program),
            paint_at: None,
            last: Vec::new(),
            exit: Vec::new(),
            events,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            on_end: Some(on_end),
            shared,
            recorder,
        };
        session.record(SessionEvent::Began(&info));
        session
    }

    /// Serves it for as long as someone can tell it something.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            let waited_for_until = self.viewers.iter().filter_map(Viewer::waited_for_until).min();
            tokio::select! {
                // Who leaves or presses ctrl-C comes before what the program says.
                biased;
                event = events.recv() => match event {
                    Some(event) => self.on_event(event).await,
                    None => return,
                },
                () = at(waited_for_until) => {
                    let now = Instant::now();
                    self.viewers.iter_mut().for_each(|viewer| viewer.on_deadline(now));
                }
                () = at(self.deadline) => {
                    self.deadline = None;
                    if self.program.is_some() {
                        self.end(Some(ended_by_us(TIMED_OUT)));
                    } else {
                        self.conclude();
                    }
                }
                () = at(self.paint_at) => {
                    self.paint_at = None;
                    self.viewers.iter_mut().for_each(|viewer| viewer.paint(&self.screen));
                }
                frame = next_frame(&mut self.program), if waited_for_until.is_none() => match frame {
                    Ok(Some(frame)) => self.on_frame(frame).await,
                    Ok(None) | Err(_) => self.end(None),
                },
            }
            self.settle();
        }
    }

    /// Forgets viewers that have got everything, and tells of an end that all know.
    fn settle(&mut self) {
        self.viewers.retain(|viewer| !viewer.is_finished());
        self.shared.info().viewers = self.viewers.len();
        if self.program.is_none() && self.viewers.is_empty() {
            self.conclude();
        }
    }

    /// Tells of the end, once, and forgets the screen: what is shown of it from now on is kept apart.
    fn conclude(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            let report = self.shared.info().ended.as_ref().and_then(|end| end.report.clone());
            on_end(report);
            self.deadline = None;
            self.screen = Screen::new(TerminalSize { columns: 1, rows: 1 });
        }
    }

    fn record(&self, event: SessionEvent<'_>) {
        let number = self.shared.info().number;
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.record(number, now_unix_ms(), event);
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Attach(arrival) => self.attach(arrival).await,
            Event::Frame(id, frame) => self.on_viewer_frame(id, frame),
            Event::Gone(id) => {
                self.viewers.retain(|viewer| viewer.id != id);
                self.apply_sizes(None);
            }
            // Its end of the connection closed, the guest hangs up the terminal and then kills what is left.
            Event::End => self.end(Some(ended_by_us(128 + HUNG_UP))),
        }
    }

    async fn attach(&mut self, arrival: Arrival) {
        let Arrival { mut stream, rest, viewing, size_policy, is_first } = arrival;
        if self.viewers.len() >= MOST_VIEWERS {
            let refusal = Error::new(ErrorKind::BadRequest, format!("the session has {MOST_VIEWERS} viewers already"));
            return super::refuse(&mut stream, &refusal).await;
        }
        if let Some(policy) = size_policy {
            self.policy = policy;
            self.shared.info().size_policy = policy;
        }
        let id = self.next_viewer;
        self.next_viewer += 1;
        let used = self.shared.touch();
        let windows =
            self.windows().chain((!viewing.read_only).then_some(Window { size: bounded(viewing.size), used }));
        let size = decide(self.policy, windows.collect::<Vec<_>>().into_iter());
        let answer = {
            let mut info = self.shared.info();
            info.viewers += 1;
            if let (Some(size), None) = (size, &info.ended) {
                info.size = size;
            }
            SessionAnswer::Session(Box::new(info.clone()))
        };
        // A new connection takes a line without being waited for.
        if super::answer(&mut stream, &answer).await.is_err() {
            return;
        }
        let Some(events) = self.events.upgrade() else { return };
        let mut viewer = Viewer::new(id, stream, &rest, viewing, events);
        viewer.used = used;
        if self.program.is_none() {
            // If it is not known how it ended, the connection ends without a word.
            if !self.exit.is_empty() {
                viewer.show_end(&self.last, self.exit.clone());
                self.viewers.push(viewer);
            }
            return;
        }
        self.resize(size);
        if !is_first {
            viewer.begin(&self.screen);
        }
        self.viewers.push(viewer);
    }

    fn on_viewer_frame(&mut self, id: u64, frame: Frame) {
        let answers = self.answers();
        let Some(viewer) = self.viewers.iter_mut().find(|viewer| viewer.id == id) else { return };
        let understood = match frame {
            Frame::Data(ByteStream::Stdin, bytes) => match viewer.on_input(&bytes) {
                Ok(()) if viewer.read_only || self.program.is_none() => {
                    viewer.took_input(bytes.len());
                    true
                }
                Ok(()) => {
                    let typed = if answers == Some(id) { bytes.clone() } else { without_answers(&bytes) };
                    viewer.took_input(bytes.len() - typed.len());
                    viewer.used = self.shared.touch();
                    self.type_in(id, typed);
                    if self.policy == SizePolicy::Newest {
                        self.apply_sizes(None);
                    }
                    true
                }
                Err(_) => false,
            },
            Frame::Credit(ByteStream::Stdout, bytes) => {
                viewer.on_credit(bytes, &self.screen);
                if viewer.is_painted() {
                    self.paint_at.get_or_insert(Instant::now() + FRAME);
                }
                true
            }
            Frame::Resize { columns, rows } => {
                viewer.size = bounded(TerminalSize { columns, rows });
                viewer.used = self.shared.touch();
                self.apply_sizes(Some(id));
                true
            }
            Frame::Signal(number) => {
                if !viewer.read_only {
                    self.tell_program(Frame::Signal(number));
                }
                true
            }
            Frame::End(ByteStream::Stdin) | Frame::Credit(..) => true,
            Frame::Data(..) | Frame::End(_) | Frame::Exit(_) => false,
        };
        if !understood {
            self.viewers.retain(|viewer| viewer.id != id);
            self.apply_sizes(None);
        }
    }

    /// The viewer whose terminal answers what the program asks: of those that are asked, the last to come.
    fn answers(&self) -> Option<u64> {
        self.viewers.iter().filter(|viewer| viewer.is_direct() && !viewer.read_only).map(|viewer| viewer.id).max()
    }

    /// Sends what was typed, as far as the program has room.
    fn type_in(&mut self, id: u64, bytes: Vec<u8>) {
        let Some(program) = &mut self.program else { return };
        if !bytes.is_empty() {
            program.answer_bytes += if id == 0 { bytes.len() } else { 0 };
            program.typed.push_back((id, bytes));
        }
        while program.credit.available() > 0
            && let Some((id, bytes)) = program.typed.front_mut()
        {
            let length = bytes.len().min(program.credit.available() as usize).min(MAX_FRAME_BYTES);
            let piece: Vec<u8> = bytes.drain(..length).collect();
            if let Some(viewer) = self.viewers.iter_mut().find(|viewer| viewer.id == *id) {
                viewer.took_input(length);
            }
            program.answer_bytes -= if *id == 0 { length } else { 0 };
            if bytes.is_empty() {
                program.typed.pop_front();
            }
            program.credit.spend(u32::try_from(length).unwrap_or(u32::MAX));
            let _ = program.frames.send(Frame::Data(ByteStream::Stdin, piece));
        }
    }

    fn tell_program(&self, frame: Frame) {
        if let Some(program) = &self.program {
            // One that has ended is about to be noticed.
            let _ = program.frames.send(frame);
        }
    }

    fn windows(&self) -> impl Iterator<Item = Window> + Clone {
        let typing = self.viewers.iter().filter(|viewer| !viewer.read_only);
        typing.map(|viewer| Window { size: viewer.size, used: viewer.used })
    }

    /// Sees to it that the terminal has the size that follows from its viewers; the window of `changed` has
    /// another.
    fn apply_sizes(&mut self, changed: Option<u64>) {
        if self.program.is_none() {
            return;
        }
        let size = decide(self.policy, self.windows());
        if !self.resize(size)
            && let Some(viewer) = self.viewers.iter_mut().find(|viewer| Some(viewer.id) == changed)
        {
            viewer.on_size(&self.screen);
        }
    }

    /// Gives terminal and screen another size, if it is another, and all viewers what follows from that.
    fn resize(&mut self, size: Option<TerminalSize>) -> bool {
        let Some(size) = size.filter(|size| *size != self.screen.size()) else { return false };
        self.screen.resize(size);
        self.tell_program(Frame::Resize { columns: size.columns, rows: size.rows });
        self.shared.info().size = size;
        self.record(SessionEvent::Resized(size));
        self.viewers.iter_mut().for_each(|viewer| viewer.on_size(&self.screen));
        true
    }

    async fn on_frame(&mut self, frame: Frame) {
        let Some(program) = &mut self.program else { return };
        match frame {
            Frame::Data(ByteStream::Stdout, bytes) => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if program.output.receive(length).is_err() {
                    return self.end(None);
                }
                if let Some(grant) = program.output.deliver(length) {
                    let _ = program.frames.send(Frame::Credit(ByteStream::Stdout, grant));
                }
                self.show(&bytes).await;
            }
            Frame::Credit(ByteStream::Stdin, bytes) => {
                program.credit.grant(bytes);
                self.type_in(0, Vec::new());
            }
            Frame::Exit(report) => match serde_json::from_slice(&report) {
                Ok(report) => self.end(Some(report)),
                Err(_) => self.end(None),
            },
            Frame::End(ByteStream::Stdout | ByteStream::Stderr) => {}
            // What a guest does not send to a terminal.
            Frame::Data(..) | Frame::End(_) | Frame::Credit(..) | Frame::Resize { .. } | Frame::Signal(_) => {
                self.end(None);
            }
        }
    }

    /// The program wrote something.
    async fn show(&mut self, bytes: &[u8]) {
        self.record(SessionEvent::Output(bytes));
        let is_ours_to_answer = self.answers().is_none();
        let mut turn = Instant::now();
        for piece in bytes.chunks(DRAWN_AT_ONCE) {
            let answers = self.screen.feed(piece);
            let waiting = self.program.as_ref().map_or(0, |program| program.answer_bytes);
            // Before the bytes go out: whoever sees them may be too slow for them, and yet is asked.
            if is_ours_to_answer && waiting + answers.len() <= MOST_ANSWER_BYTES {
                self.type_in(0, answers);
            }
            if turn.elapsed() > TURN {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
        }
        self.viewers.iter_mut().for_each(|viewer| viewer.on_output(bytes));
        if self.viewers.iter().any(Viewer::is_painted) {
            self.paint_at.get_or_insert(Instant::now() + FRAME);
        }
    }

    /// It has ended; without a report, the connection to the program was lost.
    fn end(&mut self, report: Option<ExitReport>) {
        if self.program.take().is_none() {
            return;
        }
        self.deadline = Some(Instant::now() + FAREWELL);
        let end = SessionEnd { at_unix_ms: now_unix_ms(), report };
        self.last = self.screen.last_lines();
        match &end.report {
            Some(report) => {
                // Numbers always have a JSON form.
                self.exit = serde_json::to_vec(report).unwrap_or_default();
                for viewer in &mut self.viewers {
                    viewer.finish(self.exit.clone(), &self.screen);
                }
            }
            None => self.viewers.clear(),
        }
        self.record(SessionEvent::Ended(&end));
        self.shared.info().ended = Some(end);
    }
}

/// What is said of a program whose connection is closed: the guest then hangs up its terminal, and soon kills
/// what is left of its session.
fn ended_by_us(code: i32) -> ExitReport {
    ExitReport { code, signal: Some(HUNG_UP), out_of_memory_kills: 0, scratch_full: false, settled: false }
}

/// The next frame of a program that runs.
async fn next_frame<S: AsyncRead + AsyncWrite + Unpin>(
    program: &mut Option<Program<S>>,
) -> std::io::Result<Option<Frame>> {
    match program {
        Some(program) => program.reader.next().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut writer: FrameWriter<WriteHalf<S>>,
    mut queue: mpsc::UnboundedReceiver<Frame>,
) {
    while let Some(frame) = queue.recv().await {
        if writer.send(&frame).await.is_err() {
            return;
        }
    }
    let _ = writer.close().await;
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
