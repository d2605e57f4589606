//! States of a workspace: what was there when a sandbox started, what it made of it, and what becomes of that.
//!
//! A [`Store`] is private to its user and belongs to one directory of the host. For each sandbox it has the *base*,
//! which is the directory's files as they were, those that git would list, and what the sandbox made of them:
//!
//! - in **live** mode the directory itself, as it is when someone looks. [`Store::accept`] moves the base forward,
//!   [`Store::reject`] and [`Store::undo`] write the base's files into the directory;
//! - in **clone** mode the *result*, from what the sandbox said it changed ([`Store::record_changes`]).
//!   [`Store::accept`] writes it into the directory, [`Store::reject`] drops it, [`Store::undo`] takes the last
//!   acceptance back.
//!
//! ```text
//! $XDG_STATE_HOME/viv/workspaces/DIGEST/      0700
//!   workspace         the directory's path
//!   lock              held during every call
//!   segments/         contents, compressed, by their SHA-256 (nothing is kept twice)
//!   states/ID/        about, start, base, result, operations, run
//!   journal           what is being written into the directory, from before it begins until it is done
//! ```
//!
//! Nothing of git is run, and of the project's `.git` only two files are read, before a guest has run: the index, for
//! which ignored files are tracked, and `info/exclude`. The directory is touched beneath a descriptor, never through a
//! link. Contents are the store's own, so that whatever a guest does to the directory, `.git` and all, the base stays.
//! See `docs/decisions/032-states-of-a-workspace.md`.

mod act;
mod apply;
mod beneath;
mod blobs;
mod change;
mod diff;
mod dropped;
mod entry;
mod error;
mod fault;
pub mod hunks;
mod ignored;
mod index;
mod operation;
mod path;
mod project;
mod record;
mod rename;
mod states;
mod store;
#[cfg(test)]
mod tests;
mod view;
mod walk;

pub use act::To;
pub use apply::{FileOutcome, Outcome};
pub use change::Change;
pub use diff::{Chosen, Diff, FileChange, Kind, Selection};
pub use entry::{Digest, Node, Stat};
pub use error::{Error, ErrorKind, Result};
pub use ignored::Rules;
pub use index::tracked;
pub use path::{PathProblem, TreePath};
pub use record::Recorded;
pub use states::{Found, Mode, Sandbox, find, list, siblings};
pub use store::Store;
pub use view::View;

/// What a store keeps at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Files and links of a workspace; with more of them nothing is recorded.
    pub files: usize,
    /// Bytes of a file's content; of a larger one only whether it changed is known.
    pub file_bytes: u64,
    /// Bytes of all files; with more of them nothing is recorded.
    pub total_bytes: u64,
    /// Directories within each other; what is deeper is left out, and noted.
    pub depth: usize,
    /// Sandboxes whose states are kept, for each workspace: the newest.
    pub states: usize,
    /// Operations that can be taken back, for each sandbox: the newest.
    pub operations: usize,
}

impl Default for Limits {
    /// 200,000 files, 64 MiB each, 4 GiB together, 128 directories deep, 20 sandboxes, 20 operations.
    fn default() -> Self {
        Self { files: 200_000, file_bytes: 64 << 20, total_bytes: 4 << 30, depth: 128, states: 20, operations: 20 }
    }
}

/// What a look at a workspace left out, by name as far as there are not too many.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Notes {
    /// Directories beneath that are repositories of their own: their files are files like others, their `.git` is
    /// left alone.
    pub repositories: Vec<String>,
    /// Names that are no [`TreePath`], and directories too deep within others.
    pub refused: Vec<String>,
    /// FIFOs, sockets and devices.
    pub others: Vec<String>,
    /// Files that a sandbox reported and that are over the limit.
    pub large: Vec<String>,
    /// What the host would not read, and why.
    pub unreadable: Vec<String>,
    /// What is ignored by rules that the base did not have: files, and directories with a slash at their end.
    pub newly_ignored: Vec<String>,
}

/// Names of each kind that are noted.
const MOST_NOTES: usize = 100;

impl Notes {
    fn note(list: &mut Vec<String>, path: &[u8], more: &str) {
        if list.len() < MOST_NOTES {
            let escaped = String::from_utf8_lossy(path).chars().fold(String::new(), |mut text, c| {
                if c.is_control() {
                    text.extend(c.escape_default())
                } else {
                    text.push(c)
                }
                text
            });
            list.push(escaped + more);
        }
    }

    fn repository(&mut self, path: &[u8]) {
        Self::note(&mut self.repositories, path, "");
    }

    fn refused(&mut self, path: &[u8]) {
        Self::note(&mut self.refused, path, "");
    }

    fn large(&mut self, path: &[u8]) {
        Self::note(&mut self.large, path, "");
    }

    fn other(&mut self, path: &[u8]) {
        Self::note(&mut self.others, path, "");
    }

    fn unreadable(&mut self, path: &[u8], why: &std::io::Error) {
        Self::note(&mut self.unreadable, path, &format!(": {why}"));
    }

    fn newly_ignored(&mut self, path: &[u8], is_directory: bool) {
        Self::note(&mut self.newly_ignored, path, if is_directory { "/" } else { "" });
    }

    fn sort(&mut self) {
        for list in [&mut self.repositories, &mut self.refused, &mut self.others, &mut self.unreadable] {
            list.sort();
        }
    }
}
