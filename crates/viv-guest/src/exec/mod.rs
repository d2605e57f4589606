//! Running a program for the host: started here, its bytes carried by frames.
//!
//! ```text
//!  resolve ── start ── result(Started) ─┬─ frames both ways ── program ended ── drained ── Exit
//!     │         │                       └─ host gone ── SIGHUP ── SIGKILL, for its whole session
//!     └─────────┴── error
//! ```
//!
//! The end of a program is the end of its main process. What is in its pipes by then is still
//! delivered; what others that hold them write afterwards is not. Standard input left open never
//! delays it.

mod environment;
mod pump;
mod resolve;
mod session;
mod start;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use viv_proto::message::{Exec, Started, kind};

use crate::control::{self, Guest};
use crate::reaper::{self, Ended};
pub(crate) use environment::is_valid as is_valid_variable;

/// How long the other side may take to close after the last frame.
const LINGER: Duration = Duration::from_secs(1);

/// Carries out one exec on its connection; `rest` holds what was read beyond the request's line.
pub(crate) async fn run<S>(guest: Arc<Guest>, mut stream: S, rest: Vec<u8>, id: &str, wanted: &Exec)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let started = resolve::resolve(wanted, guest.environment()).and_then(|plan| start::start(&plan));
    let mut program = match started {
        Ok(program) => program,
        Err(refusal) => {
            // If the host is gone there is no one to tell.
            let _ = control::answer_error(&mut stream, id, &refusal).await;
            return control::close(stream, LINGER).await;
        }
    };
    let _running = guest.count_running();
    let answer = Started { pid: program.pid.as_raw_pid().cast_unsigned() };
    let carried = match control::answer_with(&mut stream, id, kind::RESULT, &answer).await {
        Ok(()) => session::carry(&guest, &mut stream, &rest, &mut program).await,
        Err(reason) => Err(reason),
    };
    match carried {
        Ok(()) => control::close(stream, LINGER).await,
        Err(_) => {
            // A host that is gone, or that does not keep to the protocol: nobody is served.
            drop(stream);
            start::end_session(&mut program).await;
        }
    }
}

/// Runs a program of the image for the guest itself, without input; what it says is thrown away. Returns
/// its exit code.
///
/// # Errors
/// If it cannot be started.
pub(crate) async fn run_quietly(wanted: &Exec) -> crate::error::Result<i32> {
    let plan = resolve::resolve(wanted, &BTreeMap::new())?;
    // Its ends of the pipes are closed at once: whoever writes to them all the same is ended by SIGPIPE.
    let exit = start::start(&plan)?.exit;
    Ok(match reaper::ended(&mut { exit }).await {
        Ended::Code(code) => code,
        Ended::Signal(signal) => 128 + signal,
    })
}
