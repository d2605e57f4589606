//! Sessions of a program that the test plays itself, with viewers on real sockets.

use tokio::io::DuplexStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use viv_proto::STREAM_WINDOW_BYTES;

use super::*;

const SIZE: TerminalSize = TerminalSize { columns: 80, rows: 24 };

fn report(code: i32) -> ExitReport {
    ExitReport { code, signal: None, out_of_memory_kills: 0, scratch_full: false, settled: false }
}

/// What a recorder was told, shortened.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Recorder for Heard {
    fn record(&mut self, number: u32, at_unix_ms: u64, event: SessionEvent<'_>) {
        assert!(at_unix_ms > 0);
        let event = match event {
            SessionEvent::Began(info) => format!("{number} began {}", info.command.join(" ")),
            SessionEvent::Output(bytes) => format!("{number} wrote {}", bytes.escape_ascii()),
            SessionEvent::Resized(size) => format!("{number} {}x{}", size.columns, size.rows),
            SessionEvent::Ended(end) => format!("{number} ended {:?}", end.report.as_ref().map(|report| report.code)),
        };
        self.0.lock().unwrap().push(event);
    }
}

/// The guest's end of a session.
struct Guest {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: FrameWriter<WriteHalf<DuplexStream>>,
    credit: SendCredit,
    heard: Heard,
    ended: oneshot::Receiver<Option<ExitReport>>,
}

impl Guest {
    fn start(policy: SizePolicy, timeout: Option<Duration>) -> Self {
        let info = SessionInfo {
            number: 1,
            name: None,
            command: vec!["vim".to_owned()],
            user: "agent".to_owned(),
            cwd: String::new(),
            environment: Vec::new(),
            pid: 42,
            size: SIZE,
            size_policy: policy,
            began_at_unix_ms: 1,
            viewers: 0,
            ended: None,
        };
        let shared = Arc::new(Shared::new(info));
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (events, queue) = mpsc::channel(8);
        let (on_end, ended) = oneshot::channel();
        let heard = Heard::default();
        let recorder: SharedRecorder = Arc::new(Mutex::new(Box::new(heard.clone())));
        let on_end = Box::new(|report| drop(on_end.send(report)));
        let session = Session::new(Arc::clone(&shared), theirs, &[], recorder, events.downgrade(), timeout, on_end);
        tokio::spawn(session.run(queue));
        let (reader, writer) = tokio::io::split(ours);
        let (reader, writer) = (FrameReader::new(reader, &[]), FrameWriter::new(writer));
        Self { shared, events, reader, writer, credit: SendCredit::default(), heard, ended }
    }

    /// Writes, and waits for room as a guest does.
    async fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            while self.credit.available() == 0 {
                match self.next().await {
                    Frame::Credit(ByteStream::Stdout, bytes) => self.credit.grant(bytes),
                    other => panic!("{other:?}"),
                }
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.credit.available() as usize).min(MAX_FRAME_BYTES));
            self.credit.spend(now.len() as u32);
            self.writer.send(&Frame::Data(ByteStream::Stdout, now.to_vec())).await.unwrap();
            bytes = later;
        }
    }

    async fn next(&mut self) -> Frame {
        self.reader.next().await.unwrap().expect("the session closed the connection")
    }

    /// The next frame that is not credit.
    async fn told(&mut self) -> Frame {
        loop {
            match self.next().await {
                Frame::Credit(ByteStream::Stdout, bytes) => self.credit.grant(bytes),
                other => return other,
            }
        }
    }

    async fn exit(&mut self, code: i32) {
        self.writer.send(&Frame::End(ByteStream::Stdout)).await.unwrap();
        self.writer.send(&Frame::Exit(serde_json::to_vec(&report(code)).unwrap())).await.unwrap();
    }

    async fn attach(&self, viewing: Viewing) -> Watcher {
        self.arrive(viewing, false).await
    }

    async fn arrive(&self, viewing: Viewing, is_first: bool) -> Watcher {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let arrival = Arrival { stream: theirs, rest: Vec::new(), viewing, size_policy: None, is_first };
        self.events.send(Event::Attach(arrival)).await.unwrap();
        let mut rest = Vec::new();
        let mut ours = ours;
        let line = viv_link::line::read_line(&mut ours, &mut rest).await.unwrap().unwrap();
        let info = match serde_json::from_slice(&line).unwrap() {
            SessionAnswer::Session(info) => *info,
            other => panic!("{other:?}"),
        };
        let (reader, writer) = ours.into_split();
        let (reader, writer) = (FrameReader::new(reader, &rest), FrameWriter::new(writer));
        Watcher { info, reader, writer, screen: Screen::new(viewing.size) }
    }
}

