//! Reaping: PID 1 inherits every orphan, and those it started itself are waited for.
//!
//! One lock is held both while reaping and from before a process is started until it is
//! registered, so neither its death nor a failed start can be missed or reaped by the wrong hand.

use std::collections::HashMap;
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::sys::{self, Command, Step};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Tells when a process has ended, to any number of listeners.
pub type Exit = watch::Receiver<Option<Ended>>;

type Waiting = HashMap<i32, watch::Sender<Option<Ended>>>;

static WAITING: LazyLock<Mutex<Waiting>> = LazyLock::new(Mutex::default);

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process whose end will be told.
///
/// # Errors
/// As [`sys::spawn`].
pub(crate) fn spawn(command: &Command) -> Result<(Pid, Exit), (Step, rustix::io::Errno)> {
    let mut waiting = waiting();
    let pid = sys::spawn(command)?;
    let (sender, exit) = watch::channel(None);
    waiting.insert(pid.as_raw_pid(), sender);
    Ok((pid, exit))
}

/// Waits for the end of a process.
pub async fn ended(exit: &mut Exit) -> Ended {
    match exit.wait_for(Option::is_some).await {
        // The registry drops a sender only after it has told the end.
        Ok(end) => end.unwrap_or(Ended::Signal(libc::SIGKILL)),
        Err(_) => Ended::Signal(libc::SIGKILL),
    }
}

/// Reaps whoever has ended. Returns whether any process is left.
pub fn reap() -> bool {
    let mut waiting = waiting();
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let end = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code(code),
                    (None, Some(signal)) => Ended::Signal(signal),
                    (None, None) => continue,
                };
                if let Some(sender) = waiting.remove(&pid.as_raw_pid()) {
                    // No one may care any more.
                    let _ = sender.send(Some(end));
                }
            }
            Ok(None) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Reaps from now on, in a task of the current runtime.
///
/// # Errors
/// If SIGCHLD cannot be watched.
pub fn start() -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            reap();
            if ended.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(())
}
