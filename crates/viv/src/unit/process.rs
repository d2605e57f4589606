//! The process of a unit: it starts the sandbox as its user would, stays as long as the sandbox does, and ends it when it
//! is told to.
//!
//! ```text
//!   viv start NAME ──ended well──► READY=1 ──sandbox ended──► 0 or 1
//!     │ SIGTERM: it is ended         │ SIGTERM: STOPPING=1, the sandbox is stopped ──► 0
//!     └─ failed ──► 1, 78
//! ```
//!
//! The sandbox's monitor is in the unit's control group, so that systemd accounts for it and kills what is left.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use viv_sandbox::Paths;
use viv_sandbox::named::{self, EndReason, Named};

use super::plan::NOT_MENDED_BY_RESTART;
use super::systemd::{Journal, Level, notify};
use crate::commands::life::up;
use crate::commands::{block_on, ending_signal};
use crate::error::{self, Failure};
use crate::output::Printer;
use crate::output::clean::{clean, clean_lines};
use crate::terminal::Signals;

/// The exit code after an end that somebody wished.
const WELL: u8 = 0;

/// The exit code for what another attempt may mend.
const FAILED: u8 = 1;

/// What is read of a line at once, bytes.
const LONGEST_LINE_BYTES: u64 = 16 << 10;

/// Runs the unit of a sandbox to its end, or only prepares for that; everything there is to say is in the journal.
#[must_use]
pub fn run(name: &str, only_prepare: bool, printer: &Printer) -> u8 {
    let journal = Journal::open(name);
    let code = if only_prepare {
        prepare(name, &journal, printer)
    } else {
        block_on(live(name, &journal)).and_then(|code| code)
    };
    code.unwrap_or_else(|failure| {
        let said = failure.report.map(|report| {
            std::iter::once(report.line()).chain(report.hints).map(|line| clean(&line).into_owned()).collect::<Vec<_>>()
        });
        journal.say(Level::Error, &said.unwrap_or_default().join("\n"));
        FAILED
    })
}

/// Outside of what confines the unit: layers of packages are built by programs with more privileges than ours.
fn prepare(name: &str, journal: &Journal, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    // If it is not, that is for the unit's main process to end with: of this one, systemd only looks whether it failed.
    if is_there(name, &paths, journal)? {
        up::prepare(name, printer)?;
    }
    Ok(WELL)
}

/// Whether the sandbox is still known; where it is not, that is said.
fn is_there(name: &str, paths: &Paths, journal: &Journal) -> Result<bool, Failure> {
    match named::find(paths, name) {
        Ok(named) if named.name == name => Ok(true),
        Err(error) if *error.kind() != viv_sandbox::ErrorKind::NotFound => Err(error.into()),
        // Gone, or there is another one now whose name only begins with it.
        _ => {
            journal.say(Level::Error, &format!("there is no sandbox {name}: viv disable {name}"));
            Ok(false)
        }
    }
}

async fn live(name: &str, journal: &Journal) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let mut signals = Signals::listen_to(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .map_err(error::io("cannot listen to signals"))?;
    if !is_there(name, &paths, journal)? {
        return Ok(NOT_MENDED_BY_RESTART);
    }
    let executable = std::env::current_exe().map_err(error::io("cannot find viv's own executable"))?;
    let starting = begin(executable, name, journal)?;
    match starting.end(&mut signals).await? {
        Started::Interrupted => return Ok(WELL),
        Started::Ended(status) if status.success() => {}
        Started::Ended(_) => return Ok(FAILED),
    }
    // Whether it is told or not, the sandbox is up.
    tell(journal, &format!("READY=1\nSTATUS=sandbox {name} is up"));
    tokio::select! {
        ended = named::wait(&paths, name) => {
            let (code, line) = match ended {
                Ok(named) => verdict(&named),
                // Nothing is lost that somebody did not wish to be; the next start says that there is none.
                Err(error) if *error.kind() == viv_sandbox::ErrorKind::NotFound => (WELL, format!("{name} was removed")),
                Err(error) => return Err(error.into()),
            };
            journal.say(if code == WELL { Level::Info } else { Level::Error }, &line);
            Ok(code)
        }
        _ = ending_signal(&mut signals) => {
            tell(journal, "STOPPING=1");
            named::stop(&paths, name).await?;
            journal.say(Level::Info, &format!("{name} is stopped"));
            Ok(WELL)
        }
    }
}

