//! QMP, as much as is needed: commands with their answers, and the events that say what became of
//! the machine.
//!
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};

use crate::Event;

/// QEMU is trusted less than this process: a line longer than this ends the conversation.
const LONGEST_LINE_BYTES: u64 = 64 * 1024;

/// A command, and where its answer goes: what it returned, or QEMU's words for why not.
pub(crate) type Request = (Value, oneshot::Sender<Result<Value, String>>);

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    #[serde(default)]
    data: Data,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Data {
    nospace: bool,
    reason: String,
    status: String,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

/// What a QMP line means.
#[derive(Debug, PartialEq)]
enum Said {
    Event(Event),
    Answer(Result<Value, String>),
    Nothing,
}

fn interpret(line: &[u8]) -> Said {
    let Ok(line) = serde_json::from_slice::<Line>(line) else { return Said::Nothing };
    match (line.event.as_deref(), line.returned, line.error) {
        (None, Some(returned), _) => Said::Answer(Ok(returned)),
        (None, None, Some(refusal)) => Said::Answer(Err(refusal.desc)),
        (Some("BLOCK_IO_ERROR"), ..) if line.data.nospace => Said::Event(Event::HostDiskFull),
        (Some("BLOCK_IO_ERROR"), ..) => Said::Event(Event::DiskError),
        (Some("GUEST_PANICKED"), ..) => Said::Event(Event::GuestPanicked),
        (Some("SHUTDOWN"), ..) if line.data.reason == "guest-shutdown" => Said::Event(Event::GuestPoweredOff),
        (Some("MIGRATION"), ..) => match line.data.status.as_str() {
            "completed" => Said::Event(Event::Saved),
            "failed" | "cancelled" => Said::Event(Event::NotSaved),
            _ => Said::Nothing,
        },
        _ => Said::Nothing,
    }
}

/// Reports events and carries out commands until QEMU or the listener is gone.
pub(crate) async fn follow(
    stream: UnixStream,
    events: mpsc::UnboundedSender<Event>,
    mut requests: mpsc::UnboundedReceiver<Request>,
) {
    let (reader, mut writer) = stream.into_split();
    if writer.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await.is_err() {
        return;
    }
    let (lines, mut said) = mpsc::unbounded_channel();
    let reading = tokio::spawn(read(reader, lines));
    // Answers come in the order of the commands; the first one is to the line above.
    let mut waiting: VecDeque<Option<oneshot::Sender<Result<Value, String>>>> = VecDeque::from([None]);
    loop {
        tokio::select! {
            line = said.recv() => match line {
                Some(Said::Event(event)) => if events.send(event).is_err() { break },
                Some(Said::Answer(answer)) => {
                    if let Some(Some(asker)) = waiting.pop_front() {
                        // Who asked may have given up.
                        let _ = asker.send(answer);
                    }
                }
                Some(Said::Nothing) => {}
                None => break,
            },
            Some((command, asker)) = requests.recv() => {
                let line = format!("{command}\n");
                if writer.write_all(line.as_bytes()).await.is_err() {
                    break;
                }
                waiting.push_back(Some(asker));
            }
        }
    }
    reading.abort();
}

async fn read(reader: OwnedReadHalf, lines: mpsc::UnboundedSender<Said>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line).await;
        if read.is_err() || line.last() != Some(&b'\n') || lines.send(interpret(&line)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_matter_and_answers_are_told_apart() {
        let event = |line: &[u8]| match interpret(line) {
            Said::Event(event) => Some(event),
            _ => None,
        };
        let full = br#"{"timestamp":{"seconds":1,"microseconds":2},"event":"BLOCK_IO_ERROR",
            "data":{"device":"","nospace":true,"node-name":"scratch","reason":"No space left on device",
            "operation":"write","action":"stop"}}"#;
        assert_eq!(event(full), Some(Event::HostDiskFull));
        assert_eq!(event(br#"{"event":"BLOCK_IO_ERROR","data":{"nospace":false}}"#), Some(Event::DiskError));
        assert_eq!(event(br#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#), None);
        let off = br#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#;
        assert_eq!(event(off), Some(Event::GuestPoweredOff));
        assert_eq!(event(br#"{"event":"MIGRATION","data":{"status":"completed"}}"#), Some(Event::Saved));
        assert_eq!(event(br#"{"event":"MIGRATION","data":{"status":"failed"}}"#), Some(Event::NotSaved));
        assert_eq!(interpret(br#"{"event":"MIGRATION","data":{"status":"active"}}"#), Said::Nothing);
        assert_eq!(interpret(br#"{"return":{}}"#), Said::Answer(Ok(serde_json::json!({}))));
        let refused = br#"{"error":{"class":"GenericError","desc":"no such file"}}"#;
        assert_eq!(interpret(refused), Said::Answer(Err("no such file".to_owned())));
        assert_eq!(interpret(br#"{"QMP":{"version":{}}}"#), Said::Nothing);
        assert_eq!(interpret(b"nonsense"), Said::Nothing);
    }

    #[tokio::test]
    async fn answers_find_who_asked() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (events, mut happened) = mpsc::unbounded_channel();
        let (ask, requests) = mpsc::unbounded_channel();
        tokio::spawn(follow(ours, events, requests));
        let (reader, mut writer) = theirs.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        assert!(line.contains("qmp_capabilities"));
        let mut answers = Vec::new();
        for command in ["first", "second"] {
            let (asker, answer) = oneshot::channel();
            ask.send((serde_json::json!({ "execute": command }), asker)).unwrap();
            answers.push(answer);
            line.clear();
            reader.read_line(&mut line).await.unwrap();
            assert!(line.contains(command));
        }
        let said = "{\"return\":{}}\n{\"return\":1}\n{\"event\":\"MIGRATION\",\"data\":{\"status\":\"completed\"}}\n\
                    {\"error\":{\"desc\":\"no\"}}\n";
        writer.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(happened.recv().await, Some(Event::Saved));
        assert_eq!(answers.remove(0).await.unwrap(), Ok(serde_json::json!(1)));
        assert_eq!(answers.remove(0).await.unwrap(), Err("no".to_owned()));
    }
}
