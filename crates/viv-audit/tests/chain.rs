//! A chain that is attacked, byte by byte and line by line, and writers that are killed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use viv_audit::{
    Event, Exec, FindingKind, Hash, Journal, KEPT, Limits, ProgramEnd, ProgramRequest, Recording, Store, Verdict,
    VerifyOptions, Writer, verify,
};

fn start(sandbox: &str) -> Event {
    Event::Start { sandbox: sandbox.into(), name: None, version: "0".into(), spec: serde_json::json!({"cpus": 2}) }
}

fn end() -> Event {
    Event::End { reason: "stopped".into(), error: None }
}

fn exec(program: u64) -> Event {
    let (argv, user) = (vec!["make".to_owned(), "tést".to_owned()], "agent".to_owned());
    let environment = vec!["PATH".to_owned()];
    Event::Exec(Exec {
        program,
        session: None,
        argv,
        user,
        cwd: "/p".into(),
        environment,
        terminal: None,
        recording: None,
    })
}

fn check(directory: &Path) -> Verdict {
    verify(directory, &VerifyOptions::default()).unwrap()
}

/// A closed chain of a few lines in a directory of its own.
fn chain(limits: Limits, events: &[Event]) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("web");
    let mut writer = Writer::open(&directory, limits).unwrap();
    for event in events {
        writer.append(event).unwrap();
    }
    writer.close().unwrap();
    (root, directory)
}

fn small() -> (tempfile::TempDir, PathBuf) {
    let ended = Event::ExecEnded { program: 1, end: ProgramEnd::Exited { code: 0, signal: None }, recording: None };
    chain(Limits::default(), &[start("0123abcd"), exec(1), ended, Event::Paused, Event::Resumed, end()])
}

#[test]
fn a_whole_chain_verifies_and_any_changed_byte_of_it_does_not() {
    let (_root, directory) = small();
    let whole = check(&directory);
    assert!(whole.ok && whole.closed && !whole.running && whole.lines == 6 && whole.notes.is_empty(), "{whole:?}");
    for name in ["timeline-000001.jsonl", "head.json"] {
        let path = directory.join(name);
        let bytes = std::fs::read(&path).unwrap();
        let mut line = 1;
        for at in 0..bytes.len() {
            for change in [0x01, 0x02, 0x04, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                std::fs::write(&path, &changed).unwrap();
                let verdict = check(&directory);
                let shown = || String::from_utf8_lossy(&changed).into_owned();
                assert!(!verdict.ok, "byte {at} of {name} by {change:#x}: {}", shown());
                let names_it =
                    verdict.findings.iter().any(|finding| finding.file == name && finding.line == Some(line));
                assert!(name == "head.json" || names_it, "line {line}, byte {at}: {:?}\n{}", verdict.findings, shown());
            }
            line += u64::from(bytes[at] == b'\n');
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(check(&directory).ok);
}

#[test]
fn whatever_is_cut_inserted_or_swapped_is_found() {
    let (_root, directory) = small();
    let path = directory.join("timeline-000001.jsonl");
    let bytes = std::fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let verdict = check(&directory);
        assert!(!verdict.ok, "cut to {length}");
        assert!(verdict.findings.iter().any(|finding| finding.kind == FindingKind::Cut), "{verdict:?}");
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let with = |lines: Vec<&[u8]>| {
        std::fs::write(&path, lines.concat()).unwrap();
        check(&directory)
    };
    for one in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(one);
        assert!(with(without).findings.iter().any(|finding| finding.kind == FindingKind::Cut), "without {one}");
        for other in 0..=lines.len() {
            let mut twice = lines.clone();
            twice.insert(other, lines[one]);
            let verdict = with(twice);
            assert!(verdict.findings.iter().any(|finding| finding.kind == FindingKind::Inserted), "{one} at {other}");
        }
        for other in 0..one {
            let mut swapped = lines.clone();
            swapped.swap(one, other);
            assert!(!with(swapped).ok, "{one} and {other} swapped");
        }
    }
    assert!(!with([&lines[..], &[b"{}\n"]].concat()).ok && !with([&lines[..], &[b"x"]].concat()).ok);
    assert!(with(lines).ok);
    std::fs::remove_file(directory.join("head.json")).unwrap();
    assert_eq!(check(&directory).findings[0].kind, FindingKind::Cut);
}

/// A line and all after it, made anew with the hashes that belong to them: only the head tells.
#[test]
fn a_chain_that_is_made_anew_does_not_fit_its_head_nor_a_noted_hash() {
    let (_root, directory) = small();
    let noted = check(&directory).head;
    let (_other_root, other) = chain(Limits::default(), &[start("0123abcd"), exec(1), end()]);
    let anchored = |directory: &Path| verify(directory, &VerifyOptions { anchor: Some(noted), logs: None }).unwrap();
    assert!(anchored(&directory).ok);
    std::fs::copy(other.join("timeline-000001.jsonl"), directory.join("timeline-000001.jsonl")).unwrap();
    assert!(!check(&directory).ok);
    // Whoever may write both can make both anew: the anchor is what is left.
    std::fs::copy(other.join("head.json"), directory.join("head.json")).unwrap();
    assert!(check(&directory).ok);
    assert_eq!(anchored(&directory).findings[0].kind, FindingKind::Anchor);
}

#[test]
fn segments_are_dropped_with_a_word_and_not_without() {
    let limits = Limits { segment_bytes: 600, segments: 3, ..Limits::default() };
    let events: Vec<Event> = std::iter::once(start("0123abcd")).chain((1..40).map(exec)).chain([end()]).collect();
    let (_root, directory) = chain(limits, &events);
    let verdict = check(&directory);
    assert!(verdict.ok && verdict.first_seq > 20, "{verdict:?}");
    let mut segments: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".jsonl"))
        .collect();
    segments.sort();
    assert_eq!(segments.len(), 3);
    for segment in &segments {
        let bytes = std::fs::read(segment).unwrap();
        std::fs::remove_file(segment).unwrap();
        assert!(check(&directory).findings.iter().any(|finding| finding.kind == FindingKind::Cut), "{segment:?}");
        std::fs::write(segment, bytes).unwrap();
    }
    // It goes on where it ended.
    let mut writer = Writer::open(&directory, limits).unwrap();
    assert!(check(&directory).running);
    assert!(Writer::open(&directory, limits).is_err_and(|error| *error.kind() == viv_audit::ErrorKind::Busy));
    for program in 40..60 {
        writer.append(&exec(program)).unwrap();
    }
    writer.close().unwrap();
    assert!(check(&directory).ok);
}

