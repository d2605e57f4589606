//! `viv run claude`: from an agent's name and the words after it to settings and a program.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use clap::{Command, CommandFactory};
use viv_image::Package;
use viv_proto::network::GATEWAY_LISTENER;
use viv_sandbox::{
    AgentHome, AgentRequest, AgentStart, AgentWords, NamedPreset, Paths, Prompt, agent_home_of, find_preset, mounts_of,
    preset_names, transcripts_of,
};

use crate::cli::{Cli, RunArguments};
use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind, Failure};
use crate::output::Printer;
use crate::output::clean::clean;
use crate::resolve::Resolved;
use crate::settings::file::nearest;
use crate::settings::layer::Found;
use crate::settings::values::Size;
use crate::settings::{DEFAULT_MEMORY, Layer, Origin};

/// What our standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Someone types.
    Terminal,
    /// There is nothing to be read, as from /dev/null.
    Nothing,
    /// A pipe, a file or a socket.
    Stream,
}

/// Where viv was called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// Standard input.
    pub input: Input,
    /// Whether input and output are a terminal, and events are not asked for in their place.
    pub terminal: bool,
}

impl Surroundings {
    /// Looks at our own streams.
    #[must_use]
    pub fn probe(json: bool) -> Self {
        let stdin = rustix::stdio::stdin();
        let input = if rustix::termios::isatty(stdin) {
            Input::Terminal
        } else {
            let kind = stdin.try_clone_to_owned().and_then(|stdin| File::from(stdin).metadata());
            match kind {
                Ok(metadata) if !metadata.file_type().is_char_device() => Input::Stream,
                _ => Input::Nothing,
            }
        };
        Self { input, terminal: crate::terminal::wanted() && !json }
    }
}

/// An agent that is called by its name.
#[derive(Debug)]
pub struct AgentCall {
    preset: NamedPreset,
    prompt: Prompt,
    arguments: Vec<String>,
    /// The model API asked for on the command line.
    gateway: Option<String>,
    fresh: bool,
    import: bool,
    surroundings: Surroundings,
}

