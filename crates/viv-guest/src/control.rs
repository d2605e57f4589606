//! The control port: one line says what is wanted, one line answers.
//!
//! `heartbeat`, `status`, `secret` and `deploy_key` can be asked again and again on one connection; everything else is a
//! connection's only or last operation. What cannot be understood is answered with an `error` of
//! kind `bad_request` and ends that connection, no other.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, Semaphore};
use viv_link::line::read_line;
use viv_proto::envelope::Envelope;
use viv_proto::message::{Archive, Clock, ClockReading, Configure, Exec, FailureKind, NetworkWay, Prepare, User, kind};

use crate::configure::{self, Sandbox};
use crate::error::{Error, Result, error, failure, line};
use crate::network::Network;
use crate::{archive, console, exec, identity, modules, power, shares, status, trace};

/// How many connections are served at once. Below the link's own limit, so that one more is refused
/// by name instead of breaking the session.
pub const MAX_OPERATIONS: usize = 192;

/// How long after a cold start the modules are loaded that nothing waits for: the program, which comes
/// first, has begun by then.
const MODULES_LATER: Duration = Duration::from_secs(3);

/// How long the other side may take to close after the last answer.
const LINGER: Duration = Duration::from_secs(1);

/// How long the host may take to hear the answer to `shutdown`.
const SHUTDOWN_LINGER: Duration = Duration::from_millis(200);

/// How far the guest has come.
enum Stage {
    Booted,
    /// There is a root, and programs can be run in it: a template, or what was restored from one.
    Prepared(Box<Prepare>),
    /// It has been tried.
    Configured,
}

/// What all connections share.
pub struct Guest {
    places: Arc<Semaphore>,
    failure: Option<String>,
    layers: u16,
    stage: Mutex<Stage>,
    sandbox: OnceLock<Sandbox>,
    network: Network,
    running: AtomicU32,
    going_off: AtomicBool,
    /// As of the last look.
    out_of_memory_kills: AtomicU64,
}

impl Guest {
    /// A guest that has booted, with so many layers over its root image.
    #[must_use]
    pub fn new(layers: u16) -> Self {
        Self {
            layers,
            places: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            failure: None,
            stage: Mutex::new(Stage::Booted),
            sandbox: OnceLock::new(),
            network: Network::default(),
            running: AtomicU32::new(0),
            going_off: AtomicBool::new(false),
            out_of_memory_kills: AtomicU64::new(0),
        }
    }

