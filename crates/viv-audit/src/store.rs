//! All timelines of a user: `$XDG_STATE_HOME/viv/audit`, a directory for each name, or id of one without.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::chain::Line;
use crate::error::{Error, ErrorKind, Result, failed};
use crate::files;
use crate::writer::{Limits, Writer};

/// How many timelines are kept, those that are written included. The oldest others go when one is begun, but for
/// those that are spared.
pub const KEPT: usize = 200;

/// The directory below viv's state.
const DIRECTORY: &str = "audit";

/// Where the timelines are.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name: that of the sandbox, or the id of one without a name.
    pub name: String,
    /// The id of the sandbox that was written of last.
    pub sandbox: String,
    /// When the last line that its head knows of was written, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How many lines its head knows of.
    pub lines: u64,
    /// Whether it is being written.
    pub running: bool,
    /// Whether its writer closed it. One that is not, and is not written, was left by a writer that was killed.
    pub closed: bool,
    /// Where it is.
    pub directory: PathBuf,
}

impl Store {
    /// Below viv's state directory.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { root: state.join(DIRECTORY) }
    }

    /// Opens the timeline of this name, or begins it and lets go of the oldest of others.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub fn open(&self, name: &str) -> Result<Writer> {
        self.open_sparing(name, |_| false)
    }

    /// The same, sparing those others of whose names `is_there` says that their sandboxes are: they may be stopped, and
    /// their past is wanted.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub fn open_sparing(&self, name: &str, is_there: impl Fn(&str) -> bool) -> Result<Writer> {
        files::make_directory(&self.root).map_err(failed(&self.root))?;
        let writer = Writer::open(&self.root.join(name), Limits::default())?;
        self.prune(is_there);
        Ok(writer)
    }

    fn prune(&self, is_there: impl Fn(&str) -> bool) {
        // Counting them is quicker than reading all their heads.
        if std::fs::read_dir(&self.root).map_or(0, Iterator::count) <= KEPT {
            return;
        }
        // What cannot be removed now is tried again by the next sandbox.
        let Ok(mut entries) = self.list() else { return };
        entries.sort_by_key(|entry| entry.at_ms);
        let surplus = entries.len().saturating_sub(KEPT);
        for entry in entries.into_iter().filter(|entry| !entry.running && !is_there(&entry.name)).take(surplus) {
            // The lock keeps a sandbox that starts just now from losing what it begins.
            if let Ok(Some(_lock)) = files::lock(&entry.directory) {
                let _ = std::fs::remove_dir_all(&entry.directory);
            }
        }
    }

    /// All timelines, the latest first. One whose head cannot be read is the oldest.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let directories = match std::fs::read_dir(&self.root) {
            Ok(directories) => directories,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(entries),
            Err(error) => return Err(failed(&self.root)(error)),
        };
        for directory in directories {
            let directory = directory.map_err(failed(&self.root))?;
            let Some(name) = directory.file_name().to_str().map(str::to_owned) else { continue };
            if directory.file_type().is_ok_and(|kind| kind.is_dir()) {
                entries.push(Self::entry(name, directory.path()));
            }
        }
        entries.sort_by(|one, other| other.at_ms.cmp(&one.at_ms).then_with(|| one.name.cmp(&other.name)));
        Ok(entries)
    }

    fn entry(name: String, directory: PathBuf) -> Entry {
        let head = files::read_head(&directory).ok().flatten();
        Entry {
            name,
            sandbox: head.as_ref().map(|head| head.sandbox.clone()).unwrap_or_default(),
            at_ms: head.as_ref().map_or(0, |head| head.at_ms),
            lines: head.as_ref().map_or(0, |head| head.lines),
            running: files::is_locked(&directory),
            closed: head.is_some_and(|head| head.closed),
            directory,
        }
    }

    /// The timeline of this name, of the sandbox with this id, or of a unique beginning of either.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Ambiguous`].
    pub fn find(&self, wanted: &str) -> Result<Entry> {
        let entries = self.list()?;
        if let Some(exact) = entries.iter().find(|entry| entry.name == wanted || entry.sandbox == wanted) {
            return Ok(exact.clone());
        }
        let begins = |entry: &Entry| entry.name.starts_with(wanted) || entry.sandbox.starts_with(wanted);
        let mut matching = entries.into_iter().filter(|entry| !wanted.is_empty() && begins(entry));
        match (matching.next(), matching.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => {
                Err(Error::new(ErrorKind::NotFound, format!("no sandbox called {wanted:?} has left a timeline"))
                    .hint("viv audit ls"))
            }
            (Some(_), Some(_)) => {
                Err(Error::new(ErrorKind::Ambiguous, format!("more than one timeline begins with {wanted:?}"))
                    .hint("viv audit ls shows them whole"))
            }
        }
    }
}

impl Entry {
    /// The lines that can be read, in order, whether or not they verify: for showing. Lines of unknown events
    /// and a torn last one are passed over.
    ///
    /// # Errors
    /// If a segment cannot be read.
    pub fn read(&self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for number in files::segments(&self.directory).map_err(failed(&self.directory))? {
            let path = files::segment_path(&self.directory, number);
            let bytes = match files::read(&path) {
                // The oldest one went just now.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                bytes => bytes.map_err(failed(&path))?,
            };
            lines.extend(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()));
        }
        Ok(lines)
    }

    /// Where the recording of a program is, if one was made and is there.
    #[must_use]
    pub fn recording(&self, program: u64) -> Option<PathBuf> {
        let path = files::cast_path(&self.directory, &files::cast_name(program));
        path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()).then_some(path)
    }

    /// Where the copy of a transcript is, if it is there.
    #[must_use]
    pub fn transcript(&self, file: &str) -> Option<PathBuf> {
        let path = files::transcript_path(&self.directory, &files::transcript_name(files::transcript_number(file)?));
        path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()).then_some(path)
    }

    /// The files of it, to be copied in this order so that the copy verifies: name and path.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn files(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut names = vec![PathBuf::from(files::HEAD)];
        let failed = || failed(&self.directory);
        names.extend(
            files::segments(&self.directory).map_err(failed())?.into_iter().map(files::segment_name).map(PathBuf::from),
        );
        let casts = files::casts(&self.directory).map_err(failed())?;
        names.extend(casts.into_iter().map(|number| Path::new(files::CASTS).join(files::cast_name(number))));
        let transcripts = files::transcripts(&self.directory).map_err(failed())?;
        let transcripts = transcripts.into_iter().map(files::transcript_name);
        names.extend(transcripts.map(|name| Path::new(files::TRANSCRIPTS).join(name)));
        Ok(names.into_iter().map(|name| (name.clone(), self.directory.join(name))).collect())
    }
}
