//! Packages on top of a root image, each set of them a layer of its own.
//!
//! ```text
//! requested ── by manager: system, npm, pip, cargo ── known? ──► its layers
//!                                                       │ no
//!              the largest known subset, a layer for the rest over it: build ──► kept in the cache
//! ```
//!
//! What is asked of the image's own manager lies lowest, and the others' sets each over that. How a
//! layer is built is in [`plan`]; where and how confined in [`workshop`] and [`confine`].

mod build;
mod cargo;
mod confine;
mod host;
mod ids;
mod npm;
mod pip;
mod plan;
mod request;
mod settings;
mod system;
mod trees;
mod versions;
mod workshop;

pub(crate) use confine::Confinement;
pub(crate) use host::Host;
pub use npm::MODULES as NPM_MODULES;
pub use request::{Manager, Package};
pub use workshop::remove_unpacked;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cache::{Built, Cache, Made, Recipe, Staging};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::root::RootImage;
use crate::tools;
pub(crate) use workshop::{CONFINED, Workshop};

/// What the cache calls them.
const KIND: &str = "layers";

/// Changes with how layers are made, where scripts and recipes do not show it.
const VERSION: u32 = 1;

/// A layer ready to be stacked: an erofs file whose whiteouts and opaque directories are those of
/// overlayfs (<https://docs.kernel.org/filesystems/overlayfs.html>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The erofs file.
    pub path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub digest: String,
    /// Bytes of the file.
    pub size: u64,
    /// What was asked for, with the versions that were installed.
    pub packages: Vec<Package>,
}

/// The layers that hold `packages` over `base`, the lowest first; those that are not there yet are built.
/// Packages of nix, which are no layers, are passed over.
///
/// # Errors
/// [`ErrorKind::NoSuchPackage`] for names and versions that no package manager has,
/// [`ErrorKind::NoPackageManager`] for an image that lacks the one that is asked for,
/// [`ErrorKind::BadReference`] for a package in two versions, [`ErrorKind::Download`] and [`ErrorKind::Build`] for
/// what cannot be fetched or installed, [`ErrorKind::Namespaces`], [`ErrorKind::MissingTool`],
/// [`ErrorKind::BadImage`] for a host or an image that nothing can be installed over, and those of the cache.
pub fn ensure_layers(
    cache: &Cache,
    base: &RootImage,
    packages: &[Package],
    progress: &dyn Progress,
) -> Result<Vec<Layer>> {
    stacked(base, packages, |over, manager, set| ensure_set(cache, over, manager, set, progress))
}

/// What [`ensure_layers`] would find there, as far as one `stat` per file tells; none if it had to build something.
/// Changes nothing.
#[must_use]
pub fn known_layers(cache: &Cache, base: &RootImage, packages: &[Package]) -> Option<Vec<Layer>> {
    let known = |over: &Stack<'_>, manager, set: &[Package]| match plan::recipe(manager) {
        Some(how) => {
            let made = cache.peek(&recipe(set, &place(over, manager, &how)));
            layers_of(cache, &made.ok_or_else(|| Error::new(ErrorKind::NotFound, "not in the cache"))?)
        }
        None => Ok(Vec::new()),
    };
    stacked(base, packages, known).ok()
}

/// The layers of all sets, each of which `layers_of_set` gives over what lies below it.
fn stacked(
    base: &RootImage,
    packages: &[Package],
    layers_of_set: impl Fn(&Stack<'_>, Manager, &[Package]) -> Result<Vec<Layer>>,
) -> Result<Vec<Layer>> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut below = 0;
    for manager in [Manager::System, Manager::Npm, Manager::Pip, Manager::Cargo] {
        let set = set_of(manager, packages)?;
        if set.is_empty() {
            continue;
        }
        let more = layers_of_set(&Stack { base, layers: &layers[..below] }, manager, &set)?;
        layers.extend(more);
        if manager == Manager::System {
            below = layers.len();
        }
    }
    Ok(layers)
}

