//! Files that are at another path: the same content, or enough of it.

use std::collections::HashMap;

use crate::diff::{FileChange, Kind};
use crate::entry::{Digest, Node};
use crate::hunks::{is_binary, lines};

/// A file of which this part, in percent, is another's is that one renamed, as git has it.
const SIMILAR_PERCENT: u64 = 50;

/// More new or gone files than this are compared by their whole contents alone.
const MOST_COMPARED: usize = 200;

/// Larger files are compared by their whole contents alone, in bytes.
const LARGEST_COMPARED_BYTES: u64 = 1 << 20;

/// More than this of new and gone files together is not compared, in bytes: a guest may have made each of their lines
/// another one.
const MOST_COMPARED_BYTES: u64 = 16 << 20;

/// Makes one change of each pair of a file that is gone and one that is new, where they are alike. `content` gives
/// what a digest stands for, if it can.
pub(crate) fn detect(files: Vec<FileChange>, mut content: impl FnMut(&Digest) -> Option<Vec<u8>>) -> Vec<FileChange> {
    let of_kind = |kind: Kind| {
        let indexes = files.iter().enumerate().filter(move |(_, file)| file.kind() == kind);
        indexes.map(|(index, _)| index).collect::<Vec<_>>()
    };
    let (mut gone, mut new) = (of_kind(Kind::Deleted), of_kind(Kind::Added));
    let mut pairs: HashMap<usize, (usize, u8)> = HashMap::new();

    // The same content; empty files are alike without being the same.
    let mut by_content: HashMap<(Digest, &[u8]), Vec<usize>> = HashMap::new();
    let mut by_digest: HashMap<Digest, Vec<usize>> = HashMap::new();
    for index in &gone {
        if let Some(Node::File { digest, size: 1.., .. }) = &files[*index].old {
            by_content.entry((*digest, files[*index].path.name())).or_default().push(*index);
            by_digest.entry(*digest).or_default().push(*index);
        }
    }
    let mut taken = std::collections::HashSet::new();
    // First those that keep their name.
    for keep_name in [true, false] {
        for index in &new {
            let Some(digest) = files[*index].new.as_ref().and_then(Node::digest) else { continue };
            if pairs.contains_key(index) {
                continue;
            }
            let candidates =
                if keep_name { by_content.get(&(digest, files[*index].path.name())) } else { by_digest.get(&digest) };
            if let Some(from) = candidates.into_iter().flatten().find(|from| !taken.contains(*from)) {
                taken.insert(*from);
                pairs.insert(*index, (*from, 100));
            }
        }
    }
    gone.retain(|index| !taken.contains(index));
    new.retain(|index| !pairs.contains_key(index));

    if gone.len() <= MOST_COMPARED && new.len() <= MOST_COMPARED && !gone.is_empty() && !new.is_empty() {
        let mut room = MOST_COMPARED_BYTES;
        let mut read = |node: &Option<Node>| match node {
            Some(Node::File { digest, size, .. }) if (1..=LARGEST_COMPARED_BYTES.min(room)).contains(size) => {
                room -= size;
                content(digest).filter(|content| !is_binary(content)).map(|content| Weights::of(&content))
            }
            _ => None,
        };
        let old: Vec<_> = gone.iter().filter_map(|index| Some((*index, read(&files[*index].old)?))).collect();
        let new: Vec<_> = new.iter().filter_map(|index| Some((*index, read(&files[*index].new)?))).collect();
        let mut alike: Vec<(u64, usize, usize)> = Vec::new();
        for (to, new) in &new {
            for (from, old) in &old {
                let percent = old.similarity(new);
                if percent >= SIMILAR_PERCENT {
                    alike.push((percent, *from, *to));
                }
            }
        }
        alike.sort_by_key(|(percent, from, to)| (std::cmp::Reverse(*percent), *to, *from));
        for (percent, from, to) in alike {
            if !taken.contains(&from) && !pairs.contains_key(&to) {
                taken.insert(from);
                pairs.insert(to, (from, u8::try_from(percent).unwrap_or(100)));
            }
        }
    }

    let old_of: HashMap<usize, (crate::TreePath, Option<Node>)> =
        taken.iter().map(|from| (*from, (files[*from].path.clone(), files[*from].old.clone()))).collect();
    let mut result = Vec::with_capacity(files.len());
    for (index, mut file) in files.into_iter().enumerate() {
        if taken.contains(&index) {
            continue;
        }
        if let Some((from, similarity)) = pairs.get(&index) {
            let (path, old) = old_of[from].clone();
            file.from = Some(path);
            file.old = old;
            file.similarity = *similarity;
        }
        result.push(file);
    }
    result
}

