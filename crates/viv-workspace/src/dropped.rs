//! Hunks that were rejected of a copy, left out again of what its sandbox reports later.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::blobs::{Blobs, write_whole};
use crate::entry::{Digest, Manifest, Node, encode};
use crate::hunks::{TextDiff, is_binary};
use crate::store::Session;
use crate::view::LONGEST_TEXT_BYTES;
use crate::{Result, TreePath};

/// What a sandbox reported of a file, and what is shown of it: the same without the hunks that were rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    pub(crate) reported: Digest,
    pub(crate) shown: Digest,
}

/// Those of a state, by path.
pub(crate) type AllDropped = BTreeMap<TreePath, Dropped>;

/// Takes note of hunks that were rejected: what was shown before is shown without them now.
pub(crate) fn drop_hunks(all: &mut AllDropped, path: &TreePath, before: Digest, now: Digest) {
    let reported = all.get(path).filter(|dropped| dropped.shown == before).map_or(before, |dropped| dropped.reported);
    all.insert(path.clone(), Dropped { reported, shown: now });
}

impl Session {
    pub(crate) fn dropped(&self, id: &str) -> Result<AllDropped> {
        Ok(self.load(self.state(id, "dropped")?)?.unwrap_or_default())
    }

    pub(crate) fn save_dropped(&self, id: &str, all: &AllDropped) -> Result<()> {
        write_whole(&self.directory.join(self.state(id, "dropped")?), &encode(all)?, true)
    }

    /// Leaves out of a new report what was rejected of the one before, where the sandbox has changed neither those
    /// lines nor those next to them. What it has changed counts as rejected no more.
    pub(crate) fn leave_out(&mut self, id: &str, result: &mut Manifest) -> Result<()> {
        let before = self.dropped(id)?;
        let mut after = AllDropped::new();
        for (path, dropped) in &before {
            let Some(&Node::File { digest, size, mode }) = result.node(path) else { continue };
            if size > LONGEST_TEXT_BYTES {
                continue;
            }
            let Some(shown) = without(&mut self.blobs, dropped, digest)? else { continue };
            let size = shown.len() as u64;
            let shown = self.blobs.put(&shown)?;
            after.insert(path.clone(), Dropped { reported: digest, shown });
            result.set(path, Some(Node::File { digest: shown, size, mode }));
        }
        self.blobs.commit()?;
        if after != before { self.save_dropped(id, &after) } else { Ok(()) }
    }
}

/// A new report of a file without what was rejected of another one; none if nothing of that is left.
fn without(blobs: &mut Blobs, dropped: &Dropped, now: Digest) -> Result<Option<Vec<u8>>> {
    if now == dropped.reported {
        return blobs.get(&dropped.shown).map(Some);
    }
    let now = blobs.get(&now)?;
    if is_binary(&now) {
        return Ok(None);
    }
    let rejected = TextDiff::new(blobs.get(&dropped.reported)?, blobs.get(&dropped.shown)?);
    let untouched: BTreeSet<usize> = (0..rejected.hunks.len())
        .filter(|hunk| rejected.onto(&now, &BTreeSet::from([*hunk])).is_some_and(|without| without != now))
        .collect();
    Ok(rejected.onto(&now, &untouched).filter(|_| !untouched.is_empty()))
}