/// A viewer, with a terminal that shows what it is sent.
struct Watcher {
    info: SessionInfo,
    reader: FrameReader<OwnedReadHalf>,
    writer: FrameWriter<OwnedWriteHalf>,
    screen: Screen,
}

impl Watcher {
    /// What a session that has ended does not take makes no difference.
    async fn send(&mut self, frame: Frame) {
        let _ = self.writer.send(&frame).await;
    }

    async fn type_in(&mut self, text: &[u8]) {
        self.send(Frame::Data(ByteStream::Stdin, text.to_vec())).await;
    }

    /// Takes what it is sent until its terminal shows something.
    async fn until(&mut self, text: &str) {
        while !self.text().contains(text) {
            match self.reader.next().await.unwrap().expect("the session closed the connection") {
                Frame::Data(ByteStream::Stdout, bytes) => {
                    self.screen.feed(&bytes);
                    self.send(Frame::Credit(ByteStream::Stdout, bytes.len() as u32)).await;
                }
                other => panic!("{other:?} before {text:?}"),
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for row in 0..usize::from(self.screen.size().rows) {
            self.screen.row(row, usize::MAX, &mut text);
            text.push('\n');
        }
        text
    }

    /// Takes the rest.
    async fn exit(mut self) -> (i32, String) {
        loop {
            match self.reader.next().await.unwrap().expect("no exit") {
                Frame::Exit(report) => {
                    let report: ExitReport = serde_json::from_slice(&report).unwrap();
                    return (report.code, self.text());
                }
                Frame::Data(_, bytes) => drop(self.screen.feed(&bytes)),
                _ => {}
            }
        }
    }
}

fn window(columns: u16, rows: u16) -> Viewing {
    Viewing { size: TerminalSize { columns, rows }, read_only: false }
}

#[tokio::test]
async fn nobody_needs_to_look() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    // Many windows' worth: it would stand still if nobody granted anything.
    let line = [b'x'; 79].iter().copied().chain(*b"\n").collect::<Vec<u8>>();
    for _ in 0..4 * STREAM_WINDOW_BYTES as usize / line.len() {
        guest.write(&line).await;
    }
    guest.write(b"\rthe end").await;
    let mut watcher = guest.attach(window(80, 24)).await;
    assert_eq!(watcher.info.viewers, 1);
    watcher.until("the end").await;
    guest.exit(3).await;
    assert_eq!(watcher.exit().await.0, 3);
    // Who comes afterwards is told.
    let late = guest.attach(window(80, 24)).await;
    assert_eq!(late.info.ended.as_ref().unwrap().report, Some(report(3)));
    let (code, text) = late.exit().await;
    assert!(code == 3 && text.contains("the end"), "{text}");
    assert_eq!((&mut guest.ended).await.unwrap(), Some(report(3)));
}

#[tokio::test]
async fn the_first_viewer_gets_what_the_program_writes_and_nothing_else() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let mut first = guest.arrive(window(80, 24), true).await;
    let bytes = b"\x1b]0;title\x07\x1b_Gimage\x1b\\text\xff".to_vec();
    guest.write(&bytes).await;
    assert_eq!(first.reader.next().await.unwrap(), Some(Frame::Data(ByteStream::Stdout, bytes)));
}

#[tokio::test]
async fn a_viewer_that_takes_nothing_holds_up_nobody() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let mut stalled = guest.attach(window(80, 24)).await;
    let mut other = guest.attach(window(80, 24)).await;
    let busy = tokio::spawn(async move {
        other.until("the end").await;
        other
    });
    let text = "0123456789\r\n".repeat(4 * STREAM_WINDOW_BYTES as usize / 12);
    guest.write(text.as_bytes()).await;
    guest.write(b"\x1b[2Jthe end").await;
    let other = busy.await.unwrap();
    // It sees what there is now, not what went by.
    stalled.until("the end").await;
    assert_eq!(stalled.text(), other.text());
    guest.write(b" and more").await;
    stalled.until("and more").await;
}

