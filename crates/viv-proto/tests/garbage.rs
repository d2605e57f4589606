//! Any bytes at all: nothing panics, nothing is accepted that breaks a law.
//!
//! The bounded, stable-Rust side of the fuzz target in `fuzz/`: the same checks, on bytes drawn at
//! random, on valid traffic, and on valid traffic with bytes flipped, cut and repeated.

#[path = "support/exercise.rs"]
mod exercise;

use proptest::collection::vec;
use proptest::prelude::*;
use viv_proto::archive::{FileKind, Record, Stamp, Time};
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::handshake::{FIRST_TOKEN, host_hello};
use viv_proto::{MAX_FRAME_BYTES, MAX_LINE_BYTES};

/// One of everything a peer would send, in order.
fn traffic() -> Vec<u8> {
    let mut bytes = host_hello(&FIRST_TOKEN, b"0123456789abcdef");
    bytes.extend_from_slice(b"CONNECT 5000\nOK\nERR no such port\n");
    bytes.extend_from_slice(
        br#"{"id":"1","type":"exec","agent_id":0,"version":1,"payload":{"argv":["ls"],"cwd":"/","user":"agent"}}"#,
    );
    bytes.push(b'\n');
    bytes.extend_from_slice(&frame_bytes());
    bytes
}

fn frame_bytes() -> Vec<u8> {
    let frames = [
        Frame::Data(ByteStream::Stdout, b"hello".to_vec()),
        Frame::Resize { columns: 80, rows: 24 },
        Frame::Signal(2),
        Frame::Credit(ByteStream::Stderr, 65536),
        Frame::End(ByteStream::Stdout),
        Frame::Exit(br#"{"code":0}"#.to_vec()),
    ];
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes).unwrap();
    }
    bytes
}

fn record_bytes() -> Vec<u8> {
    let modified = Time { seconds: 1_700_000_000, nanoseconds: 5 };
    let stamp = Stamp { kind: FileKind::File, mode: 0o644, size: 5, modified, changed: modified, inode: 9 };
    let records = [
        Record::Directory { path: b"a".to_vec(), mode: 0o755, modified },
        Record::File { path: b"a/b".to_vec(), mode: 0o644, modified, size: 5 },
        Record::Data(b"hello".to_vec()),
        Record::FileEnd,
        Record::Symlink { path: b"a/l".to_vec(), target: b"../..".to_vec(), modified },
        Record::Listed { path: b"a/b".to_vec(), stamp },
        Record::Skipped { path: b"a/fifo".to_vec() },
        Record::End,
    ];
    let mut bytes = Vec::new();
    for record in records {
        record.encode(&mut bytes).unwrap();
    }
    bytes
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Repeat(usize),
    Insert(usize, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), 1..=255u8).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        any::<usize>().prop_map(Damage::Cut),
        any::<usize>().prop_map(Damage::Repeat),
        (any::<usize>(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn apply(mut bytes: Vec<u8>, damages: Vec<Damage>) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match damage {
            Damage::Flip(at, mask) => bytes[at % length] ^= mask,
            Damage::Cut(at) => bytes.truncate(at % length),
            Damage::Repeat(at) => {
                let tail = bytes[at % length..].to_vec();
                bytes.extend_from_slice(&tail);
            }
            Damage::Insert(at, inserted) => {
                let at = at % length;
                bytes.splice(at..at, inserted);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..600)) {
        exercise::every_decoder(&bytes);
    }

    #[test]
    fn damaged_traffic(damages in vec(damage(), 0..5)) {
        exercise::every_decoder(&apply(traffic(), damages));
    }

    #[test]
    fn damaged_frames(damages in vec(damage(), 0..4)) {
        exercise::every_decoder(&apply(frame_bytes(), damages));
    }

    #[test]
    fn damaged_records(damages in vec(damage(), 0..4)) {
        exercise::every_decoder(&apply(record_bytes(), damages));
    }

    #[test]
    fn json_like_text(text in r#"[{}\[\]":,0-9a-z\\ \n-]{0,200}"#) {
        exercise::every_decoder(text.as_bytes());
    }
}

#[test]
fn nothing_at_all() {
    exercise::every_decoder(b"");
}

#[test]
fn around_every_limit() {
    for length in [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES] {
        exercise::every_decoder(&vec![b'a'; length]);
        let mut line = vec![b'{'; length - 1];
        line.push(b'\n');
        exercise::every_decoder(&line);
    }
    for length in [MAX_FRAME_BYTES - 1, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1] {
        let mut frame = vec![1];
        frame.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        frame.extend_from_slice(&vec![0; length]);
        exercise::every_decoder(&frame);
    }
}

#[test]
fn deeply_nested_json_is_refused_and_not_followed_to_the_end_of_the_stack() {
    let mut line = br#"{"id":"1","type":"x","payload":"#.to_vec();
    line.extend(std::iter::repeat_n(b'[', MAX_LINE_BYTES - line.len() - 1));
    exercise::every_decoder(&line);
    assert!(viv_proto::envelope::Envelope::parse(&line).is_err());
}
