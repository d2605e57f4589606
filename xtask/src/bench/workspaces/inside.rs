//! Work in a clone, in turns with the same work in an ordinary repository on the guest's own disk.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Workspaces, project};
use crate::bench::figures::{Figure, Pairs, milliseconds};
use crate::bench::sandbox::Running;
use crate::command;

/// Of the time on the guest's own disk, at most this much.
const GOAL: f64 = 1.15;

/// Files of the project.
const FILES: usize = 20_000;

/// An ordinary repository with the same content.
const PLAIN: &str = "/var/tmp/plain";

/// Prints how many microseconds `$2` took in the directory `$1`, `$3` done before.
const TIMED: &str = r#"cd "$1" && eval "$3" >/dev/null || exit
begun=$EPOCHREALTIME
eval "$2" >/dev/null || exit
ended=$EPOCHREALTIME
echo $((${ended/./} - ${begun/./}))"#;

struct Work {
    figure: &'static str,
    /// Below the project.
    directory: &'static str,
    before: &'static str,
    command: &'static str,
}

const WORK: [Work; 3] = [
    Work {
        figure: "git status of 20,000 files in a clone",
        directory: ".",
        before: ":",
        command: "git status --porcelain",
    },
    Work {
        figure: "npm ci in a clone",
        directory: "web",
        before: "rm -rf node_modules",
        command: "npm ci --prefer-offline --no-audit --no-fund --loglevel=error",
    },
    Work {
        figure: "an incremental cargo build in a clone",
        directory: "program",
        before: "echo '// once more' >> src/main.rs",
        command: "cargo build --quiet --offline",
    },
];

pub fn measure(workspaces: &Workspaces<'_>) -> Result<Vec<Figure>> {
    let directory = workspaces.directory.join("inside");
    make(&directory)?;
    let options = ["--workspace", "clone", "--package", "cargo", "--allow", "@npm"];
    let sandbox = Running::start(workspaces.viv, &directory, &options)?;
    // Files that nobody has read yet are what a clone has, too: neither has an advantage of the cache.
    let clone = ["git", "clone", "--quiet", "--no-hardlinks", "--dissociate", "/workspace", PLAIN];
    command::capture(&mut sandbox.exec_as_agent(&clone))?;
    let figures = WORK
        .iter()
        .map(|work| {
            let mut pairs = Pairs::new();
            // The first round fills caches, and does not count.
            for run in 0..=workspaces.runs {
                let (ours, plain) = if run % 2 == 0 {
                    let plain = work_in(&sandbox, PLAIN, work)?;
                    (work_in(&sandbox, "/workspace", work)?, plain)
                } else {
                    (work_in(&sandbox, "/workspace", work)?, work_in(&sandbox, PLAIN, work)?)
                };
                let shown = (milliseconds(ours), milliseconds(plain));
                eprintln!(
                    "{}: run {run} of {}: {:.0} ms, and {:.0} ms",
                    work.figure, workspaces.runs, shown.0, shown.1
                );
                if run > 0 {
                    pairs.push(ours, plain);
                }
            }
            Ok(pairs.figure(work.figure, GOAL))
        })
        .collect();
    sandbox.stop()?;
    figures
}

fn work_in(sandbox: &Running<'_>, place: &str, work: &Work) -> Result<Duration> {
    timed(sandbox, &format!("{place}/{}", work.directory), work.command, work.before)
}

/// How long a command of the shell takes in a directory, once another one was done before it.
pub fn timed(sandbox: &Running<'_>, directory: &str, what: &str, before: &str) -> Result<Duration> {
    let script = ["bash", "-c", TIMED, "timed", directory, what, before];
    microseconds(&command::capture(&mut sandbox.exec_as_agent(&script))?)
}

fn microseconds(line: &str) -> Result<Duration> {
    let count = line.trim().parse().with_context(|| format!("the work inside printed {line:?}"))?;
    Ok(Duration::from_micros(count))
}

/// Many small files, a package with a lock file of the registry that this host's npm uses, and a program.
fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    project::small_files(directory, FILES)?;
    let web = directory.join("web");
    fs::create_dir(&web)?;
    fs::write(
        web.join("package.json"),
        r#"{ "name": "web", "version": "1.0.0", "dependencies": { "express": "^4" } }"#,
    )?;
    let mut lock = Command::new("npm");
    lock.args(["install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&web);
    command::capture(&mut lock)?;
    let program = directory.join("program");
    fs::create_dir_all(program.join("src"))?;
    fs::write(program.join("Cargo.toml"), "[package]\nname = \"program\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")?;
    fs::write(program.join("src/main.rs"), "fn main() {\n    println!(\"a program\");\n}\n")?;
    fs::write(directory.join(".gitignore"), "node_modules\ntarget\n")?;
    project::commit(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_a_time() {
        assert_eq!(microseconds("1500\n").unwrap(), Duration::from_micros(1500));
        assert!(microseconds("").is_err());
    }

    #[test]
    fn what_is_done_before_is_not_timed() {
        let mut script = Command::new("bash");
        script.args(["-c", TIMED, "timed", "/", "sleep 0.01", "sleep 0.3"]);
        let time = microseconds(&command::capture(&mut script).unwrap()).unwrap();
        assert!(time >= Duration::from_millis(10) && time < Duration::from_millis(300), "{time:?}");
        let mut failing = Command::new("bash");
        failing.args(["-c", TIMED, "timed", "/", "false", ":"]);
        assert!(command::capture(&mut failing).is_err());
    }
}
