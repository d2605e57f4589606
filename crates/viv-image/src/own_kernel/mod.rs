//! A kernel of viv's own: small, without modules, built on this machine from the suite's kernel
//! source.
//!
//! ```text
//! newest package? ──► known ──────────────────────────────────────────────────► used
//!        │                                                                       ▲
//!        └─ new ──► fetch ──► unpack ──► configure ──► compare ──► compile ──► strip, check, keep
//!                    apt       tar        make          by name      make
//! ```
//!
//! What is asked for is in `kernel/*.config`; the recipe is that and the package's version, so an
//! update of either builds anew and leaves the old one until it is removed. Which kernel is used where
//! none is named is in the file `kernels/selected` of the cache: no such file means Debian's.

mod config;
mod follow;
mod plan;
mod selection;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bootstrap::{self, Host};
use crate::bzimage;
use crate::cache::{Built, Cache, Kept, Outside, Recipe, Staging};
use crate::error::{Error, ErrorKind, Output, Result, io_error, no_space};
use crate::kernel::{Kernel, debootstrap, only_entry};
use crate::output;
use crate::progress::{Progress, ProgressEvent};
use crate::run::{self, Ended, Invocation};
use crate::sources::SUITE;
use crate::tools;
use follow::{MakeFollower, Part};
pub use selection::{PreferredKernel, preferred_kernel, select_kernel};

/// Changes with how a kernel is built.
const VERSION: u32 = 1;
/// Of its recipes in the cache.
const KIND: &str = "own-kernel";
/// The name of the kernel among the files of a recipe.
const VMLINUX: &str = "vmlinux";
/// Digits of a digest that make an id.
const ID_DIGITS: usize = 12;
/// The first kernel series whose configuration the fragments are for.
const OLDEST: (u32, u32) = (6, 12);

/// A kernel that was built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKernel {
    /// The beginning of its digest: names it on the command line.
    pub id: String,
    /// As `uname -r` says.
    pub release: String,
    /// The package it was built from, `NAME=VERSION`.
    pub source: String,
    /// Its SHA-256, in hexadecimal.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was built.
    pub built: SystemTime,
    /// Where it is: in the cache.
    pub vmlinux: PathBuf,
}

impl From<OwnKernel> for Kernel {
    fn from(own: OwnKernel) -> Self {
        Self { vmlinux: own.vmlinux, release: own.release, modules: Vec::new(), digest: own.digest }
    }
}

/// Builds a kernel from the newest source the suite has, if that has not been done: 150 MB of
/// downloads, 1.5 GB of temporary files, and about 26 minutes of processor time, which `jobs` processes
/// at once share. Whether the source is the newest is asked every time.
///
/// # Errors
/// [`ErrorKind::MissingTool`], [`ErrorKind::Namespaces`], [`ErrorKind::Download`],
/// [`ErrorKind::Build`], [`ErrorKind::NoSpace`] and [`ErrorKind::Io`].
pub fn build_own_kernel(cache: &Cache, jobs: NonZeroU32, progress: &dyn Progress) -> Result<OwnKernel> {
    require_tools()?;
    let package = newest_package(progress)?;
    let lines = newest_fact(cache, "lines")?;
    let made = cache.ensure(&recipe(&package), progress, |staging| {
        let outside = Outside::new(progress)?;
        let build = Build { staging, outside: &outside, progress };
        let tree = build.source(&package)?;
        build.configure(&tree)?;
        let lines = build.compile(&tree, jobs, lines)?;
        build.keep(&tree, &package, lines)
    })?;
    let kept = cache.kept(KIND)?.into_iter().find(|kept| kept.made == made);
    kept.and_then(|kept| own_kernel(cache, &kept))
        .ok_or_else(|| Error::new(ErrorKind::Cache, "the own kernel went missing as soon as it was built"))
}

