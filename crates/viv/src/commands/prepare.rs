//! What comes before a machine: settings from all places, and the files it is made from.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use viv_image::nix::Roots;
use viv_image::{Cache, ImageSource, Lease, Manager, Progress, ProgressEvent, RootImage};
use viv_sandbox::{Artifacts, HostFacts, KernelChoice, Paths, Plan, SandboxSpec, Warning};

use super::nix;
use crate::definition::USER_FILE;
use crate::devcontainer::{self, Context, Translated};
use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind, Failure};
use crate::guest_binary;
use crate::lock::ProjectLock;
use crate::network::trusted;
use crate::output::clean::clean;
use crate::output::{Printer, ProgressReporter};
use crate::resolve::{self, Request, Resolved};
use crate::settings::file::{self, PROJECT_FILE, Trust};
use crate::settings::{DevContainerChoice, Layer};
use crate::terminal;
use crate::timing::Clock;

/// The settings of a sandbox on `workspace`, the current directory unless named, from all places:
/// `asked` are those of the command line.
///
/// # Errors
/// A workspace or a configuration file that cannot be used, and those of [`resolve::resolve`].
pub fn settings(
    workspace: Option<&Path>,
    asked: Layer,
    command: &[String],
    host: &HostEnvironment,
    paths: &Paths,
) -> Result<Resolved, Failure> {
    let asked = Asked { command_line: asked, terminal: terminal::wanted(), ..Asked::default() };
    settings_of(workspace, asked, command, host, paths)
}

/// What is asked for beside the sections of configuration files that are for every sandbox.
#[derive(Default)]
pub struct Asked {
    /// By flags: over everything.
    pub command_line: Layer,
    /// By the section of a file that describes this one sandbox: see [`crate::definition`].
    pub definition: Layer,
    /// By an agent's preset: under everything.
    pub weakest: Layer,
    /// Whether the program gets a terminal.
    pub terminal: bool,
}

/// The same with all that can be asked for.
///
/// # Errors
/// Those of [`settings`].
pub fn settings_of(
    workspace: Option<&Path>,
    asked: Asked,
    command: &[String],
    host: &HostEnvironment,
    paths: &Paths,
) -> Result<Resolved, Failure> {
    let mut resolved = unlocked(workspace, asked, command, host, paths)?;
    ProjectLock::apply_to(&mut resolved)?;
    Ok(resolved)
}

/// The same without regard to the project's lock.
///
/// # Errors
/// Those of [`settings`].
pub fn unlocked(
    workspace: Option<&Path>,
    asked: Asked,
    command: &[String],
    host: &HostEnvironment,
    paths: &Paths,
) -> Result<Resolved, Failure> {
    let named = workspace.unwrap_or(Path::new("."));
    let workspace = host.directory.join(named).canonicalize().map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("the workspace {} cannot be opened", clean(&named.to_string_lossy())))
            .source(error)
    })?;
    if !workspace.is_dir() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the workspace {} is not a directory", clean(&named.to_string_lossy())),
        )
        .hint("share a single file with --mount")
        .into());
    }
    let user_file = file::read(&paths.config.join(USER_FILE), Trust::User { home: host.home.as_deref() })?.layer;
    let project = file::read(&workspace.join(PROJECT_FILE), Trust::Project { workspace: &workspace })?;
    let trusted = trusted::is_trusted(&project, &workspace, paths);
    let mut project_file = project.layer;
    let untrusted = if trusted { None } else { trusted::withhold(&mut project_file) };
    let places = [&asked.command_line, &asked.definition, &project_file, &user_file];
    let chosen = places.into_iter().find_map(|layer| layer.devcontainer.as_ref());
    let chosen = chosen.map_or(DevContainerChoice::Off, |found| found.value.clone());
    let has_image = places[..3].iter().any(|layer| layer.image.is_some());
    let container = container(&chosen, &workspace, has_image)?;
    let of_this_one = asked.command_line.over(asked.definition);
    let settings = of_this_one.over(project_file).over(container.layer).over(user_file).over(asked.weakest);
    let terminal = asked.terminal.then(terminal::size);
    let request = Request { id: viv_sandbox::new_id(), settings, workspace, command: command.to_vec(), terminal };
    let mut resolved = resolve::resolve(request, host, &|path| path.canonicalize())?;
    resolved.warnings.extend(untrusted.map(|message| Warning { message, hint: Some("viv net trust".to_owned()) }));
    let machine = &resolved.sandbox;
    let unmet = container.needs.unmet(machine.cpus, machine.memory_mib << 20, machine.disk_bytes);
    resolved.warnings.extend(container.warnings.into_iter().chain(unmet));
    resolved.setup = container.setup;
    resolved.details = container.details;
    Ok(resolved)
}

