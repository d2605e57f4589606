//! `--dry-run` for people.

use std::fmt::Write;

use viv_error::Report;
use viv_sandbox::{NetworkMode, Plan, Way};

use crate::output::clean::clean;
use crate::output::{human_duration, name_of, shell_words};
use crate::resolve::Resolved;
use crate::settings::Origin;
use crate::settings::values::human_bytes;

/// A template's key as people see it: it need not be whole to be told from the others.
#[must_use]
pub fn short_key(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

/// How a machine comes to life, for `--verbose`.
#[must_use]
pub fn way(way: &Way) -> String {
    match way {
        Way::Template { key } => format!("from template {}", short_key(key)),
        Way::Spare { key } => format!("a spare of template {}", short_key(key)),
        Way::Cold { reason, make_template } => {
            let making = if *make_template { "; one is made in the background" } else { "" };
            format!("cold start: {reason}{making}")
        }
    }
}

/// What would be run, and where each setting comes from.
#[must_use]
pub fn dry_run(
    resolved: &Resolved,
    machine: Option<&Plan>,
    machine_error: Option<&Report>,
    to_build: &[&str],
) -> String {
    let spec = &resolved.sandbox;
    let exec = &resolved.exec;
    let mut text = String::from("sandbox\n");
    let mut row = |name: &str, key: &str, value: String| {
        let origin = match resolved.origins.get(key) {
            None | Some(Origin::Default) => String::new(),
            Some(origin) => format!("  ({})", origin.describe()),
        };
        let _ = writeln!(text, "  {name:<10} {}{origin}", clean(&value));
    };
    row("id", "", spec.id.clone());
    if let Some(name) = &spec.name {
        row("name", "name", name.clone());
    }
    row("cpus", "cpus", spec.cpus.to_string());
    row("memory", "memory", human_bytes(spec.memory_mib << 20));
    row("disk", "disk", human_bytes(spec.disk_bytes));
    row("vmm", "vmm", name_of(&spec.vmm));
    row("accel", "accel", name_of(&spec.accel));
    let file = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(|| "default".to_owned(), |path| path.to_string_lossy().into_owned())
    };
    row("kernel", "kernel", file(&spec.kernel.clone().map(Into::into)));
    row("image", "image", spec.image.clone().unwrap_or_default().to_string());
    for package in &spec.packages {
        row("package", "", package.to_string());
    }
    if let Some(nix) = &spec.nix {
        nix.flake.iter().for_each(|flake| row("flake", "flake", flake.clone()));
        if nix.whole_store {
            row("nix-store", "nix-store", "all of it".to_owned());
        }
    }
    row("workspace", "", spec.workspace.to_string_lossy().into_owned());
    for mount in &spec.mounts {
        let mode = if mount.read_only { ", read-only" } else { "" };
        row("mount", "", format!("{} at {}{mode}", mount.source.to_string_lossy(), mount.destination));
    }
    for file in &spec.files {
        row("file", "", file.path.clone());
    }
    for api in spec.network.gateway.iter().flat_map(|gateway| gateway.upstreams.keys()) {
        row("gateway", "", api.clone());
    }
    if let NetworkMode::Filtered { policy } = &spec.network.mode {
        for rule in &policy.allow {
            row("allow", "", rule.to_string());
        }
    }
    for (key, value) in &spec.labels {
        row("label", "", format!("{key}={value}"));
    }
    text.push_str("program\n");
    let mut row = |name: &str, key: &str, value: String| {
        let origin = match resolved.origins.get(key) {
            None | Some(Origin::Default) => String::new(),
            Some(origin) => format!("  ({})", origin.describe()),
        };
        let _ = writeln!(text, "  {name:<10} {}{origin}", clean(&value));
    };
    for command in &resolved.setup {
        row("first", "", format!("{}  ({})", shell_words(&command.argv), command.name));
    }
    row("command", "", if exec.argv.is_empty() { "login shell".to_owned() } else { shell_words(&exec.argv) });
    row("directory", "workdir", exec.cwd.clone());
    row("user", "user", exec.user.clone());
    let environment: std::collections::BTreeMap<_, _> = spec.environment.iter().chain(&exec.env).collect();
    for (name, value) in environment {
        row("env", "", format!("{name}={value}"));
    }
    if let Some(timeout) = resolved.timeout {
        row("timeout", "timeout", human_duration(timeout));
    }
    row("terminal", "", if exec.terminal.is_some() { "yes".to_owned() } else { "no".to_owned() });
    if let Some(plan) = machine {
        let _ = write!(text, "machine\n{plan}");
    }
    if let Some(report) = machine_error {
        let _ = writeln!(text, "machine\n  cannot be planned here: {}", clean(&report.message));
    }
    if !to_build.is_empty() {
        let _ = writeln!(text, "to build first\n  {}", to_build.join(", "));
    }
    for warning in &resolved.warnings {
        let _ = writeln!(text, "warning: {}", clean(&warning.message));
    }
    text
}
