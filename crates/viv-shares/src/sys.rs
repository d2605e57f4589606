//! The system calls that have no safe wrapper: the only unsafe code of this crate.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

/// Adds attributes (`MOUNT_ATTR_*`) to a mount and, if `recursive`, to all below it, and cuts it off from mounts and
/// unmounts made elsewhere. Nothing is ever taken away, so attributes locked by a parent namespace are no obstacle.
pub(crate) fn restrict_mount(mount: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure outlives the call and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result)
}

/// Moves this process, which has one thread only, into new namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the only flag that could take descriptors away from other threads is not passed.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Runs `child` in a copy of this process that has not the descriptors in `closed` and ends with what `child` returns
/// as exit code; gives its process id.
///
/// Only for a process of one thread: the locks another thread holds would stay locked in the copy for ever.
pub(crate) fn fork(closed: &[BorrowedFd<'_>], child: impl FnOnce() -> u8) -> io::Result<Pid> {
    // SAFETY: this process has one thread (the contract of `serve`), so the copy may do whatever it likes.
    match unsafe { libc::fork() } {
        0 => {
            for descriptor in closed {
                // SAFETY: the owner is borrowed for longer than this copy runs: it never uses its descriptor again.
                unsafe { libc::close(descriptor.as_raw_fd()) };
            }
            let code = child();
            // SAFETY: `_exit` is always allowed; it runs no destructor and no exit handler of the original's.
            unsafe { libc::_exit(libc::c_int::from(code)) }
        }
        id => Pid::from_raw(id).ok_or_else(io::Error::last_os_error),
    }
}

/// Ignores a signal from now on, in the processes started later as well.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: ignoring a signal installs no handler, so no code runs in signal context.
    if unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has all threads allocate from one heap. A heap for each costs every start several calls and a few pages, and
/// helps threads that allocate at the same time, which those of the daemon hardly do.
pub(crate) fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number; it may be called at any time.
    unsafe {
        // If it cannot be set, everything works as well.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Applies a seccomp program to this thread and the threads it will start. Needs `no_new_privs`.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, of which the true length is given, and writes to nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(result)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
