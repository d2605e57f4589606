//! `viv diff`, `viv review`, `viv accept`, `viv reject` and `viv undo`

mod at_end;
mod base;
mod pager;
mod patch;
mod siblings;
mod summary;
mod tui;

use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use viv_sandbox::{Paths, Record};
use viv_workspace::{Diff, FileOutcome, Found, Mode, Notes, Outcome, Selection, Store, To, TreePath};

pub use at_end::files_at_end;
pub use base::Recording;

use super::{block_on, clone};
use crate::attempts::Changes;
use crate::cli::review::{ChangeArguments, ChooseArguments, DiffArguments, ReviewArguments, UndoArguments};
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json};

/// Files that are read before any of them is written out.
const CHUNK: usize = 256;

/// Shows what a sandbox changed.
///
/// # Errors
/// A sandbox of which nothing is known, a path at which nothing changed, a workspace that cannot be read.
pub fn diff(arguments: &DiffArguments, printer: &Printer) -> Result<u8, Failure> {
    let target = Target::find(&arguments.changes, printer)?;
    let mut diff = target.store.diff(&target.found.sandbox.id)?;
    target.narrow(&mut diff)?;
    if arguments.json {
        print_json(&summary::Json::new(&target.found, &diff, &summary::lines(&target.store, &diff.files)?))?;
        return Ok(0);
    }
    if arguments.name_only {
        let shown = std::io::stdout().is_terminal();
        let name = |path| if shown { patch::quoted_clean(path) } else { patch::quoted(path) };
        let names: String = diff.files.iter().map(|file| name(&file.path) + "\n").collect();
        print(&names)?;
    } else if arguments.stat {
        print(&summary::stat(&diff.files, &summary::lines(&target.store, &diff.files)?))?;
    } else {
        let shown = std::io::stdout().is_terminal();
        let mut output = pager::Output::open(shown, shown && !arguments.no_pager);
        // Others wait for the store while it is read, and a pager may be left open for long.
        for files in diff.files.chunks(CHUNK) {
            let mut text = Vec::new();
            target.store.views(files, |file, view| -> Result<(), Failure> {
                text.extend(if shown { patch::shown(file, &view) } else { patch::exact(file, &view) });
                Ok(())
            })?;
            output.write(&text)?;
        }
        output.finish()?;
    }
    note(&diff.notes, printer);
    Ok(0)
}

/// What a sandbox changed, in numbers.
///
/// # Errors
/// A sandbox of which nothing is known, or that has told nothing yet.
pub fn changes(store: &Store, id: &str) -> Result<Changes, Failure> {
    let diff = store.diff(id)?;
    let lines = summary::lines(store, &diff.files)?;
    let sum = |of: fn(&(usize, usize)) -> usize| lines.iter().flatten().map(of).sum();
    Ok(Changes { files: diff.files.len(), additions: sum(|lines| lines.0), deletions: sum(|lines| lines.1) })
}

/// Has the user look through what a sandbox changed, and does what they decide.
///
/// # Errors
/// Those of [`diff`] and [`accept`], and a standard output that is no terminal.
pub fn review(arguments: &ReviewArguments, printer: &Printer) -> Result<u8, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Error::new(ErrorKind::Usage, "a review takes a terminal")
            .hint("viv diff, viv accept PATH and viv reject PATH do without")
            .into());
    }
    let target = Target::find(&arguments.changes, printer)?;
    let id = &target.found.sandbox.id;
    let mut diff = target.store.diff(id)?;
    target.narrow(&mut diff)?;
    if diff.files.is_empty() {
        printer.note("nothing changed");
        note(&diff.notes, printer);
        return Ok(0);
    }
    let title = summary::title(&target.found);
    let decided = tui::run(&title, diff.files, &target.store)?;
    note(&diff.notes, printer);
    // Accepting first: what is rejected of a file by hunks is then that of the texts that were shown.
    let accepted = match decided.accepted.0.is_empty() {
        false => Some(target.store.accept(id, &decided.accepted)?),
        true => None,
    };
    let rejected = match decided.rejected.0.is_empty() {
        false => Some(target.store.reject(id, &decided.rejected)?),
        true => None,
    };
    let mut whole = true;
    for (outcome, done) in [(&accepted, "accepted"), (&rejected, "rejected")] {
        if let Some(outcome) = outcome {
            whole &= tell(outcome, done, false, printer)?.is_ok();
        }
    }
    if accepted.is_some() {
        siblings::note(&siblings::left(&target)?, printer);
    }
    conclude(whole)
}

