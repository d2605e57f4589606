//! Which files of a workspace a copy has, and how they get inside.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use viv_archive::{Directory, Look, Packer};
use viv_proto::archive::{FileKind, Time, check_path};

use super::committed::{self, Contents, Kind};
use super::git::ask;
use super::git_directory;
use super::repository::Repository;
use crate::error::{adopt, io};
use crate::{Carried, CopySelection, Error, ErrorKind, Files, OnProgress, Result};

/// The most files of a workspace.
const MOST_FILES: usize = 1_000_000;

/// How deep repositories may lie within each other.
const MOST_NESTED: usize = 8;

/// git's mode of a submodule, as `ls-files --stage` writes it.
const SUBMODULE: &[u8] = b"160000 ";

/// The longest file of which a base has the content, in bytes: see `viv_workspace::Limits`.
const MOST_BASE_BYTES: u64 = 64 << 20;

/// What a copy is made from.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) repository: Option<Repository>,
    pub(super) selection: CopySelection,
    /// A file that can be written meanwhile.
    pub(super) scratch: PathBuf,
}

/// Where a file of the copy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The workspace, as it is there.
    Here,
    /// A commit of the repository at this path of the workspace: of itself, or of a submodule.
    Commit(Vec<u8>, committed::Entry),
}

/// What a copy has of a workspace that is a repository: the paths of files and links.
#[derive(Debug, Default)]
pub struct CopyContents {
    workspace: PathBuf,
    pub(super) paths: BTreeMap<Vec<u8>, Source>,
}

/// A file of a copy that is as a commit has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedFile {
    /// Where, relative to the workspace.
    pub path: Vec<u8>,
    /// Permissions of a file; none for a link.
    pub mode: Option<u32>,
    /// What it holds, or where it leads; of a file over 64 MiB more than that, and not all.
    pub content: Vec<u8>,
}

impl CopyContents {
    /// What a copy of this repository has.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] for more files than are copied, and for a repository without a commit or with a
    /// sparse checkout if only what is committed is wanted.
    pub fn of(repository: &Repository, selection: CopySelection) -> Result<Self> {
        let mut contents = Self { workspace: repository.workspace.clone(), paths: BTreeMap::new() };
        let commit = if selection.uncommitted { None } else { Some(head(&repository.workspace)?) };
        collect(b"", commit.as_deref(), selection.untracked, MOST_NESTED, &mut contents)?;
        Ok(contents)
    }

    /// Whether it has what is at a path of the workspace.
    #[must_use]
    pub fn is_as_here(&self, path: &[u8]) -> bool {
        self.paths.get(path) == Some(&Source::Here)
    }

    /// The files that are as a commit has them, in the order of their paths; errors are
    /// [`ErrorKind::Repository`] for what the repository has not.
    pub fn committed(&self) -> impl Iterator<Item = Result<CommittedFile>> + '_ {
        let mut repositories = Repositories::default();
        self.paths.iter().filter_map(move |(path, source)| match source {
            Source::Here => None,
            Source::Commit(prefix, entry) => Some(self.read(path, prefix, entry, &mut repositories)),
        })
    }

    fn read(
        &self,
        path: &[u8],
        prefix: &[u8],
        entry: &committed::Entry,
        repositories: &mut Repositories,
    ) -> Result<CommittedFile> {
        let content = repositories.of(&self.workspace, prefix)?.read(&entry.object, |_, content| {
            let mut bytes = Vec::new();
            content.take(MOST_BASE_BYTES + 1).read_to_end(&mut bytes).map_err(io("a commit cannot be read"))?;
            Ok(bytes)
        })?;
        let mode = match entry.kind {
            Kind::File { executable } => Some(if executable { 0o755 } else { 0o644 }),
            Kind::Link | Kind::Submodule => None,
        };
        Ok(CommittedFile { path: path.to_vec(), mode, content })
    }

    fn add(&mut self, path: Vec<u8>, source: Source) -> Result<()> {
        check_path(&path).map_err(|why| {
            let shown = String::from_utf8_lossy(&path).escape_debug().to_string();
            Error::new(ErrorKind::Repository, format!("{shown} of the workspace cannot be copied: {why}"))
        })?;
        self.paths.insert(path, source);
        if self.paths.len() > MOST_FILES {
            return Err(Error::new(
                ErrorKind::Repository,
                format!("the workspace has more than {MOST_FILES} files, which is more than is copied"),
            ));
        }
        Ok(())
    }

    /// Whether a commit has something else where this path is or would be.
    fn clashes(&self, path: &[u8]) -> bool {
        let directories = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end]);
        let beneath = [path, b"/"].concat();
        let next = self.paths.range(beneath.clone()..).next();
        self.paths.contains_key(path)
            || directories.into_iter().any(|directory| self.paths.contains_key(directory))
            || next.is_some_and(|(next, _)| next.starts_with(&beneath))
    }
}

