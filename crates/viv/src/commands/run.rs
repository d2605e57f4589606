//! `viv run`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use viv_image::{Cache, ImageSource, KernelSource};
use viv_proto::message::Exec;
use viv_sandbox::{
    Artifacts, Event, HostMark, KernelChoice, MakeRequest, Paths, Plan, Sandbox, SandboxSpec, StartRequest, Way,
};

use super::{Limits, block_on, conclude};
use crate::cli::RunArguments;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::guest_binary;
use crate::output::clean::clean;
use crate::output::{JsonEvent, Printer, ProgressReporter, Timings, milliseconds, print, print_json};
use crate::resolve::{self, Request, Resolved};
use crate::settings::file::{self, PROJECT_FILE, Trust};
use crate::terminal::{self, Descriptor, End, Session, SessionOptions, Signals, Streams};
use crate::timing::{self, Told};
use crate::{exit_code, render};

/// Runs a program in a fresh sandbox and returns its exit code.
///
/// # Errors
/// Whatever keeps the program from running to its end.
pub fn run(arguments: &RunArguments, printer: &Printer) -> Result<u8, Failure> {
    let began = Instant::now();
    let mut clock = Clock::start();
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let resolved = resolve_arguments(arguments, &host, &paths)?;
    viv_sandbox::check_shares(&resolved.sandbox, &paths, host.home.as_deref(), arguments.i_know)?;
    if arguments.dry_run {
        return dry_run(&resolved, &paths, arguments.json);
    }
    for warning in &resolved.warnings {
        printer.warning(warning, None);
    }
    // Planned before anything is built: nobody wants to wait for an image only to learn that
    // there is no QEMU, or no such machine.
    let facts = viv_sandbox::probe_host(&paths)?;
    let provisional = viv_sandbox::plan(&resolved.sandbox, &artifacts_to_be(&resolved.sandbox), &facts)?;
    for warning in &provisional.warnings {
        printer.warning(&warning.message, warning.hint.as_deref());
    }
    clock.mark("settings");
    let artifacts = prepare(&resolved.sandbox, &paths, printer)?;
    let plan = viv_sandbox::plan(&resolved.sandbox, &artifacts, &facts)?;
    let timings = Timings { prepare_ms: milliseconds(began.elapsed()), ..Timings::default() };
    clock.mark("artifacts");
    printer.timing("kernel and image are there", began.elapsed());
    let run = Run {
        start: StartRequest {
            plan,
            paths,
            executable: std::env::current_exe().map_err(error::io("cannot find viv's own executable"))?,
        },
        exec: resolved.exec,
        timeout: resolved.timeout,
        began,
        timings,
        clock,
        show_timing: arguments.timing,
    };
    block_on(run_sandbox(run, printer))?
}

/// What is started, and what is run in it.
struct Run {
    start: StartRequest,
    exec: Exec,
    timeout: Option<Duration>,
    began: Instant,
    timings: Timings,
    clock: Clock,
    show_timing: bool,
}

/// When each part of the run was done.
struct Clock {
    began: HostMark,
    marks: Vec<HostMark>,
    told: Told,
}

impl Clock {
    fn start() -> Self {
        Self { began: HostMark::now("began"), marks: Vec::new(), told: Told::default() }
    }

    fn mark(&mut self, name: &str) {
        self.marks.push(HostMark::now(name));
    }

    /// Something was done so long after the last mark.
    fn mark_later(&mut self, name: &str, after: Duration) {
        let last = self.marks.last().unwrap_or(&self.began).at_ns;
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.marks.push(HostMark { name: name.to_owned(), at_ns: last.saturating_add(after) });
    }
}

/// What is done for the starts to come, by processes of their own: once the program has run for a
/// while, or at the end, so that it never competes with a start.
struct Later {
    /// The template that this run found missing.
    template: Option<MakeRequest>,
    /// The plan whose spares are to be there.
    spares: Option<Plan>,
    paths: Paths,
    executable: PathBuf,
}

impl Later {
    /// How long the program runs undisturbed.
    const DELAY: Duration = Duration::from_secs(3);

    fn begin(&mut self) {
        // This run does not depend on either.
        if let Some(request) = self.template.take() {
            let _ = viv_sandbox::make_in_background(request, &self.executable);
        }
        if let Some(plan) = self.spares.take() {
            let _ = viv_sandbox::keep_spares(&plan, &self.paths, &self.executable);
        }
    }
}

