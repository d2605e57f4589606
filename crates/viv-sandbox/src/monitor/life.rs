//! A sandbox's life, from the client's first line to the last process reaped.

use std::process::ExitCode;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use viv_error::Report;
use viv_link::Link;
use viv_proto::CONTROL_PORT;
use viv_proto::message::{Configured, ExitReport, kind};
use viv_proto::port;

use super::attempt::{Attempt, MOST_BOOTS, Source, guest_is_silent};
use super::audit::{Audit, FilesAtEnd};
use super::children::Children;
use super::clock;
use super::egress::HostPorts;
use super::link::Current;
use super::network::Network;
use super::server::{Command, Guest, Server};
use super::sessions::Sessions;
use super::sessions::record::SessionRecorder;
use super::stall;
use crate::error::{adopt, io};
use crate::exec::ask;
use crate::named::{EndReason, Place};
use crate::nix;
use crate::plan::StartPlan;
use crate::registry::{Record, RunDirectory, SOCKET, State};
use crate::template::Store;
use crate::wire::{self, FromMonitor, HostMark, Lines, ReadyLine, StartLine, ToMonitor, Way};
use crate::{Error, ErrorKind, Publish, Result, TemplateUse};

/// How long the guest may take to flush its shares when someone waits for it.
const FLUSH_PATIENCE: Duration = Duration::from_secs(15);

/// The same when no one waits any more: the client is gone, and what is left must go soon.
const ABANDONED_PATIENCE: Duration = Duration::from_secs(3);

/// How long a guest may take to flush a disk that is kept, on which there may be as much as it has memory.
const KEPT_PATIENCE: Duration = Duration::from_secs(60);

/// How long the VMM may take to answer.
const VMM_PATIENCE: Duration = Duration::from_secs(10);

/// How long a restored guest may take to answer, which takes a second on a busy host; then a cold start
/// does better.
const RESTORE_PATIENCE: Duration = Duration::from_secs(60);

/// How long the guest may take to set its clock right; after that the next occasion will do.
const CLOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How long the last words of programs may take to arrive once the guest has flushed.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);

/// When the link breaks, how long its cause may take to show; who ended takes a part of that to tell.
const CAUSE_PATIENCE: Duration = Duration::from_secs(5);

/// How a sandbox is to end.
enum End {
    /// In good order; someone waits.
    Stop,
    /// In good order, but soon.
    Abandoned,
    /// At once, since there is nothing to flush.
    Settled,
    /// At once.
    Kill,
    /// It is broken already.
    Broken(Error),
}

impl End {
    /// As the record of a named sandbox has it, unless it ends otherwise after all.
    fn reason(&self) -> Option<EndReason> {
        match self {
            Self::Stop | Self::Settled => Some(EndReason::Stopped),
            Self::Abandoned => Some(EndReason::Interrupted),
            Self::Kill => Some(EndReason::Killed),
            Self::Broken(_) => None,
        }
    }
}

/// A machine that is up, and its link.
pub(crate) struct Spare {
    pub(crate) attempt: Attempt,
    pub(crate) publish: watch::Sender<Option<Link>>,
    pub(crate) ports: HostPorts,
}

/// Owns a sandbox for the client at the other end, from its first line on. `ready` gives a machine that
/// is up already, if there is one that fits.
pub(crate) async fn run(
    client: UnixStream,
    files_at_end: FilesAtEnd,
    ready: impl AsyncFnOnce(&StartLine) -> Option<Spare>,
) -> ExitCode {
    let (mut lines, mut writer) = wire::split(client);
    let Some(ToMonitor::Start(first)) = lines.next().await else {
        return ExitCode::from(125);
    };
    let mut waiting = Vec::new();
    let spare = ready(&first).await;
    let outcome = live(&first, spare, files_at_end, &mut lines, &mut writer, &mut waiting).await;
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
    spare: Option<Spare>,
    files_at_end: FilesAtEnd,
    lines: &mut Lines<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    waiting: &mut Vec<UnixStream>,
) -> Result<()> {
    let plan = &first.plan;
    let marks = vec![HostMark::now("monitor")];
    let record = Record::new(&plan.spec, plan.accel);
    let run = RunDirectory::create(&first.paths, &record)?;
    // From here on others see it, and are told how it ends as long as they do.
    let place = first.place.as_ref().map(|directory| Place::open(directory, &plan.spec.id)).transpose()?;
    let mut asked = None;
    let (outcome, audit) = match Audit::begin(first).await {
        Ok(audit) => {
            let asked = &mut asked;
            let surroundings = Surroundings { run: &run, record, marks, lines, writer, waiting, asked, audit: &audit };
            (live_in(first, spare, surroundings).await, Some(audit))
        }
        // What is not written down is not run.
        Err(error) => (Err(error), None),
    };
    let (reason, message) = reason_of(asked, &outcome);
    if let Some(audit) = audit {
        audit.look_back(first, files_at_end).await;
        audit.close(reason, message.clone());
    }
    if let Some(place) = place {
        place.note(reason, message);
    }
    outcome
}

