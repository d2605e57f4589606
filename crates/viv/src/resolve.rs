//! From settings to what is run: pure, so that `--dry-run` shows exactly what a run would do.

mod image;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use viv_image::{ImageSource, Manager, Package, Platform};
use viv_proto::message::{Exec, TerminalSize, User};
use viv_sandbox::{
    AccelChoice, CopySelection, Mount, NetworkSpec, NixSpec, Recording, SandboxSpec, TemplateUse, VmmChoice, Warning,
    WorkspaceMode,
};

use crate::devcontainer::SetupCommand;
use crate::environment::{HostEnvironment, is_time_zone};
use crate::error::{Error, ErrorKind};
use crate::lock::ProjectLock;
use crate::network::NetworkRequest;
use crate::output::clean::clean;
use crate::settings::layer::Found;
use crate::settings::values::{Size, human_bytes};
use crate::settings::{
    DEFAULT_CACHE_LIMIT, DEFAULT_DISK, DEFAULT_MEMORY, EnvironmentValue, Layer, MountRequest, Origin, default_cpus,
};

pub use image::apply_image_config;

/// The ordinary user inside.
pub const AGENT: &str = "agent";

/// Its user and group id where the host user is root, whose own would not be ordinary.
const AGENT_ID_FOR_ROOT: u32 = 1000;

/// What a run was asked to do, settings aside.
#[derive(Debug)]
pub struct Request {
    /// The sandbox's id.
    pub id: String,
    /// Settings of all places.
    pub settings: Layer,
    /// The directory to share, canonical.
    pub workspace: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The terminal the program gets.
    pub terminal: Option<TerminalSize>,
}

/// A run with nothing left open.
#[derive(Debug, Serialize)]
pub struct Resolved {
    /// The sandbox, without its network.
    pub sandbox: SandboxSpec,
    /// The program in it.
    pub exec: Exec,
    /// What is put before the command in place of the image's own entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The project's lock, as far as it counts.
    #[serde(skip)]
    pub lock: Option<ProjectLock>,
    /// What is asked of the network, which looks at more of the host to be resolved.
    #[serde(skip)]
    pub network: NetworkRequest,
    /// How long the program may take.
    #[serde(rename = "timeout_ms", serialize_with = "as_milliseconds")]
    pub timeout: Option<Duration>,
    /// Where each setting that has a single value was found.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What is less than was asked for.
    pub warnings: Vec<Warning>,
    /// What runs inside before the program, as the same user and in the same place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<SetupCommand>,
    /// What images may take of the disk, bytes.
    #[serde(skip)]
    pub cache_limit: u64,
    /// What only `--verbose` wants to know.
    #[serde(skip)]
    pub details: Vec<String>,
}

fn as_milliseconds<S: serde::Serializer>(timeout: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    timeout.map(crate::output::milliseconds).serialize(serializer)
}

/// The image for one of its platforms.
fn for_platform(image: ImageSource, platform: Platform) -> Result<ImageSource, Error> {
    image.for_platform(platform).map_err(|error| {
        let refused = Error::new(ErrorKind::Usage, error.to_string());
        error.hints().iter().fold(refused, |refused, hint| refused.hint(hint.clone()))
    })
}

