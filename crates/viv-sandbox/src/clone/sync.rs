//! Commits of a copy, fetched as data into the host's repository.
//!
//! The guest's repository is never opened. Its objects come as bytes under names that were checked, into a
//! repository of viv's own that is thrown away; its references come as text. From there git fetches them into the
//! host's repository with every object checked (`fetch.fsckObjects`), under `refs/heads/viv/NAME/`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use viv_archive::RecordReader;
use viv_proto::archive::Record;
use viv_proto::message::PathKind;

use super::fault;
use super::git::{ask, count, git, run, run_apart, run_with_input};
use super::git_directory::is_digest;
use super::inbox::Inbox;
use super::repository::Repository;
use crate::error::io;
use crate::{Error, ErrorKind, Files, Paths, Result};

/// The most that is taken of a copy's objects: files, and bytes.
const MOST_OBJECTS: usize = 1_000_000;
const MOST_OBJECT_BYTES: u64 = 16 << 30;

/// The most that is taken of its references: files, and bytes of one. `packed-refs` of a large project has some
/// megabytes.
const MOST_REFERENCES: usize = 20_000;
const MOST_REFERENCE_BYTES: usize = 64 << 20;

/// The most branches that are fetched.
const MOST_BRANCHES: usize = 1000;

/// The most files of a branch that is checked out, and the most of them that its way forward may change.
const MOST_FILES: usize = 2_000_000;
const MOST_CHANGED: usize = 200_000;

/// The longest name of a branch, in bytes.
const MOST_NAME_BYTES: usize = 200;

/// A branch that was fetched.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fetched {
    /// Its name inside.
    pub branch: String,
    /// Where it is now: `viv/NAME/BRANCH`.
    pub here: String,
    /// The commit.
    pub commit: String,
}

/// Fetches from the copy of one sandbox. While there is one, no other process syncs the same workspace.
///
/// If its process is killed, each branch is where it was or where it was to be, and no file is half written: git goes
/// on without viv. The next one waits for that, and removes what was left.
#[derive(Debug)]
pub struct Sync {
    files: Files,
    host: Receiver,
}

/// The host's end.
#[derive(Debug)]
pub(super) struct Receiver {
    repository: Repository,
    name: String,
    inbox: Inbox,
}

impl Sync {
    /// Of the copy of a repository in the sandbox whose files these are. `name` is what its branches are put under:
    /// letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] for another name, [`ErrorKind::Io`] of viv's state.
    pub async fn new(files: Files, repository: Repository, name: &str, paths: &Paths) -> Result<Self> {
        let (name, paths) = (name.to_owned(), paths.clone());
        // It may have to wait for another.
        let opened = tokio::task::spawn_blocking(move || Receiver::new(repository, &name, &paths)).await;
        let host = opened.map_err(|error| io("the workspace was not looked at")(io::Error::other(error)))??;
        Ok(Self { files, host })
    }

    fn place(&self, below: &str) -> Result<String> {
        Ok(format!("{}/.git{below}", crate::plan::utf8(&self.host.repository.workspace)?))
    }

    /// Fetches every branch of the copy that has commits which the host's branch of the same name has not. What
    /// `viv/NAME/BRANCH` was before is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Guest`] for a copy that makes no sense, [`ErrorKind::Repository`] for objects that git refuses.
    pub async fn fetch(&self) -> Result<Vec<Fetched>> {
        let facts = self.files.look(&self.place("")?).await?;
        if facts.kind != PathKind::Directory || facts.link {
            return Err(Error::new(ErrorKind::Guest, "the copy's .git is no directory any more; nothing is fetched")
                .hint("viv cp takes files as they are"));
        }
        let references = self.references().await?;
        let wanted = news(&self.host.repository.workspace, references)?;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let incoming = self.host.prepare()?;
        let receive = move |reader: &mut RecordReader<_>| receive_objects(reader, &incoming);
        let packs = self.files.get(&self.place("/objects")?, false, receive).await?;
        self.host.take(&wanted, &packs)
    }

    /// Moves the branch that is checked out on the host forward to what was fetched of it. Neither hooks nor the
    /// attributes that the new commits bring count. Whether there was anything to do.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] if it has diverged, files would be overwritten, more than 200,000 would change, or
    /// there are more than 2,000,000: nothing has changed then.
    pub fn fast_forward(&self, fetched: &[Fetched]) -> Result<bool> {
        self.host.fast_forward(fetched)
    }

