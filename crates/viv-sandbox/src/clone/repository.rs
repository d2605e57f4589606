//! The host's repository: what of it a copy is made from.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use viv_proto::archive::Time;

use super::git::{ask, git, run};
use crate::{Error, ErrorKind, Mount, Result};

/// Where a copy finds the host's objects inside.
pub const OBJECTS: &str = "/run/viv/objects";

/// The longest file of git's own that is copied, the index aside, in bytes.
const MOST_FILE_BYTES: u64 = 16 << 20;

/// How many object directories may lend each other objects, one after another.
const MOST_ALTERNATES: usize = 16;

/// The repository of a workspace: `.git` is in the workspace, or says there where it is.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) workspace: PathBuf,
    /// Its own directory: of a worktree, not of what it shares with others.
    pub(super) git_directory: PathBuf,
    /// Where its objects are, and whom they borrow from.
    pub(super) objects: Vec<PathBuf>,
    pub(super) sha256: bool,
}

impl Repository {
    /// Looks at a workspace; there is none where it has no `.git`. `i_know` lets parts of it be elsewhere on the
    /// host on the repository's own word.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] for one that git does not read, or that cannot be copied.
    pub fn of(workspace: &Path, i_know: bool) -> Result<Option<Self>> {
        if workspace.join(".git").symlink_metadata().is_err() {
            return Ok(None);
        }
        let paths = ["--git-dir", "--git-common-dir", "--git-path", "objects", "--show-toplevel"];
        let mut command = git(workspace);
        command.args(["rev-parse", "--path-format=absolute"]).args(paths);
        let told = run(command)?;
        let mut lines = told.split(|byte| *byte == b'\n').map(|line| PathBuf::from(OsStr::from_bytes(line)));
        let mut next = || lines.next().filter(|line| line.is_absolute()).ok_or_else(unreadable);
        let (git_directory, common, objects, top) = (next()?, next()?, next()?, next()?);
        let canonical = |path: &Path| path.canonicalize().map_err(|error| unreadable().source(error));
        let workspace = canonical(workspace)?;
        if canonical(&top)? != workspace {
            return Err(Error::new(
                ErrorKind::Repository,
                format!("{} has a .git that belongs to another directory", workspace.display()),
            ));
        }
        let (git_directory, common) = (canonical(&git_directory)?, canonical(&common)?);
        if !i_know && !common.starts_with(&workspace) && !points_back(&git_directory, &workspace) {
            return Err(elsewhere(&common));
        }
        let objects = with_alternates(canonical(&objects)?, &workspace, &common, i_know)?;
        let format = ask(&workspace, &["rev-parse", "--show-object-format"])?.unwrap_or_default();
        Ok(Some(Self { workspace, git_directory, objects, sha256: format.trim_ascii() == b"sha256" }))
    }

    /// The read-only shares that lend a copy the host's objects.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for a path that is not UTF-8.
    pub fn shares(&self) -> Result<Vec<Mount>> {
        let share = |(index, source): (usize, &PathBuf)| {
            // git follows what the first one says of others, so they are where they are on the host.
            let destination = match index {
                0 => OBJECTS.to_owned(),
                _ => crate::plan::utf8(source)?.to_owned(),
            };
            Ok(Mount { source: source.clone(), destination, read_only: true, coherent: false })
        };
        self.objects.iter().enumerate().map(share).collect()
    }

    /// A file of its own directory, or of the one it shares with others, if there is one that git would use.
    pub(super) fn file(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(path) = ask(&self.workspace, &["rev-parse", "--path-format=absolute", "--git-path", name])? else {
            return Ok(None);
        };
        let path = PathBuf::from(OsString::from_vec(path.trim_ascii_end().to_vec()));
        let cannot = |error: std::io::Error| {
            Error::new(ErrorKind::Repository, format!("{} cannot be read", path.display())).source(error)
        };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(ErrorKind::Repository, format!("{} is too large", path.display())));
        }
        Ok(Some(bytes))
    }

    /// When the index was written: files that are no older are compared, and not believed to be unchanged.
    pub(super) fn index_modified(&self) -> Option<Time> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(self.git_directory.join("index")).ok()?;
        let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
        Some(Time { seconds: metadata.mtime(), nanoseconds })
    }

    pub(super) fn small_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.file(name, MOST_FILE_BYTES)
    }
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Repository, "git does not say where the repository is")
}

fn elsewhere(path: &Path) -> Error {
    Error::new(
        ErrorKind::Repository,
        format!("the repository is partly in {}, outside of the workspace", path.display()),
    )
    .hint("--i-know lets the sandbox read it, if it is yours and this is its repository")
}

/// Whether what is elsewhere says itself that it belongs to this workspace, as the directory of a worktree, and of
/// a submodule, does.
fn points_back(git_directory: &Path, workspace: &Path) -> bool {
    let says = |path: PathBuf| path.canonicalize().is_ok_and(|path| path == workspace);
    if let Ok(back) = std::fs::read(git_directory.join("gitdir")) {
        let back = PathBuf::from(OsStr::from_bytes(back.trim_ascii_end()));
        return back.file_name() == Some(OsStr::new(".git")) && back.parent().is_some_and(|top| says(top.to_owned()));
    }
    let worktree = ask(git_directory, &["config", "--file", "config", "--get", "core.worktree"]).ok().flatten();
    worktree.is_some_and(|path| says(git_directory.join(OsStr::from_bytes(path.trim_ascii_end()))))
}

/// An object directory and all that it borrows from.
fn with_alternates(first: PathBuf, workspace: &Path, common: &Path, i_know: bool) -> Result<Vec<PathBuf>> {
    let mut all = vec![first];
    let mut next = 0;
    while let Some(directory) = all.get(next).cloned() {
        next += 1;
        let Ok(text) = std::fs::read(directory.join("info/alternates")) else { continue };
        for line in text.split(|byte| *byte == b'\n') {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let path = Path::new(OsStr::from_bytes(line));
            if !path.is_absolute() || line.starts_with(b"\"") {
                return Err(Error::new(
                    ErrorKind::Repository,
                    "the repository borrows objects by a relative path, which means nothing inside",
                )
                .hint("git repack -a -d && rm .git/objects/info/alternates"));
            }
            let Ok(canonical) = path.canonicalize() else { continue };
            if !i_know && !canonical.starts_with(workspace) && !canonical.starts_with(common) {
                return Err(elsewhere(&canonical).hint("git repack -a -d && rm .git/objects/info/alternates"));
            }
            if all.len() == MOST_ALTERNATES {
                return Err(Error::new(ErrorKind::Repository, "the repository borrows from too many others"));
            }
            // Under the name it is borrowed by.
            if !all.iter().any(|known| known == path) {
                all.push(path.to_owned());
            }
        }
    }
    Ok(all)
}
