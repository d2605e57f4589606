//! What changed in a text, in hunks that can be taken one by one.

use std::collections::BTreeSet;
use std::ops::Range;

use imara_diff::{Algorithm, Diff, InternedInput};

/// Lines of context that are shown around a change. Changes nearer to each other than twice this are one hunk.
pub const CONTEXT_LINES: u32 = 3;

/// Lines of the old text that lines of the new one stand in for. Numbered from zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// In the old text; empty where lines were added.
    pub old: Range<u32>,
    /// In the new text; empty where lines were removed.
    pub new: Range<u32>,
}

/// Two texts and how they differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextDiff {
    /// The old text.
    pub old: Vec<u8>,
    /// The new text.
    pub new: Vec<u8>,
    /// Each changed place alone.
    pub changes: Vec<Hunk>,
    /// Changed places, those that are near each other together with what is between them.
    pub hunks: Vec<Hunk>,
}

impl TextDiff {
    /// Compares two texts line by line. Any bytes are a text; time and memory are bounded by their length, since
    /// the algorithm gives up looking for the best answer where that is costly.
    #[must_use]
    pub fn new(old: Vec<u8>, new: Vec<u8>) -> Self {
        let changes = changes(&old, &new);
        let mut hunks: Vec<Hunk> = Vec::new();
        for change in &changes {
            match hunks.last_mut() {
                Some(last) if change.old.start - last.old.end <= 2 * CONTEXT_LINES => {
                    last.old.end = change.old.end;
                    last.new.end = change.new.end;
                }
                _ => hunks.push(change.clone()),
            }
        }
        Self { old, new, changes, hunks }
    }

    /// How many lines were added, and how many removed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.changes
            .iter()
            .fold((0, 0), |(added, removed), change| (added + change.new.len(), removed + change.old.len()))
    }

    /// The lines of the old text.
    #[must_use]
    pub fn old_lines(&self) -> Vec<&[u8]> {
        lines(&self.old)
    }

    /// The lines of the new text.
    #[must_use]
    pub fn new_lines(&self) -> Vec<&[u8]> {
        lines(&self.new)
    }

    /// The old text with some of the hunks, by their number, made the new one's.
    #[must_use]
    pub fn with(&self, chosen: &BTreeSet<usize>) -> Vec<u8> {
        let new = self.new_lines();
        let replaced = self.hunks.iter().enumerate().filter(|(number, _)| chosen.contains(number));
        let replaced: Vec<_> = replaced
            .map(|(_, hunk)| (hunk.old.clone(), &new[hunk.new.start as usize..hunk.new.end as usize]))
            .collect();
        replace(&self.old_lines(), &replaced)
    }

    /// Another text, descended from the old one, with some of the hunks made the new one's; none if that text
    /// differs from the old one in or next to one of them. A change that is there already counts as made.
    #[must_use]
    pub fn onto(&self, other: &[u8], chosen: &BTreeSet<usize>) -> Option<Vec<u8>> {
        let theirs = changes(&self.old, other);
        let (new, others) = (self.new_lines(), lines(other));
        let slice = |lines: &[&[u8]], range: &Range<u32>| lines[range.start as usize..range.end as usize].concat();
        let mut replaced = Vec::new();
        for ours in &self.changes {
            let number =
                self.hunks.iter().position(|hunk| hunk.old.start <= ours.old.start && ours.old.end <= hunk.old.end);
            if !number.is_some_and(|number| chosen.contains(&number)) {
                continue;
            }
            let mut touching =
                theirs.iter().filter(|their| their.old.start <= ours.old.end && ours.old.start <= their.old.end);
            match (touching.next(), touching.next()) {
                (None, _) => {}
                (Some(only), None) if only.old == ours.old && slice(&others, &only.new) == slice(&new, &ours.new) => {
                    continue;
                }
                _ => return None,
            }
            let before = theirs.iter().filter(|their| their.old.end < ours.old.start);
            let (grown, shrunk) =
                before.fold((0, 0), |(grown, shrunk), their| (grown + their.new.len(), shrunk + their.old.len()));
            let moved = |line: u32| u32::try_from(line as usize + grown - shrunk).unwrap_or(u32::MAX);
            let lines = &new[ours.new.start as usize..ours.new.end as usize];
            replaced.push((moved(ours.old.start)..moved(ours.old.end), lines));
        }
        Some(replace(&others, &replaced))
    }
}

