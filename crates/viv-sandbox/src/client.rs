//! The client's side: starting a sandbox, running programs in it, ending it.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use viv_net::spec::Keys;
use viv_proto::message::{DeployKey, Exec, Mark, Secret, kind};

use crate::error::{from_report, io};
use crate::exec::ExecSession;
use crate::files::Files;
use crate::process::memory_file;
use crate::registry::{SOCKET, open_directory, short_path};
use crate::sys;
use crate::wire::{self, FromMonitor, HostMark, Lines, MONITOR_DESCRIPTOR, ReadyLine, StartLine, ToMonitor, Way};
use crate::{Error, ErrorKind, Holdings, Paths, Plan, Publish, Record, Result};

/// How long a monitor may take to end in good order before it is killed: a quarter of a minute for its guest, and
/// the same for the timeline.
const STOP_PATIENCE: Duration = Duration::from_secs(35);

/// The same if it may have a disk to flush, which takes a minute at most.
const KEPT_STOP_PATIENCE: Duration = Duration::from_secs(90);

/// The longest answer of a monitor to a command, in bytes.
const LONGEST_ANSWER_BYTES: u64 = 1024;

/// What to start.
#[derive(Debug)]
pub struct StartRequest {
    /// From [`crate::plan()`].
    pub plan: Plan,
    /// Viv's directories.
    pub paths: Paths,
    /// The viv executable, to become the monitor.
    pub executable: PathBuf,
    /// What the model gateway's keys are, of those that come from this process's environment.
    pub keys: Keys,
    /// Variables of this process's environment that hold secrets: nothing it starts inherits them.
    pub withheld: Vec<String>,
    /// What the sandbox's monitor is to hold, for a sandbox that stays when this process goes.
    pub holdings: Holdings,
    /// Whether the sandbox may come to outlive this process ([`Sandbox::detach`]): its monitor then gets a
    /// session of its own, and says nothing on this process's standard error.
    pub detached: bool,
    /// A named sandbox's directory ([`crate::named::directory_of`]), where its end is noted. [`crate::named::start`]
    /// sets it.
    pub place: Option<PathBuf>,
}

/// What happens while a sandbox starts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The machine is about to be started in this way. Comes again if that leads nowhere.
    Starting(Way),
    /// Programs can be run.
    Ready {
        /// Milliseconds from the kernel's start to the guest's readiness, by the guest's clock.
        guest_uptime_ms: u64,
        /// When each part of the start was done.
        marks: Vec<HostMark>,
        /// The same, by the guest's clock.
        guest_marks: Vec<Mark>,
        /// Where the guest's ports are shown, in the order they were asked for.
        published: Vec<Publish>,
    },
}

/// A sandbox of this process: it ends when this value is dropped or this process ends, unless it is detached.
#[derive(Debug)]
pub struct Sandbox {
    id: String,
    directory: OwnedFd,
    /// Not a child of this process if it was there before.
    monitor: Option<Child>,
    lines: Lines<OwnedReadHalf>,
    commands: OwnedWriteHalf,
}

/// Starts a sandbox and waits until programs can be run in it. Dropping the future ends whatever
/// was started.
///
/// # Errors
/// Whatever keeps it from coming up, as its monitor reports it.
pub async fn start(request: StartRequest, mut on_event: impl FnMut(&Event)) -> Result<Sandbox> {
    let id = request.plan.spec.id.clone();
    let runtime = request.paths.runtime.clone();
    // Others' leftovers are removed by whoever comes by; nothing waits for it.
    crate::list(&request.paths)?;
    let spare = crate::spare::take(&request.paths, &request.plan);
    // Held until the monitor, which opens it, is ready.
    let keys = if request.keys.is_empty() { None } else { Some(key_file(&request.keys)?) };
    let first = ToMonitor::Start(Box::new(StartLine {
        plan: request.plan,
        paths: request.paths,
        keys: keys.as_ref().map(|keys| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), keys.as_raw_fd()))),
        environment: environment(&request.withheld),
        holdings: request.holdings,
        place: request.place,
    }));
    let begin_anew = || begin_anew(&request.executable, &request.withheld, request.detached, &first);
    let (mut lines, mut commands, mut monitor) = match spare {
        Some(stream) => begin(stream, None, &first).await?,
        None => begin_anew().await?,
    };
    let mut next = lines.next::<FromMonitor>().await;
    if next.is_none() && monitor.is_none() {
        // A spare that was given up just now.
        (lines, commands, monitor) = begin_anew().await?;
        next = lines.next::<FromMonitor>().await;
    }

    loop {
        match next {
            Some(FromMonitor::Starting(way)) => on_event(&Event::Starting(way)),
            Some(FromMonitor::Ready(ReadyLine { guest_uptime_ms, marks, guest_marks, published })) => {
                on_event(&Event::Ready { guest_uptime_ms, marks, guest_marks, published });
                let directory = open_directory(&runtime.join(&id)).map_err(io("the run directory is gone"))?;
                return Ok(Sandbox { id, directory, monitor, lines, commands });
            }
            Some(FromMonitor::Detached) => {}
            Some(FromMonitor::Failed(report)) => {
                finish(monitor, lines).await;
                return Err(from_report(report));
            }
            None => return Err(monitor_died(monitor).await),
        }
        next = lines.next::<FromMonitor>().await;
    }
}

