//! The pump against a guest played by the test, over a pair of connected streams.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as BlockingStream;

use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use viv_proto::STREAM_WINDOW_BYTES;

use super::*;

/// The guest's end.
struct Guest {
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: FrameWriter<WriteHalf<DuplexStream>>,
}

impl Guest {
    async fn send(&mut self, frame: Frame) {
        self.writer.send(&frame).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        self.reader.next().await.unwrap().expect("the host still speaks")
    }

    async fn exit(&mut self, code: i32) {
        self.send(Frame::End(ByteStream::Stdout)).await;
        self.send(Frame::End(ByteStream::Stderr)).await;
        let report = ExitReport { code, signal: None, out_of_memory_kills: 0, scratch_full: false, settled: false };
        self.send(Frame::Exit(serde_json::to_vec(&report).unwrap())).await;
    }
}

/// A stdin that neither ends nor has anything to read, as long as its other end is held.
fn open_stdin() -> (BlockingStream, Box<dyn Read + Send>) {
    let (theirs, ours) = BlockingStream::pair().unwrap();
    (theirs, Box::new(ours))
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A sink that takes nothing until its other end is read.
fn stalled() -> (BlockingStream, Box<dyn Write + Send>) {
    let (theirs, ours) = BlockingStream::pair().unwrap();
    (theirs, Box::new(ours))
}

const PIPES: SessionOptions = SessionOptions { terminal: false, timeout: None, detach: None };

type Running = JoinHandle<(End<&'static str>, Summary)>;

fn begin(streams: Streams, options: SessionOptions) -> (Guest, Running) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(ours);
    let session = Session::begin(FrameWriter::new(writer), streams, options).unwrap();
    let running = tokio::spawn(async move {
        let mut signals = Signals::listen().unwrap();
        session.run(FrameReader::new(reader, &[]), &mut signals, std::future::pending()).await
    });
    let (reader, writer) = tokio::io::split(theirs);
    (Guest { reader: FrameReader::new(reader, &[]), writer: FrameWriter::new(writer) }, running)
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn outputs_and_the_exit_code_arrive_though_stdin_stays_open() {
    block_on(async {
        let (_held, stdin) = open_stdin();
        let (stdout, stderr) = (Sink::default(), Sink::default());
        let streams = Streams { stdin, stdout: Box::new(stdout.clone()), stderr: Box::new(stderr.clone()) };
        let (mut guest, running) = begin(streams, PIPES);
        guest.send(Frame::Data(ByteStream::Stdout, b"out\n".to_vec())).await;
        guest.send(Frame::Data(ByteStream::Stderr, b"err".to_vec())).await;
        guest.exit(3).await;
        let (end, summary) = running.await.unwrap();
        assert!(matches!(end, End::Exited(ExitReport { code: 3, .. })), "{end:?}");
        assert_eq!((stdout.text().as_str(), stderr.text().as_str()), ("out\n", "err"));
        assert!(summary.stderr_unfinished && summary.first_output.is_some());
    });
}

#[test]
fn stdin_is_read_only_as_far_as_there_is_credit() {
    block_on(async {
        let streams =
            Streams { stdin: Box::new(io::repeat(7)), stdout: Box::new(io::sink()), stderr: Box::new(io::sink()) };
        let (mut guest, running) = begin(streams, PIPES);
        let mut received = 0;
        while received < STREAM_WINDOW_BYTES as usize {
            match guest.next().await {
                Frame::Data(ByteStream::Stdin, bytes) => received += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(received, STREAM_WINDOW_BYTES as usize);
        // The next bytes are the ones granted, no more.
        guest.send(Frame::Credit(ByteStream::Stdin, 10)).await;
        assert_eq!(guest.next().await, Frame::Data(ByteStream::Stdin, vec![7; 10]));
        guest.exit(0).await;
        assert!(matches!(running.await.unwrap().0, End::Exited(_)));
    });
}

#[test]
fn the_end_of_stdin_is_told() {
    block_on(async {
        let streams =
            Streams { stdin: Box::new(&b"hello"[..]), stdout: Box::new(io::sink()), stderr: Box::new(io::sink()) };
        let (mut guest, running) = begin(streams, PIPES);
        assert_eq!(guest.next().await, Frame::Data(ByteStream::Stdin, b"hello".to_vec()));
        assert_eq!(guest.next().await, Frame::End(ByteStream::Stdin));
        guest.exit(0).await;
        running.await.unwrap();
    });
}

#[test]
fn a_stalled_stdout_stalls_neither_stderr_nor_credit() {
    block_on(async {
        let (_held, stdin) = open_stdin();
        let (mut reader_of_stdout, stdout) = stalled();
        let stderr = Sink::default();
        let streams = Streams { stdin, stdout, stderr: Box::new(stderr.clone()) };
        let (mut guest, running) = begin(streams, PIPES);
        let chunk = vec![b'x'; 1 << 15];
        let total = STREAM_WINDOW_BYTES as usize;
        for _ in 0..total / chunk.len() {
            guest.send(Frame::Data(ByteStream::Stdout, chunk.clone())).await;
        }
        // Four windows of stderr flow while nobody reads stdout.
        let mut granted = total;
        let mut sent = 0;
        while sent < 4 * total {
            if granted < chunk.len() {
                match guest.next().await {
                    Frame::Credit(ByteStream::Stderr, more) => granted += more as usize,
                    // What the socket's own buffer took.
                    Frame::Credit(ByteStream::Stdout, _) => {}
                    other => panic!("{other:?}"),
                }
                continue;
            }
            guest.send(Frame::Data(ByteStream::Stderr, chunk.clone())).await;
            granted -= chunk.len();
            sent += chunk.len();
        }
        guest.exit(0).await;
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader_of_stdout.read_to_end(&mut all).map(|_| all.len()).unwrap()
        });
        assert!(matches!(running.await.unwrap().0, End::Exited(_)));
        assert_eq!((reading.join().unwrap(), stderr.0.lock().unwrap().len()), (total, sent));
    });
}

#[test]
fn a_reader_that_goes_away_ends_the_program_as_a_pipe_does() {
    block_on(async {
        let (_held, stdin) = open_stdin();
        let (reader_of_stdout, stdout) = stalled();
        drop(reader_of_stdout);
        let (mut guest, running) = begin(Streams { stdin, stdout, stderr: Box::new(io::sink()) }, PIPES);
        guest.send(Frame::Data(ByteStream::Stdout, b"y\n".to_vec())).await;
        assert_eq!(guest.next().await, Frame::Signal(libc::SIGPIPE as u8));
        assert!(matches!(running.await.unwrap().0, End::BrokenPipe));
    });
}

#[test]
fn errors_nobody_reads_do_not_stop_the_program() {
    block_on(async {
        let (_held, stdin) = open_stdin();
        let (reader_of_stderr, stderr) = stalled();
        drop(reader_of_stderr);
        let (mut guest, running) = begin(Streams { stdin, stdout: Box::new(io::sink()), stderr }, PIPES);
        let chunk = vec![b'e'; 1 << 16];
        let mut credit = STREAM_WINDOW_BYTES as usize;
        for _ in 0..8 {
            while credit < chunk.len() {
                match guest.next().await {
                    Frame::Credit(ByteStream::Stderr, more) => credit += more as usize,
                    other => panic!("{other:?}"),
                }
            }
            guest.send(Frame::Data(ByteStream::Stderr, chunk.clone())).await;
            credit -= chunk.len();
        }
        guest.exit(0).await;
        assert!(matches!(running.await.unwrap().0, End::Exited(_)));
    });
}

#[test]
fn a_timeout_kills() {
    block_on(async {
        let (_held, stdin) = open_stdin();
        let options = SessionOptions { timeout: Some(Duration::from_millis(1)), ..PIPES };
        let streams = Streams { stdin, stdout: Box::new(io::sink()), stderr: Box::new(io::sink()) };
        let (mut guest, running) = begin(streams, options);
        assert_eq!(guest.next().await, Frame::Signal(libc::SIGKILL as u8));
        assert!(matches!(running.await.unwrap().0, End::TimedOut));
    });
}

#[test]
fn a_guest_that_breaks_the_protocol_is_cut_off() {
    let nonsense: [(&str, Vec<Frame>); 5] = [
        ("more than was granted", vec![Frame::Data(ByteStream::Stdout, vec![0; 1 << 16]); 5]),
        ("data after its end", vec![Frame::End(ByteStream::Stdout), Frame::Data(ByteStream::Stdout, vec![0])]),
        ("a host's frame", vec![Frame::Signal(9)]),
        ("stdin from the guest", vec![Frame::Data(ByteStream::Stdin, vec![0])]),
        ("no report", vec![Frame::Exit(b"nonsense".to_vec())]),
    ];
    for (name, frames) in nonsense {
        block_on(async {
            let (_held, stdin) = open_stdin();
            let (_unread, stdout) = stalled();
            // Nobody reads, so that nothing is granted anew beyond what a socket holds.
            let (mut guest, running) = begin(Streams { stdin, stdout, stderr: Box::new(io::sink()) }, PIPES);
            for frame in frames.into_iter().cycle().take(64) {
                if guest.writer.send(&frame).await.is_err() {
                    break;
                }
            }
            let end = running.await.unwrap().0;
            assert!(matches!(end, End::Disconnected(Some(_))), "{name}: {end:?}");
        });
    }
}

#[test]
fn a_link_that_breaks_ends_the_session() {
    block_on(async {
        let (_held, stdin) = open_stdin();
        let streams = Streams { stdin, stdout: Box::new(io::sink()), stderr: Box::new(io::sink()) };
        let (guest, running) = begin(streams, PIPES);
        drop(guest);
        assert!(matches!(running.await.unwrap().0, End::Disconnected(None)));
    });
}

#[test]
fn the_keys_to_leave_end_the_session_and_not_the_program() {
    block_on(async {
        let (mut keys, stdin) = open_stdin();
        let streams = Streams { stdin, stdout: Box::new(io::sink()), stderr: Box::new(io::sink()) };
        let options = SessionOptions { detach: Some(crate::terminal::DetachKeys::default()), ..PIPES };
        let (mut guest, running) = begin(streams, options);
        keys.write_all(b"a\x10").unwrap();
        assert_eq!(guest.next().await, Frame::Data(ByteStream::Stdin, b"a".to_vec()));
        // Half of it, and nothing more for a while.
        assert_eq!(guest.next().await, Frame::Data(ByteStream::Stdin, b"\x10".to_vec()));
        keys.write_all(b"\x10b").unwrap();
        assert_eq!(guest.next().await, Frame::Data(ByteStream::Stdin, b"\x10b".to_vec()));
        keys.write_all(b"c\x10\x11").unwrap();
        assert_eq!(guest.next().await, Frame::Data(ByteStream::Stdin, b"c".to_vec()));
        assert!(matches!(running.await.unwrap().0, End::Detached));
        // No signal: the connection is closed, and that is all.
        assert!(guest.reader.next().await.unwrap().is_none());
    });
}
