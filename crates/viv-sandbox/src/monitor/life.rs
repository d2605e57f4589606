//! A sandbox's life, from the client's first line to the last process reaped.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use viv_error::Report;
use viv_link::Link;
use viv_proto::message::{Configure, Configured, kind};
use viv_proto::{CONTROL_PORT, ProtocolError};
use viv_vmm::LinkCarrier;

use super::children::{Children, LINK_SOCKET};
use super::link::{self, Carrier, Current};
use super::server::{Command, Server};
use crate::error::io;
use crate::exec::ask;
use crate::process::ProcessName;
use crate::registry::{Record, RunDirectory, SOCKET, State};
use crate::spec::random_bytes;
use crate::wire::{self, FromMonitor, Lines, StartLine, ToMonitor};
use crate::{Error, ErrorKind, Result};

/// How long the guest may take to flush its shares when someone waits for it.
const FLUSH_PATIENCE: Duration = Duration::from_secs(15);

/// The same when no one waits any more: the client is gone, and what is left must go soon.
const ABANDONED_PATIENCE: Duration = Duration::from_secs(3);

/// When the link breaks, how long its cause may take to show.
const CAUSE_PATIENCE: Duration = Duration::from_secs(1);

/// How a sandbox is to end.
enum End {
    /// In good order; someone waits.
    Stop,
    /// In good order, but soon.
    Abandoned,
    /// At once.
    Kill,
    /// It is broken already.
    Broken(Error),
}

pub(super) async fn run(client: UnixStream) -> ExitCode {
    let (mut lines, mut writer) = wire::split(client);
    let Some(ToMonitor::Start(first)) = lines.next().await else {
        return ExitCode::from(125);
    };
    let mut waiting = Vec::new();
    let outcome = live(&first, &mut lines, &mut writer, &mut waiting).await;
    if let Err(error) = &outcome {
        // The client may be gone, which is one of the reasons to be here.
        let _ = wire::send(&mut writer, &FromMonitor::Failed(Report::from(error))).await;
    }
    for mut stream in waiting {
        let _ = stream.write_all(b"OK\n").await;
    }
    outcome.map_or(ExitCode::from(125), |()| ExitCode::SUCCESS)
}

async fn live(
    first: &StartLine,
    lines: &mut Lines<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    waiting: &mut Vec<UnixStream>,
) -> Result<()> {
    let mut record = Record::new(&first.plan.spec, first.plan.accel);
    let run = RunDirectory::create(&first.paths, &record)?;
    let listener = UnixListener::bind(run.socket_path(SOCKET)).map_err(io("the sandbox's socket could not be made"))?;
    let key = random_bytes();
    let mut children = Children::start(&first.plan, &first.paths, &run, &key)?;
    record.vmm_pid = Some(children.machine.pid());
    record.file_daemon_pid = children.file_daemon_pid();
    record.processes.extend(record.vmm_pid.into_iter().chain(record.file_daemon_pid).filter_map(ProcessName::of));
    run.write(&record)?;

    let (publish, current) = watch::channel(None);
    let (cut, cuts) = mpsc::channel(1);
    let (refuse, refused) = mpsc::channel(1);
    let carrier = match first.plan.link {
        LinkCarrier::VirtioSerial => Carrier::Socket(run.socket_path(LINK_SOCKET)),
        LinkCarrier::Vsock { cid } => Carrier::Vsock { cid, key },
    };
    let keeper = tokio::spawn(link::keep(carrier, publish, cuts, refuse));
    let (configured, is_configured) = watch::channel(false);
    let (commands, command_queue) = mpsc::channel(8);
    let server = Server { current: current.clone(), configured: is_configured, commands };
    let server = tokio::spawn(server.run(listener));

    let mut life = Life { lines, waiting, current, cut, refused, commands: command_queue };
    let _ = wire::send(writer, &FromMonitor::Booting).await;
    let end = match life.boot(first, &mut children).await {
        Ok(answer) => {
            configured.send_replace(true);
            record.state = State::Running;
            run.write(&record)?;
            let _ = wire::send(writer, &FromMonitor::Ready { guest_uptime_ms: answer.uptime_ms }).await;
            life.serve(&mut children, true).await
        }
        Err(end) => end,
    };
    record.state = State::Stopping;
    // Only for others to see; the end does not depend on it.
    let _ = run.write(&record);
    let outcome = life.finish(end, &mut children).await;
    keeper.abort();
    server.abort();
    children.end().await;
    outcome
}

struct Life<'a> {
    lines: &'a mut Lines<OwnedReadHalf>,
    waiting: &'a mut Vec<UnixStream>,
    current: Current,
    cut: mpsc::Sender<()>,
    refused: mpsc::Receiver<ProtocolError>,
    commands: mpsc::Receiver<Command>,
}

