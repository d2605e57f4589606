//! Installing what is missing, without a question.
//!
//! [`facts`] finds out, [`plan`] decides (a pure function), this module carries it out and shows
//! each command first. Where nothing is missing nothing runs.

mod apt_sources;
mod facts;
mod plan;

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::command;
use plan::{Facts, Privilege, Step};

/// What the machine is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building and running viv.
    Run,
    /// Also the tests.
    Test,
    /// Building and running viv, and the peers it is compared with.
    Peers,
}

/// Finds out what is missing and installs it; prints nothing where nothing is.
pub fn run(purpose: Purpose, dry_run: bool) -> Result<()> {
    let facts = facts::probe(purpose)?;
    let steps = plan::plan(&facts)?;
    for step in &steps {
        if dry_run {
            println!("{step}");
        } else {
            carry_out(step, &facts)?;
        }
    }
    if dry_run && steps.is_empty() {
        println!("nothing is missing");
    }
    if !dry_run && !steps.is_empty() {
        // What was installed must be what was missing; else the next failure would be a riddle.
        let left = plan::plan(&facts::probe(purpose)?)?;
        ensure!(left.is_empty(), "set-up ran, yet this is still to do: {}", left[0]);
    }
    Ok(())
}

/// A `.sources` file for a suite of Debian's, and its security updates, from where the host gets its
/// own packages.
///
/// # Errors
/// On a host that gets none from Debian.
pub fn sources_of(suite: &str) -> Result<String> {
    let (codename, sources) = facts::codename_and_sources()?;
    plan::sources_of(&codename, &sources, suite)
        .with_context(|| format!("no apt source offers {codename} for {suite} to be taken from the same place"))
}

/// A range of subordinate ids that nobody has: its first id and how many there are.
pub fn next_subordinate_range() -> (u32, u32) {
    (facts::next_subordinate_id().max(plan::FIRST_SUBORDINATE_ID), plan::SUBORDINATE_IDS)
}

fn carry_out(step: &Step, facts: &Facts) -> Result<()> {
    match step {
        Step::Run { argv, as_root } => {
            let mut command = as_user_or_root(facts, *as_root, argv);
            command::run(&mut command)
        }
        Step::Write { path, contents } => {
            let argv = ["tee", path].map(str::to_owned);
            let mut command = as_user_or_root(facts, true, &argv);
            eprintln!("+ {} <<'END'\n{contents}END", command::display(&command));
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("cannot run tee")?;
            child.stdin.take().context("tee has no standard input")?.write_all(contents.as_bytes())?;
            let status = child.wait()?;
            ensure!(status.success(), "writing {path} ended with {status}");
            Ok(())
        }
    }
}

fn as_user_or_root(facts: &Facts, as_root: bool, argv: &[String]) -> Command {
    let sudo: &[&str] = if as_root && facts.privilege == Privilege::Sudo { &["sudo", "-n"] } else { &[] };
    let words: Vec<&str> = sudo.iter().copied().chain(argv.iter().map(String::as_str)).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}
