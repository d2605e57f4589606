use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::event::Via;

fn denial(host: &str) -> What {
    What::Denied(Denial {
        via: Via::Tcp,
        host: host.into(),
        port: 443,
        rule: "default".into(),
        reason: "no rule allows it".into(),
        allow: Some(format!("{host}:443")),
    })
}

fn failed(host: &str) -> What {
    What::Failed { via: Via::Tcp, host: host.into(), port: 443, reason: "timed out".into() }
}

#[test]
fn events_are_lines_of_a_private_file_and_repeated_refusals_are_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let log = EventLog::open(directory.path()).unwrap();
    let sink = log.sink();
    for _ in 0..100 {
        sink.record(denial("a.example"));
    }
    sink.record(failed("b.example"));
    sink.record(denial("c.example"));
    log.finish();
    let path = directory.path().join(LOG_FILE);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let events = read_log(&path).unwrap();
    // A slow machine may need more than a second for the hundred.
    assert!((3..10).contains(&events.len()), "{events:?}");
    assert_eq!(events.last().unwrap().what, denial("c.example"));
}

#[test]
fn text_of_the_guest_is_cleaned_and_cut() {
    let (sink, events) = EventSink::channel(8);
    sink.record(failed(&format!("\u{1b}[2Jevil\u{202e}{}", "ü".repeat(300))));
    let What::Failed { host, .. } = events.recv().unwrap().what else { panic!("another event") };
    assert!(host.starts_with("?[2Jevil?ü"), "{host}");
    assert!(host.ends_with("ü…") && host.len() <= 255, "{} bytes", host.len());
}

#[test]
fn a_torn_line_is_passed_over_and_the_next_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(LOG_FILE);
    let whole = serde_json::to_string(&Event { at_ms: 1, what: denial("a.example") }).unwrap();
    std::fs::write(&path, format!("{whole}\nnot json\n{}", &whole[..20])).unwrap();
    assert_eq!(read_log(&path).unwrap().len(), 1);
    let log = EventLog::open(directory.path()).unwrap();
    log.sink().record(denial("b.example"));
    log.finish();
    assert_eq!(read_log(&path).unwrap().len(), 2);
}

#[test]
fn a_follower_gets_each_event_once_across_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(LOG_FILE);
    let log = EventLog::open_with(directory.path(), 1000).unwrap();
    let mut follower = LogReader::new(&path);
    assert!(follower.next_events().unwrap().is_empty());
    let mut hosts = Vec::new();
    for number in 0..50 {
        log.sink().record(failed(&format!("host{number}.example")));
        log.finish();
        if number % 3 == 0 {
            hosts.extend(follower.next_events().unwrap());
        }
    }
    hosts.extend(follower.next_events().unwrap());
    let hosts: Vec<_> = hosts
        .into_iter()
        .map(|event| match event.what {
            What::Failed { host, .. } => host,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(hosts, (0..50).map(|number| format!("host{number}.example")).collect::<Vec<_>>());
    assert!(std::fs::metadata(&path).unwrap().len() < 2000);
    assert!(directory.path().join(ROTATED_LOG_FILE).exists());
}

#[test]
fn half_a_line_waits_for_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(LOG_FILE);
    let line = serde_json::to_string(&Event { at_ms: 1, what: denial("a.example") }).unwrap() + "\n";
    let mut file = open_log(&path).unwrap();
    file.write_all(&line.as_bytes()[..30]).unwrap();
    let mut follower = LogReader::new(&path);
    assert!(follower.next_events().unwrap().is_empty());
    file.write_all(&line.as_bytes()[30..]).unwrap();
    assert_eq!(follower.next_events().unwrap().len(), 1);
}
