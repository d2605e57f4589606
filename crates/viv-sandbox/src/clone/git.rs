//! git on the host, told to run nothing but itself.
//!
//! The repository may come from a stranger, so its own configuration names no program that is run here: hooks,
//! fsmonitor and lazy fetching are off for every command, and only commands are used that run no filter.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::{Error, ErrorKind, Result};

/// Stronger than any file: what git would run, or wait for.
const SETTINGS: [&str; 9] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.untrackedCache=false",
    "core.sshCommand=false",
    "core.alternateRefsCommand=true",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "credential.helper=",
];

/// A git command for a repository or a directory of one.
pub(super) fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    // What the user's shell says of another repository is not meant for this one.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            git.env_remove(name);
        }
    }
    git.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_LAZY_FETCH", "1");
    git.env("LC_ALL", "C").stdin(Stdio::null()).arg("-C").arg(directory);
    for setting in SETTINGS {
        git.arg("-c").arg(setting);
    }
    git
}

/// Runs a command; returns what it says, or `None` if it ends with exit code 1: git's way to say no.
pub(super) fn ask<S: AsRef<OsStr>>(directory: &Path, arguments: &[S]) -> Result<Option<Vec<u8>>> {
    let output = git(directory).args(arguments).output().map_err(cannot_run)?;
    match output.status.code() {
        Some(0) => Ok(Some(output.stdout)),
        Some(1) => Ok(None),
        _ => Err(refused(&output)),
    }
}

/// Runs a command that has to end well.
pub(super) fn run(mut command: Command) -> Result<Vec<u8>> {
    let output = command.output().map_err(cannot_run)?;
    if output.status.success() { Ok(output.stdout) } else { Err(refused(&output)) }
}

/// The same with something to read.
pub(super) fn run_with_input(mut command: Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(cannot_run)?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    })
    .map_err(cannot_run)?;
    if output.status.success() { Ok(output.stdout) } else { Err(refused(&output)) }
}

fn cannot_run(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Repository, "git cannot be run on this host").source(error).hint("sudo apt install git")
}

fn refused(output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("git said nothing");
    Error::new(ErrorKind::Repository, "git refused").source(viv_vmm::clean(last))
}
