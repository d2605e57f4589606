//! `viv run`

mod detached;

use std::io::{IsTerminal, Read};
use std::time::{Duration, Instant, SystemTime};

use viv_proto::message::Exec;
use viv_sandbox::{Event, NetworkSpec, Paths, Sandbox, SandboxSpec};

use super::denials::Denials;
use super::dry_run::dry_run;
use super::launch::{self, Later, Launch, Wish};
use super::prepare::Asked;
use super::review::Recording;
use super::{Limits, attempts, block_on, clone, conclude, ending_signal};
use crate::agent::{AgentCall, Surroundings, about_program};
use crate::ci::{self, Ci};
use crate::cli::RunArguments;
use crate::devcontainer::SetupCommand;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, Failure};
use crate::exit_code;
use crate::output::{JsonEvent, Printer, Timings, milliseconds, shell_words};
use crate::resolve::Resolved;
use crate::terminal::{self, Descriptor, End, Session, SessionOptions, Signals, Streams};
use crate::timing::Clock;

/// Runs a program in a fresh sandbox and returns its exit code.
///
/// # Errors
/// Whatever keeps the program from running to its end.
pub fn run(arguments: &RunArguments, printer: &Printer) -> Result<u8, Failure> {
    match arguments.attempts.attempts {
        Some(number) => attempts::run(arguments, number, printer),
        None => run_with(arguments, printer, &|_| Ok(())).map(|(code, _)| code),
    }
}

/// The same with a change to its network; also returns the sandbox's id.
///
/// # Errors
/// As [`run`], and those of the change.
pub fn run_with(
    arguments: &RunArguments,
    printer: &Printer,
    change: &dyn Fn(&mut NetworkSpec) -> Result<(), Error>,
) -> Result<(u8, String), Failure> {
    let began = Instant::now();
    let mut clock = Clock::start();
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let agent = AgentCall::of(arguments, &paths, Surroundings::probe(arguments.json || arguments.ci.ci))?;
    let asked = Asked {
        command_line: arguments.layer(&host.directory),
        weakest: agent.as_ref().map(|agent| agent.layer(&host)).unwrap_or_default(),
        // Nobody may be there to see it, and yet someone may come.
        terminal: arguments.detach
            || !arguments.ci.ci && agent.as_ref().map_or_else(terminal::wanted, AgentCall::at_terminal),
        ..Asked::default()
    };
    let wish = Wish {
        workspace: arguments.workspace.directory()?,
        asked,
        command: &arguments.command,
        entrypoint: arguments.entrypoint.as_ref().map(|entrypoint| entrypoint.0.clone()),
        agent,
        i_know: arguments.i_know,
        change,
    };
    let mut settled = launch::settle(wish, &host, &paths)?;
    ci::apply(&arguments.ci, &mut settled.resolved);
    if arguments.dry_run {
        return dry_run(&mut settled.resolved, None, &paths, arguments.json)
            .map(|code| (code, settled.resolved.sandbox.id));
    }
    let sandbox = settled.resolved.sandbox.clone();
    let id = sandbox.id.clone();
    let base_of = |spec: &SandboxSpec| if arguments.no_review { None } else { Recording::of_live(&paths.state, spec) };
    if arguments.detach {
        detached::check(&sandbox)?;
        let launch = settled.make_ready(&host, &paths, printer, &mut clock)?;
        let (deploy_key, base) = (arguments.network.deploy_key, base_of(&launch.resolved.sandbox));
        let code = block_on(detached::run(launch, deploy_key, base, printer, &mut clock))??;
        return Ok((code, id));
    }
    let ci = Ci::prepare(&arguments.ci, &settled.resolved.sandbox, &host)?;
    // At a terminal, nobody of a pipeline types.
    let takes_input = settled.takes_input() && !(ci.is_some() && std::io::stdin().is_terminal());
    if let Some(pipeline) = printer.pipeline() {
        pipeline.begin_group(&format!("viv run {}", shell_words(&arguments.command)));
    }
    let ran = settled.make_ready(&host, &paths, printer, &mut clock).and_then(|launch| {
        printer.timing("kernel and image are there", began.elapsed());
        let base = base_of(&launch.resolved.sandbox);
        let program = Program { takes_input, deploy_key: arguments.network.deploy_key, base, began };
        block_on(run_in_sandbox(launch, program, printer, &mut clock))?
    });
    if arguments.timing {
        clock.show(printer, ran.is_ok());
    }
    let ran = ran.map_err(|failure| match arguments.command.first() {
        Some(program) if failure.code == exit_code::NOT_FOUND => about_program(program, &paths, failure),
        _ => failure,
    });
    if let Some(ci) = ci {
        let outcome = ci::Outcome {
            id: &id,
            command: &arguments.command,
            exit_code: ran.as_ref().map_or_else(|failure| failure.code, |ran| ran.exit_code),
            signal: ran.as_ref().ok().and_then(|ran| ran.signal),
            timed_out: ran.as_ref().is_ok_and(|ran| ran.timed_out),
            timings: ran.as_ref().ok().map(|ran| ran.timings),
            error: ran.as_ref().err().and_then(|failure| failure.report.as_ref()),
        };
        ci.collect(&outcome, &sandbox, &paths, printer)?;
        if let (Some(pipeline), Ok(Ran { exit_code: 1.., .. })) = (printer.pipeline(), &ran) {
            pipeline.program_failed(&shell_words(&arguments.command), outcome.exit_code);
        }
    }
    let Ran { exit_code, signal, timed_out, timings } = ran?;
    printer.event(&JsonEvent::Result { id: &id, exit_code, signal, timed_out, timings });
    Ok((exit_code, id))
}

