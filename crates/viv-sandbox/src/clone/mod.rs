//! A workspace by clone: the sandbox works on a private copy on its own disk, and the host takes what it accepts.
//!
//! ```text
//!   host                                                         guest
//!   Repository::of ── shares: the objects, read-only ──────────► /run/viv/objects
//!   WorkspaceCopy::make ── files, a .git made anew ──archive──► the workspace's path
//!                       ◄─ listing, kept ──────────────────────
//!   WorkspaceCopy::changes ◄─ listing ─ compared with the kept one ─ what differs ◄──
//!   Sync ◄─ objects and references, as data ─► a repository of viv's own, checked ─► refs/heads/viv/NAME/…
//! ```
//!
//! Nothing that a guest wrote is run, followed or configured by: hooks, filters, attributes, configuration, links and
//! submodules of the copy stay inside, and what comes out is bytes under names that were checked. The repository that
//! a copy is made from may be a stranger's, too; see [`Repository::of`].

mod changes;
mod committed;
mod fault;
mod git;
mod git_directory;
mod inbox;
mod listing;
mod repository;
mod sync;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::{DirBuilder, File};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use viv_archive::RecordReader;
use viv_proto::message::PathKind;

pub use changes::{Changed, Content};
pub use git_directory::git_config_value;
pub use listing::Ignored;
pub use repository::Repository;
pub use sync::{Fetched, Sync};
pub use tree::{CommittedFile, CopyContents};

use crate::error::io;
use crate::{Carried, CopySelection, Files, OnProgress, Paths, Result};

/// The directory of viv's state that holds one for each copy.
const COPIES: &str = "copies";

/// The copy that a sandbox works on.
#[derive(Debug)]
pub struct WorkspaceCopy {
    files: Files,
    workspace: PathBuf,
    /// Its own directory among viv's state.
    directory: PathBuf,
}

impl WorkspaceCopy {
    /// The copy of `workspace` in the sandbox whose files these are; `id` is what it is remembered by.
    #[must_use]
    pub fn new(files: Files, workspace: &Path, paths: &Paths, id: &str) -> Self {
        Self { files, workspace: workspace.to_owned(), directory: paths.state.join(COPIES).join(id) }
    }

    fn listing(&self) -> PathBuf {
        self.directory.join("listing")
    }

    fn place(&self) -> Result<&str> {
        crate::plan::utf8(&self.workspace)
    }

    /// Whether it was made before, and is on a disk that was kept.
    ///
    /// # Errors
    /// The guest's, or whatever became of the sandbox.
    pub async fn is_there(&self) -> Result<bool> {
        Ok(self.listing().exists() && self.files.look(self.place()?).await?.kind == PathKind::Directory)
    }

    /// Makes it, before any program runs: the files that the repository knows, those that it would add, and a `.git`
    /// with the host's references and index; or less of that, as `selection` has it. Without a repository, all files.
    ///
    /// Ignored files, hooks and the configuration of anything that git would run do not come along.
    ///
    /// # Errors
    /// What cannot be read here or written inside, and a selection that the workspace has no way to fulfil.
    pub async fn make(
        &self,
        repository: Option<Repository>,
        selection: CopySelection,
        on_progress: OnProgress,
    ) -> Result<Carried> {
        let failed = || io("the copy's listing cannot be kept");
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed())?;
        let scratch = self.directory.join(".index.partial");
        let wanted = tree::Wanted { repository, selection, scratch };
        let carried = tree::bring(&self.files, &self.workspace, wanted, on_progress).await?;
        let partial = self.directory.join(".listing.partial");
        let mut kept = BufWriter::new(File::create(&partial).map_err(failed())?);
        let keep = move |reader: &mut RecordReader<_>| {
            listing::keep(reader, &mut kept)?;
            // A copy on a disk that is kept is compared with it after a loss of power, too.
            kept.flush().and_then(|()| kept.get_ref().sync_all()).map_err(io("the copy's listing cannot be kept"))
        };
        self.files.list(self.place()?, keep).await?;
        std::fs::rename(&partial, self.listing()).map_err(failed())?;
        Ok(carried)
    }

    /// Has `take` take what the sandbox changed since its copy was made, deletions first; what `ignored` ignores is
    /// not asked for, unless the copy was made with it. Returns what it returns.
    ///
    /// # Errors
    /// Those of `take`, a guest that makes no sense, or whatever became of the sandbox.
    pub async fn changes<T, F, I, K>(&self, mut ignored: I, take: F) -> Result<T>
    where
        F: FnOnce(&mut dyn Iterator<Item = std::io::Result<Changed>>) -> std::result::Result<T, viv_error::Error<K>>
            + Send
            + 'static,
        I: Ignored + Send + 'static,
        T: Send + 'static,
        K: viv_error::Kind,
    {
        let kept = File::open(self.listing()).map_err(io("nothing is known of the copy's start"))?;
        let compare = move |reader: &mut RecordReader<_>| {
            listing::compare(&mut RecordReader::new(BufReader::new(kept)), reader, &mut ignored)
        };
        let differences = self.files.list(self.place()?, compare).await?;
        let wanted = differences.changed.clone();
        self.files
            .pick(self.place()?, wanted.into_iter(), move |reader| changes::report(reader, differences, take))
            .await
    }

    /// Forgets it: its sandbox is gone.
    pub fn forget(&self) {
        forget(&self.directory);
    }
}

/// Whether git ignores a path of a workspace, relative to it, as a file or as a directory.
///
/// # Errors
/// [`crate::ErrorKind::Repository`] if git cannot say.
pub fn is_ignored(workspace: &Path, path: &Path) -> Result<bool> {
    let ignores = |path: &Path| {
        let arguments: [&std::ffi::OsStr; 4] =
            ["check-ignore".as_ref(), "-q".as_ref(), "--".as_ref(), path.as_os_str()];
        git::ask(workspace, &arguments).map(|told| told.is_some())
    };
    // Rules for directories count for one that is not there only if it is written as one.
    Ok(ignores(path)? || ignores(&path.join(""))?)
}

fn forget(directory: &Path) {
    // What stays is a small file that nobody asks for.
    let _ = std::fs::remove_dir_all(directory);
}
