//! The homes of agents: what an agent keeps of a project between runs, on the host.
//!
//! ```text
//! $XDG_STATE_HOME/viv/agents/AGENT/PROJECT-HASH/     0700; one per agent and project
//!     project        the project's path, for people
//!     lock           flock(2): shared by whoever uses the home, exclusive where that is needed
//!     home/          what the sandbox sees: each of the preset's `state` directories is a share
//!     previous/      the home before the last fresh start
//! ```
//!
//! The guest writes to what is below `home`. The host reads two kinds of files of it, to put keys in them
//! before a start, and copies transcripts once the machine is gone, both as if an adversary had written them
//! ([`beneath`]).

mod beneath;
mod document;
mod import;
mod list;
mod redact;
mod seed;
#[cfg(test)]
mod tests;
pub(crate) mod transcripts;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use self::beneath::Beneath;
use crate::paths::private_directory;
use crate::preset::{NamedPreset, is_preset_name};
use crate::{Error, ErrorKind, Mount, Paths, Result, TranscriptPlace};

pub(crate) use document::{Document, Format};
pub use import::Imported;
pub use list::{HomeInfo, clear_home, list_homes};

const PROJECT: &str = "project";
const LOCK: &str = "lock";
const HOME: &str = "home";
const PREVIOUS: &str = "previous";

/// An agent's home, in use by this process until it is dropped.
#[derive(Debug)]
pub struct AgentHome {
    directory: PathBuf,
    home: Beneath,
    states: Vec<PathBuf>,
    lock: File,
}

/// Where an agent's home for a project is on the host. It may not exist.
#[must_use]
pub fn agent_home_of(paths: &Paths, agent: &str, project: &Path) -> PathBuf {
    homes(paths).join(agent).join(project_key(project))
}

fn homes(paths: &Paths) -> PathBuf {
    paths.state.join("agents")
}

/// A name for people, and a hash for the rest.
fn project_key(project: &Path) -> String {
    let name: String = project
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' })
        .take(32)
        .collect();
    let hash = hex::encode(&Sha256::digest(project.as_os_str().as_encoded_bytes())[..6]);
    format!("{name}-{hash}").trim_start_matches('-').to_owned()
}

impl AgentHome {
    /// The home of an agent for a project, made if there is none. `fresh` puts what was there aside, as
    /// `previous`.
    ///
    /// # Errors
    /// [`ErrorKind::HomeInUse`] if another sandbox uses a home that only one can use, and
    /// [`ErrorKind::StateDirectory`] if it cannot be made.
    pub fn open(paths: &Paths, agent: &NamedPreset, project: &Path, fresh: bool) -> Result<Self> {
        debug_assert!(is_preset_name(&agent.name));
        let directory = agent_home_of(paths, &agent.name, project);
        private_directory(&directory)?;
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::StateDirectory, format!("{} cannot be used", directory.display())).source(error)
        };
        let lock = open_lock(&directory).map_err(failed)?;
        let wanted = if agent.preset.exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        match rustix::fs::flock(&lock, wanted) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(&directory)),
            Err(errno) => return Err(failed(errno.into())),
        }
        lock.set_modified(std::time::SystemTime::now()).map_err(failed)?;
        let project_file = directory.join(PROJECT);
        if !project_file.exists() {
            write_whole(&project_file, project.as_os_str().as_encoded_bytes()).map_err(failed)?;
        }
        let home = directory.join(HOME);
        if fresh {
            put_aside(&directory).map_err(failed)?;
        }
        private_directory(&home)?;
        let home = Beneath::open(&home).map_err(failed)?;
        for state in &agent.preset.state {
            home.directory(state).map_err(failed)?;
        }
        Ok(Self { directory, home, states: agent.preset.state.clone(), lock })
    }

    /// Lets the monitor of its sandbox hold it, too ([`crate::Holdings`]); returns what that needs to know. A home
    /// that only one sandbox can use stays so: whoever wants one has to hold it alone first.
    ///
    /// # Errors
    /// [`ErrorKind::HomeInUse`] if another sandbox was quicker.
    pub fn share(&self) -> Result<PathBuf> {
        match rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(self.directory.clone()),
            // Giving up the one lock and getting the other are two steps (flock(2)).
            Err(_) => Err(in_use(&self.directory)),
        }
    }

    /// Where it is on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The shares that make it the home of a user whose home inside is `inside`.
    #[must_use]
    pub fn mounts(&self, inside: &str) -> Vec<Mount> {
        mounts_of(&self.directory, &self.states, inside)
    }

    /// The kept directory that a path is in, and the way from there.
    fn state<'p>(&self, path: &'p Path) -> std::io::Result<(Beneath, &'p Path)> {
        let state = self.states.iter().find(|state| path.starts_with(state)).ok_or(std::io::ErrorKind::NotFound)?;
        let below = path.strip_prefix(state).map_err(|_| std::io::ErrorKind::NotFound)?;
        Ok((self.home.directory(state)?, below))
    }
}

/// The shares of a home that may not exist yet.
#[must_use]
pub fn mounts_of(directory: &Path, states: &[PathBuf], inside: &str) -> Vec<Mount> {
    let mount = |state: &PathBuf| Mount {
        source: directory.join(HOME).join(state),
        destination: format!("{inside}/{}", state.display()),
        read_only: false,
        coherent: true,
    };
    states.iter().map(mount).collect()
}

/// Where an agent whose home is in this directory writes its transcripts; none if it does not say.
#[must_use]
pub fn transcripts_of(directory: &Path, agent: &NamedPreset) -> Option<TranscriptPlace> {
    let paths = agent.preset.transcripts.clone();
    (!paths.is_empty()).then(|| TranscriptPlace { agent: agent.name.clone(), home: directory.join(HOME), paths })
}

/// The home in this directory is another's.
pub(crate) fn in_use(directory: &Path) -> Error {
    let agent = directory.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    Error::new(ErrorKind::HomeInUse, format!("another sandbox is using {agent}'s home of this project"))
        .hint("viv ps shows which; or work on a copy of the project in another directory")
}

pub(crate) fn open_lock(directory: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(directory.join(LOCK))
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension(format!("{}.partial", crate::new_token()));
    File::create(&partial)?.write_all(bytes)?;
    std::fs::rename(partial, path)
}

/// A sandbox that uses the home keeps it, under its new name.
fn put_aside(directory: &Path) -> std::io::Result<()> {
    let (home, previous) = (directory.join(HOME), directory.join(PREVIOUS));
    if !home.exists() {
        return Ok(());
    }
    if previous.exists() {
        std::fs::remove_dir_all(&previous)?;
    }
    std::fs::rename(home, previous)
}
