//! QMP, as much as is needed: the greeting, and the events that say why a machine stopped.
//!
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::Event;

/// QEMU is trusted less than this process: a line longer than this ends the conversation.
const LONGEST_LINE_BYTES: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Data {
    nospace: bool,
    reason: String,
}

/// What a QMP line means to the machine's owner.
fn interpret(line: &[u8]) -> Option<Event> {
    let line: Line = serde_json::from_slice(line).ok()?;
    match line.event?.as_str() {
        "BLOCK_IO_ERROR" if line.data.nospace => Some(Event::HostDiskFull),
        "BLOCK_IO_ERROR" => Some(Event::DiskError),
        "GUEST_PANICKED" => Some(Event::GuestPanicked),
        "SHUTDOWN" if line.data.reason == "guest-shutdown" => Some(Event::GuestPoweredOff),
        _ => None,
    }
}

/// Reports events until QEMU or the listener is gone.
pub(crate) async fn follow(stream: UnixStream, events: mpsc::UnboundedSender<Event>) {
    let (reader, mut writer) = stream.into_split();
    if writer.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await.is_err() {
        return;
    }
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line).await;
        if read.is_err() || line.last() != Some(&b'\n') {
            return;
        }
        if let Some(event) = interpret(&line)
            && events.send(event).is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_that_matter_are_reported() {
        let full = br#"{"timestamp":{"seconds":1,"microseconds":2},"event":"BLOCK_IO_ERROR",
            "data":{"device":"","nospace":true,"node-name":"scratch","reason":"No space left on device",
            "operation":"write","action":"stop"}}"#;
        assert_eq!(interpret(full), Some(Event::HostDiskFull));
        assert_eq!(interpret(br#"{"event":"BLOCK_IO_ERROR","data":{"nospace":false}}"#), Some(Event::DiskError));
        assert_eq!(interpret(br#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#), None);
        let off = br#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#;
        assert_eq!(interpret(off), Some(Event::GuestPoweredOff));
        assert_eq!(interpret(br#"{"return":{}}"#), None);
        assert_eq!(interpret(b"nonsense"), None);
    }
}