/// How a machine ended that was asked to end in this way, if it was.
fn reason_of(asked: Option<EndReason>, outcome: &Result<()>) -> (EndReason, Option<String>) {
    match (outcome, asked) {
        (Ok(()), Some(asked)) => (asked, None),
        (Ok(()), None) => (EndReason::Stopped, None),
        (Err(error), _) => {
            let reason = if *error.kind() == ErrorKind::PoweredOff { EndReason::PoweredOff } else { EndReason::Failed };
            (reason, Some(Report::from(error).line()))
        }
    }
}

/// What a sandbox is run with besides its request.
struct Surroundings<'a> {
    run: &'a RunDirectory,
    record: Record,
    marks: Vec<HostMark>,
    lines: &'a mut Lines<OwnedReadHalf>,
    writer: &'a mut OwnedWriteHalf,
    waiting: &'a mut Vec<UnixStream>,
    /// How it was asked to end.
    asked: &'a mut Option<EndReason>,
    /// Where it is told what happens.
    audit: &'a Audit,
}

async fn live_in(first: &StartLine, spare: Option<Spare>, surroundings: Surroundings<'_>) -> Result<()> {
    let Surroundings { run, record, mut marks, lines, writer, waiting, asked, audit } = surroundings;
    let plan = &first.plan;
    let _nix = nix::hold(&plan.spec)?;
    let _held = first.holdings.hold(&first.paths, &plan.spec.id)?;
    let listener = UnixListener::bind(run.socket_path(SOCKET)).map_err(io("the sandbox's socket could not be made"))?;
    let store = Store::new(&first.paths);
    let (publish, ports, mut ready) = match spare {
        Some(Spare { attempt, publish, ports }) => (publish, ports, Some(attempt)),
        None => (watch::channel(None).0, HostPorts::default(), None),
    };
    let mut source = if ready.is_some() { Source::Spare } else { Source::choose(plan, &store) };
    let current = publish.subscribe();
    let (configured, is_configured) = watch::channel(false);
    let (commands, command_queue) = mpsc::channel(8);
    let (carrying, carried) = watch::channel(0);
    let (paused, is_paused) = watch::channel(false);
    let name = plan.spec.name.as_ref().unwrap_or(&plan.spec.id).as_str().into();
    let guest = Guest { current: current.clone(), configured: is_configured, paused: is_paused, name };
    let (ended, ends) = mpsc::unbounded_channel();
    let recorder = Box::new(SessionRecorder::new(audit.journal()));
    let sessions = Sessions::start(guest.clone(), carrying.clone(), ended, recorder)?;
    let server = Server { guest: guest.clone(), commands, carrying, sessions, journal: audit.journal() };
    let mut server = Some((server, listener));
    let (network, published) = Network::open(first, run, &ports, guest).await?;
    let mut serving = JoinSet::new();
    let record = Record { published, ..record };
    let mut life = Life {
        lines,
        has_client: true,
        writer,
        waiting,
        current,
        commands: command_queue,
        ends,
        carried,
        clock: None,
        paused,
        network,
        audit,
        run,
        record,
    };
    let mut boots = 0;
    loop {
        let way = source.way(plan);
        let _ = wire::send(life.writer, &FromMonitor::Starting(way.clone())).await;
        let is_spare = ready.is_some();
        boots += usize::from(matches!(way, Way::Cold { .. }));
        let mut attempt = match ready.take() {
            Some(attempt) => attempt,
            None => Attempt::start(plan, &first.paths.state, source, life.run, publish.clone(), ports.clone())?,
        };
        marks.push(HostMark::now("started"));
        life.record.restarted(attempt.children.machine.pid(), attempt.children.file_daemon_pid());
        life.run.write(&life.record)?;
        if let Some((server, listener)) = server.take() {
            serving.spawn(server.run(listener));
        }

        let end = match life.bring_up(first, &mut attempt).await {
            Ok((answer, more)) => {
                configured.send_replace(true);
                audit.ready(&way);
                life.record.state = State::Running;
                life.run.write(&life.record)?;
                marks.extend(more);
                let ready = ReadyLine {
                    guest_uptime_ms: answer.uptime_ms,
                    marks,
                    guest_marks: answer.marks,
                    published: life.record.published.clone(),
                };
                let _ = wire::send(life.writer, &FromMonitor::Ready(ready)).await;
                life.clock = Some(clock::Watch::new(attempt.children.machine.pid()));
                life.serve(&mut attempt, true).await
            }
            // A machine that someone killed, or whose host is full, says nothing about its template.
            Err(End::Broken(error))
                if attempt.is_restored()
                    && !attempt.children.was_killed()
                    && *error.kind() != ErrorKind::HostDiskFull =>
            {
                attempt.end().await;
                publish.send_replace(None);
                if is_spare {
                    source = Source::choose(plan, &store);
                    continue;
                }
                if let StartPlan::Template(template) = &plan.start {
                    // What cannot be removed is dropped by the next start that cannot use it.
                    let _ = store.remove(&template.key);
                }
                let reason = format!("its template was dropped: {}", Report::from(&error).line());
                source = Source::Cold { reason, make_template: plan.spec.template == TemplateUse::Auto };
                continue;
            }
            Err(End::Broken(error)) if *error.kind() == ErrorKind::GuestStuck && boots < MOST_BOOTS => {
                attempt.end().await;
                publish.send_replace(None);
                let make_template = matches!(way, Way::Cold { make_template: true, .. });
                source = Source::Cold { reason: format!("once more, since {error}"), make_template };
                continue;
            }
            Err(end) => end,
        };
        life.record.state = State::Stopping;
        // Only for others to see; the end does not depend on it.
        let _ = life.run.write(&life.record);
        *asked = end.reason();
        let patience = match plan.spec.persistent_disk {
            Some(_) => KEPT_PATIENCE,
            None => FLUSH_PATIENCE,
        };
        let outcome = life.finish(end, patience, &mut attempt.children, asked).await;
        attempt.end().await;
        life.network.end().await;
        while let Ok(command) = life.commands.try_recv() {
            life.hear_late(command);
        }
        return outcome;
    }
}

