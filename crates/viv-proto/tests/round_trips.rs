//! Whatever can be built and sent arrives as it was.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use viv_proto::envelope::{Envelope, LineBuffer};
use viv_proto::frame::{ByteStream, Frame, FrameDecoder};
use viv_proto::handshake::{HELLO_TAIL_BYTES, MarkerScanner, TOKEN_BYTES, Token, guest_hello, host_hello, parse_tail};
use viv_proto::message::{
    Configure, Configured, Exec, ExitReport, Failure, FailureKind, GuestStatus, Mark, Network, Share, ShareKind,
    Started, TerminalSize, User, kind,
};
use viv_proto::port::{connect_line, parse_answer, parse_connect, refusal_line};

fn byte_stream() -> impl Strategy<Value = ByteStream> {
    prop_oneof![Just(ByteStream::Stdin), Just(ByteStream::Stdout), Just(ByteStream::Stderr)]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (byte_stream(), vec(any::<u8>(), 1..300)).prop_map(|(stream, bytes)| Frame::Data(stream, bytes)),
        byte_stream().prop_map(Frame::End),
        any::<(u16, u16)>().prop_map(|(columns, rows)| Frame::Resize { columns, rows }),
        (1..=64u8).prop_map(Frame::Signal),
        (byte_stream(), any::<u32>()).prop_map(|(stream, bytes)| Frame::Credit(stream, bytes)),
        vec(any::<u8>(), 0..100).prop_map(Frame::Exit),
    ]
}

fn text() -> impl Strategy<Value = String> {
    // Everything a path or an argument may hold once it is UTF-8: newlines, NUL, quotes, emoji.
    any::<String>()
}

fn user() -> impl Strategy<Value = User> {
    (text(), any::<u32>(), any::<u32>(), text()).prop_map(|(name, uid, gid, home)| User { name, uid, gid, home })
}

fn share() -> impl Strategy<Value = Share> {
    let kind = prop_oneof![Just(ShareKind::Directory), Just(ShareKind::File)];
    (text(), text(), kind, any::<bool>(), any::<bool>()).prop_map(
        |(entry, destination, kind, read_only, writable_overlay)| Share {
            entry,
            destination,
            kind,
            read_only,
            writable_overlay,
        },
    )
}

prop_compose! {
    fn configure()(
        hostname in text(),
        wall_clock_ns in any::<u64>(),
        entropy in text(),
        machine_id in text(),
        timezone in option::of(text()),
        user in user(),
        shares in vec(share(), 0..4),
        workspace in option::of(text()),
    ) -> Configure {
        Configure {
            hostname,
            wall_clock_ns,
            entropy,
            machine_id,
            timezone,
            user,
            shares,
            workspace,
            network: Network::default(),
            environment: BTreeMap::new(),
            files: Vec::new(),
            certificates: None,
        }
    }
}

prop_compose! {
    fn exec()(
        argv in vec(text(), 0..5),
        env in btree_map(text(), text(), 0..5),
        cwd in text(),
        user in text(),
        terminal in option::of(any::<(u16, u16)>()),
    ) -> Exec {
        let terminal = terminal.map(|(columns, rows)| TerminalSize { columns, rows });
        Exec { argv, env, cwd, user, terminal }
    }
}

fn failure() -> impl Strategy<Value = Failure> {
    let kind = prop_oneof![
        Just(FailureKind::NotFound),
        Just(FailureKind::NotExecutable),
        Just(FailureKind::BadDirectory),
        Just(FailureKind::UnknownUser),
        Just(FailureKind::BadRequest),
        Just(FailureKind::Internal),
        Just(FailureKind::Unknown),
    ];
    (kind, text()).prop_map(|(kind, message)| Failure { kind, message })
}

/// Sends a payload and reads it from the line's bytes, newline included.
fn through_a_line<T>(id: &str, kind: &str, payload: &T) -> T
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let line = Envelope::new(id, kind, payload).unwrap().to_line().unwrap();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one message is one line");
    let mut buffer = LineBuffer::default();
    buffer.push(&line).unwrap();
    let envelope = Envelope::parse(&buffer.next_line().unwrap().unwrap()).unwrap();
    assert_eq!((envelope.id.as_str(), envelope.kind.as_str()), (id, kind));
    envelope.payload_as().unwrap()
}