/// The configuration [`build_own_kernel`] would build with: the source is fetched and configured, and
/// nothing is compiled or kept. Takes about a minute.
///
/// # Errors
/// As [`build_own_kernel`]; [`ErrorKind::Build`] also if the source does not have an option that is
/// asked for.
pub fn own_kernel_configuration(cache: &Cache, progress: &dyn Progress) -> Result<String> {
    require_tools()?;
    let package = newest_package(progress)?;
    let what = "the configuration of the own kernel".to_owned();
    let recipe = Recipe { kind: "own-kernel-configuration", text: recipe(&package).text, what };
    let made = cache.ensure(&recipe, progress, |staging| {
        let outside = Outside::new(progress)?;
        let build = Build { staging, outside: &outside, progress };
        let configuration = build.configure(&build.source(&package)?)?;
        let path = staging.directory.join("config");
        fs::write(&path, configuration).map_err(io_error("write", &path))?;
        Ok(Built { files: vec![("config".to_owned(), path)], ..Built::default() })
    })?;
    let file = made.files.first();
    let path = cache.blob(file.map_or("", |file| &file.digest));
    fs::read_to_string(&path).map_err(io_error("read", &path))
}

/// The kernels that were built here, the newest first.
///
/// # Errors
/// [`ErrorKind::Io`] if the cache cannot be read.
pub fn own_kernels(cache: &Cache) -> Result<Vec<OwnKernel>> {
    let mut kernels: Vec<OwnKernel> = cache.kept(KIND)?.iter().filter_map(|kept| own_kernel(cache, kept)).collect();
    kernels.sort_by(|a, b| (b.built, &b.id).cmp(&(a.built, &a.id)));
    Ok(kernels)
}

/// The own kernel of that id, or of a beginning of one that fits no other; its content is read again if
/// anything about the file changed.
///
/// # Errors
/// [`ErrorKind::NotFound`] if none or several fit or it is damaged; [`ErrorKind::Io`] if the cache
/// cannot be read.
pub fn find_own_kernel(cache: &Cache, id: &str) -> Result<OwnKernel> {
    let (kernel, kept) = find(cache, id)?;
    if cache.is_intact(KIND, &kept)? {
        return Ok(kernel);
    }
    Err(Error::new(ErrorKind::NotFound, format!("the own kernel {} is damaged", kernel.id))
        .hint(format!("viv kernel rm {}", kernel.id))
        .hint("viv kernel build"))
}

/// Removes an own kernel, named as for [`find_own_kernel`], from the cache. Sandboxes that run it go
/// on. Returns what it was.
///
/// # Errors
/// [`ErrorKind::NotFound`] if none or several fit; [`ErrorKind::Cache`] if it is being built again;
/// [`ErrorKind::Io`] if the cache cannot be changed.
pub fn remove_own_kernel(cache: &Cache, id: &str) -> Result<OwnKernel> {
    let (kernel, kept) = find(cache, id)?;
    cache.remove(KIND, "the own kernel", &kept)?;
    selection::forget(cache, &kernel)?;
    Ok(kernel)
}

fn find(cache: &Cache, id: &str) -> Result<(OwnKernel, Kept)> {
    let fits = |kernel: &OwnKernel| !id.is_empty() && kernel.digest.starts_with(id);
    let mut found: Vec<_> = cache
        .kept(KIND)?
        .into_iter()
        .filter_map(|kept| Some((own_kernel(cache, &kept)?, kept)))
        .filter(|(kernel, _)| fits(kernel))
        .collect();
    // Two recipes may have made the same bytes.
    found.sort_by(|a, b| a.0.digest.cmp(&b.0.digest));
    found.dedup_by(|a, b| a.0.digest == b.0.digest);
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => {
            Err(Error::new(ErrorKind::NotFound, format!("several own kernels have an id that begins with {id:?}"))
                .hint("viv kernel ls"))
        }
        (None, _) => Err(Error::new(ErrorKind::NotFound, format!("there is no own kernel {id:?}"))
            .hint("viv kernel ls")
            .hint("viv kernel build")),
    }
}