/// Accepts what a sandbox changed.
///
/// # Errors
/// Those of [`diff`], and files that could not be written or have become something else.
pub fn accept(arguments: &ChooseArguments, printer: &Printer) -> Result<u8, Failure> {
    let target = Target::find(&arguments.changes, printer)?;
    let outcome = choose(&target, Store::accept)?;
    let others = siblings::left(&target)?;
    let whole = if arguments.json {
        print_json(&JsonOutcome { others: others.clone(), ..JsonOutcome::new(&outcome) })?;
        outcome.is_whole()
    } else {
        tell(&outcome, "accepted", false, printer)?.is_ok()
    };
    siblings::note(&others, printer);
    conclude(whole)
}

/// Rejects what a sandbox changed, or what several attempts did.
///
/// # Errors
/// As [`accept`].
pub fn reject(arguments: &ChooseArguments, printer: &Printer) -> Result<u8, Failure> {
    let several = siblings::several(&arguments.changes)?;
    if several.is_empty() {
        let target = Target::find(&arguments.changes, printer)?;
        let outcome = choose(&target, Store::reject)?;
        return conclude(tell(&outcome, "rejected", arguments.json, printer)?.is_ok());
    }
    let mut whole = true;
    let mut all = Vec::new();
    for changes in &several {
        let target = Target::find(changes, printer)?;
        let outcome = choose(&target, Store::reject)?;
        let sandbox = target.found.sandbox.id.clone();
        whole &= outcome.is_whole();
        if arguments.json {
            all.push(JsonOfOne { sandbox, outcome: JsonOutcome::new(&outcome) });
        } else {
            tell(&outcome, &format!("of {sandbox} rejected"), false, printer)?;
        }
    }
    if arguments.json {
        print_json(&all)?;
    }
    conclude(whole)
}

fn choose(
    target: &Target,
    act: impl Fn(&Store, &str, &Selection) -> viv_workspace::Result<Outcome>,
) -> Result<Outcome, Failure> {
    let id = &target.found.sandbox.id;
    let mut diff = target.store.diff(id)?;
    target.narrow(&mut diff)?;
    Ok(act(&target.store, id, &diff.all())?)
}

/// Brings back what was before.
///
/// # Errors
/// As [`accept`]; nothing to bring back.
pub fn undo(arguments: &UndoArguments, printer: &Printer) -> Result<u8, Failure> {
    let changes = ChangeArguments { words: Vec::new(), paths: Vec::new(), sandbox: arguments.sandbox.clone() };
    let target = Target::find(&changes, printer)?;
    if arguments.start && target.found.sandbox.mode == Mode::Clone {
        return Err(Error::new(
            ErrorKind::Usage,
            "a copy does not change the workspace: there is no start to go back to",
        )
        .hint("viv undo takes back the last viv accept")
        .into());
    }
    let id = &target.found.sandbox.id;
    let outcome = if arguments.redo {
        target.store.redo(id)?
    } else {
        let to = if arguments.start { To::Start } else { To::Base };
        target.store.undo(id, to)?
    };
    let told = tell(&outcome, if arguments.redo { "brought back" } else { "undone" }, arguments.json, printer)?;
    if told == Told::Done && !arguments.redo && !arguments.json {
        printer.note("viv undo --redo takes it back");
    }
    conclude(told.is_ok())
}

/// A workspace, and whose changes to it are meant.
struct Target {
    found: Found,
    store: Store,
    /// Relative to the workspace; none for everything.
    paths: Vec<Vec<u8>>,
}

