//! Which files git tracks, from its index: files that are tracked although a rule ignores them.
//!
//! The format is git's `index-format`, versions 2 to 4. An index is read before a guest has run, and what it
//! says decides only which ignored files are kept as well.

use crate::TreePath;

/// The most entries that are looked at.
const MOST_ENTRIES: u32 = 2_000_000;

/// The fixed part of an entry without the object's name: times, device, inode, mode, owner, size.
const STAT_BYTES: usize = 40;

/// The paths that an index of git's names, those of other repositories left out; none if it cannot be read. Versions 2
/// to 4, with SHA-1 or SHA-256; at most 2,000,000 entries.
///
/// An index may be split (`core.splitIndex`): then it says only what differs from a shared one beside it, which
/// `shared` is asked for by its name.
#[must_use]
pub fn tracked(bytes: &[u8], shared: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<TreePath>> {
    // Which hash the repository uses is said elsewhere; the wrong one soon leads nowhere.
    let (index, hash_bytes) =
        [20, 32].into_iter().find_map(|hash_bytes| Some((parse(bytes, hash_bytes)?, hash_bytes)))?;
    let mut paths: Vec<TreePath> = index.entries.into_iter().flatten().collect();
    if let Some(split) = index.split {
        let shared = parse(&shared(&split.name)?, hash_bytes)?;
        if shared.split.is_some() {
            return None;
        }
        let kept = shared.entries.into_iter().zip(split.deleted.into_iter().chain(std::iter::repeat(false)));
        paths.extend(kept.filter_map(|(path, is_deleted)| path.filter(|_| !is_deleted)));
        paths.sort();
        paths.dedup();
    }
    Some(paths)
}

struct Index {
    /// In git's order; none for what is no file of this repository, and for what has the place of an entry of the
    /// shared index and its name.
    entries: Vec<Option<TreePath>>,
    split: Option<Split>,
}

struct Split {
    /// The file of the shared index.
    name: String,
    /// Which of its entries are not there any more; the others are.
    deleted: Vec<bool>,
}

fn parse(bytes: &[u8], hash_bytes: usize) -> Option<Index> {
    let mut input = Input { bytes, at: 0 };
    if input.take(4)? != b"DIRC" {
        return None;
    }
    let version = input.number()?;
    let count = input.number()?;
    if !(2..=4).contains(&version) || count > MOST_ENTRIES {
        return None;
    }
    let mut entries = Vec::new();
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
        let is_file = matches!(kind, 0o10 | 0o12);
        entries.push(is_file.then(|| TreePath::new(name.as_slice()).ok()).flatten());
    }
    let mut split = None;
    // A hash of all of it is at the end.
    while bytes.len().saturating_sub(input.at) > hash_bytes {
        let signature = input.take(4)?;
        let size = usize::try_from(input.number()?).ok()?;
        let content = input.take(size)?;
        if signature == b"link" {
            split = link(content, hash_bytes)?;
        }
    }
    Some(Index { entries, split })
}