fn own_kernel(cache: &Cache, kept: &Kept) -> Option<OwnKernel> {
    let file = kept.made.files.iter().find(|file| file.name == VMLINUX)?;
    let seconds = kept.made.fact("built").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    Some(OwnKernel {
        id: file.digest.get(..ID_DIGITS)?.to_owned(),
        release: kept.made.fact("release")?.to_owned(),
        source: kept.made.fact("source")?.to_owned(),
        digest: file.digest.clone(),
        size: file.stamp.size,
        built: UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?,
        vmlinux: cache.blob(&file.digest),
    })
}

/// A number that the newest build noted.
fn newest_fact(cache: &Cache, name: &str) -> Result<Option<u64>> {
    let number = |kept: &Kept, name: &str| kept.made.fact(name).and_then(|text| text.parse::<u64>().ok());
    let kept = cache.kept(KIND)?;
    Ok(kept.iter().max_by_key(|kept| number(kept, "built")).and_then(|kept| number(kept, name)))
}

fn require_tools() -> Result<()> {
    tools::require(&["mmdebstrap", "apt-get", "dpkg-deb", "unshare", "newuidmap"])?;
    tools::require_for_kernel()
}

fn recipe(package: &str) -> Recipe {
    let text = format!("own kernel from {package}, version {VERSION}\n{}", config::wanted());
    Recipe { kind: KIND, text, what: "the own kernel".to_owned() }
}

/// Asks the suite for its newest package of kernel sources, as `NAME=VERSION`.
fn newest_package(progress: &dyn Progress) -> Result<String> {
    progress.event(ProgressEvent::Started { what: "the list of kernel sources".to_owned() });
    let outside = Outside::new(progress)?;
    // Another user's ids write to it, through a descriptor; the directory is this build's own.
    let answer = outside.path.join("package");
    let invocation = bootstrap::kernel_source(&Host::probe(), &outside.path, None);
    debootstrap(&invocation, &[], &outside, &answer, "the list of kernel sources", progress)?;
    let text = fs::read_to_string(&answer).map_err(io_error("read", &answer))?;
    let package = usable_package(text.trim())?;
    progress.event(ProgressEvent::Finished);
    Ok(package)
}

/// Checks what apt answered: it becomes part of a command line and of a path.
fn usable_package(answer: &str) -> Result<String> {
    let odd = || Error::new(ErrorKind::Build, format!("{SUITE} names an odd package of kernel sources: {answer:?}"));
    let (name, version) = answer.split_once('=').ok_or_else(odd)?;
    let series = name.strip_prefix("linux-source-").ok_or_else(odd)?;
    let (major, minor) = series.split_once('.').ok_or_else(odd)?;
    let series = (major.parse().map_err(|_| odd())?, minor.parse().map_err(|_| odd())?);
    let plain = |c: char| c.is_ascii_alphanumeric() || "+.~:-".contains(c);
    if version.is_empty() || !version.chars().all(plain) {
        return Err(odd());
    }
    if series < OLDEST {
        let message =
            format!("{SUITE} has no kernel source newer than {name}, which is too old for viv's configuration");
        return Err(Error::new(ErrorKind::Build, message));
    }
    Ok(answer.to_owned())
}

/// A build under way: everything in a directory that goes with it.
struct Build<'a> {
    staging: &'a Staging<'a>,
    outside: &'a Outside,
    progress: &'a dyn Progress,
}

