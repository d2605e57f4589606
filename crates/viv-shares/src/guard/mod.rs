//! What git on the host would run, out of the guest's reach.
//!
//! A repository's configuration and hooks name programs, and git runs them as whoever calls it. Whoever writes a
//! directory can make it a repository, in whose directories a host user may call git without a thought: a prompt
//! does. So in a share that is marked, these rules hold for every directory, whatever it is called and wherever it
//! is or goes:
//!
//! 1. A directory is taken for a repository if it has a `HEAD`, which git asks of one before anything else, or if it
//!    is called `.git`, where a later `git init` would put one.
//! 2. In a repository the guest makes, replaces and writes none of `config`, `config.worktree`, `commondir` (which
//!    leads to another directory with a configuration) and `hooks`, nor anything beneath them. It may take them away.
//! 3. It makes a repository of a directory only if none of them is there.
//!
//! So that git works inside all the same, what cannot do harm is let through: a configuration that consists of
//! nothing but settings that run nothing ([`inert`]) and is open nowhere when it gets its name, an empty `hooks`, and
//! hooks whose names end with `.sample`, which git never runs.
//!
//! What rule 1 says needs no list of repositories: submodules, worktrees, bare ones and those in the making are all
//! covered. Beneath these rules, what is known when the shares are mounted is read-only by mount ([`crate::plan`]),
//! which holds even if the guest has taken over the daemon. Of all that is protected the daemon is told the names, so that
//! what did not exist cannot be made and what the host replaces stays as it is: see [`Reserved`].
//!
//! Not covered are directories that take names in upper and lower case for the same (`chattr +F`), and what other
//! programs than git would run.

mod inert;

pub use inert::is_inert;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use virtiofsd::filesystem::{DirectoryIterator, Entry, FileSystem, SetattrValid, ZeroCopyWriter};
use virtiofsd::oslib::ReadvFlags;

use crate::nodes::ROOT;
use crate::share_fs::{Pinned, ShareFs, errno, host_context};

/// How the names of guarded entries end.
const SUFFIX: &str = ".guarded";

/// What is set in the numbers of nodes beneath them; see [`crate::coherence`], which does the same.
const MARK: u64 = 1 << 61;

const HEAD: &CStr = c"HEAD";
const CONFIG: &CStr = c"config";
const HOOKS: &CStr = c"hooks";

/// What git obeys in a repository.
const OBEYED: [&CStr; 4] = [CONFIG, HOOKS, c"config.worktree", c"commondir"];

/// What git calls the repository of a work tree.
const REPOSITORY: &CStr = c".git";

/// How the hooks are called that git brings and does not run.
const SAMPLE: &[u8] = b".sample";

/// A longer configuration is not looked at, and so not let through. Bytes.
const MAXIMUM_CONFIG_BYTES: u64 = 64 << 10;

/// How much of a directory is read at once, in bytes.
const LISTING_BYTES: u32 = 16 << 10;

/// How deep a path may be. Whoever goes deeper writes nothing there.
const MAXIMUM_DEPTH: usize = 4096;

/// The entry called `name`, as one whose repositories the guest does not get at.
#[must_use]
pub fn guarded_entry(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// What to set in the number of a node found at a place.
pub(crate) fn mark(parent: u64, name: &CStr) -> u64 {
    let entry = parent == ROOT && name.to_bytes().ends_with(SUFFIX.as_bytes());
    if entry || is_guarded(parent) { MARK } else { 0 }
}

fn is_guarded(number: u64) -> bool {
    number & MARK != 0
}

/// A name of a protected path: the guest gives it to nothing, and writes nothing under it. Of what was not there when
/// the shares were mounted, it is the first missing name on the way.
///
/// What was there is read-only by mount as well. But a mount goes when the host replaces what it is on, as editors and
/// git do with every file they save; this stays, since the directory is known by its inode.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Reserved {
    /// The inode number of the directory on the host.
    pub(crate) directory: u64,
    /// The name in it.
    pub(crate) name: String,
}

