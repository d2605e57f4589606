//! From settings to a machine that is about to start: what `viv run` and `viv up` have in common.

use std::path::{Path, PathBuf};
use std::time::Duration;

use viv_net::spec::Keys;
use viv_proto::message::{Exec, Secret};
use viv_sandbox::{
    AgentHome, AgentStart, Event, ExecSession, Holdings, HostMark, MakeRequest, NetworkSpec, Paths, Plan, Repository,
    Sandbox, SandboxSpec, StartRequest, Warning, Way,
};

use super::clone;
use super::prepare::{self, Asked, Held};
use crate::agent::AgentCall;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, Failure};
use crate::git;
use crate::network::{self, Network, secrets};
use crate::output::{JsonEvent, Printer, milliseconds, shell_words};
use crate::render;
use crate::resolve::Resolved;
use crate::terminal::{End, Session, SessionOptions, Signals, Streams};
use crate::timing::{Clock, Told};

/// What a sandbox is wanted for.
pub struct Wish<'a> {
    /// The directory it works on, from the current one; none for that itself.
    pub workspace: Option<&'a Path>,
    /// Settings beside those of the configuration files.
    pub asked: Asked,
    /// Program and arguments.
    pub command: &'a [String],
    /// What is put before them in place of the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// The agent it is for.
    pub agent: Option<AgentCall>,
    /// Whether even what viv refuses to share is shared.
    pub i_know: bool,
    /// A change to its network.
    pub change: &'a dyn Fn(&mut NetworkSpec) -> Result<(), Error>,
}

/// A sandbox with nothing left open. Nothing of it has been made.
pub struct Settled {
    /// What it is.
    pub resolved: Resolved,
    agent: Option<(AgentStart, AgentCall)>,
    repository: Option<Repository>,
    keys: Keys,
    withheld: Vec<String>,
}

/// Reads the settings of all places, and checks what they come to.
///
/// # Errors
/// Settings that cannot be read, do not go together, or share what viv refuses to share.
pub fn settle(wish: Wish<'_>, host: &HostEnvironment, paths: &Paths) -> Result<Settled, Failure> {
    let Wish { workspace, asked, command, entrypoint, agent, i_know, change } = wish;
    let mut resolved = prepare::settings_of(workspace, asked, command, host, paths)?;
    // What an image puts before commands is not for an agent.
    resolved.entrypoint = entrypoint.or_else(|| agent.as_ref().map(|_| Vec::new()));
    viv_sandbox::check_shares(&resolved.sandbox, paths, host.home.as_deref(), i_know)?;
    // After the check: git's objects may be elsewhere, if it is known whose they are.
    let repository = clone::settle(&mut resolved.sandbox, i_know)?;
    // After the check: what an agent keeps is viv's own state, and the only part of it that is ever shared.
    let agent = agent.map(|agent| (agent.apply(&mut resolved, paths), agent));
    git::apply(&mut resolved, host);
    let Network { spec, keys, withheld, warnings } =
        network::resolve(&resolved.network, &resolved.sandbox.workspace, host, paths)?;
    resolved.sandbox.network = spec;
    change(&mut resolved.sandbox.network)?;
    resolved.warnings.extend(warnings.into_iter().map(|message| Warning { message, hint: None }));
    Ok(Settled { resolved, agent, repository, keys, withheld })
}

/// A sandbox that can be started: all that it is made from is there, and stays as long as this value.
pub struct Launch {
    /// What it is.
    pub resolved: Resolved,
    /// Starts it.
    pub request: StartRequest,
    /// What is to be in /run/secrets before any program runs.
    pub secrets: Vec<Secret>,
    /// What its workspace is copied from.
    pub repository: Option<Repository>,
    /// What is to be done for the starts to come.
    pub later: Later,
    /// Keeps what it is made from.
    pub held: Holding,
}

/// What nobody else may take while a sandbox uses it.
pub struct Holding {
    /// What the machine is made from.
    made_from: Held,
    /// The agent's home.
    home: Option<AgentHome>,
}