type Conversation = (Lines<OwnedReadHalf>, OwnedWriteHalf, Option<Child>);

/// The keys in a file in memory.
fn key_file(keys: &Keys) -> Result<File> {
    let failed = || io("no file for the keys");
    let text = zeroize::Zeroizing::new(serde_json::to_vec(keys).map_err(|error| failed()(error.into()))?);
    memory_file(&text).map_err(failed())
}

/// This process's environment without some variables, and without what JSON cannot carry.
fn environment(without: &[String]) -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).filter(|(name, _)| !without.contains(name)).collect()
}

/// Starts a monitor, without some variables of this process's environment, and says the first line to it.
async fn begin_anew(executable: &Path, without: &[String], detached: bool, first: &ToMonitor) -> Result<Conversation> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(io("no socket for the monitor"))?;
    let mut command = Command::new(executable);
    command.arg("internal-monitor").stdin(Stdio::null()).stdout(Stdio::null());
    for variable in without {
        command.env_remove(variable);
    }
    if detached {
        // Nothing of the terminal concerns it, also not that it is closed.
        sys::begin_session(&mut command);
        command.stderr(Stdio::null()).current_dir("/");
    } else {
        // The terminal's signals are for the client, which then tells the monitor what it means.
        command.process_group(0);
    }
    command
        .fd_mappings(vec![FdMapping { parent_fd: theirs.into(), child_fd: MONITOR_DESCRIPTOR }])
        .map_err(|error| Error::new(ErrorKind::Monitor, error.to_string()))?;
    let monitor = command.spawn().map_err(|error| {
        Error::new(ErrorKind::Monitor, format!("{} could not be started", executable.display())).source(error)
    })?;
    drop(command);
    begin(ours, Some(monitor), first).await
}

async fn begin(
    stream: std::os::unix::net::UnixStream,
    monitor: Option<Child>,
    first: &ToMonitor,
) -> Result<Conversation> {
    stream.set_nonblocking(true).map_err(io("no socket for the monitor"))?;
    let (lines, mut commands) = wire::split(UnixStream::from_std(stream).map_err(io("no socket for the monitor"))?);
    // A monitor that died at once is noticed by the read that follows.
    let _ = wire::send(&mut commands, first).await;
    Ok((lines, commands, monitor))
}

impl Sandbox {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its run directory.
    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Runs a program.
    ///
    /// # Errors
    /// [`ErrorKind::ProgramNotFound`], [`ErrorKind::ProgramNotExecutable`],
    /// [`ErrorKind::BadRequest`], or whatever became of the sandbox.
    pub async fn exec(&self, exec: &Exec) -> Result<ExecSession> {
        crate::exec::exec(&self.directory, exec).await
    }

    /// Puts a secret where the ordinary user inside alone reads it, before any program runs.
    ///
    /// # Errors
    /// The guest's refusal, or whatever became of the sandbox.
    pub async fn put_secret(&self, secret: &Secret) -> Result<()> {
        crate::exec::request(&self.directory, kind::SECRET, secret).await.map(drop)
    }

    /// Has a key pair made inside; returns its public half as `authorized_keys` has it.
    ///
    /// # Errors
    /// As [`Sandbox::put_secret`].
    pub async fn deploy_key(&self) -> Result<String> {
        let answer = crate::exec::request(&self.directory, kind::DEPLOY_KEY, &serde_json::Value::Null).await?;
        let key: DeployKey = answer.payload_as().map_err(crate::exec::broken)?;
        Ok(viv_vmm::clean(&key.public))
    }

    /// Its files.
    ///
    /// # Errors
    /// If this process may open no more descriptors.
    pub fn files(&self) -> Result<Files> {
        Ok(Files::new(self.directory.try_clone().map_err(io("the run directory cannot be used"))?))
    }

