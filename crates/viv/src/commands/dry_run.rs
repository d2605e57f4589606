//! `viv run --dry-run`

use serde::Serialize;
use viv_image::{Cache, KernelSource};
use viv_sandbox::{KernelChoice, Paths, Plan};

use super::prepare::artifacts_to_be;
use crate::attempts;
use crate::error::Failure;
use crate::output::{print, print_json};
use crate::render;
use crate::resolve::{self, Resolved};

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
    /// How often it would be run, and under which names.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<&'a attempts::Plan>,
}

/// Prints what would be run, in which machine, and what would have to be built first. What the image says of that
/// is heeded if it is in the cache.
///
/// # Errors
/// A stdout that cannot be written; a machine that cannot be planned is part of what is shown.
pub fn dry_run(
    resolved: &mut Resolved,
    attempts: Option<&attempts::Plan>,
    paths: &Paths,
    json: bool,
) -> Result<u8, Failure> {
    let cache = Cache::open(&paths.cache).ok();
    let source = resolved.sandbox.image.clone().unwrap_or_default();
    if let Some(config) = cache.as_ref().and_then(|cache| viv_image::known_config(cache, &source)) {
        resolve::apply_image_config(resolved, &config);
    }
    let resolved = &*resolved;
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
    let shown = DryRun { resolved, machine, machine_error, to_build, attempts };
    if json {
        print_json(&shown)?;
    } else {
        let attempts = attempts.map(|plan| format!("attempts\n  {}\n", plan.describe())).unwrap_or_default();
        let one = render::dry_run(resolved, shown.machine.as_ref(), shown.machine_error.as_ref(), &shown.to_build);
        print(&(attempts + &one))?;
    }
    Ok(0)
}
