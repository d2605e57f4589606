//! `viv wait`

use std::time::{Duration, Instant};

use viv_sandbox::Paths;
use viv_sandbox::named::{self, EndReason, Named, State};

use super::Desk;
use super::outcome::{Done, Outcome, each};
use super::targets::{self, Found};
use crate::cli::life::{WaitArguments, WaitFor};
use crate::commands::{block_on, ending_signal};
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::{Printer, human_duration};
use crate::terminal::Signals;

/// Between two looks at what is waited for, where nothing else tells of it.
const GLANCE: Duration = Duration::from_millis(100);

/// Waits until sandboxes have stopped, or run.
///
/// # Errors
/// Names of none or of several; time that is up.
pub fn wait(arguments: &WaitArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    each(&arguments.names, String::as_str, printer, |name| {
        let found = targets::find(name, &desk.paths)?;
        let late = || {
            let after = arguments.timeout.map(human_duration).unwrap_or_default();
            let error = Error::new(ErrorKind::TimedOut, format!("{name} was waited for in vain: {after} are over"));
            Failure::from(error).with_code(exit_code::TIMED_OUT)
        };
        let waited = async {
            let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
            tokio::select! {
                outcome = until(&found, arguments.wanted, &desk.paths) => outcome,
                number = ending_signal(&mut signals) => Err(Failure::quiet(exit_code::of_signal(number))),
                () = at(deadline) => Err(late()),
            }
        };
        block_on(waited)?
    })
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn until(found: &Found, wanted: WaitFor, paths: &Paths) -> Result<Outcome, Failure> {
    match (found, wanted) {
        (Found::Named(named), WaitFor::Stopped) => Ok(stopped(&named::wait(paths, &named.name).await?)),
        (Found::Named(named), WaitFor::Running) => loop {
            let now = named::list(paths)?.into_iter().find(|now| now.name == named.name);
            match now {
                None => return Err(gone(&named.name)),
                Some(now) if now.state == State::Running => return Ok(Outcome::of(&now, Done::Waited, "runs")),
                Some(_) => tokio::time::sleep(GLANCE).await,
            }
        },
        (Found::OfRun(record), wanted) => {
            let name = record.called();
            loop {
                let now = viv_sandbox::list(paths)?.into_iter().find(|now| now.id == record.id);
                match (now, wanted) {
                    (None, WaitFor::Stopped) => return Ok(Outcome::gone(name, Done::Waited, "is gone")),
                    (None, WaitFor::Running) => return Err(gone(name)),
                    (Some(now), WaitFor::Running) if now.state == viv_sandbox::State::Running => {
                        return Ok(Outcome { id: Some(now.id), ..Outcome::gone(name, Done::Waited, "runs") });
                    }
                    (Some(_), _) => tokio::time::sleep(GLANCE).await,
                }
            }
        }
    }
}

fn gone(name: &str) -> Failure {
    Error::new(ErrorKind::NotFound, format!("{name} is gone")).hint("viv ps --all").into()
}

/// How one ended that was waited for.
fn stopped(named: &Named) -> Outcome {
    let Some(ended) = &named.ended else { return Outcome::of(named, Done::Waited, "was never started") };
    let how = match ended.reason {
        EndReason::Stopped => "is stopped",
        EndReason::Killed => "was killed",
        EndReason::PoweredOff => "was switched off from inside",
        EndReason::Interrupted => "was interrupted while it started",
        EndReason::HostRestarted => "ended with the host",
        EndReason::Failed => "failed",
        EndReason::MonitorKilled => "is lost: its monitor was killed",
    };
    let why = ended.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    Outcome { code: ended.reason.exit_code(), ..Outcome::of(named, Done::Waited, format!("{how}{why}")) }
}