struct Life<'a> {
    lines: &'a mut Lines<OwnedReadHalf>,
    /// Whether the sandbox ends with its client.
    has_client: bool,
    writer: &'a mut OwnedWriteHalf,
    waiting: &'a mut Vec<UnixStream>,
    current: Current,
    commands: mpsc::Receiver<Command>,
    /// How the program of the session ended with which the sandbox ends.
    ends: mpsc::UnboundedReceiver<Option<ExitReport>>,
    /// How many connections to the guest there are.
    carried: watch::Receiver<usize>,
    /// Once the guest is up.
    clock: Option<clock::Watch>,
    /// Whether the machine stands still.
    paused: watch::Sender<bool>,
    network: Network,
    audit: &'a Audit,
    run: &'a RunDirectory,
    /// What others see of it.
    record: Record,
}

impl Life<'_> {
    /// Waits for the guest and makes it this sandbox.
    async fn bring_up(
        &mut self,
        first: &StartLine,
        attempt: &mut Attempt,
    ) -> std::result::Result<(Configured, Vec<HostMark>), End> {
        let deadline = Duration::from_secs(first.plan.spec.boot_deadline_seconds);
        let deadline = if attempt.is_restored() { deadline.min(RESTORE_PATIENCE) } else { deadline };
        let configured = attempt.configuration(first, self.current.clone());
        let (vmm, restored) = (attempt.children.machine.pid(), attempt.is_restored());
        tokio::select! {
            answer = configured => match answer {
                Ok(answer) => Ok(answer),
                // A link that breaks is more often the effect than the cause.
                Err(error) => Err(tokio::time::timeout(CAUSE_PATIENCE, self.serve(attempt, false))
                    .await
                    .unwrap_or(End::Broken(error))),
            },
            end = self.serve(attempt, false) => Err(end),
            // One that is restored has a shorter deadline as it is.
            stuck = stall::stuck(vmm), if !restored => Err(End::Broken(stuck)),
            () = tokio::time::sleep(deadline) => {
                let late = Error::new(
                    ErrorKind::BootTimeout,
                    format!("the guest did not come up within {} seconds", deadline.as_secs()),
                );
                Err(End::Broken(late))
            }
        }
        .map_err(|end| match end {
            End::Broken(error) if matches!(error.kind(), ErrorKind::BootTimeout | ErrorKind::GuestStuck) => {
                End::Broken(attempt.children.with_console(error))
            }
            end => end,
        })
    }

    /// Serves commands until the sandbox has to end.
    async fn serve(&mut self, attempt: &mut Attempt, guest_is_up: bool) -> End {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return End::Broken(Error::new(ErrorKind::Monitor, "signals cannot be received"));
        };
        let mut glances = tokio::time::interval(clock::GLANCE);
        glances.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                trouble = attempt.children.trouble(guest_is_up) => return End::Broken(trouble),
                Some(error) = attempt.refused.recv() => {
                    return End::Broken(Error::new(ErrorKind::Guest, "the guest speaks another protocol").source(error));
                }
                message = self.lines.next::<ToMonitor>(), if self.has_client => match message {
                    Some(ToMonitor::Stop) => return End::Stop,
                    Some(ToMonitor::End) => return End::Settled,
                    Some(ToMonitor::Detach) => if let Err(error) = self.detach().await {
                        return End::Broken(error);
                    },
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
                    Command::Wait(stream) => self.waiting.push(stream),
                    Command::Pause(stream) => self.pause(attempt, guest_is_up, stream).await,
                    Command::Resume(stream) => self.resume(attempt, stream).await,
                    Command::Relink(stream) => self.relink(&attempt.cut, stream).await,
                    Command::Publish(wanted, stream) => self.publish(wanted, stream).await,
                },
                Some(_) = self.ends.recv() => return End::Stop,
                _ = glances.tick(), if self.clock.is_some() && !*self.paused.borrow() => self.look_at_the_clock(),
                _ = terminate.recv() => return End::Stop,
                _ = interrupt.recv() => return End::Stop,
            }
        }
    }

    /// Has the guest's clock set right if something may have put it wrong.
    fn look_at_the_clock(&mut self) {
        if self.clock.as_mut().is_some_and(clock::Watch::look)
            && let Some(link) = self.current.borrow().clone()
        {
            // A guest that does not answer has other troubles, which are noticed elsewhere.
            tokio::spawn(tokio::time::timeout(CLOCK_PATIENCE, async move { clock::set_right(&link).await }));
        }
    }

    /// Goes on alone. Others see it before the client is told.
    async fn detach(&mut self) -> Result<()> {
        self.record.detached = true;
        self.run.write(&self.record)?;
        self.has_client = false;
        // It may be gone, as it may from now on.
        let _ = wire::send(self.writer, &FromMonitor::Detached).await;
        Ok(())
    }

    async fn pause(&mut self, attempt: &mut Attempt, guest_is_up: bool, mut stream: UnixStream) {
        let answer = if !guest_is_up {
            port::refusal_line("the sandbox starts")
        } else if *self.paused.borrow() {
            port::OK_LINE.to_owned()
        } else {
            match in_time(attempt.children.machine.pause()).await {
                Ok(()) => {
                    self.switched(true);
                    port::OK_LINE.to_owned()
                }
                Err(error) => port::refusal_line(&Report::from(&error).line()),
            }
        };
        // Whoever asked may be gone; the machine stands still.
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    async fn resume(&mut self, attempt: &mut Attempt, mut stream: UnixStream) {
        if *self.paused.borrow() {
            if let Err(error) = in_time(attempt.children.machine.resume()).await {
                let answer = port::refusal_line(&Report::from(&error).line());
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            self.switched(false);
        }
        let link = self.current.borrow().clone();
        tokio::spawn(async move {
            if let Some(link) = link {
                // One that does not answer has other troubles, which are noticed elsewhere.
                let _ = tokio::time::timeout(CLOCK_PATIENCE, clock::set_right(&link)).await;
            }
            let _ = stream.write_all(port::OK_LINE.as_bytes()).await;
        });
    }

    /// Has others see that the machine stands still, or that it goes on.
    fn switched(&mut self, paused: bool) {
        self.paused.send_replace(paused);
        self.audit.switched(paused);
        self.record.state = if paused { State::Paused } else { State::Running };
        // It is so whether that can be written or not.
        let _ = self.run.write(&self.record);
    }

    /// What is asked while the sandbox ends; whether it is to end at once.
    fn hear_late(&mut self, command: Command) -> bool {
        let (stream, at_once) = match command {
            Command::Stop(stream) | Command::Wait(stream) => (stream, false),
            Command::Kill(stream) => (stream, true),
            // The connection is closed, which says it all.
            _ => return false,
        };
        self.waiting.push(stream);
        at_once
    }

    async fn publish(&mut self, wanted: Publish, mut stream: UnixStream) {
        let answer = match self.network.publish(wanted).await {
            Ok(published) => {
                self.record.published.push(published);
                // Only for others to see.
                let _ = self.run.write(&self.record);
                format!("OK {}\n", published.address)
            }
            Err(error) => port::refusal_line(&Report::from(&error).line()),
        };
        // Whoever asked may be gone; the port stays.
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    async fn relink(&mut self, cut: &mpsc::Sender<()>, mut stream: UnixStream) {
        let mut current = self.current.clone();
        current.mark_unchanged();
        if cut.send(()).await.is_err() {
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

    async fn finish(
        &mut self,
        end: End,
        patience: Duration,
        children: &mut Children,
        asked: &mut Option<EndReason>,
    ) -> Result<()> {
        let patience = match end {
            End::Stop => patience,
            End::Abandoned => ABANDONED_PATIENCE,
            End::Settled | End::Kill => return Ok(()),
            End::Broken(error) => return Err(error),
        };
        let Some(link) = self.current.borrow().clone() else {
            // Never up, or cut just now: there is nothing to flush, or no way to ask for it.
            return Ok(());
        };
        if *self.paused.borrow() {
            // One that stands still flushes nothing. If it cannot go on, it will not answer.
            let _ = in_time(children.machine.resume()).await;
        }
        let shut_down = tokio::time::timeout(patience, shut_down(&link));
        tokio::pin!(shut_down);
        let answer = loop {
            tokio::select! {
                answer = &mut shut_down => break answer,
                Some(command) = self.commands.recv() => {
                    if self.hear_late(command) {
                        *asked = Some(EndReason::Killed);
                        return Ok(());
                    }
                }
            }
        };
        match answer {
            Ok(Ok(())) => {
                // How the programs ended is on its way to those who ran them.
                let _ = tokio::time::timeout(LAST_WORDS_PATIENCE, self.carried.wait_for(|count| *count == 0)).await;
                Ok(())
            }
            // A guest that ends by itself answers no more: how it ended is what matters.
            Ok(Err(error)) => Err(tokio::time::timeout(CAUSE_PATIENCE, children.trouble(true)).await.unwrap_or(error)),
            Err(_) => Err(Error::new(
                ErrorKind::Guest,
                format!("the guest did not flush its shares within {} seconds", patience.as_secs()),
            )),
        }
    }
}

/// The VMM's answer, unless it takes too long.
async fn in_time(answer: impl Future<Output = viv_vmm::Result<()>>) -> Result<()> {
    match tokio::time::timeout(VMM_PATIENCE, answer).await {
        Ok(answer) => answer.map_err(adopt),
        Err(_) => Err(Error::new(ErrorKind::Monitor, "the VMM does not answer")),
    }
}

/// Asks the guest to flush its shares and waits until it has.
async fn shut_down(link: &Link) -> Result<()> {
    let mut stream = link.open(CONTROL_PORT).await.map_err(guest_is_silent)?;
    ask(&mut stream, kind::SHUTDOWN, &serde_json::Value::Null).await.map(|_| ())
}
