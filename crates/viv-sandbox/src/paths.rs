//! Where things live on the host (XDG Base Directory Specification).

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Viv's directories. All are private to the user (0700).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Sockets and records of running sandboxes: `$XDG_RUNTIME_DIR/viv`, or `run` in the state.
    pub runtime: PathBuf,
    /// What outlives a sandbox, and scratch disks while they are used: `$XDG_STATE_HOME/viv`.
    pub state: PathBuf,
    /// Kernels and images, safe to delete: `$XDG_CACHE_HOME/viv`.
    pub cache: PathBuf,
    /// The user's settings: `$XDG_CONFIG_HOME/viv`.
    pub config: PathBuf,
}

impl Paths {
    /// The directories the environment names. Nothing is made yet.
    ///
    /// # Errors
    /// [`ErrorKind::StateDirectory`] without a usable `HOME` where one is needed.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        // The specification: a relative path is to be ignored.
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let below_home = |name: &str, rest: &str| -> Result<PathBuf> {
            match (absolute(name), &home) {
                (Some(path), _) => Ok(path.join("viv")),
                (None, Some(home)) => Ok(home.join(rest).join("viv")),
                (None, None) => {
                    Err(Error::new(ErrorKind::StateDirectory, format!("neither HOME nor {name} is set to a path"))
                        .hint("export HOME=\"$(getent passwd \"$(id -u)\" | cut -d: -f6)\""))
                }
            }
        };
        let state = below_home("XDG_STATE_HOME", ".local/state")?;
        Ok(Self {
            runtime: absolute("XDG_RUNTIME_DIR").map_or_else(|| state.join("run"), |path| path.join("viv")),
            cache: below_home("XDG_CACHE_HOME", ".cache")?,
            config: below_home("XDG_CONFIG_HOME", ".config")?,
            state,
        })
    }

    /// Makes the directories a running sandbox needs.
    ///
    /// # Errors
    /// [`ErrorKind::StateDirectory`] if one cannot be made, or belongs to someone else.
    pub fn create(&self) -> Result<()> {
        [&self.runtime, &self.state].into_iter().try_for_each(|directory| private_directory(directory))
    }
}

/// Makes sure of a directory no one else can look into.
pub(crate) fn private_directory(directory: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::StateDirectory, format!("{} cannot be used", directory.display())).source(error)
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let metadata = std::fs::metadata(directory).map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me || metadata.mode() & 0o022 != 0 {
        return Err(Error::new(
            ErrorKind::StateDirectory,
            format!("{} belongs to another user or may be written by one", directory.display()),
        )
        .hint(format!("chmod 700 {0}; chown {me} {0}", directory.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(variables: &[(&str, &str)]) -> Result<Paths> {
        let variables: std::collections::BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        Paths::from_variables(|name| variables.get(name).cloned())
    }

    #[test]
    fn follows_the_specification() {
        insta::assert_json_snapshot!([
            paths(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")]).unwrap(),
            paths(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "relative"), ("XDG_STATE_HOME", "/s")]).unwrap(),
        ]);
        let error = paths(&[("HOME", "")]).unwrap_err();
        assert_eq!(error.to_string(), "neither HOME nor XDG_STATE_HOME is set to a path");
    }
}
