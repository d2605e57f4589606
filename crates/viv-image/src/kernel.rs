//! The kernel: an ELF file QEMU boots directly, and the modules its guest needs first.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::bootstrap::{self, Host, KERNEL_PACKAGE, KERNEL_SCRIPT};
use crate::bzimage::{self, BadKernel};
use crate::cache::{Built, Cache, Made, Outside, Recipe, Staging, Stamp};
use crate::error::{Error, ErrorKind, Output, Result, io_error, no_space};
use crate::modules::{Module, Tree, WANTED, When, remove_signature};
use crate::output::{self, Follower};
use crate::own_kernel::find_own_kernel;
use crate::progress::Progress;
use crate::run::{self, Invocation};
use crate::sources::SUITE;
use crate::tools::{self, SYSTEM_PATH};

/// Changes with what is kept of a kernel.
const VERSION: u32 = 3;
/// The name of the kernel proper among the files of a recipe; modules are named `NN-name.ko`.
const VMLINUX: &str = "vmlinux";
/// A kernel file larger than this is not one.
const LIMIT: u64 = 1 << 30;

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// Debian's kernel for virtual machines.
    Default,
    /// One that [`crate::build_own_kernel`] made, by its id.
    Own(String),
    /// A vmlinux (ELF, built with CONFIG_PVH) or a bzImage of the user's. Its modules are looked for
    /// in `modules/` and `lib/modules/<release>/` beside it, then in `/lib/modules/<release>/`. If
    /// there are none, everything the guest needs is taken to be built in.
    File(PathBuf),
}

/// A kernel ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The ELF kernel: a file in the cache, or the user's own if that was ELF already.
    pub vmlinux: PathBuf,
    /// As `uname -r` will say, or `unknown`.
    pub release: String,
    /// What the guest has to load, in this order.
    pub modules: Vec<KernelModule>,
    /// Of the kernel and its modules, SHA-256 in hexadecimal.
    pub digest: String,
}

/// A kernel module, unpacked, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelModule {
    /// Its file name in the initramfs, such as `02-erofs.ko`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// When the guest loads it.
    pub when: When,
}

/// The kernel, made ready if it is not yet: Debian's is downloaded (about 45 MB) and unpacked, never
/// installed; a bzImage is unpacked; an ELF kernel is checked. A file of the user's is read again
/// whenever it changed.
///
/// # Errors
/// [`ErrorKind::NotFound`] for an own kernel and, with [`ErrorKind::BadKernel`] and [`ErrorKind::Corrupt`], for files;
/// [`ErrorKind::MissingTool`], [`ErrorKind::Namespaces`], [`ErrorKind::Download`],
/// [`ErrorKind::Build`] for Debian's; [`ErrorKind::NoSpace`] and [`ErrorKind::Io`] for both.
pub fn ensure_kernel(cache: &Cache, source: &KernelSource, progress: &dyn Progress) -> Result<Kernel> {
    match source {
        KernelSource::Default => {
            let made = cache.ensure(&default_recipe(), progress, |staging| build_default(staging, progress))?;
            Ok(kernel(cache, &made, None))
        }
        KernelSource::Own(id) => Ok(find_own_kernel(cache, id)?.into()),
        KernelSource::File(path) => from_file(cache, path, progress),
    }
}

/// Debian's kernel if it is in the cache already; nothing is fetched.
#[must_use]
pub fn default_kernel(cache: &Cache) -> Option<Kernel> {
    Some(kernel(cache, &cache.peek(&default_recipe())?, None))
}

pub(crate) fn default_recipe() -> Recipe {
    let wanted: Vec<&str> = WANTED.iter().map(|module| module.name).collect();
    let text = format!("{KERNEL_PACKAGE} of {SUITE}, version {VERSION}\n{}\n{KERNEL_SCRIPT}", wanted.join(" "));
    Recipe { kind: "kernel", text, what: "the kernel".to_owned() }
}

/// What the recipe made, as a kernel; `own` is the user's ELF file, if that is what boots.
fn kernel(cache: &Cache, made: &Made, own: Option<&Path>) -> Kernel {
    let mut vmlinux = own.map(Path::to_path_buf);
    let mut modules = Vec::new();
    for file in &made.files {
        let path = cache.blob(&file.digest);
        if file.name == VMLINUX {
            vmlinux.get_or_insert(path);
        } else {
            let is = |when: When| {
                let names = when.word().and_then(|word| made.fact(word)).unwrap_or_default();
                names.split(' ').any(|name| name == file.name)
            };
            let when =
                [When::Vsock, When::Network, When::Later].into_iter().find(|when| is(*when)).unwrap_or(When::Boot);
            modules.push(KernelModule { name: file.name.clone(), path, when });
        }
    }
    Kernel {
        vmlinux: vmlinux.unwrap_or_default(),
        release: made.fact("release").unwrap_or("unknown").to_owned(),
        modules,
        digest: made.digest(),
    }
}

