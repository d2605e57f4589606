//! Programs run on this machine, as the current user, over an in-memory connection.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use viv_link::{FrameReader, FrameWriter};
use viv_proto::STREAM_WINDOW_BYTES;
use viv_proto::envelope::Envelope;
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::message::{ExitReport, Failure, FailureKind, TerminalSize};

use super::*;
use crate::{accounts, reaper};

/// Far more than anything here takes: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(10);

struct Host {
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: FrameWriter<WriteHalf<DuplexStream>>,
    pid: u32,
    /// Without it the program's output stays where it is once the window is full.
    grants: bool,
    owed: [u32; 3],
    stdin_credit: u64,
    out: Vec<u8>,
    err: Vec<u8>,
    exit: Option<ExitReport>,
}

fn me() -> String {
    let passwd = accounts::read(std::path::Path::new("/etc/passwd")).unwrap();
    let uid = rustix::process::getuid().as_raw().to_string();
    accounts::find(&passwd, &uid).expect("the current user has an account").name
}

fn exec(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: BTreeMap::new(),
        cwd: "/".into(),
        user: me(),
        terminal: None,
    }
}

fn shell(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

fn on_terminal(script: &str) -> Exec {
    Exec { terminal: Some(TerminalSize { columns: 91, rows: 33 }), ..shell(script) }
}

impl Host {
    async fn start(wanted: &Exec) -> Result<Self, Failure> {
        reaper::start().unwrap();
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        let wanted = wanted.clone();
        tokio::spawn(async move { run(Arc::new(Guest::new(0)), theirs, Vec::new(), "7", &wanted).await });
        let mut rest = Vec::new();
        let line = viv_link::line::read_line(&mut ours, &mut rest).await.unwrap().unwrap();
        let answer = Envelope::parse(&line).unwrap();
        assert_eq!(answer.id, "7");
        if answer.kind == kind::ERROR {
            return Err(answer.payload_as().unwrap());
        }
        let started: Started = answer.payload_as().unwrap();
        let (reader, writer) = tokio::io::split(ours);
        Ok(Self {
            reader: FrameReader::new(reader, &rest),
            writer: FrameWriter::new(writer),
            pid: started.pid,
            grants: true,
            owed: [0; 3],
            stdin_credit: u64::from(STREAM_WINDOW_BYTES),
            out: Vec::new(),
            err: Vec::new(),
            exit: None,
        })
    }

    async fn send(&mut self, frame: Frame) {
        self.writer.send(&frame).await.unwrap();
    }

    async fn type_in(&mut self, text: &str) {
        self.send(Frame::Data(ByteStream::Stdin, text.as_bytes().to_vec())).await;
    }

    /// Handles the next frame; false after the last one.
    async fn step(&mut self) -> bool {
        let frame = tokio::time::timeout(PATIENCE, self.reader.next()).await.expect("a frame in time");
        match frame.unwrap().expect("a frame before the end") {
            Frame::Data(stream, bytes) => {
                let owed = &mut self.owed[stream as usize];
                *owed += u32::try_from(bytes.len()).unwrap();
                if self.grants {
                    let owed = std::mem::take(owed);
                    self.send(Frame::Credit(stream, owed)).await;
                }
                let bytes_of = if stream == ByteStream::Stdout { &mut self.out } else { &mut self.err };
                bytes_of.extend(bytes);
            }
            Frame::Credit(ByteStream::Stdin, bytes) => self.stdin_credit += u64::from(bytes),
            Frame::End(_) => {}
            Frame::Exit(report) => {
                self.exit = Some(serde_json::from_slice(&report).unwrap());
                return false;
            }
            unexpected => panic!("{unexpected:?}"),
        }
        true
    }

    async fn until_out(&mut self, wanted: &str) {
        while !String::from_utf8_lossy(&self.out).contains(wanted) {
            assert!(self.step().await, "ended with {:?}", String::from_utf8_lossy(&self.out));
        }
    }

    /// Hangs up, and waits until nothing of the program is left.
    async fn hang_up(self) {
        let group = -i32::try_from(self.pid).unwrap();
        drop(self);
        let gone = async {
            while crate::sys::kill(group, 0).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the whole session ends");
    }

    async fn run_to_end(&mut self) -> i32 {
        while self.step().await {}
        self.exit.as_ref().unwrap().code
    }
}

async fn code_of(wanted: &Exec) -> (i32, String, String) {
    let mut host = Host::start(wanted).await.unwrap();
    let code = host.run_to_end().await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (code, text(&host.out), text(&host.err))
}

async fn refused(wanted: &Exec) -> FailureKind {
    Host::start(wanted).await.err().expect("refused").kind
}

#[tokio::test]
async fn exit_codes_are_the_programs_own_or_the_signals() {
    assert_eq!(code_of(&exec(&["true"])).await.0, 0);
    assert_eq!(code_of(&shell("exit 3")).await.0, 3);
    let mut host = Host::start(&shell("kill -9 $$")).await.unwrap();
    assert_eq!(host.run_to_end().await, 137);
    assert_eq!(host.exit.unwrap().signal, Some(9));
    assert_eq!(code_of(&shell("echo out; echo err >&2; exit 4")).await, (4, "out\n".into(), "err\n".into()));
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_by_kind() {
    assert_eq!(refused(&exec(&["no-such-program"])).await, FailureKind::NotFound);
    assert_eq!(refused(&exec(&["/etc/passwd"])).await, FailureKind::NotExecutable);
    assert_eq!(refused(&exec(&["/etc"])).await, FailureKind::NotExecutable);
    assert_eq!(refused(&Exec { cwd: "/no/such".into(), ..exec(&["true"]) }).await, FailureKind::BadDirectory);
    assert_eq!(refused(&Exec { user: "no-such-user".into(), ..exec(&["true"]) }).await, FailureKind::UnknownUser);
    assert_eq!(refused(&exec(&["echo", "a\0b"])).await, FailureKind::BadRequest);
    let env = BTreeMap::from([("A=B".to_owned(), String::new())]);
    assert_eq!(refused(&Exec { env, ..exec(&["true"]) }).await, FailureKind::BadRequest);
}

#[tokio::test]
async fn scripts_run_with_and_without_a_first_line() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = script("plain", "echo plain $1\n");
    assert_eq!(code_of(&exec(&[&plain, "x"])).await.1, "plain x\n");
    assert_eq!(code_of(&exec(&[&plain])).await.1, "plain\n");
    let cwd = directory.path().to_str().unwrap().to_owned();
    assert_eq!(code_of(&Exec { cwd, ..exec(&["./plain", "here"]) }).await.1, "plain here\n");
    let orphan = script("orphan", "#!/no/such/interpreter\n");
    assert_eq!(refused(&exec(&[&orphan])).await, FailureKind::NotExecutable);
}

#[tokio::test]
async fn every_byte_comes_back_in_order() {
    let mut host = Host::start(&exec(&["cat"])).await.unwrap();
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut sent = 0;
    while sent < data.len() {
        let room = usize::try_from(host.stdin_credit).unwrap().min(60_000).min(data.len() - sent);
        if room > 0 {
            host.send(Frame::Data(ByteStream::Stdin, data[sent..sent + room].to_vec())).await;
            host.stdin_credit -= room as u64;
            sent += room;
        } else {
            assert!(host.step().await);
        }
    }
    host.send(Frame::End(ByteStream::Stdin)).await;
    assert_eq!(host.run_to_end().await, 0);
    assert!(host.out == data, "{} of {} bytes", host.out.len(), data.len());
}

#[tokio::test]
async fn input_no_one_reads_delays_nothing() {
    let mut host = Host::start(&shell("read line; exit 5")).await.unwrap();
    for _ in 0..STREAM_WINDOW_BYTES / 65_536 {
        host.send(Frame::Data(ByteStream::Stdin, vec![b'x'; 65_536])).await;
    }
    // A full window under way, and a signal still passes.
    host.send(Frame::Signal(15)).await;
    assert_eq!(host.run_to_end().await, 143);

    let mut host = Host::start(&shell("exit 6")).await.unwrap();
    host.send(Frame::Data(ByteStream::Stdin, vec![b'x'; 65_536])).await;
    assert_eq!(host.run_to_end().await, 6);
}

#[tokio::test]
async fn more_input_than_was_granted_ends_the_connection() {
    let mut host = Host::start(&exec(&["sleep", "1000"])).await.unwrap();
    // The pipe takes a part of the window, which is granted anew; twice the window is too much.
    for _ in 0..2 * STREAM_WINDOW_BYTES / 65_536 {
        if host.writer.send(&Frame::Data(ByteStream::Stdin, vec![0; 65_536])).await.is_err() {
            break;
        }
    }
    let end = async { while let Ok(Some(Frame::Credit(..))) = host.reader.next().await {} };
    tokio::time::timeout(PATIENCE, end).await.unwrap();
    host.hang_up().await;
}

#[tokio::test]
async fn a_stalled_stream_stalls_no_other() {
    let mut host = Host::start(&shell("head -c 1000000 /dev/zero & echo still here >&2; wait; read x; echo $x >&2"))
        .await
        .unwrap();
    host.grants = false;
    while host.out.len() < STREAM_WINDOW_BYTES as usize || host.err.is_empty() {
        assert!(host.step().await);
    }
    assert_eq!(host.out.len(), STREAM_WINDOW_BYTES as usize);
    host.grants = true;
    host.send(Frame::Credit(ByteStream::Stdout, STREAM_WINDOW_BYTES)).await;
    host.type_in("go on\n").await;
    assert_eq!(host.run_to_end().await, 0);
    assert_eq!(host.out.len(), 1_000_000);
    assert_eq!(host.err, b"still here\ngo on\n");
}

#[tokio::test]
async fn whoever_holds_the_pipes_delays_nothing_and_nothing_is_lost() {
    let mut host = Host::start(&shell("sleep 1000 & head -c 60000 /dev/zero; echo $! >&2; exit 8")).await.unwrap();
    host.grants = false;
    assert_eq!(host.run_to_end().await, 8);
    assert_eq!(host.out.len(), 60_000);
    let sleeper: i32 = String::from_utf8_lossy(&host.err).trim().parse().unwrap();
    // What a program leaves behind lives on.
    crate::sys::kill(sleeper, 0).unwrap();
    crate::sys::kill(sleeper, 9).unwrap();
}

#[tokio::test]
async fn a_background_flood_does_not_keep_the_end_from_being_told() {
    let mut host = Host::start(&shell("yes & echo $! >&2; exit 9")).await.unwrap();
    assert_eq!(host.run_to_end().await, 9);
    let flood: i32 = String::from_utf8_lossy(&host.err).trim().parse().unwrap();
    crate::sys::kill(flood, 9).unwrap();
}

#[tokio::test]
async fn the_end_of_input_ends_the_pipe() {
    let mut host = Host::start(&exec(&["wc", "-c"])).await.unwrap();
    host.type_in("twelve bytes").await;
    host.send(Frame::End(ByteStream::Stdin)).await;
    assert_eq!(host.run_to_end().await, 0);
    assert_eq!(String::from_utf8_lossy(&host.out).trim(), "12");
}

#[tokio::test]
async fn a_host_that_is_gone_takes_its_program_with_it() {
    let mut host = Host::start(&shell("trap '' HUP; (trap '' HUP; echo $$ ready; sleep 1000) & wait")).await.unwrap();
    host.until_out("ready").await;
    host.hang_up().await;
}

#[tokio::test]
async fn nonsense_after_the_start_takes_the_program_with_it() {
    let mut host = Host::start(&exec(&["sleep", "1000"])).await.unwrap();
    host.send(Frame::Exit(Vec::new())).await;
    let end = tokio::time::timeout(PATIENCE, host.reader.next()).await.unwrap();
    assert!(matches!(end, Ok(None)), "{end:?}");
    host.hang_up().await;
}

#[tokio::test]
async fn a_terminal_has_its_size_from_the_start_and_follows() {
    let mut host =
        Host::start(&on_terminal("stty size; trap 'stty size' WINCH; echo ready; read x; read x")).await.unwrap();
    host.until_out("33 91\r\n").await;
    host.until_out("ready").await;
    host.send(Frame::Resize { columns: 101, rows: 44 }).await;
    host.until_out("44 101\r\n").await;
    host.type_in("a\nb\n").await;
    host.run_to_end().await;
}

#[tokio::test]
async fn keys_and_signals_reach_the_foreground() {
    let script = "trap 'echo caught' INT; sh -c 'echo ready; exec sleep 1000'; echo on";
    let mut host = Host::start(&on_terminal(script)).await.unwrap();
    host.until_out("ready").await;
    host.type_in("\u{3}").await;
    host.until_out("caught").await;
    assert_eq!(host.run_to_end().await, 0);
    let mut host = Host::start(&on_terminal("trap 'echo terminated; exit 4' TERM; echo ready; read x")).await.unwrap();
    host.until_out("ready").await;
    host.send(Frame::Signal(15)).await;
    assert_eq!(host.run_to_end().await, 4);
}

#[tokio::test]
async fn a_terminal_is_drained_however_slow_the_reader() {
    for script in ["seq 20000", "sleep 1000 & seq 20000; exec 2>&1"] {
        let mut host = Host::start(&on_terminal(script)).await.unwrap();
        assert_eq!(host.run_to_end().await, 0);
        let expected: String = (1..=20000).map(|i| format!("{i}\r\n")).collect();
        assert_eq!(host.out.len(), expected.len(), "{script}");
        assert!(host.out == expected.as_bytes(), "{script}");
        // The shell's job got SIGHUP from the kernel when the shell, its session's leader, ended.
    }
}

#[tokio::test]
async fn the_end_of_a_terminals_input_is_a_key() {
    let mut host = Host::start(&on_terminal("cat; echo over")).await.unwrap();
    host.type_in("line\nhalf").await;
    host.send(Frame::End(ByteStream::Stdin)).await;
    assert_eq!(host.run_to_end().await, 0);
    let text = String::from_utf8_lossy(&host.out).into_owned();
    assert!(text.ends_with("over\r\n") && text.matches("half").count() == 2, "{text:?}");
}

#[tokio::test]
async fn an_empty_command_is_the_login_shell() {
    let mut host = Host::start(&Exec { argv: vec![], ..exec(&[]) }).await.unwrap();
    host.type_in("echo $0; exit 11\n").await;
    assert_eq!(host.run_to_end().await, 11);
    assert!(host.out.starts_with(b"-"), "{:?}", String::from_utf8_lossy(&host.out));
}

#[tokio::test]
async fn a_program_starts_with_clean_signals() {
    let (code, out, _) = code_of(&shell("grep -E '^Sig(Blk|Ign)' /proc/self/status")).await;
    assert_eq!(code, 0);
    let sets: Vec<u64> =
        out.lines().map(|line| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()).collect();
    // This process ignores SIGPIPE, as every Rust program does.
    assert_eq!((sets[0], sets[1] & 1 << (libc::SIGPIPE - 1)), (0, 0), "{out}");
}

#[tokio::test]
async fn a_request_before_the_configuration_is_refused() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(control::serve(Arc::new(Guest::new(0)), theirs));
    let mut rest = Vec::new();
    for _ in 0..2 {
        let line = Envelope::new("1", kind::HEARTBEAT, &"hello").unwrap().to_line().unwrap();
        ours.write_all(&line).await.unwrap();
        let line = viv_link::line::read_line(&mut ours, &mut rest).await.unwrap().unwrap();
        let answer = Envelope::parse(&line).unwrap();
        assert_eq!((answer.kind.as_str(), answer.payload.as_str()), (kind::HEARTBEAT_ACK, Some("hello")));
    }
    let line = Envelope::new("2", kind::EXEC, &exec(&["true"])).unwrap().to_line().unwrap();
    ours.write_all(&line).await.unwrap();
    let line = viv_link::line::read_line(&mut ours, &mut rest).await.unwrap().unwrap();
    let answer = Envelope::parse(&line).unwrap();
    assert_eq!(answer.payload_as::<Failure>().unwrap().kind, FailureKind::BadRequest);
    assert_eq!(viv_link::line::read_line(&mut ours, &mut rest).await.unwrap(), None);
}

#[tokio::test]
async fn lines_that_are_no_messages_are_answered_and_end_the_connection() {
    let huge = [vec![b'a'; viv_proto::MAX_LINE_BYTES + 10], b"\n".to_vec()].concat();
    for line in [b"garbage\n".to_vec(), br#"{"id":"1","type":"x","version":9}"#.to_vec(), huge, b"\xff\n".to_vec()] {
        let (mut ours, theirs) = tokio::io::duplex(256 * 1024);
        tokio::spawn(control::serve(Arc::new(Guest::new(0)), theirs));
        ours.write_all(&line).await.unwrap();
        ours.write_all(b"\n").await.unwrap();
        let mut rest = Vec::new();
        let answer = viv_link::line::read_line(&mut ours, &mut rest).await.unwrap().unwrap();
        let answer = Envelope::parse(&answer).unwrap();
        assert_eq!(answer.payload_as::<Failure>().unwrap().kind, FailureKind::BadRequest);
        assert_eq!(viv_link::line::read_line(&mut ours, &mut rest).await.unwrap(), None);
    }
}
