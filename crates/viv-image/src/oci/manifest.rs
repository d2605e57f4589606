//! Manifests, read with limits: those of OCI, and Docker's of schema 2, which differ in their media
//! types alone.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::digest::Digest;
use super::platform::Platform;
use crate::error::{Error, ErrorKind, Result};

/// The largest manifest or configuration that is read, as containerd and Docker have it. Bytes.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// More layers than any tool makes: overlayfs, which the others use, takes 500.
const MAX_LAYERS: usize = 512;

/// The largest layer there may be. Bytes.
const MAX_LAYER_BYTES: u64 = 256 << 30;

/// What clients ask for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// The same image for several platforms, or several images.
    Index(Vec<Candidate>),
    /// One image.
    Image(Manifest),
}

/// A manifest that an index names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub manifest: Blob,
    pub platform: Option<Platform>,
    /// What an archive calls it.
    pub name: Option<String>,
}

/// One image: its configuration and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub config: Blob,
    pub layers: Vec<Blob>,
}

/// Content that is named by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What tells one kind from the other; everything else is skipped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: u32,
    manifests: Option<IgnoredAny>,
    #[serde(rename = "fsLayers")]
    schema1_layers: Option<IgnoredAny>,
}

/// Reads a manifest or an index.
///
/// # Errors
/// [`ErrorKind::UnsupportedImage`] for what is neither, and for kinds of layers that nobody has.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document> {
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(unsupported(format!("its manifest has more than {MAX_DOCUMENT_BYTES} bytes")));
    }
    let outline: Outline = serde_json::from_slice(bytes).map_err(|why| malformed("manifest", why))?;
    if outline.schema_version == 1 || outline.schema1_layers.is_some() {
        return Err(unsupported("its manifest is one of Docker's schema 1, which has no digests of its content")
            .hint("push it again with a Docker since 1.10, or copy it with skopeo"));
    }
    if outline.manifests.is_some() {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(|why| malformed("index", why))?;
        return index.manifests().iter().map(candidate).collect::<Result<Vec<_>>>().map(Document::Index);
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(|why| malformed("manifest", why))?;
    let kind = manifest.config().media_type().to_string();
    if !["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"]
        .contains(&kind.as_str())
    {
        return Err(unsupported(format!("it is no image but holds `{}`", kind.escape_debug())));
    }
    if manifest.layers().len() > MAX_LAYERS {
        return Err(unsupported(format!("it has {} layers; {MAX_LAYERS} is the most", manifest.layers().len())));
    }
    let layers = manifest.layers().iter().map(layer).collect::<Result<Vec<_>>>()?;
    Ok(Document::Image(Manifest { config: blob(manifest.config())?, layers }))
}

fn candidate(descriptor: &Descriptor) -> Result<Candidate> {
    let platform = descriptor.platform().as_ref().map(|platform| Platform {
        os: platform.os().to_string(),
        architecture: platform.architecture().to_string(),
        variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
    });
    let annotation = |name: &str| descriptor.annotations().as_ref().and_then(|all| all.get(name)).cloned();
    // containerd's has the whole reference, the other usually the tag alone.
    let name = annotation("io.containerd.image.name").or_else(|| annotation("org.opencontainers.image.ref.name"));
    Ok(Candidate { manifest: blob(descriptor)?, platform, name })
}

/// A layer that can be unpacked: by its media type, since its bytes come later.
fn layer(descriptor: &Descriptor) -> Result<Blob> {
    let kind = descriptor.media_type().to_string();
    if kind.contains("nondistributable") || kind.contains("foreign") {
        let message = format!(
            "its layer {} is a foreign one (`{}`), which is not kept with the image",
            descriptor.digest(),
            kind.escape_debug()
        );
        return Err(unsupported(message));
    }
    let packed = kind
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| kind.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"));
    match packed {
        Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd") => {}
        _ => {
            let message = format!("its layer {} is of an unknown kind, `{}`", descriptor.digest(), kind.escape_debug());
            return Err(unsupported(message));
        }
    }
    let layer = blob(descriptor)?;
    if layer.size > MAX_LAYER_BYTES {
        return Err(unsupported(format!("its layer {} has {} bytes", layer.digest, layer.size)));
    }
    Ok(layer)
}

fn blob(descriptor: &Descriptor) -> Result<Blob> {
    Ok(Blob { digest: Digest::parse(descriptor.digest().as_ref())?, size: descriptor.size() })
}

/// The one of several that is for the platform.
///
/// # Errors
/// [`ErrorKind::NoSuchPlatform`], naming those there are.
pub(crate) fn choose<'a>(candidates: &'a [Candidate], wanted: &Platform) -> Result<&'a Candidate> {
    let serving = |candidate: &&Candidate| candidate.platform.as_ref().is_some_and(|found| found.serves(wanted));
    // The plain build of a platform is preferred to those for newer processors of the kind.
    let plain = candidates.iter().filter(serving).find(|candidate| {
        wanted.variant.is_none() && candidate.platform.as_ref().is_some_and(|found| found.variant.is_none())
    });
    if let Some(found) = plain.or_else(|| candidates.iter().find(serving)) {
        return Ok(found);
    }
    // What does not say is taken for what is wanted, if there is nothing else; its configuration says it in the end.
    if let [only] = candidates
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let named = candidates.iter().filter_map(|candidate| candidate.platform.as_ref());
    // What was built beside the image, such as its provenance, is listed as one for nothing.
    let mut names: Vec<String> =
        named.filter(|platform| platform.os != "unknown").map(|p| p.to_string().escape_debug().to_string()).collect();
    names.truncate(20);
    Err(no_such_platform(wanted, &names.join(", ")))
}

/// That there is no build for a platform, only those of a list.
pub(crate) fn no_such_platform(wanted: &Platform, there: &str) -> Error {
    let there = if there.is_empty() { "nothing" } else { there };
    Error::new(ErrorKind::NoSuchPlatform, format!("it is not there for {wanted}, only for {there}"))
        .hint("choose one that there is: REFERENCE?platform=OS/ARCHITECTURE")
        .hint("only what this host's processor runs can be started")
}

pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::UnsupportedImage, message)
}

pub(super) fn malformed(what: &str, why: serde_json::Error) -> Error {
    // The text of the error quotes what it found, whatever that is.
    let place = format!("line {}, column {}", why.line(), why.column());
    let reason: String = why.to_string().escape_debug().to_string().chars().take(200).collect();
    unsupported(format!("its {what} cannot be read ({place})")).source(reason)
}

#[cfg(test)]
mod tests;
