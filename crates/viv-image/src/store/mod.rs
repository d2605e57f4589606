//! The images and layers of the cache: what there is, what uses it, and removing it.
//!
//! Kernels and what is made from them are not among them: they are small, and `viv kernel` has them.

mod guess;
mod names;
mod removal;

pub use guess::guess_source;
pub use names::name_image;
pub(crate) use names::{known_config, named_image};
pub use removal::{Freed, Kept as KeptBecause, RemovalRequest, remove_stored};

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::cache::{Cache, Kept};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::packages::CONFINED;

/// Kinds of refs that are no images: `viv kernel` has them, or they hold no file of the cache's.
const NO_IMAGES: &[&str] =
    &["kernel", "kernel-file", "modules", "own-kernel", "own-kernel-configuration", "initramfs", "image-file"];

/// The kind of the refs that give an image a name of the user's.
pub(crate) const NAMED: &str = "name";

/// The facts of a ref that say what it is.
pub(crate) mod fact {
    /// The source as it was asked for, such as `oci:alpine:3.20`.
    pub(crate) const SOURCE: &str = "source";
    /// What a layer lies over; a line `base DIGEST` says over which root image.
    pub(crate) const PLACE: &str = "place";
    /// An [`ImageConfig`](crate::ImageConfig) as JSON.
    pub(crate) const CONFIG: &str = "config";
}

/// What something in the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StoredKind {
    /// A root image.
    Image,
    /// Packages over a root image.
    Layer,
    /// What was downloaded to make an image from, kept so that it need not be downloaded again.
    Download,
    /// An unpacked copy of a root image, over which layers are built.
    Tree,
}

/// Something in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// What it is.
    pub kind: StoredKind,
    /// What it was made from, as it was asked for; several if several came to the same content.
    pub sources: Vec<String>,
    /// SHA-256 in hexadecimal.
    pub digest: String,
    /// Bytes it takes on disk.
    pub size: u64,
    /// The packages of a layer, with their versions.
    pub packages: Vec<String>,
    /// The digest of the root image that a layer was built over.
    pub base: Option<String>,
    /// How an image's programs are to be run.
    pub config: ImageConfig,
    /// Where it is.
    pub path: PathBuf,
    /// When it was made, seconds since the Unix epoch.
    #[serde(rename = "made_at_unix_seconds", serialize_with = "as_seconds")]
    pub made: SystemTime,
    /// When it was last used, to the hour; when it was made if it never was.
    #[serde(rename = "used_at_unix_seconds", serialize_with = "as_seconds")]
    pub used: SystemTime,
    /// Whether the user gave it a name; then it goes only when asked for by name.
    pub named: bool,
    #[serde(skip)]
    references: Vec<Reference>,
}

/// A ref that leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    kind: String,
    kept: Kept,
}