/// Has packages looked up anew the next time they are asked for, whatever their version, with fresh lists.
/// Layers that are used stay where they are.
///
/// # Errors
/// Those of the cache; [`ErrorKind::Namespaces`] for a user without subordinate ids.
pub fn forget_packages(cache: &Cache, names: &[Package]) -> Result<()> {
    let is_named = |installed: &Package| {
        names.iter().any(|name| (name.manager, &name.name) == (installed.manager, &installed.name))
    };
    let kept = cache.kept(KIND)?;
    let has_one = |made: &Made| {
        layers_of(cache, made).map_or(true, |layers| layers.iter().flat_map(|layer| &layer.packages).any(is_named))
    };
    cache.remove_references(kept.iter().filter(|kept| has_one(&kept.made)).map(|kept| (KIND, kept)))?;
    workshop::forget_package_lists(cache)
}

/// An image with layers over it.
#[derive(Clone, Copy)]
struct Stack<'a> {
    base: &'a RootImage,
    layers: &'a [Layer],
}

/// The packages of one manager, sorted, each once.
fn set_of(manager: Manager, packages: &[Package]) -> Result<Vec<Package>> {
    let mut set: Vec<Package> = packages.iter().filter(|package| package.manager == manager).cloned().collect();
    set.sort();
    set.dedup();
    match set.windows(2).find(|pair| pair[0].name == pair[1].name) {
        // The one without a version sorts first, and the other says more.
        Some([plain, _]) if plain.version.is_none() => {
            let plain = plain.clone();
            set.retain(|package| *package != plain);
            set_of(manager, &set)
        }
        Some(pair) => {
            Err(Error::new(ErrorKind::BadReference, format!("both {} and {} are asked for", pair[0], pair[1]))
                .hint("name one of the two"))
        }
        None => Ok(set),
    }
}

/// The layers of a set over a stack, the lowest first.
fn ensure_set(
    cache: &Cache,
    over: &Stack<'_>,
    manager: Manager,
    set: &[Package],
    progress: &dyn Progress,
) -> Result<Vec<Layer>> {
    let Some(how) = plan::recipe(manager) else { return Ok(Vec::new()) };
    let place = place(over, manager, &how);
    let made = cache.ensure(&recipe(set, &place), progress, |staging| {
        build_set(cache, staging, over, (manager, set), &how, &place, progress)
    })?;
    layers_of(cache, &made)
}

/// What makes a set's layers.
fn recipe(set: &[Package], place: &str) -> Recipe {
    Recipe {
        kind: KIND,
        text: format!("{}\n{place}", build::names(set)),
        what: format!("packages {}", build::names(set)),
    }
}

/// What a set's layers are for, beside the set: what lies below, and how they are made.
fn place(over: &Stack<'_>, manager: Manager, how: &plan::Recipe) -> String {
    let mut text = format!("{manager:?}, version {VERSION}.{}\nbase {}\n", how.version, over.base.digest);
    for layer in over.layers {
        text.push_str(&format!("layer {}\n", layer.digest));
    }
    let mut scripts = format!("{:?}\n", how.keep);
    for script in how.scripts {
        scripts.push_str(script.fetch);
        scripts.push_str(script.install);
    }
    text.push_str(&crate::cache::hex_digest_of(scripts.as_bytes()));
    text
}

/// The layers of a cache entry: its files in order, each with a fact that names its packages.
fn layers_of(cache: &Cache, made: &Made) -> Result<Vec<Layer>> {
    let damaged = || {
        Error::new(ErrorKind::Cache, "the cache's entry of a package layer is damaged")
            .hint("remove it from refs/layers")
    };
    made.files
        .iter()
        .map(|file| {
            let packages =
                made.fact(&file.name).and_then(|text| serde_json::from_str(text).ok()).ok_or_else(damaged)?;
            Ok(Layer { path: cache.blob(&file.digest), digest: file.digest.clone(), size: file.stamp.size, packages })
        })
        .collect()
}

/// The name of a layer's file in a cache entry.
fn layer_name(index: usize) -> String {
    format!("layer-{index}.erofs")
}

