//! The processes of a sandbox: the file daemon and the VMM, started side by side.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use command_fds::FdMapping;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;
use viv_proto::{VSOCK_KEY_BLOCK_BYTES, VsockKey};
use viv_shares::{FileDaemonSpec, ShareSpec};
use viv_vmm::{Change, CommandPlan, Descriptor, LinkCarrier, Machine, Tail};

use super::network_device::NetworkDevice;
use super::{FILE_DAEMON_INPUT, FILE_DAEMON_LISTENER, FILE_DAEMON_READY};
use crate::error::{adopt, from_report, io};
use crate::process::{memory_file, start_child};
use crate::{Error, ErrorKind, Result};

/// The socket a link over virtio-serial is connected through; its listener is the VMM's.
pub(crate) const LINK_SOCKET: &str = "link.sock";

/// The socket between the VMM and the file daemon, who listens.
pub(crate) const SHARES_SOCKET: &str = "shares.sock";

/// When one child ends, how long the other may take to show that it was the cause: on a busy host, a
/// machine with much memory takes a while to be gone.
const CAUSE_PATIENCE: Duration = Duration::from_secs(2);

/// What ends a child from outside. Others it brings upon itself.
const KILLERS: [Signal; 5] = [Signal::KILL, Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP];

/// How long the file daemon may take to finish what the VMM had asked of it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// How many of the last console lines an error shows.
const CONSOLE_LINES: usize = 12;

/// Among how many of the last ones the reason is looked for.
const CONSOLE_MEMORY_LINES: usize = 400;

pub(crate) struct Children {
    pub(crate) machine: Machine,
    file_daemon: Child,
    daemon_words: Tail,
    ready: Option<pipe::Receiver>,
    told_ready: watch::Sender<bool>,
    /// Where the file daemon waits to be told.
    tell_shares: Option<UnixStream>,
    network: Option<NetworkDevice>,
    /// Of a machine that is to be saved.
    memory: Option<File>,
    powered_off: bool,
    /// Why the file daemon cannot serve, as it said itself.
    unready: Option<Error>,
    /// Until when the cause may show, once something has ended. Who asks for it may be called away and ask again.
    cause_until: Option<Instant>,
    /// By a signal, from outside.
    was_killed: bool,
}

/// What to start.
pub(crate) struct Machinery<'a> {
    /// The VMM's command.
    pub(crate) vmm: &'a CommandPlan,
    /// How the file daemon serves.
    pub(crate) file_daemon: &'a FileDaemonSpec,
    /// What it shares; `None` if that is told later.
    pub(crate) shares: Option<&'a [ShareSpec]>,
    /// What carries the link.
    pub(crate) link: LinkCarrier,
    /// Over vsock, the guest lets in who begins with this.
    pub(crate) key: &'a VsockKey,
    /// The machine's disk.
    pub(crate) scratch: File,
    /// How much memory it has, in MiB.
    pub(crate) memory_mib: u64,
    /// What is behind its network device, and what the VMM gets of it.
    pub(crate) network: Option<(NetworkDevice, OwnedFd)>,
    /// What it is saved to or restored from.
    pub(crate) state: MachineState,
    /// Where its sockets are; one that is there already is replaced.
    pub(crate) sockets: &'a dyn Fn(&str) -> PathBuf,
}

/// What becomes of a machine's state.
pub(crate) enum MachineState {
    /// It begins anew and is lost.
    Fresh,
    /// That of its devices is saved here.
    ToSave { devices: File },
    /// It is restored from these files, read-only.
    Saved { memory: File, devices: File },
}

/// How far the end of both has come.
struct Ended {
    machine: Option<ExitStatus>,
    file_daemon: Option<ExitStatus>,
}

impl Ended {
    fn is_settled(&self) -> bool {
        let was_killed = |status: Option<ExitStatus>| status.is_some_and(|status| status.signal().is_some());
        was_killed(self.machine)
            || was_killed(self.file_daemon)
            || (self.machine.is_some() && self.file_daemon.is_some())
    }
}