/// Where artifacts will be is decided when they are made; their names say enough for a plan.
fn artifacts_to_be(spec: &SandboxSpec) -> Artifacts {
    Artifacts {
        kernel: match &spec.kernel {
            Some(KernelChoice::File(path)) => path.clone(),
            _ => PathBuf::from("KERNEL"),
        },
        kernel_digest: String::new(),
        initramfs: PathBuf::from("INITRAMFS"),
        root: spec.image.clone().unwrap_or_else(|| PathBuf::from("ROOT")),
        root_digest: String::new(),
        scratch: PathBuf::from("SCRATCH"),
    }
}

/// The run's settings from all places, resolved.
fn resolve_arguments(arguments: &RunArguments, host: &HostEnvironment, paths: &Paths) -> Result<Resolved, Failure> {
    let asked = arguments.workspace.as_deref().unwrap_or(Path::new("."));
    let workspace = host.directory.join(asked).canonicalize().map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("the workspace {} cannot be opened", clean(&asked.to_string_lossy())))
            .source(error)
    })?;
    if !workspace.is_dir() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the workspace {} is not a directory", clean(&asked.to_string_lossy())),
        )
        .hint("share a single file with --mount")
        .into());
    }
    let user_file = file::read(&paths.config.join("config.toml"), Trust::User { home: host.home.as_deref() })?;
    let project_file = file::read(&workspace.join(PROJECT_FILE), Trust::Project { workspace: &workspace })?;
    let settings = arguments.layer(&host.directory).over(project_file).over(user_file);
    let terminal = terminal::wanted().then(terminal::size);
    let request =
        Request { id: viv_sandbox::new_id(), settings, workspace, command: arguments.command.clone(), terminal };
    Ok(resolve::resolve(request, host, &|path| path.canonicalize())?)
}

/// What `--dry-run` shows.
#[derive(Serialize)]
struct DryRun<'a> {
    #[serde(flatten)]
    resolved: &'a Resolved,
    /// The machine, or why it cannot be planned on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<Plan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_error: Option<viv_error::Report>,
    /// What a run would have to build first.
    to_build: Vec<&'static str>,
}

fn dry_run(resolved: &Resolved, paths: &Paths, json: bool) -> Result<u8, Failure> {
    let cache = Cache::open(&paths.cache).ok();
    let built = cache.as_ref().map(viv_image::is_built);
    let debians = match &resolved.sandbox.kernel {
        Some(choice) => *choice == KernelChoice::Debian,
        None => cache
            .as_ref()
            .and_then(|cache| viv_image::preferred_kernel(cache).ok())
            .is_none_or(|preferred| preferred.source == KernelSource::Default),
    };
    let mut to_build = Vec::new();
    if debians && !built.as_ref().is_some_and(|built| built.kernel) {
        to_build.push("kernel");
    }
    if resolved.sandbox.image.is_none() && !built.as_ref().is_some_and(|built| built.root) {
        to_build.push("root image");
    }
    let plan = viv_sandbox::probe_host(paths)
        .and_then(|facts| viv_sandbox::plan(&resolved.sandbox, &artifacts_to_be(&resolved.sandbox), &facts));
    let (machine, machine_error) = match plan {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some(viv_error::Report::from(&error))),
    };
    let shown = DryRun { resolved, machine, machine_error, to_build };
    if json {
        print_json(&shown)?;
    } else {
        print(&render::dry_run(resolved, shown.machine.as_ref(), shown.machine_error.as_ref(), &shown.to_build))?;
    }
    Ok(0)
}

/// Makes sure of kernel, initramfs, root image and an empty disk.
fn prepare(spec: &SandboxSpec, paths: &Paths, printer: &Printer) -> Result<Artifacts, Failure> {
    let cache = Cache::open(&paths.cache)?;
    let progress = ProgressReporter::new(printer);
    let kernel_source = super::kernel::source(&cache, spec.kernel.as_ref(), printer)?;
    let image_source = spec.image.clone().map_or(ImageSource::Default, ImageSource::File);
    let kernel = viv_image::ensure_kernel(&cache, &kernel_source, &progress)?;
    printer.detail(&super::kernel::describe(&kernel, &kernel_source));
    let initramfs = viv_image::ensure_initramfs(&cache, &kernel, &guest_binary::GUEST)?;
    let root = viv_image::ensure_root(&cache, &image_source, &progress)?;
    let scratch = viv_image::ensure_scratch(&cache, spec.disk_bytes)?;
    Ok(Artifacts {
        kernel: kernel.vmlinux,
        kernel_digest: kernel.digest,
        initramfs,
        root: root.path,
        root_digest: root.digest,
        scratch,
    })
}

