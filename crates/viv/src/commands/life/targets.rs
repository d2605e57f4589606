//! Which sandboxes are meant: by what describes them, and by what there is of them.

use std::path::{Path, PathBuf};

use viv_sandbox::named::{self, Named};
use viv_sandbox::{Paths, Record};

use super::Programs;
use crate::definition::{self, Definition};
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::clean::clean;

/// In the directory of a sandbox: what it is called where it is described, which differs once it was renamed.
const DEFINITION: &str = "definition";

/// A sandbox to be brought up.
#[derive(Debug)]
pub struct Target {
    /// What it is called, or is to be.
    pub name: String,
    /// What it is.
    pub definition: Definition,
}

impl From<Definition> for Target {
    fn from(definition: Definition) -> Self {
        Self { name: definition.name.clone(), definition }
    }
}

/// The directory whose sandboxes are meant, canonical.
///
/// # Errors
/// If it cannot be opened.
pub fn directory(named: Option<&Path>, host: &HostEnvironment) -> Result<PathBuf, Error> {
    let named = named.unwrap_or(Path::new("."));
    host.directory.join(named).canonicalize().map_err(|error| {
        let what = format!("the directory {} cannot be opened", clean(&named.to_string_lossy()));
        Error::new(ErrorKind::NotFound, what).source(error)
    })
}

/// Those of these names, or else the directory's own, or all of it.
///
/// # Errors
/// A name that neither is described nor was up before; files that cannot be read.
pub fn described(
    names: &[String],
    all: bool,
    workspace: &Path,
    host: &HostEnvironment,
    paths: &Paths,
) -> Result<Vec<Target>, Failure> {
    if all {
        return Ok(definition::all(workspace, host, paths)?.into_iter().map(Target::from).collect());
    }
    if names.is_empty() {
        return Ok(vec![definition::find(None, workspace, host, paths)?.into()]);
    }
    names
        .iter()
        .map(|name| match definition::find(Some(name), workspace, host, paths) {
            Ok(definition) => Ok(definition.into()),
            // One that was up before is known by its name from anywhere.
            Err(error) if *error.kind() == ErrorKind::NotFound => match named::find(paths, name) {
                Ok(named) => of(&named, host, paths),
                Err(_) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        })
        .collect()
}

/// One that was up before, by what describes it now.
///
/// # Errors
/// If nothing does any more.
pub fn of(named: &Named, host: &HostEnvironment, paths: &Paths) -> Result<Target, Failure> {
    let called = described_as(named, paths);
    let definition = definition::find(Some(&called), &named.workspace, host, paths).map_err(|error| {
        if *error.kind() != ErrorKind::NotFound {
            return error;
        }
        let file = clean(&named.definition_file.to_string_lossy()).into_owned();
        let hint = format!("describe it again, or remove what is left of it: viv rm {}", named.name);
        Error::new(ErrorKind::NotFound, format!("{file} describes no sandbox called {called} any more")).hint(hint)
    })?;
    Ok(Target { name: named.name.clone(), definition })
}

/// What a sandbox is called where it is described.
pub fn described_as(named: &Named, paths: &Paths) -> String {
    let file = named::directory_of(paths, &named.name).join(DEFINITION);
    // One that was never renamed is called as it is.
    std::fs::read_to_string(file).unwrap_or_else(|_| named.name.clone())
}

/// Remembers what a sandbox is called where it is described.
///
/// # Errors
/// If that cannot be written.
pub fn remember(named: &Named, called: &str, paths: &Paths) -> Result<(), Failure> {
    if described_as(named, paths) == called {
        return Ok(());
    }
    let file = named::directory_of(paths, &named.name).join(DEFINITION);
    let failed = || error::io(format!("{} could not be written", file.display()));
    let partial = file.with_extension(format!("{}.partial", viv_sandbox::new_id()));
    std::fs::write(&partial, called).map_err(failed())?;
    std::fs::rename(&partial, &file).map_err(failed())?;
    Ok(())
}

/// A sandbox that is there.
#[derive(Debug)]
pub enum Found {
    /// It has a name and stays.
    Named(Box<Named>),
    /// It is that of a `viv run`.
    OfRun(Box<Record>),
}

/// The one with this name or id, or a unique beginning of either; those that stay come first.
///
/// # Errors
/// If it fits none, or several.
pub fn find(wanted: &str, paths: &Paths) -> Result<Found, Failure> {
    let missing = match named::find(paths, wanted) {
        Ok(named) => return Ok(Found::Named(Box::new(named))),
        Err(error) if *error.kind() == viv_sandbox::ErrorKind::NotFound => error,
        Err(error) => return Err(error.into()),
    };
    match viv_sandbox::find(paths, wanted) {
        Ok(record) => Ok(Found::OfRun(Box::new(record))),
        Err(error) if *error.kind() == viv_sandbox::ErrorKind::NotFound => Err(missing.into()),
        Err(error) => Err(error.into()),
    }
}

/// The machine of the one with this name or id, or a unique beginning of either; with how programs run in it, where
/// that is known.
///
/// # Errors
/// As [`find`]; [`ErrorKind::NotFound`] for one that has no machine now.
pub fn running_one(wanted: &str, paths: &Paths) -> Result<(Record, Option<Programs>), Failure> {
    let named = match find(wanted, paths)? {
        Found::OfRun(record) => return Ok((*record, None)),
        Found::Named(named) => *named,
    };
    let Named { name, state, record, .. } = named;
    match record {
        Some(record) => Ok((record, Programs::of(&name, paths))),
        None => {
            let error = Error::new(ErrorKind::NotFound, format!("{name} is {state}"));
            Err(error.hint(format!("viv start {name}")).into())
        }
    }
}

/// The one that stays with this name, id, or unique beginning of either.
///
/// # Errors
/// If it fits none or several; that of a `viv run` with a word about what it is.
pub fn find_named(wanted: &str, paths: &Paths) -> Result<Named, Failure> {
    match find(wanted, paths)? {
        Found::Named(named) => Ok(*named),
        Found::OfRun(record) => Err(Error::new(
            ErrorKind::Usage,
            format!("{} is a sandbox of `viv run`, which ends with its program", clean(wanted)),
        )
        .hint(format!("viv stop {}", record.id))
        .into()),
    }
}

/// Those that run: the named ones, and those of `viv run`.
///
/// # Errors
/// A directory that cannot be read.
pub fn running(paths: &Paths) -> Result<Vec<Found>, Failure> {
    let (named, others) = everything(paths)?;
    let named = named.into_iter().filter(|named| !named.state.is_at_rest()).map(|named| Found::Named(Box::new(named)));
    Ok(named.chain(others.into_iter().map(|record| Found::OfRun(Box::new(record)))).collect())
}

/// Every sandbox there is: those that stay, and those of `viv run`.
///
/// # Errors
/// A directory that cannot be read.
pub fn everything(paths: &Paths) -> Result<(Vec<Named>, Vec<Record>), Failure> {
    let named = named::list(paths)?;
    let is_named = |record: &Record| named.iter().any(|named| named.id.as_ref() == Some(&record.id));
    let others = viv_sandbox::list(paths)?.into_iter().filter(|record| !is_named(record)).collect();
    Ok((named, others))
}

/// Those of a directory, by name.
///
/// # Errors
/// A directory that cannot be read.
pub fn of_directory(workspace: &Path, paths: &Paths) -> Result<Vec<Named>, Failure> {
    Ok(named::list(paths)?.into_iter().filter(|named| named.workspace == workspace).collect())
}