fn build_default(staging: &Staging<'_>, progress: &dyn Progress) -> Result<Built> {
    tools::require(&["mmdebstrap", "apt-get", "dpkg-deb", "unshare", "newuidmap"])?;
    let package = staging.directory.join("kernel.deb");
    {
        let outside = Outside::new(progress)?;
        let invocation = bootstrap::kernel(&Host::probe(), &outside.path);
        debootstrap(&invocation, &[&staging.lock.file], &outside, &package, "the kernel", progress)?;
    }
    let tree = staging.directory.join("unpacked");
    let unpack = Invocation {
        program: "dpkg-deb",
        arguments: vec!["--extract".to_owned(), package.display().to_string(), tree.display().to_string()],
        environment: vec![("PATH".to_owned(), SYSTEM_PATH.to_owned())],
    };
    let ended = run::run(&unpack, None, &[&staging.lock.file], &mut |_| {})?;
    if output::ran_out_of_space(&ended.tail) {
        return Err(no_space(staging.directory, Output(ended.tail)));
    }
    ended.check(&unpack, "to unpack the kernel's package")?;

    let odd = |why: &str| Error::new(ErrorKind::Build, format!("the kernel's package has {why}"));
    let image = only_entry(&tree.join("boot"), "vmlinuz-")?.ok_or_else(|| odd("no kernel in it"))?;
    let release = image.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("vmlinuz-"));
    let release = release.ok_or_else(|| odd("a kernel with an odd name"))?.to_owned();
    let packed = fs::read(&image).map_err(io_error("read", &image))?;
    let vmlinux = bzimage::extract(&packed).map_err(|why| odd("a kernel that cannot be used").source(why))?;
    drop(packed);
    // /usr/lib since Debian merged the two.
    let modules = ["usr/lib", "lib"].map(|lib| tree.join(lib).join("modules").join(&release));
    let modules = modules.iter().find(|path| path.exists()).ok_or_else(|| odd("no modules in it"))?;
    let mut modules = Tree::open(modules)
        .and_then(|tree| tree.modules(&WANTED))
        .map_err(|error| odd("unusable modules").source(error))?;
    // apt has checked the package, and this kernel takes unsigned modules: to have the guest check
    // each again costs it, under emulation, three quarters of the time it takes to load them.
    modules.iter_mut().for_each(|module| remove_signature(&mut module.content));
    built(staging, Some(&vmlinux), &modules, &release)
}

/// Runs mmdebstrap with `output` as its standard input (see [`bootstrap`]). It holds `locks` and that of
/// `outside`.
pub(crate) fn debootstrap(
    invocation: &Invocation,
    locks: &[&File],
    outside: &Outside,
    output: &Path,
    what: &str,
    progress: &dyn Progress,
) -> Result<()> {
    let open = || File::options().read(true).write(true).create_new(true).open(output);
    let file = open().map_err(io_error("write", output))?;
    let mut follower = Follower::new(progress);
    let locks: Vec<&File> = locks.iter().copied().chain([&outside.lock]).collect();
    let ended = run::run(invocation, Some(file), &locks, &mut |line| follower.line(line))?;
    if output::ran_out_of_space(&ended.tail) {
        // Either of the two may be the full one; the fuller is.
        let target = output.parent().unwrap_or(output);
        let fullest = [outside.path.as_path(), target]
            .into_iter()
            .min_by_key(|path| crate::error::free_bytes(path).unwrap_or(u64::MAX));
        return Err(no_space(fullest.unwrap_or(target), Output(ended.tail)));
    }
    let size = output.metadata().map_err(io_error("look at", output))?.len();
    if !ended.status.success() || size == 0 {
        return Err(output::failure(what, ended.tail));
    }
    Ok(())
}

