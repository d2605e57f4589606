//! The egress as a process of its own: what it holds, what it leaks, what it survives.
//!
//! Starts itself again as the egress, so this file has a `main` of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use serde_json::json;
use viv_net::event::{LOG_FILE, What};
use viv_net::log::read_log;
use viv_net::spec::{KEYS_DESCRIPTOR, LISTENER_DESCRIPTOR, SPEC_DESCRIPTOR};
use viv_proto::network::{CONNECT_PORT, PROXY_PORT};

const ROLE: &str = "--as-the-egress";

/// Nothing here takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(ROLE) {
        return viv_net::egress::egress_main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // What the harness of Rust and nextest agree on.
    if has("--list") {
        if !has("--ignored") {
            ALL.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in ALL {
        let runs =
            wanted.is_none_or(|wanted| if has("--exact") { wanted == name } else { name.contains(wanted.as_str()) });
        if runs {
            eprintln!("test {name}");
            test();
        }
    }
    ExitCode::SUCCESS
}

const ALL: &[(&str, fn())] = &[
    ("a_thousand_connections_take_less_than_60_mib", a_thousand_at_once),
    ("ten_thousand_connections_leak_no_descriptor", ten_thousand_in_sequence),
    ("a_header_of_1_gib_takes_no_memory", a_gibibyte_of_header),
    ("it_is_confined_logs_what_it_refused_and_ends_when_told", confined_and_told),
    ("one_that_was_killed_is_replaced_on_the_same_socket", killed_and_replaced),
    ("a_start_that_fails_says_why", a_start_that_fails),
];

struct Running {
    child: Child,
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn file_with(text: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.into()
}

fn spawn(listener: &UnixListener, spec: &str, files: u64) -> Child {
    let mapping = |parent_fd: OwnedFd, child_fd: i32| FdMapping { parent_fd, child_fd };
    // A shell, because it can set the limit of open files before the program is there.
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" {ROLE}")]).arg(program);
    command
        .fd_mappings(vec![
            mapping(listener.try_clone().unwrap().into(), LISTENER_DESCRIPTOR),
            mapping(file_with(spec), SPEC_DESCRIPTOR),
            mapping(std::fs::File::open("/dev/null").unwrap().into(), KEYS_DESCRIPTOR),
        ])
        .unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn spec(directory: &tempfile::TempDir) -> String {
    json!({
        "sandbox": "test",
        "directory": directory.path(),
        "policy": { "allow": [{ "text": "127.0.0.0/8" }] },
        "limits": { "connections": 2000, "connections_per_second": 1_000_000, "names_per_second": 1 },
    })
    .to_string()
}

fn start(files: u64) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let child = spawn(&listener, &spec(&directory), files);
    Running { child, directory, listener }
}

impl Running {
    fn open(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(self.directory.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        writeln!(stream, "CONNECT {port}").unwrap();
        assert_eq!(line(&mut stream), "OK\n");
        stream
    }

    fn connect(&self, host: &str, port: u16) -> (UnixStream, String) {
        let mut stream = self.open(CONNECT_PORT);
        writeln!(stream, "{}", json!({ "host": host, "port": port })).unwrap();
        let answer = line(&mut stream);
        (stream, answer)
    }

    fn connected(&self, port: u16) -> UnixStream {
        let (stream, answer) = self.connect("127.0.0.1", port);
        assert_eq!(answer, "{\"outcome\":\"connected\"}\n");
        stream
    }

    fn status(&self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    fn resident_kib(&self, field: &str) -> u64 {
        self.status(field).trim_end_matches(" kB").parse().unwrap()
    }
}

fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && stream.read(&mut byte).unwrap() == 1 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// An upstream that answers every byte with the same byte.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let echo = move || {
                let mut buffer = [0; 4096];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..bytes]).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().stack_size(64 * 1024).spawn(echo).unwrap();
        }
    });
    port
}