/// What the project's devcontainer.json asks for, if it counts.
fn container(choice: &DevContainerChoice, workspace: &Path, has_image: bool) -> Result<Translated, Error> {
    let Some(file) = devcontainer::read(workspace, choice)? else {
        let mut none = Translated::default();
        if devcontainer::found(workspace) {
            none.details.push("there is a devcontainer.json, which counts only with --devcontainer".to_owned());
        }
        return Ok(none);
    };
    devcontainer::translate(file, &Context { workspace, has_image, canonicalize: &|path| path.canonicalize() })
}

/// What a sandbox is made from, kept for it.
pub struct Held {
    /// In viv's cache.
    pub lease: Lease,
    /// In nix's store.
    _roots: Option<Roots>,
    artifacts: Artifacts,
    facts: HostFacts,
}

impl Held {
    /// Plans another sandbox that is made from the same.
    ///
    /// # Errors
    /// A machine that this host cannot run.
    pub fn plan(&self, spec: &SandboxSpec) -> Result<Plan, Failure> {
        Ok(viv_sandbox::plan(spec, &self.artifacts, &self.facts)?)
    }
}

/// Plans a sandbox and builds what it is made from, if that is missing; marks on `clock` when the
/// first and the second of it was done. What its image says and what nix provides is then part of
/// what was resolved. What it is made from stays as long as the second value lives.
///
/// # Errors
/// A machine that this host cannot run, an artifact that cannot be built.
pub fn plan(
    resolved: &mut Resolved,
    paths: &Paths,
    printer: &Printer,
    clock: &mut Clock,
) -> Result<(Plan, Held), Failure> {
    // Planned before anything is built: nobody wants to wait for an image only to learn that
    // there is no QEMU, or no such machine.
    let facts = viv_sandbox::probe_host(paths)?;
    let spec = &resolved.sandbox;
    let provisional = viv_sandbox::plan(spec, &artifacts_to_be(spec), &facts)?;
    for warning in &provisional.warnings {
        printer.warning(&warning.message, warning.hint.as_deref());
    }
    clock.mark("settings");
    let Built { artifacts, lease, root, .. } = build(resolved, paths, printer)?;
    resolve::apply_image_config(resolved, &root.config);
    let roots = nix::provide(resolved, paths, printer)?;
    let held = Held { lease, _roots: roots, artifacts, facts };
    let plan = held.plan(&resolved.sandbox)?;
    clock.mark("artifacts");
    Ok((plan, held))
}

/// Where artifacts will be is decided when they are made; their names say enough for a plan.
#[must_use]
pub fn artifacts_to_be(spec: &SandboxSpec) -> Artifacts {
    Artifacts {
        kernel: match &spec.kernel {
            Some(KernelChoice::File(path)) => path.clone(),
            _ => PathBuf::from("KERNEL"),
        },
        kernel_digest: String::new(),
        initramfs: PathBuf::from("INITRAMFS"),
        root: match &spec.image {
            Some(ImageSource::Erofs(path)) => path.clone(),
            _ => PathBuf::from("ROOT"),
        },
        root_digest: String::new(),
        layers: Vec::new(),
        scratch: PathBuf::from("SCRATCH"),
    }
}