    /// A guest that has not: it only says why, and powers off.
    #[must_use]
    pub fn failed(reason: String) -> Self {
        Self { failure: Some(reason), ..Self::new(0) }
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

    /// How programs reach others.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The environment of every program: none before there is a sandbox.
    pub(crate) fn environment(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.sandbox.get().map_or(&NONE, |sandbox| &sandbox.environment)
    }

    /// The sandbox that has been configured.
    fn configured(&self) -> Result<&Sandbox> {
        self.sandbox.get().ok_or_else(|| error(FailureKind::BadRequest, "this sandbox is not configured yet"))
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

    /// Someone inside wants the machine off.
    pub(crate) fn go_off(&self) {
        self.going_off.store(true, Ordering::Relaxed);
    }

    /// Whether someone inside wants the machine off: how its programs then end is not their own doing,
    /// and is not told.
    pub(crate) fn is_going_off(&self) -> bool {
        self.going_off.load(Ordering::Relaxed)
    }

    /// How many processes the kernel had killed for want of memory at the last look.
    pub(crate) fn out_of_memory_kills_seen(&self) -> u64 {
        self.out_of_memory_kills.load(Ordering::Relaxed)
    }

    /// How many it has killed by now.
    pub(crate) fn look_for_out_of_memory_kills(&self) -> u64 {
        let kills = status::out_of_memory_kills();
        self.out_of_memory_kills.store(kills, Ordering::Relaxed);
        kills
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

    /// Once, before a template is made of this guest.
    async fn prepare(&self, wanted: Prepare) -> Result<()> {
        let mut stage = self.stage.lock().await;
        self.booted()?;
        if !matches!(*stage, Stage::Booted) {
            return Err(error(FailureKind::BadRequest, "this sandbox is prepared already"));
        }
        identity::check_common(&wanted.user, wanted.timezone.as_deref())?;
        if !identity::is_id(&wanted.template) {
            return Err(error(FailureKind::BadRequest, "prepare: the template's id is not 32 hexadecimal digits"));
        }
        configure::prepare(self.layers, &wanted.user, wanted.timezone.as_deref())?;
        self.network.prepare();
        modules::load_later();
        trace::take();
        *stage = Stage::Prepared(Box::new(wanted));
        Ok(())
    }

    /// Once, and before anything runs. Returns which template the guest comes from.
    async fn configure(&self, wanted: &Configure, received: Instant) -> Result<Option<String>> {
        trace::mark("configure");
        let mut stage = self.stage.lock().await;
        self.booted()?;
        identity::check(wanted)?;
        shares::in_order(&wanted.shares)?;
        let template = match &*stage {
            Stage::Configured => return Err(error(FailureKind::BadRequest, "this sandbox is configured already")),
            Stage::Prepared(prepared) if prepared.user != wanted.user => {
                return Err(error(FailureKind::BadRequest, "configure: this guest was prepared for another user"));
            }
            Stage::Prepared(prepared) => Some(prepared.template.clone()),
            Stage::Booted => None,
        };
        *stage = Stage::Configured;
        if template.is_none() {
            configure::prepare(self.layers, &wanted.user, wanted.timezone.as_deref())?;
            if wanted.network.way == NetworkWay::Filtered {
                self.network.prepare();
                trace::mark("capture");
            }
            tokio::spawn(async {
                tokio::time::sleep(MODULES_LATER).await;
                modules::load_later();
            });
        }
        let sandbox = configure::configure(wanted, &self.network, received)?;
        // Set once, under the lock.
        let _ = self.sandbox.set(sandbox);
        Ok(template)
    }

    fn booted(&self) -> Result<()> {
        match &self.failure {
            Some(reason) => Err(error(FailureKind::Internal, format!("the guest could not boot: {reason}"))),
            None => Ok(()),
        }
    }

    /// Waits for a preparation or configuration under way.
    async fn ready(&self) -> Result<()> {
        if self.sandbox.get().is_none() {
            let stage = self.stage.lock().await;
            if self.sandbox.get().is_none() && !matches!(*stage, Stage::Prepared(_)) {
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
        if envelope.kind == kind::ARCHIVE && envelope.agent_id == 0 {
            return match prepare_archive(&guest, &envelope).await {
                Ok((wanted, user)) => archive::run(stream, rest, &envelope.id, wanted, user).await,
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

/// What is to be done with files, and whose those are that come in.
async fn prepare_archive(guest: &Guest, envelope: &Envelope) -> Result<(Archive, User)> {
    let wanted = envelope.payload_as().map_err(bad_request)?;
    guest.ready().await?;
    let user = guest.configured()?.user.clone();
    // What programs wrote to files that are kept in step is where it will be looked for.
    guest.flush_files().await;
    Ok((wanted, user))
}

fn bad_request(reason: viv_proto::ProtocolError) -> Error {
    error(FailureKind::BadRequest, "refused").source(reason)
}

/// Carries out `prepare` or `configure`; returns what is answered.
async fn set_up(guest: &Guest, envelope: &Envelope, received: Instant) -> Result<Value> {
    if envelope.kind == kind::PREPARE {
        guest.prepare(envelope.payload_as().map_err(bad_request)?).await?;
        return Ok(Value::Null);
    }
    let wanted = envelope.payload_as::<Configure>().map_err(bad_request)?;
    let template = guest.configure(&wanted, received).await?;
    serde_json::to_value(configure::answer(template))
        .map_err(|reason| error(FailureKind::Internal, "cannot answer").source(reason))
}

/// Carries out `secret` or `deploy_key`; returns what is answered.
async fn keep_secret(guest: &Guest, envelope: &Envelope) -> Result<Value> {
    let sandbox = guest.configured()?;
    if envelope.kind == kind::SECRET {
        sandbox.secrets.put(&envelope.payload_as().map_err(bad_request)?, &sandbox.user).await?;
        return Ok(Value::Null);
    }
    let key = sandbox.secrets.deploy_key(&sandbox.user).await?;
    serde_json::to_value(key).map_err(|reason| error(FailureKind::Internal, "cannot answer").source(reason))
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
        kind::CLOCK => {
            let read = envelope.payload_as::<Clock>().map_err(bad_request).and_then(|clock| match clock.step_ns {
                0 => Ok(()),
                step => identity::step_clock(step),
            });
            match read {
                Ok(()) => {
                    let reading = ClockReading { wall_clock_ns: identity::wall_clock_ns() };
                    answer_with(stream, id, kind::RESULT, &reading).await?;
                    Ok(Next::Line)
                }
                Err(refusal) => {
                    answer_error(stream, id, &refusal).await?;
                    Ok(Next::Close)
                }
            }
        }
        kind::SECRET | kind::DEPLOY_KEY => match keep_secret(guest, envelope).await {
            Ok(payload) => {
                answer_with(stream, id, kind::RESULT, &payload).await?;
                Ok(Next::Line)
            }
            Err(refusal) => {
                answer_error(stream, id, &refusal).await?;
                Ok(Next::Close)
            }
        },
        kind::PREPARE | kind::CONFIGURE => {
            match set_up(guest, envelope, received).await {
                Ok(payload) => answer_with(stream, id, kind::RESULT, &payload).await?,
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
