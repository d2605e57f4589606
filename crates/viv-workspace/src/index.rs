//! Which files git tracks, from its index: files that are tracked although a rule ignores them.
//!
//! The format is git's `index-format`, versions 2 to 4. An index is read before a guest has run, and what it
//! says decides only which ignored files are kept as well.

use crate::TreePath;

/// The most entries that are looked at.
const MOST_ENTRIES: u32 = 2_000_000;

/// The fixed part of an entry without the object's name: times, device, inode, mode, owner, size.
const STAT_BYTES: usize = 40;

/// The paths that an index of git's names, those of other repositories left out; none if it cannot be read, as one
/// that is split. Versions 2 to 4, with SHA-1 or SHA-256; at most 2,000,000 entries.
#[must_use]
pub fn tracked(bytes: &[u8]) -> Option<Vec<TreePath>> {
    // Which hash the repository uses is said elsewhere; the wrong one soon leads nowhere.
    parse(bytes, 20).or_else(|| parse(bytes, 32))
}

fn parse(bytes: &[u8], hash_bytes: usize) -> Option<Vec<TreePath>> {
    let mut input = Input { bytes, at: 0 };
    if input.take(4)? != b"DIRC" {
        return None;
    }
    let version = input.number()?;
    let count = input.number()?;
    if !(2..=4).contains(&version) || count > MOST_ENTRIES {
        return None;
    }
    let mut paths = Vec::new();
    let mut name: Vec<u8> = Vec::new();
    for _ in 0..count {
        let began = input.at;
        let stat = input.take(STAT_BYTES)?;
        let mode = u32::from_be_bytes(stat[24..28].try_into().ok()?);
        input.take(hash_bytes)?;
        let flags = input.take(2)?;
        if version >= 3 && flags[0] & 0x40 != 0 {
            input.take(2)?;
        }
        if version == 4 {
            let cut = input.varint()?;
            let kept = name.len().checked_sub(cut)?;
            name.truncate(kept);
            name.extend_from_slice(input.until_nul()?);
        } else {
            name = input.until_nul()?.to_vec();
            // The entry, its terminator included, is padded to a multiple of eight bytes.
            input.at = began + (input.at - began).next_multiple_of(8);
        }
        let kind = mode >> 12;
        if !matches!(kind, 0o10 | 0o12 | 0o16 | 0o04) {
            return None;
        }
        if matches!(kind, 0o10 | 0o12)
            && let Ok(path) = TreePath::new(name.as_slice())
        {
            paths.push(path);
        }
    }
    Some(paths)
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn until_nul(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let length = rest.iter().position(|byte| *byte == 0)?;
        self.at += length + 1;
        Some(&rest[..length])
    }

    /// A number as pack files have offsets.
    fn varint(&mut self) -> Option<usize> {
        let mut byte = self.take(1)?[0];
        let mut value = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.take(1)?[0];
            value = value.checked_add(1)?.checked_mul(128)?.checked_add(usize::from(byte & 0x7f))?;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn git_itself_writes_what_is_read() {
        let root = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").current_dir(root.path());
            let output = git.args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        let names = ["a", "dir/abcdefgh", "dir/abcdefghi", "dir/x y", "z\nz"];
        for format in ["sha1", "sha256"] {
            for version in ["2", "4"] {
                let _ = std::fs::remove_dir_all(root.path().join(".git"));
                git(&["init", "-q", "--object-format", format]);
                std::fs::create_dir_all(root.path().join("dir")).unwrap();
                for name in names {
                    std::fs::write(root.path().join(name), name).unwrap();
                }
                git(&["add", "-A"]);
                git(&["update-index", "--index-version", version]);
                let index = std::fs::read(root.path().join(".git/index")).unwrap();
                let read: Vec<String> = tracked(&index)
                    .unwrap()
                    .iter()
                    .map(|path| String::from_utf8_lossy(path.as_bytes()).into())
                    .collect();
                assert_eq!(read, names, "{format} {version}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, version in 1_u8..6, count in 0_u8..9) {
            let _ = tracked(&bytes);
            let header = [b"DIRC".as_slice(), &[0, 0, 0, version, 0, 0, 0, count]].concat();
            bytes.splice(0..0, header);
            let _ = tracked(&bytes);
        }
    }
}