impl Children {
    /// Starts both. They are ready when the guest answers, or one of them ends.
    pub(crate) fn start(machinery: Machinery<'_>) -> Result<Self> {
        let Machinery { vmm, file_daemon, shares: to_share, link, key, scratch, memory_mib, network, state, sockets } =
            machinery;
        if link != LinkCarrier::VirtioSerial {
            append_key(&scratch, key).map_err(io("the scratch disk could not be written"))?;
        }
        let listen = |name: &str| {
            let path = sockets(name);
            // An earlier attempt's, or none.
            let _ = std::fs::remove_file(&path);
            UnixListener::bind(&path).map_err(io("the sandbox's sockets could not be made"))
        };
        let shares = listen(SHARES_SOCKET)?;
        let to_shares = UnixStream::connect(sockets(SHARES_SOCKET));
        let to_shares = to_shares.map_err(io("the sandbox's sockets could not be made"))?;
        let (input, tell_shares) = input(file_daemon, to_share)?;
        let (file_daemon, ready, daemon_words) = start_file_daemon(input, shares.into())?;
        let memory = viv_vmm::memory::make(memory_mib << 20).map_err(io("the machine's memory could not be made"))?;
        let kept = match &state {
            MachineState::ToSave { .. } => Some(memory.try_clone().map_err(io("a descriptor could not be copied"))?),
            _ => None,
        };
        let devices = match state {
            MachineState::Fresh => None,
            MachineState::ToSave { devices } => Some(devices.into()),
            MachineState::Saved { memory: saved, devices } => Some(restore(&memory, saved, devices)?),
        };
        let mut descriptors: BTreeMap<Descriptor, OwnedFd> = BTreeMap::from([
            (Descriptor::Memory, memory.into()),
            (Descriptor::Scratch, scratch.into()),
            (Descriptor::FileDaemon, to_shares.into()),
        ]);
        descriptors.extend(devices.map(|devices| (Descriptor::Devices, devices)));
        let network = network.map(|(network, descriptor)| {
            descriptors.insert(Descriptor::Network, descriptor);
            network
        });
        if link == LinkCarrier::VirtioSerial {
            descriptors.insert(Descriptor::LinkListener, listen(LINK_SOCKET)?.into());
        }
        let machine = viv_vmm::launch(vmm, descriptors).map_err(adopt)?;
        let (told_ready, _) = watch::channel(false);
        Ok(Self {
            machine,
            file_daemon,
            daemon_words,
            ready: Some(ready),
            told_ready,
            tell_shares,
            network,
            memory: kept,
            powered_off: false,
            unready: None,
            cause_until: None,
            was_killed: false,
        })
    }

    /// Whether one of them ended because someone killed it.
    pub(crate) fn was_killed(&self) -> bool {
        self.was_killed
    }

    /// Tells the file daemon what it shares.
    pub(crate) fn tell_shares(&mut self, shares: &[ShareSpec]) -> Result<()> {
        let failed = || io("the file daemon could not be told its shares");
        let line = viv_shares::shares_line(shares).map_err(adopt)?;
        let mut stream = self.tell_shares.take().ok_or_else(|| failed()(std::io::ErrorKind::NotConnected.into()))?;
        // It reads as soon as there is something, so that this takes no time worth a thread.
        stream.write_all(line.as_bytes()).map_err(failed())
    }

    /// Becomes true once the shares are there. Only as long as someone waits for trouble.
    pub(crate) fn shares_are_ready(&self) -> watch::Receiver<bool> {
        self.told_ready.subscribe()
    }

    /// What the guest is told of its network device.
    pub(crate) fn network_device(&self) -> Option<&viv_proto::message::NetworkDevice> {
        self.network.as_ref().map(NetworkDevice::description)
    }

    pub(crate) fn file_daemon_pid(&self) -> Option<u32> {
        self.file_daemon.id()
    }

