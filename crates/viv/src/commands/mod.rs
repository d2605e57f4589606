//! What each command does.

pub mod agent;
pub mod attach;
mod attempts;
pub mod audit;
mod bridge;
pub mod clone;
pub mod copy;
mod denials;
pub mod doctor;
mod dry_run;
pub mod exec;
pub mod image;
pub mod init;
pub mod kernel;
mod launch;
pub mod life;
pub mod logs;
pub mod manage;
pub mod net;
mod nix;
mod prepare;
pub mod print;
pub mod review;
pub mod run;
pub mod ssh;
pub mod sync;
pub mod template;
mod transcripts;
pub mod unit;
mod viewer;

use std::future::Future;
use std::time::Duration;

use viv_proto::message::ExitReport;

use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::{Printer, human_duration};
use crate::settings::values::human_bytes;
use crate::terminal::{End, Signals};

/// Runs a future to its end on this thread.
///
/// # Errors
/// The kernel's, if no event loop can be made.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(error::io("cannot start the event loop"))?;
    let result = runtime.block_on(future);
    // Threads blocked on stdin or a stalled stdout are not waited for.
    runtime.shutdown_background();
    Ok(result)
}

/// What the program was limited to, for hints about raising it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Memory, bytes.
    pub memory: u64,
    /// Scratch disk, bytes; none if unknown.
    pub disk: Option<u64>,
    /// Time for the program; none if there is no limit.
    pub timeout: Option<Duration>,
}

/// The next signal that ends a command which has no program to hand it to.
pub async fn ending_signal(signals: &mut Signals) -> i32 {
    loop {
        let number = signals.next().await;
        if matches!(number, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) {
            return number;
        }
    }
}

/// The exit code of a session that ended by itself, or the failure it ended with.
///
/// # Errors
/// A broken link or a full disk under our standard output.
pub fn conclude(end: &End<Failure>, printer: &Printer, limits: Limits) -> Result<u8, Failure> {
    match end {
        End::Exited(report) => {
            explain_exit(report, printer, limits);
            Ok(exit_code::of_program(report.code))
        }
        End::TimedOut => {
            let after = limits.timeout.map(|limit| format!(" after {}", human_duration(limit))).unwrap_or_default();
            printer.warning(&format!("the program was killed{after}"), Some("raise the limit with --timeout"));
            Ok(exit_code::TIMED_OUT)
        }
        End::Detached => Ok(0),
        End::BrokenPipe => Ok(exit_code::BROKEN_PIPE),
        End::Signalled(number) => Ok(exit_code::of_signal(*number)),
        End::OutputFailed(error) => Err(error::io("cannot write standard output")(copy_of(error)).into()),
        End::Disconnected(cause) => {
            let error = Error::new(ErrorKind::SandboxLost, "the sandbox was lost while its program ran");
            Err(match cause {
                Some(cause) => error.source(copy_of(cause)).into(),
                None => error.into(),
            })
        }
        End::Lost(failure) => Err(failure.clone()),
    }
}

/// An [`std::io::Error`] cannot be cloned; its message is what is shown of it.
fn copy_of(error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), error.to_string())
}

/// Says why a program may have ended the way it did, where the guest knows.
fn explain_exit(report: &ExitReport, printer: &Printer, limits: Limits) {
    if report.out_of_memory_kills > 0 {
        printer.warning(
            &format!("the sandbox ran out of memory ({}), and something in it was killed", human_bytes(limits.memory)),
            Some(&format!("raise it with --memory {}", doubled(limits.memory))),
        );
    }
    if report.scratch_full {
        let size = limits.disk.map(|bytes| format!(" ({})", human_bytes(bytes))).unwrap_or_default();
        let hint = limits.disk.map_or_else(|| "--disk".to_owned(), |bytes| format!("--disk {}", doubled(bytes)));
        printer.warning(&format!("the sandbox's disk is full{size}"), Some(&format!("raise it with {hint}")));
    }
}

fn doubled(bytes: u64) -> crate::settings::values::Size {
    let doubled = bytes.saturating_mul(2);
    // A round number of GiB reads best, and is what one would type.
    crate::settings::values::Size(if doubled > 1 << 30 { doubled.next_multiple_of(1 << 30) } else { doubled })
}