/// How many bytes of a text are in each of its different lines.
struct Weights {
    lines: HashMap<Vec<u8>, u64>,
    total: u64,
}

impl Weights {
    fn of(content: &[u8]) -> Self {
        let mut weights = HashMap::new();
        for line in lines(content) {
            *weights.entry(line.to_vec()).or_default() += line.len() as u64;
        }
        Self { lines: weights, total: content.len() as u64 }
    }

    /// What part of the larger text is in both, in percent.
    fn similarity(&self, other: &Self) -> u64 {
        let (larger, smaller) = (self.total.max(other.total), self.total.min(other.total));
        if smaller * 100 < larger * SIMILAR_PERCENT {
            return 0;
        }
        let common: u64 =
            self.lines.iter().map(|(line, weight)| other.lines.get(line).map_or(0, |w| *w.min(weight))).sum();
        common * 100 / larger.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TreePath;
    use crate::blobs::digest_of;

    #[test]
    fn no_more_is_read_than_is_compared() {
        let file = |path: String, fill: u8, is_new: bool| {
            let node = Some(Node::File { digest: digest_of(&[fill]), size: LARGEST_COMPARED_BYTES, mode: 0o644 });
            let (old, new) = if is_new { (None, node) } else { (node, None) };
            FileChange { path: TreePath::new(path).unwrap(), from: None, similarity: 0, old, new }
        };
        let files: Vec<FileChange> = (0..40).map(|n| file(format!("{n:02}"), n, n > 0)).collect();
        let mut read = 0;
        let found = detect(files.clone(), |_| {
            read += LARGEST_COMPARED_BYTES;
            Some(b"line\n".to_vec())
        });
        assert_eq!(read, MOST_COMPARED_BYTES);
        assert_eq!(found.iter().filter(|file| file.kind() == Kind::Renamed).count(), 1);
        assert_eq!(found.len(), files.len() - 1);
    }

    #[test]
    fn moved_and_changed_files_are_found_and_strangers_are_not() {
        let long: Vec<String> = (0..50).map(|line| format!("line {line}\n")).collect();
        let mut edited = long.clone();
        edited[7] = "another\n".into();
        let contents = [long.concat(), edited.concat(), "short\n".into(), "quite another text\n".into(), String::new()];
        let file = |number: usize| {
            let bytes = contents[number].as_bytes();
            Some(Node::File { digest: digest_of(bytes), size: bytes.len() as u64, mode: 0o644 })
        };
        let change = |path: &str, old, new| FileChange {
            path: TreePath::new(path).unwrap(),
            from: None,
            similarity: 0,
            old,
            new,
        };
        let files = vec![
            change("a/long", file(0), None),
            change("b/long", None, file(1)),
            change("c", None, file(2)),
            change("d/c", None, file(2)),
            change("e/c", file(2), None),
            change("f", file(3), None),
            change("g", None, file(4)),
            change("h", file(4), None),
        ];
        let content = |digest: &Digest| {
            contents.iter().map(|text| text.as_bytes().to_vec()).find(|bytes| digest_of(bytes) == *digest)
        };
        let found: Vec<String> = detect(files, content)
            .iter()
            .map(|file| format!("{} {:?} {} {}", file.kind().letter(), file.from, file.path, file.similarity))
            .collect();
        assert_eq!(
            found,
            [
                "R Some(\"a/long\") b/long 97",
                "R Some(\"e/c\") c 100",
                "A None d/c 0",
                "D None f 0",
                "A None g 0",
                "D None h 0"
            ]
        );
    }
}
