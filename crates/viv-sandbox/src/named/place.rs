//! What a monitor leaves in its named sandbox's directory: how its machine ended.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::store::write_whole;
use super::{EndReason, Ending};
use crate::registry::{open_directory, short_path};
use crate::{Error, ErrorKind, Result};

/// The file.
pub(super) const ENDED: &str = "ended.json";

/// What is in it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// Which machine.
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) ending: Ending,
}

/// A named sandbox's directory as its monitor holds it: it stays the same one if it gets another name.
#[derive(Debug)]
pub(crate) struct Place {
    directory: OwnedFd,
    id: String,
}

impl Place {
    /// Opens it for the machine with this id.
    ///
    /// # Errors
    /// If there is no such directory.
    pub(crate) fn open(directory: &Path, id: &str) -> Result<Self> {
        let directory = open_directory(directory).map_err(|error| {
            Error::new(ErrorKind::NotFound, format!("{} is gone", directory.display())).source(error)
        })?;
        Ok(Self { directory, id: id.to_owned() })
    }

    /// Notes that the machine has ended. Called while others still see it, so that nobody misses the reason.
    pub(crate) fn note(&self, reason: EndReason, message: Option<String>) {
        let told = Told { id: self.id.clone(), ending: Ending { at_unix_ms: now_unix_ms(), reason, message } };
        // Without it, it looks as if the monitor had been killed, which is the worst that is said of it.
        let _ = write_whole(&short_path(&self.directory, "."), ENDED, &told);
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