/// All of them; filled before the shares are to be seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReservedNames(Arc<Mutex<BTreeSet<(CString, u64)>>>);

impl ReservedNames {
    /// Takes them over. A name with a NUL byte in it is none that anybody could make.
    pub(crate) fn set(&self, reserved: Vec<Reserved>) {
        let named = |reserved: Reserved| Some((CString::new(reserved.name).ok()?, reserved.directory));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reserved.into_iter().filter_map(named).collect();
    }

    /// The directories in which a name is reserved.
    fn directories(&self, name: &CStr) -> Vec<u64> {
        let reserved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.range((name.to_owned(), 0)..=(name.to_owned(), u64::MAX)).map(|(_, directory)| *directory).collect()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The guard's state: what is reserved, and a lock under which a request is looked at and done, so that no two of them
/// together make what neither may make alone.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    reserved: ReservedNames,
    one_at_a_time: Mutex<()>,
}

impl Guard {
    /// A guard that knows what is reserved as soon as somebody does.
    pub(crate) fn new(reserved: ReservedNames) -> Self {
        Self { reserved, one_at_a_time: Mutex::new(()) }
    }
}

/// Held while a request is carried out that was let through; nothing where nothing is guarded.
pub(crate) type Pass<'a> = Option<MutexGuard<'a, ()>>;

/// What is about to get a name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Made<'a> {
    /// A new, empty file.
    File,
    /// A new, empty directory.
    Directory,
    /// A symbolic link.
    Link,
    /// What virtiofsd finds at a name of one of its directories.
    Moved(u64, &'a CStr),
}

impl ShareFs {
    fn pass(&self, number: u64) -> Pass<'_> {
        is_guarded(number).then(|| self.guard.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a name may be given to something in a directory.
    pub(crate) fn may_make(&self, directory: &Pinned, name: &CStr, made: Made) -> io::Result<Pass<'_>> {
        let pass = self.pass(directory.number);
        self.check_name_is_free(directory, name, libc::EPERM)?;
        if pass.is_some() {
            self.check_made(directory, name, made)?;
        }
        Ok(pass)
    }

    /// Whether a name may be taken from what has it. Only those that are reserved stay.
    pub(crate) fn may_remove(&self, directory: &Pinned, name: &CStr) -> io::Result<()> {
        self.check_name_is_free(directory, name, libc::EBUSY)
    }

    /// Whether something may be moved, or two change places.
    pub(crate) fn may_rename(
        &self,
        (old, old_name): (&Pinned, &CStr),
        (new, new_name): (&Pinned, &CStr),
        exchange: bool,
    ) -> io::Result<Pass<'_>> {
        let pass = if is_guarded(old.number) { self.pass(old.number) } else { self.pass(new.number) };
        self.check_name_is_free(old, old_name, libc::EBUSY)?;
        self.check_name_is_free(new, new_name, libc::EBUSY)?;
        if is_guarded(new.number) {
            self.check_made(new, new_name, Made::Moved(old.inner, old_name))?;
        }
        if exchange && is_guarded(old.number) {
            self.check_made(old, old_name, Made::Moved(new.inner, new_name))?;
        }
        Ok(pass)
    }

