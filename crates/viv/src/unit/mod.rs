//! Sandboxes that systemd starts, ends and tells of: their units, and the process each unit is.

pub mod manager;
pub mod plan;
pub mod process;
mod systemd;

use crate::environment::HostEnvironment;

/// What a unit hands on of the environment it was made in, so that viv sees the same directories and programs there.
/// No secrets: a unit's file is no place for them.
const HANDED_ON: [&str; 15] = [
    "HOME",
    "PATH",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "TZ",
    "VIV_BOOT_DEADLINE",
    "VIV_DEBIAN_MIRROR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The variables of a unit. A proxy with a password in its URL is left out.
#[must_use]
pub fn environment(host: &HostEnvironment) -> Vec<(String, String)> {
    let given = HANDED_ON.into_iter().filter_map(|name| Some((name.to_owned(), host.variables.get(name)?.clone())));
    given.filter(|(name, value)| !(name.ends_with("_proxy") && value.contains('@'))).collect()
}
