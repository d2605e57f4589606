//! A running machine: started from a plan, watched, and killed when its owner lets go of it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};

use command_fds::CommandFdExt;
use command_fds::FdMapping;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use crate::console::{TIMER_LOST, Tail};
use crate::spec::Descriptor;
use crate::{CommandPlan, Error, ErrorKind, Result, qemu, qmp, sys};

/// What a machine reports while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The host's file system is full: the machine stands still.
    HostDiskFull,
    /// The host could not read or write a disk.
    DiskError,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The guest switched the machine off in good order.
    GuestPoweredOff,
    /// The guest's kernel found its timer broken and goes on without: it will not get far. In its words, so
    /// that this means something only until the guest runs programs, who can say so too.
    TimerLost,
    /// The machine's state is in its file, and the machine stands still for good.
    Saved,
    /// The machine's state could not be saved.
    NotSaved,
}

/// What happens to a machine.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// It reported something.
    Event(Event),
    /// The VMM ended.
    Ended(ExitStatus),
}

/// A running machine. Dropping it kills the VMM.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    pid: u32,
    events: mpsc::UnboundedReceiver<Event>,
    requests: mpsc::UnboundedSender<qmp::Request>,
    /// The number of its devices' state in the VMM.
    devices: Option<i32>,
    console: Tail,
    words: Tail,
}