impl Build<'_> {
    /// Fetches and unpacks the source; returns where.
    fn source(&self, package: &str) -> Result<PathBuf> {
        let part = Part { progress: self.progress, begin: 0, end: 300 };
        let file = self.outside.path.join("source.deb");
        let invocation = bootstrap::kernel_source(&Host::probe(), &self.outside.path, Some(package));
        let locks = [&self.staging.lock.file];
        debootstrap(&invocation, &locks, self.outside, &file, "the kernel's source", &part)?;
        self.step("unpacking the source", 30);
        let (unpacked, tree) = (self.outside.path.join("package"), self.outside.path.join("source"));
        self.run(&plan::unpack_package(&file, &unpacked), "to unpack the kernel's source")?;
        let archive = only_entry(&unpacked.join("usr/src"), "linux-source-")?
            .ok_or_else(|| Error::new(ErrorKind::Build, format!("{package} has no source in it")))?;
        fs::create_dir(&tree).map_err(io_error("make the directory", &tree))?;
        self.run(&plan::unpack_source(&archive, &tree), "to unpack the kernel's source")?;
        // Room for what is compiled.
        for done in [&file, &archive] {
            fs::remove_file(done).map_err(io_error("remove", done))?;
        }
        Ok(tree)
    }

    /// Configures the source and makes sure that it has all that is asked for; returns the
    /// configuration.
    fn configure(&self, tree: &Path) -> Result<String> {
        self.step("configuring", 40);
        let (fragment, wanted) = (self.outside.path.join("fragment.config"), config::wanted());
        fs::write(&fragment, &wanted).map_err(io_error("write", &fragment))?;
        self.run(&plan::configure(tree, &fragment, &self.outside.path), "to configure the kernel")?;
        let path = tree.join(".config");
        let result = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let differences = config::differences(&wanted, &result);
        if differences.is_empty() {
            return Ok(result);
        }
        Err(Error::new(ErrorKind::Build, "this kernel source cannot be configured as viv needs it")
            .source(Output(differences.join("\n"))))
    }

    /// Compiles; returns how many lines make printed about it. `lines` is how many those were last time.
    fn compile(&self, tree: &Path, jobs: NonZeroU32, lines: Option<u64>) -> Result<u64> {
        self.step("compiling", 50);
        let part = Part { progress: self.progress, begin: 50, end: Part::TOTAL };
        let mut follower = MakeFollower::new(&part, lines);
        let invocation = plan::compile(tree, jobs, &self.outside.path);
        let ended = self.start(&invocation, &mut |line| follower.line(line))?;
        self.check(ended, &invocation, "to compile the kernel")?;
        Ok(follower.seen)
    }

    /// Takes what was compiled into the cache.
    fn keep(&self, tree: &Path, package: &str, lines: u64) -> Result<Built> {
        let compiled = tree.join(VMLINUX);
        self.run(&plan::strip(&compiled), "to strip the kernel")?;
        let content = fs::read(&compiled).map_err(io_error("read", &compiled))?;
        let odd = |why: &str| Error::new(ErrorKind::Build, format!("the kernel that was built {why}"));
        bzimage::check(&content).map_err(|why| odd("cannot be used").source(why))?;
        let release = bzimage::release(&content).ok_or_else(|| odd("does not say its release"))?;
        // Not renamed: the cache may be on another file system.
        let kept = self.staging.directory.join(VMLINUX);
        fs::write(&kept, content).map_err(io_error("write", &kept))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let facts = [
            ("release", release),
            ("source", package.to_owned()),
            ("built", now.as_secs().to_string()),
            ("lines", lines.to_string()),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value));
        Ok(Built { facts: BTreeMap::from(facts), files: vec![(VMLINUX.to_owned(), kept)] })
    }

    fn step(&self, message: &str, done: u64) {
        self.progress.event(ProgressEvent::Step { message: message.to_owned() });
        self.progress.event(ProgressEvent::Fraction { done, total: Part::TOTAL });
    }

    /// Runs a tool that has nothing to say.
    fn run(&self, invocation: &Invocation, purpose: &str) -> Result<()> {
        let ended = self.start(invocation, &mut |_| {})?;
        self.check(ended, invocation, purpose)
    }

    fn start(&self, invocation: &Invocation, on_line: &mut dyn FnMut(&str)) -> Result<Ended> {
        let locks: [&File; 2] = [&self.staging.lock.file, &self.outside.lock];
        run::run(invocation, None, &locks, on_line)
    }

    fn check(&self, ended: Ended, invocation: &Invocation, purpose: &str) -> Result<()> {
        if output::ran_out_of_space(&ended.tail) {
            return Err(no_space(&self.outside.path, Output(ended.tail)));
        }
        ended.check(invocation, purpose)
    }
}

#[cfg(test)]
pub(crate) mod tests;