#[tokio::test]
async fn a_slow_viewer_misses_nothing() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let mut watcher = guest.attach(window(80, 24)).await;
    let lines: String = (0..100_000).map(|line| format!("line {line}\r\n")).collect();
    let (sent, text) = (lines.clone(), lines);
    let writing = tokio::spawn(async move {
        guest.write(sent.as_bytes()).await;
        guest.exit(0).await;
        guest
    });
    let mut got = Vec::new();
    loop {
        match watcher.reader.next().await.unwrap().unwrap() {
            Frame::Data(_, bytes) => {
                got.extend(&bytes);
                watcher.send(Frame::Credit(ByteStream::Stdout, bytes.len() as u32)).await;
                tokio::task::yield_now().await;
            }
            Frame::Exit(_) => break,
            _ => {}
        }
    }
    assert!(got.ends_with(text.as_bytes()), "{} of {} bytes", got.len(), text.len());
    drop(writing.await);
}

#[tokio::test]
async fn the_smallest_window_fits_everyone() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let mut large = guest.attach(window(100, 30)).await;
    assert_eq!(guest.told().await, Frame::Resize { columns: 100, rows: 30 });
    let mut small = guest.attach(window(60, 40)).await;
    assert_eq!(guest.told().await, Frame::Resize { columns: 60, rows: 30 });
    assert_eq!(small.info.size, TerminalSize { columns: 60, rows: 30 });
    guest.write(b"\x1b[30;60H\x1b[7m!\x1b[m\x1b[1;1Hhello").await;
    large.until("hello").await;
    small.until("hello").await;
    assert_eq!(large.screen.cursor(), Some((5, 0)));
    // One has gone, however: the other gets its own size back.
    drop(small);
    assert_eq!(guest.told().await, Frame::Resize { columns: 100, rows: 30 });
    guest.write(b"\x1b[2Jwide again").await;
    large.until("wide again").await;
    large.send(Frame::Resize { columns: 90, rows: 20 }).await;
    assert_eq!(guest.told().await, Frame::Resize { columns: 90, rows: 20 });
    let heard = guest.heard.0.lock().unwrap().clone();
    assert_eq!(heard[..3], ["1 began vim", "1 100x30", "1 60x30"]);
    assert!(heard.contains(&"1 wrote \\x1b[2Jwide again".to_owned()), "{heard:?}");
}

#[tokio::test]
async fn the_newest_window_counts() {
    let mut guest = Guest::start(SizePolicy::Newest, None);
    let mut first = guest.attach(window(100, 30)).await;
    assert_eq!(guest.told().await, Frame::Resize { columns: 100, rows: 30 });
    let _second = guest.attach(window(120, 20)).await;
    assert_eq!(guest.told().await, Frame::Resize { columns: 120, rows: 20 });
    first.type_in(b"x").await;
    assert_eq!(guest.told().await, Frame::Data(ByteStream::Stdin, b"x".to_vec()));
    assert_eq!(guest.told().await, Frame::Resize { columns: 100, rows: 30 });
    let spectator = Viewing { read_only: true, ..window(10, 10) };
    let mut spectator = guest.attach(spectator).await;
    spectator.type_in(b"not for the program").await;
    spectator.send(Frame::Signal(15)).await;
    first.type_in(b"y").await;
    assert_eq!(guest.told().await, Frame::Data(ByteStream::Stdin, b"y".to_vec()));
}

#[tokio::test]
async fn one_terminal_answers() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    // Nobody looks: the monitor does.
    guest.write(b"ab\x1b[6n").await;
    assert_eq!(guest.told().await, Frame::Data(ByteStream::Stdin, b"\x1b[1;3R".to_vec()));
    let mut first = guest.attach(window(80, 24)).await;
    let mut second = guest.attach(window(80, 24)).await;
    guest.write(b"\x1b[cshown").await;
    first.until("shown").await;
    second.until("shown").await;
    first.type_in(b"\x1b[?1;2c").await;
    first.type_in(b"typed").await;
    assert_eq!(guest.told().await, Frame::Data(ByteStream::Stdin, b"typed".to_vec()));
    second.type_in(b"\x1b[?62c").await;
    assert_eq!(guest.told().await, Frame::Data(ByteStream::Stdin, b"\x1b[?62c".to_vec()));
    // Now the first is the only one.
    drop(second);
    while guest.shared.info().viewers > 1 {
        tokio::task::yield_now().await;
    }
    first.type_in(b"\x1b[?1;2c").await;
    assert_eq!(guest.told().await, Frame::Data(ByteStream::Stdin, b"\x1b[?1;2c".to_vec()));
}