impl Target {
    fn find(arguments: &ChangeArguments, printer: &Printer) -> Result<Self, Failure> {
        let all = Paths::from_environment()?;
        let state = all.state.clone();
        let directory = std::env::current_dir().map_err(error::io("the current directory cannot be read"))?;
        let mut paths: Vec<PathBuf> = Vec::new();
        let mut wanted = arguments.sandbox.clone();
        let mut words = arguments.words.as_slice();
        if wanted.is_none()
            && let [first, rest @ ..] = words
        {
            let is_path = std::fs::symlink_metadata(directory.join(first)).is_ok() || first.contains('/');
            match (viv_workspace::find(&state, Some(first), &directory), is_path) {
                (Ok(_), true) => {
                    let message = format!("{first:?} is a sandbox and a path");
                    return Err(Error::new(ErrorKind::Usage, message)
                        .hint(format!("--sandbox {first}, or -- {first}"))
                        .into());
                }
                (Ok(_), false) => {
                    wanted = Some(first.clone());
                    words = rest;
                }
                // A file that is gone is no path any more either: what is meant shows when its change is looked for.
                (Err(_), _) => {}
            }
        }
        paths.extend(words.iter().map(PathBuf::from));
        paths.extend(arguments.paths.iter().cloned());
        let found = viv_workspace::find(&state, wanted.as_deref(), &directory)?;
        if found.sandbox.mode == Mode::Clone {
            // What a running one has changed by now; of one that has ended it was taken then.
            let is_it = |record: &Record| record.called() == found.sandbox.id && record.workspace == found.workspace;
            if let Some(record) = viv_sandbox::list(&all)?.into_iter().find(is_it) {
                block_on(clone::refresh(&record, &all, printer))??;
            }
        }
        let store = Store::open(&state, &found.workspace)?;
        if let Some(recovered) = store.recovered() {
            printer.note("what an earlier viv had begun and not ended was completed:");
            tell(recovered, "done", false, printer)?;
        }
        let paths = paths.iter().map(|path| beneath(&directory.join(path), &found.workspace));
        let paths = paths.collect::<Result<_, _>>()?;
        Ok(Self { found, store, paths })
    }

    /// Leaves what was asked for.
    fn narrow(&self, diff: &mut Diff) -> Result<(), Error> {
        for path in &self.paths {
            if !diff.files.iter().any(|file| file.is_beneath(path)) {
                let path = String::from_utf8_lossy(path);
                return Err(Error::new(ErrorKind::NotFound, format!("nothing changed at {}", clean(&path)))
                    .hint("viv diff --name-only"));
            }
        }
        if !self.paths.is_empty() {
            diff.files.retain(|file| self.paths.iter().any(|path| file.is_beneath(path)));
        }
        Ok(())
    }
}

/// A path relative to the workspace, by its words alone: what is meant need not be there any more.
fn beneath(path: &Path, workspace: &Path) -> Result<Vec<u8>, Error> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    match plain.strip_prefix(workspace) {
        Ok(relative) => Ok(relative.as_os_str().as_bytes().to_vec()),
        Err(_) => {
            let (path, workspace) = (path.to_string_lossy(), workspace.to_string_lossy());
            Err(Error::new(ErrorKind::Usage, format!("{} is not beneath {}", clean(&path), clean(&workspace))))
        }
    }
}

/// What was left to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Everything was done.
    Done,
    /// There was nothing to do.
    Nothing,
    /// Something was not done.
    NotAll,
}

impl Told {
    fn is_ok(self) -> bool {
        self != Self::NotAll
    }
}

/// An outcome as `--json` prints it.
#[derive(Serialize)]
struct JsonOutcome {
    done: Vec<String>,
    /// They have become something else: nothing of them was touched.
    diverged: Vec<String>,
    /// They have become another change since it was looked at.
    stale: Vec<String>,
    failed: Vec<JsonFailed>,
    /// Attempts that were made beside this one, and that are neither accepted nor rejected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<String>,
}

