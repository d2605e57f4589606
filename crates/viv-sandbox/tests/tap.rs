//! What a connection tells the timeline, however it is cut into pieces and whatever a guest says.

#[path = "support/taps.rs"]
mod taps;

use std::time::Duration;

use proptest::prelude::*;
use taps::tap::Tap;
use taps::{answer, request};
use viv_audit::{CastReader, Entry, Event, Journal, ProgramEnd, Recording, Store};
use viv_proto::envelope::Envelope;
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::message::{Failure, FailureKind, Secret, kind};

fn journal(root: &tempfile::TempDir) -> Journal {
    Journal::new(Store::new(root.path()).open("web").unwrap(), Recording::Terminals).unwrap()
}

/// What was written down, the end left out.
fn told(root: &tempfile::TempDir, journal: &Journal) -> (Entry, Vec<Event>) {
    assert!(journal.close(Event::Paused, Duration::from_secs(60)));
    let entry = Store::new(root.path()).find("web").unwrap();
    assert!(viv_audit::verify(&entry.directory, &viv_audit::VerifyOptions::default()).unwrap().ok);
    let mut events: Vec<Event> = entry.read().unwrap().into_iter().map(|line| line.event).collect();
    assert_eq!(events.pop(), Some(Event::Paused));
    (entry, events)
}

fn frames(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes).unwrap());
    bytes
}

fn exit(code: i32) -> Frame {
    Frame::Exit(format!("{{\"code\":{code}}}").into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn pieces_make_no_difference(size in 1..200_usize) {
        let root = tempfile::tempdir().unwrap();
        let journal = journal(&root);
        let mut tap = Tap::new(journal.clone());
        let sizes = Frame::Resize { columns: 100, rows: 30 };
        for piece in [request(Some(80)), frames(&[Frame::Data(ByteStream::Stdin, b"typed".to_vec()), sizes])].concat().chunks(size) {
            tap.client(piece);
        }
        let output = Frame::Data(ByteStream::Stdout, "grüß dich\r\n".as_bytes().to_vec());
        let credit = Frame::Credit(ByteStream::Stdin, 9);
        for piece in [answer(), frames(&[credit, output.clone(), output, exit(3)])].concat().chunks(size) {
            tap.guest(piece);
        }
        let (entry, events) = told(&root, &journal);
        let [Event::Exec(exec), Event::ExecEnded { program: 1, end, recording: Some(_) }] = &events[..] else {
            panic!("{events:?}");
        };
        prop_assert_eq!(&exec.argv, &["make", "test"]);
        prop_assert_eq!(&exec.environment, &["TOKEN"]);
        prop_assert_eq!(end, &ProgramEnd::Exited { code: 3, signal: None });
        let path = entry.recording(1).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        prop_assert!(!text.contains("typed") && !text.contains("hunter2"));
        let mut cast = CastReader::open(&path).unwrap();
        let mut played = String::new();
        let mut kinds = String::new();
        while let Some(event) = cast.next_event().unwrap() {
            kinds.push_str(&event.kind);
            if event.kind == "o" {
                played.push_str(&event.data);
            }
        }
        prop_assert_eq!(played, "grüß dich\r\n".repeat(2));
        prop_assert!(kinds.starts_with('r'));
    }

    #[test]
    fn any_bytes_are_looked_at(bytes: Vec<u8>, begun: bool) {
        taps::any(&bytes);
        // Behind a good beginning, a guest says anything: the program was asked for, and that stays.
        let root = tempfile::tempdir().unwrap();
        let journal = journal(&root);
        let mut tap = Tap::new(journal.clone());
        tap.client(&request(None));
        if begun {
            tap.guest(&answer());
        }
        tap.guest(&bytes);
        drop(tap);
        let (_, events) = told(&root, &journal);
        prop_assert!(matches!(&events[..], [Event::Exec(_), Event::ExecEnded { .. }]), "{:?}", events);
    }
}

#[test]
fn what_is_refused_and_what_is_no_program_is_told_without_its_content() {
    let root = tempfile::tempdir().unwrap();
    let journal = journal(&root);
    let mut refused = Tap::new(journal.clone());
    refused.client(&request(None));
    let failure = Failure { kind: FailureKind::NotFound, message: "no \u{1b}[2Jmake".into() };
    refused.guest(&Envelope::new("1", kind::ERROR, &failure).unwrap().to_line().unwrap());
    refused.guest(&frames(&[exit(0)]));
    let mut secret = Tap::new(journal.clone());
    let value = Secret { name: "NPM_TOKEN".into(), value: "hunter2".into() };
    secret.client(&Envelope::new("2", kind::SECRET, &value).unwrap().to_line().unwrap());
    let mut status = Tap::new(journal.clone());
    status.client(&Envelope::new("3", kind::STATUS, &()).unwrap().to_line().unwrap());
    drop((refused, secret, status));
    let (entry, events) = told(&root, &journal);
    let reason = "no \u{1b}[2Jmake".to_owned();
    assert!(events.contains(&Event::ExecEnded { program: 1, end: ProgramEnd::Refused { reason }, recording: None }));
    assert!(events.contains(&Event::Request { kind: "secret".into(), subject: Some("NPM_TOKEN".into()) }));
    assert_eq!(events.len(), 3, "{events:?}");
    let text = std::fs::read_to_string(entry.directory.join("timeline-000001.jsonl")).unwrap();
    assert!(!text.contains("hunter2") && !text.contains('\u{1b}'));
}
