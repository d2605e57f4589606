//! PID 1 of every Vivarium sandbox: mounts, reaping, exec, and the control port.
//!
//! ```text
//!            ┌ fatal: said on the console and in answer to `configure`, then power off
//!  early ── modules ── root ── link ── configure ── exec, exec, ... ── shutdown ── power off
//!  (boot)  (modules)  (boot)  (link)  (configure)      (exec)                (power)
//! ```
//!
//! It never exits and never panics: whatever fails is said on the control port where someone
//! asked, else on the console in lines that begin `viv-guest: `; if it cannot go on it powers the
//! machine off. The runtime has one thread. Everything that waits on a disk while others could be
//! served (keeping file shares in step, carrying trees of files) has a thread of its own.
//!
//! Limits: [`control::MAX_OPERATIONS`] operations at once; per operation two windows of
//! [`viv_proto::STREAM_WINDOW_BYTES`] and a few frames under way.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod accounts;
mod archive;
pub mod boot;
pub mod command_line;
pub mod configure;
pub mod console;
pub mod control;
pub mod error;
pub mod exec;
pub mod file_share;
pub mod files;
pub mod identity;
mod kept;
pub mod layers;
pub mod link;
pub mod modules;
pub mod network;
pub mod power;
pub mod reaper;
pub mod secrets;
pub mod shares;
pub mod status;
mod sys;
mod trace;
mod vsock;
mod writable;

use std::process::ExitCode;
use std::sync::Arc;

/// Whether this process is PID 1.
#[must_use]
pub fn is_init() -> bool {
    rustix::process::getpid().is_init()
}

/// Boots the sandbox and serves it until it is powered off.
pub fn run() -> ExitCode {
    power::power_off_on_panic();
    let booted = boot::boot();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => power::fatal(&format!("cannot start: {error}")),
    };
    let guest = match booted.failure {
        None => control::Guest::new(booted.layers),
        Some(reason) => {
            console::say(&format!("fatal: {reason}"));
            control::Guest::failed(reason)
        }
    };
    runtime.block_on(serve(Arc::new(guest), booted.link))
}

async fn serve(guest: Arc<control::Guest>, link: command_line::LinkKind) -> ! {
    if let Err(error) = reaper::start() {
        power::fatal(&format!("cannot watch for ended processes: {error}"));
    }
    if let Err(error) = power::obey_signals(&guest) {
        power::fatal(&format!("cannot watch for signals: {error}"));
    }
    if guest.failure().is_some() {
        power::off_after_failure();
    }
    let error = link::serve(guest, link).await;
    power::fatal(&format!("the link failed: {error}"))
}
