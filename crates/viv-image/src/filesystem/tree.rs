//! The tree: inodes and directories in memory, layer over layer.
//!
//! Names are resolved as in a root that one has changed into: symbolic links on the way are followed,
//! absolute ones from the root of the tree, and `..` stops there. There is nothing outside that they could lead
//! to. Container runtimes do the same, and images rely on it: a layer with `bin/tool` over one where
//! `bin` is a link to `usr/bin`.

use std::collections::{BTreeMap, VecDeque};

use super::Limits;
use super::archive::{shown, too_large};
use super::attributes::{self, Attribute};
use super::store::Content;
use crate::error::{Error, ErrorKind, Result};

/// The longest name of a directory entry, and of a path from the root.
pub(super) const NAME_LIMIT: usize = 255;
pub(super) const PATH_LIMIT: usize = 4096;
/// What a path of that length can have of directories, however it was come by.
const DEPTH_LIMIT: usize = PATH_LIMIT / 2;
/// As in the kernel.
const LINKS_ON_THE_WAY: usize = 40;

pub(super) type NodeId = usize;
pub(super) const ROOT: NodeId = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permissions, setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, u32),
    pub extended: Vec<Attribute>,
}

impl Attributes {
    /// Of a directory that nothing says anything about.
    fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, modified: (0, 0), extended: Vec::new() }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub attributes: Attributes,
    pub body: Body,
    /// Directory entries that lead here, `.` and `..` aside.
    pub links: u32,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory(Directory),
    File(Content),
    Symlink(Vec<u8>),
    Device { block: bool, major: u32, minor: u32 },
    Fifo,
    Socket,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub entries: BTreeMap<Box<[u8]>, Entry>,
    /// The last layer that has something below.
    touched: u32,
    /// The last layer that removed all that earlier ones have below, which is needed once.
    cleared: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub node: NodeId,
    /// The last layer that says that it is there.
    layer: u32,
}

/// A directory that a path was resolved to.
#[derive(Debug)]
pub(super) struct Place {
    /// From the root to it.
    way: Vec<NodeId>,
}

impl Place {
    pub(super) fn directory(&self) -> NodeId {
        self.way.last().copied().unwrap_or(ROOT)
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Numbers of nodes that are gone.
    unused: Vec<NodeId>,
    layer: u32,
    limits: Limits,
    /// Data of files that are gone.
    pub released: Vec<Content>,
}

fn refused(path: &[u8], why: &str) -> Error {
    Error::new(ErrorKind::UnsafeArchive, format!("{} {why}", shown(path)))
}

impl Tree {
    pub(super) fn new(limits: Limits) -> Self {
        let root = Node { attributes: Attributes::implied(), body: Body::Directory(Directory::default()), links: 1 };
        Self { nodes: vec![root], unused: Vec::new(), layer: 0, limits, released: Vec::new() }
    }

    /// What is put in from now on lies over what is there.
    pub(super) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Numbers of nodes are below this.
    pub(super) fn size(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }

    pub(super) fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.nodes[id].body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.nodes[id].body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn entry(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(directory)?.entries.get(name).map(|entry| entry.node)
    }

    /// Whether a place is `name` in the root, or below it.
    pub(super) fn is_below(&self, place: &Place, name: &[u8]) -> bool {
        place.way.get(1).is_some_and(|second| self.entry(ROOT, name) == Some(*second))
    }

    /// The directory that `components` lead to. Missing ones are made if `make`; else there is no such place.
    pub(super) fn resolve(&mut self, components: &[&[u8]], make: bool) -> Result<Option<Place>> {
        let whole = || components.join(&b'/');
        let mut way = vec![ROOT];
        let mut left: VecDeque<Vec<u8>> = VecDeque::new();
        let mut given = components.iter();
        let mut links = 0;
        while let Some(name) = left.pop_front().or_else(|| given.next().map(|name| name.to_vec())) {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    way.truncate(1.max(way.len() - 1));
                    continue;
                }
                _ => {}
            }
            if way.len() >= DEPTH_LIMIT {
                return Err(too_large(format!("{} is too deep", shown(&whole()))));
            }
            let here = way.last().copied().unwrap_or(ROOT);
            let Some(id) = self.entry(here, &name) else {
                if !make {
                    return Ok(None);
                }
                check_name(&name)?;
                let made = self.add(Attributes::implied(), Body::Directory(Directory::default()))?;
                self.link(&Place { way: way.clone() }, &name, made)?;
                way.push(made);
                continue;
            };
            match &self.nodes[id].body {
                Body::Directory(_) => way.push(id),
                Body::Symlink(target) => {
                    links += 1;
                    if links > LINKS_ON_THE_WAY {
                        return Err(refused(&whole(), "leads through too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    for part in target.rsplit(|byte| *byte == b'/') {
                        left.push_front(part.to_vec());
                    }
                }
                _ if make => return Err(refused(&whole(), "is below something that is no directory")),
                _ => return Ok(None),
            }
        }
        Ok(Some(Place { way }))
    }

