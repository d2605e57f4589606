//! What differs between a base and a result, file by file.

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Manifest, Node};
use crate::{Notes, TreePath};

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// It is at another path, and may have changed as well.
    Renamed,
    /// Its content, its type or where it leads is another.
    Modified,
    /// Its permissions alone are others.
    Mode,
}

impl Kind {
    /// The letter git's `--name-status` has for it.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Deleted => 'D',
            Self::Renamed => 'R',
            Self::Modified | Self::Mode => 'M',
        }
    }
}

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Where it is, or was.
    pub path: TreePath,
    /// Where it was, if that is another path.
    pub from: Option<TreePath>,
    /// For a renamed one, how much of it is as it was, in percent.
    pub similarity: u8,
    /// What the base has.
    pub old: Option<Node>,
    /// What the result has.
    pub new: Option<Node>,
}

impl FileChange {
    /// What became of it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match (&self.old, &self.new) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Deleted,
            _ if self.from.is_some() => Kind::Renamed,
            (Some(Node::File { digest: old, .. }), Some(Node::File { digest: new, .. })) if old == new => Kind::Mode,
            _ => Kind::Modified,
        }
    }

    /// Whether it can be taken hunk by hunk: a file whose content is kept before and after, at one path.
    #[must_use]
    pub fn has_hunks(&self) -> bool {
        let is_file = |node: &Option<Node>| matches!(node, Some(Node::File { .. }));
        self.from.is_none() && is_file(&self.old) && is_file(&self.new) && self.kind() == Kind::Modified
    }

    /// The paths it concerns, with what the base and the result have there.
    #[must_use]
    pub fn parts(&self) -> Vec<(TreePath, Option<Node>, Option<Node>)> {
        match &self.from {
            None => vec![(self.path.clone(), self.old.clone(), self.new.clone())],
            Some(from) => {
                vec![(from.clone(), self.old.clone(), None), (self.path.clone(), None, self.new.clone())]
            }
        }
    }

    /// Whether it, or where it was, is `directory` or beneath it.
    #[must_use]
    pub fn is_beneath(&self, directory: &[u8]) -> bool {
        self.path.is_beneath(directory) || self.from.as_ref().is_some_and(|from| from.is_beneath(directory))
    }
}

/// All that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// By path.
    pub files: Vec<FileChange>,
    /// What was left out.
    pub notes: Notes,
}

impl Diff {
    /// Everything, as chosen.
    #[must_use]
    pub fn all(&self) -> Selection {
        self.select(&[Vec::new()])
    }

    /// What is at or beneath one of the paths, the empty one being everything; as chosen.
    #[must_use]
    pub fn select(&self, paths: &[Vec<u8>]) -> Selection {
        let chosen = self.files.iter().filter(|file| paths.iter().any(|path| file.is_beneath(path)));
        Selection(chosen.map(|file| (file.clone(), Chosen::Whole)).collect())
    }
}

/// What of a file is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// All of it.
    Whole,
    /// These hunks of [`crate::hunks::TextDiff::hunks`], by number, and not its permissions.
    Hunks(BTreeSet<usize>),
}

/// Changes that were shown to someone, and chosen. What has become another change since is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(pub Vec<(FileChange, Chosen)>);

/// What differs between two manifests, renames not looked for.
pub(crate) fn compare(old: &Manifest, new: &Manifest) -> Vec<FileChange> {
    let mut changes: BTreeMap<&TreePath, FileChange> = BTreeMap::new();
    let change = |path: &TreePath, old: Option<&Node>, new: Option<&Node>| FileChange {
        path: path.clone(),
        from: None,
        similarity: 0,
        old: old.cloned(),
        new: new.cloned(),
    };
    for (path, entry) in &old.entries {
        let now = new.node(path);
        if now != Some(&entry.node) {
            changes.insert(path, change(path, Some(&entry.node), now));
        }
    }
    for (path, entry) in new.entries.iter().filter(|(path, _)| !old.entries.contains_key(*path)) {
        changes.insert(path, change(path, None, Some(&entry.node)));
    }
    changes.into_values().collect()
}