/// Writes the files of a kernel.
fn built(staging: &Staging<'_>, vmlinux: Option<&[u8]>, modules: &[Module], release: &str) -> Result<Built> {
    let mut built = Built::default();
    let mut facts = BTreeMap::from([("release".to_owned(), release.to_owned())]);
    let mut write = |name: String, content: &[u8]| {
        let path = staging.directory.join(&name);
        fs::write(&path, content).map_err(io_error("write", &path))?;
        built.files.push((name, path));
        Ok(())
    };
    if let Some(vmlinux) = vmlinux {
        write(VMLINUX.to_owned(), vmlinux)?;
    }
    for (index, module) in modules.iter().enumerate() {
        let name = format!("{index:02}-{}.ko", module.name);
        write(name.clone(), &module.content)?;
        if let Some(word) = module.when.word() {
            let names: &mut String = facts.entry(word.to_owned()).or_default();
            if !names.is_empty() {
                names.push(' ');
            }
            names.push_str(&name);
        }
    }
    built.facts = facts;
    Ok(built)
}

/// The one entry of a directory whose name begins so.
pub(crate) fn only_entry(directory: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    let mut found = None;
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found = Some(entry.path());
        }
    }
    Ok(found)
}

fn from_file(cache: &Cache, path: &Path, progress: &dyn Progress) -> Result<Kernel> {
    let path = path.canonicalize().map_err(missing_or("kernel", path))?;
    let stamp = Stamp::of(&path).map_err(missing_or("kernel", &path))?;
    // The file is looked at once per state it is in.
    let recipe = Recipe {
        kind: "kernel-file",
        text: format!("{}, version {VERSION}\n{stamp:?}", path.display()),
        what: format!("the kernel {}", path.display()),
    };
    let made = cache.ensure(&recipe, progress, |staging| {
        let content = read_limited(&path)?;
        let bad = |why: BadKernel| {
            Error::new(ErrorKind::BadKernel, format!("{} is not a kernel that can be used", path.display()))
                .source(why)
                .hint("give a vmlinux or a bzImage built with CONFIG_PVH, or leave out --kernel for Debian's")
        };
        let unpacked = if bzimage::is_bzimage(&content) {
            Some(bzimage::extract(&content).map_err(bad)?)
        } else {
            bzimage::check(&content).map_err(bad)?;
            None
        };
        let release = bzimage::release(unpacked.as_deref().unwrap_or(&content));
        let mut built = built(staging, unpacked.as_deref(), &[], release.as_deref().unwrap_or("unknown"))?;
        if unpacked.is_none() {
            built.facts.insert("own".to_owned(), crate::cache::hex_digest_of(&content));
        }
        Ok(built)
    })?;
    let own = made.fact("own").map(|_| path.as_path());
    let mut result = kernel(cache, &made, own);
    if let Some(digest) = made.fact("own") {
        result.digest = digest.to_owned();
    }
    let beside = path.parent().unwrap_or(Path::new("/"));
    let release = Path::new(&result.release);
    let candidates =
        [beside.join("modules"), beside.join("lib/modules").join(release), Path::new("/lib/modules").join(release)];
    // The list of built-in modules marks a tree, and changes with every kernel.
    let stamped = candidates.iter().find_map(|tree| Some((tree, Stamp::of(&tree.join("modules.builtin")).ok()?)));
    if let Some((tree, stamp)) = stamped {
        let recipe = Recipe {
            kind: "modules",
            text: format!("{}, version {VERSION}\n{stamp:?}", tree.display()),
            what: format!("the modules of {}", path.display()),
        };
        let made = cache.ensure(&recipe, progress, |staging| {
            let modules = Tree::open(tree).and_then(|tree| tree.modules(&WANTED)).map_err(|error| {
                Error::new(ErrorKind::BadKernel, format!("the modules in {} cannot be used", tree.display()))
                    .source(error)
            })?;
            built(staging, None, &modules, &result.release)
        })?;
        result.modules = kernel(cache, &made, own).modules;
        result.digest = crate::cache::hex_digest_of(format!("{} {}", result.digest, made.digest()).as_bytes());
    }
    Ok(result)
}

fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let size = path.metadata().map_err(io_error("look at", path))?.len();
    if size > LIMIT {
        return Err(Error::new(ErrorKind::BadKernel, format!("{} is too large to be a kernel", path.display())));
    }
    fs::read(path).map_err(io_error("read", path))
}

/// The error for a file the user named.
pub(crate) fn missing_or<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::new(ErrorKind::NotFound, format!("the {what} {} does not exist", path.display()))
                .hint(format!("leave out --{what} to use the default"))
        }
        _ => io_error("read", path)(error),
    }
}

#[cfg(test)]
mod tests;
