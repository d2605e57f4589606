//! The process around an [`Egress`]: cannot be dumped or traced, and has nothing open that it does not need.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use viv_error::Report;
use zeroize::Zeroizing;

use super::resolve::LOOKUPS;
use super::{Egress, HostResolver};
use crate::error::{Error, ErrorKind, Result};
use crate::gateway::Gateway;
use crate::log::EventLog;
use crate::spec::{EgressSpec, KEYS_DESCRIPTOR, Keys, LISTENER_DESCRIPTOR, SPEC_DESCRIPTOR};
use crate::sys;

/// The longest specification, and the longest keys.
const MAX_INPUT_BYTES: u64 = 4 * 1024 * 1024;

/// The hidden entry point `viv internal-egress`: serves until SIGTERM, with the descriptors of [`crate::spec`].
///
/// What keeps it from starting is written to standard error as a [`Report`] in one line of JSON.
#[must_use]
pub fn egress_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let report = serde_json::to_string(&Report::from(&error)).unwrap_or_default();
            // Without anyone to tell, the exit code says it.
            let _ = writeln!(io::stderr(), "{report}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let first_not_ours = LISTENER_DESCRIPTOR.max(SPEC_DESCRIPTOR).max(KEYS_DESCRIPTOR) + 1;
    sys::close_descriptors(first_not_ours.unsigned_abs());
    let listener = inherited(LISTENER_DESCRIPTOR, "the listening socket")?;
    let spec = inherited(SPEC_DESCRIPTOR, "the specification")?;
    let keys = inherited(KEYS_DESCRIPTOR, "the keys")?;
    confine()?;
    let spec: EgressSpec = read_input(spec, "the egress's specification")?
        .ok_or_else(|| Error::new(ErrorKind::Specification, "the egress's specification is empty"))?;
    let keys: Keys = read_input(keys, "the egress's keys")?.unwrap_or_default();
    let log = EventLog::open(&spec.directory)?;
    let served = serve(&spec, keys, listener, &log);
    log.finish();
    served
}

fn serve(spec: &EgressSpec, keys: Keys, listener: OwnedFd, log: &EventLog) -> Result<()> {
    let failed = |error: io::Error| Error::new(ErrorKind::Serve, "the egress cannot serve").source(error);
    let gateway =
        spec.gateway.as_ref().map(|gateway| Gateway::start(gateway, keys, &spec.directory, log.sink())).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUPS)
        .build()
        .map_err(failed)?;
    let served = runtime.block_on(async {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
        let egress = Egress::new(spec, Arc::new(HostResolver::default()), gateway, log.sink());
        tokio::select! {
            () = egress.serve(listener) => {}
            _ = terminated.recv() => {}
        }
        Ok(())
    });
    // A lookup may be stuck in the host's resolver; nothing of it is waited for.
    runtime.shutdown_background();
    served
}

/// No core dump, no tracer, no new rights, and as many descriptors as there may be.
fn confine() -> Result<()> {
    let failed =
        |error| Error::new(ErrorKind::Serve, "the egress cannot confine itself").source(io::Error::from(error));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    rustix::thread::set_no_new_privs(true).map_err(failed)?;
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }).map_err(failed)
}

fn inherited(number: i32, what: &str) -> Result<OwnedFd> {
    sys::inherited(number).map_err(|error| {
        Error::new(ErrorKind::Specification, format!("descriptor {number} is not {what}")).source(error)
    })
}

/// Reads a document; `None` for an empty file. Its text may be secret, and is wiped.
fn read_input<T: DeserializeOwned>(file: OwnedFd, what: &str) -> Result<Option<T>> {
    let unreadable = || Error::new(ErrorKind::Specification, format!("{what} cannot be read"));
    let mut file = File::from(file);
    // Grown while it is read, a buffer would leave copies behind.
    let expected = file.metadata().map_or(0, |metadata| metadata.len()).min(MAX_INPUT_BYTES);
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(expected).unwrap_or(0) + 1));
    let read = (&mut file).take(MAX_INPUT_BYTES + 1).read_to_end(&mut text);
    let bytes = read.map_err(|error| unreadable().source(error))? as u64;
    if bytes > MAX_INPUT_BYTES {
        return Err(unreadable().hint(format!("it may have {MAX_INPUT_BYTES} bytes")));
    }
    if text.is_empty() {
        return Ok(None);
    }
    // The parser's error could quote a secret.
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Error::new(ErrorKind::Specification, format!("{what} cannot be read at {place}"))
    })
}
