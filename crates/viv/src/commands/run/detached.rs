//! `viv run --detach`: a sandbox that is left to itself once its program runs.

use std::time::Instant;

use viv_sandbox::{Event, NewSession, SandboxSpec};

use super::{failure_of_exec, set_up};
use crate::commands::denials::Denials;
use crate::commands::launch::{self, Launch};
use crate::commands::review::Recording;
use crate::commands::{Limits, conclude, ending_signal};
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::{JsonEvent, Printer, milliseconds, print};
use crate::resolve::Resolved;
use crate::terminal::{self, Signals};
use crate::timing::Clock;

/// Refuses what somebody would have to be there for.
///
/// # Errors
/// A copy of the workspace: what becomes of it is taken before its sandbox goes.
pub(super) fn check(spec: &SandboxSpec) -> Result<(), Error> {
    if spec.workspace_mode.is_live() {
        return Ok(());
    }
    let message = "a sandbox that works on a copy is not left to itself: it would be gone with its work";
    Err(Error::new(ErrorKind::Usage, message)
        .hint("a sandbox that stays: workspace-mode = \"clone\" in viv.toml, and viv up"))
}

/// Starts the sandbox and its program, prints the sandbox's id, and lets go of both. What runs before the
/// program is waited for. Returns `viv`'s exit code, which is another than 0 if that went wrong.
///
/// # Errors
/// Whatever keeps the program from running.
pub(super) async fn run(
    mut launch: Launch,
    deploy_key: bool,
    base: Option<Recording>,
    printer: &Printer,
    clock: &mut Clock,
) -> Result<u8, Failure> {
    launch.outlive_us()?;
    // What the machine is made from stays where it is until its monitor holds it.
    let Launch { resolved, mut request, secrets, mut later, held: _held, .. } = launch;
    request.detached = true;
    let Resolved { exec, setup, timeout, .. } = resolved;
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    let spec = &request.plan.spec;
    let id = spec.id.clone();
    let limits = Limits { memory: spec.memory_mib << 20, disk: Some(spec.disk_bytes), timeout };
    let paths = request.paths.clone();
    let began = Instant::now();
    let on_event = |event: &Event| launch::tell(event, &id, began.elapsed(), printer, clock, &mut later);
    let mut sandbox = tokio::select! {
        started = viv_sandbox::start(request, on_event) => started?,
        // Dropping a start that is under way ends all of it, and so does dropping what has started.
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    launch::hand_over(&sandbox, &secrets, deploy_key, printer).await?;
    drop(secrets);
    if let Some(base) = base {
        tokio::select! {
            () = base.finish(printer) => {}
            number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
        }
    }
    let denials = Denials::new(&paths, &id, printer);
    let prepared = tokio::select! {
        prepared = set_up(&mut sandbox, &setup, &exec, &mut signals, printer) => prepared?,
        never = denials.watch() => match never {},
    };
    denials.show_rest();
    if let Some(end) = prepared {
        sandbox.stop().await?;
        return conclude(&end, printer, limits);
    }
    let size = if terminal::wanted() { Some(terminal::size()) } else { exec.terminal };
    let new = NewSession {
        exec: viv_proto::message::Exec { terminal: size, ..exec },
        name: None,
        size_policy: viv_sandbox::SizePolicy::default(),
        ends_sandbox: true,
        timeout_ms: timeout.map(milliseconds),
        viewing: None,
    };
    let session = tokio::select! {
        connection = sandbox.new_session(new) => connection.map_err(failure_of_exec)?.session,
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    // A program that has ended already has taken the sandbox with it.
    let _ = sandbox.detach().await;
    later.begin();
    printer.event(&JsonEvent::Detached { id: &id, session: session.number });
    print(&format!("{id}\n"))?;
    Ok(0)
}
