//! Where a root image comes from, as it is written.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::oci::{self, Platform};

/// Where the root image comes from.
///
/// | written | |
/// |---|---|
/// | `debian` | [`ImageSource::Default`] |
/// | `oci:REFERENCE[?platform=PLATFORM]` | [`ImageSource::Oci`] |
/// | `oci-archive:FILE[:NAME][?platform=PLATFORM]` | [`ImageSource::OciArchive`] |
/// | `docker-daemon:REFERENCE` | [`ImageSource::DockerDaemon`] |
/// | `dir:PATH` | [`ImageSource::Directory`] |
/// | `tar:FILE` | [`ImageSource::Tar`] |
/// | `name:NAME` | [`ImageSource::Named`] |
/// | `erofs:FILE`, or a path | [`ImageSource::Erofs`] |
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum ImageSource {
    /// Debian with what an agent needs on its first day.
    #[default]
    Default,
    /// An erofs image of the user's. It is used where it is.
    Erofs(PathBuf),
    /// An image of a registry.
    Oci {
        /// `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, as Docker and podman have it.
        reference: String,
        /// Another platform than this host's.
        platform: Option<Platform>,
    },
    /// A file or a directory with an OCI image layout, or what `docker save` writes.
    OciArchive {
        /// The file. No path with a colon can be written.
        path: PathBuf,
        /// The image's name in it, where there are several.
        name: Option<String>,
        /// Another platform than this host's.
        platform: Option<Platform>,
    },
    /// An image of this host's Docker.
    DockerDaemon(String),
    /// A directory with a root file system.
    Directory(PathBuf),
    /// A tar archive of a root file system, compressed or not.
    Tar(PathBuf),
    /// An image of the cache that the user gave a name.
    Named(String),
}

impl ImageSource {
    /// The path it names, if it names one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Erofs(path) | Self::OciArchive { path, .. } | Self::Directory(path) | Self::Tar(path) => Some(path),
            Self::Default | Self::Oci { .. } | Self::DockerDaemon(_) | Self::Named(_) => None,
        }
    }

    /// The same source with its path, if it has one, put through `change`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map_path<E>(self, change: impl FnOnce(PathBuf) -> Result<PathBuf, E>) -> Result<Self, E> {
        Ok(match self {
            Self::Erofs(path) => Self::Erofs(change(path)?),
            Self::OciArchive { path, name, platform } => Self::OciArchive { path: change(path)?, name, platform },
            Self::Directory(path) => Self::Directory(change(path)?),
            Self::Tar(path) => Self::Tar(change(path)?),
            named @ (Self::Default | Self::Oci { .. } | Self::DockerDaemon(_) | Self::Named(_)) => named,
        })
    }

    /// The same source for a platform.
    ///
    /// # Errors
    /// [`ErrorKind::BadReference`] for a source that has no choice of them.
    pub fn for_platform(self, chosen: Platform) -> Result<Self, Error> {
        match self {
            Self::Oci { reference, .. } => Ok(Self::Oci { reference, platform: Some(chosen) }),
            Self::OciArchive { path, name, .. } => Ok(Self::OciArchive { path, name, platform: Some(chosen) }),
            other => Err(Error::new(ErrorKind::BadReference, format!("{other} is for one platform only"))
                .hint("only oci:REFERENCE and oci-archive:FILE have a choice")),
        }
    }
}

impl FromStr for ImageSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let path = |rest: &str| PathBuf::from(rest);
        let source = match text.split_once(':') {
            _ if text == "debian" => return Ok(Self::Default),
            Some(("oci", rest)) if !rest.is_empty() => {
                let (reference, platform) = split_platform(rest)?;
                oci::check_reference(reference)?;
                Self::Oci { reference: reference.to_owned(), platform }
            }
            Some(("oci-archive", rest)) => {
                let (rest, platform) = split_platform(rest)?;
                let (file, name) = rest.split_once(':').map_or((rest, None), |(file, name)| (file, Some(name)));
                Self::OciArchive { path: path(file), name: name.map(str::to_owned), platform }
            }
            Some(("docker-daemon", rest)) if !rest.is_empty() => {
                oci::check_reference(rest)?;
                Self::DockerDaemon(rest.to_owned())
            }
            Some(("dir", rest)) => Self::Directory(path(rest)),
            Some(("tar", rest)) => Self::Tar(path(rest)),
            Some(("name", rest)) => Self::Named(rest.to_owned()),
            Some(("erofs", rest)) => Self::Erofs(path(rest)),
            _ => Self::Erofs(path(text)),
        };
        if text.is_empty() || text.ends_with(':') {
            return Err(Error::new(ErrorKind::BadReference, format!("`{text}` names no image")).hint(
                "give debian, oci:REFERENCE, oci-archive:FILE, docker-daemon:REFERENCE, dir:PATH, tar:FILE, name:NAME or erofs:FILE",
            ));
        }
        Ok(source)
    }
}

/// What follows `?platform=` at the end.
fn split_platform(text: &str) -> Result<(&str, Option<Platform>), Error> {
    match text.rsplit_once(PLATFORM) {
        Some((rest, platform)) => Ok((rest, Some(platform.parse()?))),
        None => Ok((text, None)),
    }
}

const PLATFORM: &str = "?platform=";

impl TryFrom<String> for ImageSource {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ImageSource> for String {
    fn from(source: ImageSource) -> Self {
        source.to_string()
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("debian"),
            Self::Erofs(path) => write!(f, "erofs:{}", path.display()),
            Self::Oci { reference, platform } => {
                write!(f, "oci:{reference}")?;
                platform.as_ref().map_or(Ok(()), |platform| write!(f, "{PLATFORM}{platform}"))
            }
            Self::OciArchive { path, name, platform } => {
                write!(f, "oci-archive:{}", path.display())?;
                name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))?;
                platform.as_ref().map_or(Ok(()), |platform| write!(f, "{PLATFORM}{platform}"))
            }
            Self::DockerDaemon(reference) => write!(f, "docker-daemon:{reference}"),
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Tar(path) => write!(f, "tar:{}", path.display()),
            Self::Named(name) => write!(f, "name:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        for text in [
            "debian",
            "oci:alpine:3.20",
            "oci-archive:/a.tar",
            "docker-daemon:x",
            "dir:/r",
            "tar:/r.tgz",
            "name:n",
            "erofs:/e",
            "oci:host.example:5000/a/b:1?platform=linux/arm64/v8",
            "oci-archive:/a.tar:app:1",
            "oci-archive:/a.tar:app:1?platform=linux/arm64",
        ] {
            assert_eq!(text.parse::<ImageSource>().unwrap().to_string(), text);
        }
        assert_eq!("/srv/root.erofs".parse::<ImageSource>().unwrap(), ImageSource::Erofs("/srv/root.erofs".into()));
        for nothing in [
            "",
            "oci:",
            "dir:",
            "docker-daemon:",
            "oci-archive:",
            "oci:A",
            "oci:-x",
            "oci:a?platform=x",
            "docker-daemon:-x",
        ] {
            assert_eq!(*nothing.parse::<ImageSource>().unwrap_err().kind(), ErrorKind::BadReference);
        }
    }
}