/// Resolves a run. `canonicalize` is the one question to the file system.
///
/// # Errors
/// Paths that cannot be opened, shares that get in each other's way, more memory than there is.
pub fn resolve(
    request: Request,
    host: &HostEnvironment,
    canonicalize: &dyn Fn(&Path) -> io::Result<PathBuf>,
) -> Result<Resolved, Error> {
    let Request { id, mut settings, workspace, command, terminal } = request;
    let mut origins = BTreeMap::new();
    let mut pick = |key: &'static str, origin: Option<Origin>| {
        origins.insert(key, origin.unwrap_or(Origin::Default));
    };
    fn origin<T>(found: Option<&Found<T>>) -> Option<Origin> {
        found.map(|found| found.origin)
    }
    pick("cpus", origin(settings.cpus.as_ref()));
    pick("memory", origin(settings.memory.as_ref()));
    pick("disk", origin(settings.disk.as_ref()));
    pick("vmm", origin(settings.vmm.as_ref()));
    pick("accel", origin(settings.accel.as_ref()));
    pick("kernel", origin(settings.kernel.as_ref()));
    pick("image", origin(settings.image.as_ref()));
    pick("flake", origin(settings.flake.as_ref()));
    pick("nix-store", origin(settings.nix_store.as_ref()));
    pick("platform", origin(settings.platform.as_ref()));
    pick("template", origin(settings.template.as_ref()));
    pick("spares", origin(settings.spares.as_ref()));
    pick("workdir", origin(settings.workdir.as_ref()));
    pick("workspace-mode", origin(settings.workspace_mode.as_ref()));
    pick("untracked", origin(settings.untracked.as_ref()));
    pick("uncommitted", origin(settings.uncommitted.as_ref()));
    pick("git-guard", origin(settings.git_guard.as_ref()));
    pick("user", origin(settings.user.as_ref()));
    pick("timeout", origin(settings.timeout.as_ref()));
    pick("record", origin(settings.recording.as_ref()));
    pick("name", origin(settings.name.as_ref()));
    pick("net", origin(settings.net.as_ref()));
    let copied = copy_selection(&settings)?;
    let network = NetworkRequest::take(&mut settings);

    let mut warnings = Vec::new();
    let cpus = settings.cpus.map_or_else(|| default_cpus(host.cpus), |found| found.value);
    if cpus > host.cpus {
        warnings.push(Warning {
            message: format!("{cpus} CPUs are asked for, but the host has {}: they will share", host.cpus),
            hint: None,
        });
    }
    let memory = settings.memory.map_or(DEFAULT_MEMORY, |found| found.value);
    check_memory(memory, host)?;
    let mounts = resolve_mounts(settings.mounts, &workspace, canonicalize)?;
    let file = |what: &str, path: PathBuf| canonicalize(&path).map_err(|error| cannot_open(what, &path, error));
    let image = settings.image.map(|found| found.value.try_map_path(|path| file("the image", path))).transpose()?;
    let workspace_text = text_of("the workspace", &workspace)?;
    let name = settings.name.map(|found| found.value);

    let packages: Vec<Package> = settings.packages.into_iter().map(|found| found.value).collect();
    let nix = NixSpec {
        flake: settings.flake.map(|found| found.value),
        whole_store: settings.nix_store.is_some_and(|found| found.value),
        environment: None,
    };
    let has_nix = nix != NixSpec::default() || packages.iter().any(|package| package.manager == Manager::Nix);

    let sandbox = SandboxSpec {
        hostname: name.clone().unwrap_or_else(|| format!("viv-{id}")),
        id,
        name,
        labels: settings.labels.into_iter().map(|(key, found)| (key, found.value)).collect(),
        command: command.clone(),
        cpus,
        memory_mib: memory.mebibytes(),
        disk_bytes: settings.disk.map_or(DEFAULT_DISK, |found| found.value).0,
        vmm: settings.vmm.map_or(VmmChoice::Qemu, |found| found.value),
        accel: settings.accel.map_or(AccelChoice::Auto, |found| found.value),
        kernel: settings.kernel.map(|found| found.value.try_map_file(|path| file("the kernel", path))).transpose()?,
        image: match settings.platform {
            None => image,
            Some(platform) => Some(for_platform(image.unwrap_or_default(), platform.value)?),
        },
        packages,
        nix: has_nix.then_some(nix),
        environment: BTreeMap::new(),
        files: Vec::new(),
        template: settings.template.map_or(TemplateUse::Auto, |found| found.value),
        spares: settings.spares.map_or(0, |found| found.value),
        timezone: host.timezone.clone(),
        workspace,
        mounts,
        user: agent(host),
        network: NetworkSpec::default(),
        workspace_mode: settings.workspace_mode.map_or(WorkspaceMode::Live, |found| found.value),
        copied,
        protect: settings.protect.into_iter().map(|found| found.value).collect(),
        git_guard: settings.git_guard.is_none_or(|found| found.value),
        persistent_disk: None,
        recording: settings.recording.map_or_else(Recording::default, |found| found.value),
        transcripts: Vec::new(),
        boot_deadline_seconds: host.boot_deadline()?.as_secs().max(1),
    };
    let exec = Exec {
        argv: command,
        env: environment(settings.env, terminal.is_some(), host),
        cwd: working_directory(settings.workdir.map(|found| found.value), &workspace_text),
        user: settings.user.map_or_else(|| AGENT.to_owned(), |found| found.value),
        terminal,
    };
    Ok(Resolved {
        sandbox,
        exec,
        entrypoint: None,
        network,
        timeout: settings.timeout.map(|found| found.value),
        origins,
        warnings,
        lock: None,
        setup: Vec::new(),
        cache_limit: settings.cache_limit.map_or(DEFAULT_CACHE_LIMIT, |found| found.value).0,
        details: Vec::new(),
    })
}

/// The ordinary user inside, who is the host user as far as files are concerned.
fn agent(host: &HostEnvironment) -> User {
    let ordinary = |id: u32| if host.uid == 0 || id == 0 { AGENT_ID_FOR_ROOT } else { id };
    User { name: AGENT.to_owned(), uid: ordinary(host.uid), gid: ordinary(host.gid), home: format!("/home/{AGENT}") }
}

