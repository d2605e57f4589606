//! The files the guest knows, most of them without a descriptor.
//!
//! virtiofsd holds a descriptor for every file the guest's kernel has looked at and not forgotten, and the guest
//! forgets when it likes. This table stands between them: the guest is given numbers of its own, and only as many of
//! them as the budget allows are *live*, that is, known to virtiofsd. The others are *away*: all that is kept is
//! their place, a parent and a name, by which they are looked up again when the guest asks for them. If another file
//! is found there then, the guest gets ESTALE, on which its kernel looks up the path anew.
//!
//! ```text
//!                lookup                  budget exceeded, not in use, has a place
//!   (unknown) ------------> live ---------------------------------------------> away
//!       ^                   |  ^                                                  |
//!       |   forgotten       |  |         used again, same file at its place       |
//!       +-------------------+  +--------------------------------------------------+
//!       +<------------------------------------------------------------- forgotten +
//! ```
//!
//! A file in use, by an open handle or a running request, stays live. So does one that was removed or replaced:
//! it has no place it could be found at.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::sync::Arc;

/// The number of the root, for the guest and for virtiofsd.
pub(crate) const ROOT: u64 = 1;

/// How many nodes are looked at, at most, to make room for one: the budget may be exceeded for a while instead.
const MOST_CANDIDATES: usize = 64;

/// What tells whether the file at a place is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its inode number on the host.
    pub(crate) number: u64,
    /// The type bits of its mode.
    pub(crate) kind: u32,
}

/// What changes whenever the contents of a file change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Its size, in bytes.
    pub(crate) size: u64,
    /// When its contents changed: seconds and nanoseconds.
    pub(crate) modified: (u64, u32),
    /// When anything about it changed: seconds and nanoseconds. Nobody can set this one.
    pub(crate) changed: (u64, u32),
}

/// Where a file is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// virtiofsd knows it by this number.
    Live(u64),
    /// It must be looked up.
    Away {
        /// The guest's number of its directory.
        parent: u64,
        /// Its name there.
        name: Arc<CStr>,
        /// What it must be.
        identity: Identity,
    },
    /// Another file took its place while it was away. It is not marked as in use.
    Lost,
}

#[derive(Debug)]
struct Node {
    inner: Option<u64>,
    place: Option<(u64, Arc<CStr>)>,
    identity: Identity,
    /// How often the guest has been told of it.
    lookups: u64,
    /// Requests and handles that use it.
    pins: usize,
    /// The nodes whose place is in this one, by name.
    children: HashMap<Arc<CStr>, u64>,
    /// Used since the last time it was considered for eviction.
    recent: bool,
    /// What it was when it was last opened, if later changes are sure to show.
    seen: Option<Stamp>,
}

/// The table. Numbers that virtiofsd must forget, once each, are returned by the functions that let go of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: HashMap<u64, Node>,
    by_inner: HashMap<u64, u64>,
    /// Candidates for eviction, the longest unused first; may name nodes that are gone or away.
    queue: VecDeque<u64>,
    live: usize,
    budget: usize,
    /// Never used before, not even before everything was forgotten.
    next: u64,
}

impl Nodes {
    /// A table that knows the root only and wants at most `budget` live nodes.
    pub(crate) fn new(budget: usize) -> Self {
        let mut nodes = Self {
            nodes: HashMap::new(),
            by_inner: HashMap::new(),
            queue: VecDeque::new(),
            live: 0,
            budget: budget.max(1),
            next: ROOT + 1,
        };
        nodes.clear();
        nodes
    }

