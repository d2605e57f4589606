//! The processes of a sandbox: the file daemon and the VMM, started side by side.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use viv_proto::{VSOCK_KEY_BLOCK_BYTES, VsockKey};
use viv_vmm::{Change, Descriptor, LinkCarrier, Machine, Tail};

use super::{FILE_DAEMON_INPUT, FILE_DAEMON_LISTENER, FILE_DAEMON_READY};
use crate::error::{adopt, from_report, io};
use crate::registry::RunDirectory;
use crate::{Error, ErrorKind, Paths, Plan, Result};

/// The socket a link over virtio-serial is connected through; its listener is the VMM's.
pub(super) const LINK_SOCKET: &str = "link.sock";

const SHARES_SOCKET: &str = "shares.sock";

/// When one child ends, how long the other may take to show that it was the cause.
const CAUSE_PATIENCE: Duration = Duration::from_millis(500);

/// How long the file daemon may take to finish what the VMM had asked of it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// How many of the last console lines an error shows.
const CONSOLE_LINES: usize = 12;

/// Among how many of the last ones the reason is looked for.
const CONSOLE_MEMORY_LINES: usize = 400;

pub(super) struct Children {
    pub(super) machine: Machine,
    file_daemon: Child,
    daemon_words: Tail,
    ready: Option<pipe::Receiver>,
    powered_off: bool,
}

impl Children {
    /// Starts both. They are ready when the guest answers, or one of them ends. Over vsock the
    /// guest lets in who begins with `key`.
    pub(super) fn start(plan: &Plan, paths: &Paths, run: &RunDirectory, key: &VsockKey) -> Result<Self> {
        let scratch = viv_image::clone_scratch(&plan.scratch, &paths.state).map_err(adopt)?;
        if plan.link != LinkCarrier::VirtioSerial {
            append_key(&scratch, key).map_err(io("the scratch disk could not be written"))?;
        }
        let sockets = || io("the sandbox's sockets could not be made");
        let shares = UnixListener::bind(run.socket_path(SHARES_SOCKET)).map_err(sockets())?;
        let told = viv_shares::shares_line(&plan.shares).map_err(adopt)?;
        let input = memory_file((plan.file_daemon.line() + &told).as_bytes())
            .map_err(io("the file daemon could not be told its shares"))?;
        let (file_daemon, ready, daemon_words) = start_file_daemon(input.into(), shares.into())?;
        let to_shares = UnixStream::connect(run.socket_path(SHARES_SOCKET)).map_err(sockets())?;
        let mut descriptors: BTreeMap<Descriptor, OwnedFd> =
            BTreeMap::from([(Descriptor::Scratch, scratch.into()), (Descriptor::FileDaemon, to_shares.into())]);
        if plan.link == LinkCarrier::VirtioSerial {
            let link = UnixListener::bind(run.socket_path(LINK_SOCKET)).map_err(sockets())?;
            descriptors.insert(Descriptor::LinkListener, link.into());
        }
        let machine = viv_vmm::launch(&plan.vmm, descriptors).map_err(adopt)?;
        Ok(Self { machine, file_daemon, daemon_words, ready: Some(ready), powered_off: false })
    }

    pub(super) fn file_daemon_pid(&self) -> Option<u32> {
        self.file_daemon.id()
    }

    /// Resolves when something ends that should not have, to why. Cancel-safe.
    pub(super) async fn trouble(&mut self, guest_was_up: bool) -> Error {
        loop {
            tokio::select! {
                // In this order, so that a daemon which could not start is blamed before the VMM
                // that lost it.
                biased;
                failure = not_ready(&mut self.ready) => return failure,
                change = self.machine.next() => match change {
                    Ok(Change::Event(viv_vmm::Event::HostDiskFull)) => return host_disk_full(),
                    Ok(Change::Event(event)) => self.powered_off |= event == viv_vmm::Event::GuestPoweredOff,
                    Ok(Change::Ended(status)) => return self.cause(Some(status), guest_was_up).await,
                    Err(error) => return adopt(error),
                },
                _ = self.file_daemon.wait() => return self.cause(None, guest_was_up).await,
            }
        }
    }