    /// Whether a file may get another name. One that may not be written must not: it could be written by the other.
    pub(crate) fn may_link(&self, node: &Pinned, directory: &Pinned, name: &CStr) -> io::Result<Pass<'_>> {
        let pass = if is_guarded(node.number) { self.pass(node.number) } else { self.pass(directory.number) };
        if self.is_reserved(node.number)? {
            // As between mounts, which these are.
            return Err(errno(libc::EXDEV));
        }
        self.check_name_is_free(directory, name, libc::EPERM)?;
        if is_guarded(node.number) && self.is_frozen(node.number, &OBEYED)? {
            return Err(errno(libc::EPERM));
        }
        if is_guarded(directory.number) {
            // A second name of what is open elsewhere, or of a symbolic link: as a file it is never let through where
            // it matters, as a link to a repository it must not be either.
            self.check_made(directory, name, Made::Link)?;
        }
        Ok(pass)
    }

    /// Whether a file may be opened in this way.
    pub(crate) fn may_open(&self, number: u64, flags: u32) -> io::Result<Pass<'_>> {
        let writes = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 || flags & libc::O_TRUNC as u32 != 0;
        if writes { self.may_write(number, &OBEYED) } else { Ok(None) }
    }

    /// Whether these attributes of a file may be set.
    pub(crate) fn may_set(&self, number: u64, valid: SetattrValid) -> io::Result<Pass<'_>> {
        if valid.contains(SetattrValid::SIZE) {
            self.may_write(number, &OBEYED)
        } else if valid.contains(SetattrValid::MODE) {
            // A hook that could not be executed could be then.
            self.may_write(number, &[HOOKS])
        } else {
            Ok(None)
        }
    }

    fn may_write(&self, number: u64, obeyed: &[&CStr]) -> io::Result<Pass<'_>> {
        let pass = self.pass(number);
        if self.is_reserved(number)? {
            return Err(errno(libc::EROFS));
        }
        if pass.is_some() && self.is_frozen(number, obeyed)? {
            return Err(errno(libc::EPERM));
        }
        Ok(pass)
    }

    fn check_name_is_free(&self, directory: &Pinned, name: &CStr, refusal: i32) -> io::Result<()> {
        if self.is_reserved(directory.number)? {
            return Err(errno(libc::EROFS));
        }
        if self.is_reserved_in(directory, name)? { Err(errno(refusal)) } else { Ok(()) }
    }

    fn is_reserved_in(&self, directory: &Pinned, name: &CStr) -> io::Result<bool> {
        let directories = self.guard.reserved.directories(name);
        if directories.is_empty() {
            return Ok(false);
        }
        let (attributes, _) = self.inner.getattr(host_context(), directory.inner, None)?;
        Ok(directories.contains(&attributes.ino))
    }

    /// Whether a node has a reserved name, or is beneath one.
    fn is_reserved(&self, number: u64) -> io::Result<bool> {
        if self.guard.reserved.is_empty() {
            return Ok(false);
        }
        let mut next = number;
        for _ in 0..MAXIMUM_DEPTH {
            if next == ROOT {
                return Ok(false);
            }
            let Some((parent, name)) = self.nodes().place(next) else { return self.is_lost(next) };
            if !self.guard.reserved.directories(&name).is_empty() && self.is_reserved_in(&self.reach(parent)?, &name)? {
                return Ok(true);
            }
            next = parent;
        }
        Ok(true)
    }

    fn check_made(&self, directory: &Pinned, name: &CStr, made: Made) -> io::Result<()> {
        let refused = || Err(errno(libc::EPERM));
        if self.is_frozen(directory.number, &OBEYED)? {
            let in_hooks = self.nodes().place(directory.number).is_some_and(|(_, name)| *name == *HOOKS);
            return if in_hooks && is_sample(name) { Ok(()) } else { refused() };
        }
        if name == HEAD {
            let there = self.has(directory.inner, HEAD)?;
            return if there || self.is_inert_repository(directory.inner)? { Ok(()) } else { refused() };
        }
        if OBEYED.contains(&name) && self.is_repository(directory)? {
            return match made {
                // An empty one, and a file, in which git looks for no hooks.
                Made::File | Made::Directory if name == HOOKS => Ok(()),
                Made::Moved(from, old_name) if name == HOOKS && self.is_file(from, old_name)? => Ok(()),
                Made::Moved(from, old_name) if name == CONFIG && self.is_inert_config(from, old_name)? => Ok(()),
                _ => refused(),
            };
        }
        if name == REPOSITORY {
            return match made {
                Made::File | Made::Directory => Ok(()),
                Made::Link => refused(),
                Made::Moved(from, old_name) => self.check_becomes_repository(from, old_name),
            };
        }
        Ok(())
    }

    fn check_becomes_repository(&self, from: u64, name: &CStr) -> io::Result<()> {
        let Some(found) = self.find(from, name)? else { return Ok(()) };
        let fine = match found.kind() {
            libc::S_IFDIR => self.is_inert_repository(found.entry.inode)?,
            libc::S_IFREG => true,
            _ => false,
        };
        if fine { Ok(()) } else { Err(errno(libc::EPERM)) }
    }

    /// Whether a node is, or is beneath, one of `obeyed` of a repository. Sample hooks are not.
    fn is_frozen(&self, number: u64, obeyed: &[&CStr]) -> io::Result<bool> {
        let mut next = number;
        let mut below: Option<CString> = None;
        for depth in 0..MAXIMUM_DEPTH {
            if next == ROOT {
                return Ok(false);
            }
            let Some((parent, name)) = self.nodes().place(next) else { return self.is_lost(next) };
            if obeyed.contains(&&*name) {
                let sample = *name == *HOOKS && depth == 1 && below.as_deref().is_some_and(is_sample);
                if !sample && self.is_repository(&self.reach(parent)?)? {
                    return Ok(true);
                }
            }
            if depth == 0 {
                below = Some(CString::from(&*name));
            }
            next = parent;
        }
        Ok(true)
    }

    /// What has no place is gone, or has another name that is not known; the guest's kernel looks it up anew.
    fn is_lost(&self, number: u64) -> io::Result<bool> {
        let node = self.reach(number)?;
        let (attributes, _) = self.inner.getattr(host_context(), node.inner, None)?;
        if attributes.nlink == 0 { Ok(false) } else { Err(errno(libc::ESTALE)) }
    }

    fn is_repository(&self, directory: &Pinned) -> io::Result<bool> {
        let called = self.nodes().place(directory.number).is_some_and(|(_, name)| *name == *REPOSITORY);
        Ok(called || self.has(directory.inner, HEAD)?)
    }

    /// Whether a directory has nothing of what git obeys, or what can do no harm.
    fn is_inert_repository(&self, directory: u64) -> io::Result<bool> {
        for name in OBEYED {
            let inert = if name == CONFIG {
                self.is_inert_config(directory, name)?
            } else if name == HOOKS {
                self.has_inert_hooks(directory)?
            } else {
                !self.has(directory, name)?
            };
            if !inert {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether what is at a name, if anything is, is a configuration that runs nothing and that nobody can write any
    /// more: it has no other name and is not open.
    fn is_inert_config(&self, directory: u64, name: &CStr) -> io::Result<bool> {
        let Some(found) = self.find(directory, name)? else { return Ok(true) };
        let attributes = &found.entry.attr;
        if found.kind() != libc::S_IFREG || attributes.nlink != 1 || attributes.size > MAXIMUM_CONFIG_BYTES {
            return Ok(false);
        }
        if self.nodes().uses(found.entry.inode) > 0 {
            return Ok(false);
        }
        let file = found.entry.inode;
        let (Some(handle), _) = self.inner.open(host_context(), file, false, libc::O_RDONLY as u32)? else {
            return Ok(false);
        };
        let mut content = Content(Vec::new());
        let size = MAXIMUM_CONFIG_BYTES as u32 + 1;
        let read = self.inner.read(host_context(), file, handle, &mut content, size, 0, None, 0);
        self.inner.release(host_context(), file, 0, handle, false, false, None)?;
        read?;
        Ok(content.0.len() as u64 <= MAXIMUM_CONFIG_BYTES && is_inert(&content.0))
    }

    /// Whether a directory has no hooks but samples.
    fn has_inert_hooks(&self, directory: u64) -> io::Result<bool> {
        let Some(found) = self.find(directory, HOOKS)? else { return Ok(true) };
        if found.kind() != libc::S_IFDIR {
            return Ok(found.kind() == libc::S_IFREG);
        }
        let hooks = found.entry.inode;
        let (Some(handle), _) = self.inner.opendir(host_context(), hooks, libc::O_RDONLY as u32)? else {
            return Ok(false);
        };
        let inert = self.lists_only_samples(hooks, handle);
        self.inner.releasedir(host_context(), hooks, 0, handle)?;
        inert
    }

    fn lists_only_samples(&self, directory: u64, handle: <Self as FileSystem>::Handle) -> io::Result<bool> {
        let mut offset = 0;
        loop {
            let mut entries = self.inner.readdir(host_context(), directory, handle, LISTING_BYTES, offset)?;
            let before = offset;
            while let Some(entry) = entries.next() {
                if !matches!(entry.name.to_bytes(), b"." | b"..") && !is_sample(entry.name) {
                    return Ok(false);
                }
                offset = entry.offset;
            }
            if offset == before {
                return Ok(true);
            }
        }
    }

    fn is_file(&self, directory: u64, name: &CStr) -> io::Result<bool> {
        Ok(self.find(directory, name)?.is_some_and(|found| found.kind() == libc::S_IFREG))
    }

    fn has(&self, directory: u64, name: &CStr) -> io::Result<bool> {
        Ok(self.find(directory, name)?.is_some())
    }

    /// What is at a name of one of virtiofsd's directories, if anything is.
    fn find(&self, directory: u64, name: &CStr) -> io::Result<Option<Found<'_>>> {
        match self.inner.lookup(host_context(), directory, name) {
            Ok(entry) => Ok(Some(Found { fs: self, entry })),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What was looked up, until it is forgotten.
struct Found<'a> {
    fs: &'a ShareFs,
    entry: Entry,
}

impl Found<'_> {
    fn kind(&self) -> u32 {
        self.entry.attr.mode & libc::S_IFMT
    }
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        self.fs.inner.forget(host_context(), self.entry.inode, 1);
    }
}

/// What was read of a file.
struct Content(Vec<u8>);

impl ZeroCopyWriter for Content {
    fn read_from_file_at(
        &mut self,
        file: &std::fs::File,
        count: usize,
        offset: u64,
        _flags: Option<ReadvFlags>,
    ) -> io::Result<usize> {
        let mut read = 0;
        let mut chunk = [0; 4096];
        while read < count {
            let wanted = chunk.len().min(count - read);
            match file.read_at(&mut chunk[..wanted], offset + read as u64)? {
                0 => break,
                some => {
                    self.0.extend_from_slice(&chunk[..some]);
                    read += some;
                }
            }
        }
        Ok(read)
    }
}

fn is_sample(name: &CStr) -> bool {
    name.to_bytes().ends_with(SAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_beneath_a_marked_entry_is_guarded() {
        assert!(!is_guarded(ROOT) && mark(ROOT, c"0") == 0 && mark(7, c"x.guarded") == 0);
        let entry = CString::new(guarded_entry("3")).unwrap();
        let share = 9 | mark(ROOT, &entry);
        assert!(is_guarded(share) && !crate::coherence::is_coherent(share));
        assert!(is_guarded(10 | mark(share, c"file")));
    }

    #[test]
    fn what_is_reserved_is_known_by_its_directory() {
        let names = ReservedNames::default();
        assert!(names.is_empty() && names.directories(c".envrc").is_empty());
        let reserved = |directory, name: &str| Reserved { directory, name: name.to_owned() };
        names.set(vec![reserved(7, ".envrc"), reserved(9, ".envrc"), reserved(7, ".env"), reserved(7, "a\0b")]);
        assert_eq!(names.directories(c".envrc"), [7, 9]);
        assert_eq!(names.directories(c".env"), [7]);
        assert!(names.directories(c"a").is_empty());
    }
}
