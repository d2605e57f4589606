//! Paths of files in a workspace, which strangers name.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The longest path in bytes (`PATH_MAX` of Linux, with its terminator).
const LONGEST_PATH_BYTES: usize = 4095;

/// The longest component in bytes (`NAME_MAX`).
const LONGEST_NAME_BYTES: usize = 255;

/// Why something is no [`TreePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathProblem {
    /// It is empty, absolute, has an empty component, `.` or `..`, or a NUL.
    Form,
    /// It or a component is longer than Linux has it.
    Long,
    /// A component is `.git`, or what a file system that folds case or ignores characters takes for it.
    Git,
}

impl PathProblem {
    /// For people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Form => "it is no path beneath a directory",
            Self::Long => "it is too long",
            Self::Git => "git's own files are not touched",
        }
    }
}

/// The path of a file or a link beneath a workspace: components that are not empty, `.` or `..`, and none that
/// is git's, joined by single slashes. Any other bytes are possible.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// A path as someone names it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathProblem> {
        let bytes = bytes.into();
        if bytes.len() > LONGEST_PATH_BYTES {
            return Err(PathProblem::Long);
        }
        for name in bytes.split(|byte| *byte == b'/') {
            check_name(name)?;
        }
        Ok(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same for the functions that take one; relative.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Its last component.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The directory it is in; none at the top.
    #[must_use]
    pub fn parent(&self) -> Option<&[u8]> {
        self.0.iter().rposition(|byte| *byte == b'/').map(|end| &self.0[..end])
    }

    /// The directories it is in, the innermost first.
    pub fn ancestors(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &self.0[..end])
    }

    /// Whether it is `directory` or beneath it. The empty directory is the workspace.
    #[must_use]
    pub fn is_beneath(&self, directory: &[u8]) -> bool {
        directory.is_empty()
            || self.0.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    }
}

/// What is wrong with a component of a path.
pub(crate) fn check_name(name: &[u8]) -> Result<(), PathProblem> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&0) || name.contains(&b'/') {
        return Err(PathProblem::Form);
    }
    if name.len() > LONGEST_NAME_BYTES {
        return Err(PathProblem::Long);
    }
    if is_git(name) { Err(PathProblem::Git) } else { Ok(()) }
}

/// Whether some file system takes this name for `.git`: without regard to case, without the characters that HFS+
/// ignores, without trailing dots, blanks and streams, and by its short name, as NTFS does (the rules of git's own
/// `is_hfs_dotgit` and `is_ntfs_dotgit`).
fn is_git(name: &[u8]) -> bool {
    let text = String::from_utf8_lossy(name);
    let ignored =
        |c: char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let folded: String = text.chars().filter(|c| !ignored(*c)).flat_map(char::to_lowercase).collect();
    let first = folded.split([':', '\\']).next().unwrap_or_default();
    matches!(first.trim_end_matches(['.', ' ']), ".git" | "git~1")
}

impl TryFrom<Vec<u8>> for TreePath {
    type Error = &'static str;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        Self::new(bytes).map_err(PathProblem::describe)
    }
}

/// In order and equality it is its bytes.
impl std::borrow::Borrow<[u8]> for TreePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<TreePath> for Vec<u8> {
    fn from(path: TreePath) -> Self {
        path.0
    }
}

/// For people and logs, on one line: what is not UTF-8 is replaced, control characters are escaped.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(&self.0).chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_beneath_a_directory_that_are_not_gits() {
        for good in ["a", "a/b", ".gitignore", ".github/x", "git", "new\nline", "..a", "a~1/b", ".gitx"] {
            assert!(TreePath::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "/a", "a/", "a//b", ".", "a/..", "../a", "a\0"] {
            assert_eq!(TreePath::new(bad), Err(PathProblem::Form), "{bad:?}");
        }
        for git in
            [".git", ".GIT/hooks/x", "a/.Git", ".git.", ".git ", ".git::$DATA", "GIT~1", ".g\u{200c}it", ".git\\x"]
        {
            assert_eq!(TreePath::new(git), Err(PathProblem::Git), "{git:?}");
        }
        assert_eq!(TreePath::new("x".repeat(256)), Err(PathProblem::Long));
        assert_eq!(TreePath::new(["x"; 2049].join("/")), Err(PathProblem::Long));
    }

    #[test]
    fn parts() {
        let path = TreePath::new("a/b/c").unwrap();
        assert_eq!((path.name(), path.parent()), (&b"c"[..], Some(&b"a/b"[..])));
        assert_eq!(path.ancestors().collect::<Vec<_>>(), [&b"a/b"[..], b"a"]);
        assert!(
            path.is_beneath(b"a") && path.is_beneath(b"") && path.is_beneath(b"a/b/c") && !path.is_beneath(b"a/bc")
        );
        assert!(!path.is_beneath(b"a/b/c/d"));
        assert_eq!(TreePath::new("a\x1b[2J\nb").unwrap().to_string(), "a\\u{1b}[2J\\nb");
    }
}