proptest! {
    #[test]
    fn frames_in_pieces_of_any_size(frames in vec(frame(), 0..12), cuts in vec(1..200usize, 1..20)) {
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(&mut bytes).unwrap();
        }
        let mut decoder = FrameDecoder::default();
        let mut arrived = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                arrived.push(frame);
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(arrived, frames);
        prop_assert!(!decoder.has_partial());
    }

    #[test]
    fn a_cut_frame_is_noticed(frame in frame(), keep in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        let keep = keep.index(bytes.len());
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes[..keep]);
        prop_assert_eq!(decoder.next_frame(), Ok(None));
        prop_assert_eq!(decoder.has_partial(), keep > 0);
    }

    #[test]
    fn every_message(
        id in text(),
        configure in configure(),
        exec in exec(),
        failure in failure(),
        guest_version in text(),
        numbers in any::<(u32, u32, i32, Option<i32>)>(),
        sizes in any::<(u64, u64, u64, u64)>(),
        scratch_full in any::<bool>(),
    ) {
        prop_assert_eq!(&through_a_line(&id, kind::CONFIGURE, &configure), &configure);
        prop_assert_eq!(&through_a_line(&id, kind::EXEC, &exec), &exec);
        prop_assert_eq!(&through_a_line(&id, kind::ERROR, &failure), &failure);
        let marks = vec![Mark { name: guest_version.clone(), at_us: sizes.2 }];
        let configured = Configured {
            template: Some(guest_version.clone()),
            guest_version,
            uptime_ms: sizes.0,
            wall_clock_ns: sizes.1,
            marks,
        };
        prop_assert_eq!(&through_a_line(&id, kind::RESULT, &configured), &configured);
        let started = Started { pid: numbers.0 };
        prop_assert_eq!(&through_a_line(&id, kind::RESULT, &started), &started);
        let exit =
            ExitReport { code: numbers.2, signal: numbers.3, out_of_memory_kills: sizes.1, scratch_full, settled: !scratch_full };
        prop_assert_eq!(&through_a_line(&id, kind::RESULT, &exit), &exit);
        let status = GuestStatus {
            running: numbers.1,
            memory_total: sizes.0,
            memory_available: sizes.1,
            scratch_total: sizes.2,
            scratch_free: sizes.3,
        };
        prop_assert_eq!(&through_a_line(&id, kind::STATUS, &status), &status);
        let nothing: BTreeMap<String, String> = BTreeMap::new();
        prop_assert_eq!(&through_a_line(&id, kind::SHUTDOWN, &nothing), &nothing);
    }

    #[test]
    fn lines_then_frames_lose_no_byte(lines in vec("[a-z ]{0,40}", 1..5), rest in vec(any::<u8>(), 0..50), cut in 1..30usize) {
        let rest: Vec<u8> = rest.into_iter().filter(|byte| *byte != b'\n').collect();
        let mut bytes = lines.join("\n").into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&rest);
        let mut buffer = LineBuffer::default();
        let mut arrived = Vec::new();
        for piece in bytes.chunks(cut) {
            buffer.push(piece).unwrap();
            while let Some(line) = buffer.next_line().unwrap() {
                arrived.push(String::from_utf8(line).unwrap());
            }
        }
        prop_assert_eq!(arrived, lines);
        prop_assert_eq!(buffer.into_rest(), rest);
    }

    #[test]
    fn port_greetings(port in any::<u32>(), reason in text()) {
        let line = connect_line(port);
        prop_assert_eq!(parse_connect(line.trim_end().as_bytes()), Ok(port));
        let refusal = refusal_line(&reason);
        let read = parse_answer(refusal.strip_suffix('\n').unwrap().as_bytes()).unwrap().unwrap_err();
        prop_assert!(reason.replace(char::is_control, " ").starts_with(&read));
    }

    #[test]
    fn a_new_session_in_the_middle_of_an_old_one(
        old in vec(any::<u8>(), 0..500),
        reset in any::<Token>(),
        nonce in any::<Token>(),
        next_reset in any::<Token>(),
        after in vec(any::<u8>(), 0..50),
        piece_bytes in 1..100usize,
    ) {
        let left_over_holds_it = old.windows(TOKEN_BYTES).any(|window| window == reset);
        prop_assume!(!left_over_holds_it);
        let stream = [old, host_hello(&reset, &nonce), after.clone()].concat();
        let mut scanner = MarkerScanner::new(reset);
        let mut position = 0;
        let found = stream.chunks(piece_bytes).find_map(|piece| {
            let found = scanner.scan(piece).map(|offset| position + offset);
            position += piece.len();
            found
        });
        let tail = &stream[found.expect("the marker is there")..];
        let (tail, rest) = tail.split_first_chunk::<HELLO_TAIL_BYTES>().unwrap();
        prop_assert_eq!(parse_tail(tail), Ok(nonce));
        prop_assert_eq!(rest, &after[..]);

        let answer = guest_hello(&nonce, &next_reset);
        prop_assert_eq!(MarkerScanner::new(nonce).scan(&answer), Some(TOKEN_BYTES));
        prop_assert_eq!(parse_tail(answer[TOKEN_BYTES..].first_chunk().unwrap()), Ok(next_reset));
    }
}
