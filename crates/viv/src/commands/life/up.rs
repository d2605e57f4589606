//! `viv up`, `viv start`, `viv restart`: from a description to a sandbox that stays.

use std::time::{Duration, Instant, UNIX_EPOCH};

use viv_image::nix::NixEnvironment;
use viv_proto::message::Exec;
use viv_sandbox::named::{self, Fresh, Named, NewNamed, State};
use viv_sandbox::{Event, NetworkMode, Paths, TemplateUse, Warning};

use super::choice::Verb;
use super::outcome::{Done, Outcome, each};
use super::targets::{self, Target};
use super::{Desk, Programs, machine};
use crate::agent::AgentCall;
use crate::cli::life::{RestartArguments, StartArguments, StartOptions, UpArguments};
use crate::commands::denials::Denials;
use crate::commands::dry_run::dry_run;
use crate::commands::launch::{self, Launch, Settled, Wish};
use crate::commands::prepare::Asked;
use crate::commands::review::Recording;
use crate::commands::run::failure_of_exec;
use crate::commands::{Limits, block_on, clone, conclude, ending_signal};
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::{Printer, Waiting, shell_words};
use crate::resolve::Resolved;
use crate::settings::layer::Found;
use crate::settings::{Layer, Origin};
use crate::terminal::{End, Signals};
use crate::timing::Clock;

/// `viv up`
///
/// # Errors
/// What is not described, or cannot be brought up.
pub fn up(arguments: &UpArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    let workspace = targets::directory(arguments.workspace.as_deref(), &desk.host)?;
    let targets = targets::described(&arguments.names, arguments.all, &workspace, &desk.host, &desk.paths)?;
    if arguments.dry_run {
        for target in &targets {
            let mut settled = settle(target, arguments.start, &desk)?;
            dry_run(&mut settled.resolved, None, &desk.paths, arguments.start.json)?;
        }
        return Ok(exit_code::SUCCESS);
    }
    each(&targets, |target| &target.name, printer, |target| bring_up(target, arguments.start, &desk))
}

/// `viv start`
///
/// # Errors
/// Names of none or of several, and as [`up`].
pub fn start(arguments: &StartArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    each(&arguments.names, String::as_str, printer, |name| {
        let named = targets::find_named(name, &desk.paths)?;
        let target = targets::of(&named, &desk.host, &desk.paths)?;
        bring_up(&target, arguments.start, &desk)
    })
}

/// Makes sure of everything that a sandbox's machine is made from, and starts nothing.
///
/// # Errors
/// As [`start`].
pub fn prepare(name: &str, printer: &Printer) -> Result<(), Failure> {
    let desk = Desk::open(printer)?;
    let target = targets::of(&named::find(&desk.paths, name)?, &desk.host, &desk.paths)?;
    let settled = settle(&target, StartOptions::default(), &desk)?;
    settled.make_ready(&desk.host, &desk.paths, printer, &mut Clock::start()).map(drop)
}

/// How a sandbox is to reach others, as it is described now.
///
/// # Errors
/// If nothing describes it any more, or that cannot be used.
pub fn network_of(named: &Named, printer: &Printer) -> Result<NetworkMode, Failure> {
    let desk = Desk::open(printer)?;
    let target = targets::of(named, &desk.host, &desk.paths)?;
    Ok(settle(&target, StartOptions::default(), &desk)?.resolved.sandbox.network.mode)
}

/// `viv restart`
///
/// # Errors
/// As [`start`].
pub fn restart(arguments: &RestartArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    each(&arguments.names, String::as_str, printer, |name| {
        let named = targets::find_named(name, &desk.paths)?;
        // Nothing is stopped that could not be started again, as far as that can be told before.
        let target = targets::of(&named, &desk.host, &desk.paths)?;
        settle(&target, arguments.start, &desk)?;
        viv_sandbox::probe_host(&desk.paths)?;
        machine::ask(&named, Verb::Restart, &desk)?;
        bring_up(&target, arguments.start, &desk)
    })
}