/// The commit that is checked out.
fn head(workspace: &Path) -> Result<String> {
    let sparse = ask(workspace, &["config", "--type=bool", "--get", "core.sparseCheckout"])?.unwrap_or_default();
    if sparse.trim_ascii() == b"true" {
        return Err(Error::new(ErrorKind::Repository, "a sparse checkout is copied as it is, and not as its commit")
            .hint("--uncommitted yes"));
    }
    let head = ask(workspace, &["rev-parse", "--verify", "-q", "HEAD^{commit}"])?.ok_or_else(|| {
        Error::new(ErrorKind::Repository, "the repository has no commit yet that a copy could begin with")
            .hint("--uncommitted yes")
    })?;
    Ok(String::from_utf8_lossy(head.trim_ascii_end()).into_owned())
}

/// The files that the repository at a path of the workspace knows, as they are or as a commit has them, and with
/// `untracked` those that it would add.
fn collect(
    prefix: &[u8],
    commit: Option<&str>,
    untracked: bool,
    depth: usize,
    contents: &mut CopyContents,
) -> Result<()> {
    let directory = contents.workspace.join(OsStr::from_bytes(prefix));
    let mut nested: Vec<(Vec<u8>, Option<String>)> = Vec::new();
    match commit {
        Some(commit) => {
            for (path, entry) in committed::list(&directory, commit)? {
                let path = join(prefix, &path);
                match entry.kind {
                    Kind::Submodule => nested.push((path, Some(entry.object))),
                    _ => contents.add(path, Source::Commit(prefix.to_vec(), entry))?,
                }
            }
        }
        None => {
            let tracked = ask(&directory, &["ls-files", "-z", "--cached", "--stage"])?.unwrap_or_default();
            for entry in tracked.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
                // MODE OBJECT STAGE, a tab, the path
                let Some(tab) = entry.iter().position(|byte| *byte == b'\t') else { continue };
                let path = join(prefix, &entry[tab + 1..]);
                if entry.starts_with(SUBMODULE) {
                    nested.push((path, None));
                } else {
                    contents.add(path, Source::Here)?;
                }
            }
        }
    }
    if untracked {
        let others = ask(&directory, &["ls-files", "-z", "--others", "--exclude-standard"])?.unwrap_or_default();
        for path in others.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            // With a slash, it is a repository of its own, of which git lists nothing else.
            let (path, is_repository) = path.strip_suffix(b"/").map_or((path, false), |path| (path, true));
            let path = join(prefix, path);
            if commit.is_some() && contents.clashes(&path) {
                continue;
            }
            if is_repository {
                nested.push((path, None));
            } else {
                contents.add(path, Source::Here)?;
            }
        }
    }
    for (path, commit) in nested {
        let place = contents.workspace.join(OsStr::from_bytes(&path));
        let is_repository = place.join(".git").symlink_metadata().is_ok();
        // Neither one that is not checked out, nor what only leads to one.
        let is_directory = place.symlink_metadata().is_ok_and(|found| found.is_dir());
        let has_commit = || commit.as_ref().is_none_or(|commit| committed::has(&place, commit));
        if is_repository && is_directory && depth > 0 && has_commit() {
            collect(&path, commit.as_deref(), untracked, depth - 1, contents)?;
        }
    }
    Ok(())
}

fn join(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { path.to_vec() } else { [prefix, path].join(&b'/') }
}

/// The objects of a repository and its submodules, opened as they are needed.
#[derive(Default)]
struct Repositories(BTreeMap<Vec<u8>, Contents>);

impl Repositories {
    fn of(&mut self, workspace: &Path, prefix: &[u8]) -> Result<&mut Contents> {
        match self.0.entry(prefix.to_vec()) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(vacant) => Ok(vacant.insert(Contents::of(&workspace.join(OsStr::from_bytes(prefix)))?)),
        }
    }
}

