//! `viv image lock` and `update`

use serde::Serialize;
use viv_image::{Cache, ImageSource, LockFile, Package, RegistryAccess};
use viv_sandbox::Paths;

use crate::cli::image::{LockArguments, UpdateArguments};
use crate::commands::prepare::{self, Asked};
use crate::environment::HostEnvironment;
use crate::error::Failure;
use crate::lock::ProjectLock;
use crate::output::clean::clean;
use crate::output::{Printer, ProgressReporter, print_json};
use crate::resolve::Resolved;
use crate::settings::Layer;

pub(super) fn lock(arguments: &LockArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let project = Project::read(arguments, paths)?;
    let file = project.file.clone();
    project.write(file, arguments, paths, printer)
}

pub(super) fn update(arguments: &UpdateArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let project = Project::read(&arguments.lock, paths)?;
    let file = project.file.without(&arguments.packages)?;
    let cache = Cache::open(&paths.cache)?;
    if arguments.packages.is_empty() {
        let progress = ProgressReporter::new(printer);
        viv_image::pull(&cache, &project.source, &RegistryAccess::of_environment(), &progress)?;
    }
    // Else what is known of them would do. Other projects' stay.
    let anew = if arguments.packages.is_empty() { &project.asked } else { &arguments.packages };
    viv_image::forget_packages(&cache, anew)?;
    project.write(file, &arguments.lock, paths, printer)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Locked {
    file: std::path::PathBuf,
    image: Option<String>,
    packages: Vec<LockedPackage>,
}

#[derive(Serialize)]
struct LockedPackage {
    package: String,
    version: String,
}

/// What a project asks for, and what its lock says.
struct Project {
    resolved: Resolved,
    source: ImageSource,
    asked: Vec<Package>,
    file: LockFile,
}

impl Project {
    fn read(arguments: &LockArguments, paths: &Paths) -> Result<Self, Failure> {
        let host = HostEnvironment::probe()?;
        // The project's and the user's files alone: a lock is about what is asked for every time.
        let asked = Asked::default();
        let resolved = prepare::unlocked(arguments.workspace.as_deref(), asked, &[], &host, paths)?;
        let file = LockFile::read(&resolved.sandbox.workspace)?.unwrap_or_default();
        let source = resolved.sandbox.image.clone().unwrap_or_default();
        let asked = resolved.sandbox.packages.clone();
        Ok(Self { resolved, source, asked, file })
    }

    /// Makes what is asked for, as far as `file` says in those versions, and writes down what it came to.
    fn write(self, file: LockFile, arguments: &LockArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
        let Self { mut resolved, source, asked, .. } = self;
        ProjectLock::apply(file, &mut resolved);
        let built = prepare::build(&resolved, paths, printer)?;
        let project = &resolved.sandbox.workspace;
        let image = built.root.pin.as_deref().map(|pin| (&source, pin));
        let new = LockFile::of(project, image, &asked, &built.layers);
        new.write(project)?;
        let file = project.join(LockFile::NAME);
        let packages: Vec<LockedPackage> = new
            .packages()
            .map(|(package, locked)| LockedPackage { package: package.to_string(), version: locked.version.clone() })
            .collect();
        if arguments.json {
            print_json(&Locked { file, image: built.root.pin, packages })?;
        } else {
            for LockedPackage { package, version } in &packages {
                printer.note(&format!("{package}: {version}"));
            }
            printer.note(&format!("{} is written", clean(&file.to_string_lossy())));
        }
        Ok(0)
    }
}