/// As `kill -9` leaves it: the head is behind, and the last line may be torn.
#[test]
fn a_killed_writer_is_noticed_and_the_chain_goes_on() {
    for torn in [&b""[..], b"{\"seq\":4,\"at"] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("web");
        let mut writer = Writer::open(&directory, Limits::default()).unwrap();
        writer.append(&start("0123abcd")).unwrap();
        writer.seal().unwrap();
        for event in [exec(1), exec(2)] {
            writer.append(&event).unwrap();
        }
        drop(writer);
        let path = directory.join("timeline-000001.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
        let left = check(&directory);
        assert!(left.ok && !left.closed && left.lines == 3, "{left:?}");
        assert_eq!(left.notes.len(), if torn.is_empty() { 2 } else { 3 }, "{left:?}");

        let mut writer = Writer::open(&directory, Limits::default()).unwrap();
        assert_eq!(writer.head().programs, 2);
        writer.append(&end()).unwrap();
        writer.close().unwrap();
        let verdict = check(&directory);
        assert!(verdict.ok && verdict.notes.is_empty() && verdict.lines == 5, "{verdict:?}");
        let text = std::fs::read_to_string(path).unwrap();
        let recovered = format!("\"type\":\"recovered\",\"adopted_lines\":2,\"torn_bytes\":{},", torn.len());
        assert!(text.contains(&recovered), "{text}");
    }
}

