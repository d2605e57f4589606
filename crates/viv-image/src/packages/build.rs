//! Builds one layer: both phases of a plan over the trees below, and what they wrote as an erofs file.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::confine::RootView;
use super::plan::{self, Recipe, Report, Step};
use super::system::Lines;
use super::trees::{self, Trees};
use super::workshop::{Bench, Ended, Job, Tool, Workshop, c_string};
use super::{Host, Manager, Package, versions};
use crate::cache::{Cache, Lock, Staging, hash_file};
use crate::error::{Error, ErrorKind, Output, Result, io_error, no_space};
use crate::filesystem::{FileSystem, Limits, Whiteouts};
use crate::progress::{Progress, ProgressEvent};
use crate::tools::SYSTEM_PATH;

const CLEAN_SCRIPT: &str = include_str!("../../data/layer-clean.sh");

/// All of a build, and what of it each phase is: shares of time on an idle two-core machine with a fast
/// mirror.
const TOTAL: u64 = 1000;
const FETCH: (u64, u64) = (0, 350);
const INSTALL: (u64, u64) = (350, 900);

/// The nearest names that are offered for one that is unknown.
const NEAREST: usize = 3;
/// More hints from a script are left out.
const MAX_HINTS: usize = 4;
/// Names kept for that, and versions.
const MAX_NAMES: usize = 300_000;
/// The longest value of an overlayfs mount's options.
const MAX_OPTIONS: usize = 4000;

/// What lies below a layer: image and layers, the lowest first, as names relative to the workshop.
pub(crate) struct Below<'a> {
    pub trees: &'a [String],
}

/// A layer that was built.
pub(crate) struct Built {
    /// The erofs file, in the staging directory.
    pub file: PathBuf,
    /// Versions of the packages that were asked for, as far as they are known.
    pub versions: Vec<(String, String)>,
}

/// Builds the layer of `set`, whose packages are all of `manager`.
#[expect(clippy::too_many_arguments, reason = "what a build is made of")]
pub(crate) fn layer(
    cache: &Cache,
    workshop: &Workshop,
    staging: &Staging<'_>,
    plan: &plan::Plan,
    recipe: &Recipe,
    (manager, set): (Manager, &[Package]),
    host: &Host,
    below: &Below<'_>,
    progress: &dyn Progress,
) -> Result<Built> {
    let bench = workshop.bench(progress)?;
    let build = Build { workshop, bench: &bench, staging, manager, set, host, below, plan, progress };
    let downloads = build.prepare()?;
    {
        // Two at once would be in each other's way.
        let name = format!("downloads-{}", downloads.replace('/', "-"));
        let lock = Lock::acquire(&cache.directory("locks")?, &name, &mut || {
            progress.event(ProgressEvent::Waiting { what: "another download of packages".to_owned() });
        })?;
        build.phase(Phase::Fetch, &downloads, Some(&lock.file))?;
    }
    progress.event(ProgressEvent::Step { message: "installing packages".to_owned() });
    let versions = build.phase(Phase::Install, &downloads, None)?;
    progress.event(ProgressEvent::Step { message: "making the layer".to_owned() });
    let file = build.write(recipe)?;
    progress.event(ProgressEvent::Fraction { done: TOTAL, total: TOTAL });
    Ok(Built { file, versions })
}

/// A layer on its way.
struct Build<'a> {
    workshop: &'a Workshop,
    bench: &'a Bench<'a>,
    staging: &'a Staging<'a>,
    manager: Manager,
    set: &'a [Package],
    host: &'a Host,
    below: &'a Below<'a>,
    plan: &'a plan::Plan,
    progress: &'a dyn Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fetch,
    Install,
}

/// What a script reported.
#[derive(Default)]
struct Reports {
    versions: Vec<(String, String)>,
    unknown: Option<String>,
    unknown_version: Option<(String, String)>,
    candidates: Vec<String>,
    available: Vec<String>,
    refused: Option<String>,
    hints: Vec<String>,
    done: u64,
}

