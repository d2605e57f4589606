//! Carries out what mends a machine, saying each step before it is taken.

use std::io::Write;
use std::process::{Command, Stdio};

use super::checks::{Check, Status, Step};

/// How root's powers are to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// We are root.
    Already,
    /// sudo asks nothing.
    Sudo,
    /// Not at all without a question.
    Unavailable,
}

/// Finds out how root's powers are to be had.
#[must_use]
pub fn root() -> Root {
    if rustix::process::geteuid().is_root() {
        return Root::Already;
    }
    let asks_nothing = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if asks_nothing { Root::Sudo } else { Root::Unavailable }
}

/// The steps of all checks that are not well, each once: the refresh of package lists that
/// several begin with is needed only the first time.
#[must_use]
pub fn steps(checks: &[Check]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for check in checks.iter().filter(|check| check.status != Status::Ok) {
        for step in check.fix.iter().flat_map(|fix| &fix.steps) {
            if !steps.contains(step) {
                steps.push(step.clone());
            }
        }
    }
    steps
}

/// Takes one step. What the program prints goes to our stderr.
///
/// # Errors
/// What went wrong, for people.
pub fn take(step: &Step, root: Root) -> Result<(), String> {
    let argv: Vec<&str> = match step {
        Step::Run(argv) => argv.iter().map(String::as_str).collect(),
        // The one way that is the same with and without sudo.
        Step::Write { path, .. } => vec!["tee", path],
    };
    let argv: Vec<&str> = match root {
        Root::Already => argv,
        Root::Sudo => ["sudo", "-n"].into_iter().chain(argv).collect(),
        Root::Unavailable => return Err("it needs root, and sudo would ask for a password".to_owned()),
    };
    let Some((program, arguments)) = argv.split_first() else { return Err("there is nothing to run".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let input = if let Step::Write { content, .. } = step { content.as_str() } else { "" };
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    // Our stdout is for the result alone, which may be JSON.
    command.stdout(if input.is_empty() { Stdio::from(std::io::stderr()) } else { Stdio::null() });
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be run: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| format!("{program} reads nothing: {error}"))?;
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} failed: {status}")),
        Err(error) => Err(error.to_string()),
    }
}
