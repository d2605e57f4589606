//! The daemon's helper: a process that still sees the host when the daemon no longer does, and mounts the shares.
//!
//! It can wait for the shares as long as it takes, while the daemon serves a VMM from an empty directory. It has one
//! thread, never touches a byte of the guest, and dies with the daemon:
//!
//! ```text
//!  daemon                                                   helper
//!    first line read
//!    fork ────────────────────────────────────────────────>  tied to the daemon
//!    new namespaces entered ── a byte ────────────────────>  maps of ids written
//!    root of them <─────────────────────────── an errno ───  joins them, but for mounts
//!    sees an empty directory only ── a byte ──────┐          second line read
//!    no capabilities, seccomp, serves the VMM     └───────>  copy of the host's mounts, tree assembled in it
//!    what must not be made <────────────────── a line ─────
//!    knows it ── a byte ──────────────────────────────────>  joins the daemon's mounts, shows it the tree
//!    ready <─────────────────────────────────── a line ────  ends
//! ```
//!
//! The helper is what holds the descriptor with the shares; the daemon has let go of it before it meets its guest.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, PidfdFlags, chdir, getpid, pidfd_open};
use rustix::thread::set_name;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::guard::{Reserved, ReservedNames};
use crate::namespace::{Maps, Owner};
use crate::{namespace, plan, ready, spec, sys, tree};

/// The daemon's connection with its helper.
///
/// It is a file because a socket of the standard library is read with a system call that the daemon's filter kills.
pub(crate) struct Helper(File);

impl Helper {
    /// Starts it. It reads the shares from `input` and keeps none of the descriptors in `not_for_it`.
    pub(crate) fn start(input: File, not_for_it: &[BorrowedFd<'_>]) -> Result<Self> {
        let failed = || "cannot start the helper of the file daemon".to_owned();
        let maps = Maps::current()?;
        let daemon = getpid();
        let (here, there) = UnixStream::pair().context(ErrorKind::NamespaceDenied, failed)?;
        let here = File::from(OwnedFd::from(here));
        let there = File::from(OwnedFd::from(there));
        // A copy of the daemon's end would keep the helper from seeing it closed.
        let closed = [not_for_it, &[here.as_fd()]].concat();
        sys::fork(&closed, || u8::from(run(daemon, &maps, input, there).is_err()))
            .context(ErrorKind::NamespaceDenied, failed)?;
        Ok(Self(here))
    }

    /// Has the maps of ids of this process written, which has entered a new user namespace.
    pub(crate) fn map(&mut self) -> io::Result<()> {
        self.0.write_all(&[0])?;
        let mut errno = [0; size_of::<i32>()];
        self.0.read_exact(&mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Tells it that the shares may be mounted where this process sees them.
    pub(crate) fn mount(&mut self) -> Result<()> {
        self.0.write_all(&[0]).context(ErrorKind::Mount, || "the helper of the file daemon is gone".to_owned())
    }

    /// Waits until the shares are mounted or known not to be. What of them is not there and must not be made is in
    /// `reserved` before they are. The helper has ended then, or is about to.
    pub(crate) fn wait(mut self, reserved: &ReservedNames) -> Result<()> {
        // What cannot be read or written was not said, or is not heard: then nothing follows.
        let mut line = String::new();
        let _ = BufReader::new(&mut self.0).read_line(&mut line);
        reserved.set(ready::heard(&line)?);
        let _ = self.0.write_all(&[0]);
        line.clear();
        let _ = self.0.read_to_string(&mut line);
        ready::heard(&line).map(drop)
    }
}

/// The helper's life.
fn run(daemon: Pid, maps: &Maps, input: File, mut there: File) -> Result<()> {
    let owner = Owner::parent(daemon);
    owner.bind()?;
    // For those who look at the list of processes; it makes no difference to anything else.
    let _ = set_name(c"viv-mounts");
    // It may wait for long, and a working directory cannot be unmounted.
    chdir("/").context(ErrorKind::Mount, || "cannot leave the working directory".to_owned())?;
    let gone = |_| Error::new(ErrorKind::Orphaned, "the file daemon is gone");
    there.read_exact(&mut [0]).map_err(gone)?;
    let mapped = maps.write(daemon);
    let errno = mapped.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    there.write_all(&errno.to_ne_bytes()).map_err(gone)?;
    // The daemon makes the error of it.
    mapped.map_err(gone)?;

    let assembled = assemble(owner, daemon, input);
    // Failures wait for it as well: the daemon would take an early end for another one.
    there.read_exact(&mut [0]).map_err(gone)?;
    let (daemon, tree, reserved) = match assembled {
        Ok(assembled) => assembled,
        Err(error) => return there.write_all(ready::failed(&error).as_bytes()).map_err(gone),
    };
    there.write_all(ready::reserved(reserved).as_bytes()).map_err(gone)?;
    there.read_exact(&mut [0]).map_err(gone)?;
    let result = namespace::join_mounts(daemon).and_then(|()| tree::attach(&tree));
    there.write_all(ready::told(&result).as_bytes()).map_err(gone)
}

/// Makes the tree of shares; with the process to show it to, and what is not there and must not be made.
fn assemble(owner: Owner, daemon: Pid, input: File) -> Result<(OwnedFd, OwnedFd, Vec<Reserved>)> {
    let daemon = pidfd_open(daemon, PidfdFlags::empty())
        .context(ErrorKind::NamespaceDenied, || "cannot open the process of the file daemon".to_owned())?;
    namespace::join(&daemon)?;
    owner.bind()?;
    let shares = spec::read_shares(input.into())?;
    // Not before: mounts made on the host while it waited are to be seen, and those taken away not kept.
    namespace::copy_mounts()?;
    let (tree, reserved) = tree::assemble(&plan::plan(&shares)?)?;
    Ok((daemon, tree, reserved))
}