    /// One child has ended, which usually takes the other along: which one was it?
    async fn cause(&mut self, mut machine: Option<ExitStatus>, guest_was_up: bool) -> Error {
        let both = async {
            while machine.is_none() {
                match self.machine.next().await {
                    Ok(Change::Event(event)) => self.powered_off |= event == viv_vmm::Event::GuestPoweredOff,
                    Ok(Change::Ended(status)) => machine = Some(status),
                    Err(_) => break,
                }
            }
            // Its status is asked for below.
            let _ = self.file_daemon.wait().await;
        };
        // If only one ends in this time, that one is to blame.
        let _ = tokio::time::timeout(CAUSE_PATIENCE, both).await;
        let daemon = self.file_daemon.try_wait().ok().flatten();
        let killed = |status: Option<ExitStatus>| status.and_then(|status| status.signal());
        if let Some(signal) = killed(machine) {
            return with_lines(
                Error::new(ErrorKind::VmmDied, format!("QEMU was killed by signal {signal}")),
                self.machine.words().lines(CONSOLE_LINES),
            );
        }
        if let Some(signal) = killed(daemon) {
            return Error::new(ErrorKind::FileDaemonDied, format!("the file daemon was killed by signal {signal}"));
        }
        match machine {
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

    fn guest_ended(&self, guest_was_up: bool) -> Error {
        if self.powered_off && guest_was_up {
            return Error::new(ErrorKind::PoweredOff, "the sandbox was powered off from inside");
        }
        let what = if guest_was_up { "the guest crashed" } else { "the guest could not start" };
        self.with_console(Error::new(ErrorKind::GuestCrashed, what))
    }

    /// The error, with the end of the guest's console as its cause.
    pub(super) fn with_console(&self, error: Error) -> Error {
        let mut lines = telling(self.machine.console().lines(CONSOLE_MEMORY_LINES));
        if lines.is_empty() {
            lines.push("its console is empty".to_owned());
        }
        with_lines(error, lines)
    }

    /// Ends both and reaps them.
    pub(super) async fn end(&mut self) {
        self.machine.kill().await;
        if tokio::time::timeout(DRAIN_PATIENCE, self.file_daemon.wait()).await.is_err() {
            // It can only fail if the process has ended already.
            let _ = self.file_daemon.kill().await;
        }
    }
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

fn with_lines(error: Error, lines: Vec<String>) -> Error {
    if lines.is_empty() { error } else { error.source(lines.join("\n")) }
}

/// Resolves if the file daemon says that it cannot serve; never if it can.
async fn not_ready(ready: &mut Option<pipe::Receiver>) -> Error {
    if let Some(receiver) = ready {
        let mut line = String::new();
        // An unreadable pipe is an ended daemon, which an empty line stands for.
        let _ = receiver.take(64 * 1024).read_to_string(&mut line).await;
        *ready = None;
        if let Err(report) = viv_shares::parse_ready(&line) {
            return from_report(report);
        }
    }
    std::future::pending().await
}

/// Starts the file daemon, which reads its two lines from `input`: a file that has both, or the other
/// end of a socket that is written to when the shares are known (see `viv_shares::serve`).
fn start_file_daemon(input: OwnedFd, listener: OwnedFd) -> Result<(Child, pipe::Receiver, Tail)> {
    let failed = || io("the file daemon could not be started");
    let (ready, ready_writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| failed()(error.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("internal-file-daemon").env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
        .fd_mappings(vec![
            FdMapping { parent_fd: input, child_fd: FILE_DAEMON_INPUT },
            FdMapping { parent_fd: listener, child_fd: FILE_DAEMON_LISTENER },
            FdMapping { parent_fd: ready_writer, child_fd: FILE_DAEMON_READY },
        ])
        .map_err(|error| Error::new(ErrorKind::Monitor, error.to_string()))?;
    viv_vmm::die_with_parent(&mut command);
    let mut child = command.spawn().map_err(failed())?;
    drop(command);
    let words = Tail::default();
    if let Some(output) = child.stderr.take() {
        tokio::spawn(words.clone().follow(output));
    }
    Ok((child, pipe::Receiver::from_owned_fd(ready).map_err(failed())?, words))
}

/// A file in memory, read from its start: a pipe would block at 64 KiB of specification.
fn memory_file(content: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("viv-spec", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
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
