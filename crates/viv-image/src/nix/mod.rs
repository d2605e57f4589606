//! Packages and development shells of the host's nix: resolved outside, shared with the sandbox, never copied.
//!
//! ```text
//!  nix:ATTRIBUTE ─ nix-build ──────┐ store paths                   ┌─ names of the closure ─► shared one by one
//!  REF#shell ─ nix print-dev-env ──┤      └─ nix-store -qR ────────┤
//!                                  │                               └─ nix-store --dump-db ─► notes/registration
//!                                  └ PATH, variables, hook ─► every program; notes/enter
//! ```
//!
//! - `plan` says what nix is asked to do, and why in that way; `run` does it.
//! - `shell` reads the environment of a development shell.
//! - `store` reads store paths and finds where they are.
//! - `roots` keeps the garbage collector away.

mod plan;
mod roots;
mod run;
mod shell;
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, io_error};
use crate::packages::{Manager, Package};
use crate::progress::{NoProgress, Progress};

pub use roots::Roots;

use run::Programs;

/// The store, on the host and inside.
pub const STORE: &str = "/nix/store";

/// Where what was noted of it is inside.
pub const DIRECTORY: &str = "/run/viv/nix";

/// A file inside in a directory that nix has its state in: with it, that state belongs to the user inside.
pub const STATE_FILE: &str = "/nix/var/nix/viv";

/// The directory of what the guest is shown beside the store, in that of the [`Roots`].
const NOTES: &str = "notes";

/// What `nix-store --load-db` reads.
const REGISTRATION: &str = "registration";

/// The script that goes before a program.
const ENTER: &str = "enter";

/// How long a name that was mistyped is looked for.
const SUGGESTION_TIME: Duration = Duration::from_secs(10);

/// How many names are suggested.
const SUGGESTIONS: usize = 3;

/// What is asked of nix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Attributes of the user's package set, such as `python3Packages.numpy`.
    pub attributes: Vec<String>,
    /// The flake with a development shell: `REFERENCE[#SHELL]`.
    pub flake: Option<String>,
    /// Whether the whole store will be shared, so that it does not matter what is needed of it.
    pub whole_store: bool,
    /// Whether the image has a nix of its own.
    pub image_has_nix: bool,
    /// Directories that a guest may write: no program is taken from there, whatever PATH says.
    pub untrusted: Vec<PathBuf>,
}

/// What came of it: everything a sandbox needs to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NixEnvironment {
    /// Where the host has [`STORE`].
    pub store: PathBuf,
    /// The names in it that are needed; none if all of it is shared.
    pub names: Vec<String>,
    /// The directory of its [`Roots`].
    pub directory: PathBuf,
    /// Directories that go before the others of PATH.
    pub path: Vec<String>,
    /// The environment of every program.
    pub variables: BTreeMap<String, String>,
    /// The shell that runs a script before a program, if there is something to run: a path, or its name.
    pub shell: Option<String>,
}

impl NixEnvironment {
    /// The directory of the host that the guest sees as [`DIRECTORY`].
    #[must_use]
    pub fn notes(&self) -> PathBuf {
        self.directory.join(NOTES)
    }

    /// The command that runs `command`, or a shell if that is empty, in this environment.
    #[must_use]
    pub fn command(&self, command: Vec<String>) -> Vec<String> {
        let Some(shell) = &self.shell else { return command };
        let enter = format!("{DIRECTORY}/{ENTER}");
        let is_bash = shell.ends_with("bash");
        if command.is_empty() && is_bash {
            // As `nix develop` does it, so that what the script defines is there at the prompt.
            return vec![shell.clone(), "--rcfile".to_owned(), enter, "-i".to_owned()];
        }
        [shell.clone(), enter].into_iter().chain(command).collect()
    }

    /// PATH, given what it would be.
    #[must_use]
    pub fn path_before(&self, rest: &str) -> String {
        let rest = Some(rest).filter(|rest| !rest.is_empty());
        self.path.iter().map(String::as_str).chain(rest).collect::<Vec<_>>().join(":")
    }
}

/// The attributes among packages.
#[must_use]
pub fn attributes(packages: &[Package]) -> Vec<String> {
    packages.iter().filter(|package| package.manager == Manager::Nix).map(|package| package.name.clone()).collect()
}

