//! The sandboxes that ssh can know: those that stay, running or not, and those that run and go.

use std::collections::BTreeSet;
use std::path::PathBuf;

use viv_sandbox::named::{self, Named};
use viv_sandbox::{Paths, Record, State};

use super::client::{Entry, PREFIX};
use crate::error::{Error, ErrorKind, Failure};
use crate::output::clean::clean;

/// A sandbox.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its names for ssh, the best first: never empty.
    pub aliases: Vec<String>,
    /// Where its host key is: a directory that goes with it.
    pub directory: PathBuf,
    /// The directory it works in.
    pub workspace: PathBuf,
    /// What is known of it, if it has a machine.
    pub record: Option<Record>,
}

impl Target {
    /// The best of its names for ssh.
    #[must_use]
    pub fn host(&self) -> &str {
        self.aliases.first().map_or("", String::as_str)
    }

    /// The same for viv.
    #[must_use]
    pub fn name(&self) -> &str {
        without_prefix(self.host())
    }

    /// As it is listed.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry { host: self.host().to_owned(), workspace: self.workspace.clone() }
    }

    /// Its machine, if programs can be run in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with what would have it run.
    pub fn running(&self) -> Result<&Record, Error> {
        let name = clean(self.name());
        match &self.record {
            None => Err(Error::new(ErrorKind::NotFound, format!("the sandbox {name} is not running"))
                .hint(format!("viv start {name}"))),
            Some(record) if record.state == State::Paused => {
                Err(Error::new(ErrorKind::NotFound, format!("the sandbox {name} is paused"))
                    .hint(format!("viv resume {name}")))
            }
            Some(record) => Ok(record),
        }
    }

    fn of_named(paths: &Paths, named: Named) -> Self {
        let names = std::iter::once(&named.name).chain(&named.id);
        Self {
            aliases: names.map(|name| format!("{PREFIX}{name}")).collect(),
            directory: named::directory_of(paths, &named.name),
            workspace: named.workspace,
            record: named.record,
        }
    }

    fn of_running(paths: &Paths, record: Record) -> Self {
        let names = record.name.iter().chain(std::iter::once(&record.id));
        Self {
            aliases: names.map(|name| format!("{PREFIX}{name}")).collect(),
            directory: paths.runtime.join(&record.id),
            workspace: record.workspace.clone(),
            record: Some(record),
        }
    }
}

fn without_prefix(host: &str) -> &str {
    host.strip_prefix(PREFIX).unwrap_or(host)
}

/// All of them.
///
/// # Errors
/// Directories of viv's that cannot be read.
pub fn all(paths: &Paths) -> Result<Vec<Target>, Failure> {
    let mut targets: Vec<Target> =
        named::list(paths)?.into_iter().map(|named| Target::of_named(paths, named)).collect();
    let known: BTreeSet<String> = targets.iter().flat_map(|target| target.aliases.iter().cloned()).collect();
    let others =
        viv_sandbox::list(paths)?.into_iter().filter(|record| !known.contains(&format!("{PREFIX}{}", record.id)));
    targets.extend(others.map(|record| Target::of_running(paths, record)));
    Ok(targets)
}

/// The one of this name for ssh, whole.
#[must_use]
pub fn called<'a>(targets: &'a [Target], host: &str) -> Option<&'a Target> {
    targets.iter().find(|target| target.aliases.iter().any(|alias| alias == host))
}

/// The one of this name or id, or a unique beginning of either.
///
/// # Errors
/// [`ErrorKind::NotFound`] if it is none's or several's.
pub fn find<'a>(targets: &'a [Target], wanted: &str) -> Result<&'a Target, Error> {
    if let Some(exact) = called(targets, &format!("{PREFIX}{wanted}")) {
        return Ok(exact);
    }
    let fits = |target: &&Target| {
        !wanted.is_empty() && target.aliases.iter().any(|alias| without_prefix(alias).starts_with(wanted))
    };
    let fitting: Vec<&Target> = targets.iter().filter(fits).collect();
    match fitting[..] {
        [only] => Ok(only),
        [] => Err(Error::new(ErrorKind::NotFound, format!("there is no sandbox called {:?}", clean(wanted)))
            .hint("viv ps --all")),
        _ => {
            let names: Vec<&str> = fitting.iter().map(|target| target.name()).collect();
            let names = clean(&names.join(", ")).into_owned();
            Err(Error::new(ErrorKind::NotFound, format!("{:?} may be any of {names}", clean(wanted)))
                .hint("viv ps --all"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(aliases: &[&str]) -> Target {
        let aliases = aliases.iter().map(|alias| format!("{PREFIX}{alias}")).collect();
        Target { aliases, directory: "/d".into(), workspace: "/w".into(), record: None }
    }

    #[test]
    fn a_beginning_is_enough_if_it_is_one_sandboxs() {
        let targets = [target(&["web", "aa000001"]), target(&["web-2"]), target(&["ab000003"])];
        let found = |wanted| find(&targets, wanted).map(Target::name).map_err(|error| error.to_string());
        assert_eq!(found("web"), Ok("web"));
        assert_eq!(found("web-"), Ok("web-2"));
        assert_eq!(found("aa"), Ok("web"));
        assert_eq!(found("we"), Err("\"we\" may be any of web, web-2".to_owned()));
        assert_eq!(found(""), Err("there is no sandbox called \"\"".to_owned()));
        // What ssh is told has to be whole: its list of keys knows no beginnings.
        assert!(called(&targets, "viv-aa000001").is_some());
        assert!(called(&targets, "viv-aa").is_none() && called(&targets, "web").is_none());
        assert_eq!(targets[0].running().unwrap_err().hints(), ["viv start web"]);
    }
}
