//! What the daemon is asked to share.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything one file daemon needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDaemonSpec {
    /// The shares, each an entry in the root of the one virtiofs device.
    pub shares: Vec<ShareSpec>,
    /// The owner the guest sees on every file.
    pub guest_uid: u32,
    /// The group the guest sees on every file.
    pub guest_gid: u32,
    /// Threads that work on requests; 0 (see [`DEFAULT_THREAD_POOL`](crate::DEFAULT_THREAD_POOL)) means that the
    /// thread that waits for requests also does them.
    pub thread_pool: usize,
}

/// One directory or file of the host that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSpec {
    /// Its name in the root of the device: one path component.
    pub entry: String,
    /// What is shared: an absolute path of a directory or a regular file. Symbolic links in it are followed once,
    /// when the tree is assembled.
    pub source: PathBuf,
    /// Whether writing is refused, by the host's kernel.
    pub read_only: bool,
    /// Paths below a directory share, relative to it, that the guest may read but not change, rename, replace or
    /// move away with a directory above them. Those that don't exist when the tree is assembled are left out.
    pub protect: Vec<PathBuf>,
}