impl Build<'_> {
    fn locks(&self) -> Vec<&File> {
        vec![&self.staging.lock.file, &self.bench.lock]
    }

    /// Makes directories; gives that of the manager's downloads.
    fn prepare(&self) -> Result<String> {
        let downloads = match self.manager {
            // Lists are of one base's sources.
            Manager::System => {
                let base = self.below.trees.first().map_or("none", |tree| tree.as_str());
                format!("system-{}", base.trim_start_matches("trees/").chars().take(16).collect::<String>())
            }
            other => other.prefix().unwrap_or("other").to_owned(),
        };
        let downloads = self.workshop.owned("downloads", &downloads);
        for directory in ["root", "inside"] {
            self.bench.directory(directory)?;
        }
        // Owned by the root in there, as the directories of a system are; the first becomes the root
        // directory of what is seen.
        let bench = &self.bench.name;
        let own = ["upper", "work", "tmp", "inside/job", "inside/cache", "inside/files", "inside/home"];
        let own: Vec<String> = own.iter().map(|name| format!("{bench}/{name}")).chain([downloads.clone()]).collect();
        let mut arguments = vec!["-p", "-m", "0755", "--"];
        arguments.extend(own.iter().map(String::as_str));
        self.tool("mkdir", &arguments)?;
        self.tool("chmod", &["1777", &format!("{bench}/tmp")])?;
        // All that is to be in it is.
        let inside = self.bench.path().join("inside");
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))
            .map_err(io_error("change the mode of", &inside))?;
        Ok(downloads)
    }

    fn tool(&self, program: &'static str, arguments: &[&str]) -> Result<()> {
        self.workshop.tool(Tool { program, arguments, locks: self.locks(), ..Tool::default() })?.check(program)
    }

    /// Writes the files of a phase; gives their directory.
    fn files(&self, phase: Phase, step: &Step) -> Result<String> {
        let name = if phase == Phase::Fetch { "fetch-files" } else { "install-files" };
        let directory = self.bench.path().join(name);
        let write = |name: &str, content: &[u8]| {
            let path = directory.join(name);
            let parent = path.parent().unwrap_or(&directory);
            fs::create_dir_all(parent).and_then(|()| fs::write(&path, content)).map_err(io_error("write", &path))
        };
        fs::create_dir(&directory).map_err(io_error("make the directory", &directory))?;
        for (name, content) in &step.files {
            write(name, content)?;
        }
        everyone_may_read(&directory).map_err(io_error("change the mode of", &directory))?;
        Ok(format!("{}/{name}", self.bench.name))
    }

    /// What a phase sees.
    fn root(&self, phase: Phase, files: &str, downloads: &str) -> Result<RootView> {
        let bench = &self.bench.name;
        let bind = |source: &str, target: &str, writable: bool| -> Result<(CString, CString, bool)> {
            Ok((c_string(source)?, c_string(target)?, writable))
        };
        let mut binds = vec![
            bind(&format!("{bench}/tmp"), "/tmp", true)?,
            bind(&format!("{bench}/inside"), "/viv-build", true)?,
            bind(&format!("{bench}/inside/job"), "/viv-build/job", true)?,
            bind(downloads, "/viv-build/cache", phase == Phase::Fetch)?,
            bind(files, "/viv-build/files", false)?,
        ];
        if phase == Phase::Fetch {
            let network = self.bench.path().join("network");
            fs::create_dir(&network).map_err(io_error("make the directory", &network))?;
            for (name, content) in [("resolv.conf", &self.host.resolver), ("certificates.pem", &self.host.certificates)]
            {
                let path = network.join(name);
                fs::write(&path, content).map_err(io_error("write", &path))?;
            }
            everyone_may_read(&network).map_err(io_error("change the mode of", &network))?;
            for name in ["certificates.pem", "resolv.conf"] {
                let place = self.bench.path().join("inside").join(name);
                fs::write(&place, "").map_err(io_error("write", &place))?;
            }
            binds.push(bind(&format!("{bench}/network/certificates.pem"), "/viv-build/certificates.pem", false)?);
            binds.push(bind(&format!("{bench}/network/resolv.conf"), "/etc/resolv.conf", false)?);
        }
        let lower: Vec<&str> = self.below.trees.iter().rev().map(String::as_str).collect();
        // What is written is thrown away if the machine stops in the middle, so nothing waits for the disk.
        let options = format!(
            "userxattr,volatile,index=off,lowerdir={},upperdir={bench}/upper,workdir={bench}/work",
            lower.join(":")
        );
        if options.len() > MAX_OPTIONS {
            return Err(Error::new(
                ErrorKind::Build,
                format!("{} layers are too many to install packages over", lower.len()),
            ));
        }
        Ok(RootView {
            overlay: c_string(options)?,
            mount_point: c_string(format!("{bench}/root"))?,
            binds,
            network: phase == Phase::Fetch,
        })
    }

    /// Runs a phase; gives the versions it reported.
    fn phase(&self, phase: Phase, downloads: &str, lock: Option<&File>) -> Result<Vec<(String, String)>> {
        let (script, step, span) = match phase {
            Phase::Fetch => (self.plan.script.fetch, &self.plan.fetch, FETCH),
            Phase::Install => (self.plan.script.install, &self.plan.install, INSTALL),
        };
        if phase == Phase::Install {
            // Left by the volatile mount before, and no obstacle: this boot's files are whole.
            self.tool("rm", &["-rf", "--", &format!("{}/work", self.bench.name)])?;
            self.tool("mkdir", &["-m", "0755", "--", &format!("{}/work", self.bench.name)])?;
        }
        let files = self.files(phase, step)?;
        let fixed = [("PATH", SYSTEM_PATH), ("HOME", "/viv-build/home"), ("TMPDIR", "/tmp"), ("LC_ALL", "C.UTF-8")];
        let environment = fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut arguments = vec!["-c".to_owned(), script.to_owned(), "sh".to_owned()];
        arguments.extend(self.plan.arguments.iter().cloned());
        let reports = Mutex::new(Reports::default());
        let locked = || reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let advance = |done: u64, total: u64| {
            let mut reports = locked();
            let done = span.0 + (span.1 - span.0).saturating_mul(done).checked_div(total).unwrap_or(0);
            if done > reports.done {
                reports.done = done;
                self.progress.event(ProgressEvent::Fraction { done, total: TOTAL });
            }
        };
        let mut lines = Lines::default();
        let on_line = |line: &str| {
            if self.manager == Manager::System
                && let Some((done, total)) = lines.next(line)
            {
                advance(done, total);
            }
        };
        let on_report = |line: &str| match Report::parse(line) {
            Some(Report::Step(message)) => self.progress.event(ProgressEvent::Step { message }),
            Some(Report::Fraction { done, total }) => advance(done, total),
            Some(report) => locked().take(report),
            None => {}
        };
        let ended = self.workshop.run(Job {
            root: Some(self.root(phase, &files, downloads)?),
            program: PathBuf::from("/bin/sh"),
            arguments,
            environment: environment.chain(step.environment.iter().cloned()).collect(),
            locks: self.locks().into_iter().chain(lock).collect(),
            input: None,
            output: None,
            on_line: Box::new(on_line),
            on_report: Some(Box::new(on_report)),
        })?;
        let reports = reports.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ended.status.success() { Ok(reports.versions) } else { Err(self.failure(phase, ended, reports)) }
    }

    fn failure(&self, phase: Phase, ended: Ended, reports: Reports) -> Error {
        let asked = |name: &str| Package { manager: self.manager, name: name.to_owned(), version: None };
        if crate::output::ran_out_of_space(&ended.tail) {
            return no_space(self.workshop.path(), Output(ended.tail));
        }
        if let Some(name) = reports.unknown {
            let near = nearest(&name, reports.candidates);
            let error = Error::new(ErrorKind::NoSuchPackage, format!("there is no package {}", asked(&name)));
            let near: Vec<String> = near.iter().map(|name| asked(name).to_string()).collect();
            return if near.is_empty() { error } else { error.hint(format!("the nearest names: {}", near.join(", "))) };
        }
        if let Some((name, version)) = reports.unknown_version {
            let error =
                Error::new(ErrorKind::NoSuchPackage, format!("there is no version {version} of {}", asked(&name)));
            let near = versions::nearest(&version, reports.available);
            return if near.is_empty() { error } else { error.hint(format!("there are: {}", near.join(", "))) };
        }
        if let Some(why) = reports.refused {
            let prefix = self.manager.prefix().map(|prefix| format!("{prefix}:")).unwrap_or_default();
            let error = Error::new(ErrorKind::Build, format!("{prefix}{why}")).source(Output(ended.tail));
            return reports.hints.into_iter().fold(error, Error::hint);
        }
        let names = names(self.set);
        let error = match phase {
            Phase::Fetch => Error::new(ErrorKind::Download, format!("cannot download {names}"))
                .hint("check the network, and the proxy if there is one"),
            Phase::Install => Error::new(ErrorKind::Build, format!("cannot install {names}")),
        };
        error.source(Output(ended.tail))
    }

    /// Makes an erofs file of what both phases wrote, and a tree of the same.
    fn write(&self, recipe: &Recipe) -> Result<PathBuf> {
        let upper = format!("{}/upper", self.bench.name);
        let mut arguments = vec!["-c", CLEAN_SCRIPT, "sh", &upper];
        arguments.extend(recipe.keep.unwrap_or_default());
        self.tool("sh", &arguments)?;
        let file = self.staging.directory.join("layer.erofs");
        let mut image = FileSystem::create(&file, Limits::default())?;
        let consume = |pipe: &mut dyn std::io::Read| {
            image.apply_tar(&mut BufReader::with_capacity(256 << 10, pipe), Whiteouts::Overlay)
        };
        let arguments = [
            "--create",
            "--file=-",
            "--directory",
            &upper,
            "--format=pax",
            "--numeric-owner",
            "--sort=name",
            "--xattrs",
            "--xattrs-include=*",
            "--pax-option=delete=atime,delete=ctime",
            "--",
            ".",
        ];
        let tool = Tool {
            program: "tar",
            arguments: &arguments,
            locks: self.locks(),
            output: Some(Box::new(consume)),
            ..Tool::default()
        };
        self.workshop.tool(tool)?.check("tar")?;
        image.finish()?;
        let digest = hash_file(&file).map_err(io_error("read", &file))?;
        let name = self.workshop.owned("trees", &digest);
        if !self.workshop.path().join(&name).exists() {
            trees::keep(self.workshop, &upper, &name, &self.locks())?;
        }
        Ok(file)
    }
}

