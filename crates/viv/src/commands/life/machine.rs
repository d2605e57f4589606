//! What is asked of machines: `viv down`, `stop`, `kill`, `pause`, `resume`, `rm`, `rename`.

use viv_sandbox::Record;
use viv_sandbox::named::{self, Named, Request};

use super::Desk;
use super::choice::{Verb, requests};
use super::outcome::{Done, Outcome, each};
use super::targets::{self, Found};
use crate::cli::life::{DownArguments, NameArguments, RemoveArguments, RenameArguments, TargetArguments};
use crate::commands::{block_on, clone};
use crate::error::{Error, ErrorKind, Failure};
use crate::output::Printer;
use crate::settings::values::human_bytes;

/// `viv down`
///
/// # Errors
/// Names of none or of several; one that does not end.
pub fn down(arguments: &DownArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    if !arguments.names.is_empty() {
        return each(&arguments.names, String::as_str, printer, |name| {
            ask(&targets::find_named(name, &desk.paths)?, Verb::Down, &desk)
        });
    }
    let workspace = targets::directory(arguments.workspace.as_deref(), &desk.host)?;
    let here = targets::of_directory(&workspace, &desk.paths)?;
    let mut targets = if arguments.all { here } else { own(here, &workspace, &desk)? };
    if targets.is_empty() {
        printer.note("nothing is up here");
    }
    // In the order they were brought up, the other way round.
    targets.sort_by_key(|named| std::cmp::Reverse(named.started_at_unix_ms));
    each(&targets, |named| &named.name, printer, |named| ask(named, Verb::Down, &desk))
}

/// The directory's own among its sandboxes; none if that is not there.
fn own(here: Vec<Named>, workspace: &std::path::Path, desk: &Desk<'_>) -> Result<Vec<Named>, Failure> {
    if here.len() == 1 {
        // Whatever it is called now, no other can be meant.
        return Ok(here);
    }
    let own = crate::definition::find(None, workspace, &desk.host, &desk.paths)?;
    Ok(here.into_iter().filter(|named| named.name == own.name).collect())
}

/// `viv stop`, `viv kill`
///
/// # Errors
/// As [`down`].
pub fn end(arguments: &TargetArguments, verb: Verb, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    let end = |found: &Found| match found {
        Found::Named(named) => ask(named, verb, &desk),
        Found::OfRun(record) => end_run(record, verb, &desk),
    };
    if arguments.all {
        return each(&targets::running(&desk.paths)?, name_of, printer, end);
    }
    each(&arguments.sandboxes, String::as_str, printer, |name| end(&targets::find(name, &desk.paths)?))
}

fn name_of(found: &Found) -> &str {
    match found {
        Found::Named(named) => &named.name,
        Found::OfRun(record) => record.called(),
    }
}

fn end_run(record: &Record, verb: Verb, desk: &Desk<'_>) -> Result<Outcome, Failure> {
    let paths = &desk.paths;
    let name = record.called();
    let freed = human_bytes(record.memory_mib << 20);
    if verb == Verb::Kill {
        block_on(viv_sandbox::kill(paths, record))??;
        return Ok(Outcome::gone(name, Done::Killed, format!("is killed, {freed} are free")));
    }
    block_on(clone::refresh(record, paths, desk.printer))??;
    block_on(viv_sandbox::stop(paths, record))??;
    Ok(Outcome::gone(name, Done::Stopped, format!("is gone, {freed} are free")))
}

/// `viv pause`, `viv resume`
///
/// # Errors
/// Names of none or of several; one that has no machine, or whose VMM refuses.
pub fn hold(arguments: &NameArguments, verb: Verb, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    each(&arguments.names, String::as_str, printer, |name| ask(&targets::find_named(name, &desk.paths)?, verb, &desk))
}

/// `viv rm`
///
/// # Errors
/// Names of none or of several; one that runs, without `--force`.
pub fn remove(arguments: &RemoveArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    let verb = if arguments.force { Verb::ForceRemove } else { Verb::Remove };
    each(&arguments.names, String::as_str, printer, |name| {
        let named = targets::find_named(name, &desk.paths)?;
        if verb == Verb::Remove && !named.state.is_at_rest() {
            return Err(Error::new(ErrorKind::InUse, format!("{} is {}", named.name, named.state))
                .hint(format!("viv rm --force {}", named.name))
                .into());
        }
        ask(&named, verb, &desk)
    })
}

/// `viv rename`
///
/// # Errors
/// A name of none or of several, one that is taken, a sandbox that has a machine.
pub fn rename(arguments: &RenameArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    let RenameArguments { name, new_name, .. } = arguments;
    each(std::slice::from_ref(name), String::as_str, printer, |name| {
        let named = targets::find_named(name, &desk.paths)?;
        let described = targets::described_as(&named, &desk.paths);
        if named.name == *new_name {
            return Ok(Outcome::of(&named, Done::Nothing, "is called so already"));
        }
        let renamed = block_on(named::rename(&desk.paths, &named.name, new_name))??;
        targets::remember(&renamed, &described, &desk.paths)?;
        Ok(Outcome::of(&renamed, Done::Renamed, format!("is what {} is called now", named.name)))
    })
}

/// Asks a sandbox for all that a command is made of, but for a start, which takes more.
///
/// # Errors
/// What cannot be in its state, and what goes wrong.
pub fn ask(named: &Named, verb: Verb, desk: &Desk<'_>) -> Result<Outcome, Failure> {
    let paths = &desk.paths;
    let name = named.name.as_str();
    let was_at_rest = named.state.is_at_rest();
    let was = named.state;
    let mut outcome = Outcome::of(named, Done::Nothing, "");
    for request in requests(verb, named.state, named.persist) {
        outcome = match request {
            Request::Stop => {
                // What it made of its copy goes with it.
                if let (named::State::Running, Some(record)) = (named.state, &named.record) {
                    block_on(clone::refresh(record, paths, desk.printer))??;
                }
                let stopped = block_on(named::stop(paths, name))??;
                let freed = named.record.as_ref().map(|record| human_bytes(record.memory_mib << 20));
                let words =
                    freed.map_or_else(|| "is stopped".to_owned(), |freed| format!("is stopped, {freed} are free"));
                of_change(&stopped, was_at_rest, Done::Stopped, &words, "is stopped already")
            }
            Request::Kill => {
                let killed = block_on(named::kill(paths, name))??;
                of_change(&killed, was_at_rest, Done::Killed, "is killed", "is stopped already")
            }
            Request::Remove => {
                block_on(named::remove(paths, name))??;
                Outcome::gone(name, Done::Removed, "is removed")
            }
            Request::Pause => {
                let paused = block_on(named::pause(paths, name))??;
                of_change(&paused, was == paused.state, Done::Paused, "is paused", "is paused already")
            }
            Request::Resume => {
                let resumed = block_on(named::resume(paths, name))??;
                of_change(&resumed, was == resumed.state, Done::Resumed, "goes on", "runs already")
            }
            Request::Start | Request::Change => outcome,
        };
    }
    Ok(outcome)
}

fn of_change(now: &Named, is_as_before: bool, done: Done, words: &str, already: &str) -> Outcome {
    if is_as_before { Outcome::of(now, Done::Nothing, already) } else { Outcome::of(now, done, words) }
}
