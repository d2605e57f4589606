//! `viv run --attempts`

mod ending;
mod one;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use viv_net::gateway::{USAGE_FILE, read_usage};
use viv_sandbox::{MakeRequest, Paths, Recording, SandboxSpec, TemplateUse, WorkspaceMode, logs_of};
use viv_workspace::{Mode, Recorded, Store};

use self::ending::{Ending, channel};
use self::one::One;
use super::dry_run::dry_run;
use super::launch::{self, Launch, Wish};
use super::prepare::Asked;
use super::{block_on, clone, review, template};
use crate::agent::{AgentCall, Input, Surroundings};
use crate::attempts::{
    Attempt, Changes, Ended, Plan, Resources, State, Table, Usage, Verdict, Wanted, render, words_of, words_of_check,
};
use crate::ci;
use crate::cli::RunArguments;
use crate::doctor::probe;
use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind, Failure};
use crate::output::{Board, JsonEvent, Part, Printer, Waiting, human_duration, print, print_json};
use crate::resolve::Resolved;
use crate::settings::layer::Found;
use crate::settings::{Layer, Origin};
use crate::terminal::lock;
use crate::timing::Clock;

/// Runs a command several times, each in a sandbox and on a copy of its own, and shows what came of it side by side.
///
/// All sandboxes are what one set of settings comes to, and what they are made from, a template included, is there
/// before the first of them starts. Each has a thread with an event loop of its own in this process: what one waits for
/// holds up no other, and a signal ends all of them.
///
/// # Errors
/// Whatever keeps the first of them from starting. What goes wrong with one is in the table, and stops no other.
pub fn run(arguments: &RunArguments, number: u32, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    if arguments.command.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "--attempts: there is no command to attempt")
            .hint("viv run --attempts 3 claude \"fix the failing test\"")
            .into());
    }
    // Nobody types at several programs at once.
    let agent = AgentCall::of(arguments, &paths, Surroundings { input: Input::Nothing, terminal: false })?;
    let preset = agent.as_ref().map(|agent| agent.layer(&host)).unwrap_or_default();
    let wish = Wish {
        workspace: arguments.workspace.directory()?,
        asked: Asked {
            command_line: arguments.layer(&host.directory),
            // Unless another is asked for, the only mode there can be.
            weakest: Layer {
                workspace_mode: Some(Found { value: WorkspaceMode::Clone, origin: Origin::Default }),
                ..preset
            },
            ..Asked::default()
        },
        command: &arguments.command,
        entrypoint: arguments.entrypoint.as_ref().map(|entrypoint| entrypoint.0.clone()),
        agent,
        i_know: arguments.i_know,
        change: &|_| Ok(()),
    };
    let mut settled = launch::settle(wish, &host, &paths)?;
    ci::apply(&arguments.ci, &mut settled.resolved);
    if arguments.ci.record.is_none() {
        // Nobody sees what they print while they run.
        settled.resolved.sandbox.recording = Recording::All;
    }
    check(&settled.resolved)?;
    let spec = &settled.resolved.sandbox;
    let base = spec.name.clone().unwrap_or_else(|| spec.id.clone());
    let wanted = Wanted {
        attempts: number,
        jobs: arguments.attempts.jobs,
        base: &base,
        memory: spec.memory_mib << 20,
        cpus: spec.cpus,
        alone: settled.alone(),
    };
    let there = Resources { memory: probe::memory().map(|memory| memory.available), cpus: host.cpus };
    let plan = Plan::new(&wanted, &there)?;
    if arguments.dry_run {
        return dry_run(&mut settled.resolved, Some(&plan), &paths, arguments.json);
    }
    none_runs(&plan, &paths)?;
    if let Some(warning) = &plan.warning {
        printer.warning(warning, Some("without --jobs, as many run at once as there is room for"));
    }
    let launch = settled.make_ready(&host, &paths, printer, &mut Clock::start())?;
    make_template(&launch, &paths, printer)?;
    Run { arguments, base: &base, plan: &plan, launch: &launch, paths: &paths, printer }.perform()
}

/// Refuses what several sandboxes cannot have at once.
fn check(resolved: &Resolved) -> Result<(), Error> {
    let spec = &resolved.sandbox;
    if spec.workspace_mode.is_live() {
        let origin = resolved.origins.get("workspace-mode").map_or("", |origin| origin.describe());
        let what = format!("--attempts: each works on a copy of the workspace, and \"live\" is asked for ({origin})");
        return Err(Error::new(ErrorKind::Usage, what).hint("--workspace clone"));
    }
    if let Some(fixed) = spec.network.publish.iter().find(|publish| publish.address.port() != 0) {
        let (address, port) = (fixed.address, fixed.guest_port);
        let what = format!("--attempts: port {port} of all of them cannot be shown at {address}");
        return Err(
            Error::new(ErrorKind::Usage, what).hint(format!("--publish 0:{port} shows each at a port that is free"))
        );
    }
    Ok(())
}