impl Launch {
    /// Starts a sandbox like this one but for its id and its names; what they are made from is held by this value.
    ///
    /// # Errors
    /// A machine that this host cannot run.
    pub fn another(&self, spec: &SandboxSpec) -> Result<StartRequest, Failure> {
        let StartRequest { paths, executable, keys, withheld, .. } = &self.request;
        Ok(StartRequest {
            plan: self.held.made_from.plan(spec)?,
            paths: paths.clone(),
            executable: executable.clone(),
            keys: keys.clone(),
            withheld: withheld.clone(),
            holdings: Holdings::default(),
            detached: false,
            place: None,
        })
    }

    /// Has the sandbox's monitor hold all that it uses, too, since it stays when this process goes.
    ///
    /// # Errors
    /// A home that another sandbox got hold of.
    pub fn outlive_us(&mut self) -> Result<(), Failure> {
        let Holding { made_from, home } = &self.held;
        self.request.holdings = Holdings {
            cached: made_from.lease.paths().map(Path::to_path_buf).collect(),
            homes: home.as_ref().map(AgentHome::share).transpose()?.into_iter().collect(),
        };
        Ok(())
    }
}

impl Settled {
    /// Whether what comes in here is the program's input.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        self.agent.as_ref().is_none_or(|(_, agent)| agent.takes_input())
    }

    /// The agent whose home it uses, if no other sandbox may use that meanwhile.
    #[must_use]
    pub fn alone(&self) -> Option<&str> {
        self.agent.as_ref().and_then(|(_, agent)| agent.alone())
    }

    /// Says what is less than was asked for, and makes sure of everything that the sandbox is made from.
    ///
    /// # Errors
    /// A network that cannot be used here, a home that is in use, a secret that is not there, a machine that this
    /// host cannot run, an image that cannot be built.
    pub fn make_ready(
        self,
        host: &HostEnvironment,
        paths: &Paths,
        printer: &Printer,
        clock: &mut Clock,
    ) -> Result<Launch, Failure> {
        let Self { mut resolved, agent, repository, keys, withheld } = self;
        viv_sandbox::check_network(&resolved.sandbox.network)?;
        for warning in &resolved.warnings {
            printer.warning(&warning.message, warning.hint.as_deref());
        }
        resolved.details.iter().for_each(|detail| printer.detail(detail));
        let home = agent
            .as_ref()
            .map(|(start, agent)| agent.open_home(start, &resolved.sandbox.workspace, host, paths, printer))
            .transpose()?;
        let secrets = secrets::read(&resolved.network.secrets, &host.variables)?;
        for secret in secrets.iter().filter(|secret| resolved.network.secrets[&secret.name].in_environment) {
            resolved.exec.env.insert(secret.name.clone(), secret.value.clone());
        }
        let (plan, made_from) = prepare::plan(&mut resolved, paths, printer, clock)?;
        let executable = std::env::current_exe().map_err(error::io("cannot find viv's own executable"))?;
        let later = Later::new(&plan, paths, &executable);
        let request = StartRequest {
            plan,
            paths: paths.clone(),
            executable,
            keys,
            withheld,
            holdings: Holdings::default(),
            detached: false,
            place: None,
        };
        Ok(Launch { resolved, request, secrets, repository, later, held: Holding { made_from, home } })
    }
}

/// What is done for the starts to come, by processes of their own: once the program has run for a
/// while, or at the end, so that it never competes with a start.
pub struct Later {
    /// The template that would be made if none is there,
    request: Option<MakeRequest>,
    /// and the plan whose spares would be kept.
    plan: Option<Plan>,
    /// Whether there is none,
    make_template: bool,
    /// and whether there can be spares.
    keep_spares: bool,
    paths: Paths,
    executable: PathBuf,
}

impl Later {
    /// How long the program runs undisturbed.
    pub const DELAY: Duration = Duration::from_secs(3);

    fn new(plan: &Plan, paths: &Paths, executable: &Path) -> Self {
        Self {
            request: MakeRequest::new(plan, paths).ok(),
            plan: (plan.spec.spares > 0).then(|| plan.clone()),
            make_template: false,
            keep_spares: false,
            paths: paths.clone(),
            executable: executable.to_owned(),
        }
    }

