//! What client and monitor say to each other on the socket pair between them: JSON, a line each.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use viv_error::Report;

use crate::{Paths, Plan};

/// The descriptor a monitor finds its socket at.
pub(crate) const MONITOR_DESCRIPTOR: i32 = 3;

/// The longest line, in bytes. Both ends are viv, so this only stops a runaway.
const LONGEST_LINE_BYTES: u64 = 4 * 1024 * 1024;

/// From the client. Its end of the socket closing means the same as [`ToMonitor::Stop`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToMonitor {
    /// Start this; the first line, once.
    Start(Box<StartLine>),
    /// Flush and end.
    Stop,
}

/// The first line's content.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StartLine {
    pub(crate) plan: Plan,
    pub(crate) paths: Paths,
    pub(crate) timezone: Option<String>,
}

/// From the monitor. Its end closing means that nothing of the sandbox is left.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromMonitor {
    /// Everything was started.
    Booting,
    /// Programs can be run.
    Ready {
        /// Milliseconds from the kernel's start to the answer, by the guest's clock.
        guest_uptime_ms: u64,
    },
    /// The sandbox ends because of this.
    Failed(Report),
}

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