    /// The copy's branches, and what they point to.
    async fn references(&self) -> Result<BTreeMap<String, String>> {
        let digest_bytes = if self.host.repository.sha256 { 64 } else { 40 };
        let packed = self
            .files
            .pick(&self.place("")?, std::iter::once(b"packed-refs".to_vec()), |reader| receive_texts(reader, b""))
            .await?;
        let loose = match self.files.look(&self.place("/refs/heads")?).await?.kind {
            PathKind::Directory => {
                self.files.get(&self.place("/refs/heads")?, false, |reader| receive_texts(reader, b"heads/")).await?
            }
            _ => Vec::new(),
        };
        let packed = packed.into_iter().next().map(|(_, text)| text).unwrap_or_default();
        Ok(branches(&packed, &loose, digest_bytes))
    }
}

impl Receiver {
    pub(super) fn new(repository: Repository, name: &str, paths: &Paths) -> Result<Self> {
        if !is_branch(name) || name.contains('/') {
            return Err(Error::new(ErrorKind::Repository, "the sandbox's name cannot be part of a branch's"));
        }
        let inbox = Inbox::open(paths, &repository.workspace)?;
        Ok(Self { repository, name: name.to_owned(), inbox })
    }

    /// Makes the quarantine, a repository that borrows the host's objects.
    pub(super) fn prepare(&self) -> Result<Incoming> {
        let failed = || io("the copy's commits cannot be kept");
        let quarantine = self.inbox.emptied();
        std::fs::create_dir(&quarantine).map_err(failed())?;
        fault::point();
        let mut init = git(&quarantine);
        let format = if self.repository.sha256 { "sha256" } else { "sha1" };
        init.args(["init", "--quiet", "--bare", "--template=", "--initial-branch=none"]);
        init.arg(format!("--object-format={format}"));
        run(init)?;
        let mut alternates = Vec::new();
        for objects in &self.repository.objects {
            alternates.extend_from_slice(objects.as_os_str().as_encoded_bytes());
            alternates.push(b'\n');
        }
        let info = quarantine.join("objects/info");
        std::fs::create_dir_all(&info).map_err(failed())?;
        std::fs::write(info.join("alternates"), alternates).map_err(failed())?;
        let packs = quarantine.join("incoming");
        std::fs::create_dir(&packs).map_err(failed())?;
        fault::point();
        let digest_bytes = if self.repository.sha256 { 64 } else { 40 };
        Ok(Incoming { objects: quarantine.join("objects"), packs, digest_bytes })
    }

