//! What client and monitor say to each other on the socket pair between them: JSON, a line each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use viv_error::Report;
use viv_proto::message::Mark;

use crate::{Holdings, Paths, Plan, Publish};

/// The descriptor a monitor finds its socket at.
pub(crate) const MONITOR_DESCRIPTOR: i32 = 3;

/// The longest line, in bytes. Both ends are viv, so this only stops a runaway.
const LONGEST_LINE_BYTES: u64 = 4 * 1024 * 1024;

/// From the client. Its end of the socket closing means the same as [`ToMonitor::Stop`], unless
/// [`ToMonitor::Detach`] came before.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToMonitor {
    /// Start this; the first line, once.
    Start(Box<StartLine>),
    /// Flush and end.
    Stop,
    /// End at once: there is nothing to flush.
    End,
    /// Go on without a client. Nothing else is said after it.
    Detach,
}

/// The first line's content.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StartLine {
    pub(crate) plan: Plan,
    pub(crate) paths: Paths,
    /// A file in the client's memory with the keys of the sandbox's egress, as the monitor may open it:
    /// they never pass through the monitor's own memory, and a spare cannot be given a descriptor at
    /// its start.
    pub(crate) keys: Option<PathBuf>,
    /// The client's environment without what is withheld, for the egress: a key's command needs the
    /// user's (`HOME`, `GNUPGHOME`, `SSH_AUTH_SOCK`), TLS `SSL_CERT_FILE`, and a spare has none of it.
    pub(crate) environment: Vec<(String, String)>,
    /// What the monitor is to hold.
    pub(crate) holdings: Holdings,
    /// A named sandbox's directory, where its end is noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<PathBuf>,
}

/// From the monitor. Its end closing means that nothing of the sandbox is left.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromMonitor {
    /// The machine is about to be started in this way. Said again if that way leads nowhere.
    Starting(Way),
    /// Programs can be run.
    Ready(ReadyLine),
    /// It goes on without a client.
    Detached,
    /// The sandbox ends because of this.
    Failed(Report),
}

/// How a machine comes to life. In JSON, `kind` says which of them it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Way {
    /// It is restored from a template.
    Template {
        /// Which one.
        key: String,
    },
    /// It was restored ahead of time and stood ready.
    Spare {
        /// From which template.
        key: String,
    },
    /// It boots.
    Cold {
        /// Why.
        reason: String,
        /// Whether there could be a template, which should be made now.
        make_template: bool,
    },
}

/// What is known of a start once programs can be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadyLine {
    /// Milliseconds from the kernel's start to the answer, by the guest's clock.
    pub(crate) guest_uptime_ms: u64,
    /// When each part of the start was done.
    pub(crate) marks: Vec<HostMark>,
    /// The same, by the guest's clock.
    pub(crate) guest_marks: Vec<Mark>,
    /// Where the guest's ports are shown, in the order they were asked for.
    pub(crate) published: Vec<Publish>,
}

/// A part of a start that was done on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMark {
    /// Which one.
    pub name: String,
    /// When: nanoseconds of CLOCK_MONOTONIC, which all processes of a host share.
    pub at_ns: u64,
}

impl HostMark {
    /// Something was done just now.
    #[must_use]
    pub fn now(name: &str) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = std::time::Duration::try_from(now).unwrap_or_default();
        Self { name: name.to_owned(), at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX) }
    }
}

#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: tokio::io::AsyncRead + Unpin> Lines<R> {
    /// The next message; `None` at the end, also at a line that is none. Cancel-safe: a line half
    /// read is kept.
    pub(crate) async fn next<M: serde::de::DeserializeOwned>(&mut self) -> Option<M> {
        let room = LONGEST_LINE_BYTES.saturating_sub(self.line.len() as u64);
        (&mut self.reader).take(room).read_until(b'\n', &mut self.line).await.ok()?;
        if self.line.last() != Some(&b'\n') {
            return None;
        }
        let message = serde_json::from_slice(&self.line).ok();
        self.line.clear();
        message
    }
}

pub(crate) fn split(stream: UnixStream) -> (Lines<OwnedReadHalf>, OwnedWriteHalf) {
    let (reader, writer) = stream.into_split();
    (Lines { reader: BufReader::new(reader), line: Vec::new() }, writer)
}

pub(crate) async fn send(writer: &mut OwnedWriteHalf, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_one_flat_object() {
        let template = Way::Template { key: "b45d".to_owned() };
        let spare = Way::Spare { key: "b45d".to_owned() };
        let cold = Way::Cold { reason: "a cold start was asked for".to_owned(), make_template: false };
        let text = |way: &Way| serde_json::to_string(way).unwrap();
        assert_eq!(text(&template), r#"{"kind":"template","key":"b45d"}"#);
        assert_eq!(text(&spare), r#"{"kind":"spare","key":"b45d"}"#);
        assert_eq!(text(&cold), r#"{"kind":"cold","reason":"a cold start was asked for","make_template":false}"#);
        let line = serde_json::to_string(&FromMonitor::Starting(cold.clone())).unwrap();
        assert!(matches!(serde_json::from_str(&line), Ok(FromMonitor::Starting(way)) if way == cold));
    }
}