fn as_seconds<S: serde::Serializer>(moment: &SystemTime, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u64(moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// The images, layers and what they are made from in the cache, the last used first. Reads the refs, and
/// no content.
///
/// # Errors
/// [`ErrorKind::Io`] if the cache cannot be read.
pub fn list_stored(cache: &Cache) -> Result<Vec<Stored>> {
    let mut found: BTreeMap<String, Stored> = BTreeMap::new();
    for kind in subdirectories(&cache.root().join("refs")) {
        let Some(kind) = kind.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if NO_IMAGES.contains(&kind.as_str()) {
            continue;
        }
        for kept in cache.kept(&kind)? {
            add(cache, &mut found, &Reference { kind: kind.clone(), kept });
        }
    }
    name_oci_images(cache, &mut found)?;
    let mut all: Vec<Stored> = found.into_values().collect();
    all.extend(confined(cache));
    all.sort_by(|left, right| right.used.cmp(&left.used).then_with(|| left.digest.cmp(&right.digest)));
    Ok(all)
}

/// Adds what a ref leads to, or adds the ref to what is there already.
fn add(cache: &Cache, found: &mut BTreeMap<String, Stored>, reference: &Reference) {
    let made = &reference.kept.made;
    let kind = match reference.kind.as_str() {
        kind if kind.contains("layer") => StoredKind::Layer,
        kind if kind.contains("blob") => StoredKind::Download,
        _ => StoredKind::Image,
    };
    let config: ImageConfig =
        made.fact(fact::CONFIG).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    for file in &made.files {
        let path = cache.blob(&file.digest);
        let Ok(metadata) = path.metadata() else { continue };
        // A layer's packages are the fact of its file's name.
        let packages: Vec<String> =
            made.fact(&file.name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let source = match (made.fact(fact::SOURCE), reference.kind.as_str()) {
            _ if !packages.is_empty() => packages.join(" "),
            (Some(source), _) => source.to_owned(),
            (None, "root") => "debian".to_owned(),
            (None, _) => without_version(made.recipe_line()).to_owned(),
        };
        let made_at = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let stored = found.entry(file.digest.clone()).or_insert_with(|| Stored {
            kind,
            sources: Vec::new(),
            size: metadata.blocks() * 512,
            packages,
            base: made.fact(fact::PLACE).and_then(base_of).map(str::to_owned),
            config: ImageConfig::default(),
            made: made_at,
            used: cache.last_use(&file.digest).map_or(made_at, |used| used.max(made_at)),
            named: false,
            references: Vec::new(),
            digest: file.digest.clone(),
            path,
        });
        if !stored.sources.contains(&source) {
            stored.sources.push(source);
            stored.sources.sort();
        }
        if stored.config == ImageConfig::default() {
            stored.config = config.clone();
        }
        stored.named |= reference.kind == NAMED;
        stored.references.push(reference.clone());
    }
}

/// The first line of a recipe without the version of how it is made.
fn without_version(line: &str) -> &str {
    line.split_once(", version ").map_or(line, |(before, _)| before)
}

/// The digest of the root image, in the description of what a layer lies over.
fn base_of(place: &str) -> Option<&str> {
    place.lines().find_map(|line| line.strip_prefix("base "))
}

/// References say what they meant in refs of their own, which go with the image.
fn name_oci_images(cache: &Cache, found: &mut BTreeMap<String, Stored>) -> Result<()> {
    for kept in cache.kept(OCI_NAME)? {
        let Some(image) = kept.made.fact("image") else { continue };
        let is_of = |reference: &Reference| {
            reference.kind == OCI_IMAGE && without_version(reference.kept.made.recipe_line()) == image
        };
        let Some(stored) = found.values_mut().find(|stored| stored.references.iter().any(is_of)) else { continue };
        // What was asked for says more than the digest of what it meant.
        stored.sources.retain(|source| source != image);
        stored.sources.push(without_version(kept.made.recipe_line()).to_owned());
        stored.sources.sort();
        stored.sources.dedup();
        stored.references.push(Reference { kind: OCI_NAME.to_owned(), kept });
    }
    Ok(())
}

/// What references meant, and the images they meant.
const OCI_NAME: &str = "oci-name";
const OCI_IMAGE: &str = "oci-image";

/// What builds of layers keep: unpacked copies, named by the digest of what was unpacked, and what package
/// managers downloaded. The first number of the ids that own them follows after a dot.
fn confined(cache: &Cache) -> Vec<Stored> {
    let stored = |kind: StoredKind, path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let digest = name.rsplit_once('.').map_or(name, |(name, _)| name).to_owned();
        let made = path.metadata().ok()?.modified().ok()?;
        let source = match kind {
            StoredKind::Tree => format!("unpacked {}", short(&digest)),
            _ => format!("downloads of {}", short(&digest)),
        };
        Some(Stored {
            kind,
            sources: vec![source],
            size: disk_use(&path),
            packages: Vec::new(),
            base: None,
            config: ImageConfig::default(),
            made,
            used: made,
            named: false,
            references: Vec::new(),
            digest,
            path,
        })
    };
    let of = |kind: StoredKind, part: &str| {
        subdirectories(&cache.root().join(CONFINED).join(part)).into_iter().filter_map(move |path| stored(kind, path))
    };
    of(StoredKind::Tree, "trees").chain(of(StoredKind::Download, "downloads")).collect()
}

/// A digest as people see it.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    // Hidden ones are on their way.
    directories
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .collect()
}

/// What everything below a directory takes on disk, as far as this user may look. Bytes.
fn disk_use(directory: &Path) -> u64 {
    let mut total = 0;
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            // Not followed.
            let Ok(metadata) = entry.metadata() else { continue };
            // A file of several names counts once for each: that errs on the side of removing early.
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    total
}

/// Who uses a file of the cache: the holders of leases on it.
///
/// # Errors
/// [`ErrorKind::Io`] if the cache cannot be read.
pub fn holders(cache: &Cache) -> Result<BTreeMap<PathBuf, Vec<String>>> {
    let mut holders: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for lease in cache.leases(false)? {
        for path in lease.paths {
            holders.entry(path).or_default().push(lease.holder.clone());
        }
    }
    Ok(holders)
}

/// The one that goes by a name: what it was made from, as asked for, or its digest or a unique beginning
/// of that.
///
/// # Errors
/// [`ErrorKind::NotFound`] if none does, [`ErrorKind::BadReference`] if several do.
pub fn find_stored<'s>(stored: &'s [Stored], name: &str) -> Result<&'s Stored> {
    let of_source = stored.iter().find(|stored| stored.sources.iter().any(|source| source == name));
    let wanted = name.trim_start_matches("sha256:").to_ascii_lowercase();
    // A tree is named like what it was unpacked from, which goes first.
    let mut of_digest: Vec<&Stored> =
        stored.iter().filter(|stored| !wanted.is_empty() && stored.digest.starts_with(&wanted)).collect();
    of_digest.sort_by_key(|stored| stored.kind == StoredKind::Tree);
    of_digest.dedup_by(|tree, image| tree.digest == image.digest);
    match (of_source, of_digest.as_slice()) {
        (Some(one), _) => Ok(one),
        (None, [one]) => Ok(*one),
        (None, []) => {
            Err(Error::new(ErrorKind::NotFound, format!("no image or layer in the cache is called {name:?}"))
                .hint("viv image ls"))
        }
        (None, _) => Err(Error::new(ErrorKind::BadReference, format!("more than one digest begins with {name:?}"))
            .hint("viv image ls --json shows them whole")),
    }
}

/// Which of them have to go so that no more than `limit` bytes stay: the least recently used first, trees
/// before what was unpacked at the same time. What `keeps` names stays, and so do those with a name.
#[must_use]
pub fn least_recently_used(stored: &[Stored], limit: u64, keeps: &dyn Fn(&Stored) -> bool) -> Vec<usize> {
    let mut total: u64 = stored.iter().map(|stored| stored.size).sum();
    let mut order: Vec<usize> = (0..stored.len()).collect();
    order.sort_by_key(|&at| (stored[at].used, std::cmp::Reverse(stored[at].kind)));
    let mut chosen = Vec::new();
    for at in order {
        if total <= limit {
            break;
        }
        if !stored[at].named && !keeps(&stored[at]) {
            total -= stored[at].size;
            chosen.push(at);
        }
    }
    chosen
}

/// Which of them nobody has used for so long; not those with a name.
#[must_use]
pub fn unused_for(stored: &[Stored], age: Duration, now: SystemTime) -> Vec<usize> {
    let old = |stored: &Stored| !stored.named && now.duration_since(stored.used).is_ok_and(|since| since >= age);
    (0..stored.len()).filter(|&at| old(&stored[at])).collect()
}

#[cfg(test)]
pub(crate) mod tests;