/// Makes sure that what is kept of a sandbox that runs is not replaced.
fn none_runs(plan: &Plan, paths: &Paths) -> Result<(), Failure> {
    let running = viv_sandbox::list(paths)?.into_iter().filter_map(|record| record.name);
    match running.into_iter().find(|name| plan.names.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(ErrorKind::InUse, format!("a sandbox named {name} is running"))
            .hint(format!("viv stop {name}, or choose another --name"))
            .into()),
    }
}

/// Has the template made that all of them start from, so that they do not boot side by side and then have it made. Where
/// there is none in the end, they boot.
fn make_template(launch: &Launch, paths: &Paths, printer: &Printer) -> Result<(), Failure> {
    if launch.resolved.sandbox.template != TemplateUse::Auto {
        return Ok(());
    }
    // Why there can be none is said when each of them boots.
    let Ok(request) = MakeRequest::new(&launch.request.plan, paths) else { return Ok(()) };
    if request.existing()?.is_some() {
        return Ok(());
    }
    match block_on(template::make(&request, false, printer))? {
        Err(failure) if failure.report.is_none() => Err(failure),
        Err(failure) => {
            let why = failure.report.map(|report| report.line()).unwrap_or_default();
            printer.warning(&format!("there is no template, and so each attempt boots: {why}"), None);
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// All attempts, with what they have in common.
pub struct Run<'a> {
    arguments: &'a RunArguments,
    /// What they are called after.
    base: &'a str,
    plan: &'a Plan,
    launch: &'a Launch,
    paths: &'a Paths,
    printer: &'a Printer,
}

impl Run<'_> {
    /// What is run after the command.
    fn check(&self) -> Option<&str> {
        self.arguments.attempts.check.as_deref()
    }

    fn spec(&self, name: &str) -> SandboxSpec {
        SandboxSpec {
            id: viv_sandbox::new_id(),
            name: Some(name.to_owned()),
            hostname: name.to_owned(),
            ..self.launch.resolved.sandbox.clone()
        }
    }

    /// Makes all of them, and shows what came of them.
    fn perform(&self) -> Result<u8, Failure> {
        self.record_base()?;
        self.printer.note(&self.plan.describe());
        let board = Board::new(self.printer);
        let width = self.plan.names.iter().map(String::len).max().unwrap_or(0);
        let parts: Vec<Part> = self.plan.names.iter().map(|name| board.part(name, width)).collect();
        parts.iter().for_each(|part| part.state("waiting", false));
        let (caller, ending) = channel();
        let waiting: Mutex<VecDeque<&Part>> = Mutex::new(parts.iter().collect());
        let over: Mutex<BTreeMap<&str, Attempt>> = Mutex::default();
        let (running, all) = mpsc::channel(1);
        let interrupted = std::thread::scope(|scope| {
            for _ in 0..self.plan.jobs {
                let (running, waiting, over, ending) = (running.clone(), &waiting, &over, &ending);
                scope.spawn(move || {
                    let next = || lock(waiting).pop_front().filter(|_| !ending.is_near());
                    while let Some(part) = next() {
                        let attempt = self.attempt(part, ending);
                        lock(over).insert(part.name(), attempt);
                    }
                    drop(running);
                });
            }
            drop(running);
            let aside = self.printer.of_part(board.aside());
            let listened = block_on(caller.listen(all, &aside)).and_then(|listened| listened);
            if listened.is_err() {
                // Nobody would hear the user.
                caller.at_once();
            }
            listened
        })?;
        board.clear();
        let mut over = over.into_inner().unwrap_or_else(PoisonError::into_inner);
        let is_checked = self.check().is_some();
        let names = self.plan.names.iter().map(String::as_str);
        let attempts = names.map(|name| over.remove(name).unwrap_or_else(|| Attempt::not_begun(name, is_checked)));
        self.show(&attempts.collect::<Vec<_>>(), interrupted)
    }

    /// Makes one, on a thread of its own.
    fn attempt(&self, part: &Part, ending: &Ending) -> Attempt {
        let printer = self.printer.of_part(part.clone());
        if let Err(failure) = self.renew_base(part.name(), &printer) {
            return Attempt { error: failure.report, ..Attempt::begin(part.name(), None, self.check().is_some()) };
        }
        let spec = self.spec(part.name());
        let one = One { run: self, spec, name: part.name(), part, printer, ending: ending.clone() };
        let mut attempt = block_on(one.perform()).unwrap_or_else(|failure| Attempt {
            error: failure.report,
            ..Attempt::begin(part.name(), Some(&one.spec.id), self.check().is_some())
        });
        // What somebody else has taken of one that is lost counts, too: it can be accepted.
        attempt.changes = self.changes(part.name());
        attempt.usage =
            Usage::of(&read_usage(&logs_of(&self.paths.state).join(&one.spec.id).join(USAGE_FILE)).unwrap_or_default());
        one.printer.event(&JsonEvent::Attempt { name: part.name(), id: &one.spec.id, state: State::Ended });
        let summary = summary(&attempt);
        part.state(&summary, false);
        if !part.is_drawn() {
            one.printer.note(&summary);
        }
        attempt
    }

    /// Keeps what the workspace has, once for all of them.
    fn record_base(&self) -> Result<(), Failure> {
        let _waiting = Waiting::begin(self.printer, "keeping what the workspace has");
        let recorded = self.record_bases(&self.plan.names)?;
        self.printer.timing(&format!("{} files of the workspace are kept as they are", recorded.files), recorded.took);
        Ok(())
    }

    /// Has one that begins late begin with what the workspace has by then, which is what is copied.
    fn renew_base(&self, name: &str, printer: &Printer) -> Result<(), Failure> {
        let jobs = usize::try_from(self.plan.jobs).unwrap_or(usize::MAX);
        let is_late = self.plan.names.iter().skip(jobs).any(|late| late == name);
        if !is_late {
            return Ok(());
        }
        if !self.launch.resolved.sandbox.copied.is_everything() {
            // What the copies have is not what the directory has, which would have to be compared.
            self.record_bases(&[name.to_owned()])?;
            return Ok(());
        }
        if self.store()?.is_at_base(name)? {
            return Ok(());
        }
        let what = "the workspace has changed since the first attempts began, and this one begins with what it has now";
        printer.warning(what, None);
        self.record_bases(&[name.to_owned()])?;
        Ok(())
    }

    fn record_bases(&self, names: &[String]) -> Result<Recorded, Failure> {
        let (sandboxes, selection) = (self.sandboxes(names), self.launch.resolved.sandbox.copied);
        clone::record_bases(&self.store()?, &sandboxes, Some(self.id()), self.launch.repository.as_ref(), selection)
    }

    fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.paths.state, &self.launch.resolved.sandbox.workspace)?)
    }

    /// What tells this run from others.
    fn id(&self) -> &str {
        &self.launch.resolved.sandbox.id
    }

    fn sandboxes(&self, names: &[String]) -> Vec<viv_workspace::Sandbox> {
        let sandbox =
            |name: &String| viv_workspace::Sandbox { id: name.clone(), name: Some(name.clone()), mode: Mode::Clone };
        names.iter().map(sandbox).collect()
    }

    /// What one changed, as far as it is kept.
    fn changes(&self, name: &str) -> Option<Changes> {
        review::changes(&self.store().ok()?, name).ok()
    }

    /// Shows all of them side by side, and says what can be done with them.
    fn show(&self, attempts: &[Attempt], interrupted: Option<i32>) -> Result<u8, Failure> {
        let exit_code = Verdict::of(attempts, interrupted).exit_code();
        let succeeded: Vec<&str> =
            attempts.iter().filter(|attempt| attempt.succeeded()).map(|attempt| attempt.name.as_str()).collect();
        if self.printer.is_json() {
            print_json(&Table {
                name: self.base,
                workspace: &self.launch.resolved.sandbox.workspace.to_string_lossy(),
                command: &self.arguments.command,
                check: self.check(),
                attempts,
                succeeded,
                exit_code,
            })?;
            return Ok(exit_code);
        }
        print(&render(attempts))?;
        for Attempt { name, error, .. } in attempts {
            if let Some(report) = error {
                self.printer.warning(&format!("{name}: {}", report.line()), report.hints.first().map(String::as_str));
            }
        }
        let changed = |attempt: &&Attempt| attempt.changes.is_some_and(|changes| changes.files > 0);
        let best = attempts.iter().filter(changed).find(|attempt| attempt.succeeded());
        if let Some(Attempt { name, .. }) = best.or_else(|| attempts.iter().find(changed)) {
            self.printer.note(&format!(
                "`viv diff {name}` shows what one changed, `viv logs {name}` what it printed; `viv accept {name}` takes it"
            ));
        }
        Ok(exit_code)
    }
}

/// What came of one, in a line.
fn summary(attempt: &Attempt) -> String {
    let mut text = match &attempt.ended {
        Ended::Exited { exit_code, .. } => format!("ended with exit code {exit_code}"),
        ended => words_of(ended),
    };
    if attempt.milliseconds.command > 0 {
        text.push_str(&format!(" after {}", human_duration(Duration::from_millis(attempt.milliseconds.command))));
    }
    if let Some(changes) = attempt.changes {
        let files = if changes.files == 1 { "file" } else { "files" };
        text.push_str(&format!(", {} {files} changed", changes.files));
    }
    if let Some(check) = &attempt.check {
        text.push_str(&format!(", check {}", words_of_check(check)));
    }
    if let Some(report) = &attempt.error {
        text.push_str(&format!(": {}", report.line()));
    }
    text
}