/// Has nix fetch or build what is asked for, and keep it as long as `roots` exist.
///
/// The user's nix is run with the user's environment, whatever store it uses: through a daemon, alone as its owner,
/// or with a store in another place.
///
/// # Errors
/// - [`ErrorKind::MissingTool`] without nix.
/// - [`ErrorKind::NoSuchPackage`] for an attribute that the package set has not, with the nearest ones.
/// - [`ErrorKind::BadReference`] for a flake that would be taken for an option.
/// - [`ErrorKind::Build`] with what nix had to say if it fails, or has a store of another name than [`STORE`].
pub fn resolve(request: &Request, roots: &Roots, progress: &dyn Progress) -> Result<NixEnvironment> {
    let nix = Programs { untrusted: &request.untrusted };
    let link = |name: &str| roots.path().join(name);
    let mut packages = Vec::new();
    if !request.attributes.is_empty() {
        packages = build(&nix, &request.attributes, &link("packages"), progress)?;
    }
    let mut wanted = packages.clone();
    let mut shell = shell::Shell::default();
    if let Some(flake) = &request.flake {
        let profile = link("shell");
        shell = develop(&nix, flake, &profile, progress)?;
        wanted.push(generation(&profile)?);
    }
    let mut closure = Vec::new();
    if !wanted.is_empty() {
        closure = nix.run(&plan::closure(&wanted), "its closure", &NoProgress)?.lines()?;
    }
    let mut names = store::names(&closure)?;
    let store = find_store(&nix, names.first().map(String::as_str))?;
    let is_directory = |path: &String| in_store(&store, path).is_some_and(|path| path.is_dir());
    let bins = packages.iter().flat_map(|package| ["bin", "sbin"].map(|bin| format!("{package}/{bin}")));
    let path: Vec<String> = bins.filter(is_directory).chain(shell.path).collect();
    let registered: &[String] = if request.whole_store { &[] } else { &closure };
    let registration = nix.run(&plan::registration(registered), "what it knows of its store", &NoProgress)?.check()?;
    let write = |name: &str, content: &[u8]| {
        let path = link(NOTES).join(name);
        fs::write(&path, content).map_err(io_error("write", &path))
    };
    write(REGISTRATION, &registration)?;
    let nix_inside = request.image_has_nix || path.iter().any(|bin| has_nix(&store, bin));
    let interpreter = (shell.script.is_some() || nix_inside).then(|| match shell.script {
        Some(_) => shell.bash.clone(),
        None => "sh".to_owned(),
    });
    if interpreter.is_some() {
        write(ENTER, enter(shell.script.as_deref()).as_bytes())?;
    }
    if request.whole_store {
        names.clear();
    }
    Ok(NixEnvironment {
        store,
        names,
        directory: roots.path().to_owned(),
        path,
        variables: shell.variables,
        shell: interpreter,
    })
}

/// Where the host has what is at a path of the store.
fn in_store(store: &Path, path: &str) -> Option<PathBuf> {
    let below = Path::new(path).strip_prefix(STORE).ok()?;
    Some(store::follow(store, store.join(below)))
}

/// Whether a directory of PATH has a nix.
fn has_nix(store: &Path, directory: &str) -> bool {
    in_store(store, directory).is_some_and(|directory| directory.join("nix-store").symlink_metadata().is_ok())
}

/// The script that goes before a program: a nix inside learns what is in its store, the hook runs, and then the
/// program, or a shell.
fn enter(script: Option<&str>) -> String {
    let load = format!(
        "if [ ! -e /nix/var/nix/db/db.sqlite ] && command -v nix-store >/dev/null; then\n\
         nix-store --load-db <{DIRECTORY}/{REGISTRATION}\nfi\n"
    );
    match script {
        // Without a program this is what an interactive bash reads first.
        Some(script) => format!("{load}{script}if [ $# -gt 0 ]; then exec \"$@\"; fi\n"),
        None => format!("{load}[ $# -gt 0 ] || set -- \"${{SHELL:-/bin/sh}}\" -l\nexec \"$@\"\n"),
    }
}

fn build(nix: &Programs<'_>, attributes: &[String], link: &Path, progress: &dyn Progress) -> Result<Vec<String>> {
    let what = format!("nix:{}", attributes.join(", nix:"));
    let built = nix.run(&plan::build(attributes, link), &what, progress)?;
    if built.success {
        return built.lines();
    }
    let tail = built.tail.clone();
    let missing = attributes.iter().find(|attribute| is_missing(&tail, attribute));
    Err(match missing {
        Some(attribute) => no_such_package(nix, attribute, built.error()),
        None if nix.ask(&plan::find_packages(), SUGGESTION_TIME).is_none() => built
            .error()
            .hint("nix has no package set here: add a channel named nixpkgs, or set NIX_PATH=nixpkgs=DIRECTORY"),
        None => built.error(),
    })
}

/// Whether nix says that there is no such attribute. It names the whole path in all versions, in one sort of quotes
/// or another.
fn is_missing(tail: &str, attribute: &str) -> bool {
    tail.lines().any(|line| {
        line.contains("not found")
            && line.split(['\'', '‘', '’', '"', '`']).any(|quoted| quoted == attribute)
            && line.contains("in selection path")
    })
}

fn no_such_package(nix: &Programs<'_>, attribute: &str, error: Error) -> Error {
    let names: Vec<String> = nix
        .ask(&plan::siblings(attribute), SUGGESTION_TIME)
        .and_then(|printed| serde_json::from_slice(&printed).ok())
        .unwrap_or_default();
    let missing = Error::new(ErrorKind::NoSuchPackage, format!("nix knows no package `{attribute}`")).source(error);
    let near = nearest(attribute, &names);
    if near.is_empty() { missing } else { missing.hint(format!("did you mean {}?", near.join(" or "))) }
}