/// The outcome of one of several sandboxes.
#[derive(Serialize)]
struct JsonOfOne {
    sandbox: String,
    #[serde(flatten)]
    outcome: JsonOutcome,
}

#[derive(Serialize)]
struct JsonFailed {
    path: String,
    reason: String,
}

impl JsonOutcome {
    fn new(outcome: &Outcome) -> Self {
        let text = |path: &TreePath| String::from_utf8_lossy(path.as_bytes()).into_owned();
        let names = |wanted: fn(&FileOutcome) -> bool| outcome.with(wanted).map(text).collect();
        let failed = outcome.files.iter().filter_map(|(path, outcome)| match outcome {
            FileOutcome::Failed(reason) => Some(JsonFailed { path: text(path), reason: reason.clone() }),
            _ => None,
        });
        Self {
            done: names(FileOutcome::is_done),
            diverged: names(|outcome| *outcome == FileOutcome::Diverged),
            stale: names(|outcome| *outcome == FileOutcome::Stale),
            failed: failed.collect(),
            others: Vec::new(),
        }
    }
}

/// Tells what became of each file.
fn tell(outcome: &Outcome, done: &str, json: bool, printer: &Printer) -> Result<Told, Failure> {
    let told = match (outcome.is_whole(), outcome.files.is_empty()) {
        (_, true) => Told::Nothing,
        (true, false) => Told::Done,
        (false, false) => Told::NotAll,
    };
    if json {
        print_json(&JsonOutcome::new(outcome))?;
        return Ok(told);
    }
    for (path, outcome) in &outcome.files {
        match outcome {
            FileOutcome::Done | FileOutcome::AlreadyThere => {}
            FileOutcome::Diverged => printer.warning(
                &format!("{path} is not what it was: it is left alone"),
                Some("viv review takes single hunks, where the same lines have not changed"),
            ),
            FileOutcome::Stale => printer.warning(&format!("{path} was changed again: look at it first"), None),
            FileOutcome::Failed(reason) => printer.warning(&format!("{path} is left alone: {reason}"), None),
        }
    }
    let count = outcome.with(FileOutcome::is_done).count();
    printer.note(&match (told, count) {
        (Told::Nothing, _) => "nothing changed".to_owned(),
        (_, 1) => format!("1 file {done}"),
        (_, count) => format!("{count} files {done}"),
    });
    Ok(told)
}

/// The exit code, or why not all was done.
fn conclude(whole: bool) -> Result<u8, Failure> {
    if whole {
        return Ok(0);
    }
    Err(Error::new(ErrorKind::Diverged, "not everything could be done; nothing of the files named above was touched")
        .into())
}

/// Names of each kind that are said.
const MOST: usize = 5;

/// Says what a diff left out.
fn note(notes: &Notes, printer: &Printer) {
    let lists = [
        (&notes.newly_ignored, "ignored by rules that came with the changes, and so not shown"),
        (&notes.refused, "not looked at, for its name or depth"),
        (&notes.others, "no file, and so not shown"),
        (&notes.large, "too large to be taken"),
        (&notes.unreadable, "not readable"),
    ];
    for (names, why) in lists {
        for name in names.iter().take(MOST) {
            printer.note(&format!("{name}: {why}"));
        }
        if names.len() > MOST {
            printer.note(&format!("and {} more: {why}", names.len() - MOST));
        }
    }
}

/// How a sandbox works, in a word.
fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Live => "live",
        Mode::Clone => "clone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_by_their_words() {
        let workspace = Path::new("/w/project");
        let relative =
            |path: &str| beneath(&workspace.join("src").join(path), workspace).map_err(|error| error.to_string());
        assert_eq!(relative("a").unwrap(), b"src/a");
        assert_eq!(relative("../b/./c/").unwrap(), b"b/c");
        assert_eq!(relative("..").unwrap(), b"");
        assert_eq!(relative("/w/project/x").unwrap(), b"x");
        assert_eq!(relative("../../y").unwrap_err(), "/w/project/src/../../y is not beneath /w/project");
    }
}
