//! A sandbox over OpenSSH, without a port and without a network.
//!
//! ```text
//!   ssh viv-web ──ProxyCommand──► viv ssh-proxy viv-web ──exec over the link──► sh, sshd -i (root)
//!     │                             │ keys, known_hosts                          └─ session (agent)
//!     └───────── known_hosts ◄──────┘ before the first byte of the server's
//! ```

pub mod client;
pub mod keys;
pub mod server;
pub mod targets;

use std::path::PathBuf;

use viv_sandbox::Paths;

use crate::environment::HostEnvironment;
use crate::error::{self, Error};
use client::Client;

/// Where viv keeps what ssh reads.
#[must_use]
pub fn directory(paths: &Paths) -> PathBuf {
    paths.state.join("ssh")
}

/// How ssh reaches the sandboxes of this environment: editors start it with less of one than shells have.
///
/// # Errors
/// Paths that ssh's configuration cannot hold.
pub fn client(paths: &Paths, host: &HostEnvironment) -> Result<Client, Error> {
    let executable = std::env::current_exe().map_err(error::io("cannot find viv's own executable"))?;
    let environment = ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"].into_iter().filter_map(|name| {
        let value = host.variables.get(name).filter(|value| value.starts_with('/'))?;
        Some((name.to_owned(), value.clone()))
    });
    Client::new(executable, directory(paths), environment.collect())
}