/// What a machine is made from.
pub struct Built {
    /// The files.
    pub artifacts: Artifacts,
    /// Keeps them in the cache.
    pub lease: Lease,
    /// The root image among them.
    pub root: RootImage,
    /// The layers among them, the lowest first.
    pub layers: Vec<viv_image::Layer>,
}

/// Makes sure of kernel, initramfs, root image, layers and an empty disk. If anything was made for it,
/// images beyond the cache's limit that nobody uses are removed.
///
/// # Errors
/// Those of making them; a sandbox that runs already does not mind.
pub fn build(resolved: &Resolved, paths: &Paths, printer: &Printer) -> Result<Built, Failure> {
    let spec = &resolved.sandbox;
    let cache = Cache::open(&paths.cache)?;
    let reporter = ProgressReporter::new(printer);
    let progress = Noticing { inner: &reporter, made: AtomicBool::new(false) };
    let kernel_source = super::kernel::source(&cache, spec.kernel.as_ref(), printer)?;
    let image_source = spec.image.clone().unwrap_or_default();
    let kernel = viv_image::ensure_kernel(&cache, &kernel_source, &progress)?;
    printer.detail(&super::kernel::describe(&kernel, &kernel_source));
    let initramfs = viv_image::ensure_initramfs(&cache, &kernel, &guest_binary::GUEST)?;
    let mut lease = cache.lease(&spec.id)?;
    let (root, layers) = loop {
        let root = viv_image::ensure_root(&cache, &image_source, &progress)?;
        if let Some(lock) = &resolved.lock {
            lock.check(&spec.workspace, &root)?;
        }
        // Held before anything is built over it. Whoever removes may have been quicker.
        if !lease.add([root.path.as_path()])? {
            continue;
        }
        // Those of nix are no layers.
        if spec.packages.iter().all(|package| package.manager == Manager::Nix) {
            break (root, Vec::new());
        }
        lease.set_building(true)?;
        let layers = viv_image::ensure_layers(&cache, &root, &spec.packages, &progress)
            .map_err(|error| about_packages(resolved, error))?;
        lease.set_building(false)?;
        if lease.add(layers.iter().map(|layer| layer.path.as_path()))? {
            break (root, layers);
        }
    };
    let scratch = viv_image::ensure_scratch(&cache, spec.disk_bytes)?;
    if progress.made.into_inner()
        && let Err(failure) = super::image::evict(paths, resolved.cache_limit, printer)
    {
        // What could not be removed keeps nobody from working.
        let why = failure.report.map(|report| report.message).unwrap_or_default();
        printer.warning(&format!("the cache could not be kept within its limit: {why}"), Some("viv image prune"));
    }
    let artifacts = Artifacts {
        kernel: kernel.vmlinux,
        kernel_digest: kernel.digest,
        initramfs,
        root: root.path.clone(),
        root_digest: root.digest.clone(),
        layers: layers.iter().map(|layer| layer.path.clone()).collect(),
        scratch,
    };
    Ok(Built { artifacts, lease, root, layers })
}

/// A package that nobody knows may be one that the lock has, or a command that `--package` has swallowed.
fn about_packages(resolved: &Resolved, error: viv_image::Error) -> viv_image::Error {
    let error = match &resolved.lock {
        Some(lock) => lock.explain(error),
        None => error,
    };
    let maybe_a_command = resolved.sandbox.command.is_empty() && resolved.sandbox.packages.len() > 1;
    match error.kind() {
        viv_image::ErrorKind::NoSuchPackage if maybe_a_command => {
            error.hint("a command comes after `--`: viv run -p git -- make")
        }
        _ => error,
    }
}

/// Notices whether anything is made.
struct Noticing<'a> {
    inner: &'a dyn Progress,
    made: AtomicBool,
}

impl Progress for Noticing<'_> {
    fn event(&self, event: ProgressEvent) {
        if matches!(event, ProgressEvent::Started { .. }) {
            self.made.store(true, Ordering::Relaxed);
        }
        self.inner.event(event);
    }
}
