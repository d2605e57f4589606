//! The control port: one line says what is wanted, one line answers.
//!
//! `heartbeat` and `status` can be asked again and again on one connection; everything else is a
//! connection's only or last operation. What cannot be understood is answered with an `error` of
//! kind `bad_request` and ends that connection, no other.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, Semaphore};
use viv_link::line::read_line;
use viv_proto::envelope::Envelope;
use viv_proto::message::{Configure, Exec, FailureKind, kind};

use crate::configure::{self, Sandbox};
use crate::error::{Error, Result, error, failure, line};
use crate::{console, exec, identity, power, shares, status};

/// How many connections are served at once. Below the link's own limit, so that one more is refused
/// by name instead of breaking the session.
pub const MAX_OPERATIONS: usize = 192;

/// How long the other side may take to close after the last answer.
const LINGER: Duration = Duration::from_secs(1);

/// How long the host may take to hear the answer to `shutdown`.
const SHUTDOWN_LINGER: Duration = Duration::from_millis(200);

/// What all connections share.
pub struct Guest {
    places: Arc<Semaphore>,
    failure: Option<String>,
    /// Whether it has been tried.
    configuring: Mutex<bool>,
    sandbox: OnceLock<Sandbox>,
    running: AtomicU32,
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// A guest that has booted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            failure: None,
            configuring: Mutex::new(false),
            sandbox: OnceLock::new(),
            running: AtomicU32::new(0),
        }
    }

    /// A guest that has not: it only says why, and powers off.
    #[must_use]
    pub fn failed(reason: String) -> Self {
        Self { failure: Some(reason), ..Self::new() }
    }

    /// Why it has not booted.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// One place per connection served.
    #[must_use]
    pub fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }

    /// Counts a running program until the value returned is dropped.
    pub(crate) fn count_running(self: &Arc<Self>) -> impl Drop + Send + use<> {
        struct Running(Arc<Guest>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.running.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// Brings file shares up to date with what programs wrote.
    pub(crate) async fn flush_files(&self) {
        if let Some(sandbox) = self.sandbox.get() {
            sandbox.flush_files().await;
        }
    }

    /// Brings every share up to date, on the host too.
    pub(crate) async fn flush_shares(&self) {
        if let Some(sandbox) = self.sandbox.get() {
            sandbox.flush_files().await;
            sandbox.sync_shares();
        }
    }

    /// Once, and before anything runs.
    async fn configure(&self, wanted: &Configure, received: Instant) -> Result<()> {
        let mut tried = self.configuring.lock().await;
        if let Some(reason) = &self.failure {
            return Err(error(FailureKind::Internal, format!("the guest could not boot: {reason}")));
        }
        if *tried {
            return Err(error(FailureKind::BadRequest, "this sandbox is configured already"));
        }
        identity::check(wanted)?;
        shares::in_order(&wanted.shares)?;
        *tried = true;
        let sandbox = configure::configure(wanted, received)?;
        // Set once, under the lock.
        let _ = self.sandbox.set(sandbox);
        Ok(())
    }

    /// Waits for a configuration under way.
    async fn ready(&self) -> Result<()> {
        if self.sandbox.get().is_none() {
            let _configured = self.configuring.lock().await;
            if self.sandbox.get().is_none() {
                return Err(error(FailureKind::BadRequest, "this sandbox is not configured yet"));
            }
        }
        Ok(())
    }
}

/// A connection after its last answer, if someone still has something to do with it.
enum Next {
    Line,
    Close,
}

/// Serves one connection to its end.
pub async fn serve<S>(guest: Arc<Guest>, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut rest = Vec::new();
    loop {
        let message = match read_line(&mut stream, &mut rest).await {
            Ok(Some(message)) => message,
            Err(reason) if reason.kind() == io::ErrorKind::InvalidData => {
                let refusal = error(FailureKind::BadRequest, "not a message").source(reason);
                let _ = answer_error(&mut stream, "", &refusal).await;
                return close(stream, LINGER).await;
            }
            Ok(None) | Err(_) => return,
        };
        let received = Instant::now();
        let envelope = match Envelope::parse(&message) {
            Ok(envelope) => envelope,
            Err(reason) => {
                let refusal = error(FailureKind::BadRequest, "refused").source(reason);
                let _ = answer_error(&mut stream, "", &refusal).await;
                return close(stream, LINGER).await;
            }
        };
        if envelope.kind == kind::EXEC && envelope.agent_id == 0 {
            return match prepare_exec(&guest, &envelope).await {
                Ok(wanted) => exec::run(guest, stream, rest, &envelope.id, &wanted).await,
                Err(refusal) => {
                    let _ = answer_error(&mut stream, &envelope.id, &refusal).await;
                    close(stream, LINGER).await;
                }
            };
        }
        match answer(&guest, &mut stream, &envelope, received).await {
            Ok(Next::Line) => {}
            Ok(Next::Close) => return close(stream, LINGER).await,
            Err(_) => return,
        }
    }
}

async fn prepare_exec(guest: &Guest, envelope: &Envelope) -> Result<Exec> {
    let wanted = envelope.payload_as().map_err(bad_request)?;
    guest.ready().await?;
    Ok(wanted)
}

fn bad_request(reason: viv_proto::ProtocolError) -> Error {
    error(FailureKind::BadRequest, "refused").source(reason)
}

/// Answers everything but exec.
async fn answer<S>(guest: &Arc<Guest>, stream: &mut S, envelope: &Envelope, received: Instant) -> io::Result<Next>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let id = &envelope.id;
    if envelope.agent_id != 0 {
        let refusal = error(FailureKind::BadRequest, format!("this sandbox has no agent {}", envelope.agent_id));
        answer_error(stream, id, &refusal).await?;
        return Ok(Next::Close);
    }
    match envelope.kind.as_str() {
        kind::HEARTBEAT => {
            answer_with(stream, id, kind::HEARTBEAT_ACK, &envelope.payload).await?;
            Ok(Next::Line)
        }
        kind::STATUS => {
            let status = status::status(guest.running.load(Ordering::Relaxed));
            answer_with(stream, id, kind::RESULT, &status).await?;
            Ok(Next::Line)
        }
        kind::CONFIGURE => {
            let wanted = envelope.payload_as::<Configure>().map_err(bad_request);
            let configured = match &wanted {
                Ok(wanted) => guest.configure(wanted, received).await,
                Err(_) => wanted.map(drop),
            };
            match configured {
                Ok(()) => answer_with(stream, id, kind::RESULT, &configure::answer()).await?,
                Err(refusal) => {
                    // Whether the answer arrives or not: the console has it, too (since the boot, if that failed).
                    let told = answer_error(stream, id, &refusal).await;
                    if refusal.kind().0 == FailureKind::Internal {
                        if guest.failure.is_none() {
                            console::say(&format!("fatal: {}", line(&refusal)));
                        }
                        let _ = stream.shutdown().await;
                        wait_for_close(stream, SHUTDOWN_LINGER).await;
                        power::off();
                    }
                    told?;
                }
            }
            Ok(Next::Close)
        }
        kind::SHUTDOWN => {
            power::quiesce(guest).await;
            // Whether the answer arrives or not: the machine goes off.
            let _ = answer_with(stream, id, kind::RESULT, &Value::Null).await;
            let _ = stream.shutdown().await;
            wait_for_close(stream, SHUTDOWN_LINGER).await;
            power::off()
        }
        unknown => {
            let refusal = error(FailureKind::BadRequest, format!("unknown message type `{unknown}`"));
            answer_error(stream, id, &refusal).await?;
            Ok(Next::Close)
        }
    }
}