    /// The machine starts in this way.
    fn heard(&mut self, way: &Way) {
        self.make_template = matches!(way, Way::Cold { make_template: true, .. });
        self.keep_spares = !matches!(way, Way::Cold { .. });
    }

    /// Does it, once.
    pub fn begin(&mut self) {
        // What runs now does not depend on either.
        if let Some(request) = self.request.take().filter(|_| self.make_template) {
            let _ = viv_sandbox::make_in_background(request, &self.executable);
        }
        if let Some(plan) = self.plan.take().filter(|_| self.keep_spares) {
            let _ = viv_sandbox::keep_spares(&plan, &self.paths, &self.executable);
        }
    }
}

/// Tells what happens while a sandbox starts, and notes it for what comes later.
pub fn tell(event: &Event, id: &str, took: Duration, printer: &Printer, clock: &mut Clock, later: &mut Later) {
    say(event, id, took, printer);
    match event {
        Event::Starting(way) => {
            // All that is known of the start if it leads nowhere; else the monitor tells more.
            clock.heard(Told { monitor: vec![HostMark::now("monitor")], guest: Vec::new() });
            later.heard(way);
        }
        Event::Ready { marks, guest_marks, .. } => {
            clock.heard(Told { monitor: marks.clone(), guest: guest_marks.clone() });
        }
        _ => {}
    }
}

/// Tells what happens while a sandbox starts.
pub fn say(event: &Event, id: &str, took: Duration, printer: &Printer) {
    match event {
        Event::Starting(way) => {
            printer.event(&JsonEvent::Starting { id, way });
            printer.detail(&render::way(way));
        }
        Event::Ready { guest_uptime_ms, published, .. } => {
            let (milliseconds, guest_uptime_ms) = (milliseconds(took), *guest_uptime_ms);
            printer.event(&JsonEvent::Ready { id, milliseconds, guest_uptime_ms, published });
            for port in published {
                printer.note(&format!("port {} of the sandbox is at {}", port.guest_port, port.address));
            }
        }
        _ => {}
    }
}

/// Puts secrets into a sandbox, and has a key pair made there if it is to have one, before any program runs.
///
/// # Errors
/// The guest's refusal, or whatever became of the sandbox.
pub async fn hand_over(
    sandbox: &Sandbox,
    secrets: &[Secret],
    deploy_key: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    for secret in secrets {
        sandbox.put_secret(secret).await?;
    }
    if deploy_key {
        let public = sandbox.deploy_key().await?;
        printer.event(&JsonEvent::DeployKey { public: &public });
        printer.note(&format!("deploy key: {public}"));
    }
    Ok(())
}

/// Sees a program to its end that has no input, and whose output is on our standard error; `lost` resolves if
/// its sandbox ends before it.
///
/// # Errors
/// A standard error that cannot be used.
pub async fn finish_aside(
    started: ExecSession,
    lost: impl Future<Output = Failure>,
    signals: &mut Signals,
    printer: &Printer,
) -> Result<End<Failure>, Failure> {
    let streams = Streams {
        stdin: Box::new(std::io::empty()),
        stdout: printer.program_streams().1,
        stderr: printer.program_streams().1,
    };
    let options = SessionOptions { terminal: false, timeout: None, detach: None };
    let session = Session::begin(started.writer, streams, options).map_err(error::io("cannot use the terminal"))?;
    let (end, summary) = session.run(started.reader, signals, lost).await;
    printer.note_unfinished_line(summary.stderr_unfinished);
    Ok(end)
}

/// Says which command is run aside, where someone wants to know everything.
pub fn announce(name: &str, argv: &[String], printer: &Printer) {
    printer.detail(&format!("{name}: {}", shell_words(argv)));
}

/// The same program with other words, and without a terminal.
#[must_use]
pub fn aside(exec: &Exec, argv: &[String]) -> Exec {
    Exec { argv: argv.to_vec(), terminal: None, ..exec.clone() }
}
