//! The one place of `unsafe`: what happens between fork and exec of a tool.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use crate::packages::Confinement;

/// Ties a command to the thread that is about to start it: it gets SIGTERM when that thread ends, and
/// it, and all it starts, hold `locks` (of open file descriptions) until they are gone as well. So
/// whoever gets such a lock next knows that nothing of an earlier, killed builder is still running.
pub(crate) fn tie(command: &mut Command, locks: &[&File]) -> io::Result<()> {
    let locks = locks.iter().map(|lock| lock.try_clone()).collect::<io::Result<Vec<File>>>()?;
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        if getppid() != Some(parent) {
            // The parent was gone before it could be asked for.
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
        }
        for lock in &locks {
            rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child after fork. It makes system calls (prctl, getppid,
    // fcntl) through rustix, which neither allocate nor take locks, and `from_raw_os_error` does not
    // allocate either; `locks` is owned by the closure, so its descriptors are open.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

/// Runs `prepare` in the process that is about to become `command`.
pub(crate) fn before_exec(command: &mut Command, prepare: Confinement) {
    // SAFETY: `Confinement::enter` keeps to system calls after fork: what it needs was allocated
    // before, its descriptors are owned by it, and the locks that `fork` of a C library takes were put
    // right by the first fork.
    unsafe { command.pre_exec(move || prepare.enter()) };
}

/// Marks all descriptors but the first three to be closed by exec, whoever they are from.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: it changes flags only; no descriptor is closed before exec.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(result)
}

/// Closes all descriptors but those in `kept`, which is sorted. Only for a process that will not use them again.
pub(crate) fn close_others(kept: &[BorrowedFd<'_>]) {
    let mut first: libc::c_uint = 0;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first <= last {
            // SAFETY: the caller, a process made by `fork` below, never uses them again, and ends by `exit`,
            // which runs no destructors.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    for descriptor in kept {
        let number = descriptor.as_raw_fd().unsigned_abs();
        if let Some(last) = number.checked_sub(1) {
            close(first, last);
        }
        first = number + 1;
    }
    close(first, libc::c_uint::MAX);
}

/// Makes `descriptor` the one of that number, open after exec.
pub(crate) fn place(descriptor: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: both numbers are the caller's to say, who reserved `number` before the fork.
    check(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }.into())
}

/// Gives this process an empty session keyring.
pub(crate) fn forget_keys() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: no name is passed, so no memory is read.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    match check(result) {
        // A kernel without keys has none to forget.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Moves this process, which has one thread only, into new namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the only flag that could take descriptors away from other threads is not passed.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Copies this process, which has one thread only: the id of the copy, or none in it.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: a process of one thread may go on in both copies.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        id => Pid::from_raw(id).map(Some).ok_or_else(io::Error::last_os_error),
    }
}

/// Ends this process at once.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: always allowed; it runs no destructor and no exit handler.
    unsafe { libc::_exit(code) }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes set-user-id programs and devices out of a mount's use, and writing if it is to be read only.
pub(crate) fn restrict_mount(mount: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let attributes =
        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the path is an empty C string, the structure outlives the call and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result)
}