    /// An inode without a name.
    pub(super) fn add(&mut self, attributes: Attributes, body: Body) -> Result<NodeId> {
        let more = |what: &str| too_large(format!("there are more {what} than there may be"));
        self.limits.entries = self.limits.entries.checked_sub(1).ok_or_else(|| more("entries"))?;
        let extended = attributes::size(&attributes.extended) as u64;
        self.limits.attributes =
            self.limits.attributes.checked_sub(extended).ok_or_else(|| more("bytes of extended attributes"))?;
        if let Body::Symlink(target) = &body {
            self.charge_name(target.len())?;
        }
        let node = Node { attributes, body, links: 0 };
        Ok(match self.unused.pop() {
            Some(id) => {
                self.nodes[id] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        })
    }

    fn charge_name(&mut self, length: usize) -> Result<()> {
        let left = self.limits.names.checked_sub(length as u64);
        self.limits.names = left.ok_or_else(|| too_large("there are more bytes of names than there may be"))?;
        Ok(())
    }

    /// What this layer says of the root itself.
    pub(super) fn describe_root(&mut self, attributes: Attributes) {
        self.nodes[ROOT].attributes = attributes;
    }

    /// Names an inode, in place of what has that name: over a directory, a directory is the same one
    /// with other attributes.
    pub(super) fn link(&mut self, place: &Place, name: &[u8], id: NodeId) -> Result<()> {
        let directory = place.directory();
        self.charge_name(name.len())?;
        self.nodes[id].links += 1;
        for id in &place.way {
            let layer = self.layer;
            if let Some(directory) = self.directory_mut(*id) {
                directory.touched = layer;
            }
        }
        let mut entry = Entry { node: id, layer: self.layer };
        match self.entry(directory, name) {
            Some(present) if self.directory(present).is_some() && self.directory(id).is_some() => {
                self.nodes[present].attributes = self.nodes[id].attributes.clone();
                self.drop_link(id);
                entry.node = present;
            }
            Some(present) => self.drop_link(present),
            None => {}
        }
        if let Some(directory) = self.directory_mut(directory) {
            directory.entries.insert(name.into(), entry);
        }
        Ok(())
    }

    /// One name less for an inode; one without names goes, and with a directory what it holds.
    fn drop_link(&mut self, id: NodeId) {
        let mut left = vec![id];
        while let Some(id) = left.pop() {
            let node = &mut self.nodes[id];
            node.links -= 1;
            if node.links > 0 {
                continue;
            }
            match std::mem::replace(&mut node.body, Body::Fifo) {
                Body::Directory(directory) => left.extend(directory.entries.values().map(|entry| entry.node)),
                Body::File(content) => self.released.push(content),
                _ => {}
            }
            node.attributes.extended = Vec::new();
            self.unused.push(id);
        }
    }

    /// Removes what earlier layers have of `name`. What this one has of it stays, wherever in the
    /// archive the whiteout stands.
    pub(super) fn white_out(&mut self, place: &Place, name: &[u8]) {
        if let Some(node) = self.white_out_entry(place.directory(), name) {
            self.white_out_content_of(node);
        }
    }

    /// Removes what earlier layers have in a directory.
    pub(super) fn white_out_content(&mut self, place: &Place) {
        self.white_out_content_of(place.directory());
    }

    fn white_out_content_of(&mut self, directory: NodeId) {
        let mut left = vec![directory];
        while let Some(id) = left.pop() {
            let layer = self.layer;
            let Some(directory) = self.directory_mut(id) else { continue };
            if std::mem::replace(&mut directory.cleared, layer) == layer {
                continue;
            }
            let names: Vec<Box<[u8]>> = directory.entries.keys().cloned().collect();
            for name in names {
                left.extend(self.white_out_entry(id, &name));
            }
        }
    }

    /// The directory whose content is still to be looked through, if the entry stays and is one.
    fn white_out_entry(&mut self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let layer = self.layer;
        let entry = *self.directory(directory)?.entries.get(name)?;
        let touched = self.directory(entry.node).map(|directory| directory.touched);
        if entry.layer < layer && touched.is_none_or(|touched| touched < layer) {
            self.directory_mut(directory)?.entries.remove(name);
            self.drop_link(entry.node);
            return None;
        }
        if entry.layer < layer {
            // It is there only because this layer has something in it.
            self.nodes[entry.node].attributes = Attributes::implied();
            if let Some(entry) = self.directory_mut(directory)?.entries.get_mut(name) {
                entry.layer = layer;
            }
        }
        touched.map(|_| entry.node)
    }
}

/// What is wrong with a name as a directory entry.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_LIMIT {
        return Err(too_large(format!("the name {} is longer than {NAME_LIMIT} bytes", shown(name))));
    }
    Ok(())
}