/// Starts the sandbox, runs the program, stops the sandbox.
async fn run_sandbox(run: Run, printer: &Printer) -> Result<u8, Failure> {
    let Run { start, mut exec, timeout, began, mut timings, mut clock, show_timing } = run;
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    let at_terminal = exec.terminal.is_some();
    if at_terminal {
        signals.listen_to_terminal().map_err(error::io("cannot listen to signals"))?;
        // A size that changes from here on is told to the program as it runs.
        exec.terminal = Some(terminal::size());
    }
    let spec = &start.plan.spec;
    let id = spec.id.clone();
    let limits = Limits { memory: spec.memory_mib << 20, disk: Some(spec.disk_bytes), timeout };
    let paths = start.paths.clone();
    let request = MakeRequest::new(&start.plan, &paths).ok();
    let plan = (spec.spares > 0).then(|| start.plan.clone());
    let mut later = Later { template: None, spares: None, paths: paths.clone(), executable: start.executable.clone() };

    let start_began = Instant::now();
    let on_event = |event: &Event| match event {
        Event::Starting(way) => {
            printer.event(&JsonEvent::Starting { id: &id, way });
            printer.detail(&render::way(way));
            later.template = request.clone().filter(|_| matches!(way, Way::Cold { make_template: true, .. }));
            later.spares = plan.clone().filter(|_| !matches!(way, Way::Cold { .. }));
        }
        Event::Ready { guest_uptime_ms, marks, guest_marks } => {
            let milliseconds = milliseconds(start_began.elapsed());
            printer.event(&JsonEvent::Ready { id: &id, milliseconds, guest_uptime_ms: *guest_uptime_ms });
            clock.told = Told { monitor: marks.clone(), guest: guest_marks.clone() };
        }
        _ => {}
    };
    let mut sandbox = tokio::select! {
        started = viv_sandbox::start(start, on_event) => started?,
        // Dropping a start that is under way ends all of it.
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    timings.start_ms = milliseconds(start_began.elapsed());
    printer.timing("the sandbox is up", start_began.elapsed());
    clock.mark("ready");

    let program_began = Instant::now();
    let options = SessionOptions { terminal: at_terminal, timeout };
    let outcome = {
        let running = run_program(&mut sandbox, &exec, options, &mut signals, printer, &mut clock);
        tokio::pin!(running);
        tokio::select! {
            outcome = &mut running => outcome,
            () = tokio::time::sleep(Later::DELAY) => {
                later.begin();
                running.await
            }
        }
    };
    timings.program_ms = milliseconds(program_began.elapsed());
    clock.mark("program ended");

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
    later.begin();

    let (end, first_output) = outcome?;
    timings.first_output_ms = first_output;
    let code = conclude(&end, printer, limits)?;
    if let Err(failure) = stopped {
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
    if show_timing {
        let spans = timing::spans(&clock.began, &clock.marks, &clock.told);
        printer.event(&JsonEvent::Timing { spans: &spans });
        printer.note(&timing::render(&spans));
    }
    printer.event(&JsonEvent::Result { id: &id, exit_code: code, signal, timed_out, timings });
    Ok(code)
}

/// Runs the program to the session's end. Returns that and when its first output came.
async fn run_program(
    sandbox: &mut Sandbox,
    exec: &Exec,
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
    let streams = Streams {
        stdin: Box::new(Descriptor::stdin()),
        stdout: Box::new(Descriptor::stdout()),
        stderr: Box::new(Descriptor::stderr()),
    };
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

/// The next signal that ends a run which has no program to hand it to.
pub async fn ending_signal(signals: &mut Signals) -> i32 {
    loop {
        let number = signals.next().await;
        if matches!(number, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) {
            return number;
        }
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