/// Builds what of a set is not there yet.
fn build_set(
    cache: &Cache,
    staging: &Staging<'_>,
    over: &Stack<'_>,
    (manager, set): (Manager, &[Package]),
    how: &plan::Recipe,
    place: &str,
    progress: &dyn Progress,
) -> Result<Built> {
    let mut known = largest_known(cache, place, set)?;
    let rest: Vec<Package> =
        set.iter().filter(|package| !known.iter().any(|layer| has(layer, package))).cloned().collect();
    if !rest.is_empty() {
        let below: Vec<&Layer> = over.layers.iter().chain(&known).collect();
        let (file, packages) = build_rest(cache, staging, over.base, &below, (manager, &rest), how, progress)?;
        // The cache names it once it is kept.
        known.push(Layer { path: file, digest: String::new(), size: 0, packages });
    }
    let mut built = Built { facts: BTreeMap::from([("place".to_owned(), place.to_owned())]), files: Vec::new() };
    for (index, layer) in known.into_iter().enumerate() {
        let packages = serde_json::to_string(&layer.packages)
            .map_err(|error| Error::new(ErrorKind::Cache, "packages cannot be written down").source(error))?;
        built.facts.insert(layer_name(index), packages);
        built.files.push((layer_name(index), layer.path));
    }
    Ok(built)
}

/// Builds one layer; gives its file and its packages.
fn build_rest(
    cache: &Cache,
    staging: &Staging<'_>,
    base: &RootImage,
    below: &[&Layer],
    (manager, set): (Manager, &[Package]),
    how: &plan::Recipe,
    progress: &dyn Progress,
) -> Result<(PathBuf, Vec<Package>)> {
    tools::require(&["newuidmap"])?;
    let workshop = Workshop::open(cache)?;
    let mut names = vec![trees::ensure(cache, &workshop, &base.path, &base.digest, "the root image", progress)?];
    let unpacked = |layer: &Layer| {
        trees::ensure(
            cache,
            &workshop,
            &layer.path,
            &layer.digest,
            &format!("packages {}", build::names(&layer.packages)),
            progress,
        )
    };
    for layer in below {
        names.push(unpacked(layer)?);
    }
    let host = Host::probe();
    let plan = plan::plan(manager, set, &host, &build::facts(&workshop, &build::Below { trees: &names }))?;
    let tools = set_of(Manager::System, &plan.tools)?;
    if !tools.is_empty() {
        let owned: Vec<Layer> = below.iter().map(|layer| (*layer).clone()).collect();
        let stack = Stack { base, layers: &owned };
        for layer in ensure_set(cache, &stack, Manager::System, &tools, progress)? {
            names.push(unpacked(&layer)?);
        }
    }
    let below = build::Below { trees: &names };
    let built = build::layer(cache, &workshop, staging, &plan, how, (manager, set), &host, &below, progress)?;
    let installed = |package: &Package| {
        let version = built.versions.iter().find(|(name, _)| *name == package.name).map(|(_, version)| version.clone());
        Package { version: version.or_else(|| package.version.clone()), ..package.clone() }
    };
    Ok((built.file, set.iter().map(installed).collect()))
}

/// The layers of the known set with the most packages that are all asked for.
fn largest_known(cache: &Cache, place: &str, set: &[Package]) -> Result<Vec<Layer>> {
    let mut best = Vec::new();
    let mut most = 0;
    for kept in cache.kept(KIND)? {
        if kept.made.fact("place") != Some(place) {
            continue;
        }
        let Ok(layers) = layers_of(cache, &kept.made) else { continue };
        let all: Vec<&Package> = layers.iter().flat_map(|layer| &layer.packages).collect();
        let asked = |installed: &&Package| set.iter().any(|package| satisfies(installed, package));
        if all.len() > most && all.iter().all(asked) && cache.is_intact(KIND, &kept)? {
            most = all.len();
            best = layers;
        }
    }
    Ok(best)
}

/// Whether what was installed is what is asked for.
fn satisfies(installed: &Package, asked: &Package) -> bool {
    installed.name == asked.name && (asked.version.is_none() || asked.version == installed.version)
}

fn has(layer: &Layer, asked: &Package) -> bool {
    layer.packages.iter().any(|installed| satisfies(installed, asked))
}

#[cfg(test)]
mod tests;