    /// Resolves when something ends that should not have, to why. Cancel-safe.
    pub(crate) async fn trouble(&mut self, guest_was_up: bool) -> Error {
        loop {
            if self.unready.is_some() {
                // It says nothing of why if it, or the VMM it serves, was killed.
                let ended = self.ended(None).await;
                let killed = self.killed(&ended);
                if let Some(error) = killed.or(self.unready.take()) {
                    return error;
                }
            }
            tokio::select! {
                // In this order, so that a daemon which could not start is blamed before the VMM
                // that lost it.
                biased;
                failure = not_ready(&mut self.ready, &self.told_ready) => self.unready = Some(failure),
                change = self.machine.next() => match change {
                    Ok(Change::Event(viv_vmm::Event::HostDiskFull)) => return host_disk_full(),
                    Ok(Change::Event(viv_vmm::Event::TimerLost)) if !guest_was_up => return timer_lost(),
                    Ok(Change::Event(event)) => self.powered_off |= event == viv_vmm::Event::GuestPoweredOff,
                    Ok(Change::Ended(status)) => return self.cause(Some(status), guest_was_up).await,
                    Err(error) => return adopt(error),
                },
                _ = self.file_daemon.wait() => return self.cause(None, guest_was_up).await,
                failure = network_lost(&mut self.network) => return self.network_cause(failure, guest_was_up).await,
            }
        }
    }

    /// One child has ended, which usually takes the other along: which one was it?
    async fn cause(&mut self, machine: Option<ExitStatus>, guest_was_up: bool) -> Error {
        let ended = self.ended(machine).await;
        if let Some(error) = self.killed(&ended) {
            return error;
        }
        match ended.machine {
            Some(status) if status.success() => self.guest_ended(guest_was_up),
            Some(status) => with_lines(
                Error::new(ErrorKind::VmmDied, format!("QEMU ended with {status}")),
                self.machine.words().lines(CONSOLE_LINES),
            ),
            None => with_lines(
                Error::new(ErrorKind::FileDaemonDied, "the file daemon ended while the sandbox was in use"),
                self.daemon_words.lines(CONSOLE_LINES),
            ),
        }
    }

    fn cause_until(&mut self) -> Instant {
        *self.cause_until.get_or_insert_with(|| Instant::now() + CAUSE_PATIENCE)
    }

    /// Waits until one is known to have been killed, or both to have ended. If only one ends in this
    /// time, that one is to blame. Cancel-safe: a child that has ended tells so again.
    async fn ended(&mut self, machine: Option<ExitStatus>) -> Ended {
        let until = self.cause_until();
        let mut ended = Ended { machine, file_daemon: None };
        let settled = async {
            while !ended.is_settled() {
                tokio::select! {
                    change = self.machine.next(), if ended.machine.is_none() => match change {
                        Ok(Change::Event(event)) => self.powered_off |= event == viv_vmm::Event::GuestPoweredOff,
                        Ok(Change::Ended(status)) => ended.machine = Some(status),
                        Err(_) => return,
                    },
                    status = self.file_daemon.wait(), if ended.file_daemon.is_none() => match status {
                        Ok(status) => ended.file_daemon = Some(status),
                        Err(_) => return,
                    },
                }
            }
        };
        // Later is as good as never.
        let _ = tokio::time::timeout_at(until, settled).await;
        ended
    }

    /// The error, if one of them was killed.
    fn killed(&mut self, ended: &Ended) -> Option<Error> {
        let signalled = |status: Option<ExitStatus>| status.and_then(|status| status.signal());
        let (machine, file_daemon) = (signalled(ended.machine), signalled(ended.file_daemon));
        let from_outside = |signal: i32| KILLERS.iter().any(|killer| killer.as_raw() == signal);
        self.was_killed |= machine.into_iter().chain(file_daemon).any(from_outside);
        if let Some(signal) = machine {
            let error = Error::new(ErrorKind::VmmDied, format!("QEMU was killed by signal {signal}"));
            return Some(with_lines(error, self.machine.words().lines(CONSOLE_LINES)));
        }
        let what = |signal| format!("the file daemon was killed by signal {signal}");
        file_daemon.map(|signal| Error::new(ErrorKind::FileDaemonDied, what(signal)))
    }

