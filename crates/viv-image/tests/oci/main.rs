//! OCI images out of a real registry (Debian's docker-registry, filled by skopeo), out of one with
//! faults, out of archives and out of Docker. Nothing beyond loopback is contacted. What tools are missing
//! skips what needs them, and fails it if `CI` is set.

mod archives;
mod faults;
mod layout;
mod registries;
mod server;
mod tools;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use viv_image::{
    Cache, ErrorKind, ImageSource, Patience, Progress, ProgressEvent, RegistryAccess, Result, RootImage,
    ensure_root_with,
};

/// Keeps events.
#[derive(Default)]
struct Recorder(Mutex<Vec<ProgressEvent>>);

impl Progress for Recorder {
    fn event(&self, event: ProgressEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Recorder {
    fn take(&self) -> Vec<ProgressEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A cache of its own, and what the host's files would say.
struct Fixture {
    directory: tempfile::TempDir,
    cache: Cache,
    access: RegistryAccess,
    recorder: Recorder,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let patience = Patience {
            stall: Duration::from_millis(300),
            pause: Duration::from_millis(1),
            longest_pause: Duration::from_secs(5),
            attempts: 3,
        };
        let access = RegistryAccess { patience, ..RegistryAccess::anonymous() };
        Self { directory, cache, access, recorder: Recorder::default() }
    }

    /// For a registry that is not to be hurried.
    fn patient() -> Self {
        let mut fixture = Self::new();
        fixture.access.patience = Patience::default();
        fixture
    }

    fn ensure(&self, source: &str) -> Result<RootImage> {
        ensure_root_with(&self.cache, &source.parse()?, &self.access, &self.recorder)
    }

    fn pull(&self, source: &str) -> Result<RootImage> {
        viv_image::pull(&self.cache, &source.parse()?, &self.access, &self.recorder)
    }

    fn fails(&self, source: &str) -> (ErrorKind, String) {
        let error = self.ensure(source).unwrap_err();
        let source = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
        (*error.kind(), format!("{error}{source}"))
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The names of all files below the cache that are not locks.
    fn kept(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut left = vec![self.cache.root().to_path_buf()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).unwrap().flatten() {
                if entry.path().is_dir() {
                    left.push(entry.path());
                } else {
                    names.push(entry.path().strip_prefix(self.cache.root()).unwrap().display().to_string());
                }
            }
        }
        names.retain(|name| !name.starts_with("locks/"));
        names.sort();
        names
    }

    fn count(&self, prefix: &str) -> usize {
        self.kept().iter().filter(|name| name.starts_with(prefix)).count()
    }
}

fn kind(source: &str) -> ImageSource {
    source.parse().unwrap()
}
