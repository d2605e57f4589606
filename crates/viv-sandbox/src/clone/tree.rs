//! Which files of a workspace a copy has, and how they get inside.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use viv_archive::{Directory, Look, Packer};
use viv_proto::archive::{FileKind, Time, check_path};

use super::git::ask;
use super::git_directory;
use super::repository::Repository;
use crate::error::{adopt, io};
use crate::{Carried, Error, ErrorKind, Files, OnProgress, Result};

/// The most files of a workspace.
const MOST_FILES: usize = 1_000_000;

/// How deep repositories may lie within each other.
const MOST_NESTED: usize = 8;

/// git's mode of a submodule, as `ls-files --stage` writes it.
const SUBMODULE: &[u8] = b"160000 ";

/// What is copied of a workspace that is a repository: the paths of files and links.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) paths: BTreeSet<Vec<u8>>,
}

/// The files that git knows and, with `untracked`, those that it would add.
pub(super) fn select(workspace: &Path, untracked: bool) -> Result<Selection> {
    let mut selection = Selection::default();
    collect(workspace, b"", untracked, MOST_NESTED, &mut selection)?;
    Ok(selection)
}

fn collect(workspace: &Path, prefix: &[u8], untracked: bool, depth: usize, selection: &mut Selection) -> Result<()> {
    let directory = workspace.join(OsStr::from_bytes(prefix));
    let entries = |told: Option<Vec<u8>>| told.unwrap_or_default();
    let tracked = entries(ask(&directory, &["ls-files", "-z", "--cached", "--stage"])?);
    let mut nested = Vec::new();
    for entry in tracked.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
        // MODE OBJECT STAGE, a tab, the path
        let Some(tab) = entry.iter().position(|byte| *byte == b'\t') else { continue };
        let path = join(prefix, &entry[tab + 1..]);
        if entry.starts_with(SUBMODULE) {
            nested.push(path);
        } else {
            selection.add(path)?;
        }
    }
    if untracked {
        let others = entries(ask(&directory, &["ls-files", "-z", "--others", "--exclude-standard"])?);
        for path in others.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            match path.strip_suffix(b"/") {
                // A repository of its own, of which git lists nothing else.
                Some(path) => nested.push(join(prefix, path)),
                None => selection.add(join(prefix, path))?,
            }
        }
    }
    for path in nested {
        let is_repository = workspace.join(OsStr::from_bytes(&path)).join(".git").symlink_metadata().is_ok();
        // Neither one that is not checked out, nor what only leads to one.
        let is_directory =
            workspace.join(OsStr::from_bytes(&path)).symlink_metadata().is_ok_and(|found| found.is_dir());
        if is_repository && is_directory && depth > 0 {
            collect(workspace, &path, untracked, depth - 1, selection)?;
        }
    }
    Ok(())
}

impl Selection {
    fn add(&mut self, path: Vec<u8>) -> Result<()> {
        check_path(&path).map_err(|why| {
            let shown = String::from_utf8_lossy(&path).escape_debug().to_string();
            Error::new(ErrorKind::Repository, format!("{shown} of the workspace cannot be copied: {why}"))
        })?;
        self.paths.insert(path);
        if self.paths.len() > MOST_FILES {
            return Err(Error::new(
                ErrorKind::Repository,
                format!("the workspace has more than {MOST_FILES} files, which is more than is copied"),
            ));
        }
        Ok(())
    }
}

fn join(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { path.to_vec() } else { [prefix, path].join(&b'/') }
}

/// Puts a copy of a workspace into a sandbox, at its own path: the files of its repository and a `.git` of viv's
/// own or, where there is none, all that there is.
///
/// # Errors
/// What cannot be read here or written inside.
pub(super) async fn bring(
    files: &Files,
    workspace: &Path,
    repository: Option<Repository>,
    untracked: bool,
    on_progress: OnProgress,
) -> Result<Carried> {
    let place = crate::plan::utf8(workspace)?.to_owned();
    let workspace = workspace.to_owned();
    files.put(&place, true, on_progress, move |packer| send(packer, &workspace, repository.as_ref(), untracked)).await
}

