//! What of the host goes into the building of layers.

use std::path::PathBuf;

use crate::bootstrap;

/// The host's settings about where packages come from. Gathered only when something is to be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// What the building of root images heeds, too: apt's sources and options, proxies, pip's settings.
    pub bootstrap: bootstrap::Host,
    /// Variables of the caller's environment that package managers heed, by the prefixes of
    /// [`PREFIXES`].
    pub variables: Vec<(String, String)>,
    /// The user's home directory, for the managers' configuration files.
    pub home: Option<PathBuf>,
}

/// What the names of variables begin with that are about npm and cargo; pip's are in
/// [`bootstrap::Host`]. A recipe takes the few of them that it knows.
const PREFIXES: [&str; 3] = ["npm_config_", "NPM_CONFIG_", "CARGO_"];

impl Host {
    pub(crate) fn probe() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let ours = |(name, _): &(String, String)| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let mut variables: Vec<_> = std::env::vars_os().filter_map(text).filter(ours).collect();
        variables.sort();
        Self {
            bootstrap: bootstrap::Host::probe(),
            variables,
            home: std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
        }
    }
}