/// How the program is run.
struct Program {
    /// Whether what comes in here is its input; else it has none.
    takes_input: bool,
    /// Whether it finds a key pair of its own in /run/secrets.
    deploy_key: bool,
    /// What the workspace has is being kept, before any program runs.
    base: Option<Recording>,
    /// When viv was started.
    began: Instant,
}

/// What came of it.
struct Ran {
    exit_code: u8,
    signal: Option<i32>,
    timed_out: bool,
    timings: Timings,
}

/// Starts the sandbox, runs the program, stops the sandbox.
async fn run_in_sandbox(
    launch: Launch,
    program: Program,
    printer: &Printer,
    clock: &mut Clock,
) -> Result<Ran, Failure> {
    let Program { takes_input, deploy_key, base, began } = program;
    // What the machine is made from stays where it is until it is gone.
    let Launch { resolved, request: start, secrets, repository, mut later, held: _held } = launch;
    let Resolved { mut exec, setup, timeout, sandbox: spec, .. } = resolved;
    let mut timings = Timings { prepare_ms: milliseconds(began.elapsed()), ..Timings::default() };
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    let at_terminal = exec.terminal.is_some();
    if at_terminal {
        signals.listen_to_terminal().map_err(error::io("cannot listen to signals"))?;
        // A size that changes from here on is told to the program as it runs.
        exec.terminal = Some(terminal::size());
    }
    let id = spec.id.clone();
    let limits = Limits { memory: spec.memory_mib << 20, disk: Some(spec.disk_bytes), timeout };
    let paths = start.paths.clone();

    let (started, start_began) = (SystemTime::now(), Instant::now());
    let on_event = |event: &Event| launch::tell(event, &id, start_began.elapsed(), printer, clock, &mut later);
    let mut sandbox = tokio::select! {
        started = viv_sandbox::start(start, on_event) => started?,
        // Dropping a start that is under way ends all of it.
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    timings.start_ms = milliseconds(start_began.elapsed());
    printer.timing("the sandbox is up", start_began.elapsed());
    clock.mark("ready");
    if let Some(base) = base {
        tokio::select! {
            () = base.finish(printer) => {}
            number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
        }
        clock.mark("base");
    }
    launch::hand_over(&sandbox, &secrets, deploy_key, printer).await?;
    let copy = tokio::select! {
        copy = clone::begin(&sandbox, &spec, repository, &paths, printer) => copy?,
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    drop(secrets);
    let denials = Denials::new(&paths, &id, printer);

    let program_began = Instant::now();
    let options = SessionOptions { terminal: at_terminal, timeout, detach: None };
    let input: Box<dyn Read + Send> =
        if takes_input { Box::new(Descriptor::stdin()) } else { Box::new(std::io::empty()) };
    if let Some(pipeline) = printer.pipeline() {
        pipeline.end_group();
        pipeline.begin_untrusted(viv_sandbox::new_token());
    }
    let outcome = {
        let running = async {
            tokio::select! {
                outcome = async {
                    if let Some(end) = set_up(&mut sandbox, &setup, &exec, &mut signals, printer).await? {
                        return Ok((end, None));
                    }
                    run_program(&mut sandbox, &exec, input, options, &mut signals, printer, clock).await
                } => outcome,
                never = denials.watch() => match never {},
            }
        };
        tokio::pin!(running);
        tokio::select! {
            outcome = &mut running => outcome,
            () = tokio::time::sleep(Later::DELAY) => {
                later.begin();
                running.await
            }
        }
    };
    if let Some(pipeline) = printer.pipeline() {
        pipeline.end_untrusted();
    }
    timings.program_ms = milliseconds(program_began.elapsed());
    clock.mark(if outcome.is_ok() { "program ended" } else { "program refused" });

    let taken = match &copy {
        // A sandbox that is lost has taken its copy along.
        Some(copy) if !matches!(outcome, Err(_) | Ok((End::Lost(_) | End::Disconnected(_), _))) => tokio::select! {
            taken = clone::finish(copy, &spec, started, &paths, printer) => taken,
            number = ending_signal(&mut signals) => Err(Failure::quiet(exit_code::of_signal(number))),
        },
        _ => Ok(()),
    };
    if let Some(copy) = &copy {
        copy.forget();
    }

    let stop_began = Instant::now();
    let settled = matches!(&outcome, Ok((End::Exited(report), _)) if report.settled);
    let mut stopped = stop(sandbox, settled, &mut signals).await;
    if matches!(outcome, Ok((End::Lost(_) | End::Disconnected(_), _))) {
        // There was little left to stop, and why is the error to show. What a killed monitor
        // left behind is removed by a look at it.
        let _ = viv_sandbox::list(&paths);
        stopped = Ok(());
    }
    timings.stop_ms = milliseconds(stop_began.elapsed());
    timings.total_ms = milliseconds(began.elapsed());
    printer.timing("the sandbox is gone", stop_began.elapsed());
    clock.mark("stopped");
    denials.show_rest();
    later.begin();

    let (end, first_output) = outcome?;
    timings.first_output_ms = first_output;
    let code = conclude(&end, printer, limits)?;
    if let Err(failure) = taken.and(stopped) {
        if failure.report.is_none() {
            return Err(failure);
        }
        // The program's own exit code stands; what may be missing on disk has to be said.
        printer.failure(&failure);
        if code == 0 {
            return Err(Failure::quiet(exit_code::VIV_FAILED));
        }
    }
    let signal = if let End::Exited(report) = &end { report.signal } else { None };
    let timed_out = matches!(end, End::TimedOut);
    Ok(Ran { exit_code: code, signal, timed_out, timings })
}

/// Runs what comes before the program, its output on standard error; how that ended if the program is not
/// to run any more.
///
/// # Errors
/// A command that cannot be started.
pub async fn set_up(
    sandbox: &mut Sandbox,
    setup: &[SetupCommand],
    exec: &Exec,
    signals: &mut Signals,
    printer: &Printer,
) -> Result<Option<End<Failure>>, Failure> {
    for command in setup {
        launch::announce(&command.name, &command.argv, printer);
        let program = launch::aside(exec, &command.argv);
        // Both look at the sandbox, one after the other.
        let started = tokio::select! {
            started = sandbox.exec(&program) => started.map_err(failure_of_exec)?,
            number = ending_signal(signals) => return Ok(Some(End::Signalled(number))),
        };
        let lost = async { Failure::from(sandbox.ended().await) };
        let end = launch::finish_aside(started, lost, signals, printer).await?;
        match end {
            End::Exited(report) if report.code == 0 => {}
            End::Exited(report) => {
                let message = format!("{} of devcontainer.json ended with exit code {}", command.name, report.code);
                printer.warning(&message, Some("the program was not run; --devcontainer=false goes without"));
                return Ok(Some(End::Exited(report)));
            }
            other => return Ok(Some(other)),
        }
    }
    Ok(None)
}

/// Runs the program to the session's end. Returns that and when its first output came.
///
/// # Errors
/// A program that cannot be started.
pub async fn run_program(
    sandbox: &mut Sandbox,
    exec: &Exec,
    stdin: Box<dyn Read + Send>,
    options: SessionOptions,
    signals: &mut Signals,
    printer: &Printer,
    clock: &mut Clock,
) -> Result<(End<Failure>, Option<u64>), Failure> {
    let started = tokio::select! {
        started = sandbox.exec(exec) => started.map_err(failure_of_exec)?,
        number = ending_signal(signals) => return Ok((End::Signalled(number), None)),
    };
    clock.mark("program started");
    let (stdout, stderr) = printer.program_streams();
    let streams = Streams { stdin, stdout, stderr };
    let session = Session::begin(started.writer, streams, options).map_err(error::io("cannot use the terminal"))?;
    let (mut end, summary) = session.run(started.reader, signals, async { Failure::from(sandbox.ended().await) }).await;
    printer.note_unfinished_line(summary.stderr_unfinished);
    if let End::Disconnected(_) = end {
        // The link goes first; the monitor knows why.
        if let Ok(cause) = tokio::time::timeout(Duration::from_secs(3), sandbox.ended()).await {
            end = End::Lost(cause.into());
        }
    }
    if let Some(after) = summary.first_output {
        clock.mark_later("first output", after);
    }
    Ok((end, summary.first_output.map(milliseconds)))
}

/// Stops the sandbox. Who is in a hurry interrupts; the monitor then ends without us.
async fn stop(sandbox: Sandbox, settled: bool, signals: &mut Signals) -> Result<(), Failure> {
    let ended = async { if settled { sandbox.end().await } else { sandbox.stop().await } };
    tokio::select! {
        stopped = ended => Ok(stopped?),
        number = ending_signal(signals) => Err(Failure::quiet(exit_code::of_signal(number))),
    }
}

/// A program that could not be started has an exit code of its own.
#[must_use]
pub fn failure_of_exec(error: viv_sandbox::Error) -> Failure {
    let code = match error.kind() {
        viv_sandbox::ErrorKind::ProgramNotFound => exit_code::NOT_FOUND,
        viv_sandbox::ErrorKind::ProgramNotExecutable => exit_code::NOT_EXECUTABLE,
        _ => exit_code::VIV_FAILED,
    };
    Failure::from(error).with_code(code)
}
