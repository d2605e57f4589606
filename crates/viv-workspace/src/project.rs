//! What is read of a project's repository, once, before a guest has run.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::TreePath;
use crate::ignored::{LONGEST_RULES_BYTES, OuterRules};
use crate::index;

/// The largest index that is read, in bytes.
const LARGEST_INDEX_BYTES: u64 = 256 << 20;

/// The longest file that names another directory, in bytes.
const LONGEST_POINTER_BYTES: u64 = 8 << 10;

/// The files that are tracked, and the rules outside the workspace's own files. A directory that is no repository
/// has none of the first, nor has one whose index cannot be read.
pub(crate) fn read(workspace: &Path) -> (BTreeSet<TreePath>, OuterRules) {
    let user = ignore::gitignore::gitconfig_excludes_path();
    let user = user.and_then(|path| content(&path, LONGEST_RULES_BYTES)).unwrap_or_default();
    let Some(git) = git_directory(workspace) else {
        return (BTreeSet::new(), OuterRules { repository: Vec::new(), user });
    };
    let common = pointer(&git.join("commondir"), "").map_or_else(|| git.clone(), |path| git.join(path));
    let repository = content(&common.join("info/exclude"), LONGEST_RULES_BYTES).unwrap_or_default();
    let tracked = content(&git.join("index"), LARGEST_INDEX_BYTES)
        .and_then(|bytes| index::tracked(&bytes, |shared| content(&git.join(shared), LARGEST_INDEX_BYTES)));
    (tracked.unwrap_or_default().into_iter().collect(), OuterRules { repository, user })
}

/// The repository's own directory, which a file names where the workspace is one of several.
fn git_directory(workspace: &Path) -> Option<PathBuf> {
    let git = workspace.join(".git");
    if git.is_dir() { Some(git) } else { pointer(&git, "gitdir: ").map(|path| workspace.join(path)) }
}

fn pointer(file: &Path, prefix: &str) -> Option<PathBuf> {
    let bytes = content(file, LONGEST_POINTER_BYTES)?;
    let path = bytes.strip_prefix(prefix.as_bytes())?.trim_ascii_end();
    (!path.is_empty() && !path.contains(&0)).then(|| crate::beneath::as_path(path).to_path_buf())
}

/// What a regular file holds, if that is not over the limit.
fn content(path: &Path, limit: u64) -> Option<Vec<u8>> {
    // A FIFO in its place would wait for someone to write.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= limit).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worktree_has_its_own_index_and_the_rules_of_its_repository() {
        let root = tempfile::tempdir().unwrap();
        let git = |directory: &str, arguments: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
            git.args(["-c", "user.name=n", "-c", "user.email=e", "-C"])
                .arg(root.path().join(directory))
                .args(arguments);
            let output = git.output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        std::fs::create_dir(root.path().join("main")).unwrap();
        git("main", &["init", "-q"]);
        std::fs::write(root.path().join("main/.git/info/exclude"), "excluded\n").unwrap();
        std::fs::write(root.path().join("main/tracked"), "").unwrap();
        git("main", &["add", "tracked"]);
        git("main", &["commit", "-qm", "one"]);
        git("main", &["worktree", "add", "-q", "../other"]);
        for directory in ["main", "other"] {
            let (tracked, rules) = read(&root.path().join(directory));
            assert_eq!(tracked, BTreeSet::from([TreePath::new("tracked").unwrap()]), "{directory}");
            assert_eq!(rules.repository, b"excluded\n");
        }
        assert!(read(root.path()).0.is_empty());
    }
}