fn tell(journal: &Journal, state: &str) {
    if let Err(error) = notify(state) {
        journal.say(Level::Error, &format!("systemd cannot be told: {error}"));
    }
}

/// The exit code after the sandbox has ended by itself, and what there is to say: only what nobody wished is a failure,
/// which the unit's `Restart=` mends.
fn verdict(named: &Named) -> (u8, String) {
    let Some(ending) = &named.ended else {
        return (WELL, format!("{} has ended", named.name));
    };
    let why = ending.message.as_deref().map(|message| format!(": {}", clean(message))).unwrap_or_default();
    let (code, how) = match ending.reason {
        EndReason::Stopped => (WELL, "was stopped"),
        EndReason::Killed => (WELL, "was killed"),
        EndReason::PoweredOff => (WELL, "was switched off from inside"),
        EndReason::Interrupted => (WELL, "was interrupted while it started"),
        EndReason::HostRestarted => (WELL, "ended with the host"),
        EndReason::Failed => (FAILED, "has failed"),
        EndReason::MonitorKilled => (FAILED, "was lost: its monitor was killed"),
    };
    (code, format!("{} {how}{why}", named.name))
}

/// A `viv start` that is under way.
struct Starting {
    child: Child,
}

enum Started {
    Ended(ExitStatus),
    /// The unit is to end.
    Interrupted,
}

fn begin(executable: PathBuf, name: &str, journal: &Journal) -> Result<Starting, Failure> {
    let mut start = Command::new(executable);
    start.args(["start", name]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // It is this process that systemd asks, not what it starts.
    start.env_remove("NOTIFY_SOCKET");
    let mut child = start.spawn().map_err(error::io("viv cannot be started"))?;
    let stdout = child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>);
    let stderr = child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>);
    for stream in stdout.into_iter().chain(stderr) {
        follow(stream, journal.clone()).map_err(error::io("cannot start a thread"))?;
    }
    Ok(Starting { child })
}

/// Passes on what it says, line by line; a line that does not end is cut.
fn follow(stream: Box<dyn Read + Send>, journal: Journal) -> std::io::Result<()> {
    let pass_on = move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!((&mut stream).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line), Ok(1..)) {
            journal.say(Level::Info, &clean_lines(&String::from_utf8_lossy(&line)));
            line.clear();
        }
    };
    std::thread::Builder::new().name("journal".to_owned()).spawn(pass_on).map(drop)
}

impl Starting {
    /// Waits for its end; a signal ends it, and with it what it has begun.
    async fn end(mut self, signals: &mut Signals) -> Result<Started, Failure> {
        let pid = Pid::from_child(&self.child);
        let waiting = tokio::task::spawn_blocking(move || self.child.wait());
        tokio::pin!(waiting);
        let of_child = |ended: Result<std::io::Result<ExitStatus>, tokio::task::JoinError>| {
            ended
                .map_err(std::io::Error::other)
                .and_then(|status| status)
                .map_err(error::io("cannot wait for viv start"))
        };
        tokio::select! {
            ended = &mut waiting => Ok(Started::Ended(of_child(ended)?)),
            _ = ending_signal(signals) => {
                // It is waited for below, so the number is still its own.
                let _ = kill_process(pid, Signal::TERM);
                of_child(waiting.await)?;
                Ok(Started::Interrupted)
            }
        }
    }
}