/// Brings a sandbox up, if it is not; it stays when this process ends.
fn bring_up(target: &Target, options: StartOptions, desk: &Desk<'_>) -> Result<Outcome, Failure> {
    let Desk { host, paths, printer } = desk;
    let Target { name, definition } = target;
    let there = named::list(paths)?.into_iter().find(|named| named.name == *name);
    if let Some(named) = there.filter(|named| named.workspace == definition.workspace) {
        match named.state {
            State::Running | State::Paused if options.fresh => {
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!("{name} is {}: its disk is not thrown away under it", named.state),
                )
                .hint(format!("viv restart --fresh {name}"))
                .into());
            }
            State::Running => return Ok(already_up(&named, printer)),
            State::Paused => return machine::ask(&named, Verb::Start, desk),
            State::Stopped | State::Failed | State::Starting | State::Stopping => {}
        }
    }
    let mut settled = settle(target, options, desk)?;
    let new = NewNamed {
        name: name.clone(),
        workspace: definition.workspace.clone(),
        definition_file: definition.file.clone(),
        persist: definition.persist,
        autostart: definition.autostart,
        labels: settled.resolved.sandbox.labels.clone(),
    };
    let named = named::create(paths, &new)?;
    targets::remember(&named, &definition.name, paths)?;
    if options.fresh {
        block_on(named::discard_disk(paths, name))??;
    }
    settled.resolved.sandbox.persistent_disk = definition.persist.then(|| named::disk_path(paths, name));
    let mut clock = Clock::start();
    let mut launch = settled.make_ready(host, paths, printer, &mut clock)?;
    launch.outlive_us()?;
    block_on(start_machine(target, launch, &mut clock, paths, printer))?
}

/// It is up. If what describes it was changed meanwhile, its user may be surprised.
fn already_up(named: &Named, printer: &Printer) -> Outcome {
    let changed = std::fs::metadata(&named.definition_file).and_then(|file| file.modified()).ok();
    let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    if let (Some(changed), Some(started)) = (changed, named.started_at_unix_ms)
        && changed > Duration::from_millis(started)
    {
        let file = named.definition_file.file_name().unwrap_or_default().to_string_lossy();
        printer.warning(
            &format!("{file} has changed since {} was started", named.name),
            Some(&format!("viv restart {}", named.name)),
        );
    }
    Outcome::of(named, Done::Nothing, "is up already")
}

/// What a sandbox is to be, by all that describes it.
pub fn settle(target: &Target, options: StartOptions, desk: &Desk<'_>) -> Result<Settled, Failure> {
    let Desk { host, paths, .. } = desk;
    let Target { name, definition } = target;
    let gateway = || definition.layer.gateway.first().map(|found| found.value.clone());
    let agent = definition.agent.as_deref().map(|agent| AgentCall::named(agent, gateway(), paths)).transpose()?;
    let origin = Origin::CommandLine;
    let typed = Layer {
        // It may have been renamed.
        name: Some(Found { value: name.clone(), origin }),
        template: options.cold.then_some(Found { value: TemplateUse::Never, origin }),
        ..Layer::default()
    };
    let wish = Wish {
        workspace: Some(&definition.workspace),
        asked: Asked {
            command_line: typed,
            definition: definition.layer.clone(),
            weakest: agent.as_ref().map(|agent| agent.layer(host)).unwrap_or_default(),
            terminal: false,
        },
        command: &[],
        // Nothing of the image's own is run.
        entrypoint: Some(Vec::new()),
        agent,
        i_know: options.i_know,
        change: &|_| Ok(()),
    };
    let mut settled = launch::settle(wish, host, paths)?;
    let Resolved { sandbox, exec, warnings, .. } = &mut settled.resolved;
    let untrusted = |message: &String| Warning { message: message.clone(), hint: Some("viv net trust".to_owned()) };
    warnings.extend(definition.withheld.iter().map(untrusted));
    sandbox.command.clear();
    // What is asked for a program of a run is for every program of one that stays; but for this terminal's taste.
    let lasting = exec.env.iter().filter(|(name, _)| *name != "NO_COLOR");
    sandbox.environment.extend(lasting.map(|(name, value)| (name.clone(), value.clone())));
    Ok(settled)
}

/// A command that runs in a sandbox before others use it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FirstCommand {
    /// Where it comes from, such as `on-start`.
    from: String,
    argv: Vec<String>,
}

/// What runs first, in this order: on a new disk the commands for that, then those of each start. Those of a
/// devcontainer.json come before the description's own.
fn first_commands(target: &Target, resolved: &Resolved, is_new: bool) -> Vec<FirstCommand> {
    let definition = &target.definition;
    let own = |from: &str, commands: &[Vec<String>]| -> Vec<FirstCommand> {
        commands.iter().map(|argv| FirstCommand { from: from.to_owned(), argv: argv.clone() }).collect()
    };
    let (each_start, once): (Vec<FirstCommand>, Vec<FirstCommand>) = resolved
        .setup
        .iter()
        .map(|command| FirstCommand { from: command.name.clone(), argv: command.argv.clone() })
        .partition(|command| command.from.starts_with("postStartCommand"));
    let mut all = Vec::new();
    if is_new {
        all.extend(once);
        all.extend(own("on-create", &definition.on_create));
    }
    all.extend(each_start);
    all.extend(own("on-start", &definition.on_start));
    all
}

