//! What a sandbox is to have of the host's nix, provided and written into its specification.

use viv_image::nix::{self, NixEnvironment, Request, Roots, STATE_FILE};
use viv_image::{Manager, Package};
use viv_proto::message::GuestFile;
use viv_sandbox::Paths;

use crate::error::Failure;
use crate::output::{Printer, ProgressReporter};
use crate::resolve::Resolved;

/// What a login shell reads: it has a PATH of its own otherwise.
const PROFILE: &str = "/etc/profile.d/viv-nix.sh";

/// The PATH of programs inside that was not changed, below the home directory.
const DEFAULT_PATH: &str = "/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Adds what nix provides, which stays as long as the roots live.
///
/// # Errors
/// Those of [`nix::resolve`].
pub fn provide(resolved: &mut Resolved, paths: &Paths, printer: &Printer) -> Result<Option<Roots>, Failure> {
    let spec = &mut resolved.sandbox;
    let Some(wanted) = &mut spec.nix else { return Ok(None) };
    let of_image = |package: &Package| package.manager == Manager::System && package.name.starts_with("nix");
    let request = Request {
        attributes: nix::attributes(&spec.packages),
        flake: wanted.flake.clone(),
        whole_store: wanted.whole_store,
        image_has_nix: spec.packages.iter().any(of_image),
        untrusted: std::iter::once(&spec.workspace)
            .chain(spec.mounts.iter().filter(|mount| !mount.read_only).map(|mount| &mount.source))
            .cloned()
            .collect(),
    };
    let roots = Roots::create(&paths.state, &spec.id)?;
    let environment = nix::resolve(&request, &roots, &ProgressReporter::new(printer))?;
    let below = spec.environment.remove("PATH").unwrap_or_else(|| format!("{}{DEFAULT_PATH}", spec.user.home));
    spec.environment.extend(environment.variables.clone());
    spec.environment.insert("PATH".to_owned(), environment.path_before(&below));
    let file =
        |path: &str, content: String, of_user| GuestFile { path: path.to_owned(), content, mode: 0o644, of_user };
    spec.files.push(file(PROFILE, profile(&environment), false));
    spec.files.push(file(STATE_FILE, String::new(), true));
    resolved.exec.argv = environment.command(std::mem::take(&mut resolved.exec.argv));
    wanted.environment = Some(environment);
    Ok(Some(roots))
}

/// Directories of the store have no character that a shell takes for anything else.
fn profile(environment: &NixEnvironment) -> String {
    format!("PATH={}\nexport PATH\n", environment.path_before("$PATH"))
}