    /// Resolves if the sandbox ends by itself, to why. Cancel-safe.
    pub async fn ended(&mut self) -> Error {
        loop {
            match self.lines.next::<FromMonitor>().await {
                Some(FromMonitor::Failed(report)) => return from_report(report),
                Some(_) => {}
                None => {
                    return Error::new(ErrorKind::Monitor, format!("the monitor of sandbox {} was killed", self.id));
                }
            }
        }
    }

    /// Lets the sandbox go on without this process, if it was started with [`StartRequest::detached`]. From then
    /// on it is known by its record alone.
    ///
    /// # Errors
    /// If the sandbox has ended meanwhile: why.
    pub async fn detach(mut self) -> Result<()> {
        // A monitor that is gone says no more.
        let _ = wire::send(&mut self.commands, &ToMonitor::Detach).await;
        loop {
            match self.lines.next::<FromMonitor>().await {
                Some(FromMonitor::Detached) => return Ok(()),
                Some(FromMonitor::Failed(report)) => return Err(from_report(report)),
                Some(_) => {}
                None => {
                    let message = format!("the monitor of sandbox {} was killed", self.id);
                    return Err(Error::new(ErrorKind::Monitor, message));
                }
            }
        }
    }

    /// Flushes the shares, ends everything and waits until nothing is left.
    ///
    /// # Errors
    /// If the monitor reported one, or had to be killed.
    pub async fn stop(self) -> Result<()> {
        // Its disk may be one that is kept: the monitor knows, and is quicker if it is not.
        self.end_by(&ToMonitor::Stop, KEPT_STOP_PATIENCE).await
    }

    /// Ends everything at once and waits until nothing is left: for a sandbox whose guest said that
    /// it has settled ([`viv_proto::message::ExitReport::settled`]).
    ///
    /// # Errors
    /// As [`Sandbox::stop`].
    pub async fn end(self) -> Result<()> {
        self.end_by(&ToMonitor::End, STOP_PATIENCE).await
    }

