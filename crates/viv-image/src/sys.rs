//! The one place of `unsafe`: what happens between fork and exec of a tool.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

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
