//! `viv image`

mod lock;
mod make;
mod remove;
mod show;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use viv_image::{Cache, Stored};
use viv_sandbox::{Paths, TemplateInfo};

use crate::cli::image::ImageCommand;
use crate::error::Failure;
use crate::output::Printer;
use crate::render;

pub use remove::evict;

/// Does what was asked for.
///
/// # Errors
/// A cache that cannot be used, a name that fits none or several, an image that cannot be made.
pub fn image(command: &ImageCommand, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    match command {
        ImageCommand::Build(arguments) => make::build(arguments, &paths, printer),
        ImageCommand::Pull(arguments) => make::pull(arguments, &paths, printer),
        ImageCommand::Import(arguments) => make::import(arguments, &paths, printer),
        ImageCommand::Ls(arguments) => show::list(arguments, &paths),
        ImageCommand::Inspect(arguments) => show::inspect(arguments, &paths),
        ImageCommand::Rm(arguments) => remove::remove(arguments, &paths, printer),
        ImageCommand::Prune(arguments) => remove::prune(arguments, &paths, printer),
        ImageCommand::Lock(arguments) => lock::lock(arguments, &paths, printer),
        ImageCommand::Update(arguments) => lock::update(arguments, &paths, printer),
        ImageCommand::Export(arguments) => make::export(arguments, &paths, printer),
    }
}

/// A digest as people see it.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// What uses something of the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Uses {
    /// Names of running sandboxes, or their ids.
    sandboxes: Vec<String>,
    /// Keys of templates.
    templates: Vec<String>,
}

/// What uses what, gathered once.
struct Users {
    holders: BTreeMap<PathBuf, Vec<String>>,
    names: BTreeMap<String, String>,
    templates: Vec<TemplateInfo>,
}

impl Users {
    fn gather(cache: &Cache, paths: &Paths) -> Result<Self, Failure> {
        let records = viv_sandbox::list(paths)?;
        Ok(Self {
            holders: viv_image::holders(cache)?,
            names: records.into_iter().filter_map(|record| Some((record.id, record.name?))).collect(),
            templates: viv_sandbox::list_templates(paths)?,
        })
    }

    /// A sandbox as people call it.
    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map_or(id, String::as_str)
    }

    fn of(&self, stored: &Stored) -> Uses {
        let holders = self.holders.get(&stored.path).into_iter().flatten();
        Uses {
            sandboxes: holders.map(|id| self.name(id).to_owned()).collect(),
            templates: self.templates_of(&stored.path).map(|info| info.key.clone()).collect(),
        }
    }

    fn templates_of<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a TemplateInfo> {
        self.templates.iter().filter(move |info| info.files.iter().any(|file| file == path))
    }

    /// Machines that stand ready, and would be started from it.
    fn spares(&self, paths: &Paths, path: &Path) -> Option<String> {
        let info = self.templates_of(path).find(|info| viv_sandbox::count_spares(paths, &info.key) > 0)?;
        Some(format!("spares of template {} stand ready on it", render::short_key(&info.key)))
    }
}
