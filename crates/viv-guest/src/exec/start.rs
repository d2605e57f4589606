//! Starting a program on a terminal or on three pipes, and ending all that belongs to it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use viv_proto::message::{FailureKind, TerminalSize};

use super::resolve::Plan;
use crate::error::{Context, Result, error};
use crate::reaper::{self, Exit};
use crate::sys::{self, Command, Step};

/// The group that may write to terminals.
const TTY_GROUP: u32 = 5;

/// How long a program whose host is gone has between SIGHUP and SIGKILL.
const HANG_UP_GRACE: Duration = Duration::from_millis(500);

/// One end of a pipe, or a terminal's master.
pub(super) type Io = Arc<AsyncFd<OwnedFd>>;

/// A running program.
pub(super) struct Program {
    /// Its main process, whose session and first process group have the same number.
    pub pid: Pid,
    pub exit: Exit,
    /// Taken by whoever feeds it: a pipe ends once no one holds it.
    pub stdin: Option<Io>,
    /// The terminal, if there is one.
    pub stdout: Io,
    /// Absent with a terminal.
    pub stderr: Option<Io>,
    pub terminal: bool,
}

/// Starts it.
///
/// # Errors
/// With the kinds the exit codes of shells are made of.
pub(super) fn start(plan: &Plan) -> Result<Program> {
    match plan.terminal {
        Some(size) => start_on_terminal(plan, size),
        None => start_on_pipes(plan),
    }
}

fn start_on_terminal(plan: &Plan, size: TerminalSize) -> Result<Program> {
    let cannot = || "cannot make a terminal".to_owned();
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context(cannot)?;
    rustix::pty::unlockpt(&master).context(cannot)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(cannot)?;
    rustix::termios::tcsetwinsize(&master, window(size.columns, size.rows)).context(cannot)?;
    let mut modes = rustix::termios::tcgetattr(&slave).context(cannot)?;
    // Erasing takes away a character, not a byte.
    modes.input_modes |= InputModes::IUTF8;
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes).context(cannot)?;
    if rustix::process::geteuid().is_root() {
        let owner = rustix::fs::Uid::from_raw(plan.credentials.uid);
        rustix::fs::fchown(&slave, Some(owner), Some(rustix::fs::Gid::from_raw(TTY_GROUP))).context(cannot)?;
    }
    rustix::io::ioctl_fionbio(&master, true).context(cannot)?;
    let copy = || rustix::io::fcntl_dupfd_cloexec(&slave, 3).context(cannot);
    let (pid, exit) = spawn(plan, [copy()?, copy()?, copy()?], true)?;
    // From here on only the program holds the terminal: its end must be seen.
    drop(slave);
    let master = Arc::new(sys::watch(master, Interest::READABLE | Interest::WRITABLE).context(cannot)?);
    Ok(Program { pid, exit, stdin: Some(Arc::clone(&master)), stdout: master, stderr: None, terminal: true })
}

fn start_on_pipes(plan: &Plan) -> Result<Program> {
    let cannot = || "cannot make a pipe".to_owned();
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(cannot);
    let ours = |end: OwnedFd, interest| {
        rustix::fs::fcntl_setfl(&end, OFlags::NONBLOCK).context(cannot)?;
        Ok(Arc::new(sys::watch(end, interest).context(cannot)?))
    };
    let (stdin_theirs, stdin) = pipe()?;
    let (stdout, stdout_theirs) = pipe()?;
    let (stderr, stderr_theirs) = pipe()?;
    let stdin = ours(stdin, Interest::WRITABLE)?;
    let stdout = ours(stdout, Interest::READABLE)?;
    let stderr = ours(stderr, Interest::READABLE)?;
    let (pid, exit) = spawn(plan, [stdin_theirs, stdout_theirs, stderr_theirs], false)?;
    Ok(Program { pid, exit, stdin: Some(stdin), stdout, stderr: Some(stderr), terminal: false })
}

fn spawn(plan: &Plan, stdio: [OwnedFd; 3], terminal: bool) -> Result<(Pid, Exit)> {
    let command = Command {
        program: plan.program.clone(),
        arguments: plan.arguments.clone(),
        environment: plan.environment.clone(),
        directory: plan.directory.clone(),
        // Outside a sandbox (in tests) an ordinary user can only be itself.
        credentials: rustix::process::geteuid().is_root().then(|| plan.credentials.clone()),
        stdio,
        terminal,
    };
    reaper::spawn(&command).map_err(|(step, reason)| {
        let (kind, message) = match (step, reason) {
            (Step::Prepare, _) => (FailureKind::Internal, "cannot start a process".to_owned()),
            (Step::Directory, _) => {
                (FailureKind::BadDirectory, format!("cannot enter {}", plan.directory.to_string_lossy()))
            }
            // It was there a moment ago: what is missing is the interpreter of its first line.
            (Step::Execute, Errno::NOENT) => {
                (FailureKind::NotExecutable, format!("{}: its interpreter does not exist", plan.name))
            }
            (Step::Execute, Errno::NOMEM | Errno::AGAIN | Errno::NFILE | Errno::IO | Errno::TOOBIG) => {
                (FailureKind::Internal, format!("cannot execute {}", plan.name))
            }
            (Step::Execute, _) => (FailureKind::NotExecutable, format!("cannot execute {}", plan.name)),
        };
        error(kind, message).source(io::Error::from(reason))
    })
}

fn window(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Program {
    /// The terminal's window has another size; without a terminal nothing.
    pub(super) fn resize(&self, columns: u16, rows: u16) {
        if self.terminal {
            // It may have been hung up.
            let _ = rustix::termios::tcsetwinsize(self.stdout.get_ref(), window(columns, rows));
        }
    }

    /// Sends a signal: to the terminal's foreground process group if there is one, else to the
    /// program's own.
    pub(super) fn signal(&self, number: u8) {
        let own = self.pid.as_raw_pid();
        let group = if self.terminal {
            rustix::termios::tcgetpgrp(self.stdout.get_ref()).map_or(own, Pid::as_raw_pid)
        } else {
            own
        };
        // It may have ended.
        let _ = sys::kill(-group, i32::from(number));
    }
}

/// Ends a program and whatever else runs in its session, politely first.
pub(super) async fn end_session(program: &mut Program) {
    let session = program.pid;
    if signal_session(session, &[libc::SIGHUP, libc::SIGCONT]) {
        // Either it ends in time, or it is ended.
        let _ = tokio::time::timeout(HANG_UP_GRACE, reaper::ended(&mut program.exit)).await;
        signal_session(session, &[libc::SIGKILL]);
    }
}

/// Sends signals to every process of a session. Returns whether there was any.
fn signal_session(session: Pid, signals: &[i32]) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let mut found = false;
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if sys::session_of(pid) == session.as_raw_pid() {
            found = true;
            for &signal in signals {
                let _ = sys::kill(pid, signal);
            }
        }
    }
    found
}