/// The names beside an attribute that are most like it, as packages are asked for.
fn nearest(attribute: &str, names: &[String]) -> Vec<String> {
    /// Of Jaro and Winkler: below this, names have little in common.
    const ALIKE: f64 = 0.8;
    let (above, last) = attribute.rsplit_once('.').map_or((None, attribute), |(above, last)| (Some(above), last));
    let mut near: Vec<(f64, &String)> = names
        .iter()
        .map(|name| (strsim::jaro_winkler(last, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .collect();
    near.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(other.1)));
    near.truncate(SUGGESTIONS);
    near.into_iter()
        .map(|(_, name)| above.map_or(format!("nix:{name}"), |above| format!("nix:{above}.{name}")))
        .collect()
}

fn develop(nix: &Programs<'_>, flake: &str, profile: &Path, progress: &dyn Progress) -> Result<shell::Shell> {
    if flake.is_empty() || flake.starts_with('-') {
        return Err(Error::new(ErrorKind::BadReference, format!("`{}` names no flake", flake.escape_debug()))
            .hint("give a directory such as `.`, or another reference, and #SHELL after it for a certain one"));
    }
    let what = format!("the shell of {flake}");
    shell::parse(&nix.run(&plan::shell(flake, profile), &what, progress)?.check()?)
}

/// What a profile that was just made stands for: it points at its only generation, which points into the store.
fn generation(profile: &Path) -> Result<String> {
    let read = |path: &Path| fs::read_link(path).map_err(io_error("read", path));
    let generation = profile.with_file_name(read(profile)?);
    Ok(read(&generation)?.to_string_lossy().into_owned())
}

/// Where the host has the store: there, `name` is to be found.
fn find_store(nix: &Programs<'_>, name: Option<&str>) -> Result<PathBuf> {
    let places = store::places(|name| std::env::var_os(name));
    let settings = || {
        let named = plan::settings().iter().find_map(|command| nix.ask(command, SUGGESTION_TIME));
        named.and_then(|json| store::place_of_settings(&json))
    };
    store::find(&places, name)
        .or_else(|| store::find(&[settings()?], name))
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "this host's nix has its store where viv does not find it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(shell: Option<&str>) -> NixEnvironment {
        NixEnvironment {
            store: STORE.into(),
            names: Vec::new(),
            directory: "/state/nix/id".into(),
            path: vec!["/nix/store/a/bin".into(), "/nix/store/b/bin".into()],
            variables: BTreeMap::new(),
            shell: shell.map(str::to_owned),
        }
    }

    #[test]
    fn a_program_is_run_as_it_is_unless_something_comes_before_it() {
        let command = |shell: Option<&str>, words: &[&str]| {
            environment(shell).command(words.iter().map(|word| (*word).to_owned()).collect()).join(" ")
        };
        assert_eq!(command(None, &["make", "a b"]), "make a b");
        assert_eq!(command(None, &[]), "");
        assert_eq!(command(Some("sh"), &["make"]), "sh /run/viv/nix/enter make");
        assert_eq!(command(Some("sh"), &[]), "sh /run/viv/nix/enter");
        assert_eq!(command(Some("/nix/store/x/bin/bash"), &[]), "/nix/store/x/bin/bash --rcfile /run/viv/nix/enter -i");
        assert_eq!(environment(None).path_before("/bin"), "/nix/store/a/bin:/nix/store/b/bin:/bin");
        assert_eq!(environment(None).path_before(""), "/nix/store/a/bin:/nix/store/b/bin");
    }

    #[test]
    fn what_comes_before_a_program() {
        insta::assert_snapshot!(format!("{}---\n{}", enter(None), enter(Some("eval \"${shellHook:-}\"\n"))));
    }

    #[test]
    fn an_attribute_that_is_not_there_is_recognised() {
        let tail = "error: attribute 'hallo' in selection path 'hallo' not found\n       Did you mean hello?";
        assert!(is_missing(tail, "hallo"));
        assert!(!is_missing(tail, "hello"));
        assert!(is_missing("error: attribute 'x' in selection path 'a.x' not found", "a.x"));
        assert!(!is_missing("error: attribute 'hallo' missing", "hallo"));
    }

    #[test]
    fn the_nearest_names_are_suggested() {
        let names = ["hello", "hello-unfree", "help2man", "zlib"].map(str::to_owned);
        assert_eq!(nearest("hallo", &names), ["nix:hello"]);
        assert_eq!(nearest("python3Packages.helo", &names)[0], "nix:python3Packages.hello");
        assert!(nearest("ripgrep", &names).is_empty());
    }

    #[test]
    fn a_flake_is_no_option() {
        let profile = Path::new("/nowhere");
        for bad in ["", "--impure"] {
            assert_eq!(
                *develop(&Programs { untrusted: &[] }, bad, profile, &NoProgress).unwrap_err().kind(),
                ErrorKind::BadReference
            );
        }
    }
}
