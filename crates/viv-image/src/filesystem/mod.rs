//! File systems made out of archives and directories: a tree in memory, file data in the output, an
//! erofs image at the end.
//!
//! ```text
//! tar, tar, ... --> archive --> apply --> tree ----------------> erofs --> inodes, directories, superblock
//!                                  \--> data: blocks in the output, tails in a spool --^
//! ```
//!
//! Nothing is unpacked: names, owners, modes, links, device numbers and extended attributes of an archive
//! are data in this process, never calls to the host's file system. So an archive cannot touch a file
//! of the host, no privileges are needed, and an import is one pass over the archive. Memory grows
//! with the number of entries and their names, within [`Limits`], not with what files hold.
//!
//! The same input gives the same bytes: entries are sorted, the volume's id is zero, and no time but
//! those of the files is written.

mod apply;
mod archive;
mod attributes;
mod decompress;
mod directory;
pub(crate) mod erofs;
mod store;
mod tree;

use std::io::Read;
use std::path::Path;

pub use decompress::decompress;

use archive::Archive;
use store::Store;
use tree::Tree;

use crate::error::Result;

/// How much an archive or a directory may hold, so that a hostile one neither fills the memory nor,
/// packed small, the disk. What is over a limit is refused with
/// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and all else, of all archives together, those replaced or removed by later ones
    /// included.
    pub entries: u64,
    /// Bytes of all archives together, uncompressed: file data, headers and padding.
    pub bytes: u64,
    /// Bytes of all names and symbolic links' targets together.
    pub names: u64,
    /// Bytes of all extended attributes together.
    pub attributes: u64,
}

impl Default for Limits {
    /// 2,000,000 entries, 64 GiB, 256 MiB of names and 64 MiB of extended attributes.
    fn default() -> Self {
        Self { entries: 2_000_000, bytes: 64 << 30, names: 256 << 20, attributes: 64 << 20 }
    }
}

/// What entries that stand for the absence of something mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Nothing: they are files like others.
    None,
    /// Those of an OCI image's layer: `.wh.NAME` removes NAME, and `.wh..wh..opq` what its
    /// directory holds, of what was applied before
    /// (<https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>).
    Resolve,
    /// Those of an upper directory of overlayfs, for use as a lower one: character devices 0:0 stay,
    /// and `user.overlay.*` becomes `trusted.overlay.*`
    /// (<https://docs.kernel.org/filesystems/overlayfs.html>).
    Overlay,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Inodes of the image.
    pub inodes: u64,
    /// Bytes of the image.
    pub size: u64,
}

/// A file system on its way into an image.
#[derive(Debug)]
pub struct FileSystem {
    tree: Tree,
    store: Store,
}

impl FileSystem {
    /// An empty one, to be written to `output`, which must not exist; beside it is room for temporary
    /// files. The last 128 MiB of that file system are not used. After an error the output is of no
    /// use.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) and [`ErrorKind::NoSpace`](crate::ErrorKind::NoSpace).
    pub fn create(output: &Path, limits: Limits) -> Result<Self> {
        Ok(Self { tree: Tree::new(limits), store: Store::create(output)? })
    }

    /// Puts an uncompressed tar archive over what is there. It is read to its very end, so that a
    /// reader which computes a digest sees all of it.
    ///
    /// # Errors
    /// [`ErrorKind::UnsafeArchive`](crate::ErrorKind::UnsafeArchive) for what no honest archive holds,
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) for what is over a limit,
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for what is damaged, and those of writing.
    pub fn apply_tar(&mut self, archive: &mut dyn Read, whiteouts: Whiteouts) -> Result<()> {
        self.tree.next_layer();
        let mut budget = self.tree.limits().bytes;
        let result = apply::tar(&mut self.tree, &mut self.store, &mut Archive::new(archive, &mut budget), whiteouts);
        self.tree.limits().bytes = budget;
        result
    }

    /// Puts a directory of the host over what is there. It is on one file system: of what is mounted in
    /// it, only the directory it is mounted on is taken. Device nodes stay what they are. Where this
    /// process is an ordinary user's, what belongs to that user and group becomes root's: whoever unpacks
    /// a root file system without privileges owns all of it.
    ///
    /// # Errors
    /// As [`FileSystem::apply_tar`], and those of reading.
    pub fn apply_directory(&mut self, directory: &Path) -> Result<()> {
        self.tree.next_layer();
        directory::apply(&mut self.tree, &mut self.store, directory)
    }

    /// Writes what is left to write: inodes, directories and the superblock.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), [`ErrorKind::NoSpace`](crate::ErrorKind::NoSpace), and
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) beyond 16 TiB.
    pub fn finish(self) -> Result<Summary> {
        erofs::write(&self.tree, self.store)
    }
}