    /// What is behind the network device has ended, as it does with the VMM: is that the cause?
    async fn network_cause(&mut self, failure: Error, guest_was_up: bool) -> Error {
        let until = self.cause_until();
        let ended = async {
            loop {
                match self.machine.next().await {
                    Ok(Change::Event(event)) => self.powered_off |= event == viv_vmm::Event::GuestPoweredOff,
                    Ok(Change::Ended(status)) => return Some(status),
                    Err(_) => return None,
                }
            }
        };
        match tokio::time::timeout_at(until, ended).await {
            Ok(Some(status)) => self.cause(Some(status), guest_was_up).await,
            _ => failure,
        }
    }

    fn guest_ended(&self, guest_was_up: bool) -> Error {
        if self.powered_off && guest_was_up {
            return Error::new(ErrorKind::PoweredOff, "the sandbox was powered off from inside");
        }
        let what = if guest_was_up { "the guest crashed" } else { "the guest could not start" };
        self.with_console(Error::new(ErrorKind::GuestCrashed, what))
    }

    /// The error, with the end of the guest's console as its cause.
    pub(crate) fn with_console(&self, error: Error) -> Error {
        let mut lines = telling(self.machine.console().lines(CONSOLE_MEMORY_LINES));
        if lines.is_empty() {
            lines.push("its console is empty".to_owned());
        }
        with_lines(error, lines)
    }

    /// Saves the machine, which stands still afterwards: its devices to where it was told, and its
    /// memory to an empty file.
    pub(crate) async fn save(&mut self, memory: &File) -> Result<()> {
        self.machine.save().await.map_err(adopt)?;
        let used =
            self.memory.take().ok_or_else(|| Error::new(ErrorKind::Monitor, "this machine is not to be saved"))?;
        viv_vmm::memory::save(&used, memory).map_err(io("the machine's memory could not be saved"))
    }

    /// Ends both and reaps them.
    pub(crate) async fn end(&mut self) {
        self.machine.kill().await;
        if tokio::time::timeout(DRAIN_PATIENCE, self.file_daemon.wait()).await.is_err() {
            // It can only fail if the process has ended already.
            let _ = self.file_daemon.kill().await;
        }
        if let Some(network) = self.network.take() {
            network.end().await;
        }
    }
}

/// Resolves if what is behind the network device ends; never if there is none.
async fn network_lost(network: &mut Option<NetworkDevice>) -> Error {
    match network {
        Some(network) => network.trouble().await,
        None => std::future::pending().await,
    }
}

/// Fills a machine's memory and then lets its VMM have the state of its devices, which it waits for:
/// the VMM starts meanwhile. Returns where it is to be read.
fn restore(memory: &File, saved: File, mut devices: File) -> Result<OwnedFd> {
    /// More would wait for each other in the kernel.
    const MOST_THREADS: usize = 4;
    let failed = || io("the machine's memory could not be restored");
    let memory = memory.try_clone().map_err(failed())?;
    let (reader, writer) = std::io::pipe().map_err(failed())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    std::thread::Builder::new()
        .name("viv-restore".to_owned())
        .spawn(move || {
            let mut writer = writer;
            // Without its devices' state the VMM ends, which is noticed and says why.
            let _ =
                viv_vmm::memory::fill(&memory, &saved, threads).and_then(|()| std::io::copy(&mut devices, &mut writer));
        })
        .map_err(failed())?;
    Ok(reader.into())
}

/// The lines from the one that says why, or else the last ones: a kernel's register dump and trace
/// come after its reason and are long.
fn telling(mut lines: Vec<String>) -> Vec<String> {
    const REASONS: [&str; 3] = ["viv-guest: fatal", "Kernel panic", "BUG: "];
    let reason = lines.iter().position(|line| REASONS.iter().any(|reason| line.contains(reason)));
    let first = reason.unwrap_or(lines.len().saturating_sub(CONSOLE_LINES));
    lines.drain(..first);
    lines.truncate(CONSOLE_LINES);
    lines
}

/// Leaves the key where the guest finds it and other users of the host do not: a command line and
/// the files of the cache are theirs to read, the scratch disk is not.
fn append_key(scratch: &File, key: &VsockKey) -> std::io::Result<()> {
    let mut block = [0; VSOCK_KEY_BLOCK_BYTES];
    block[..key.len()].copy_from_slice(key);
    scratch.write_all_at(&block, scratch.metadata()?.len())
}

