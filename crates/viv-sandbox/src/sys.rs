//! The crate's only unsafe code: taking over descriptors inherited by number, making a tap device, stepping back,
//! and one call between fork and exec.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Takes a descriptor this process inherited under an agreed number. Called once per number, at
/// the start of a hidden entry point, before anything else is opened.
///
/// # Errors
/// If there is no such descriptor: the entry point was started by hand.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_GETFD only looks whether the number is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, as just seen, and by the contract above no one else in this
    // process owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Gives the command's process a session of its own, and with it no terminal: setsid(2).
pub(crate) fn begin_session(command: &mut tokio::process::Command) {
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe (signal-safety(7)) and
    // touches no memory.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
    }
}

/// Makes a tap device of this name, gone with its last descriptor. Each frame has the header of
/// virtio-net in front.
///
/// # Errors
/// The kernel's: it takes root, and a name that is free and at most 15 bytes long.
pub(crate) fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let device = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: a struct ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.bytes().any(|byte| byte == 0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: the kernel reads and writes one struct ifreq, which outlives the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device.into())
}

/// Keeps descriptors from `first` on from the programs this process starts: whoever started it may have
/// left some open that are nobody's business here.
pub(crate) fn keep_descriptors_to_ourselves(first: u32) {
    // SAFETY: marks descriptors, closes none. It fails on kernels before 5.11 alone, which have no such call.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Leaves the processors and disks to everyone else: this thread, and what it starts from now on,
/// runs when nothing else wants to.
///
/// # Errors
/// If the kernel refuses, which sched(7) and ioprio_set(2) give it no reason to.
pub(crate) fn step_back() -> io::Result<()> {
    /// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)` and `IOPRIO_WHO_PROCESS` (linux/ioprio.h).
    const IDLE: libc::c_int = 3 << 13;
    const WHO_PROCESS: libc::c_int = 1;
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one struct sched_param.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes integers only.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
