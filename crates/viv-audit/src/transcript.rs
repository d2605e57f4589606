//! Copies of what agents write down of their work.
//!
//! A copy has a number instead of the name that a guest gave it: that of the line which was to be next when it was
//! made, so that no two of a timeline have the same one. It is whole before a line tells of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::chain::Hash;
use crate::files;

/// A transcript that is to be kept.
pub struct FoundTranscript {
    /// Whose it is.
    pub agent: String,
    /// What it is called, below the agent's home.
    pub path: String,
    /// What is in it.
    pub content: Box<dyn Read + Send>,
    /// How much of that is kept, at most.
    pub most_bytes: u64,
}

impl std::fmt::Debug for FoundTranscript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FoundTranscript({} of {})", self.path, self.agent)
    }
}

/// A copy that is on the disk.
pub(crate) struct Copied {
    pub(crate) bytes: u64,
    pub(crate) sha256: Hash,
}

/// Copies a transcript to a new file, or leaves none.
pub(crate) fn copy(directory: &Path, name: &str, content: impl Read, most_bytes: u64) -> io::Result<Copied> {
    files::make_directory(&directory.join(files::TRANSCRIPTS))?;
    let partial = files::transcript_path(directory, "partial");
    // One that is there was left by a writer that was killed.
    let copied = files::private().create(true).truncate(true).open(&partial).and_then(|mut file| {
        let copied = pour(content.take(most_bytes), &mut file)?;
        file.sync_data()?;
        std::fs::rename(&partial, files::transcript_path(directory, name))?;
        Ok(copied)
    });
    if copied.is_err() {
        let _ = std::fs::remove_file(partial);
    }
    copied
}

fn pour(mut content: impl Read, file: &mut File) -> io::Result<Copied> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => return Ok(Copied { bytes, sha256: Hash::finish(hasher) }),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        file.write_all(&buffer[..read])?;
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}