fn host_disk_full() -> Error {
    Error::new(ErrorKind::HostDiskFull, "the host's disk is full: the sandbox's scratch disk cannot grow")
        .hint("free space where `viv doctor` says the state directory is, or move it with XDG_STATE_HOME")
}

fn timer_lost() -> Error {
    let what = "the guest's kernel lost its timer, as happens under emulation on a busy host";
    Error::new(ErrorKind::GuestStuck, what)
}

fn with_lines(error: Error, lines: Vec<String>) -> Error {
    if lines.is_empty() { error } else { error.source(lines.join("\n")) }
}

/// Resolves if the file daemon says that it cannot serve; never if it can.
async fn not_ready(ready: &mut Option<pipe::Receiver>, told: &watch::Sender<bool>) -> Error {
    if let Some(receiver) = ready {
        let mut line = String::new();
        // An unreadable pipe is an ended daemon, which an empty line stands for.
        let _ = receiver.take(64 * 1024).read_to_string(&mut line).await;
        *ready = None;
        if let Err(report) = viv_shares::parse_ready(&line) {
            return from_report(report);
        }
        told.send_replace(true);
    }
    std::future::pending().await
}

/// What the file daemon reads its two lines from, and where the second is written if it is not known.
fn input(spec: &FileDaemonSpec, shares: Option<&[ShareSpec]>) -> Result<(OwnedFd, Option<UnixStream>)> {
    let failed = || io("the file daemon could not be told how to serve");
    if let Some(shares) = shares {
        let told = viv_shares::shares_line(shares).map_err(adopt)?;
        return Ok((memory_file((spec.line() + &told).as_bytes()).map_err(failed())?.into(), None));
    }
    let (theirs, mut ours) = UnixStream::pair().map_err(failed())?;
    ours.write_all(spec.line().as_bytes()).map_err(failed())?;
    Ok((theirs.into(), Some(ours)))
}

/// Starts the file daemon, which reads its two lines from `input`: a file that has both, or the other
/// end of a socket that is written to when the shares are known (see `viv_shares::serve`).
fn start_file_daemon(input: OwnedFd, listener: OwnedFd) -> Result<(Child, pipe::Receiver, Tail)> {
    let failed = || io("the file daemon could not be started");
    let (ready, ready_writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| failed()(error.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("internal-file-daemon").env_clear();
    let descriptors = vec![
        FdMapping { parent_fd: input, child_fd: FILE_DAEMON_INPUT },
        FdMapping { parent_fd: listener, child_fd: FILE_DAEMON_LISTENER },
        FdMapping { parent_fd: ready_writer, child_fd: FILE_DAEMON_READY },
    ];
    let (child, words) = start_child(command, descriptors, "the file daemon could not be started")?;
    Ok((child, pipe::Receiver::from_owned_fd(ready).map_err(failed())?, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_shown_from_its_reason_on_and_silence_by_its_end() {
        let noise = |count| (0..count).map(|number| format!("line {number}")).collect::<Vec<_>>();
        let mut crash = noise(50);
        crash.push("[ 2.1] Kernel panic - not syncing: sysrq triggered crash".to_owned());
        crash.extend(noise(50));
        let shown = telling(crash);
        assert!(shown.len() == CONSOLE_LINES && shown[0].contains("sysrq"), "{shown:?}");
        assert_eq!(telling(noise(50)).last().unwrap(), "line 49");
        assert!(telling(Vec::new()).is_empty());
    }

    #[test]
    fn the_key_follows_the_file_system() {
        let mut scratch = tempfile::tempfile().unwrap();
        scratch.write_all(&[7; 8192]).unwrap();
        append_key(&scratch, b"0123456789abcdef").unwrap();
        let mut disk = vec![0; 8192 + VSOCK_KEY_BLOCK_BYTES];
        assert_eq!(scratch.metadata().unwrap().len(), disk.len() as u64);
        scratch.read_exact_at(&mut disk, 0).unwrap();
        assert!(disk[..8192].iter().all(|byte| *byte == 7));
        assert!(disk[8192..].starts_with(b"0123456789abcdef\0"));
    }
}