/// Starts the machine, runs what is to run first, and lets go of it.
async fn start_machine(
    target: &Target,
    launch: Launch,
    clock: &mut Clock,
    paths: &Paths,
    printer: &Printer,
) -> Result<Outcome, Failure> {
    let name = &target.name;
    // What the machine is made from stays where it is until its monitor holds it.
    let Launch { resolved, request, secrets, repository, mut later, held: _held } = launch;
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    let id = request.plan.spec.id.clone();
    let began = Instant::now();
    let mut waiting = Waiting::begin(printer, &format!("starting {name}"));
    let spec = request.plan.spec.clone();
    let mut base = None;
    let on_event = |event: &Event| {
        match event {
            // Not before: it may run already.
            Event::Starting(_) if base.is_none() => base = Recording::of_live(&paths.state, &spec),
            Event::Ready { .. } => waiting.end(),
            _ => {}
        }
        launch::tell(event, &id, began.elapsed(), printer, clock, &mut later);
    };
    let started = tokio::select! {
        started = named::start(paths, name, request, on_event) => started?,
        // Dropping a start that is under way ends all of it.
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    let mut fresh = match started {
        named::Started::Fresh(fresh) => *fresh,
        named::Started::Already(named) => return Ok(already_up(&named, printer)),
    };
    if let Some(base) = base {
        tokio::select! {
            () = base.finish(printer) => {}
            number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
        }
    }
    launch::hand_over(&fresh.sandbox, &secrets, false, printer).await?;
    drop(secrets);
    tokio::select! {
        copied = clone::begin(&fresh.sandbox, &resolved.sandbox, repository, paths, printer) => drop(copied?),
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    }
    let commands = first_commands(target, &resolved, fresh.is_new);
    let nix = resolved.sandbox.nix.as_ref().and_then(|nix| nix.environment.as_ref());
    let denials = Denials::new(paths, &id, printer);
    let ran = tokio::select! {
        ran = run_first(&mut fresh, &commands, &resolved.exec, nix, name, &mut signals, printer) => ran,
        never = denials.watch() => match never {},
    };
    denials.show_rest();
    let limits =
        Limits { memory: resolved.sandbox.memory_mib << 20, disk: Some(resolved.sandbox.disk_bytes), timeout: None };
    let refused = match ran {
        Ok(None) => {
            Programs::remember(&resolved.exec, name, paths)?;
            let named = fresh.settle(true).await?;
            later.begin();
            return Ok(Outcome::of(&named, Done::Started, "is up"));
        }
        Ok(Some((command, end))) => refusal(name, &command, &end, printer, limits),
        Err(failure) => failure,
    };
    // Nothing that is half made ready is left running. That this went wrong, too, would say nothing more.
    let _ = fresh.sandbox.stop().await;
    Err(refused)
}

/// Runs the commands, each to its end; the first that does not succeed, and how it ended.
async fn run_first(
    fresh: &mut Fresh,
    commands: &[FirstCommand],
    exec: &Exec,
    nix: Option<&NixEnvironment>,
    name: &str,
    signals: &mut Signals,
    printer: &Printer,
) -> Result<Option<(FirstCommand, End<Failure>)>, Failure> {
    for command in commands {
        launch::announce(&format!("{name}, {}", command.from), &command.argv, printer);
        let argv = match nix {
            Some(nix) => nix.command(command.argv.clone()),
            None => command.argv.clone(),
        };
        let program = launch::aside(exec, &argv);
        let started = tokio::select! {
            started = fresh.sandbox.exec(&program) => started.map_err(|error| about(name, command, failure_of_exec(error)))?,
            number = ending_signal(signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
        };
        let sandbox = &mut fresh.sandbox;
        let lost = async { Failure::from(sandbox.ended().await) };
        let end = launch::finish_aside(started, lost, signals, printer).await?;
        if !matches!(&end, End::Exited(report) if report.code == 0) {
            return Ok(Some((command.clone(), end)));
        }
    }
    Ok(None)
}

/// Why a sandbox is not up whose first command came to this end.
fn refusal(name: &str, command: &FirstCommand, end: &End<Failure>, printer: &Printer, limits: Limits) -> Failure {
    let code = match conclude(end, printer, limits) {
        Ok(code) if matches!(end, End::Exited(_)) => code,
        // Interrupted, or nobody reads what it prints: whoever did that knows.
        Ok(code) => return Failure::quiet(code),
        Err(failure) => return failure,
    };
    let words = shell_words(&command.argv);
    let error = Error::new(
        ErrorKind::CommandFailed,
        format!("{name} is not up: {} ended with exit code {code}: {words}", command.from),
    );
    Failure::from(error.hint(format!("its machine was ended; once that is mended: viv up {name}"))).with_code(code)
}

/// The failure of a command that could not be started.
fn about(name: &str, command: &FirstCommand, mut failure: Failure) -> Failure {
    if let Some(report) = &mut failure.report {
        report.message = format!("{name} is not up: {}: {}", command.from, report.message);
    }
    failure
}
