//! A tap on any bytes, in pieces of any size: it does not panic, and keeps nothing that grows.

#[path = "../../src/monitor/tap.rs"]
pub mod tap;

use tap::Tap;
use viv_audit::Journal;
use viv_proto::envelope::Envelope;
use viv_proto::message::{Exec, kind};

/// A request for a program, as a client sends it.
pub fn request(columns: Option<u16>) -> Vec<u8> {
    let exec = Exec {
        argv: vec!["make".into(), "test".into()],
        env: [("TOKEN".to_owned(), "hunter2-the-value".to_owned())].into(),
        cwd: "/p".into(),
        user: "agent".into(),
        terminal: columns.map(|columns| viv_proto::message::TerminalSize { columns, rows: 24 }),
    };
    Envelope::new("1", kind::EXEC, &exec).unwrap().to_line().unwrap()
}

/// What a guest answers that began it.
pub fn answer() -> Vec<u8> {
    Envelope::new("1", kind::RESULT, &serde_json::json!({ "pid": 7 })).unwrap().to_line().unwrap()
}

/// Lets both sides say anything. The first byte says how long the pieces are, and what goes before them.
pub fn any(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut tap = Tap::new(Journal::nowhere());
    if first & 0x40 != 0 {
        tap.client(&request(Some(80)));
    }
    if first & 0x80 != 0 {
        tap.guest(&answer());
    }
    for (index, piece) in rest.chunks(usize::from(first & 0x3f) + 1).enumerate() {
        if index % 2 == 0 {
            tap.guest(piece);
        } else {
            tap.client(piece);
        }
    }
}
