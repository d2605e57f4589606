//! The bytes on the wire, written out: a change here breaks every guest and every client in use,
//! and is a new [`viv_proto::PROTOCOL_VERSION`].

use std::collections::BTreeMap;

use insta::assert_snapshot;
use viv_proto::envelope::{Envelope, LineBuffer};
use viv_proto::frame::{ByteStream, Frame, FrameDecoder};
use viv_proto::handshake::{FIRST_TOKEN, guest_hello, host_hello, parse_tail};
use viv_proto::message::{
    Clock, ClockReading, Configure, Configured, Exec, ExitReport, Failure, FailureKind, GuestFile, GuestStatus, Mark,
    Network, NetworkWay, Prepare, Share, ShareKind, Started, TerminalSize, User, kind,
};
use viv_proto::port::{MAX_GREETING_BYTES, connect_line, parse_answer, parse_connect, refusal_line};
use viv_proto::{MAX_FRAME_BYTES, MAX_LINE_BYTES, PROTOCOL_VERSION, ProtocolError, STREAM_WINDOW_BYTES};

/// The line as sent, after checking that it reads back as the same message.
fn line<T>(kind: &str, payload: &T) -> String
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let line = Envelope::new("7", kind, payload).unwrap().to_line().unwrap();
    let envelope = Envelope::parse(&line).unwrap();
    assert_eq!(&envelope.payload_as::<T>().unwrap(), payload);
    String::from_utf8(line).unwrap()
}

/// The frame as sent, after checking that it reads back as the same frame.
fn bytes(frame: &Frame) -> String {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    let mut decoder = FrameDecoder::default();
    decoder.push(&bytes);
    assert_eq!(decoder.next_frame().unwrap().as_ref(), Some(frame));
    assert!(!decoder.has_partial());
    hex::encode(bytes)
}

fn refusal_of_frame(bytes: &[u8]) -> String {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    decoder.next_frame().unwrap_err().to_string()
}

#[test]
fn limits() {
    assert_eq!(PROTOCOL_VERSION, 1);
    assert_eq!(MAX_LINE_BYTES, 65_536);
    assert_eq!(MAX_FRAME_BYTES, 65_536);
    assert_eq!(STREAM_WINDOW_BYTES, 262_144);
    assert_eq!(MAX_GREETING_BYTES, 256);
    assert_eq!(viv_proto::CONTROL_PORT, 5000);
}

