//! Stores on real directories.

mod broken;
mod copies;
mod hostile;
mod killed;
mod live;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::*;

/// A directory of its own, with a workspace and viv's state.
pub(super) struct Place {
    _root: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Place {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let place = Self::at(root.path());
        std::fs::create_dir(place.path.join("w")).unwrap();
        Self { _root: Some(root), ..place }
    }

    pub(super) fn at(path: &Path) -> Self {
        Self { _root: None, path: path.canonicalize().unwrap() }
    }

    pub(super) fn workspace(&self) -> PathBuf {
        self.path.join("w")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(super) fn store(&self) -> Store {
        Store::open(&self.state(), &self.workspace()).unwrap()
    }

    pub(super) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.workspace().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.workspace().join(path)).unwrap()
    }

    pub(super) fn remove(&self, path: &str) {
        std::fs::remove_file(self.workspace().join(path)).unwrap();
    }

    pub(super) fn mode(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.workspace().join(path), PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Everything in the workspace but `.git`: files with their content and permissions, links, directories.
    pub(super) fn all(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut waiting = vec![self.workspace()];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name =
                    path.strip_prefix(self.workspace()).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
                if name == ".git" {
                    continue;
                }
                let metadata = std::fs::symlink_metadata(&path).unwrap();
                let what = if metadata.is_symlink() {
                    format!("-> {}", std::fs::read_link(&path).unwrap().display())
                } else if metadata.is_dir() {
                    waiting.push(path);
                    "directory".to_owned()
                } else if metadata.is_file() {
                    format!(
                        "{:o} {}",
                        metadata.permissions().mode() & 0o777,
                        std::fs::read(&path).unwrap().escape_ascii()
                    )
                } else {
                    "other".to_owned()
                };
                all.insert(name, what);
            }
        }
        all
    }
}

pub(super) fn live(id: &str) -> Sandbox {
    Sandbox { id: id.into(), name: Some("web".into()), mode: Mode::Live }
}

pub(super) fn copy(id: &str) -> Sandbox {
    Sandbox { id: id.into(), name: None, mode: Mode::Clone }
}

pub(super) fn path(path: &str) -> TreePath {
    TreePath::new(path).unwrap()
}

/// A diff as lines.
pub(super) fn told(diff: &Diff) -> Vec<String> {
    let from = |file: &FileChange| file.from.as_ref().map(|from| format!("{from} => ")).unwrap_or_default();
    diff.files.iter().map(|file| format!("{:?} {}{}", file.kind(), from(file), file.path)).collect()
}

/// What is not done of an outcome.
pub(super) fn left(outcome: &Outcome) -> Vec<String> {
    let left = outcome.files.iter().filter(|(_, outcome)| !outcome.is_done());
    left.map(|(path, outcome)| format!("{path} {outcome:?}")).collect()
}

/// Forty numbered lines, some of them others.
pub(super) fn numbered(changed: &[(u32, &str)]) -> String {
    let line = |number| {
        changed
            .iter()
            .find(|(at, _)| *at == number)
            .map_or_else(|| format!("{number}\n"), |(_, with)| format!("{with}\n"))
    };
    (0..40).map(line).collect()
}