/// Sandboxes of one name, one after the other as fast as they can, each of which wants the timeline that the one
/// before has not yet closed; now and then one is killed, or somebody damages what was written.
#[test]
fn writers_that_compete_keep_the_chain_whole() {
    const WRITERS: u64 = 6;
    const ROUNDS: u64 = 25;
    for damaged in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("web");
        let open = || loop {
            match Writer::open(&directory, Limits::default()) {
                Err(error) if *error.kind() == viv_audit::ErrorKind::Busy => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        std::thread::scope(|scope| {
            for number in 0..WRITERS {
                let (open, directory) = (&open, &directory);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let mut writer = open();
                        writer.append(&start(&format!("{number:08x}"))).unwrap();
                        writer.append(&exec(round + 1)).unwrap();
                        if damaged && round == number {
                            let path = directory.join("timeline-000001.jsonl");
                            writer.seal().unwrap();
                            OpenOptions::new().append(true).open(path).unwrap().write_all(b"{}\n").unwrap();
                            drop(writer);
                        } else if round % 5 == number % 5 {
                            drop(writer);
                        } else {
                            writer.append(&end()).unwrap();
                            writer.close().unwrap();
                        }
                    }
                });
            }
        });
        open().close().unwrap();
        let verdict = check(&directory);
        assert!(verdict.ok && verdict.closed && !verdict.running, "{verdict:?}");
        if !damaged {
            let text = std::fs::read_to_string(directory.join("timeline-000001.jsonl")).unwrap();
            for (kind, count) in [("start", WRITERS * ROUNDS), ("exec", WRITERS * ROUNDS)] {
                let found = text.matches(&format!("{{\"type\":\"{kind}\"")).count() as u64;
                assert_eq!(found, count, "{kind}");
            }
        }
    }
}

#[test]
fn a_damaged_timeline_is_set_aside_and_not_gone_on_with() {
    let (root, directory) = small();
    let path = directory.join("timeline-000001.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("stopped", "escaped")).unwrap();
    let mut writer = Writer::open(&directory, Limits::default()).unwrap();
    writer.append(&start("4567cdef")).unwrap();
    writer.append(&end()).unwrap();
    writer.close().unwrap();
    assert!(check(&directory).ok);
    let aside = std::fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("web.damaged-"))
        .unwrap();
    assert!(std::fs::read_to_string(aside.join("timeline-000001.jsonl")).unwrap().contains("escaped"));
    assert!(std::fs::read_to_string(path).unwrap().contains("set_aside"));
}

#[test]
fn a_journal_records_programs_and_refers_to_logs() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("log.jsonl");
    std::fs::write(&log, "{\"event\":\"denied\"}\n{\"event\":\"connected\"}\n").unwrap();
    let store = Store::new(root.path());
    let journal = Journal::new(store.open("web").unwrap(), Recording::Terminals).unwrap();
    journal.record(start("0123abcd"));
    journal.follow("network", log.clone(), None);
    let request = |terminal| ProgramRequest { argv: vec!["sh".into()], terminal, ..ProgramRequest::default() };
    let mut shell = journal.program(request(Some((100, 30))));
    let mut pipe = journal.program(request(None));
    shell.output(b"{\"seq\":0}\n\x1b[2Jfake\n");
    pipe.output(b"never recorded");
    shell.resize(120, 40);
    assert_eq!((shell.number(), pipe.number()), (1, 2));
    pipe.ended(ProgramEnd::Exited { code: 3, signal: None });
    drop(shell);
    assert!(journal.close(end(), Duration::from_secs(60)));
    assert!(journal.close(end(), Duration::ZERO), "once is enough");
    journal.record(Event::Paused);

    let entry = store.find("0123").unwrap();
    assert!(entry.closed && !entry.running && entry.name == "web" && entry.sandbox == "0123abcd");
    let events: Vec<Event> = entry.read().unwrap().into_iter().map(|line| line.event).collect();
    assert!(matches!(events.last(), Some(Event::End { .. })), "{events:?}");
    let ends = |wanted| {
        events.iter().find_map(|event| match event {
            Event::ExecEnded { program, end, recording } if *program == wanted => Some((end, recording.is_some())),
            _ => None,
        })
    };
    assert_eq!(ends(1), Some((&ProgramEnd::Unseen, true)));
    assert_eq!(ends(2), Some((&ProgramEnd::Exited { code: 3, signal: None }, false)));

    let logs = |_: &str, _: &str| Some(vec![log.clone()]);
    let options = VerifyOptions { anchor: None, logs: Some(&logs) };
    let found = || verify(&entry.directory, &options).unwrap();
    assert!(found().ok, "{:?}", found());
    // What a guest printed is data in a recording, and no line of the timeline.
    let cast = entry.recording(1).unwrap();
    let text = std::fs::read(&cast).unwrap();
    for change in [b"x".as_slice(), b"\n[1.0,\"o\",\"more\"]\n"] {
        std::fs::write(&cast, [&text, change].concat()).unwrap();
        assert_eq!(found().findings[0].kind, FindingKind::Inserted);
    }
    std::fs::write(&cast, String::from_utf8_lossy(&text).replace("fake", "real")).unwrap();
    assert_eq!(found().findings[0].kind, FindingKind::Changed);
    std::fs::remove_file(&cast).unwrap();
    assert_eq!(found().findings[0].kind, FindingKind::Cut);
    std::fs::write(&cast, &text).unwrap();
    std::fs::write(cast.with_file_name("000009.cast"), &text).unwrap();
    assert_eq!(found().findings[0].kind, FindingKind::Inserted);
    std::fs::remove_file(cast.with_file_name("000009.cast")).unwrap();
    std::fs::write(&log, "{\"event\":\"allowed\"}\n{\"event\":\"connected\"}\n").unwrap();
    assert!(!found().ok);
}

