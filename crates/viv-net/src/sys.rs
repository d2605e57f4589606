//! The crate's only unsafe code: descriptors inherited by number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

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

/// Closes every descriptor from `first` on: whoever started this process may have left some open that
/// are nobody's business here. Called before anything is opened.
pub(crate) fn close_descriptors(first: u32) {
    // SAFETY: by the contract above no value of this process owns one of them. It fails on kernels
    // before 5.9 alone, which have no such call.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}
