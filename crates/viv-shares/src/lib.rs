//! The file daemon: shows a guest some directories and files of the host, and nothing else.
//!
//! One virtiofs device carries any number of shares. The daemon is a process of its own, in which [`serve`] does, in
//! this order:
//!
//! ```text
//!  tie to the monitor ─> plan mounts ─> raise limit of open files ─> new user, mount, network, IPC, UTS namespaces
//!                                                                          │
//!      ready <── seccomp <── drop capabilities <── new root, old one gone <┴─ tmpfs: one bind mount per share
//!        │
//!        └─> one vhost-user connection ─> ends with it
//! ```
//!
//! What the daemon sees afterwards is a read-only tmpfs with an entry per share. `..` leads nowhere, there is no
//! `/proc`, and what is read-only is so by mount, whatever the guest makes the daemon do.
//!
//! - [`plan`] says which mounts, without making any; `tree` makes them.
//! - `namespace`, `confine` and `filter` take rights away.
//! - `share_fs` says what the guest may ask for, on top of virtiofsd's pass-through file system.
//! - `nodes` and `limits` bound the number of open files.
#![warn(missing_docs)]

mod confine;
mod daemon;
mod error;
mod filter;
mod limits;
mod namespace;
mod nodes;
mod plan;
mod ready;
mod share_fs;
mod spec;
#[allow(unsafe_code)]
mod sys;
mod tree;

pub use daemon::serve;
pub use error::{Error, ErrorKind, Result};
pub use plan::{Step, plan};
pub use ready::parse_ready;
pub use spec::{FileDaemonSpec, ShareSpec};

/// The thread pool to ask for.
pub const DEFAULT_THREAD_POOL: usize = 0;