    async fn end_by(mut self, message: &ToMonitor, patience: Duration) -> Result<()> {
        // If it is gone already, there is nothing to stop.
        let _ = wire::send(&mut self.commands, message).await;
        let mut failure = None;
        let ended = async {
            while let Some(message) = self.lines.next::<FromMonitor>().await {
                if let FromMonitor::Failed(report) = message {
                    failure = Some(from_report(report));
                }
            }
            wait(&mut self.monitor).await
        };
        if tokio::time::timeout(patience, ended).await.is_err() {
            if let Some(monitor) = &mut self.monitor {
                let _ = monitor.kill().await;
            }
            return Err(Error::new(
                ErrorKind::Monitor,
                format!("sandbox {} did not end within {} seconds and was killed", self.id, patience.as_secs()),
            ));
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Waits until a monitor that reported its end is gone.
async fn finish(mut monitor: Option<Child>, mut lines: Lines<OwnedReadHalf>) {
    let ended = async {
        while lines.next::<FromMonitor>().await.is_some() {}
        wait(&mut monitor).await
    };
    // It is about to end whatever happens here: its client is gone.
    let _ = tokio::time::timeout(STOP_PATIENCE, ended).await;
}

async fn monitor_died(mut monitor: Option<Child>) -> Error {
    let error = Error::new(ErrorKind::Monitor, "the sandbox's monitor ended before the guest was up");
    match wait(&mut monitor).await {
        Ok(Some(status)) => error.source(status.to_string()),
        Ok(None) => error,
        Err(wait) => error.source(wait),
    }
}

/// Waits for a monitor that is a child of this process to be gone.
async fn wait(monitor: &mut Option<Child>) -> std::io::Result<Option<ExitStatus>> {
    match monitor {
        Some(monitor) => monitor.wait().await.map(Some),
        None => Ok(None),
    }
}

/// Runs a program in a sandbox that another process started.
///
/// # Errors
/// As [`Sandbox::exec`].
pub async fn exec_in(paths: &Paths, record: &Record, exec: &Exec) -> Result<ExecSession> {
    crate::exec::exec(&directory_of(paths, record)?, exec).await
}

/// The files of a sandbox that another process started.
///
/// # Errors
/// If it is gone.
pub fn files_of(paths: &Paths, record: &Record) -> Result<Files> {
    Ok(Files::new(directory_of(paths, record)?))
}

/// Ends a sandbox in good order and waits until nothing of it is left.
///
/// # Errors
/// If its monitor does not answer.
pub async fn stop(paths: &Paths, record: &Record) -> Result<()> {
    // Long enough for one whose disk is kept.
    let stopped = command(paths, record, "STOP\n", KEPT_STOP_PATIENCE).await;
    stopped.map_err(|error| error.hint(format!("viv kill {}", record.id)))
}

/// Ends a sandbox at once: what its guest had not written is lost.
///
/// # Errors
/// If even its monitor's process cannot be killed.
pub async fn kill(paths: &Paths, record: &Record) -> Result<()> {
    if command(paths, record, "KILL\n", STOP_PATIENCE).await.is_ok() {
        return Ok(());
    }
    if let Some(pid) = Pid::from_raw(record.monitor_pid.cast_signed()) {
        kill_process(pid, Signal::KILL).map_err(|error| io("the monitor could not be killed")(error.into()))?;
    }
    // The monitor's children die with it; its directory goes with the next look.
    crate::list(paths).map(|_| ())
}

/// Makes a sandbox's machine stand still; that it does already is no error.
///
/// # Errors
/// The monitor's reason, or if it does not answer.
pub async fn pause(paths: &Paths, record: &Record) -> Result<()> {
    switch(paths, record, "PAUSE\n").await
}

/// Lets a sandbox's machine go on; when this returns, its clock is right.
///
/// # Errors
/// As [`pause`].
pub async fn resume(paths: &Paths, record: &Record) -> Result<()> {
    switch(paths, record, "RESUME\n").await
}

async fn switch(paths: &Paths, record: &Record, line: &str) -> Result<()> {
    let answer = ask_monitor(paths, record, line, STOP_PATIENCE).await?;
    if answer == b"OK\n" {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&answer).trim_end().trim_start_matches("ERR ").to_owned();
    Err(Error::new(ErrorKind::WrongState, if words.is_empty() { "the sandbox has ended".to_owned() } else { words }))
}

/// Resolves when nothing of a sandbox is left, however it ends.
///
/// # Errors
/// If its monitor cannot be reached, which is so when it has ended already.
pub async fn ended(paths: &Paths, record: &Record) -> Result<()> {
    // However long it takes.
    ask_monitor(paths, record, "WAIT\n", Duration::MAX).await.map(drop)
}

/// Cuts the link and makes it anew, for tests and for the curious: running programs lose their
/// terminals, the sandbox lives.
///
/// # Errors
/// If the monitor does not answer.
pub async fn relink(paths: &Paths, record: &Record) -> Result<()> {
    command(paths, record, "RELINK\n", STOP_PATIENCE).await
}

/// Shows a port of a running sandbox's loopback interface for as long as it runs; returns where.
///
/// # Errors
/// [`ErrorKind::Publish`] with the monitor's reason.
pub async fn publish(paths: &Paths, record: &Record, wanted: Publish) -> Result<SocketAddr> {
    let line = format!("PUBLISH {} {}\n", wanted.address, wanted.guest_port);
    let answer = ask_monitor(paths, record, &line, STOP_PATIENCE).await?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.trim_end().strip_prefix("OK ").and_then(|address| address.parse().ok()) {
        Some(address) => Ok(address),
        None => Err(Error::new(ErrorKind::Publish, answer.trim_end().trim_start_matches("ERR ").to_owned())),
    }
}

/// Sends a command to a monitor and waits for its `OK` and for it to close the connection.
async fn command(paths: &Paths, record: &Record, line: &str, patience: Duration) -> Result<()> {
    if ask_monitor(paths, record, line, patience).await? == b"OK\n" {
        return Ok(());
    }
    let unanswered = io(format!("the monitor of sandbox {} does not answer", record.id));
    Err(unanswered(std::io::ErrorKind::InvalidData.into()))
}

/// Sends a command to a monitor and returns what it says until it closes the connection.
async fn ask_monitor(paths: &Paths, record: &Record, line: &str, patience: Duration) -> Result<Vec<u8>> {
    let directory = directory_of(paths, record)?;
    let unanswered = || io(format!("the monitor of sandbox {} does not answer", record.id));
    let conversation = async {
        let mut stream = UnixStream::connect(short_path(&directory, SOCKET)).await?;
        stream.write_all(line.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER_BYTES).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(patience, conversation)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(unanswered())
}

pub(crate) fn directory_of(paths: &Paths, record: &Record) -> Result<OwnedFd> {
    open_directory(&paths.runtime.join(&record.id)).map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("sandbox {} has ended", record.id)).source(error).hint("viv ps")
    })
}