    /// Has git take the branches out of the quarantine.
    pub(super) fn take(&self, wanted: &BTreeMap<String, String>, packs: &[PathBuf]) -> Result<Vec<Fetched>> {
        fault::point();
        let quarantine = self.inbox.quarantine();
        for pack in packs {
            let mut index = git(&quarantine);
            index.args(["index-pack", "--stdin", "--fix-thin"]);
            index.stdin(File::open(pack).map_err(io("the copy's commits cannot be read"))?);
            run_apart(index, self.inbox.lock())?;
        }
        let mut updates = String::new();
        let mut refspecs = String::new();
        let mut fetched = Vec::new();
        for (branch, commit) in wanted {
            let here = format!("viv/{}/{branch}", self.name);
            updates.push_str(&format!("create refs/heads/{branch} {commit}\n"));
            refspecs.push_str(&format!("+refs/heads/{branch}:refs/heads/{here}\n"));
            fetched.push(Fetched { branch: branch.clone(), here, commit: commit.clone() });
        }
        let mut update = git(&quarantine);
        update.args(["update-ref", "--stdin"]);
        run_with_input(update, updates.as_bytes())?;
        // From a pipe that broke off, it would take a part of a name for one.
        let list = quarantine.join("refspecs");
        std::fs::write(&list, refspecs).map_err(io("the copy's branches cannot be listed"))?;
        fault::point();
        let mut fetch = git(&self.repository.workspace);
        fetch.env("GIT_ALLOW_PROTOCOL", "file");
        for setting in ["fetch.fsckObjects=true", "transfer.fsckObjects=true", "protocol.file.allow=always"] {
            fetch.arg("-c").arg(setting);
        }
        fetch.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]);
        fetch.args(["--no-auto-maintenance", "--refmap=", "--upload-pack=git-upload-pack", "--stdin"]);
        fetch.arg(&quarantine).stdin(File::open(&list).map_err(io("the copy's branches cannot be listed"))?);
        run_apart(fetch, self.inbox.lock())?;
        fault::point();
        Ok(fetched)
    }

    /// As [`Sync::fast_forward`].
    pub(super) fn fast_forward(&self, fetched: &[Fetched]) -> Result<bool> {
        let workspace = &self.repository.workspace;
        let head = ask(workspace, &["symbolic-ref", "-q", "HEAD"])?.unwrap_or_default();
        let head = String::from_utf8_lossy(head.trim_ascii_end()).into_owned();
        let Some(branch) = head.strip_prefix("refs/heads/") else {
            return Err(Error::new(ErrorKind::Repository, "no branch is checked out here, so none is moved forward"));
        };
        let Some(found) = fetched.iter().find(|fetched| fetched.branch == branch) else { return Ok(false) };
        let refused = || format!("{branch} was not moved forward to {}; nothing has changed", found.here);
        let target = format!("refs/heads/{}", found.here);
        let empty_tree = run_with_input(
            {
                let mut hash = git(workspace);
                hash.args(["hash-object", "-t", "tree", "--stdin"]);
                hash
            },
            b"",
        )?;
        let empty_tree = String::from_utf8_lossy(empty_tree.trim_ascii_end()).into_owned();
        if let Some(many) = self.too_many(&target, &empty_tree)? {
            return Err(Error::new(ErrorKind::Repository, refused())
                .source(io::Error::other(many))
                .hint(format!("git merge {}", found.here)));
        }
        fault::point();
        let mut merge = git(workspace);
        merge.env("GIT_ATTR_SOURCE", empty_tree);
        merge.args(["merge", "--quiet", "--ff-only", "--no-verify", "--no-stat", "--no-autostash"]);
        merge.arg(target);
        run_apart(merge, self.inbox.lock()).map_err(|error| {
            Error::new(ErrorKind::Repository, refused()).source(error).hint(format!("git merge {}", found.here))
        })?;
        fault::point();
        Ok(true)
    }

    /// Says so if there are more files in a branch than are checked out: a few objects can name more of them than
    /// there is room for.
    fn too_many(&self, branch: &str, empty_tree: &str) -> Result<Option<String>> {
        let workspace = &self.repository.workspace;
        // Git tells them one by one, but those that differ only when it has found all.
        let mut list = git(workspace);
        list.args(["ls-tree", "-r", "-z", "--name-only", "--full-tree", branch]);
        if count(list, MOST_FILES)? > MOST_FILES {
            return Ok(Some(format!("it has more than {MOST_FILES} files")));
        }
        let mut list = git(workspace);
        list.args(["diff-tree", "-r", "-z", "--no-renames", "--name-only", "--no-ext-diff"]);
        let is_born = ask(workspace, &["rev-parse", "--verify", "-q", "HEAD^{commit}"])?.is_some();
        list.arg(if is_born { "HEAD" } else { empty_tree }).arg(branch);
        let is_too_many = count(list, MOST_CHANGED)? > MOST_CHANGED;
        Ok(is_too_many.then(|| format!("more than {MOST_CHANGED} files would change")))
    }
}

