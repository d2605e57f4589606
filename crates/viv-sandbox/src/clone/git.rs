//! git on the host, told to run nothing but itself.
//!
//! The repository may come from a stranger, so its own configuration names no program that is run here: hooks,
//! fsmonitor and lazy fetching are off for every command, and only commands are used that run no filter.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::fault;
use crate::error::io;
use crate::{Error, ErrorKind, Result};

/// As much is read of what a git says that runs apart, in bytes.
const MOST_SAID_BYTES: usize = 64 << 10;

/// The most memory of its own that a git gets which reads what a guest made, in bytes: of one object there may be
/// more when it is unpacked than there was on the way.
const MOST_MEMORY_BYTES: u64 = 4 << 30;

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
        _ => Err(refused(&output.stderr)),
    }
}

/// Runs a command that has to end well.
pub(super) fn run(mut command: Command) -> Result<Vec<u8>> {
    let output = command.output().map_err(cannot_run)?;
    if output.status.success() { Ok(output.stdout) } else { Err(refused(&output.stderr)) }
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
    if output.status.success() { Ok(output.stdout) } else { Err(refused(&output.stderr)) }
}

/// Runs a command that changes the host's repository, to its end whatever becomes of this process: half done, it would
/// leave locks and files that nobody asked for. It is in a process group of its own, where no ctrl-C reaches it; it
/// writes to a file, and not to someone who may be gone; and that file is `lock`, held for as long as any process of
/// it is there.
pub(super) fn run_apart(mut command: Command, lock: &File) -> Result<()> {
    let failed = || io("git's lock cannot be used");
    lock.set_len(0).map_err(failed())?;
    command.stdout(lock.try_clone().map_err(failed())?).stderr(lock.try_clone().map_err(failed())?).process_group(0);
    let mut child = start(command)?;
    fault::point();
    if child.wait().map_err(cannot_run)?.success() {
        return Ok(());
    }
    let length = lock.metadata().map_err(failed())?.len();
    let mut said = vec![0; MOST_SAID_BYTES];
    let read = lock.read_at(&mut said, length.saturating_sub(MOST_SAID_BYTES as u64)).map_err(failed())?;
    Err(refused(&said[..read]))
}

/// Counts what a command lists, each ended by a NUL, up to more than `most`; its output is not kept.
pub(super) fn count(mut command: Command, most: usize) -> Result<usize> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = start(command)?;
    let counted = child.stdout.take().map_or(Ok(0), |output| count_of(BufReader::new(output), most));
    match counted {
        Ok(count) if count <= most => {
            let ended = child.wait().map_err(cannot_run)?;
            if ended.success() { Ok(count) } else { Err(refused(b"")) }
        }
        counted => {
            // It may have no end.
            end(&mut child);
            counted
        }
    }
}

/// Starts a command that reads what a guest made.
fn start(mut command: Command) -> Result<Child> {
    let child = command.spawn().map_err(cannot_run)?;
    let has = getrlimit(Resource::Data);
    let at_most = |limit: Option<u64>| Some(limit.map_or(MOST_MEMORY_BYTES, |limit| limit.min(MOST_MEMORY_BYTES)));
    let limit = Rlimit { current: at_most(has.current), maximum: at_most(has.maximum) };
    // It may have ended already.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = prlimit(Some(pid), Resource::Data, limit);
    }
    Ok(child)
}

fn count_of(mut output: impl BufRead, most: usize) -> Result<usize> {
    let failed = || io("git's output cannot be read");
    let mut count = 0;
    while count <= most {
        // A path is not longer than this.
        let skipped = output.by_ref().take(MOST_SAID_BYTES as u64).skip_until(0).map_err(failed())?;
        if skipped == 0 {
            break;
        }
        count += 1;
    }
    Ok(count)
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn cannot_run(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Repository, "git cannot be run on this host").source(error).hint("sudo apt install git")
}

fn refused(said: &[u8]) -> Error {
    let said = String::from_utf8_lossy(said);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("git said nothing");
    Error::new(ErrorKind::Repository, "git refused").source(viv_vmm::clean(last))
}
