//! OCI images, out of registries, archives and Docker, as one erofs file each.
//!
//! ```text
//! oci:REFERENCE ------> registry: manifest -> configuration, layers (kept by digest) --\
//! oci-archive:FILE ---> read where it lies ---------------------------------------------+-> one erofs file
//! docker-daemon:REF --> docker image save, then as an archive --------------------------/
//! ```
//!
//! In the cache, `oci-name` remembers what a reference meant when it was last looked up, `oci-image` keeps
//! the erofs file with its configuration, by the digest of that configuration (which holds those of the
//! layers' content, so the same image is kept once, wherever it came from), and `oci-blob` keeps
//! downloaded layers.

mod access;
mod archive;
mod assemble;
mod credentials;
mod daemon;
mod digest;
mod download;
mod hosts;
mod image_config;
mod manifest;
mod platform;
mod reference;
mod registry;

use std::path::Path;

use oci_spec::distribution::Reference;

use self::archive::Archive;
use self::assemble::{Layers, assemble};
use self::digest::Digest;
use self::download::Downloads;
use self::image_config::ImageInfo;
use self::manifest::Document;
use self::registry::Registry;
use crate::cache::{Built, Cache, Made, Recipe, Staging, Stamp};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::missing_or;
use crate::progress::{Progress, ProgressEvent};
use crate::root::RootImage;
use crate::source::ImageSource;

pub use access::{Patience, RegistryAccess};
pub use platform::Platform;

/// Changes with how an image is made.
const VERSION: u32 = 1;

/// Indexes within indexes.
const MOST_INDEXES: usize = 4;

/// What an image is known by, as far as this module is concerned.
const MANIFEST: &str = "manifest";
const IMAGE: &str = "image";
const CONFIG: &str = "config";

/// Whether a reference is looked up although it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// What it meant the last time will do.
    Remembered,
    /// What does it mean now?
    Fresh,
}

/// That a reference is written as such are.
///
/// # Errors
/// [`ErrorKind::BadReference`].
pub(crate) fn check_reference(text: &str) -> Result<()> {
    reference::parse(text).map(drop)
}

/// Reads bytes as whatever an image is described by, for fuzzing: as a manifest, a configuration, an archive's
/// table. Says how many layers were found.
#[doc(hidden)]
#[must_use]
pub fn read_documents(bytes: &[u8]) -> usize {
    let layers = match manifest::parse(bytes) {
        Ok(Document::Image(manifest)) => manifest.layers.len(),
        Ok(Document::Index(candidates)) => manifest::choose(&candidates, &Platform::host()).map_or(0, |_| 0),
        Err(_) => 0,
    };
    let described = image_config::parse(bytes).map_or(0, |info| info.diff_ids.len());
    layers + described + archive::read_table(bytes)
}

/// The root image of one of the three sources above.
pub(crate) fn ensure(
    cache: &Cache,
    source: &ImageSource,
    access: &RegistryAccess,
    lookup: Lookup,
    progress: &dyn Progress,
) -> Result<RootImage> {
    Origin::of(source)?.ensure(cache, access, lookup, progress)
}

/// How the image of one of the three sources above is to be run, if it is in the cache. Nobody is asked.
pub(crate) fn known_config(cache: &Cache, source: &ImageSource) -> Option<ImageConfig> {
    let named = cache.peek(&Origin::of(source).ok()?.recipe())?;
    let image = cache.peek(&image_of(&named).ok()?)?;
    serde_json::from_str(image.fact(CONFIG)?).ok()
}