fn ping(stream: &mut UnixStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

fn a_thousand_at_once() {
    let egress = start(4096);
    let port = echo();
    let mut open: Vec<UnixStream> = (0..500).map(|_| egress.connected(port)).collect();
    // The proxy's have an HTTP header before them.
    for _ in 0..500 {
        let mut stream = egress.open(PROXY_PORT);
        write!(stream, "CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").unwrap();
        while line(&mut stream) != "\r\n" {}
        open.push(stream);
    }
    open.iter_mut().for_each(ping);
    let resident = egress.resident_kib("VmHWM");
    assert!(resident < 60 * 1024, "1,000 connections: {resident} KiB");
    // Now each has a guest that writes as much as is taken and reads nothing.
    let chunk = vec![1; 256 * 1024];
    for stream in &mut open {
        stream.set_nonblocking(true).unwrap();
        for _ in 0..8 {
            let _ = stream.write(&chunk);
        }
    }
    open.last().unwrap().set_nonblocking(false).unwrap();
    let mut answer = [0; 1024];
    open.last_mut().unwrap().read_exact(&mut answer).unwrap();
    let stuck = egress.resident_kib("VmHWM");
    println!("1,000 connections: {resident} KiB, all of them stuck: {stuck} KiB");
    assert!(stuck < 60 * 1024, "1,000 stuck connections: {stuck} KiB");
}

fn ten_thousand_in_sequence() {
    // One descriptor that is not closed in a hundred connections, and there are none left.
    let egress = start(128);
    let port = echo();
    for _ in 0..10_000 {
        ping(&mut egress.connected(port));
    }
    let resident = egress.resident_kib("VmHWM");
    assert!(resident < 60 * 1024, "{resident} KiB");
}

fn a_gibibyte_of_header() {
    let egress = start(4096);
    for port in [PROXY_PORT, CONNECT_PORT] {
        let mut stream = egress.open(port);
        let chunk = vec![b'x'; 1 << 20];
        let _ = stream.write_all(b"GET http://127.0.0.1/ HTTP/1.1\r\nX: ");
        let written = (0..1024).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        assert!(written < 10, "{written} MiB were taken");
    }
    let resident = egress.resident_kib("VmHWM");
    assert!(resident < 30 * 1024, "{resident} KiB");
}

fn confined_and_told() {
    let mut egress = start(4096);
    let (_, answer) = egress.connect("evil.example", 443);
    assert!(answer.contains("no rule allows evil.example:443"), "{answer}");
    assert_eq!(egress.status("NoNewPrivs"), "1");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", egress.child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    let _ = egress.connected(echo());
    terminate(&egress.child);
    assert!(egress.child.wait().unwrap().success());
    let events = read_log(&egress.directory.path().join(LOG_FILE)).unwrap();
    assert!(events.iter().any(|event| matches!(event.what, What::Connected { .. })), "{events:?}");
    let is_refusal = |what: &What| matches!(what, What::Denied(denial) if denial.host == "evil.example");
    assert!(events.iter().any(|event| is_refusal(&event.what)), "{events:?}");
}

fn terminate(child: &Child) {
    let status = Command::new("sh").args(["-c", &format!("kill {}", child.id())]).status().unwrap();
    assert!(status.success());
}

fn killed_and_replaced() {
    let mut egress = start(4096);
    let port = echo();
    let mut open = egress.connected(port);
    egress.child.kill().unwrap();
    egress.child.wait().unwrap();
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0);
    // Whoever connects now waits in the socket's queue.
    let mut waiting = UnixStream::connect(egress.directory.path().join("socket")).unwrap();
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();
    writeln!(waiting, "CONNECT {CONNECT_PORT}").unwrap();
    egress.child = spawn(&egress.listener, &spec(&egress.directory), 4096);
    assert_eq!(line(&mut waiting), "OK\n");
    ping(&mut egress.connected(port));
}

fn a_start_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    assert!(listener.as_raw_fd() > 2);
    let wrong = r#"{"sandbox":"x","directory":"/nowhere","policy":{"allow":[{"text":"canary:key"}]}}"#;
    for (spec, expected) in [("", "is empty"), (wrong, "cannot be read at line 1"), ("{", "cannot be read at line 1")] {
        let output = spawn(&listener, spec, 1024).wait_with_output().unwrap();
        let report = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && report.contains(expected), "{report}");
        assert!(!report.contains("canary"), "{report}");
    }
}
