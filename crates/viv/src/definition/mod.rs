//! The sandboxes that are described in files: a project's own and its named ones in `viv.toml`, the
//! user's in `config.toml`.
//!
//! A definition says what a sandbox is; whether there is one is another matter. Its settings go over
//! those of `[run]` and `[image]` of the same directory, and under the command line's.

use std::path::{Path, PathBuf};

use viv_sandbox::Paths;

use crate::environment::HostEnvironment;
use crate::error::Error;
use crate::settings::Layer;

/// A sandbox as a file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name, fit for a host name.
    pub name: String,
    /// The file that describes it; the one that could where none does.
    pub file: PathBuf,
    /// The directory it works on, canonical.
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
    /// What it asks for and does not get, for people: its file is not trusted with it.
    pub withheld: Option<String>,
}

// The functions, as they will be here:
//   pub fn all(workspace: &Path, host: &HostEnvironment, paths: &Paths) -> Result<Vec<Definition>, Error>
//       those whose workspace is this (canonical) directory, its own first; never empty: without any
//       description there is the default one, named after the directory.
//   pub fn find(name: Option<&str>, workspace: &Path, host: &HostEnvironment, paths: &Paths) -> Result<Definition, Error>
//       by its whole name, also the user's of other directories; without a name the directory's own.
//   Asked (commands/prepare.rs) gets `definition: Layer`, which takes `Definition::layer`.
