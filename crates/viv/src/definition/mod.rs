//! The sandboxes that are described in files: a project's own and its named ones in `viv.toml`, the
//! user's in `config.toml`.
//!
//! A definition says what a sandbox is; whether there is one is another matter. Its settings go over
//! those of `[run]` and `[image]` of the same directory, and under the command line's.

use std::path::{Path, PathBuf};

use viv_sandbox::Paths;

use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind};
use crate::network::trusted;
use crate::output::clean::clean;
use crate::settings::file::{self, Configuration, PROJECT_FILE, Section, Trust};
use crate::settings::layer::Found;
use crate::settings::{Layer, Origin, values};

/// The user's file, in viv's directory of configurations.
pub const USER_FILE: &str = "config.toml";

/// The name of a directory that has no letter or digit in its own.
const NAMELESS: &str = "sandbox";

/// The longest name of a sandbox, in bytes: that of a part of a host name (RFC 1123, 2.1).
const MAXIMUM_NAME_BYTES: usize = 63;

/// A sandbox as a file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name, fit for a host name.
    pub name: String,
    /// The file that describes it; the one that could where none does.
    pub file: PathBuf,
    /// The directory it works on, canonical; as it was written if it cannot be opened.
    pub workspace: PathBuf,
    /// Its own settings, its name among them; not those of `[run]`, which are laid under it when it is
    /// resolved.
    pub layer: Layer,
    /// The agent that it is for, as `viv agent ls` calls it.
    pub agent: Option<String>,
    /// Whether its disk stays when it is stopped.
    pub persist: bool,
    /// Whether it is to be started at login or boot.
    pub autostart: bool,
    /// Commands run in it once, when it has been made; words each.
    pub on_create: Vec<Vec<String>>,
    /// Commands run in it after each start; words each.
    pub on_start: Vec<Vec<String>>,
    /// What it asks for and does not get, for people: its file is not trusted with it, see `viv net trust`.
    pub withheld: Option<String>,
}

impl Definition {
    fn new(name: &str, section: Section, origin: Origin, file: &Path, workspace: PathBuf) -> Self {
        let mut layer = section.layer;
        layer.name = Some(Found { value: name.to_owned(), origin });
        Self {
            name: name.to_owned(),
            file: file.to_owned(),
            workspace,
            layer,
            agent: section.agent,
            persist: section.persist.unwrap_or(false),
            autostart: section.autostart.unwrap_or(false),
            on_create: section.on_create,
            on_start: section.on_start,
            withheld: None,
        }
    }
}

/// The definitions whose workspace is this directory, which is canonical: its own first, then the others by
/// name. Never empty: a directory of which no file speaks has a sandbox without any settings, named after it.
///
/// # Errors
/// Those of reading `viv.toml` and `config.toml`; two definitions of one name.
pub fn all(workspace: &Path, host: &HostEnvironment, paths: &Paths) -> Result<Vec<Definition>, Error> {
    let file = workspace.join(PROJECT_FILE);
    let project = file::read(&file, Trust::Project { workspace })?;
    let trusted = trusted::is_trusted(&project, workspace, paths);
    let mut found = of_project(project, trusted, &file, workspace)?;
    for users in of_user(host, paths)? {
        let same = found.iter().position(|definition| definition.name == users.name);
        match same {
            None if users.workspace == workspace => found.push(users),
            None => {}
            Some(_) => return Err(twice(&users.name, &file, &users.file)),
        }
    }
    if found.is_empty() {
        let name = fit_name(workspace);
        found.push(Definition::new(&name, Section::default(), Origin::Default, &file, workspace.to_owned()));
    }
    Ok(found)
}

