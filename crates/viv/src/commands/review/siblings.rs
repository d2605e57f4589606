//! Attempts that were made beside one: what is left of them when it is accepted, and getting rid of it.

use viv_sandbox::Paths;
use viv_workspace::{find, siblings};

use super::Target;
use crate::cli::review::ChangeArguments;
use crate::error::{self, Failure};
use crate::output::Printer;

/// The attempts beside this one of which something is neither accepted nor rejected.
///
/// # Errors
/// States that cannot be read.
pub(super) fn left(target: &Target) -> Result<Vec<String>, Failure> {
    let siblings = siblings(&Paths::from_environment()?.state, &target.found)?.into_iter();
    let names = siblings.map(|found| found.sandbox.id);
    // One that was lost has told nothing.
    Ok(names.filter(|name| target.store.diff(name).is_ok_and(|diff| !diff.files.is_empty())).collect())
}

/// Says that they are kept, and how they are not.
pub(super) fn note(others: &[String], printer: &Printer) {
    if others.is_empty() {
        return;
    }
    let (attempts, are) = if others.len() == 1 { ("attempt", "is") } else { ("attempts", "are") };
    let names = others.join(" ");
    printer.note(&format!("the other {attempts} {are} kept; `viv reject {names}` drops what was made there"));
}

/// The words one by one, if they are attempts of one run, more than one of them, and nothing else.
///
/// # Errors
/// States that cannot be read.
pub(super) fn several(arguments: &ChangeArguments) -> Result<Vec<ChangeArguments>, Failure> {
    let words = &arguments.words;
    if words.len() < 2 || arguments.sandbox.is_some() || !arguments.paths.is_empty() {
        return Ok(Vec::new());
    }
    let state = Paths::from_environment()?.state;
    let directory = std::env::current_dir().map_err(error::io("the current directory cannot be read"))?;
    let Ok(first) = find(&state, Some(&words[0]), &directory) else { return Ok(Vec::new()) };
    let siblings = siblings(&state, &first)?;
    let is_one = |word: &String| siblings.iter().any(|found| found.sandbox.id == *word);
    if !words[1..].iter().all(is_one) {
        return Ok(Vec::new());
    }
    let one = |word: &String| ChangeArguments { words: vec![word.clone()], paths: Vec::new(), sandbox: None };
    Ok(words.iter().map(one).collect())
}