/// The lines with some ranges, in order, made other lines.
fn replace(lines: &[&[u8]], replaced: &[(Range<u32>, &[&[u8]])]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut at = 0;
    for (range, with) in replaced {
        let (start, end) = (range.start as usize, range.end as usize);
        lines[at..start].iter().chain(with.iter()).for_each(|line| text.extend_from_slice(line));
        at = end;
    }
    lines[at..].iter().for_each(|line| text.extend_from_slice(line));
    text
}

fn changes(old: &[u8], new: &[u8]) -> Vec<Hunk> {
    let input = InternedInput::new(old, new);
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    diff.hunks().map(|hunk| Hunk { old: hunk.before, new: hunk.after }).collect()
}

/// A text's lines, each with its end.
#[must_use]
pub fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Whether git would take it for binary: a NUL among the first 8000 bytes.
#[must_use]
pub fn is_binary(content: &[u8]) -> bool {
    content.iter().take(8000).any(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbered(count: u32, changed: &[(u32, &str)]) -> Vec<u8> {
        let line = |number| {
            changed
                .iter()
                .find(|(at, _)| *at == number)
                .map_or_else(|| format!("{number}\n"), |(_, with)| (*with).to_owned())
        };
        (0..count).map(line).collect::<String>().into_bytes()
    }

    #[test]
    fn changes_near_each_other_are_one_hunk() {
        let diff = TextDiff::new(numbered(40, &[]), numbered(40, &[(2, "two\n"), (8, ""), (30, "30\nnew\n")]));
        assert_eq!(diff.hunks, [Hunk { old: 2..9, new: 2..8 }, Hunk { old: 31..31, new: 30..31 }]);
        assert_eq!((diff.changes.len(), diff.counts()), (3, (2, 2)));
    }

    #[test]
    fn some_hunks_are_taken_onto_what_the_host_has() {
        let diff = TextDiff::new(numbered(40, &[]), numbered(40, &[(2, "two\n"), (30, "thirty\n")]));
        assert_eq!(diff.with(&BTreeSet::from([1])), numbered(40, &[(30, "thirty\n")]));
        // Elsewhere the host's own change stays, and moves the place.
        let host = numbered(40, &[(12, "a\nb\nc\n")]);
        let both = numbered(40, &[(12, "a\nb\nc\n"), (30, "thirty\n")]);
        assert_eq!(diff.onto(&host, &BTreeSet::from([1])), Some(both));
        // In the same place or next to it nobody knows what is meant.
        for at in [29, 30, 31] {
            assert_eq!(diff.onto(&numbered(40, &[(at, "other\n")]), &BTreeSet::from([1])), None);
        }
        // The same change is no conflict.
        let there = numbered(40, &[(30, "thirty\n")]);
        assert_eq!(diff.onto(&there, &BTreeSet::from([1])), Some(there.clone()));
    }

    #[test]
    fn a_missing_end_of_the_last_line_is_a_change() {
        let diff = TextDiff::new(b"a\nb".to_vec(), b"a\nb\n".to_vec());
        assert_eq!(diff.hunks, [Hunk { old: 1..2, new: 1..2 }]);
        assert_eq!(diff.with(&BTreeSet::from([0])), b"a\nb\n");
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec("[abc]\n|\n|x", 0..40).prop_map(|lines| lines.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn all_hunks_make_the_new_text_and_none_the_old(old in text(), new in text()) {
            let diff = TextDiff::new(old.clone(), new.clone());
            let all: BTreeSet<usize> = (0..diff.hunks.len()).collect();
            prop_assert_eq!(diff.with(&all), new.clone());
            prop_assert_eq!(diff.with(&BTreeSet::new()), old.clone());
            prop_assert_eq!(diff.onto(&old, &all), Some(new.clone()));
            prop_assert_eq!(diff.onto(&new, &all), Some(new));
        }

        #[test]
        fn any_other_text_is_merged_or_refused(old in text(), new in text(), other in text()) {
            let diff = TextDiff::new(old, new);
            let all: BTreeSet<usize> = (0..diff.hunks.len()).collect();
            let _ = diff.onto(&other, &all);
            prop_assert_eq!(diff.onto(&other, &BTreeSet::new()), Some(other));
        }
    }
}
