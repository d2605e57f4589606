//! The monitor: the process that owns a sandbox.
//!
//! ```text
//!            start line          all started            configured
//!  (nothing) ─────────► starting ───────────► coming up ──────────► running
//!                          │  ▲                  │                     │  client gone, STOP, KILL,
//!                          │  └── from template, │ error, deadline     │  VMM or file daemon ended
//!                    error │      error: cold    │                     │
//!                          ▼                     ▼                     ▼
//!                        ended ◄──────────────────────────────────── stopping
//! ```
//!
//! One thread runs everything but [`sessions`], because the kernel ties a child's fate to the thread that
//! started it (prctl(2), `PR_SET_PDEATHSIG`).

pub(crate) mod attempt;
mod audit;
pub(crate) mod children;
mod clock;
pub(crate) mod egress;
pub(crate) mod life;
mod link;
mod names;
mod network;
mod network_device;
mod publish;
mod server;
pub(crate) mod sessions;
pub(crate) mod stall;
mod tap;
mod tapped;

#[doc(hidden)]
pub use sessions::screen::any_output as any_terminal_output;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use crate::sys::{inherited, keep_descriptors_to_ourselves};
use crate::wire::MONITOR_DESCRIPTOR;

pub use audit::{FilesAtEnd, logs_for_audit};

/// Where the file daemon is told how to serve and what, in its process.
const FILE_DAEMON_INPUT: i32 = 5;

/// The file daemon's listening socket, in its process.
const FILE_DAEMON_LISTENER: i32 = 3;

/// Where the file daemon says that it is ready.
const FILE_DAEMON_READY: i32 = 4;

/// The monitor's entry point: `viv internal-monitor`, started by a client with a socket as
/// descriptor 3. `files_at_end` is asked once the machine is gone.
#[must_use]
pub fn monitor_main(files_at_end: FilesAtEnd) -> ExitCode {
    let Ok(socket) = inherited(MONITOR_DESCRIPTOR) else {
        return ExitCode::from(125);
    };
    keep_descriptors_to_ourselves(MONITOR_DESCRIPTOR.cast_unsigned() + 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(runtime), Ok(())) = (runtime, rustix::io::ioctl_fionbio(&socket, true)) else {
        return ExitCode::from(125);
    };
    runtime.block_on(async {
        match tokio::net::UnixStream::from_std(socket.into()) {
            Ok(client) => life::run(client, files_at_end, async |_: &_| None).await,
            Err(_) => ExitCode::from(125),
        }
    })
}

/// The file daemon's entry point: `viv internal-file-daemon`, started by a monitor with three
/// descriptors beyond the standard ones.
#[must_use]
pub fn file_daemon_main() -> ExitCode {
    let serve = || -> Result<(), ()> {
        let listener: OwnedFd = inherited(FILE_DAEMON_LISTENER).map_err(drop)?;
        let ready = inherited(FILE_DAEMON_READY).map_err(drop)?;
        let input = inherited(FILE_DAEMON_INPUT).map_err(drop)?;
        // The error is told through `ready`, or seen by the VMM as a closed connection.
        viv_shares::serve(input, listener, ready).map_err(drop)
    };
    serve().map_or(ExitCode::from(125), |()| ExitCode::SUCCESS)
}
