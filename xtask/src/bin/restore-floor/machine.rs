//! The processes: the file daemon and the VMM, restored from the template.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, OFlags, SeekFrom, ioctl_ficlone, memfd_create, openat, seek};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};

use crate::Plan;

/// What a thread copies at once.
const PIECE: u64 = 1 << 20;

/// Both, and what is read of them. They are killed when this is dropped.
pub struct Machine {
    vmm: Child,
    file_daemon: Child,
    /// Where the guest's serial port is connected.
    pub link: UnixStream,
    /// The VMM's own monitor; its answers do not matter.
    _monitor: UnixStream,
}

impl Machine {
    /// Starts both and restores the VMM; its guest is not waited for.
    pub fn start(plan: &Plan) -> Result<Self> {
        let sockets = tempfile::tempdir()?;
        let (path, listener) = listen(sockets.path(), "shares")?;
        let mut command = Command::new(&plan.file_daemon);
        command.arg(&plan.directory).stdin(OwnedFd::from(listener)).stdout(Stdio::null());
        let file_daemon = command.spawn().context("cannot start the file daemon")?;
        let shares = UnixStream::connect(path)?;
        let (path, link) = listen(sockets.path(), "link")?;
        let (mut monitor, monitor_end) = UnixStream::pair()?;
        let scratch = clone(&plan.scratch, sockets.path()).context("cannot copy the scratch disk")?;
        let saved = File::open(&plan.memory).context("cannot open the template's memory")?;
        let memory = File::from(memfd_create("floor", MemfdFlags::CLOEXEC)?);
        memory.set_len(saved.metadata()?.len())?;
        let (devices_end, mut devices) = io::pipe()?;

        let mut argv = plan.machine.clone();
        let descriptors = [
            ("link", link.as_fd()),
            ("shares", shares.as_fd()),
            ("monitor", monitor_end.as_fd()),
            ("scratch", scratch.as_fd()),
            ("memory", memory.as_fd()),
            ("devices", devices_end.as_fd()),
        ];
        for (name, descriptor) in descriptors {
            // Nothing else is started from here on, and there is one thread until the VMM is.
            fcntl_setfd(descriptor, FdFlags::empty())?;
            let number = descriptor.as_raw_fd().to_string();
            for word in &mut argv {
                *word = word.replace(&format!("{{{name}}}"), &number);
            }
        }
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let vmm = command.spawn().context("cannot start the VMM")?;
        let machine = Self { vmm, file_daemon, link: UnixStream::connect(path)?, _monitor: monitor.try_clone()? };

        let restore = format!("fd:{}", devices_end.as_raw_fd());
        for (name, arguments) in [
            ("qmp_capabilities", json!({})),
            (
                "migrate-set-capabilities",
                json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] }),
            ),
            ("migrate-incoming", json!({ "uri": restore })),
        ] {
            let line: Value = json!({ "execute": name, "arguments": arguments });
            monitor.write_all(format!("{line}\n").as_bytes())?;
        }
        // Once it has read this it runs, so the memory is there first.
        fill(&memory, &saved).context("cannot fill the machine's memory")?;
        let mut state = Vec::new();
        File::open(&plan.devices).context("cannot open the state of the devices")?.read_to_end(&mut state)?;
        devices.write_all(&state)?;
        Ok(machine)
    }

    /// Kills both and waits until they are gone.
    pub fn end(mut self) -> io::Result<()> {
        self.vmm.kill()?;
        self.file_daemon.kill()?;
        self.vmm.wait()?;
        self.file_daemon.wait()?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // These fail only where both have ended.
        for child in [&mut self.vmm, &mut self.file_daemon] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn listen(directory: &Path, name: &str) -> io::Result<(PathBuf, UnixListener)> {
    let path = directory.join(name);
    let listener = UnixListener::bind(&path)?;
    Ok((path, listener))
}

/// A copy without a name: of the same blocks where the file system can share them, else of those
/// that hold data.
fn clone(template: &Path, directory: &Path) -> io::Result<File> {
    let from = File::open(template)?;
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let beside = template.parent().unwrap_or(directory);
    let to = File::from(openat(rustix::fs::CWD, beside, flags, 0o600.into())?);
    if ioctl_ficlone(&to, &from).is_err() {
        to.set_len(from.metadata()?.len())?;
        fill(&to, &from)?;
    }
    Ok(to)
}

/// Copies what is data of a file with holes, on all processors: it is what all else waits for.
fn fill(to: &File, from: &File) -> io::Result<()> {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    let mut position = 0;
    while let Ok(data) = seek(from, SeekFrom::Data(position)) {
        let hole = seek(from, SeekFrom::Hole(data))?;
        pieces.extend((data..hole).step_by(PIECE as usize).map(|start| start..(start + PIECE).min(hole)));
        position = hole;
    }
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let buffer = &mut buffer[..(piece.end - piece.start) as usize];
            from.read_exact_at(buffer, piece.start)?;
            to.write_all_at(buffer, piece.start)?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(pieces.len());
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let outcome = work();
        others.into_iter().fold(outcome, |outcome, other| {
            outcome.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_data_is_copied_and_holes_stay() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(64 << 20).unwrap();
        let data = [b"begin".repeat(1000), b"x".repeat(3 << 20)].concat();
        from.write_all_at(&data, 8 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        to.set_len(64 << 20).unwrap();
        fill(&to, &from).unwrap();
        let mut copy = vec![0; data.len()];
        to.read_exact_at(&mut copy, 8 << 20).unwrap();
        assert!(copy == data);
        assert!(to.metadata().unwrap().blocks() * 512 < 8 << 20);
    }
}