impl AgentCall {
    /// The agent that the first word of the command names, if it names one.
    ///
    /// # Errors
    /// A preset that cannot be used; words that are neither a prompt nor the agent's own arguments; nothing
    /// for it to do.
    pub fn of(arguments: &RunArguments, paths: &Paths, surroundings: Surroundings) -> Result<Option<Self>, Failure> {
        let called = match arguments.command.split_first() {
            Some((name, words)) => find_preset(name, &paths.config.join("agents"))?.map(|preset| (preset, words)),
            None => None,
        };
        let Some((preset, words)) = called else {
            if arguments.fresh || arguments.import_config {
                let what = "--fresh and --import-config are for agents, such as in `viv run --fresh claude`";
                return Err(Error::new(ErrorKind::Usage, what).hint("viv agent ls").into());
            }
            return Ok(None);
        };
        let name = &preset.name;
        let AgentWords { prompt, arguments: own } = AgentWords::sort(words).map_err(|flag| {
            let ours = flag_of_run(&flag);
            let flag = clean(&flag).into_owned();
            let error = Error::new(ErrorKind::Usage, format!("{flag} stands after {name}, where its prompt is"));
            let error = match ours {
                Some(ours) => error.hint(format!("viv's own flags go before it: viv run {} {name}", clean(&ours))),
                None => error,
            };
            error
                .hint(format!("{name}'s own go after `--`: viv run {name} -- {flag}"))
                .hint(format!("a program called {name}: viv run -- env {name} {flag}"))
        })?;
        let prompt = match (prompt, surroundings) {
            (Some(prompt), Surroundings { terminal: true, .. }) => Prompt::First(prompt),
            (Some(prompt), _) => Prompt::Headless(prompt),
            (None, Surroundings { terminal: true, .. }) => Prompt::None,
            (None, _) if !own.is_empty() => Prompt::None,
            (None, Surroundings { input: Input::Stream, .. }) => Prompt::Input,
            // What it would do at a terminal, for whoever pipes that into a pager.
            (None, _) if arguments.dry_run => Prompt::None,
            (None, _) if arguments.attempts.attempts.is_some() => {
                let what = format!("attempts have no terminal, and there is nothing for {name} to do");
                let hint = format!("viv run --attempts 3 {name} \"fix the failing test\"");
                return Err(Error::new(ErrorKind::Usage, what).hint(hint).into());
            }
            (None, _) => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("there is no terminal here, and nothing for {name} to do"),
                )
                .hint(format!("viv run {name} \"fix the failing test\""))
                .hint(format!("echo \"fix the failing test\" | viv run {name}"))
                .into());
            }
        };
        Ok(Some(Self {
            preset,
            prompt,
            arguments: own,
            gateway: arguments.network.gateway.first().cloned(),
            fresh: arguments.fresh,
            import: arguments.import_config,
            surroundings,
        }))
    }

    /// The agent of this name, for a sandbox that stays: it is there to be called, and has nothing to do yet.
    /// `gateway` is the model API that the sandbox's settings name, if they do.
    ///
    /// # Errors
    /// A name that no preset has, a preset that cannot be used.
    pub fn named(name: &str, gateway: Option<String>, paths: &Paths) -> Result<Self, Failure> {
        let preset = find_preset(name, &paths.config.join("agents"))?.ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, format!("no agent is called {}", clean(name)));
            error.hint("viv agent ls")
        })?;
        Ok(Self {
            preset,
            prompt: Prompt::None,
            arguments: Vec::new(),
            gateway,
            fresh: false,
            import: false,
            surroundings: Surroundings { input: Input::Nothing, terminal: true },
        })
    }

    /// Whether it gets a terminal.
    #[must_use]
    pub fn at_terminal(&self) -> bool {
        self.surroundings.terminal
    }

    /// Whether what is typed at viv goes to it. A prompt that was given is all it is to wait for.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        !(matches!(self.prompt, Prompt::Headless(_)) && self.surroundings.input == Input::Terminal)
    }

    /// Its name, if only one sandbox may use its home at a time.
    #[must_use]
    pub fn alone(&self) -> Option<&str> {
        self.preset.preset.exclusive.then_some(self.preset.name.as_str())
    }

    /// What the preset asks for, under everything else. Memory is what the host has, at most.
    #[must_use]
    pub fn layer(&self, host: &HostEnvironment) -> Layer {
        fn found<T>(value: T) -> Found<T> {
            Found { value, origin: Origin::Preset }
        }
        let preset = &self.preset.preset;
        let memory = preset.memory.map(|memory| {
            let bytes = (memory.0 << 20).min(host.memory.map_or(u64::MAX, |there| there / 4 * 3));
            found(Size((bytes >> 20 << 20).max(DEFAULT_MEMORY.0)))
        });
        Layer {
            packages: preset.packages.iter().cloned().map(found::<Package>).collect(),
            allow: preset.allow.iter().cloned().map(found).collect(),
            // Whoever names model APIs has chosen.
            gateway: match self.gateway {
                Some(_) => Vec::new(),
                None => preset.gateway.iter().cloned().map(found).collect(),
            },
            memory,
            ..Layer::default()
        }
    }

    /// Makes a resolved run that of the agent; what it keeps is not touched yet.
    pub fn apply(&self, resolved: &mut Resolved, paths: &Paths) -> AgentStart {
        let sandbox = &mut resolved.sandbox;
        let start = self.preset.preset.start(&AgentRequest {
            workspace: sandbox.workspace.to_string_lossy().into_owned(),
            home: sandbox.user.home.clone(),
            gateway: self.gateway.clone(),
            gateway_port: GATEWAY_LISTENER,
            prompt: self.prompt.clone(),
            arguments: self.arguments.clone(),
        });
        resolved.exec.argv.clone_from(&start.command);
        for (name, value) in &start.environment {
            sandbox.environment.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let home = agent_home_of(paths, &self.preset.name, &sandbox.workspace);
        let shares = mounts_of(&home, &self.preset.preset.state, &sandbox.user.home);
        // Where the user has another share in mind, it is that one.
        let free = shares.into_iter().filter(|share| sandbox.mounts.iter().all(|m| m.destination != share.destination));
        let free: Vec<_> = free.collect();
        sandbox.mounts.extend(free);
        sandbox.transcripts.extend(transcripts_of(&home, &self.preset));
        start
    }

    /// Makes the agent's home ready; it is the agent's until it is dropped.
    ///
    /// # Errors
    /// A home that cannot be made, or that another sandbox uses alone.
    pub fn open_home(
        &self,
        start: &AgentStart,
        workspace: &Path,
        host: &HostEnvironment,
        paths: &Paths,
        printer: &Printer,
    ) -> Result<AgentHome, Failure> {
        let home = AgentHome::open(paths, &self.preset, workspace, self.fresh)?;
        printer.detail(&format!("{} keeps its state in {}", self.preset.name, home.path().display()));
        if self.import {
            self.import(&home, start, host, printer);
        }
        for reason in home.seed(&self.preset.preset, start) {
            printer.warning(
                &format!("{} may ask questions: {}", self.preset.name, clean(&reason)),
                Some(&format!("viv run --fresh {}", self.preset.name)),
            );
        }
        Ok(home)
    }

    fn import(&self, home: &AgentHome, start: &AgentStart, host: &HostEnvironment, printer: &Printer) {
        let Some(host_home) = &host.home else {
            return printer.warning("nothing is imported: HOME is not set", None);
        };
        let imported = home.import(&self.preset.preset, start, host_home);
        for left_out in &imported.left_out {
            printer.warning(&format!("not imported: {}", clean(left_out)), None);
        }
        let count = imported.copied.len();
        let files = if count == 1 { "file" } else { "files" };
        printer.note(&format!("{count} {files} of {}'s configuration imported", self.preset.name));
    }
}

/// The same if it is one of the flags of `viv run`, such as `--memory` or `-m`, with the place of a value that it takes
/// and does not have.
fn flag_of_run(flag: &str) -> Option<String> {
    let command = Cli::command();
    let flags =
        || command.find_subcommand("run").into_iter().flat_map(Command::get_arguments).chain(command.get_arguments());
    let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
    let found = match name.strip_prefix("--") {
        Some(long) => flags().find(|argument| argument.get_long() == Some(long)),
        None => flags().find(|argument| argument.get_short().is_some_and(|short| name.chars().nth(1) == Some(short))),
    }?;
    let is_whole = value.is_some() || !found.get_action().takes_values();
    Some(if is_whole { flag.to_owned() } else { format!("{flag} …") })
}

/// What was to be run and is not there may be an agent that was misspelt.
#[must_use]
pub fn about_program(program: &str, paths: &Paths, mut failure: Failure) -> Failure {
    // Everything resembles a name of two letters.
    const SHORTEST: usize = 4;
    let names = preset_names(&paths.config.join("agents")).unwrap_or_default();
    let names = names.iter().map(String::as_str).filter(|name| name.len() >= SHORTEST);
    if let (Some(name), Some(report)) = (nearest(program, names), &mut failure.report) {
        report.hints.push(format!("did you mean the agent? viv run {name}"));
    }
    failure
}

#[cfg(test)]
mod tests;
