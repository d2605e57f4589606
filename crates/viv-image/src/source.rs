//! Where a root image comes from, as it is written.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// Where the root image comes from.
///
/// | written | |
/// |---|---|
/// | `debian` | [`ImageSource::Default`] |
/// | `oci:REFERENCE` | [`ImageSource::Oci`] |
/// | `oci-archive:FILE` | [`ImageSource::OciArchive`] |
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
    /// An image of a registry: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.
    Oci(String),
    /// A file with an OCI image layout, or what `docker save` writes.
    OciArchive(PathBuf),
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
            Self::Erofs(path) | Self::OciArchive(path) | Self::Directory(path) | Self::Tar(path) => Some(path),
            Self::Default | Self::Oci(_) | Self::DockerDaemon(_) | Self::Named(_) => None,
        }
    }

    /// The same source with its path, if it has one, put through `change`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map_path<E>(self, change: impl FnOnce(PathBuf) -> Result<PathBuf, E>) -> Result<Self, E> {
        Ok(match self {
            Self::Erofs(path) => Self::Erofs(change(path)?),
            Self::OciArchive(path) => Self::OciArchive(change(path)?),
            Self::Directory(path) => Self::Directory(change(path)?),
            Self::Tar(path) => Self::Tar(change(path)?),
            named @ (Self::Default | Self::Oci(_) | Self::DockerDaemon(_) | Self::Named(_)) => named,
        })
    }
}

impl FromStr for ImageSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let path = |rest: &str| PathBuf::from(rest);
        let source = match text.split_once(':') {
            _ if text == "debian" => return Ok(Self::Default),
            Some(("oci", rest)) => Self::Oci(rest.to_owned()),
            Some(("oci-archive", rest)) => Self::OciArchive(path(rest)),
            Some(("docker-daemon", rest)) => Self::DockerDaemon(rest.to_owned()),
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
            Self::Oci(reference) => write!(f, "oci:{reference}"),
            Self::OciArchive(path) => write!(f, "oci-archive:{}", path.display()),
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
        ] {
            assert_eq!(text.parse::<ImageSource>().unwrap().to_string(), text);
        }
        assert_eq!("/srv/root.erofs".parse::<ImageSource>().unwrap(), ImageSource::Erofs("/srv/root.erofs".into()));
        for nothing in ["", "oci:", "dir:"] {
            assert_eq!(*nothing.parse::<ImageSource>().unwrap_err().kind(), ErrorKind::BadReference);
        }
    }
}