/// What of the references has commits that the host's branches have not.
fn news(workspace: &Path, references: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut wanted = BTreeMap::new();
    for (branch, commit) in references {
        let own = format!("refs/heads/{branch}");
        let is_there =
            ask(workspace, &["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_ok_and(|told| told.is_some());
        let is_old = is_there
            && ask(workspace, &["merge-base", "--is-ancestor", &commit, &own]).is_ok_and(|told| told.is_some());
        if !is_old {
            wanted.insert(branch, commit);
        }
    }
    Ok(wanted)
}

fn broken(reason: &'static str) -> Error {
    Error::new(ErrorKind::Guest, "the copy's repository makes no sense").source(io::Error::other(reason))
}

fn stream(error: io::Error) -> Error {
    Error::new(ErrorKind::Guest, "the copy's repository was not sent whole").source(error)
}

/// Small files under their paths, of which `prefix` is the beginning.
fn receive_texts(reader: &mut RecordReader<impl Read>, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut texts: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    loop {
        match reader.next_record().map_err(stream)? {
            Record::File { path, .. } => {
                let mut text = Vec::new();
                each_chunk(reader, |chunk| {
                    bytes += chunk.len();
                    if bytes > MOST_REFERENCE_BYTES {
                        return Err(broken("too many bytes of references"));
                    }
                    text.extend_from_slice(chunk);
                    Ok(())
                })?;
                if path.starts_with(prefix) {
                    texts.push((path[prefix.len()..].to_vec(), text));
                }
                if texts.len() > MOST_REFERENCES {
                    return Err(broken("too many references"));
                }
            }
            // Not followed, not taken.
            Record::Directory { .. } | Record::Symlink { .. } | Record::Skipped { .. } => {}
            Record::End => return Ok(texts),
            _ => return Err(broken("a record that has no place here")),
        }
    }
}

fn each_chunk(reader: &mut RecordReader<impl Read>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    loop {
        match reader.next_record().map_err(stream)? {
            Record::Data(bytes) => take(&bytes)?,
            Record::FileEnd => return Ok(()),
            _ => return Err(broken("a file without an end")),
        }
    }
}

/// The branches that text of a repository names: `packed-refs`, and files of `refs/heads`, which weigh more.
fn branches(packed: &[u8], loose: &[(Vec<u8>, Vec<u8>)], digest_bytes: usize) -> BTreeMap<String, String> {
    let mut branches = BTreeMap::new();
    let mut take = |name: &[u8], digest: &[u8]| {
        let digest = digest.trim_ascii_end();
        if let (Ok(name), true) = (std::str::from_utf8(name), is_digest(digest) && digest.len() == digest_bytes)
            && is_branch(name)
            && (branches.len() < MOST_BRANCHES || branches.contains_key(name))
        {
            branches.insert(name.to_owned(), String::from_utf8_lossy(digest).into_owned());
        }
    };
    for line in packed.split(|byte| *byte == b'\n') {
        if let Some((digest, rest)) = line.split_at_checked(digest_bytes)
            && let Some(name) = rest.strip_prefix(b" refs/heads/")
        {
            take(name, digest);
        }
    }
    for (name, text) in loose {
        take(name, text);
    }
    branches
}

/// Whether this can follow `refs/heads/`: `git-check-ref-format(1)`, and shorter than any file system takes it.
fn is_branch(name: &str) -> bool {
    let bad = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\\"'`$<>|&;(){}!".contains(c);
    !name.is_empty()
        && name.len() <= MOST_NAME_BYTES
        && name != "@"
        && !name.contains("..")
        && !name.contains("@{")
        && !name.chars().any(bad)
        && name.split('/').all(|part| {
            !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.') && !part.ends_with(".lock")
        })
}

/// Where an object file goes; none for what is none.
#[derive(Debug, PartialEq, Eq)]
enum ObjectFile<'a> {
    Loose(&'a str),
    Pack,
    Other,
}

fn object_file(path: &[u8], digest_bytes: usize) -> ObjectFile<'_> {
    let Some(path) = std::str::from_utf8(path).ok().and_then(|path| path.strip_prefix("objects/")) else {
        return ObjectFile::Other;
    };
    let is_digest_of = |text: &str| text.len() == digest_bytes && is_digest(text.as_bytes());
    match path.split_once('/') {
        Some(("pack", name)) => {
            let digest = name.strip_prefix("pack-").and_then(|name| name.strip_suffix(".pack"));
            if digest.is_some_and(is_digest_of) { ObjectFile::Pack } else { ObjectFile::Other }
        }
        Some((directory, name)) if directory.len() == 2 && is_digest_of(&format!("{directory}{name}")) => {
            ObjectFile::Loose(path)
        }
        _ => ObjectFile::Other,
    }
}

/// Where what comes is put.
#[derive(Debug)]
pub(super) struct Incoming {
    objects: PathBuf,
    packs: PathBuf,
    digest_bytes: usize,
}

/// Puts loose objects into the quarantine, and packs beside them; returns those.
pub(super) fn receive_objects(reader: &mut RecordReader<impl Read>, to: &Incoming) -> Result<Vec<PathBuf>> {
    let failed = || io("the copy's commits cannot be kept");
    let (mut count, mut bytes) = (0, 0u64);
    let mut incoming = Vec::new();
    loop {
        match reader.next_record().map_err(stream)? {
            Record::File { path, .. } => {
                fault::point();
                let target = match object_file(&path, to.digest_bytes) {
                    ObjectFile::Loose(path) => {
                        let target = to.objects.join(path);
                        let directory = target.parent().unwrap_or(&to.objects);
                        std::fs::create_dir_all(directory).map_err(failed())?;
                        Some(target)
                    }
                    ObjectFile::Pack => {
                        incoming.push(to.packs.join(format!("{}.pack", incoming.len())));
                        incoming.last().cloned()
                    }
                    ObjectFile::Other => None,
                };
                count += 1;
                if count > MOST_OBJECTS {
                    return Err(broken("too many objects"));
                }
                let mut file = target.map(File::create).transpose().map_err(failed())?;
                each_chunk(reader, |chunk| {
                    bytes += chunk.len() as u64;
                    if bytes > MOST_OBJECT_BYTES {
                        return Err(broken("too many bytes of objects"));
                    }
                    file.as_mut().map_or(Ok(()), |file| file.write_all(chunk)).map_err(failed())
                })?;
            }
            Record::Directory { .. } | Record::Symlink { .. } | Record::Skipped { .. } => {}
            Record::End => return Ok(incoming),
            _ => return Err(broken("a record that has no place here")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn only_objects_are_taken_for_objects() {
        let file = |path: &str| match object_file(path.as_bytes(), 40) {
            ObjectFile::Loose(_) => "loose",
            ObjectFile::Pack => "pack",
            ObjectFile::Other => "other",
        };
        assert_eq!(file(&format!("objects/{}/{}", &DIGEST[..2], &DIGEST[2..])), "loose");
        assert_eq!(file(&format!("objects/pack/pack-{DIGEST}.pack")), "pack");
        for other in [
            "objects/info/alternates".to_owned(),
            format!("objects/pack/pack-{DIGEST}.idx"),
            format!("objects/pack/pack-{}.pack", DIGEST.to_uppercase()),
            format!("objects/0/{}", &DIGEST[1..]),
            format!("objects/01/{}/x", &DIGEST[2..]),
            format!("other/{}/{}", &DIGEST[..2], &DIGEST[2..]),
            "objects/pack/pack-x.pack".to_owned(),
        ] {
            assert_eq!(file(&other), "other", "{other}");
        }
    }

    #[test]
    fn names_that_a_shell_or_git_could_misread_are_no_branches() {
        for good in ["main", "feature/x-1", "v1.2", "ünïcode", "a_b#c"] {
            assert!(is_branch(good), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a..b",
            "a.lock",
            "a/b.lock/c",
            "a b",
            "a\nb",
            "a:b",
            "a~1",
            "-x",
            "a/-x",
            "@",
            "a@{1}",
            "a\u{1b}[2J",
            "$(x)",
            "a.",
        ] {
            assert!(!is_branch(bad), "{bad:?}");
        }
        assert!(!is_branch(&"x".repeat(MOST_NAME_BYTES + 1)));
    }

    #[test]
    fn references_are_text_and_nothing_else() {
        let packed = format!(
            "# pack-refs with: peeled\n{DIGEST} refs/heads/main\n^{DIGEST}\n{DIGEST} refs/tags/v1\n\
             {DIGEST} refs/heads/../../hooks/x\nshort refs/heads/short\n{DIGEST} refs/heads/old\n"
        );
        let other = DIGEST.replace('0', "f");
        let loose = [
            (b"old".to_vec(), format!("{other}\n").into_bytes()),
            (b"link".to_vec(), b"ref: refs/heads/main\n".to_vec()),
            (b"sub/new".to_vec(), other.clone().into_bytes()),
        ];
        let found = branches(packed.as_bytes(), &loose, 40);
        let expected = [("main", DIGEST), ("old", &other), ("sub/new", &other)];
        assert_eq!(found, expected.map(|(name, digest)| (name.to_owned(), digest.to_owned())).into());
    }
}
