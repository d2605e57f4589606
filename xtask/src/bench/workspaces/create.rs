//! The making of a clone, in turns with git's own on the guest's disk.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::inside::timed;
use super::{Workspaces, project};
use crate::bench::figures::{Figure, Pairs, milliseconds};
use crate::bench::sandbox::Running;
use crate::command;

/// Of the time of git clone --shared and its checkout, at most this much.
const GOAL: f64 = 2.0;

/// The repository: so many files of a MiB that cannot be compressed.
const FILES: usize = 500;

pub fn measure(workspaces: &Workspaces<'_>) -> Result<Figure> {
    let directory = workspaces.directory.join("create");
    fs::create_dir_all(&directory)?;
    let mut random = fs::File::open("/dev/urandom").context("no random bytes")?;
    for number in 0..FILES {
        let mut content = vec![0; 1 << 20];
        random.read_exact(&mut content)?;
        fs::write(directory.join(format!("{number:03}.bin")), content)?;
    }
    project::commit(&directory)?;
    let empty = workspaces.directory.join("empty");
    fs::create_dir_all(&empty)?;
    let sandbox = Running::start(workspaces.viv, &empty, &["--mount", &source(&directory)?])?;
    let copy = "git clone --quiet --bare --no-hardlinks /source /var/tmp/source";
    command::capture(&mut sandbox.exec_as_agent(&["sh", "-c", copy]))?;
    let mut pairs = Pairs::new();
    // The first round fills caches, and does not count.
    for run in 0..=workspaces.runs {
        let (time, floor) = if run % 2 == 0 {
            let floor = shared(&sandbox)?;
            (ours(workspaces, &directory)?, floor)
        } else {
            (ours(workspaces, &directory)?, shared(&sandbox)?)
        };
        let shown = (milliseconds(time), milliseconds(floor));
        eprintln!("a clone of 500 MiB: run {run} of {}: {:.0} ms, and {:.0} ms", workspaces.runs, shown.0, shown.1);
        if run > 0 {
            pairs.push(time, floor);
        }
    }
    sandbox.stop()?;
    Ok(pairs.figure("a clone of a 500 MiB repository", GOAL))
}

fn source(directory: &Path) -> Result<String> {
    Ok(format!("{}:/source:ro", directory.to_str().context("the target directory's name is not UTF-8")?))
}

/// From a sandbox that takes commands to the first program in its clone.
fn ours(workspaces: &Workspaces<'_>, directory: &Path) -> Result<Duration> {
    let mut run = Command::new(workspaces.viv);
    run.args(["run", "--json", "--timing", "--workspace", "clone", "--", "true"]).current_dir(directory);
    let output = run.output().with_context(|| format!("cannot run {}", command::display(&run)))?;
    let events = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{} ended with {}: {events}", command::display(&run), output.status);
    before_the_program(&events)
}

/// What passed between two parts of a start, of the events that `--json --timing` prints.
fn before_the_program(events: &str) -> Result<Duration> {
    let spans = events.lines().find_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        event["spans"].as_array().cloned()
    });
    let spans = spans.context("viv told no timing")?;
    let end = |name: &str| {
        let span = spans.iter().find(|span| span["name"] == name);
        span.and_then(|span| span["end_us"].as_u64()).with_context(|| format!("viv told no end of {name}"))
    };
    Ok(Duration::from_micros(end("program started")?.saturating_sub(end("ready")?)))
}

/// git's own, inside, between two places of the guest's disk.
fn shared(sandbox: &Running<'_>) -> Result<Duration> {
    let clone = "git clone --quiet --shared /var/tmp/source /var/tmp/shared";
    timed(sandbox, "/var/tmp", clone, "rm -rf shared; sync")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_before_the_program() {
        let events = concat!(
            "{\"event\":\"ready\"}\n",
            "{\"event\":\"timing\",\"spans\":[{\"name\":\"ready\",\"end_us\":200},",
            "{\"name\":\"program started\",\"end_us\":1200}]}\n"
        );
        assert_eq!(before_the_program(events).unwrap(), Duration::from_millis(1));
        assert!(before_the_program("{}\n").is_err());
    }
}
