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

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use viv_proto::message::{Exec, Started, kind};

use crate::control::{self, Guest};

/// How long the other side may take to close after the last frame.
const LINGER: Duration = Duration::from_secs(1);

/// Carries out one exec on its connection; `rest` holds what was read beyond the request's line.
pub(crate) async fn run<S>(guest: Arc<Guest>, mut stream: S, rest: Vec<u8>, id: &str, wanted: &Exec)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let started = resolve::resolve(wanted).and_then(|plan| start::start(&plan));
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