/// What the extension of a split index says; outer none for what is no such extension, inner none where it names no
/// shared one.
fn link(content: &[u8], hash_bytes: usize) -> Option<Option<Split>> {
    let mut input = Input { bytes: content, at: 0 };
    let hash = input.take(hash_bytes)?;
    if hash.iter().all(|byte| *byte == 0) {
        return Some(None);
    }
    let name = format!("sharedindex.{}", hex::encode(hash));
    let deleted = if content.len() == hash_bytes { Vec::new() } else { input.bitmap()? };
    Some(Some(Split { name, deleted }))
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

    /// A bitmap as git's `bitmap-format` has it (EWAH): runs of equal words, each followed by some literal ones.
    fn bitmap(&mut self) -> Option<Vec<bool>> {
        let bits = self.number().filter(|bits| *bits <= MOST_ENTRIES)? as usize;
        let words = self.number().filter(|words| *words <= MOST_ENTRIES)?;
        let mut bitmap = Vec::new();
        let (mut literals, mut read) = (0, 0);
        while read < words {
            let word = self.word()?;
            read += 1;
            if literals > 0 {
                literals -= 1;
                bitmap.extend((0..64).map(|bit| word >> bit & 1 == 1));
            } else {
                let run = usize::try_from(word >> 1 & 0xffff_ffff).ok()?.saturating_mul(64);
                bitmap.resize(bitmap.len().saturating_add(run).min(bits), word & 1 == 1);
                literals = word >> 33;
            }
            if bitmap.len() > bits + 64 {
                return None;
            }
        }
        // Where the last run is that can be added to.
        self.number()?;
        bitmap.truncate(bits);
        Some(bitmap)
    }

    fn word(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
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
                let read = || -> Vec<String> {
                    let read = |name: &str| std::fs::read(root.path().join(".git").join(name)).ok();
                    let paths = tracked(&read("index").unwrap(), read).unwrap();
                    paths.iter().map(|path| String::from_utf8_lossy(path.as_bytes()).into()).collect()
                };
                assert_eq!(read(), names, "{format} {version}");
                // The index says what has changed since, the shared one the rest.
                git(&["update-index", "--split-index"]);
                git(&["-c", "splitIndex.maxPercentChange=100", "rm", "-q", "--cached", "dir/abcdefgh"]);
                std::fs::write(root.path().join("a"), "other").unwrap();
                std::fs::write(root.path().join("new"), "new").unwrap();
                git(&["-c", "splitIndex.maxPercentChange=100", "add", "a", "new"]);
                let index = std::fs::read(root.path().join(".git/index")).unwrap();
                assert!(index.windows(4).any(|word| word == b"link"), "it is split");
                let split = ["a", "dir/abcdefghi", "dir/x y", "new", "z\nz"];
                assert_eq!(read(), split, "split, {format} {version}");
                assert!(tracked(&index, |_| None).is_none());
                std::fs::remove_file(root.path().join("new")).unwrap();
            }
        }
    }

    #[test]
    fn a_bitmap_of_runs_and_literal_words() {
        let bitmap = |bits: u32, words: &[u64]| {
            let mut bytes = bits.to_be_bytes().to_vec();
            bytes.extend(u32::try_from(words.len()).unwrap().to_be_bytes());
            words.iter().for_each(|word| bytes.extend(word.to_be_bytes()));
            bytes.extend(0_u32.to_be_bytes());
            Input { bytes: &bytes, at: 0 }.bitmap()
        };
        let run = |bit: u64, length: u64, literals: u64| bit | length << 1 | literals << 33;
        let set = |bitmap: Vec<bool>| {
            bitmap.iter().enumerate().filter(|(_, bit)| **bit).map(|(at, _)| at).collect::<Vec<_>>()
        };
        assert_eq!(set(bitmap(70, &[run(0, 1, 1), 0b101]).unwrap()), [64, 66]);
        assert_eq!(set(bitmap(66, &[run(1, 1, 0)]).unwrap()).len(), 64);
        assert_eq!(bitmap(10, &[run(1, u64::from(u32::MAX), 0)]).unwrap(), [true; 10]);
        assert!(bitmap(10, &[run(0, 0, 3), 0, 0, 0]).is_none(), "longer than it says");
        assert!(bitmap(u32::MAX, &[]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, version in 1_u8..6, count in 0_u8..9) {
            let _ = tracked(&bytes, |_| None);
            let header = [b"DIRC".as_slice(), &[0, 0, 0, version, 0, 0, 0, count]].concat();
            bytes.splice(0..0, header);
            let _ = tracked(&bytes, |_| Some(bytes.clone()));
            // Nothing but that it is split.
            let size = u8::try_from(bytes.len().min(200)).unwrap_or_default();
            let head = b"DIRC\0\0\0\x02\0\0\0\0link\0\0\0".as_slice();
            let link = [head, &[size], &bytes[..usize::from(size)], &[0; 33]].concat();
            let _ = tracked(&link, |_| Some(bytes.clone()));
        }
    }
}
