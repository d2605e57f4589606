//! What a sandbox has of the host's nix, as shares.

use viv_image::nix::{DIRECTORY, Roots, STORE};
use viv_proto::message::{Share, ShareKind};
use viv_shares::ShareSpec;

use crate::{Error, ErrorKind, Result, SandboxSpec};

/// The entry of the store on the virtiofs device, and of what was noted about it.
const STORE_ENTRY: &str = "nix-store";
const NOTES_ENTRY: &str = "nix";

/// Keeps the host's garbage collector from what the sandbox has of the store, as long as the value lives.
///
/// # Errors
/// [`ErrorKind::StateDirectory`] if it was given up already.
pub(crate) fn hold(spec: &SandboxSpec) -> Result<Option<Roots>> {
    let environment = spec.nix.as_ref().and_then(|nix| nix.environment.as_ref());
    environment.map(|environment| Roots::join(&environment.directory)).transpose().map_err(|error| {
        Error::new(ErrorKind::StateDirectory, "what nix provides may be removed at any time").source(error)
    })
}

/// The shares of a sandbox that has something of nix, on both sides: the store, which programs may write over, and
/// the directory that says what is in it.
pub(crate) fn shares(spec: &SandboxSpec) -> Vec<(ShareSpec, Share)> {
    let Some((nix, environment)) = spec.nix.as_ref().and_then(|nix| Some((nix, nix.environment.as_ref()?))) else {
        return Vec::new();
    };
    let share = |entry: &str, source, gathered, destination: &str, writable_overlay| {
        (
            ShareSpec { entry: entry.to_owned(), source, read_only: true, protect: Vec::new(), gathered },
            Share {
                entry: entry.to_owned(),
                destination: destination.to_owned(),
                kind: ShareKind::Directory,
                read_only: true,
                writable_overlay,
            },
        )
    };
    let names = (!nix.whole_store).then(|| environment.names.clone());
    vec![
        share(STORE_ENTRY, environment.store.clone(), names, STORE, true),
        share(NOTES_ENTRY, environment.notes(), None, DIRECTORY, false),
    ]
}
