//! The root image: Debian, as a read-only erofs file.
//!
//! It is not compressed. Measured on two cores without KVM, the default image is 575 MB, or 350 MB with
//! lz4 and 319 MB with lz4hc (which adds half a minute to the build); reading 300 MB of it in a guest
//! takes 2.6 s, or 6 s with either, because there a guest's instructions are what is scarce.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::bootstrap::{self, DPKG_OPTIONS, FINISH_SCRIPT, Host, NPM_SCRIPT, PACKAGES};
use crate::cache::{Built, Cache, Made, Outside, Recipe, Stamp, hash_file};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::filesystem::erofs::{MAGIC, SUPERBLOCK_OFFSET};
use crate::import;
use crate::kernel::{debootstrap, missing_or};
use crate::oci::{self, Lookup, RegistryAccess};
use crate::progress::{Progress, ProgressEvent};
use crate::source::ImageSource;
use crate::sources::SUITE;
use crate::store::{self, named_image};
use crate::tools;

/// Changes with how the image is made, where the recipe's text does not show it.
const VERSION: u32 = 1;

/// A root image ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootImage {
    /// The erofs file.
    pub path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub digest: String,
    /// Bytes of the file.
    pub size: u64,
    /// How its programs are to be run.
    pub config: ImageConfig,
    /// What pins it, as `sha256:` and hexadecimal digits: the manifest that a registry's reference led to, or the
    /// content of a file. None where no two hosts have the same.
    pub pin: Option<String>,
}

/// The root image, built if it is not there yet: about a minute, 200 MB of downloads. A file or directory
/// of the user's is read once for each state it is in.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::BadImage`] and [`ErrorKind::Corrupt`] for files;
/// [`ErrorKind::UnsafeArchive`] and [`ErrorKind::TooLarge`] for archives and directories;
/// [`ErrorKind::MissingTool`], [`ErrorKind::Namespaces`], [`ErrorKind::Download`],
/// [`ErrorKind::Build`] for the default; [`ErrorKind::NoSuchImage`], [`ErrorKind::NoSuchPlatform`],
/// [`ErrorKind::UnsupportedImage`], [`ErrorKind::Unauthorized`], [`ErrorKind::DigestMismatch`],
/// [`ErrorKind::Download`] and [`ErrorKind::Docker`] for OCI images; [`ErrorKind::NoSpace`] and
/// [`ErrorKind::Io`] for all.
pub fn ensure_root(cache: &Cache, source: &ImageSource, progress: &dyn Progress) -> Result<RootImage> {
    ensure_root_with(cache, source, &RegistryAccess::of_environment(), progress)
}

/// As [`ensure_root`], with registries spoken to as `access` says.
///
/// # Errors
/// Those of [`ensure_root`].
pub fn ensure_root_with(
    cache: &Cache,
    source: &ImageSource,
    access: &RegistryAccess,
    progress: &dyn Progress,
) -> Result<RootImage> {
    ensure(cache, source, access, Lookup::Remembered, progress)
}

fn ensure(
    cache: &Cache,
    source: &ImageSource,
    access: &RegistryAccess,
    lookup: Lookup,
    progress: &dyn Progress,
) -> Result<RootImage> {
    match source {
        ImageSource::Default => {
            let made = cache.ensure(&default_recipe(), progress, |staging| {
                tools::require(&["mmdebstrap", "apt-get", "mkfs.erofs", "unshare", "newuidmap"])?;
                let image = staging.directory.join("root.erofs");
                let outside = Outside::new(progress)?;
                let invocation = bootstrap::root(&Host::probe(), &outside.path);
                debootstrap(&invocation, &[&staging.lock.file], &outside, &image, "the root image", progress)?;
                check(&image).map_err(|why| {
                    Error::new(ErrorKind::Build, "mkfs.erofs made an image that cannot be used").source(why)
                })?;
                progress.event(ProgressEvent::Step { message: "keeping the image".to_owned() });
                Ok(Built { files: vec![("root.erofs".to_owned(), image)], ..Built::default() })
            })?;
            // One file was built, so there is one.
            default_of(cache, made)
                .ok_or_else(|| Error::new(ErrorKind::Cache, "the cache's entry of the root image is empty"))
        }
        ImageSource::Erofs(path) => from_file(cache, path, progress),
        ImageSource::Tar(path) => import::from_tar(cache, path, progress),
        ImageSource::Directory(path) => import::from_directory(cache, path, progress),
        ImageSource::Named(name) => named_image(cache, name),
        ImageSource::Oci { .. } | ImageSource::OciArchive { .. } | ImageSource::DockerDaemon(_) => {
            oci::ensure(cache, source, access, lookup, progress)
        }
    }
}

/// The root image as its source has it now. [`ensure_root`] asks a registry, or Docker, but once what a
/// reference means, and goes by that from then on; this asks again, and downloads what has changed.
///
/// # Errors
/// Those of [`ensure_root`].
pub fn pull(
    cache: &Cache,
    source: &ImageSource,
    access: &RegistryAccess,
    progress: &dyn Progress,
) -> Result<RootImage> {
    ensure(cache, source, access, Lookup::Fresh, progress)
}

