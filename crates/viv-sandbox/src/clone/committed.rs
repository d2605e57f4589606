//! Files as a commit has them, out of git's objects: no filter, attribute or hook has a part in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::git::{ask, git, run};
use super::git_directory::is_digest;
use crate::error::io;
use crate::{Error, ErrorKind, Result};

/// What a commit has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) object: String,
}

/// What it is, as git's modes have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File { executable: bool },
    Link,
    Submodule,
}

/// All that a commit has, in git's order.
///
/// # Errors
/// [`ErrorKind::Repository`] if git does not know it.
pub(super) fn list(directory: &Path, commit: &str) -> Result<Vec<(Vec<u8>, Entry)>> {
    let mut command = git(directory);
    command.args(["ls-tree", "-r", "-z", "--full-tree", commit]);
    let told = run(command)?;
    let entries = told.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    entries.map(|entry| parse(entry).ok_or_else(|| broken("list of a commit's files"))).collect()
}

/// MODE KIND OBJECT, a tab, the path
fn parse(entry: &[u8]) -> Option<(Vec<u8>, Entry)> {
    let tab = entry.iter().position(|byte| *byte == b'\t')?;
    let mut fields = entry[..tab].split(|byte| *byte == b' ');
    let kind = match (fields.next()?, fields.next()?) {
        (b"120000", _) => Kind::Link,
        (b"160000", _) => Kind::Submodule,
        (mode, b"blob") => Kind::File { executable: mode == b"100755" },
        _ => return None,
    };
    let object = fields.next().filter(|object| is_digest(object))?;
    Some((entry[tab + 1..].to_vec(), Entry { kind, object: String::from_utf8_lossy(object).into_owned() }))
}

/// Whether a repository has a commit.
pub(super) fn has(directory: &Path, commit: &str) -> bool {
    ask(directory, &["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_ok_and(|told| told.is_some())
}

/// The contents of a repository's objects, one after the other.
#[derive(Debug)]
pub(super) struct Contents {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Contents {
    pub(super) fn of(directory: &Path) -> Result<Self> {
        let mut command = git(directory);
        command.args(["cat-file", "--batch"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = io("git cannot be run on this host");
        let mut child = command.spawn().map_err(failed)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { child, input, output: BufReader::new(output) }),
            _ => Err(broken("git")),
        }
    }

    /// Has `take` read an object, which has this many bytes.
    ///
    /// # Errors
    /// Those of `take`; [`ErrorKind::Repository`] for an object that is not there.
    pub(super) fn read<T>(&mut self, object: &str, take: impl FnOnce(u64, &mut dyn Read) -> Result<T>) -> Result<T> {
        let failed = || io("a commit's files cannot be read");
        self.input.write_all(format!("{object}\n").as_bytes()).map_err(failed())?;
        self.input.flush().map_err(failed())?;
        let mut head = String::new();
        self.output.by_ref().take(MOST_HEAD_BYTES).read_line(&mut head).map_err(failed())?;
        // OBJECT blob SIZE
        let size = head.trim_end().rsplit_once(" blob ").and_then(|(_, size)| size.parse().ok());
        let size: u64 = size.ok_or_else(|| {
            Error::new(ErrorKind::Repository, "a file of the commit is not in the repository")
                .hint("git fetch --refetch gets what a partial clone has left out")
        })?;
        let mut content = self.output.by_ref().take(size);
        let taken = take(size, &mut content)?;
        std::io::copy(&mut content, &mut std::io::sink()).map_err(failed())?;
        self.output.read_exact(&mut [0]).map_err(failed())?;
        Ok(taken)
    }
}

/// More than git writes before an object.
const MOST_HEAD_BYTES: u64 = 200;

impl Drop for Contents {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Repository, format!("the {what} cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_tree() {
        let digest = "0123456789abcdef0123456789abcdef01234567";
        let kind = |text: &str| {
            parse(format!("{text} {digest}\ta\tb\nc").as_bytes()).map(|(path, entry)| {
                assert_eq!((path.as_slice(), entry.object.as_str()), (&b"a\tb\nc"[..], digest));
                entry.kind
            })
        };
        assert_eq!(kind("100644 blob"), Some(Kind::File { executable: false }));
        assert_eq!(kind("100755 blob"), Some(Kind::File { executable: true }));
        assert_eq!(kind("120000 blob"), Some(Kind::Link));
        assert_eq!(kind("160000 commit"), Some(Kind::Submodule));
        assert_eq!(kind("040000 tree"), None);
        assert!(parse(b"100644 blob x\ta").is_none() && parse(b"100644 blob").is_none());
    }
}
