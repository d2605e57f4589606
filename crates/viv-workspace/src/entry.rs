//! What is at a path, and all of it together.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, TreePath};

/// The SHA-256 of some content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0[..6]))
    }
}

/// What is at a path. Equal ones cannot be told apart by who looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A regular file whose content is kept.
    File {
        /// Of its content.
        digest: Digest,
        /// Bytes.
        size: u64,
        /// Its permissions, the low nine bits.
        mode: u32,
    },
    /// A regular file over the limit: whether it changed is known, what it held is not.
    Large {
        /// Bytes.
        size: u64,
        /// Its permissions, the low nine bits.
        mode: u32,
        /// What tells that it changed.
        stat: Stat,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads; any bytes.
        target: Vec<u8>,
    },
}

impl Node {
    /// Bytes of a file or of a link's target.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Large { size, .. } => *size,
            Self::Symlink { target } => target.len() as u64,
        }
    }

    /// As git writes modes: 100644, 100755 or 120000, with all nine permission bits.
    #[must_use]
    pub fn git_mode(&self) -> u32 {
        match self {
            Self::File { mode, .. } | Self::Large { mode, .. } => 0o100_000 | mode,
            Self::Symlink { .. } => 0o120_000,
        }
    }

    /// The content's digest, if it is kept.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::File { digest, .. } => Some(*digest),
            _ => None,
        }
    }
}

/// What the host's kernel says of a file. A guest sets the time of modification; the time of change is the
/// kernel's own, so a file with all of these as they were has the content it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Its inode.
    pub inode: u64,
    /// Its device.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Time of modification, nanoseconds since the epoch.
    pub modified_ns: i128,
    /// Time of change, the same.
    pub changed_ns: i128,
}

impl Stat {
    /// Of what cannot be looked at: no file's.
    pub(crate) const UNKNOWN: Self = Self { inode: 0, device: 0, size: 0, mode: 0, modified_ns: 0, changed_ns: 0 };
}

/// What is at a path, and how it was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// What is there.
    pub node: Node,
    /// None if it was never a file of this host, or had changed so shortly before that it could change unseen.
    pub stat: Option<Stat>,
}

/// A workspace at one time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Its files and links.
    pub entries: BTreeMap<TreePath, Entry>,
}

/// The first bytes of what is stored: the format's name and version.
const MAGIC: &[u8] = b"viv-state 1\n";

/// The most bytes that a stored value may take in memory.
const LARGEST_BYTES: usize = 1 << 30;

impl Manifest {
    /// What is at a path.
    #[must_use]
    pub fn node(&self, path: &TreePath) -> Option<&Node> {
        self.entries.get(path).map(|entry| &entry.node)
    }

    /// Puts a node, or its absence, at a path.
    pub fn set(&mut self, path: &TreePath, node: Option<Node>) {
        match node {
            Some(node) => self.entries.insert(path.clone(), Entry { node, stat: None }),
            None => self.entries.remove(path),
        };
    }

    /// What is beneath `directory`, in order.
    pub fn beneath(&self, directory: &[u8]) -> impl Iterator<Item = (&TreePath, &Entry)> {
        let prefix = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
        self.entries
            .range::<[u8], _>((Bound::Included(prefix.as_slice()), Bound::Unbounded))
            .take_while(move |(path, _)| path.as_bytes().starts_with(&prefix))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// A value as it is stored.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Io, "a state cannot be written down").source(error)
    };
    let plain = postcard::to_allocvec(value).map_err(|error| broken(error.into()))?;
    let packed = zstd::bulk::compress(&plain, 1).map_err(|error| broken(error.into()))?;
    Ok([MAGIC, &packed].concat())
}

/// A stored value, read from `file`. What is not whole is refused; it is not foreign, so no more is asked of it.
pub(crate) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8], file: &Path) -> Result<T> {
    let damaged = || Error::new(ErrorKind::Damaged, format!("{} is damaged", file.display()));
    let packed = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().unwrap_or(0);
    let size = usize::try_from(size).ok().filter(|size| *size <= LARGEST_BYTES).ok_or_else(damaged)?;
    let plain = zstd::bulk::decompress(packed, size).map_err(|error| damaged().source(error))?;
    postcard::from_bytes(&plain).map_err(|error| damaged().source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(paths: &[&str]) -> Manifest {
        let mut manifest = Manifest::default();
        for path in paths {
            manifest.set(&TreePath::new(*path).unwrap(), Some(Node::Symlink { target: b"x".to_vec() }));
        }
        manifest
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_is() {
        let bytes = encode(&manifest(&["a", "b/c"])).unwrap();
        let file = Path::new("states/one/base");
        let read: Manifest = decode(&bytes, file).unwrap();
        assert_eq!(read.entries.len(), 2);
        for broken in [&b""[..], b"viv-state 1\n", b"other", &bytes[..bytes.len() - 1]] {
            let error = decode::<Manifest>(broken, file).unwrap_err();
            assert_eq!((*error.kind(), error.to_string()), (ErrorKind::Damaged, "states/one/base is damaged".into()));
        }
    }

    #[test]
    fn directories_are_found_among_their_neighbours() {
        let manifest = manifest(&["a-b/x", "a.b", "a/ x", "a/z", "a0", "c"]);
        let beneath = |directory: &str| manifest.beneath(directory.as_bytes()).count();
        assert_eq!(["a", "a-b", "c", "b", "a/z", "a-", ""].map(beneath), [2, 1, 0, 0, 0, 0, 6]);
    }
}
