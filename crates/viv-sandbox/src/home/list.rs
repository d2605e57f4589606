//! Looking at homes, and removing them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FileType, FlockOperation};
use serde::Serialize;

use super::{Beneath, HOME, LOCK, PROJECT, homes, open_lock};
use crate::preset::is_preset_name;
use crate::{Error, ErrorKind, Paths, Result};

/// How many files are counted at most: a guest makes as many as it likes.
const MAXIMUM_FILES: u64 = 200_000;

/// How deep they are looked for.
const MAXIMUM_DEPTH: usize = 64;

/// A home there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HomeInfo {
    /// Whose.
    pub agent: String,
    /// The project it is for.
    pub project: PathBuf,
    /// Where it is on the host.
    pub path: PathBuf,
    /// What it takes of the disk, in bytes; at least that, if it holds very many files.
    pub size: u64,
    /// When it was last used, in seconds since 1970.
    pub last_used: u64,
    /// Whether a sandbox uses it now.
    pub in_use: bool,
}

/// The homes there are, the latest used first.
///
/// # Errors
/// [`ErrorKind::Io`] if the directory of homes is there and cannot be read.
pub fn list_homes(paths: &Paths) -> Result<Vec<HomeInfo>> {
    let mut found = Vec::new();
    for (agent, directory) in entries(&homes(paths))? {
        if !is_preset_name(&agent) {
            continue;
        }
        for (_, path) in entries(&directory)? {
            found.extend(look(&agent, path));
        }
    }
    found.sort_by(|one, other| other.last_used.cmp(&one.last_used).then_with(|| one.path.cmp(&other.path)));
    Ok(found)
}

fn look(agent: &str, path: PathBuf) -> Option<HomeInfo> {
    use std::os::unix::ffi::OsStringExt;

    let project = std::fs::read(path.join(PROJECT)).ok()?;
    let used = std::fs::metadata(path.join(LOCK)).and_then(|lock| lock.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut count = 0;
    Some(HomeInfo {
        agent: agent.to_owned(),
        project: std::ffi::OsString::from_vec(project).into(),
        size: Beneath::open(&path.join(HOME)).map_or(0, |home| size(&home, 0, &mut count)),
        last_used: used.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        in_use: open_lock(&path)
            .is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()),
        path,
    })
}

fn size(directory: &Beneath, depth: usize, count: &mut u64) -> u64 {
    let room = usize::try_from(MAXIMUM_FILES.saturating_sub(*count)).unwrap_or(usize::MAX);
    let Ok(names) = directory.names(room) else { return 0 };
    let mut total = 0_u64;
    for name in names {
        *count += 1;
        let name = Path::new(&name);
        let Ok((kind, bytes)) = directory.look(name) else { continue };
        total = total.saturating_add(bytes);
        if kind == FileType::Directory
            && depth < MAXIMUM_DEPTH
            && *count < MAXIMUM_FILES
            && let Ok(inner) = directory.enter(name)
        {
            total = total.saturating_add(size(&inner, depth + 1, count));
        }
    }
    total
}

/// Removes a home, with what was put aside. There may be none.
///
/// # Errors
/// [`ErrorKind::HomeInUse`] while a sandbox uses it; [`ErrorKind::StateDirectory`] if it cannot be removed.
pub fn clear_home(home: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::StateDirectory, format!("{} cannot be removed", home.display())).source(error)
    };
    if !home.exists() {
        return Ok(());
    }
    let lock = open_lock(home).map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => std::fs::remove_dir_all(home).map_err(failed),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::new(ErrorKind::HomeInUse, format!("a sandbox is using {}", home.display()))
                .hint("viv ps shows which; viv stop ends it"))
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => {
            return Err(Error::new(ErrorKind::Io, format!("{} cannot be read", directory.display())).source(error));
        }
    };
    Ok(entries.flatten().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect())
}