/// Where an image comes from, looked at.
enum Origin<'a> {
    Registry { reference: Reference, platform: &'a Option<Platform> },
    Archive { path: &'a Path, stamp: Stamp, name: Option<&'a str>, platform: &'a Option<Platform> },
    Docker { reference: &'a str },
}

impl<'a> Origin<'a> {
    fn of(source: &'a ImageSource) -> Result<Self> {
        match source {
            ImageSource::Oci { reference, platform } => {
                Ok(Self::Registry { reference: reference::parse(reference)?, platform })
            }
            ImageSource::OciArchive { path, name, platform } => {
                // A directory's own stamp says nothing of what is in it; its index's does.
                let index = if path.is_dir() { path.join("index.json") } else { path.clone() };
                let stamp = Stamp::of(&index).map_err(missing_or("image", &index))?;
                Ok(Self::Archive { path, stamp, name: name.as_deref(), platform })
            }
            ImageSource::DockerDaemon(reference) => {
                reference::parse(reference)?;
                Ok(Self::Docker { reference })
            }
            other => Err(Error::new(ErrorKind::BadReference, format!("{other} is no OCI image"))),
        }
    }

    /// What it is remembered by.
    fn recipe(&self) -> Recipe {
        let of = |platform: &Option<Platform>| platform.clone().unwrap_or_else(Platform::host).to_string();
        let (text, what) = match self {
            Self::Registry { reference, platform } => {
                (format!("oci:{reference}, version {VERSION}\n{}", of(platform)), format!("the image {reference}"))
            }
            Self::Archive { path, stamp, name, platform } => {
                let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
                let text =
                    format!("oci-archive:{}, version {VERSION}\n{name:?}\n{}\n{stamp:?}", path.display(), of(platform));
                (text, format!("the image of {}", path.display()))
            }
            Self::Docker { reference } => {
                (format!("docker-daemon:{reference}, version {VERSION}"), format!("Docker's image {reference}"))
            }
        };
        Recipe { kind: "oci-name", text, what }
    }

    fn ensure(
        &self,
        cache: &Cache,
        access: &RegistryAccess,
        lookup: Lookup,
        progress: &dyn Progress,
    ) -> Result<RootImage> {
        let recipe = self.recipe();
        let mut again = false;
        loop {
            let usable =
                |named: &Made| lookup == Lookup::Remembered && image_of(named).is_ok_and(|image| cache.has(&image));
            let named = cache.ensure_if(&recipe, &usable, progress, |staging| {
                // A reference goes on meaning the same if only the image has gone.
                let known = match lookup {
                    Lookup::Remembered => cache.known(&recipe).and_then(|made| made.fact(MANIFEST).map(str::to_owned)),
                    Lookup::Fresh => None,
                };
                self.import(cache, access, known.as_deref(), staging, &Within(progress))
            })?;
            let mut gone = false;
            // Reads it again if it has changed since it was made.
            let made = cache.ensure(&image_of(&named)?, progress, |_| {
                gone = true;
                Err(Error::new(ErrorKind::Cache, "the image has just been removed from the cache"))
            });
            match made {
                Err(_) if gone && !again => again = true,
                made => return root_image(cache, made?, self.pin(&named)),
            }
        }
    }

    /// What pins the image: a file or a daemon may have another one tomorrow, a registry keeps what a digest names.
    fn pin(&self, named: &Made) -> Option<String> {
        match self {
            Self::Registry { .. } => named.fact(MANIFEST).map(str::to_owned),
            Self::Archive { .. } | Self::Docker { .. } => None,
        }
    }

    /// Makes the image; what is recorded of its name.
    fn import(
        &self,
        cache: &Cache,
        access: &RegistryAccess,
        known: Option<&str>,
        staging: &Staging<'_>,
        progress: &dyn Progress,
    ) -> Result<Built> {
        let step = |message: String| progress.event(ProgressEvent::Step { message });
        let from_archive = |path: &Path, name: Option<&str>, platform: &Option<Platform>| {
            let archive = Archive::open(path, staging.directory)?;
            let image = archive.image(name, &platform.clone().unwrap_or_else(Platform::host)).map_err(|error| {
                let kind = *error.kind();
                let hints = error.hints().to_vec();
                let outer = Error::new(kind, format!("{} cannot be used: {error}", path.display())).source(error);
                hints.into_iter().fold(outer, Error::hint)
            })?;
            keep(cache, &image.id, &image.info, progress, |output| {
                assemble(output, &image.info, &mut image.layers(&archive), progress)
            })?;
            Ok(named(&image.id, image.manifest.as_ref()))
        };
        match self {
            Self::Registry { reference, platform } => {
                step(format!("looking for {reference}"));
                let platform = (*platform).clone().unwrap_or_else(Platform::host);
                // Only as long as the cache is whole is a tag's meaning known without asking.
                let pinned = known.map(|manifest| reference.clone_with_digest(manifest.to_owned()));
                from_registry(cache, access, pinned.as_ref().unwrap_or(reference), reference, &platform, progress)
            }
            Self::Archive { path, name, platform, .. } => from_archive(path, *name, platform),
            Self::Docker { reference } => {
                step("having Docker save the image".to_owned());
                let saved = staging.directory.join("saved.tar");
                daemon::save(access, reference, &saved, &staging.lock.file)?;
                from_archive(&saved, None, &None)
            }
        }
    }
}

fn from_registry(
    cache: &Cache,
    access: &RegistryAccess,
    asked: &Reference,
    reference: &Reference,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<Built> {
    let (registry, mut bytes, mut digest) = Registry::find(access, asked)?;
    let client = registry.client()?;
    let named_in = |error: Error| {
        let (kind, hints) = (*error.kind(), error.hints().to_vec());
        let outer = Error::new(kind, format!("the image {reference} cannot be used: {error}"));
        hints.into_iter().fold(outer, Error::hint)
    };
    for _ in 0..MOST_INDEXES {
        match manifest::parse(&bytes).map_err(named_in)? {
            Document::Index(candidates) => {
                let chosen = manifest::choose(&candidates, platform).map_err(named_in)?;
                (bytes, digest) = client.document(&chosen.manifest.digest.to_string())?;
            }
            Document::Image(found) => {
                let info = client
                    .small(&found.config, "the image's configuration")
                    .and_then(|bytes| image_config::parse(&bytes))
                    .and_then(|info| info.check_platform(platform).map(|()| info))
                    .and_then(|info| info.check_layers(found.layers.len()).map(|()| info))
                    .map_err(named_in)?;
                keep(cache, &found.config.digest, &info, progress, |output| {
                    Downloads::run(cache, &registry, &found.layers, progress, |layers| {
                        assemble(output, &info, layers as &mut dyn Layers, progress)
                    })
                })?;
                return Ok(named(&found.config.digest, Some(&digest)));
            }
        }
    }
    Err(named_in(manifest::unsupported("its indexes lead from one to the next")))
}

/// Makes the file of an image, if it is not there.
fn keep(
    cache: &Cache,
    id: &Digest,
    info: &ImageInfo,
    progress: &dyn Progress,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let config = serde_json::to_string(&info.config);
    let config = config.map_err(|why| Error::new(ErrorKind::Io, "cannot write the configuration").source(why))?;
    cache.ensure(&image_recipe(id), progress, |staging| {
        let output = staging.directory.join("root.erofs");
        write(&output)?;
        Ok(Built { facts: [(CONFIG.to_owned(), config)].into(), files: vec![("root.erofs".to_owned(), output)] })
    })?;
    Ok(())
}

/// What is recorded of a name.
fn named(id: &Digest, manifest: Option<&Digest>) -> Built {
    let facts = [(IMAGE, Some(id)), (MANIFEST, manifest)].into_iter();
    let facts = facts.filter_map(|(name, digest)| Some((name.to_owned(), digest?.to_string())));
    Built { facts: facts.collect(), files: Vec::new() }
}

fn image_recipe(id: &Digest) -> Recipe {
    Recipe { kind: "oci-image", text: format!("{id}, version {VERSION}"), what: "the image".to_owned() }
}

fn image_of(named: &Made) -> Result<Recipe> {
    Digest::parse(named.fact(IMAGE).unwrap_or_default()).map(|id| image_recipe(&id))
}

fn root_image(cache: &Cache, made: Made, pin: Option<String>) -> Result<RootImage> {
    let broken = || Error::new(ErrorKind::Cache, "the cache's entry of the image cannot be read");
    let config: ImageConfig = made.fact(CONFIG).and_then(|text| serde_json::from_str(text).ok()).ok_or_else(broken)?;
    let file = made.files.into_iter().next().ok_or_else(broken)?;
    Ok(RootImage { path: cache.blob(&file.digest), digest: file.digest, size: file.stamp.size, config, pin })
}

/// Passes on what happens within something larger, whose beginning and end were told.
struct Within<'a>(&'a dyn Progress);

impl Progress for Within<'_> {
    fn event(&self, event: ProgressEvent) {
        if !matches!(event, ProgressEvent::Started { .. } | ProgressEvent::Finished) {
            self.0.event(event);
        }
    }
}