/// Sends all that a copy has.
pub(super) fn send<W: std::io::Write>(
    packer: &mut Packer<'_, W>,
    workspace: &Path,
    repository: Option<&Repository>,
    untracked: bool,
) -> Result<()> {
    let root = Directory::open(workspace).map_err(io("the workspace cannot be opened"))?;
    match repository {
        None => packer.contents(&root, b"").map_err(adopt),
        Some(repository) => {
            let selection = select(workspace, untracked)?;
            send_files(packer, &root, &selection.paths)?;
            send_git(packer, repository)
        }
    }
}

fn send_files<W: std::io::Write>(
    packer: &mut Packer<'_, W>,
    root: &Directory,
    paths: &BTreeSet<Vec<u8>>,
) -> Result<()> {
    // The directory that what comes next may be in; its path is the longest that was sent.
    let mut open: Vec<u8> = Vec::new();
    for path in paths {
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
        send_directories(packer, root, &mut open, parent)?;
        packer.pick(root, path).map_err(adopt)?;
    }
    Ok(())
}

/// Sends those directories on the way to `wanted` that were not sent yet.
fn send_directories<W: std::io::Write>(
    packer: &mut Packer<'_, W>,
    root: &Directory,
    open: &mut Vec<u8>,
    wanted: &[u8],
) -> Result<()> {
    if wanted == open.as_slice() {
        return Ok(());
    }
    let ends = wanted.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in ends.chain((!wanted.is_empty()).then_some(wanted.len())) {
        let directory = &wanted[..end];
        let was_sent = open.strip_prefix(directory).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')));
        if was_sent {
            continue;
        }
        let (parent, name) = match directory.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&directory[..at], &directory[at + 1..]),
            None => (&b""[..], directory),
        };
        let look = root.beneath(parent).and_then(|parent| parent.look(OsStr::from_bytes(name), false));
        match look {
            Ok(Look { stamp }) if stamp.kind == FileKind::Directory => {
                packer.made_directory(directory, stamp.mode, stamp.modified).map_err(adopt)?;
            }
            // What git remembers of it is not there, and nor is what is in it: removed, or left out of a sparse
            // checkout.
            _ => break,
        }
    }
    wanted.clone_into(open);
    Ok(())
}

fn send_git<W: std::io::Write>(packer: &mut Packer<'_, W>, repository: &Repository) -> Result<()> {
    let files = git_directory::files(repository)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = Time { seconds: i64::try_from(now.as_secs()).unwrap_or(0), nanoseconds: now.subsec_nanos() };
    let mut directories: BTreeSet<&str> =
        ["objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"].into();
    for path in files.keys() {
        directories.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    packer.made_directory(b".git", 0o755, now).map_err(adopt)?;
    for directory in directories {
        packer.made_directory(format!(".git/{directory}").as_bytes(), 0o755, now).map_err(adopt)?;
    }
    let index_modified = repository.index_modified().unwrap_or(now);
    for (path, content) in &files {
        let modified = if path == "index" { index_modified } else { now };
        packer.made_file(format!(".git/{path}").as_bytes(), 0o644, modified, content).map_err(adopt)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use viv_archive::RecordReader;
    use viv_proto::archive::Record;

    use super::*;

    #[test]
    fn each_directory_comes_once_and_before_what_is_in_it() {
        let workspace = tempfile::tempdir().unwrap();
        for directory in ["a/b/c", "a-b", "d"] {
            std::fs::create_dir_all(workspace.path().join(directory)).unwrap();
        }
        let paths = ["a-b/x", "a/b/c/x", "a/b/y", "a/z", "d/x", "e"];
        for path in paths {
            std::fs::write(workspace.path().join(path), path).unwrap();
        }
        let root = Directory::open(workspace.path()).unwrap();
        let mut records = Vec::new();
        let mut told = |_: &Carried| {};
        let mut packer = Packer::new(&mut records, &mut told);
        send_files(&mut packer, &root, &paths.map(|path| path.as_bytes().to_vec()).into()).unwrap();
        packer.end().unwrap();
        let mut reader = RecordReader::new(records.as_slice());
        let sent: Vec<String> = std::iter::from_fn(|| reader.next_record().ok())
            .filter_map(|record| record.path().map(|path| String::from_utf8_lossy(path).into_owned()))
            .collect();
        let expected = ["a-b", "a-b/x", "a", "a/b", "a/b/c", "a/b/c/x", "a/b/y", "a/z", "d", "d/x", "e"];
        assert_eq!(sent, expected);
        assert!(matches!(RecordReader::new(records.as_slice()).next_record(), Ok(Record::Directory { .. })));
    }
}