/// Puts a copy of a workspace into a sandbox, at its own path: the files of its repository and a `.git` of viv's
/// own or, where there is none, all that there is.
///
/// # Errors
/// What cannot be read here or written inside.
pub(super) async fn bring(files: &Files, workspace: &Path, wanted: Wanted, on_progress: OnProgress) -> Result<Carried> {
    let place = crate::plan::utf8(workspace)?.to_owned();
    let workspace = workspace.to_owned();
    files.put(&place, true, on_progress, move |packer| send(packer, &workspace, &wanted)).await
}

/// Sends all that a copy has.
pub(super) fn send<W: std::io::Write>(packer: &mut Packer<'_, W>, workspace: &Path, wanted: &Wanted) -> Result<()> {
    let root = Directory::open(workspace).map_err(io("the workspace cannot be opened"))?;
    match &wanted.repository {
        None if !wanted.selection.is_everything() => {
            Err(Error::new(ErrorKind::Repository, "the workspace is no repository, so none of its files are tracked")
                .hint("without --untracked and --uncommitted, all of them are copied"))
        }
        None => packer.contents(&root, b"").map_err(adopt),
        Some(repository) => {
            send_files(packer, &root, &CopyContents::of(repository, wanted.selection)?)?;
            send_git(packer, repository, wanted)
        }
    }
}

fn send_files<W: std::io::Write>(packer: &mut Packer<'_, W>, root: &Directory, contents: &CopyContents) -> Result<()> {
    // The directory that what comes next may be in; its path is the longest that was sent.
    let mut open: Vec<u8> = Vec::new();
    let mut repositories = Repositories::default();
    for (path, source) in &contents.paths {
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
        send_directories(packer, root, &mut open, parent, matches!(source, Source::Commit(..)))?;
        match source {
            Source::Here => packer.pick(root, path).map_err(adopt)?,
            Source::Commit(prefix, entry) => {
                let repository = repositories.of(&contents.workspace, prefix)?;
                repository
                    .read(&entry.object, |size, content| send_committed(packer, path, entry.kind, size, content))?;
            }
        }
    }
    Ok(())
}

/// The longest target of a link, as on Linux, in bytes.
const MOST_TARGET_BYTES: u64 = 4095;

fn send_committed<W: std::io::Write>(
    packer: &mut Packer<'_, W>,
    path: &[u8],
    kind: Kind,
    size: u64,
    content: &mut dyn Read,
) -> Result<()> {
    match kind {
        Kind::File { executable } => {
            let mode = if executable { 0o755 } else { 0o644 };
            packer.file_from(path, mode, now(), size, content).map_err(adopt)
        }
        Kind::Link | Kind::Submodule => {
            let mut target = Vec::new();
            content.take(MOST_TARGET_BYTES).read_to_end(&mut target).map_err(io("a commit cannot be read"))?;
            packer.made_link(path, &target, now()).map_err(adopt)
        }
    }
}

fn now() -> Time {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(now.as_secs()).unwrap_or(0), nanoseconds: now.subsec_nanos() }
}

/// Sends those directories on the way to `wanted` that were not sent yet; with `make`, also where there are none.
fn send_directories<W: std::io::Write>(
    packer: &mut Packer<'_, W>,
    root: &Directory,
    open: &mut Vec<u8>,
    wanted: &[u8],
    make: bool,
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
            _ if make => packer.made_directory(directory, 0o755, now()).map_err(adopt)?,
            // What git remembers of it is not there, and nor is what is in it: removed, or left out of a sparse
            // checkout.
            _ => break,
        }
    }
    wanted.clone_into(open);
    Ok(())
}

fn send_git<W: std::io::Write>(packer: &mut Packer<'_, W>, repository: &Repository, wanted: &Wanted) -> Result<()> {
    let uncommitted = wanted.selection.uncommitted;
    let files = git_directory::files(repository, uncommitted, &wanted.scratch)?;
    let now = now();
    let mut directories: BTreeSet<&str> =
        ["objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"].into();
    for path in files.keys() {
        directories.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    packer.made_directory(b".git", 0o755, now).map_err(adopt)?;
    for directory in directories {
        packer.made_directory(format!(".git/{directory}").as_bytes(), 0o755, now).map_err(adopt)?;
    }
    let index_modified = repository.index_modified().filter(|_| uncommitted).unwrap_or(now);
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
        let paths = paths.map(|path| (path.as_bytes().to_vec(), Source::Here)).into();
        send_files(&mut packer, &root, &CopyContents { workspace: workspace.path().to_owned(), paths }).unwrap();
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