/// Starts the VMM. Its process dies with this one, whatever kills this one; for that to hold,
/// `launch` is called on the process's main thread.
///
/// `descriptors` holds every descriptor of the plan but [`Descriptor::Monitor`], which this
/// function makes itself.
///
/// # Errors
/// [`ErrorKind::Spawn`] if the program cannot be executed, [`ErrorKind::InvalidSpec`] if a
/// descriptor of the plan is missing.
pub fn launch(plan: &CommandPlan, mut descriptors: BTreeMap<Descriptor, OwnedFd>) -> Result<Machine> {
    let io = |error: std::io::Error| Error::new(ErrorKind::Io, "the VMM's sockets could not be made").source(error);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(io)?;
    descriptors.insert(Descriptor::Monitor, theirs.into());
    let mut mappings = Vec::new();
    for placed in &plan.descriptors {
        let parent_fd = descriptors.remove(&placed.descriptor).ok_or_else(|| {
            Error::new(ErrorKind::InvalidSpec, format!("the plan wants a {:?} descriptor", placed.descriptor))
        })?;
        mappings.push(FdMapping { parent_fd, child_fd: placed.number });
    }

    let mut command = Command::new(&plan.program);
    command.args(&plan.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Nothing of the user's environment is QEMU's business.
    command.env_clear().kill_on_drop(true);
    command.fd_mappings(mappings).map_err(|error| Error::new(ErrorKind::InvalidSpec, error.to_string()))?;
    sys::die_with_parent(&mut command);
    let mut child = command.spawn().map_err(|error| {
        Error::new(ErrorKind::Spawn, format!("{} could not be started", plan.program.display())).source(error)
    })?;
    let pid = child.id().unwrap_or_default();

    let console = Tail::default();
    let words = Tail::default();
    if let Some(output) = child.stderr.take() {
        tokio::spawn(words.clone().follow(output));
    }
    ours.set_nonblocking(true).map_err(io)?;
    let (sender, events) = mpsc::unbounded_channel();
    if let Some(mut output) = child.stdout.take() {
        let (console, sender) = (console.clone(), sender.clone());
        tokio::spawn(async move {
            if console.follow_until(&mut output, &TIMER_LOST).await {
                // Whoever would have listened is gone.
                let _ = sender.send(Event::TimerLost);
            }
            console.follow(output).await;
        });
    }
    let (requests, requested) = mpsc::unbounded_channel();
    tokio::spawn(qmp::follow(UnixStream::from_std(ours).map_err(io)?, sender, requested));
    let devices = plan.descriptors.iter().find(|placed| placed.descriptor == Descriptor::Devices);
    let devices = devices.map(|placed| placed.number);
    Ok(Machine { child, pid, events, requests, devices, console, words })
}

impl Machine {
    /// The VMM's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next thing that happens to the machine; after its end, the end again. Cancel-safe.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the VMM cannot be waited for.
    pub async fn next(&mut self) -> Result<Change> {
        tokio::select! {
            // What it said before it ended comes before its end.
            biased;
            Some(event) = self.events.recv() => Ok(Change::Event(event)),
            status = self.child.wait() => match status {
                Ok(status) => Ok(Change::Ended(status)),
                Err(error) => Err(Error::new(ErrorKind::Io, "the VMM could not be waited for").source(error)),
            },
        }
    }

    /// Saves the state of everything but the memory to the file it was given as
    /// [`Descriptor::Devices`]. The machine stands still afterwards, memory and disks as they were at
    /// that moment, and is good for nothing but to be killed.
    ///
    /// <https://www.qemu.org/docs/master/devel/migration/main.html>
    ///
    /// # Errors
    /// [`ErrorKind::NotSaved`], in QEMU's words.
    pub async fn save(&mut self) -> Result<()> {
        self.execute("migrate-set-capabilities", capabilities(&["x-ignore-shared", "events"])).await?;
        self.execute("migrate", json!({ "uri": qemu::DEVICES_URI })).await?;
        loop {
            match self.next().await? {
                Change::Event(Event::Saved) => return Ok(()),
                Change::Event(Event::NotSaved) => break,
                Change::Event(_) => {}
                Change::Ended(status) => return Err(not_saved(format!("the VMM ended with {status}"))),
            }
        }
        let state = self.execute("query-migrate", json!({})).await?;
        Err(not_saved(state["error-desc"].as_str().unwrap_or("no reason is given").to_owned()))
    }

    /// Has the machine's devices restored from what it was given as [`Descriptor::Devices`]; resolves
    /// when the VMM has taken that up. The future may outlive the borrow of the machine.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the VMM does not answer or refuses.
    pub fn restore(&self) -> impl Future<Output = Result<()>> + use<> {
        let requests = self.requests.clone();
        let devices = self.devices;
        async move {
            execute(&requests, "migrate-set-capabilities", capabilities(&["x-ignore-shared"])).await?;
            let devices = devices.ok_or_else(|| Error::new(ErrorKind::InvalidSpec, "this machine is not restored"))?;
            execute(&requests, "migrate-incoming", json!({ "uri": format!("fd:{devices}") })).await.map(drop)
        }
    }

    /// Makes the machine stand still.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the VMM does not answer or refuses.
    pub async fn pause(&mut self) -> Result<()> {
        self.execute("stop", json!({})).await.map(drop)
    }

    /// Lets a machine that stands still go on.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the VMM does not answer or refuses.
    pub async fn resume(&mut self) -> Result<()> {
        self.execute("cont", json!({})).await.map(drop)
    }

    async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        execute(&self.requests, command, arguments).await
    }

    /// Ends the VMM at once and reaps it. What the guest had not flushed is lost.
    pub async fn kill(&mut self) {
        // It can only fail if the process has ended already.
        let _ = self.child.kill().await;
    }

    /// The guest's console.
    #[must_use]
    pub fn console(&self) -> &Tail {
        &self.console
    }

    /// What the VMM itself said on its standard error.
    #[must_use]
    pub fn words(&self) -> &Tail {
        &self.words
    }
}

async fn execute(requests: &mpsc::UnboundedSender<qmp::Request>, command: &str, arguments: Value) -> Result<Value> {
    let failed = |words: String| Error::new(ErrorKind::Io, format!("the VMM refused {command}")).source(words);
    let (asker, answer) = oneshot::channel();
    let gone = || failed("it does not answer".to_owned());
    requests.send((json!({ "execute": command, "arguments": arguments }), asker)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?.map_err(failed)
}

fn capabilities(names: &[&str]) -> Value {
    let wanted: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    json!({ "capabilities": wanted })
}

fn not_saved(words: String) -> Error {
    Error::new(ErrorKind::NotSaved, "the machine's state could not be saved").source(words)
}