/// What a copy of the workspace has. Who asks for it asks for a copy.
fn copy_selection(settings: &Layer) -> Result<CopySelection, Error> {
    let is_copy = settings.workspace_mode.as_ref().is_some_and(|mode| mode.value == WorkspaceMode::Clone);
    let value = |found: &Option<Found<bool>>, flag: &str| match found {
        Some(Found { origin: Origin::CommandLine, .. }) if !is_copy => {
            let message = format!("{flag} is for a copy of the workspace");
            Err(Error::new(ErrorKind::Usage, message).hint("--workspace clone"))
        }
        found => Ok(found.as_ref().is_none_or(|found| found.value)),
    };
    Ok(CopySelection {
        untracked: value(&settings.untracked, "--untracked")?,
        uncommitted: value(&settings.uncommitted, "--uncommitted")?,
    })
}

fn check_memory(memory: Size, host: &HostEnvironment) -> Result<(), Error> {
    match host.memory {
        Some(available) if memory.0 > available => Err(Error::new(
            ErrorKind::Usage,
            format!("{} of memory are asked for, but this host has {}", human_bytes(memory.0), human_bytes(available)),
        )
        .hint(format!("--memory {}", half(available)))),
        _ => Ok(()),
    }
}

/// Half of it, as one would type it.
fn half(bytes: u64) -> Size {
    let unit = if bytes >= 4 << 30 { 1 << 30 } else { 1 << 20 };
    Size((bytes / 2 / unit).max(1) * unit)
}

fn resolve_mounts(
    requests: Vec<Found<MountRequest>>,
    workspace: &Path,
    canonicalize: &dyn Fn(&Path) -> io::Result<PathBuf>,
) -> Result<Vec<Mount>, Error> {
    let mut resolved: BTreeMap<String, Found<Mount>> = BTreeMap::new();
    for Found { value: request, origin } in requests {
        let source =
            canonicalize(&request.source).map_err(|error| cannot_open("the mount's source", &request.source, error))?;
        let destination = match request.destination {
            Some(destination) => destination,
            None => text_of("the mount's source", &source)?,
        };
        if Path::new(&destination) == workspace {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} is already where the workspace is", clean(&destination)),
            ));
        }
        let mount = Mount { source, destination: destination.clone(), read_only: request.read_only, coherent: false };
        // A place asked for twice: the command line's wish replaces a file's; twice in one place is a slip.
        match resolved.insert(destination, Found { value: mount, origin }) {
            Some(earlier) if earlier.origin == origin => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("two mounts have the same destination, {}", clean(&earlier.value.destination)),
                ));
            }
            _ => {}
        }
    }
    Ok(resolved.into_values().map(|found| found.value).collect())
}

fn cannot_open(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} {} cannot be opened", clean(&path.to_string_lossy()))).source(error)
}

fn text_of(what: &str, path: &Path) -> Result<String, Error> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{what} {} has a name that is not UTF-8", clean(&path.to_string_lossy())))
    })
}

/// Where the program starts: relative directories are meant from the workspace.
#[must_use]
pub fn working_directory(workdir: Option<String>, workspace: &str) -> String {
    match workdir {
        None => workspace.to_owned(),
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(relative) => format!("{}/{relative}", workspace.trim_end_matches('/')),
    }
}

/// The program's environment: what a terminal needs, and what was asked for.
#[must_use]
pub fn environment(
    asked: BTreeMap<String, Found<EnvironmentValue>>,
    at_terminal: bool,
    host: &HostEnvironment,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    let mut hand_over = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            environment.insert(name.to_owned(), value);
        }
    };
    let host_value = |name: &str| host.variables.get(name).filter(|value| !value.is_empty()).cloned();
    if at_terminal {
        hand_over("TERM", Some(known_terminal(host.variables.get("TERM").map_or("", String::as_str)).to_owned()));
        hand_over("COLORTERM", host_value("COLORTERM"));
    }
    hand_over("NO_COLOR", host_value("NO_COLOR"));
    hand_over("TZ", host_value("TZ").filter(|zone| is_time_zone(zone)));
    for (name, found) in asked {
        match found.value {
            EnvironmentValue::Literal(value) => {
                environment.insert(name, value);
            }
            EnvironmentValue::FromHost => {
                if let Some(value) = host.variables.get(&name) {
                    environment.insert(name, value.clone());
                }
            }
        }
    }
    environment
}

/// The terminals of Debian's ncurses-base: programs inside know no other.
const KNOWN_TERMINALS: &[&str] = &[
    "ansi",
    "dumb",
    "linux",
    "rxvt",
    "rxvt-basic",
    "rxvt-unicode",
    "rxvt-unicode-256color",
    "screen",
    "screen-256color",
    "screen-256color-bce",
    "screen-bce",
    "screen.xterm-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt102",
    "vt220",
    "vt52",
    "xterm",
    "xterm-256color",
    "xterm-color",
    "xterm-mono",
];

fn known_terminal(terminal: &str) -> &str {
    if KNOWN_TERMINALS.contains(&terminal) { terminal } else { "xterm-256color" }
}

#[cfg(test)]
mod tests;