/// The program asks for ever, and never reads what it is told.
#[tokio::test]
async fn what_a_program_asks_is_answered_as_far_as_it_reads() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let questions = b"\x1b[c".repeat(16_000);
    for _ in 0..4 {
        guest.writer.send(&Frame::Data(ByteStream::Stdout, questions.clone())).await.unwrap();
    }
    guest.writer.send(&Frame::Credit(ByteStream::Stdin, STREAM_WINDOW_BYTES)).await.unwrap();
    guest.exit(0).await;
    let mut told = 0;
    while let Ok(Some(frame)) = guest.reader.next().await {
        if let Frame::Data(ByteStream::Stdin, bytes) = frame {
            told += bytes.len();
        }
    }
    let window = STREAM_WINDOW_BYTES as usize;
    assert!((window..=window + MOST_ANSWER_BYTES).contains(&told), "{told}");
}

#[tokio::test]
async fn what_is_typed_waits_for_the_program() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let mut watcher = guest.attach(window(80, 24)).await;
    let mut typed = 0;
    let mut credit = SendCredit::default();
    // Twice what a program takes that reads nothing.
    while credit.available() > 0 {
        watcher.type_in(&[b'k'; 1024]).await;
        credit.spend(1024);
    }
    while typed < STREAM_WINDOW_BYTES as usize {
        match guest.told().await {
            Frame::Data(ByteStream::Stdin, bytes) => typed += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    guest.writer.send(&Frame::Credit(ByteStream::Stdin, STREAM_WINDOW_BYTES)).await.unwrap();
    watcher.type_in(b"more").await;
    assert_eq!(guest.told().await, Frame::Data(ByteStream::Stdin, b"more".to_vec()));
}

#[tokio::test]
async fn a_connection_that_is_lost() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let mut watcher = guest.attach(window(80, 24)).await;
    guest.write(b"half").await;
    watcher.until("half").await;
    let Guest { reader, writer, shared, heard, ended, .. } = guest;
    drop((reader, writer));
    assert!(watcher.reader.next().await.unwrap().is_none(), "closed, without an exit");
    assert_eq!(ended.await.unwrap(), None);
    assert!(shared.info().ended.as_ref().unwrap().report.is_none());
    assert_eq!(heard.0.lock().unwrap().last().unwrap(), "1 ended None");
}

#[tokio::test]
async fn it_is_hung_up_on_request_and_in_time() {
    let mut guest = Guest::start(SizePolicy::Smallest, None);
    let watcher = guest.attach(window(80, 24)).await;
    guest.events.send(Event::End).await.unwrap();
    assert_eq!(watcher.exit().await.0, 129);
    assert!(guest.reader.next().await.unwrap().is_none());

    let guest = Guest::start(SizePolicy::Smallest, Some(Duration::from_millis(1)));
    assert_eq!(guest.ended.await.unwrap().unwrap().code, 124);
}

#[tokio::test]
async fn there_are_so_many_viewers_at_most() {
    let guest = Guest::start(SizePolicy::Smallest, None);
    let mut watchers = Vec::new();
    for _ in 0..MOST_VIEWERS {
        watchers.push(guest.attach(window(80, 24)).await);
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let viewing = window(80, 24);
    let arrival = Arrival { stream: theirs, rest: Vec::new(), viewing, size_policy: None, is_first: false };
    guest.events.send(Event::Attach(arrival)).await.unwrap();
    let line = viv_link::line::read_line(&mut ours, &mut Vec::new()).await.unwrap().unwrap();
    assert!(
        matches!(serde_json::from_slice(&line).unwrap(), SessionAnswer::Refused(report) if report.kind == "bad_request")
    );
    watchers.pop();
    while guest.shared.info().viewers == MOST_VIEWERS {
        tokio::task::yield_now().await;
    }
    guest.attach(window(80, 24)).await;
}
