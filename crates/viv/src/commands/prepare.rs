//! What comes before a machine: settings from all places, and the files it is made from.

use std::path::{Path, PathBuf};

use viv_image::{Cache, ImageConfig, ImageSource};
use viv_sandbox::{Artifacts, KernelChoice, Paths, Plan, SandboxSpec, Warning};

use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind, Failure};
use crate::guest_binary;
use crate::network::trusted;
use crate::output::clean::clean;
use crate::output::{Printer, ProgressReporter};
use crate::resolve::{self, Request, Resolved};
use crate::settings::Layer;
use crate::settings::file::{self, PROJECT_FILE, Trust};
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
    let asked = Asked { command_line: asked, weakest: Layer::default(), terminal: terminal::wanted() };
    settings_of(workspace, asked, command, host, paths)
}

/// What is asked for beside the configuration files.
pub struct Asked {
    /// By flags: over everything.
    pub command_line: Layer,
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
    let user_file = file::read(&paths.config.join("config.toml"), Trust::User { home: host.home.as_deref() })?;
    let mut project_file = file::read(&workspace.join(PROJECT_FILE), Trust::Project { workspace: &workspace })?;
    let untrusted = trusted::withhold(&mut project_file, &workspace, paths);
    let settings = asked.command_line.over(project_file).over(user_file).over(asked.weakest);
    let terminal = asked.terminal.then(terminal::size);
    let request = Request { id: viv_sandbox::new_id(), settings, workspace, command: command.to_vec(), terminal };
    let mut resolved = resolve::resolve(request, host, &|path| path.canonicalize())?;
    resolved.warnings.extend(untrusted.map(|message| Warning { message, hint: Some("viv net trust".to_owned()) }));
    Ok(resolved)
}

/// Plans a sandbox and builds what it is made from, if that is missing; marks on `clock` when the
/// first and the second of it was done. What its image says is then part of what was resolved.
///
/// # Errors
/// A machine that this host cannot run, an artifact that cannot be built.
pub fn plan(resolved: &mut Resolved, paths: &Paths, printer: &Printer, clock: &mut Clock) -> Result<Plan, Failure> {
    // Planned before anything is built: nobody wants to wait for an image only to learn that
    // there is no QEMU, or no such machine.
    let facts = viv_sandbox::probe_host(paths)?;
    let spec = &resolved.sandbox;
    let provisional = viv_sandbox::plan(spec, &artifacts_to_be(spec), &facts)?;
    for warning in &provisional.warnings {
        printer.warning(&warning.message, warning.hint.as_deref());
    }
    clock.mark("settings");
    let (artifacts, config) = build(spec, paths, printer)?;
    resolve::apply_image_config(resolved, &config);
    let plan = viv_sandbox::plan(&resolved.sandbox, &artifacts, &facts)?;
    clock.mark("artifacts");
    Ok(plan)
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

/// Makes sure of kernel, initramfs, root image and an empty disk. Also returns how the image's programs are
/// to be run.
fn build(spec: &SandboxSpec, paths: &Paths, printer: &Printer) -> Result<(Artifacts, ImageConfig), Failure> {
    let cache = Cache::open(&paths.cache)?;
    let progress = ProgressReporter::new(printer);
    let kernel_source = super::kernel::source(&cache, spec.kernel.as_ref(), printer)?;
    let image_source = spec.image.clone().unwrap_or_default();
    let kernel = viv_image::ensure_kernel(&cache, &kernel_source, &progress)?;
    printer.detail(&super::kernel::describe(&kernel, &kernel_source));
    let initramfs = viv_image::ensure_initramfs(&cache, &kernel, &guest_binary::GUEST)?;
    let root = viv_image::ensure_root(&cache, &image_source, &progress)?;
    let layers = viv_image::ensure_layers(&cache, &root, &spec.packages, &progress)?;
    let scratch = viv_image::ensure_scratch(&cache, spec.disk_bytes)?;
    let artifacts = Artifacts {
        kernel: kernel.vmlinux,
        kernel_digest: kernel.digest,
        initramfs,
        root: root.path,
        root_digest: root.digest,
        layers: layers.into_iter().map(|layer| layer.path).collect(),
        scratch,
    };
    Ok((artifacts, root.config))
}
