//! What a sandbox with a copy of its own says it changed.

use std::io::Read;

use crate::TreePath;

/// One change. The content comes as it is read, so that nothing need be in memory whole.
#[derive(Debug)]
pub enum Change<R: Read> {
    /// A regular file is there, new or with other content or permissions than before.
    File {
        /// Where.
        path: TreePath,
        /// Its permissions; of those, only whether its owner may execute it counts ([`crate::Store::record_changes`]).
        mode: u32,
        /// What it holds.
        content: R,
    },
    /// A symbolic link is there.
    Symlink {
        /// Where.
        path: TreePath,
        /// Where it leads. It is never followed.
        target: Vec<u8>,
    },
    /// What was there is not any more: the file or link, or everything beneath the directory.
    Deleted {
        /// Where.
        path: TreePath,
    },
}
