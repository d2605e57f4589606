//! What the host does alone: natively, so that the goals are times.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Workspaces, project};
use crate::bench::figures::{Figure, median, milliseconds};
use crate::bench::measure::until_first_byte_and_end;
use crate::bench::starts;
use crate::command;

/// Files of the project, and how many of them are changed.
const FILES: usize = 20_000;
const CHANGED: usize = 1_000;

/// The most that a diff may take, in ms.
const DIFF_MS: f64 = 1000.0;

/// The most that attaching may take until something is seen, in ms.
const ATTACH_MS: f64 = 100.0;

/// What a run has changed, looked at again and again.
pub fn diff(workspaces: &Workspaces<'_>) -> Result<Figure> {
    let directory = workspaces.directory.join("diff");
    fs::create_dir_all(&directory)?;
    project::small_files(&directory, FILES)?;
    project::commit(&directory)?;
    let step = FILES / CHANGED;
    let changed: Vec<String> = (0..CHANGED).map(|number| project::small_file(number * step)).collect();
    fs::write(directory.join("list"), changed.join("\n"))?;
    let change = "xargs sed -i 's/small/changed/' < list";
    command::capture(&mut starts::run(workspaces.viv, &directory, &[], &["sh", "-c", change]))?;
    let mut times = Vec::new();
    for run in 0..=workspaces.runs {
        let mut diff = Command::new(workspaces.viv);
        diff.args(["diff", "--quiet", "--stat"]).current_dir(&directory);
        let time = until_first_byte_and_end(&mut diff, None)?.end;
        eprintln!("a diff: run {run} of {}: {:.0} ms", workspaces.runs, milliseconds(time));
        // The first fills caches, and does not count.
        if run > 0 {
            times.push(time);
        }
    }
    let lines = command::capture(Command::new(workspaces.viv).args(["diff", "--name-only"]).current_dir(&directory))?;
    ensure!(lines.lines().count() == CHANGED, "viv diff names {} files", lines.lines().count());
    let name = "viv diff of 1,000 changed files among 20,000";
    Ok(Figure::limited(name, milliseconds(median(&mut times)), DIFF_MS, "ms"))
}

/// A terminal that is joined again and again.
pub fn attach(workspaces: &Workspaces<'_>) -> Result<Figure> {
    let directory = workspaces.directory.join("attach");
    fs::create_dir_all(&directory)?;
    let name = format!("bench-attach-{}", std::process::id());
    let mut start = Command::new(workspaces.viv);
    start.args(["run", "--quiet", "--detach", "--name", &name, "--", "sh", "-c", "echo here; exec sleep infinity"]);
    command::capture(start.current_dir(&directory))?;
    let times = (0..=workspaces.runs)
        .map(|run| {
            let time = first_paint(workspaces, &name)?;
            eprintln!("attach: run {run} of {}: {:.0} ms", workspaces.runs, milliseconds(time));
            Ok(time)
        })
        .collect::<Result<Vec<_>>>();
    command::capture(Command::new(workspaces.viv).args(["stop", "--quiet", &name]))?;
    let mut times = times?.split_off(1);
    Ok(Figure::limited("viv attach until something is seen", milliseconds(median(&mut times)), ATTACH_MS, "ms"))
}

/// From before the command is started, in a terminal of script(1), to its first byte.
fn first_paint(workspaces: &Workspaces<'_>, name: &str) -> Result<Duration> {
    let viv = workspaces.viv.to_str().context("viv's path is not UTF-8")?;
    let mut attach = Command::new("script");
    attach.args(["--quiet", "--return", "--command", &format!("'{viv}' attach {name}"), "/dev/null"]);
    attach.stdin(Stdio::piped()).stdout(Stdio::piped());
    let begun = Instant::now();
    let mut client = attach.spawn().with_context(|| format!("cannot run {}", command::display(&attach)))?;
    let mut byte = [0];
    let read = client.stdout.take().context("a piped output is there")?.read(&mut byte);
    let time = begun.elapsed();
    client.kill()?;
    client.wait()?;
    ensure!(matches!(read, Ok(1)), "viv attach showed nothing");
    Ok(time)
}