impl Reports {
    fn take(&mut self, report: Report) {
        match report {
            Report::Package { name, version } => self.versions.push((name, version)),
            Report::Unknown { name } => {
                self.unknown.get_or_insert(name);
            }
            Report::UnknownVersion { name, version } => {
                self.unknown_version.get_or_insert((name, version));
            }
            Report::Candidate(name) if self.candidates.len() < MAX_NAMES => self.candidates.push(name),
            Report::Version { name, version }
                if self.available.len() < MAX_NAMES
                    && self.unknown_version.as_ref().is_some_and(|(unknown, _)| *unknown == name) =>
            {
                self.available.push(version);
            }
            Report::Refused(why) => {
                self.refused.get_or_insert(why);
            }
            Report::Hint(hint) if self.hints.len() < MAX_HINTS => self.hints.push(hint),
            Report::Hint(_)
            | Report::Candidate(_)
            | Report::Version { .. }
            | Report::Step(_)
            | Report::Fraction { .. } => {}
        }
    }
}

/// The names that are most like another, the most like first.
fn nearest(name: &str, candidates: Vec<String>) -> Vec<String> {
    let mut near: Vec<(usize, String)> = candidates
        .into_iter()
        // A distance is at least the difference in length.
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= name.len() / 2)
        .map(|candidate| (strsim::osa_distance(name, &candidate), candidate))
        .filter(|(distance, _)| *distance <= name.len().div_ceil(2))
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(NEAREST).map(|(_, name)| name).collect()
}

/// The set for people.
pub(crate) fn names(set: &[Package]) -> String {
    set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whatever the umask says.
fn everyone_may_read(directory: &Path) -> std::io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            everyone_may_read(&entry.path())?;
        } else {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// What a plan may ask about what lies below.
pub(crate) fn facts(workshop: &Workshop, below: &Below<'_>) -> Trees {
    Trees { directories: below.trees.iter().rev().map(|name| workshop.path().join(name)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names() {
        let candidates = ["git", "gti-tools", "gist", "vim", "got", "ripgrep", "git"].map(str::to_owned).to_vec();
        assert_eq!(nearest("gti", candidates.clone()), ["git", "got"]);
        assert_eq!(nearest("rigrep", candidates.clone()), ["ripgrep"]);
        assert_eq!(nearest("zzzzzz", candidates), Vec::<String>::new());
    }
}
