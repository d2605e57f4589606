//! Processes of the host, named so that a reused pid is not mistaken for an old acquaintance.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use viv_vmm::Tail;

use crate::error::io;
use crate::{Error, ErrorKind, Result};

/// A process, by pid and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessName {
    /// Its pid.
    pub(crate) pid: u32,
    /// Clock ticks from the host's boot to its start: field 22 of /proc/PID/stat (proc(5)).
    started: u64,
}

impl ProcessName {
    /// The process that has the pid now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: started(pid)? })
    }

    pub(crate) fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Ends it at once, if it still is the same process.
    pub(crate) fn kill(self) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid.cast_signed())
        {
            // It may have ended meanwhile, which is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A file in memory for another process of viv, to be read from its start: a pipe would block at 64 KiB.
pub(crate) fn memory_file(content: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("viv-request", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// Starts one of `executable`'s hidden entry points, its request as standard input, to outlive this
/// process: nobody waits for it, its directory keeps no file system busy, and of the environment, which
/// may hold secrets, it gets only where programs are found.
pub(crate) fn start_detached(executable: &Path, entry_point: &str, request: &impl Serialize) -> std::io::Result<()> {
    let mut command = Command::new(executable);
    command.arg(entry_point).stdin(memory_file(&serde_json::to_vec(request)?)?);
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).current_dir("/");
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.spawn().map(drop)
}

/// Starts a child of this thread, with which it dies. It has nothing to read, `descriptors` by their numbers,
/// and what it says on standard error is kept; `failed` is what an error is introduced by.
pub(crate) fn start_child(
    mut command: tokio::process::Command,
    descriptors: Vec<FdMapping>,
    failed: &str,
) -> Result<(Child, Tail)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.fd_mappings(descriptors).map_err(|error| Error::new(ErrorKind::Monitor, error.to_string()))?;
    viv_vmm::die_with_parent(&mut command);
    let mut child = command.spawn().map_err(io(failed))?;
    // With it go our copies of the child's descriptors.
    drop(command);
    let words = Tail::default();
    if let Some(output) = child.stderr.take() {
        tokio::spawn(words.clone().follow(output));
    }
    Ok((child, words))
}

fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, may hold anything, also parentheses; the fields after it may not.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    // A zombie only waits to be reaped.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let name = ProcessName::of(child.id()).unwrap();
        assert!(name.is_alive());
        assert!(!ProcessName { started: name.started + 1, ..name }.is_alive());
        name.kill();
        child.wait().unwrap();
        assert!(!name.is_alive());
    }
}