/// The default root image if it was built, as far as one `stat` tells. Changes nothing.
#[must_use]
pub fn default_root(cache: &Cache) -> Option<RootImage> {
    default_of(cache, cache.peek(&default_recipe())?)
}

fn default_of(cache: &Cache, made: Made) -> Option<RootImage> {
    made.files.into_iter().next().map(|file| RootImage {
        path: cache.blob(&file.digest),
        digest: file.digest,
        size: file.stamp.size,
        config: ImageConfig::default(),
        pin: None,
    })
}

/// How the programs of an image are to be run, as far as that can be told without making or fetching anything;
/// `None` for an image that is not in the cache. Changes nothing.
#[must_use]
pub fn known_config(cache: &Cache, source: &ImageSource) -> Option<ImageConfig> {
    match source {
        // These have no more than files.
        ImageSource::Default | ImageSource::Erofs(_) | ImageSource::Tar(_) | ImageSource::Directory(_) => {
            Some(ImageConfig::default())
        }
        ImageSource::Named(name) => store::known_config(cache, name),
        ImageSource::Oci { .. } | ImageSource::OciArchive { .. } | ImageSource::DockerDaemon(_) => {
            oci::known_config(cache, source)
        }
    }
}

pub(crate) fn default_recipe() -> Recipe {
    let options = DPKG_OPTIONS.join("\n");
    Recipe {
        kind: "root",
        text: format!("Debian {SUITE}, version {VERSION}\n{PACKAGES}\n{options}\n{NPM_SCRIPT}\n{FINISH_SCRIPT}"),
        what: "the root image".to_owned(),
    }
}

fn from_file(cache: &Cache, path: &Path, progress: &dyn Progress) -> Result<RootImage> {
    let path = path.canonicalize().map_err(missing_or("image", path))?;
    let stamp = Stamp::of(&path).map_err(missing_or("image", &path))?;
    let recipe = Recipe {
        kind: "image-file",
        text: format!("{}, version {VERSION}\n{stamp:?}", path.display()),
        what: format!("the image {}", path.display()),
    };
    let made = cache.ensure(&recipe, progress, |_| {
        check(&path).map_err(|why| {
            let kind = match why.kind() {
                io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
                io::ErrorKind::InvalidData => ErrorKind::BadImage,
                _ => return io_error("read", &path)(why),
            };
            Error::new(kind, format!("{} is not an image that can be used", path.display()))
                .source(why)
                .hint("give a file made by mkfs.erofs, or leave out --image to use the default")
        })?;
        let digest = hash_file(&path).map_err(io_error("read", &path))?;
        Ok(Built { facts: [("digest".to_owned(), digest)].into(), files: Vec::new() })
    })?;
    let digest = made.fact("digest").unwrap_or_default().to_owned();
    let pin = Some(format!("sha256:{digest}"));
    Ok(RootImage { path, digest, size: stamp.size, config: ImageConfig::default(), pin })
}

/// Reads an erofs superblock: `InvalidData` if it is not one, `UnexpectedEof` if the file is shorter
/// than it says.
fn check(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut block = [0; 128];
    let not_erofs = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    file.read_exact_at(&mut block, SUPERBLOCK_OFFSET as u64)
        .map_err(|_| not_erofs("it is not an erofs file system"))?;
    if block[..4] != MAGIC.to_le_bytes() {
        return Err(not_erofs("it is not an erofs file system"));
    }
    let block_bits = block[12];
    let blocks = u32::from_le_bytes([block[36], block[37], block[38], block[39]]);
    if !(9..=16).contains(&block_bits) {
        return Err(not_erofs("its superblock is damaged"));
    }
    let needed = u64::from(blocks) << block_bits;
    if size < needed {
        let why = format!("it is cut short: {size} bytes instead of {needed}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;

    fn superblock(blocks: u32) -> Vec<u8> {
        let mut image = vec![0; 8192];
        image[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        image[1024 + 12] = 12;
        image[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
        image
    }

    #[test]
    fn a_file_of_the_users() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let path = directory.path().join("image");
        let ensure = || ensure_root(&cache, &ImageSource::Erofs(path.clone()), &NoProgress);
        let fails = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let error = ensure().unwrap_err();
            (*error.kind(), std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default())
        };
        assert_eq!(*ensure().unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(fails(b"#!/bin/sh").0, ErrorKind::BadImage);
        assert_eq!(fails(&[0; 8192]).0, ErrorKind::BadImage);
        let cut = (ErrorKind::Corrupt, "it is cut short: 8192 bytes instead of 12288".to_owned());
        assert_eq!(fails(&superblock(3)), cut);

        std::fs::write(&path, superblock(2)).unwrap();
        let image = ensure().unwrap();
        assert_eq!((image.size, &image.path), (8192, &path.canonicalize().unwrap()));
        assert_eq!(image.digest, hash_file(&path).unwrap());
        assert_eq!(ensure().unwrap(), image);
    }
}
