//! From an archive's entries to the tree: which are safe, and what they mean.

use super::archive::{Archive, Kind, Member, shown, too_large, unreadable};
use super::store::Store;
use super::tree::{Attributes, Body, PATH_LIMIT, Place, Tree, check_name};
use super::{Whiteouts, attributes, erofs};
use crate::error::{Error, ErrorKind, Result};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Others of this kind were aufs's own records.
const RECORD: &[u8] = b".wh..wh.";

/// Character devices that give nothing away wherever they are: null, zero, full, random, urandom and the
/// caller's own terminal.
const HARMLESS: [(u32, u32); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

fn refused(path: &[u8], why: &str) -> Error {
    Error::new(ErrorKind::UnsafeArchive, format!("the archive is not safe: {} {why}", shown(path)))
        .hint("no image builder makes such an archive: do not trust what else is in it")
}

pub(super) fn tar(tree: &mut Tree, store: &mut Store, archive: &mut Archive<'_>, whiteouts: Whiteouts) -> Result<()> {
    while let Some(member) = archive.next()? {
        let path = member.path.clone();
        let components = components(&path)?;
        match components.split_last() {
            None if member.kind == Kind::Directory => {
                tree.describe_root(described(member, whiteouts)?);
            }
            None => return Err(refused(&path, "stands for the root, and is no directory")),
            Some((name, parents)) => {
                if whiteouts == Whiteouts::Resolve && is_whiteout(tree, &path, parents, name)? {
                    continue;
                }
                one(tree, store, archive, member, (parents, name), whiteouts)?;
            }
        }
    }
    Ok(())
}

/// A name's parts. `..` is refused also where it would stay inside: nobody needs it.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > PATH_LIMIT {
        return Err(too_large(format!("the name {} is longer than {PATH_LIMIT} bytes", shown(path))));
    }
    if path.contains(&0) {
        return Err(refused(path, "has a name with a NUL in it"));
    }
    let mut components = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(refused(path, "leads out of its directory")),
            _ => {
                check_name(name)?;
                components.push(name);
            }
        }
    }
    Ok(components)
}

/// Heeds a whiteout. An aufs record, or what is in one, is passed over.
fn is_whiteout(tree: &mut Tree, path: &[u8], parents: &[&[u8]], name: &[u8]) -> Result<bool> {
    if name != OPAQUE && parents.iter().chain([&name]).any(|name| name.starts_with(RECORD)) {
        return Ok(true);
    }
    if parents.iter().any(|name| name.starts_with(WHITEOUT)) {
        return Err(refused(path, "is below a whiteout"));
    }
    let Some(removed) = name.strip_prefix(WHITEOUT) else { return Ok(false) };
    if [b"".as_slice(), b".", b".."].contains(&removed) {
        return Err(refused(path, "is a whiteout of nothing"));
    }
    // What is not there needs no removing.
    if let Some(place) = tree.resolve(parents, false)? {
        if name == OPAQUE {
            tree.white_out_content(&place);
        } else {
            tree.white_out(&place, removed);
        }
    }
    Ok(true)
}

fn one(
    tree: &mut Tree,
    store: &mut Store,
    archive: &mut Archive<'_>,
    member: Member,
    (parents, name): (&[&[u8]], &[u8]),
    whiteouts: Whiteouts,
) -> Result<()> {
    let path = member.path.clone();
    if let Kind::HardLink(target) = &member.kind {
        return hard_link(tree, &path, target, (parents, name));
    }
    let place = resolved(tree, parents)?;
    let (kind, size) = (member.kind.clone(), member.size);
    let attributes = described(member, whiteouts)?;
    let body = match kind {
        Kind::Directory => Body::Directory(Default::default()),
        Kind::File => {
            let inline = erofs::room_for_tail(&attributes.extended);
            Body::File(store.keep(&mut archive.data(), size, inline, &unreadable)?)
        }
        Kind::Symlink(target) => {
            if target.is_empty() || target.len() >= PATH_LIMIT || target.contains(&0) {
                return Err(refused(&path, "is a symbolic link to what cannot be a name"));
            }
            Body::Symlink(target)
        }
        Kind::Device { block, major, minor } => {
            if !may_be(tree, &place, block, (major, minor), whiteouts) {
                // The guest's kernel fills /dev.
                return if tree.is_below(&place, b"dev") { Ok(()) } else { Err(refused(&path, "is a device")) };
            }
            Body::Device { block, major, minor }
        }
        Kind::Fifo => Body::Fifo,
        Kind::HardLink(_) => return Ok(()),
    };
    let node = tree.add(attributes, body)?;
    tree.link(&place, name, node)
}

/// Whether a device node is kept.
fn may_be(tree: &Tree, place: &Place, block: bool, number: (u32, u32), whiteouts: Whiteouts) -> bool {
    match (block, number) {
        (true, _) => false,
        (false, (0, 0)) => whiteouts == Whiteouts::Overlay,
        (false, number) => HARMLESS.contains(&number) && !tree.is_below(place, b"dev"),
    }
}

/// A link's target is a path from the root, whether it begins with a slash or not.
fn hard_link(tree: &mut Tree, path: &[u8], target: &[u8], (parents, name): (&[&[u8]], &[u8])) -> Result<()> {
    let target = components(target)?;
    let missing = || refused(path, "is a hard link to something that is not there");
    let (target_name, target_parents) = target.split_last().ok_or_else(missing)?;
    let from = tree.resolve(target_parents, false)?.ok_or_else(missing)?;
    let node = tree.entry(from.directory(), target_name).ok_or_else(missing)?;
    // As link(2): everything but directories.
    if tree.directory(node).is_some() {
        return Err(refused(path, "is a hard link to a directory"));
    }
    let place = resolved(tree, parents)?;
    tree.link(&place, name, node)
}

fn resolved(tree: &mut Tree, parents: &[&[u8]]) -> Result<Place> {
    let missing = || Error::new(ErrorKind::UnsafeArchive, "a directory cannot be made");
    tree.resolve(parents, true)?.ok_or_else(missing)
}

fn described(member: Member, whiteouts: Whiteouts) -> Result<Attributes> {
    let Member { path, mode, uid, gid, modified, attributes, .. } = member;
    let extended = attributes::kept(attributes, whiteouts).map_err(|attribute| {
        too_large(format!("{} has an extended attribute that is too large: {}", shown(&path), shown(&attribute.name)))
    })?;
    Ok(Attributes { mode, uid, gid, modified, extended })
}