#[test]
fn the_oldest_timelines_make_room_unless_their_sandboxes_are_there() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path());
    let begin = |name: &str| {
        let mut writer = store.open_sparing(name, |name| name == "there").unwrap();
        writer.append(&start(name)).unwrap();
    };
    begin("there");
    begin("gone");
    for number in 0..=KEPT {
        begin(&format!("later-{number}"));
    }
    let names: Vec<String> = store.list().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), KEPT);
    assert!(names.contains(&"there".to_owned()) && !names.contains(&"gone".to_owned()), "{names:?}");
    assert!(names.contains(&format!("later-{KEPT}")), "{names:?}");
}

#[test]
fn the_oldest_recordings_make_room_with_a_word() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("web");
    let limits = Limits { cast_bytes: 1000, casts_bytes: 3000, ..Limits::default() };
    let journal = Journal::new(Writer::open(&directory, limits).unwrap(), Recording::All).unwrap();
    for _ in 0..10 {
        let mut program = journal.program(ProgramRequest::default());
        program.output(&[b'x'; 900]);
        program.ended(ProgramEnd::Exited { code: 0, signal: None });
    }
    assert!(journal.close(end(), Duration::from_secs(60)));
    let verdict = check(&directory);
    assert!(verdict.ok, "{verdict:?}");
    let casts = std::fs::read_dir(directory.join("casts")).unwrap().count();
    assert!((1..=3).contains(&casts), "{casts}");
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<String>().prop_map(|sandbox| start(&sandbox)),
        (1..20_u64).prop_map(exec),
        Just(Event::Paused),
        any::<String>().prop_map(|reason| Event::End { reason, error: None }),
        (any::<String>(), any::<Option<String>>()).prop_map(|(kind, subject)| Event::Request { kind, subject }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written verifies, in any number of lives and segments; one change anywhere does not.
    #[test]
    fn any_chain_verifies_until_it_is_changed(
        lives in proptest::collection::vec(proptest::collection::vec(any_event(), 1..12), 1..4),
        segment_bytes in 200_u64..2000,
        at in any::<prop::sample::Index>(),
        change in 1_u8..=255,
    ) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("web");
        let limits = Limits { segment_bytes, ..Limits::default() };
        for events in &lives {
            let mut writer = Writer::open(&directory, limits).unwrap();
            for event in events {
                writer.append(event).unwrap();
            }
            writer.close().unwrap();
        }
        let verdict = check(&directory);
        prop_assert!(verdict.ok, "{:?}", verdict);
        let files: Vec<PathBuf> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some())
            .collect();
        let path = at.get(&files);
        let mut bytes = std::fs::read(path).unwrap();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            std::fs::write(path, &bytes).unwrap();
            let verdict = check(&directory);
            prop_assert!(!verdict.ok, "{:?} at {}", path, at);
        }
    }

    /// A directory of any bytes is judged without a panic, and a writer begins anew or goes on.
    #[test]
    fn any_bytes_are_judged(head in proptest::collection::vec(any::<u8>(), 0..300), line in ".{0,200}", valid: bool) {
        let (_root, directory) = small();
        if !valid {
            std::fs::write(directory.join("head.json"), head).unwrap();
        }
        std::fs::write(directory.join("timeline-000002.jsonl"), line).unwrap();
        check(&directory);
        Writer::open(&directory, Limits::default()).unwrap().close().unwrap();
        prop_assert!(check(&directory).ok);
    }

    #[test]
    fn a_hash_is_read_as_it_is_written(bytes: Vec<u8>) {
        let hash = Hash::of(&bytes);
        prop_assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
    }
}
