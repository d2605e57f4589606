//! What the daemon is told, and how: two lines of JSON on one descriptor.
//!
//! The first says how to serve and is needed to begin; the second says what, and may come any time later. The daemon
//! reads the first to its end and not a byte further: the paths in the second are for its helper only.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, ErrorKind, Result};

/// The longest first line, in bytes, its end included.
const MAX_FIRST_LINE_BYTES: usize = 4096;

/// How one file daemon serves, whatever it shares: its first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDaemonSpec {
    /// The owner the guest sees on every file.
    pub guest_uid: u32,
    /// The group the guest sees on every file.
    pub guest_gid: u32,
    /// Threads that work on requests; 0 (see [`DEFAULT_THREAD_POOL`](crate::DEFAULT_THREAD_POOL)) means that the
    /// thread that waits for requests also does them.
    pub thread_pool: usize,
}

/// One directory or file of the host that the guest sees. All of them, as an array, are the daemon's second line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSpec {
    /// Its name in the root of the device: one path component, from [`coherent_entry`](crate::coherent_entry) for a
    /// share that other guests write, too, and from [`guarded_entry`](crate::guarded_entry) for one in which the guest
    /// does not get at what git on the host would run.
    pub entry: String,
    /// What is shared: an absolute path of a directory or a regular file. Symbolic links in it are followed once,
    /// when the tree is assembled.
    pub source: PathBuf,
    /// Whether writing is refused, by the host's kernel.
    pub read_only: bool,
    /// Paths below a directory share, relative to it, that the guest may read but not change, rename, replace or
    /// move away with a directory above them. Those that don't exist when the tree is assembled cannot be made.
    pub protect: Vec<PathBuf>,
    /// Names of a directory that alone are shown of it, in a read-only directory of their own; none for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gathered: Option<Vec<String>>,
}

impl FileDaemonSpec {
    /// The first line for [`serve`](crate::serve), with its end.
    #[must_use]
    pub fn line(&self) -> String {
        // Three numbers: nothing in it can fail to be JSON.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// The second line for [`serve`](crate::serve), with its end.
///
/// # Errors
///
/// [`ErrorKind::Specification`] if a path is not UTF-8, which JSON has to be.
pub fn shares_line(shares: &[ShareSpec]) -> Result<String> {
    let mut line = serde_json::to_string(shares).map_err(|error| {
        Error::new(ErrorKind::Specification, "the shares cannot be told to the file daemon").source(error)
    })?;
    line.push('\n');
    Ok(line)
}

/// Takes the first line off `input`, and nothing that follows it.
pub(crate) fn read_spec(input: &mut File) -> Result<FileDaemonSpec> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        let read = input.read(&mut byte).context(ErrorKind::Specification, || unreadable("its settings"))?;
        if read == 0 || line.len() == MAX_FIRST_LINE_BYTES {
            return Err(not_given("its settings"));
        }
        line.push(byte[0]);
    }
    parse(&line, "its settings")
}

/// Waits for the second line and reads it.
pub(crate) fn read_shares(input: OwnedFd) -> Result<Vec<ShareSpec>> {
    let mut line = Vec::new();
    BufReader::new(File::from(input))
        .read_until(b'\n', &mut line)
        .context(ErrorKind::Specification, || unreadable("its shares"))?;
    if line.last() != Some(&b'\n') {
        return Err(not_given("its shares"));
    }
    parse(&line, "its shares")
}

fn parse<T: DeserializeOwned>(line: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(line).map_err(|error| Error::new(ErrorKind::Specification, unreadable(what)).source(error))
}

fn unreadable(what: &str) -> String {
    format!("the file daemon cannot read {what}")
}

fn not_given(what: &str) -> Error {
    Error::new(ErrorKind::Specification, format!("the file daemon was not told {what}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn input(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn the_lines_come_back_as_what_they_were_and_the_first_ends_where_it_ends() {
        let spec = FileDaemonSpec { guest_uid: 1000, guest_gid: 1001, thread_pool: 2 };
        let share = ShareSpec {
            entry: "0".into(),
            source: "/a\nb".into(),
            read_only: true,
            protect: vec!["c".into()],
            gathered: Some(vec!["d".into()]),
        };
        let shares = shares_line(std::slice::from_ref(&share)).unwrap();
        let mut both = input((spec.line() + &shares).as_bytes());
        assert_eq!(read_spec(&mut both).unwrap(), spec);
        assert_eq!(both.stream_position().unwrap(), spec.line().len() as u64);
        assert_eq!(read_shares(both.into()).unwrap(), [share]);
    }

    #[test]
    fn what_is_cut_short_or_garbled_is_refused() {
        for bad in ["", "{", "{\"guest_uid\":1,\"guest_gid\":1,\"thread_pool\":0}", "[]\n", "\n", &"x".repeat(5000)] {
            assert_eq!(*read_spec(&mut input(bad.as_bytes())).unwrap_err().kind(), ErrorKind::Specification, "{bad}");
        }
        for bad in ["", "[]", "{}\n", "[\n", "[] []\n", "\n"] {
            let error = read_shares(input(bad.as_bytes()).into()).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Specification, "{bad}");
        }
        assert!(read_shares(input(b"[]\n").into()).unwrap().is_empty());
        let source = std::ffi::OsString::from_vec(b"/\xff".to_vec()).into();
        let share = ShareSpec { entry: "0".into(), source, read_only: true, protect: vec![], gathered: None };
        assert_eq!(*shares_line(&[share]).unwrap_err().kind(), ErrorKind::Specification);
    }
}