/// Writes one line.
pub(crate) async fn answer_with(
    stream: &mut (impl AsyncWrite + Unpin),
    id: &str,
    kind: &str,
    payload: &impl Serialize,
) -> io::Result<()> {
    let message = Envelope::new(id, kind, payload)
        .and_then(|envelope| envelope.to_line())
        .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
    stream.write_all(&message).await?;
    stream.flush().await
}

/// Says what failed.
pub(crate) async fn answer_error(stream: &mut (impl AsyncWrite + Unpin), id: &str, refusal: &Error) -> io::Result<()> {
    // What is quoted may be as long as the line it came in.
    const LONGEST_MESSAGE: usize = 4096;
    let mut failure = failure(refusal);
    while failure.message.len() > LONGEST_MESSAGE {
        failure.message.pop();
    }
    answer_with(stream, id, kind::ERROR, &failure).await
}

/// Closes the stream, and leaves the other side a while to do the same, so that it is not reset
/// under the last answer.
pub(crate) async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin, patience: Duration) {
    if stream.shutdown().await.is_ok() {
        wait_for_close(&mut stream, patience).await;
    }
}

async fn wait_for_close(stream: &mut (impl AsyncRead + Unpin), patience: Duration) {
    let drain = async {
        let mut ignored = [0; 1024];
        while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
    };
    // Either way it is over.
    let _ = tokio::time::timeout(patience, drain).await;
}