    /// Forgets everything but the root, without telling virtiofsd: it has forgotten as well.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.by_inner.clear();
        self.queue.clear();
        self.live = 0;
        let identity = Identity { number: 0, kind: libc::S_IFDIR };
        let root = Node {
            inner: Some(ROOT),
            place: None,
            identity,
            // Never forgotten, whatever the guest says.
            lookups: 1,
            pins: 1,
            children: HashMap::new(),
            recent: true,
            seen: None,
        };
        self.nodes.insert(ROOT, root);
        self.by_inner.insert(ROOT, ROOT);
    }

    /// Whether the guest knows nothing but the root.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Marks a node as in use and says where it is; `None` if the guest cannot know it.
    pub(crate) fn pin(&mut self, number: u64) -> Option<Whereabouts> {
        let node = self.nodes.get_mut(&number)?;
        let whereabouts = match (node.inner, &node.place) {
            (Some(inner), _) => Whereabouts::Live(inner),
            (None, Some((parent, name))) => {
                Whereabouts::Away { parent: *parent, name: Arc::clone(name), identity: node.identity }
            }
            (None, None) => return Some(Whereabouts::Lost),
        };
        node.pins += 1;
        node.recent = true;
        Some(whereabouts)
    }

    /// Marks a node as in use once more: by a handle, beyond the request that opened it.
    pub(crate) fn pin_again(&mut self, number: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.pins += 1;
        }
    }

    /// Notes what a file is as it is opened; says whether it is what it was when it was opened before.
    pub(crate) fn unchanged(&mut self, number: u64, now: Option<Stamp>) -> bool {
        let Some(node) = self.nodes.get_mut(&number) else { return false };
        let before = std::mem::replace(&mut node.seen, now);
        now.is_some() && before == now
    }

    /// Ends one use.
    pub(crate) fn unpin(&mut self, number: u64, forgotten: &mut Vec<u64>) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.pins = node.pins.saturating_sub(1);
            self.drop_if_unused(number, forgotten);
        }
    }

    /// A node that was away has been found; virtiofsd knows it as `inner`.
    pub(crate) fn revive(&mut self, number: u64, inner: u64, forgotten: &mut Vec<u64>) {
        match self.nodes.get_mut(&number) {
            Some(node) if node.inner.is_none() => {
                node.inner = Some(inner);
                self.by_inner.entry(inner).or_insert(number);
                self.became_live(number);
            }
            // Another request was faster, or the guest forgot it meanwhile.
            _ => forgotten.push(inner),
        }
    }

    /// The guest learns of the file `inner`, found at a place: gives the guest's number for it.
    pub(crate) fn learn(
        &mut self,
        parent: u64,
        name: &CStr,
        inner: u64,
        identity: Identity,
        forgotten: &mut Vec<u64>,
    ) -> u64 {
        if let Some(&number) = self.by_inner.get(&inner) {
            // One reference is held already.
            forgotten.push(inner);
            if let Some(node) = self.nodes.get_mut(&number) {
                node.lookups += 1;
                node.recent = true;
            }
            self.put(number, parent, name, forgotten);
            return number;
        }
        let occupant = self.nodes.get(&parent).and_then(|parent| parent.children.get(name)).copied();
        if let Some(number) = occupant
            && let Some(node) = self.nodes.get_mut(&number)
            && node.inner.is_none()
            && node.identity == identity
        {
            node.lookups += 1;
            node.recent = true;
            self.revive(number, inner, forgotten);
            return number;
        }
        let number = self.next | crate::coherence::mark(parent, name) | crate::guard::mark(parent, name);
        self.next += 1;
        let node = Node {
            inner: Some(inner),
            place: None,
            identity,
            lookups: 1,
            pins: 0,
            children: HashMap::new(),
            recent: true,
            seen: None,
        };
        self.nodes.insert(number, node);
        self.by_inner.insert(inner, number);
        self.became_live(number);
        self.put(number, parent, name, forgotten);
        number
    }

    /// The guest forgets `count` of the times it learned of a node.
    pub(crate) fn forget(&mut self, number: u64, count: u64, forgotten: &mut Vec<u64>) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(count);
            self.drop_if_unused(number, forgotten);
        }
    }

    /// The name is gone: whatever had its place there can no longer be found.
    pub(crate) fn removed(&mut self, parent: u64, name: &CStr, forgotten: &mut Vec<u64>) {
        if let Some(number) = self.child(parent, name) {
            self.displace(number, forgotten);
        }
    }

    /// A file was renamed, or two changed places.
    pub(crate) fn renamed(&mut self, from: (u64, &CStr), to: (u64, &CStr), exchange: bool, forgotten: &mut Vec<u64>) {
        let moved = self.child(from.0, from.1);
        let other = self.child(to.0, to.1);
        if moved == other {
            return;
        }
        if let Some(number) = other {
            self.displace(number, forgotten);
        }
        if let Some(number) = moved {
            self.put(number, to.0, to.1, forgotten);
        }
        if exchange && let Some(number) = other {
            self.put(number, from.0, from.1, forgotten);
        }
    }

    /// Makes room for one more live node, if that can be had without looking at too many.
    pub(crate) fn make_room(&mut self, forgotten: &mut Vec<u64>) {
        for _ in 0..MOST_CANDIDATES {
            if self.live < self.budget {
                return;
            }
            let Some(number) = self.queue.pop_front() else { return };
            let Some(node) = self.nodes.get_mut(&number) else { continue };
            let Some(inner) = node.inner else { continue };
            if node.pins > 0 || node.place.is_none() || node.recent {
                node.recent = false;
                self.queue.push_back(number);
                continue;
            }
            node.inner = None;
            self.let_go(number, inner, forgotten);
        }
    }

    /// Where a node is: its directory and its name there.
    pub(crate) fn place(&self, number: u64) -> Option<(u64, Arc<CStr>)> {
        self.nodes.get(&number)?.place.clone()
    }

    /// How many requests and handles use the file that virtiofsd knows as `inner`.
    pub(crate) fn uses(&self, inner: u64) -> usize {
        let node = self.by_inner.get(&inner).and_then(|number| self.nodes.get(number));
        node.map_or(0, |node| node.pins)
    }

    fn became_live(&mut self, number: u64) {
        self.live += 1;
        self.queue.push_back(number);
        // Nodes that were forgotten are still in the queue.
        if self.queue.len() > 2 * self.live + MOST_CANDIDATES {
            let nodes = &self.nodes;
            self.queue.retain(|number| nodes.get(number).is_some_and(|node| node.inner.is_some()));
        }
    }

    fn child(&self, parent: u64, name: &CStr) -> Option<u64> {
        self.nodes.get(&parent)?.children.get(name).copied()
    }

    /// Gives a node its place, and takes it from whoever had it.
    fn put(&mut self, number: u64, parent: u64, name: &CStr, forgotten: &mut Vec<u64>) {
        let here = self.nodes.get(&number).and_then(|node| node.place.as_ref());
        if here.is_some_and(|(its_parent, its_name)| *its_parent == parent && **its_name == *name) {
            return;
        }
        if number == ROOT || number == parent || !self.nodes.contains_key(&parent) {
            return;
        }
        if let Some(occupant) = self.child(parent, name) {
            self.displace(occupant, forgotten);
        }
        let name: Arc<CStr> = Arc::from(name);
        // The new parent first: it may be kept only by what is in it.
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children.insert(Arc::clone(&name), number);
        }
        self.displace(number, forgotten);
        if let Some(node) = self.nodes.get_mut(&number) {
            node.place = Some((parent, name));
        }
    }

    /// Takes a node's place away.
    fn displace(&mut self, number: u64, forgotten: &mut Vec<u64>) {
        let Some((parent, name)) = self.nodes.get_mut(&number).and_then(|node| node.place.take()) else { return };
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children.remove(&name);
        }
        // It may have been kept only as the place of this one.
        self.drop_if_unused(parent, forgotten);
    }

    /// Removes a node nobody refers to, and then perhaps its parents.
    fn drop_if_unused(&mut self, number: u64, forgotten: &mut Vec<u64>) {
        let mut next = Some(number);
        while let Some(number) = next.take() {
            let unused = self
                .nodes
                .get(&number)
                .is_some_and(|node| node.lookups == 0 && node.pins == 0 && node.children.is_empty());
            if !unused || number == ROOT {
                return;
            }
            let Some(node) = self.nodes.remove(&number) else { return };
            if let Some((parent, name)) = node.place {
                if let Some(parent) = self.nodes.get_mut(&parent) {
                    parent.children.remove(&name);
                }
                next = Some(parent);
            }
            if let Some(inner) = node.inner {
                self.let_go(number, inner, forgotten);
            }
        }
    }

    /// A live node is live no more.
    fn let_go(&mut self, number: u64, inner: u64, forgotten: &mut Vec<u64>) {
        if self.by_inner.get(&inner) == Some(&number) {
            self.by_inner.remove(&inner);
        }
        self.live -= 1;
        forgotten.push(inner);
    }
}

#[cfg(test)]
mod tests;
