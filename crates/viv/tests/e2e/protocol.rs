//! The control port and the sandbox's socket under nonsense, and the link cut and made anew.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Host, Sandbox, kill};

pub fn connect(host: &Host, sandbox: &Sandbox<'_>) -> UnixStream {
    let id = sandbox.record()["id"].as_str().unwrap().to_owned();
    let stream = UnixStream::connect(host.path("run/viv").join(id).join("sandbox.sock")).unwrap();
    stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    stream
}

/// Connects to a port of the guest.
pub fn port(host: &Host, sandbox: &Sandbox<'_>, number: u32) -> BufReader<UnixStream> {
    let mut stream = BufReader::new(connect(host, sandbox));
    writeln!(stream.get_mut(), "CONNECT {number}").unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    assert_eq!(answer, "OK\n");
    stream
}

/// What the guest answers to one line, until it closes or has answered.
fn answer_to(host: &Host, sandbox: &Sandbox<'_>, line: &[u8]) -> String {
    let mut stream = port(host, sandbox, 5000);
    // A refusal may come, and the stream close, before all of a huge line is written.
    let _ = stream.get_mut().write_all(line).and_then(|()| stream.get_mut().write_all(b"\n"));
    let mut answer = String::new();
    let _ = stream.read_line(&mut answer);
    answer
}

#[test]
fn nonsense_is_refused_and_the_sandbox_lives() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    let envelope = |kind: &str, payload: Value| json!({"id": "1", "type": kind, "payload": payload}).to_string();

    let pong: Value =
        serde_json::from_str(&answer_to(&host, &sandbox, envelope("heartbeat", json!([1, 2])).as_bytes())).unwrap();
    assert_eq!((&pong["type"], &pong["id"], &pong["payload"]), (&json!("heartbeat_ack"), &json!("1"), &json!([1, 2])));

    let deep = "[".repeat(30_000);
    for nonsense in [
        b"not json".to_vec(),
        b"\0\xff\xfe\x01".to_vec(),
        br#"{"id":1}"#.to_vec(),
        envelope("no_such_type", json!(null)).into_bytes(),
        json!({"id": "1", "type": "heartbeat", "version": 99}).to_string().into_bytes(),
        envelope("exec", json!({"argv": "not a list"})).into_bytes(),
        envelope("exec", json!({"argv": ["true"], "cwd": "/", "user": "nobody-at-all"})).into_bytes(),
        envelope("configure", json!({})).into_bytes(),
        deep.into_bytes(),
        vec![b'x'; 3 << 20],
    ] {
        let answer = answer_to(&host, &sandbox, &nonsense);
        let shown = String::from_utf8_lossy(&nonsense[..nonsense.len().min(60)]).into_owned();
        if !answer.is_empty() {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["type"], "error", "{shown}: {answer}");
        }
    }
    let versions = answer_to(&host, &sandbox, br#"{"id":"1","type":"heartbeat","version":99}"#);
    assert!(versions.contains("99"), "the version is named: {versions}");

    // Frames that are none, too long, truncated, or more than was granted.
    for frames in [
        vec![200, 1, 0, 0, 0, 0],
        vec![0, 0xff, 0xff, 0xff, 0xff],
        vec![0, 16, 0, 0, 0, b'h', b'a'],
        vec![7, 1, 0, 0, 0, 99],
        [vec![0, 0, 0, 1, 0], vec![b'x'; 1 << 16]].concat().repeat(40),
    ] {
        let mut stream = port(&host, &sandbox, 5000);
        let exec = envelope("exec", json!({"argv": ["sleep", "1000"], "cwd": "/", "user": "agent"}));
        writeln!(stream.get_mut(), "{exec}").unwrap();
        let mut started = String::new();
        stream.read_line(&mut started).unwrap();
        assert!(started.contains("result"), "{started}");
        let _ = stream.get_mut().write_all(&frames);
        let _ = stream.get_mut().shutdown(std::net::Shutdown::Write);
        // The guest ends the operation: the program is killed, the stream closed.
        let _ = stream.read_to_end(&mut Vec::new());
    }

    // The socket's own greeting.
    for greeting in [&b"HELLO\n"[..], b"CONNECT\n", b"CONNECT -1\n", b"CONNECT 99999999999\n", &[b'A'; 4096], b"\xff\n"]
    {
        let mut stream = connect(&host, &sandbox);
        let _ = stream.write_all(greeting);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("ERR ") || answer.is_empty(), "{answer}");
    }
    for refused in [1, 6001, 80] {
        let mut stream = connect(&host, &sandbox);
        writeln!(stream, "CONNECT {refused}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("ERR "), "{refused}: {answer}");
    }
    sandbox.ok("true");
    assert_eq!(sandbox.ok("pgrep -c -x sleep"), "1\n", "every refused operation's program is gone");
}

#[test]
fn a_guest_that_writes_to_the_links_port_harms_nothing_but_itself() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    // The port is PID 1's; whatever root manages to write there must not reach the monitor.
    sandbox.root_sh("for p in /dev/vport*; do timeout 5 head -c 1000000 /dev/urandom > $p; done");
    sandbox.root_sh("for f in /proc/1/fd/*; do timeout 5 head -c 100000 /dev/urandom > $f; done 2>/dev/null");
    assert_eq!(host.ps().len(), 1);
    sandbox.ok("true");
}

#[test]
fn a_link_cut_is_made_anew() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    // Its client would end the sandbox, having lost the program it ran: it is not to notice.
    kill(sandbox.pid("client"), Signal::STOP);
    for _ in 0..5 {
        // Cut while bytes are under way in both directions.
        let mut busy = host
            .viv(&["exec", "fixture", "--", "cat"])
            .stdin(std::fs::File::open("/dev/zero").unwrap())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        busy.stdout.as_mut().unwrap().read_exact(&mut [0; 1 << 16]).unwrap();
        let mut stream = connect(&host, &sandbox);
        stream.write_all(b"RELINK\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "OK\n");
        // The cut operation says so; the sandbox runs the next one.
        drop(busy.stdout.take());
        assert_ne!(busy.wait().unwrap().code(), Some(0));
        sandbox.ok("true");
    }
    kill(sandbox.pid("client"), Signal::CONT);
    // The program it was started for ended with the first link, and that is what it says.
    let client = sandbox.wait();
    assert_eq!(client.code, 125, "{client:?}");
    host.assert_nothing_is_left();
}
