//! The one place for `unsafe`: questions to the kernel that no safe wrapper asks.
#![allow(unsafe_code)]

use std::io;

use rustix::thread::UnshareFlags;

/// Whether this process was started with a signal ignored, as `nohup` and background jobs of
/// simple shells are. Such a signal must stay ignored.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `action` is valid for writes of a sigaction, and
    // all-zeroes is a valid value of it should the call fail.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Moves this process into a new user and mount namespace.
///
/// # Errors
/// The kernel's, where namespaces are switched off or used up.
pub fn unshare_user_and_mounts() -> io::Result<()> {
    // SAFETY: neither flag unshares the file descriptor table, which is what would break
    // assumptions of safe code; the caller is single-threaded and exits right afterwards.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
    Ok(())
}
