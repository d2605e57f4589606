//! The file daemon: shows a guest some directories and files of the host, and nothing else.
//!
//! One virtiofs device carries any number of shares. The daemon is a process of its own, in which [`serve`] does, in
//! this order:
//!
//! ```text
//!  tie to the monitor ─> raise limit of open files ─> new user, mount, network, IPC, UTS namespaces
//!                                                                          │
//!      serve one VMM <── seccomp <── drop capabilities <── empty root, old one gone
//! ```
//!
//! What the daemon sees afterwards is a read-only tmpfs with an empty directory. `..` leads nowhere and there is no
//! `/proc`. It need not know yet what to share: a helper process, which still sees the host, waits to be told, then
//! assembles a read-only tmpfs with a bind mount per share and puts it over the empty directory. What is read-only is
//! so by mount, whatever the guest makes the daemon do.
//!
//! - `spec` is what the daemon is told; [`plan`] says which mounts that takes, without making any; `tree` makes them.
//! - `helper` is the process that runs those two.
//! - `namespace`, `confine` and `filter` take rights away.
//! - `gather` shows some names of a directory, as a store of packages needs it.
//! - `share_fs` says what the guest may ask for, on top of virtiofsd's pass-through file system.
//! - `guard` keeps what git on the host would run from the guest.
//! - `nodes` and `limits` bound the number of open files.
#![warn(missing_docs)]

mod coherence;
mod confine;
mod daemon;
mod error;
mod filter;
mod gather;
mod guard;
mod helper;
mod limits;
mod namespace;
mod nodes;
mod plan;
mod ready;
mod share_fs;
mod spec;
mod stamp;
#[allow(unsafe_code)]
mod sys;
mod tree;

pub use coherence::coherent_entry;
pub use daemon::serve;
pub use error::{Error, ErrorKind, Result};
pub use guard::{guarded_entry, is_inert};
pub use plan::{Step, plan};
pub use ready::parse_ready;
pub use spec::{FileDaemonSpec, ShareSpec, shares_line};

/// The thread pool to ask for.
pub const DEFAULT_THREAD_POOL: usize = 0;
