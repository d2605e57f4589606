//! Copies of transcripts, and what is noticed of them afterwards.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use viv_audit::{
    Event, FileSummary, FindingKind, FoundTranscript, Hash, Journal, Limits, Recording, Store, Transcript, Verdict,
    VerifyOptions, Writer, verify,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn end() -> Event {
    Event::End { reason: "stopped".into(), error: None }
}

fn found(path: &str, content: impl Read + Send + 'static) -> FoundTranscript {
    FoundTranscript { agent: "claude".into(), path: path.into(), content: Box::new(content), most_bytes: 1000 }
}

fn check(directory: &Path) -> Verdict {
    verify(directory, &VerifyOptions::default()).unwrap()
}

fn told(directory: &Path) -> Vec<Transcript> {
    let lines = Store::new(directory.parent().unwrap().parent().unwrap()).find("web").unwrap().read().unwrap();
    let transcripts = lines.into_iter().filter_map(|line| match line.event {
        Event::Transcript(transcript) => Some(transcript),
        _ => None,
    });
    transcripts.collect()
}

#[test]
fn what_became_of_a_copy_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path());
    let journal = Journal::new(store.open("web").unwrap(), Recording::None).unwrap();
    journal.record(Event::Files(FileSummary { mode: "live".into(), added: 1, ..FileSummary::default() }));
    journal.transcript(found("projects/\u{1b}[2J.jsonl", &b"{\"said\":\"hello\"}\n"[..]));
    journal.transcript(found("projects/long.jsonl", io::repeat(b'x')));
    journal.transcript(found("projects/broken.jsonl", Broken));
    assert!(journal.close(end(), PATIENCE));

    let entry = store.find("web").unwrap();
    let whole = check(&entry.directory);
    assert!(whole.ok && whole.closed && whole.notes.is_empty(), "{whole:?}");
    let [hello, long] = &told(&entry.directory)[..] else { panic!("{:?}", told(&entry.directory)) };
    assert_eq!((hello.path.as_str(), hello.bytes), ("projects/\u{1b}[2J.jsonl", 17));
    assert_eq!(hello.sha256, Hash::of(b"{\"said\":\"hello\"}\n"));
    assert_eq!((long.bytes, long.sha256), (1000, Hash::of(&[b'x'; 1000])));
    let text = std::fs::read_to_string(entry.directory.join("timeline-000001.jsonl")).unwrap();
    assert!(text.contains("broken.jsonl of claude: a bad disk") && !text.contains('\u{1b}'), "{text}");
    // A copy of all of it verifies, too.
    let copy = root.path().join("copy");
    for (name, path) in entry.files().unwrap() {
        std::fs::create_dir_all(copy.join(&name).parent().unwrap()).unwrap();
        std::fs::copy(path, copy.join(name)).unwrap();
    }
    assert!(check(&copy).ok, "{:?}", check(&copy));

    let path = entry.transcript(&hello.file).unwrap();
    let before = std::fs::read(&path).unwrap();
    let first = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let finding = check(&entry.directory).findings.remove(0);
        assert_eq!(finding.file, format!("transcripts/{}", hello.file));
        finding.kind
    };
    assert_eq!(first(b"{\"said\":\"jello\"}\n"), FindingKind::Changed);
    assert_eq!(first(&before[..16]), FindingKind::Cut);
    assert_eq!(first(&[&before[..], b"{}"].concat()), FindingKind::Inserted);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(check(&entry.directory).findings[0].kind, FindingKind::Cut);
    std::os::unix::fs::symlink(entry.transcript(&long.file).unwrap(), &path).unwrap();
    assert_eq!(check(&entry.directory).findings[0].kind, FindingKind::Cut);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(first(&before[..0]), FindingKind::Cut);
    std::fs::write(&path, &before).unwrap();
    std::fs::write(path.with_file_name("000099"), "put there").unwrap();
    assert_eq!(check(&entry.directory).findings[0].kind, FindingKind::Inserted);
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("a bad disk"))
    }
}

#[test]
fn the_oldest_make_room_with_a_word() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("audit/web");
    let limits = Limits { transcripts_bytes: 2500, ..Limits::default() };
    for _ in 0..3 {
        let journal = Journal::new(Writer::open(&directory, limits).unwrap(), Recording::None).unwrap();
        for _ in 0..2 {
            journal.transcript(found("a.jsonl", io::repeat(b'x')));
        }
        assert!(journal.close(end(), PATIENCE));
    }
    let verdict = check(&directory);
    assert!(verdict.ok, "{verdict:?}");
    let files: std::collections::BTreeSet<String> =
        told(&directory).into_iter().map(|transcript| transcript.file).collect();
    assert_eq!(files.len(), 6, "no number is given twice");
    let kept: Vec<_> = std::fs::read_dir(directory.join("transcripts")).unwrap().collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
}

/// Between the copy and its line, and in the middle of the copy.
#[test]
fn a_writer_that_is_killed_leaves_no_suspicion() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("audit/web");
    let mut writer = Writer::open(&directory, Limits::default()).unwrap();
    writer.append(&Event::Paused).unwrap();
    writer.seal().unwrap();
    let next = writer.head().lines;
    drop(writer);
    std::fs::create_dir(directory.join("transcripts")).unwrap();
    std::fs::write(directory.join(format!("transcripts/{next:06}")), "whole").unwrap();
    std::fs::write(directory.join("transcripts/partial"), "half").unwrap();

    let journal = Journal::new(Writer::open(&directory, Limits::default()).unwrap(), Recording::None).unwrap();
    journal.transcript(found("a.jsonl", &b"{}"[..]));
    assert!(journal.close(end(), PATIENCE));
    let verdict = check(&directory);
    assert!(verdict.ok && verdict.notes.len() == 1, "{verdict:?}");
    assert!(verdict.notes[0].contains("its writer was killed"), "{verdict:?}");
    assert!(!directory.join("transcripts/partial").exists());
    let [transcript] = &told(&directory)[..] else { panic!() };
    assert_ne!(transcript.file, format!("{next:06}"));
}