#[test]
fn configure() {
    let message = Configure {
        hostname: "project".into(),
        wall_clock_ns: 1_700_000_000_000_000_001,
        entropy: "00ff".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        timezone: Some("Europe/Berlin".into()),
        user: User { name: "agent".into(), uid: 1000, gid: 1001, home: "/home/agent".into() },
        shares: vec![
            Share {
                entry: "0".into(),
                destination: "/home/me/my project".into(),
                kind: ShareKind::Directory,
                read_only: false,
                writable_overlay: false,
            },
            Share {
                entry: "1".into(),
                destination: "/etc/a\nb".into(),
                kind: ShareKind::File,
                read_only: true,
                writable_overlay: false,
            },
        ],
        workspace: Some("/home/me/my project".into()),
        network: Network { way: NetworkWay::Filtered, gateway: true, ssh_agent: None },
        environment: BTreeMap::from([("NO_PROXY".into(), "localhost".into())]),
        files: vec![GuestFile {
            path: "/etc/pip.conf".into(),
            content: "[global]\n".into(),
            mode: 0o644,
            of_user: false,
        }],
        certificates: Some("/run/viv/trust/ca-certificates.crt".into()),
    };
    assert_snapshot!(line(kind::CONFIGURE, &message), @r#"{"id":"7","type":"configure","agent_id":0,"version":1,"payload":{"certificates":"/run/viv/trust/ca-certificates.crt","entropy":"00ff","environment":{"NO_PROXY":"localhost"},"files":[{"content":"[global]\n","mode":420,"of_user":false,"path":"/etc/pip.conf"}],"hostname":"project","machine_id":"0123456789abcdef0123456789abcdef","network":{"gateway":true,"ssh_agent":null,"way":{"kind":"filtered"}},"shares":[{"destination":"/home/me/my project","entry":"0","kind":"directory","read_only":false},{"destination":"/etc/a\nb","entry":"1","kind":"file","read_only":true}],"timezone":"Europe/Berlin","user":{"gid":1001,"home":"/home/agent","name":"agent","uid":1000},"wall_clock_ns":1700000000000000001,"workspace":"/home/me/my project"}}"#);
    let answer = Configured {
        guest_version: "0.1.0".into(),
        uptime_ms: 950,
        wall_clock_ns: 1_700_000_000_000_000_002,
        template: Some("00112233445566778899aabbccddeeff".into()),
        marks: vec![Mark { name: "shares".into(), at_us: 949_999 }],
    };
    assert_snapshot!(line(kind::RESULT, &answer), @r#"{"id":"7","type":"result","agent_id":0,"version":1,"payload":{"guest_version":"0.1.0","marks":[{"at_us":949999,"name":"shares"}],"template":"00112233445566778899aabbccddeeff","uptime_ms":950,"wall_clock_ns":1700000000000000002}}"#);
}

#[test]
fn prepare() {
    let user = User { name: "agent".into(), uid: 1000, gid: 1001, home: "/home/agent".into() };
    let message =
        Prepare { user, timezone: Some("Europe/Berlin".into()), template: "00112233445566778899aabbccddeeff".into() };
    assert_snapshot!(line(kind::PREPARE, &message), @r#"{"id":"7","type":"prepare","agent_id":0,"version":1,"payload":{"template":"00112233445566778899aabbccddeeff","timezone":"Europe/Berlin","user":{"gid":1001,"home":"/home/agent","name":"agent","uid":1000}}}"#);
}

#[test]
fn clock() {
    assert_snapshot!(line(kind::CLOCK, &Clock { step_ns: -5 }), @r#"{"id":"7","type":"clock","agent_id":0,"version":1,"payload":{"step_ns":-5}}"#);
    assert_snapshot!(line(kind::RESULT, &ClockReading { wall_clock_ns: 7 }), @r#"{"id":"7","type":"result","agent_id":0,"version":1,"payload":{"wall_clock_ns":7}}"#);
}

#[test]
fn exec() {
    let message = Exec {
        argv: vec!["sh".into(), "-c".into(), "echo \"ü\"".into()],
        env: BTreeMap::from([("TERM".into(), "xterm".into()), ("EMPTY".into(), String::new())]),
        cwd: "/workspace".into(),
        user: "agent".into(),
        terminal: Some(TerminalSize { columns: 120, rows: 40 }),
    };
    assert_snapshot!(line(kind::EXEC, &message), @r#"{"id":"7","type":"exec","agent_id":0,"version":1,"payload":{"argv":["sh","-c","echo \"ü\""],"cwd":"/workspace","env":{"EMPTY":"","TERM":"xterm"},"terminal":{"columns":120,"rows":40},"user":"agent"}}"#);
    assert_snapshot!(line(kind::RESULT, &Started { pid: 42 }), @r#"{"id":"7","type":"result","agent_id":0,"version":1,"payload":{"pid":42}}"#);
}

#[test]
fn exit_report() {
    let killed = ExitReport { code: 137, signal: Some(9), out_of_memory_kills: 1, scratch_full: true, settled: true };
    let json = serde_json::to_string(&killed).unwrap();
    assert_snapshot!(json, @r#"{"code":137,"signal":9,"out_of_memory_kills":1,"scratch_full":true,"settled":true}"#);
    assert_eq!(serde_json::from_str::<ExitReport>(&json).unwrap(), killed);
    // A guest that notices less says less.
    assert_eq!(
        serde_json::from_str::<ExitReport>(r#"{"code":3}"#).unwrap(),
        ExitReport { code: 3, signal: None, out_of_memory_kills: 0, scratch_full: false, settled: false }
    );
}

#[test]
fn status_heartbeat_and_shutdown() {
    let status = GuestStatus {
        running: 2,
        memory_total: 4_294_967_296,
        memory_available: 1,
        scratch_total: u64::MAX,
        scratch_free: 0,
    };
    assert_snapshot!(line(kind::RESULT, &status), @r#"{"id":"7","type":"result","agent_id":0,"version":1,"payload":{"memory_available":1,"memory_total":4294967296,"running":2,"scratch_free":0,"scratch_total":18446744073709551615}}"#);
    assert_snapshot!(line(kind::STATUS, &serde_json::Value::Null), @r#"{"id":"7","type":"status","agent_id":0,"version":1,"payload":null}"#);
    assert_snapshot!(line(kind::HEARTBEAT, &serde_json::json!({"n": 1})), @r#"{"id":"7","type":"heartbeat","agent_id":0,"version":1,"payload":{"n":1}}"#);
    assert_snapshot!(line(kind::HEARTBEAT_ACK, &serde_json::json!({"n": 1})), @r#"{"id":"7","type":"heartbeat_ack","agent_id":0,"version":1,"payload":{"n":1}}"#);
    assert_snapshot!(line(kind::SHUTDOWN, &serde_json::Value::Null), @r#"{"id":"7","type":"shutdown","agent_id":0,"version":1,"payload":null}"#);
}

#[test]
fn failures() {
    let kinds = [
        FailureKind::NotFound,
        FailureKind::NotExecutable,
        FailureKind::BadDirectory,
        FailureKind::UnknownUser,
        FailureKind::BadRequest,
        FailureKind::Internal,
    ];
    let lines: String =
        kinds.into_iter().map(|kind| line(kind::ERROR, &Failure { kind, message: "why".into() })).collect();
    assert_snapshot!(lines, @r#"
    {"id":"7","type":"error","agent_id":0,"version":1,"payload":{"kind":"not_found","message":"why"}}
    {"id":"7","type":"error","agent_id":0,"version":1,"payload":{"kind":"not_executable","message":"why"}}
    {"id":"7","type":"error","agent_id":0,"version":1,"payload":{"kind":"bad_directory","message":"why"}}
    {"id":"7","type":"error","agent_id":0,"version":1,"payload":{"kind":"unknown_user","message":"why"}}
    {"id":"7","type":"error","agent_id":0,"version":1,"payload":{"kind":"bad_request","message":"why"}}
    {"id":"7","type":"error","agent_id":0,"version":1,"payload":{"kind":"internal","message":"why"}}
    "#);
    // A kind of a later version is still a failure.
    let later: Failure = serde_json::from_str(r#"{"kind":"moon_phase","message":"x"}"#).unwrap();
    assert_eq!(later.kind, FailureKind::Unknown);
}

#[test]
fn what_a_message_may_leave_out() {
    let bare = Envelope::parse(br#"{"id":"1","type":"status"}"#).unwrap();
    assert_eq!((bare.agent_id, bare.version), (0, 1));
    assert_eq!(bare.payload, serde_json::Value::Null);
    let exec: Exec = serde_json::from_str(r#"{"argv":[],"cwd":"/","user":"agent"}"#).unwrap();
    assert!(exec.env.is_empty() && exec.terminal.is_none());
    // A field of a later version is passed over.
    Envelope::parse(br#"{"id":"1","type":"status","colour":"red"}"#).unwrap();
}

#[test]
fn messages_that_are_refused() {
    let refusal = |line: &[u8]| Envelope::parse(line).unwrap_err().to_string();
    assert_snapshot!(refusal(br#"{"id":"1","type":"status","version":2}"#), @"protocol version 2; this side speaks 1");
    assert_snapshot!(refusal(br#"{"id":"1","type":"status","version":0}"#), @"protocol version 0; this side speaks 1");
    assert_snapshot!(refusal(br#"{"id":"1"}"#), @"a malformed message: missing field `type` at line 1 column 10");
    assert_snapshot!(refusal(b""), @"a malformed message: EOF while parsing a value at line 1 column 0");
    assert_snapshot!(refusal(b"\xff\xfe"), @"a malformed message: expected value at line 1 column 1");
    assert_snapshot!(refusal(br#"{"id":1,"type":"status"}"#), @"a malformed message: invalid type: integer `1`, expected a string at line 1 column 7");
    assert_eq!(Envelope::parse(&vec![b' '; MAX_LINE_BYTES + 1]), Err(ProtocolError::LineTooLong));
}

#[test]
fn a_line_is_bounded_while_it_arrives() {
    let mut buffer = LineBuffer::default();
    let mut refused_after = 0;
    while buffer.push(&[b'a'; 1000]).is_ok() {
        refused_after += 1000;
        assert!(refused_after <= MAX_LINE_BYTES, "an endless line was held");
    }
    let mut buffer = LineBuffer::default();
    buffer.push(&[vec![b'a'; MAX_LINE_BYTES - 1], vec![b'\n']].concat()).unwrap();
    assert_eq!(buffer.next_line().unwrap().unwrap().len(), MAX_LINE_BYTES - 1);
    let mut buffer = LineBuffer::default();
    buffer.push(&[vec![b'a'; MAX_LINE_BYTES], vec![b'\n']].concat()).unwrap();
    assert_eq!(buffer.next_line(), Err(ProtocolError::LineTooLong));
}

#[test]
fn a_message_too_long_is_not_sent() {
    let payload = "x".repeat(MAX_LINE_BYTES);
    assert_eq!(Envelope::new("1", "exec", &payload).unwrap().to_line(), Err(ProtocolError::LineTooLong));
}

#[test]
fn frames() {
    assert_snapshot!(bytes(&Frame::Data(ByteStream::Stdin, b"a\0\xff".to_vec())), @"00030000006100ff");
    assert_snapshot!(bytes(&Frame::Data(ByteStream::Stdout, b"hi".to_vec())), @"01020000006869");
    assert_snapshot!(bytes(&Frame::Data(ByteStream::Stderr, b"!".to_vec())), @"020100000021");
    assert_snapshot!(bytes(&Frame::End(ByteStream::Stdin)), @"0300000000");
    assert_snapshot!(bytes(&Frame::End(ByteStream::Stdout)), @"0400000000");
    assert_snapshot!(bytes(&Frame::End(ByteStream::Stderr)), @"0500000000");
    assert_snapshot!(bytes(&Frame::Resize { columns: 300, rows: 24 }), @"06040000002c011800");
    assert_snapshot!(bytes(&Frame::Signal(15)), @"07010000000f");
    assert_snapshot!(bytes(&Frame::Credit(ByteStream::Stdin, 65_536)), @"08050000000000000100");
    assert_snapshot!(bytes(&Frame::Credit(ByteStream::Stderr, u32::MAX)), @"080500000002ffffffff");
    assert_snapshot!(bytes(&Frame::Exit(br#"{"code":0}"#.to_vec())), @"090a0000007b22636f6465223a307d");
}

#[test]
fn frames_that_are_refused() {
    assert_snapshot!(refusal_of_frame(b"\x0a\0\0\0\0"), @"an unknown frame kind 10");
    assert_snapshot!(refusal_of_frame(b"\xff\xff\xff\xff\xff"), @"an unknown frame kind 255");
    // Refused from the header alone, before a byte of payload is waited for.
    assert_snapshot!(refusal_of_frame(b"\x01\x01\0\x01\0"), @"a frame of 65537 bytes; the limit is 65536");
    assert_snapshot!(refusal_of_frame(b"\x01\xff\xff\xff\xff"), @"a frame of 4294967295 bytes; the limit is 65536");
    assert_snapshot!(refusal_of_frame(b"\x01\0\0\0\0"), @"a malformed stdout frame: no bytes");
    assert_snapshot!(refusal_of_frame(b"\x03\x01\0\0\0x"), @"a malformed end of stdin frame: unexpected bytes");
    assert_snapshot!(refusal_of_frame(b"\x06\x03\0\0\0xyz"), @"a malformed resize frame: not 4 bytes");
    assert_snapshot!(refusal_of_frame(b"\x07\x01\0\0\0\0"), @"a malformed signal frame: not one signal number");
    assert_snapshot!(refusal_of_frame(b"\x07\x01\0\0\0\x41"), @"a malformed signal frame: not one signal number");
    assert_snapshot!(refusal_of_frame(b"\x08\x05\0\0\0\x03\0\0\0\0"), @"a malformed credit frame: no such stream");
    assert_snapshot!(refusal_of_frame(b"\x08\x01\0\0\0\x01"), @"a malformed credit frame: not 5 bytes");
    let too_long = Frame::Data(ByteStream::Stdout, vec![0; MAX_FRAME_BYTES + 1]);
    assert_eq!(too_long.encode(&mut Vec::new()), Err(ProtocolError::FrameTooLong(65_537)));
}

#[test]
fn handshake() {
    assert_eq!(&FIRST_TOKEN, b"vivarium-link-01");
    assert_snapshot!(hex::encode(host_hello(&FIRST_TOKEN, &[0xaa; 16])), @"766976617269756d2d6c696e6b2d303101000000aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert_snapshot!(hex::encode(guest_hello(&[0xaa; 16], &[0xbb; 16])), @"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01000000bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    let mut later = [0; 20];
    later[0] = 2;
    assert_eq!(parse_tail(&later), Err(ProtocolError::UnknownVersion { theirs: 2 }));
}

#[test]
fn port_greetings() {
    assert_snapshot!(connect_line(5000), @"CONNECT 5000");
    assert!(connect_line(5000).ends_with('\n'));
    assert_eq!(parse_connect(b"CONNECT 4294967295"), Ok(u32::MAX));
    let refused: [&[u8]; 10] = [
        b"",
        b"CONNECT",
        b"CONNECT ",
        b"CONNECT +1",
        b"CONNECT -1",
        b"CONNECT 1 ",
        b"CONNECT 4294967296",
        b"connect 1",
        b"CONNECT \xd9\xa1",
        b"CONNECT 1\r",
    ];
    for line in refused {
        assert_eq!(parse_connect(line), Err(ProtocolError::MalformedGreeting), "{line:?}");
    }
    assert_eq!(parse_answer(b"OK"), Ok(Ok(())));
    assert_eq!(parse_answer(b"ERR busy"), Ok(Err("busy".into())));
    assert_eq!(parse_answer(b"ERR"), Err(ProtocolError::MalformedGreeting));
    assert_eq!(parse_answer(b"OKAY"), Err(ProtocolError::MalformedGreeting));
    assert_snapshot!(refusal_line("no such port\r\n5001"), @"ERR no such port  5001");
    assert_eq!(refusal_line(&"é".repeat(500)).len(), MAX_GREETING_BYTES - 1, "cut between characters");
}