/// The definition that is called `name`, of this directory or the user's of another one; without a name the
/// directory's own, or its only one.
///
/// # Errors
/// Those of [`all`]; [`ErrorKind::NotFound`] for a name that nothing has, [`ErrorKind::Usage`] if one has to be
/// chosen.
pub fn find(
    name: Option<&str>,
    workspace: &Path,
    host: &HostEnvironment,
    paths: &Paths,
) -> Result<Definition, Error> {
    let own = file::read(&workspace.join(PROJECT_FILE), Trust::Project { workspace })?.own.is_some();
    let mut here = all(workspace, host, paths)?;
    let Some(name) = name else {
        if own || here.len() == 1 {
            return Ok(here.swap_remove(0));
        }
        let names: Vec<&str> = here.iter().map(|definition| definition.name.as_str()).collect();
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} has several sandboxes and none of its own: name one", clean(&workspace.to_string_lossy())),
        )
        .hint(names.join(", ")));
    };
    if let Some(at) = here.iter().position(|definition| definition.name == name) {
        return Ok(here.swap_remove(at));
    }
    let mut users = of_user(host, paths)?;
    if let Some(at) = users.iter().position(|definition| definition.name == name) {
        return Ok(users.swap_remove(at));
    }
    let known: Vec<&str> = here.iter().chain(&users).map(|definition| definition.name.as_str()).collect();
    let error = Error::new(ErrorKind::NotFound, format!("no sandbox is called {}", clean(name)));
    Err(match file::nearest(name, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("there are: {}", known.join(", "))),
    })
}

/// The user's definitions, of whatever directory, by name.
///
/// # Errors
/// Those of reading `config.toml`.
pub fn of_user(host: &HostEnvironment, paths: &Paths) -> Result<Vec<Definition>, Error> {
    let file = paths.config.join(USER_FILE);
    let named = file::read(&file, Trust::User { home: host.home.as_deref() })?.named;
    let definition = |(name, mut section): (String, Section)| {
        // A reader of the user's file that finds none has refused it.
        let named = section.workspace.take().unwrap_or_default();
        let workspace = named.canonicalize().unwrap_or(named);
        Definition::new(&name, section, Origin::UserConfig, &file, workspace)
    };
    Ok(named.into_iter().map(definition).collect())
}

/// The definitions of a project's file, without what it is not trusted with.
fn of_project(
    project: Configuration,
    trusted: bool,
    file: &Path,
    workspace: &Path,
) -> Result<Vec<Definition>, Error> {
    let name_of_run = project.layer.name.map(|found| found.value);
    let own = project.own.map(|section| {
        let name = section.layer.name.as_ref().map(|found| found.value.clone());
        (name.or(name_of_run).unwrap_or_else(|| fit_name(workspace)), section)
    });
    let mut found: Vec<Definition> = Vec::new();
    for (name, mut section) in own.into_iter().chain(project.named) {
        if found.iter().any(|definition| definition.name == name) {
            return Err(twice(&name, file, file));
        }
        let withheld = if trusted { None } else { trusted::withhold_of_section(&mut section) };
        let definition = Definition::new(&name, section, Origin::Project, file, workspace.to_owned());
        found.push(Definition { withheld, ..definition });
    }
    Ok(found)
}

fn twice(name: &str, one: &Path, other: &Path) -> Error {
    let [one, other] = [one, other].map(|path| clean(&path.to_string_lossy()).into_owned());
    let places = if one == other { one } else { format!("{one} and {other}") };
    Error::new(ErrorKind::Configuration, format!("two sandboxes are called {name}, in {places}"))
        .hint("give one of them another name")
}

/// A directory's name as that of a sandbox.
#[must_use]
pub fn fit_name(directory: &Path) -> String {
    let name = directory.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let mut fit = String::new();
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' => fit.push(c),
            _ if fit.is_empty() || fit.ends_with('-') => {}
            _ => fit.push('-'),
        }
    }
    fit.truncate(MAXIMUM_NAME_BYTES);
    match values::parse_name(fit.trim_end_matches('-')) {
        Ok(name) => name,
        Err(_) => NAMELESS.to_owned(),
    }
}

#[cfg(test)]
mod tests;
