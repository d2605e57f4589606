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
    /// Compares two texts line by line. Any bytes are a text; of texts whose lines are very many and mostly the same
    /// few, all from the first to the last that differs is one change, so that some megabytes take some seconds.
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
        // Both are in order, and are gone through side by side: a text may have as many of them as lines.
        let (mut passed, mut grown, mut shrunk) = (0, 0, 0);
        for ours in &self.changes {
            let number = self.hunks.partition_point(|hunk| hunk.old.end < ours.old.start);
            if !chosen.contains(&number) {
                continue;
            }
            while let Some(their) = theirs.get(passed).filter(|their| their.old.end < ours.old.start) {
                (grown, shrunk) = (grown + their.new.len(), shrunk + their.old.len());
                passed += 1;
            }
            let mut touching = theirs[passed..].iter().take_while(|their| their.old.start <= ours.old.end);
            match (touching.next(), touching.next()) {
                (None, _) => {}
                (Some(only), None) if only.old == ours.old && slice(&others, &only.new) == slice(&new, &ours.new) => {
                    continue;
                }
                _ => return None,
            }
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

/// Two texts of so many lines together are compared in the way that people find easiest to read. Its time grows with
/// the square of their number.
const READABLE_LINES: usize = 20_000;

/// Lines that are in the texts more often than this are common.
const COMMON: u32 = 8;

/// More common lines than this are not compared: the other way's time grows with the square of their number, to a
/// second or a few at this one, and hardly with that of others.
const MOST_COMMON_LINES: usize = 100_000;

fn changes(old: &[u8], new: &[u8]) -> Vec<Hunk> {
    let input = InternedInput::new(old, new);
    let algorithm = if input.before.len() + input.after.len() <= READABLE_LINES {
        Algorithm::Histogram
    } else if common_lines(&input) <= MOST_COMMON_LINES {
        Algorithm::Myers
    } else {
        return one_change(&input);
    };
    let mut diff = Diff::compute(algorithm, &input);
    diff.postprocess_lines(&input);
    diff.hunks().map(|hunk| Hunk { old: hunk.before, new: hunk.after }).collect()
}

fn common_lines(input: &InternedInput<&[u8]>) -> usize {
    let mut counts = vec![0_u32; input.interner.num_tokens() as usize];
    let all = || input.before.iter().chain(&input.after).map(|token| token.0 as usize);
    all().for_each(|token| counts[token] += 1);
    all().filter(|token| counts[*token] > COMMON).count()
}

/// From the first line that differs to the last.
fn one_change(input: &InternedInput<&[u8]>) -> Vec<Hunk> {
    let (old, new) = (&input.before, &input.after);
    let begin = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let rest = old[begin..].iter().rev().zip(new[begin..].iter().rev());
    let end = rest.take_while(|(old, new)| old == new).count();
    let range = |length: usize| {
        let number = |line: usize| u32::try_from(line).unwrap_or(u32::MAX);
        number(begin)..number(length - end)
    };
    let change = Hunk { old: range(old.len()), new: range(new.len()) };
    if change.old.is_empty() && change.new.is_empty() { Vec::new() } else { vec![change] }
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

    /// If each hunk looked at all others, nobody would wait for this.
    #[test]
    fn a_text_may_have_very_many_hunks() {
        let line = |number: u32, with: &str| format!("{number}{}\n", if number % 8 == 3 { with } else { "" });
        let [old, new] = ["a", "b"].map(|with| (0..80_000).map(|number| line(number, with)).collect::<String>());
        let (old, new) = (old.into_bytes(), new.into_bytes());
        let diff = TextDiff::new(old.clone(), new.clone());
        let all: BTreeSet<usize> = (0..diff.hunks.len()).collect();
        assert_eq!(diff.hunks.len(), 10_000);
        assert_eq!(diff.with(&all), new);
        assert_eq!(diff.onto(&old, &all), Some(new.clone()));
        assert_eq!(diff.onto(&new, &all), Some(new));
    }

    #[test]
    fn very_many_lines_of_which_most_are_the_same_are_one_change() {
        let text = |with: &str| -> Vec<u8> {
            let line = |number: u32| if number % 8 == 3 { with } else { "\n" };
            (0..400_000).map(line).collect::<String>().into_bytes()
        };
        let (old, new) = (text("a\n"), text("b\n"));
        let diff = TextDiff::new(old.clone(), new.clone());
        assert_eq!(diff.hunks, [Hunk { old: 3..399_996, new: 3..399_996 }]);
        assert_eq!(diff.onto(&old, &BTreeSet::from([0])), Some(new.clone()));
        assert!(TextDiff::new(new.clone(), new).hunks.is_empty());
        let longer = [old.as_slice(), b"\n"].concat();
        assert_eq!(TextDiff::new(old, longer).hunks, [Hunk { old: 400_000..400_000, new: 400_000..400_001 }]);
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
