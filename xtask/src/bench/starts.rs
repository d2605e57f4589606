//! How long starts take: cold ones against the bare floor, those from a template against the bare
//! restore. All of them in turns, so that whatever else the machine does falls on each.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::figures::{Figure, Pairs};
use super::floor::Floor;
use super::measure::{Timing, until_first_byte_and_end};
use super::restore::RestoreFloor;
use super::sandbox::Running;
use super::templates;

/// Cold start to the command's first output byte: at most this much slower than the floor.
const COLD_FIRST_BYTE: f64 = 1.35;

/// Cold, from start to end, the teardown included.
const COLD_END: f64 = 1.5;

/// From a template, from start to end, the teardown included.
const TEMPLATE_END: f64 = 1.3;

/// From a template to the command's first output byte.
const TEMPLATE_FIRST_BYTE: f64 = 1.2;

/// The same against viv's own cold start.
const TEMPLATE_AGAINST_COLD: f64 = 0.15;

/// Ten at once, until the last has ended.
const BURST_END: f64 = 1.2;

/// How many are started at once.
const BURST: usize = 10;

/// The run that has a template made, against one that has none made.
const MAKING: f64 = 1.02;

/// Of this shape no one else has a template, so making and removing it disturbs no one.
const SHAPE_OF_ITS_OWN: &[&str] = &["--memory", "1021M"];

/// The same, as viv lists it.
const MEMORY_OF_ITS_OWN: &str = "1021 MiB";

/// `viv run`, to be timed.
pub fn run(viv: &Path, directory: &Path, options: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(viv);
    command.args(["run", "--quiet"]).args(options).arg("--").args(program).current_dir(directory);
    command
}

/// What is measured here.
pub struct Starts<'a> {
    pub viv: &'a Path,
    /// The project, and place for files.
    pub directory: &'a Path,
    pub runs: u32,
}

impl Starts<'_> {
    fn viv(&self, options: &[&str], program: &[&str]) -> Result<Timing> {
        until_first_byte_and_end(&mut run(self.viv, self.directory, options, program), None)
    }

    /// The bare floor of cold starts.
    fn cold_floor(&self) -> Result<Floor> {
        let sandbox = Running::start(self.viv, self.directory, &["--cold"])?;
        let floor = Floor::prepare(&sandbox.machine()?, self.directory)?;
        sandbox.stop()?;
        let _ = floor.run().context("the bare floor does not boot")?;
        Ok(floor)
    }

    /// The bare restore.
    fn restore_floor(&self) -> Result<RestoreFloor> {
        let key = templates::build(self.viv, &[])?;
        let sandbox = Running::start(self.viv, self.directory, &[])?;
        let floor = RestoreFloor::prepare(self.viv, &key, &sandbox, self.directory)?;
        sandbox.stop()?;
        let _ = floor.run(&["true"]).context("the bare restore does not work")?;
        Ok(floor)
    }

    /// Cold starts, where `cold` says so, and starts from a template, where `template` does.
    pub fn single(&self, cold: bool, template: bool) -> Result<Vec<Figure>> {
        let bare = cold.then(|| self.cold_floor()).transpose()?;
        let restore = template.then(|| self.restore_floor()).transpose()?;
        let [mut cold_bytes, mut cold_ends, mut bytes, mut ends, mut against_cold] = [const { Pairs::new() }; 5];
        for run in 1..=self.runs {
            eprintln!("starts: run {run} of {}", self.runs);
            let spoken_cold = self.viv(&["--cold"], &["echo", "x"])?;
            if let Some(bare) = &bare {
                let bare = bare.run()?;
                cold_bytes.push(spoken_cold.first_byte, bare.first_byte);
                cold_ends.push(self.viv(&["--cold"], &["true"])?.end, bare.end);
            }
            if let Some(restore) = &restore {
                let (bare, whole) = (restore.run(&["true"])?, self.viv(&[], &["true"])?);
                ends.push(whole.end, bare.end);
                let (bare, spoken) = (restore.run(&["echo", "x"])?, self.viv(&[], &["echo", "x"])?);
                bytes.push(spoken.first_byte, bare.first_byte);
                against_cold.push(spoken.first_byte, spoken_cold.first_byte);
            }
        }
        let mut figures = Vec::new();
        if cold {
            figures.push(cold_bytes.figure("cold start to first output byte", COLD_FIRST_BYTE));
            figures.push(cold_ends.figure("cold start to end, with teardown", COLD_END));
        }
        if template {
            figures.push(ends.figure("template start to end, with teardown", TEMPLATE_END));
            figures.push(bytes.figure("template start to first output byte", TEMPLATE_FIRST_BYTE));
            figures.push(against_cold.figure("the same, against viv's own cold start", TEMPLATE_AGAINST_COLD));
        }
        Ok(figures)
    }

    /// Many starts from one template at once.
    pub fn burst(&self) -> Result<Vec<Figure>> {
        let restore = self.restore_floor()?;
        let mut pairs = Pairs::new();
        for run in 1..=self.runs {
            eprintln!("{BURST} at once: run {run} of {}", self.runs);
            let bare = at_once(|| restore.command(&["true"]))?;
            pairs.push(at_once(|| self::run(self.viv, self.directory, &[], &["true"]))?, bare);
        }
        Ok(vec![pairs.figure("10 template starts at once, to the last end", BURST_END)])
    }

    /// What the run pays that has a template made.
    pub fn making(&self) -> Result<Vec<Figure>> {
        let alone = [SHAPE_OF_ITS_OWN, &["--cold"]].concat();
        // Whatever an interrupted bench has left.
        templates::remove(self.viv, MEMORY_OF_ITS_OWN)?;
        let mut pairs = Pairs::new();
        for run in 1..=self.runs {
            eprintln!("making a template: run {run} of {}", self.runs);
            let cold = self.viv(&alone, &["true"])?.end;
            pairs.push(self.viv(SHAPE_OF_ITS_OWN, &["true"])?.end, cold);
            // One is made at a time: this waits for it and finds it made.
            templates::build(self.viv, SHAPE_OF_ITS_OWN)?;
            templates::remove(self.viv, MEMORY_OF_ITS_OWN)?;
        }
        Ok(vec![pairs.figure("the run that has a template made, to its end", MAKING)])
    }
}

/// From the start of the first to the end of the last.
fn at_once(command: impl Fn() -> Command) -> Result<Duration> {
    let mut commands: Vec<Command> = (0..BURST).map(|_| command()).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> =
            commands.iter_mut().map(|command| scope.spawn(|| until_first_byte_and_end(command, None))).collect();
        running.into_iter().try_for_each(|running| match running.join() {
            Ok(timing) => timing.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_at_once_run_side_by_side_and_fail_with_any() {
        let directory = tempfile::tempdir().unwrap();
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(&directory);
            command
        };
        // Each ends only when all are there.
        let meeting = format!("touch $$; until [ $(ls | wc -l) = {BURST} ]; do sleep 0.01; done");
        assert!(at_once(|| shell(&meeting)).unwrap() > Duration::ZERO);
        assert!(at_once(|| shell("exit 1")).is_err());
    }

    #[test]
    fn a_run_is_as_a_user_would_type_it() {
        let command = run(Path::new("viv"), Path::new("/project"), &["--cold"], &["echo", "x"]);
        assert_eq!(crate::command::display(&command), "viv run --quiet --cold -- echo x");
    }
}
