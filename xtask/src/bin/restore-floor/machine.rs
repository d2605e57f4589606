//! The processes: the file daemon and the VMM, restored from the template.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::fs::{OFlags, SeekFrom, ioctl_ficlone, openat, seek};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::Plan;

/// Both, and what is read of them. They are killed when this is dropped.
pub struct Machine {
    vmm: Child,
    file_daemon: Child,
    /// Where the guest's serial port is connected.
    pub link: UnixStream,
    /// The VMM's own monitor, which nothing is asked of.
    _monitor: UnixStream,
}

impl Machine {
    /// Starts both; neither is waited for.
    pub fn start(plan: &Plan) -> Result<Self> {
        let sockets = tempfile::tempdir()?;
        let (path, listener) = listen(sockets.path(), "shares")?;
        let mut command = Command::new(&plan.file_daemon);
        command.arg(&plan.directory).stdin(OwnedFd::from(listener)).stdout(Stdio::null());
        let file_daemon = command.spawn().context("cannot start the file daemon")?;
        let shares = UnixStream::connect(path)?;
        let (path, link) = listen(sockets.path(), "link")?;
        let (monitor, monitor_end) = UnixStream::pair()?;
        let scratch = clone(&plan.scratch, sockets.path()).context("cannot copy the scratch disk")?;
        let memory = File::open(&plan.memory).context("cannot open the template's memory")?;
        let mut argv = plan.machine.clone();
        let descriptors = [
            ("link", link.as_fd()),
            ("shares", shares.as_fd()),
            ("monitor", monitor_end.as_fd()),
            ("scratch", scratch.as_fd()),
            ("memory", memory.as_fd()),
        ];
        for (name, descriptor) in descriptors {
            // This program has one thread and starts nothing else from here on.
            fcntl_setfd(descriptor, FdFlags::empty())?;
            let number = descriptor.as_raw_fd().to_string();
            for word in &mut argv {
                *word = word.replace(&format!("{{{name}}}"), &number);
            }
        }
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let vmm = command.spawn().context("cannot start the VMM")?;
        let link = UnixStream::connect(path)?;
        Ok(Self { vmm, file_daemon, link, _monitor: monitor })
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

fn listen(directory: &Path, name: &str) -> io::Result<(std::path::PathBuf, UnixListener)> {
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
    if ioctl_ficlone(&to, &from).is_ok() {
        return Ok(to);
    }
    to.set_len(from.metadata()?.len())?;
    let mut position = 0;
    while let Ok(data) = seek(&from, SeekFrom::Data(position)) {
        let hole = seek(&from, SeekFrom::Hole(data))?;
        copy(&from, &to, data, hole - data)?;
        position = hole;
    }
    Ok(to)
}

fn copy(from: &File, to: &File, position: u64, mut length: u64) -> io::Result<()> {
    let (mut read, mut write) = (position, position);
    while length > 0 {
        let piece = usize::try_from(length).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            copied => length -= copied as u64,
        }
    }
    Ok(())
}
