//! What a sandbox uses that others could take from under it, held by its monitor: the client that saw to it may
//! be gone long before the sandbox is.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use viv_image::{Cache, Lease};

use crate::error::adopt;
use crate::home::{self, open_lock};
use crate::{Error, ErrorKind, Paths, Result};

/// What a sandbox uses. Its client holds all of it until the monitor does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// Files of viv's cache.
    pub cached: Vec<PathBuf>,
    /// The directories of agents' homes, from [`crate::AgentHome::share`].
    pub homes: Vec<PathBuf>,
}

/// What is held, until this is dropped or its process ends.
#[derive(Debug)]
pub(crate) struct Held {
    _lease: Option<Lease>,
    _homes: Vec<File>,
}

impl Holdings {
    /// Holds everything for a sandbox.
    ///
    /// # Errors
    /// [`ErrorKind::HomeInUse`] if another sandbox was quicker, [`ErrorKind::StateDirectory`] and those of the
    /// cache if it cannot be written.
    pub(crate) fn hold(&self, paths: &Paths, id: &str) -> Result<Held> {
        let lease = if self.cached.is_empty() {
            None
        } else {
            let mut lease = Cache::open(&paths.cache).and_then(|cache| cache.lease(id)).map_err(adopt)?;
            let all_there = lease.add(self.cached.iter().map(PathBuf::as_path)).map_err(adopt)?;
            if !all_there {
                return Err(Error::new(ErrorKind::StateDirectory, "the sandbox's image was removed while it started"));
            }
            Some(lease)
        };
        let hold = |directory: &PathBuf| {
            let failed = |error: std::io::Error| {
                Error::new(ErrorKind::StateDirectory, format!("{} cannot be used", directory.display())).source(error)
            };
            let lock = open_lock(directory).map_err(failed)?;
            match flock(&lock, FlockOperation::NonBlockingLockShared) {
                Ok(()) => Ok(lock),
                Err(rustix::io::Errno::WOULDBLOCK) => Err(home::in_use(directory)),
                Err(errno) => Err(failed(errno.into())),
            }
        };
        Ok(Held { _lease: lease, _homes: self.homes.iter().map(hold).collect::<Result<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(root: &std::path::Path) -> Paths {
        let below = |name: &str| root.join(name);
        Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") }
    }

    #[test]
    fn a_monitor_holds_on_to_what_its_client_lets_go() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let cache = Cache::open(&paths.cache).unwrap();
        std::fs::create_dir_all(paths.cache.join("blobs")).unwrap();
        let blob = paths.cache.join("blobs/sha256-aa");
        let holdings = Holdings { cached: vec![blob.clone()], homes: Vec::new() };
        let gone = holdings.hold(&paths, "aa000001").unwrap_err();
        assert_eq!(*gone.kind(), ErrorKind::StateDirectory);
        std::fs::write(&blob, "").unwrap();
        let uses = || std::fs::read_dir(paths.cache.join("uses")).unwrap().count() - 1;
        let mut clients = cache.lease("aa000001").unwrap();
        assert!(clients.add([blob.as_path()]).unwrap());
        let held = holdings.hold(&paths, "aa000001").unwrap();
        assert_eq!(uses(), 2);
        drop(clients);
        assert_eq!(uses(), 1);
        drop(held);
        assert_eq!(uses(), 0);
    }
}