impl Life<'_> {
    /// Waits for the guest and makes it this sandbox.
    async fn boot(&mut self, first: &StartLine, children: &mut Children) -> std::result::Result<Configured, End> {
        let deadline = Duration::from_secs(first.plan.spec.boot_deadline_seconds);
        let mut current = self.current.clone();
        let configured = async {
            // The keeper outlives this wait.
            let link = current.wait_for(Option::is_some).await.ok().and_then(|link| link.clone());
            configure(link.ok_or_else(|| Error::new(ErrorKind::Monitor, "the link's keeper ended"))?, first).await
        };
        tokio::select! {
            answer = configured => match answer {
                Ok(answer) => Ok(answer),
                // A link that breaks is more often the effect than the cause.
                Err(error) => Err(tokio::time::timeout(CAUSE_PATIENCE, self.serve(children, false))
                    .await
                    .unwrap_or(End::Broken(error))),
            },
            end = self.serve(children, false) => Err(end),
            () = tokio::time::sleep(deadline) => {
                let late = Error::new(
                    ErrorKind::BootTimeout,
                    format!("the guest did not come up within {} seconds", deadline.as_secs()),
                );
                Err(End::Broken(late))
            }
        }
        .map_err(|end| match end {
            End::Broken(error) if *error.kind() == ErrorKind::BootTimeout => End::Broken(children.with_console(error)),
            end => end,
        })
    }

    /// Serves commands until the sandbox has to end.
    async fn serve(&mut self, children: &mut Children, guest_is_up: bool) -> End {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return End::Broken(Error::new(ErrorKind::Monitor, "signals cannot be received"));
        };
        loop {
            tokio::select! {
                trouble = children.trouble(guest_is_up) => return End::Broken(trouble),
                Some(error) = self.refused.recv() => {
                    return End::Broken(Error::new(ErrorKind::Guest, "the guest speaks another protocol").source(error));
                }
                message = self.lines.next::<ToMonitor>() => match message {
                    Some(ToMonitor::Stop) => return End::Stop,
                    Some(ToMonitor::Start(_)) => {}
                    None => return End::Abandoned,
                },
                Some(command) = self.commands.recv() => match command {
                    Command::Stop(stream) => {
                        self.waiting.push(stream);
                        return End::Stop;
                    }
                    Command::Kill(stream) => {
                        self.waiting.push(stream);
                        return End::Kill;
                    }
                    Command::Relink(stream) => self.relink(stream).await,
                },
                _ = terminate.recv() => return End::Stop,
                _ = interrupt.recv() => return End::Stop,
            }
        }
    }

    async fn relink(&mut self, mut stream: UnixStream) {
        let mut current = self.current.clone();
        current.mark_unchanged();
        if self.cut.send(()).await.is_err() {
            return;
        }
        tokio::spawn(async move {
            // First the break, then the new link.
            let broken = current.wait_for(Option::is_none).await.is_ok();
            if broken && current.wait_for(Option::is_some).await.is_ok() {
                let _ = stream.write_all(b"OK\n").await;
            }
        });
    }

    async fn finish(&mut self, end: End, children: &mut Children) -> Result<()> {
        let patience = match end {
            End::Stop => FLUSH_PATIENCE,
            End::Abandoned => ABANDONED_PATIENCE,
            End::Kill => return Ok(()),
            End::Broken(error) => return Err(error),
        };
        let Some(link) = self.current.borrow().clone() else {
            // Never up, or cut just now: there is nothing to flush, or no way to ask for it.
            return Ok(());
        };
        match tokio::time::timeout(patience, shut_down(&link)).await {
            Ok(Ok(())) => Ok(()),
            // A guest that ends by itself answers no more: how it ended is what matters.
            Ok(Err(error)) => Err(tokio::time::timeout(CAUSE_PATIENCE, children.trouble(true)).await.unwrap_or(error)),
            Err(_) => Err(Error::new(
                ErrorKind::Guest,
                format!("the guest did not flush its shares within {} seconds", patience.as_secs()),
            )),
        }
    }
}

async fn configure(link: Link, first: &StartLine) -> Result<Configured> {
    let mut stream = link.open(CONTROL_PORT).await.map_err(guest_is_silent)?;
    let spec = &first.plan.spec;
    let workspace = first.plan.guest_shares.first().map(|share| share.destination.clone());
    let request = Configure {
        hostname: spec.hostname.clone(),
        wall_clock_ns: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64,
        entropy: hex::encode(random_bytes::<32>()),
        machine_id: hex::encode(random_bytes::<16>()),
        timezone: first.timezone.clone(),
        user: spec.user.clone(),
        shares: first.plan.guest_shares.clone(),
        workspace,
    };
    let (answer, _) = ask(&mut stream, kind::CONFIGURE, &request).await?;
    answer.payload_as().map_err(|error| Error::new(ErrorKind::Guest, "the guest broke the protocol").source(error))
}

/// Asks the guest to flush its shares and waits until it has.
async fn shut_down(link: &Link) -> Result<()> {
    let mut stream = link.open(CONTROL_PORT).await.map_err(guest_is_silent)?;
    ask(&mut stream, kind::SHUTDOWN, &serde_json::Value::Null).await.map(|_| ())
}

fn guest_is_silent(error: viv_link::LinkError) -> Error {
    Error::new(ErrorKind::Guest, "the guest's control port cannot be reached").source(error)
}
