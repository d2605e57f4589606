//! Writes the tree as erofs (<https://docs.kernel.org/filesystems/erofs.html>; the structures are those
//! of the kernel's fs/erofs/erofs_fs.h), uncompressed, in blocks of 4 KiB.
//!
//! ```text
//! block 0       superblock, at byte 1024
//! 1..           file data, in the order it came in
//! ..            directories' whole blocks
//! meta_blkaddr  inodes in slots of 32 bytes; behind each its extended attributes, then the tail:
//!               what is left of a file or directory after its last whole block, or a link's target
//! ```
//!
//! A tail may not cross a block, so inodes are put where they fit best among the last few blocks; those of
//! one directory stay together. Whoever reads a small file then finds its content in the block of its
//! inode. The root's number has 16 bits, so its inode is the first.

use super::Summary;
use super::archive::too_large;
use super::attributes::{self, Attribute};
use super::store::{BLOCK, Store};
use super::tree::{Body, NodeId, ROOT, Tree};
use crate::error::Result;

/// What the superblock begins with.
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock begins, in bytes.
pub(crate) const SUPERBLOCK_OFFSET: usize = 1024;
const BLOCK_BITS: u8 = 12;
/// The superblock has a checksum; the times of inodes are those of their last change of content.
const COMPATIBLE_FEATURES: u32 = 0x1 | 0x2;
const INODE: usize = 64;
const SLOT: usize = 32;
const ENTRY: usize = 12;
/// Blocks of inodes that are looked at for room.
const OPEN_BLOCKS: usize = 16;
const WRITTEN_AT_ONCE: usize = 256 << 10;

const EXTENDED: u16 = 1;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;

/// How many bytes fit behind an inode with such attributes.
pub(super) fn room_for_tail(extended: &[Attribute]) -> usize {
    BLOCK.saturating_sub(INODE + attributes::size(extended))
}

/// An inode and where it is.
struct Inode {
    node: NodeId,
    /// For directories.
    parent: NodeId,
    /// From the start of the inodes.
    offset: u64,
    /// The first block of its data.
    start: u32,
    size: u64,
    /// Bytes behind the inode and its attributes.
    tail: usize,
    links: u32,
}

/// Writes what the store does not have yet.
pub(super) fn write(tree: &Tree, mut store: Store) -> Result<Summary> {
    store.end_of_data()?;
    let (mut inodes, numbers) = ordered(tree);
    let image = Image { tree, numbers: &numbers };
    let first_inode = image.place_data(&mut store, &mut inodes)?;
    place_inodes(tree, &mut inodes);
    image.write_directories(&mut store, &inodes)?;
    image.write_inodes(&mut store, &inodes)?;
    let root = inodes.first().map_or(0, Inode::number);
    let count = inodes.len() as u64;
    let superblock = superblock(root, count, store.position()?, first_inode);
    let size = store.finish(&superblock, &tree.released)?;
    Ok(Summary { inodes: count, size })
}

impl Inode {
    fn number(&self) -> u64 {
        self.offset / SLOT as u64
    }

    /// Its whole blocks, and one for a tail that is not behind it.
    fn blocks(&self) -> u64 {
        (self.size - self.tail as u64).div_ceil(BLOCK as u64)
    }
}

/// The inodes in the order they are written in: those of one directory together, then those of the first
/// directory in it, and so on. And which of them is which node.
fn ordered(tree: &Tree) -> (Vec<Inode>, Vec<Option<usize>>) {
    let mut numbers = vec![None; tree.size()];
    let inode = |node, parent| Inode { node, parent, offset: 0, start: 0, size: 0, tail: 0, links: 0 };
    let mut inodes = vec![inode(ROOT, ROOT)];
    numbers[ROOT] = Some(0);
    let mut left = vec![0];
    while let Some(index) = left.pop() {
        let parent = inodes[index].node;
        let mut directories = Vec::new();
        for entry in tree.directory(parent).iter().flat_map(|directory| directory.entries.values()) {
            // Another name of the same file may have come before.
            if numbers[entry.node].is_none() {
                numbers[entry.node] = Some(inodes.len());
                if tree.directory(entry.node).is_some() {
                    directories.push(inodes.len());
                }
                inodes.push(Inode { links: tree.node(entry.node).links, ..inode(entry.node, parent) });
            }
        }
        // Its own entry, `.`, and `..` of each directory in it.
        inodes[index].links = 2 + directories.len() as u32;
        left.extend(directories.iter().rev());
    }
    (inodes, numbers)
}

/// A tree whose inodes are in order.
struct Image<'a> {
    tree: &'a Tree,
    /// By node.
    numbers: &'a [Option<usize>],
}

impl Image<'_> {
    /// Decides where the data of each inode is, writes long links' targets, and returns the first block
    /// of the inodes.
    fn place_data(&self, store: &mut Store, inodes: &mut [Inode]) -> Result<u32> {
        for inode in inodes.iter_mut() {
            let node = self.tree.node(inode.node);
            match &node.body {
                Body::File(content) => {
                    (inode.start, inode.size, inode.tail) = (content.start, content.size, content.tail_size());
                }
                Body::Symlink(target) => {
                    inode.size = target.len() as u64;
                    if target.len() <= room_for_tail(&node.attributes.extended) {
                        inode.tail = target.len();
                    } else {
                        inode.start = store.position()?;
                        let mut block = target.clone();
                        block.resize(BLOCK, 0);
                        store.append(&block)?;
                    }
                }
                Body::Device { major, minor, .. } => inode.start = device_number(*major, *minor),
                Body::Directory(_) | Body::Fifo | Body::Socket => {}
            }
        }
        let mut next = u64::from(store.position()?);
        for inode in inodes.iter_mut() {
            if self.tree.directory(inode.node).is_some() {
                let names = self.names(inode);
                let blocks = directory_blocks(&names);
                let last = blocks.last().map_or(0, |block| used(block));
                inode.size = ((blocks.len().max(1) - 1) * BLOCK + last) as u64;
                let room = room_for_tail(&self.tree.node(inode.node).attributes.extended);
                inode.tail = if last <= room { last } else { 0 };
                if inode.blocks() > 0 {
                    inode.start = block_number(next)?;
                    next += inode.blocks();
                }
            }
        }
        block_number(next)
    }

    /// A directory's entries, in the order of their bytes, which the kernel searches them by.
    fn names(&self, inode: &Inode) -> Vec<(&[u8], NodeId)> {
        let entries = self.tree.directory(inode.node).into_iter().flat_map(|directory| &directory.entries);
        let mut names: Vec<(&[u8], NodeId)> = entries.map(|(name, entry)| (&**name, entry.node)).collect();
        names.extend([(b".".as_slice(), inode.node), (b"..", inode.parent)]);
        names.sort_unstable();
        names
    }

    /// All of a directory's data.
    fn directory_data(&self, inode: &Inode, inodes: &[Inode]) -> Vec<u8> {
        let names = self.names(inode);
        let mut data = Vec::new();
        for block in directory_blocks(&names) {
            data.resize(data.len().next_multiple_of(BLOCK), 0);
            let mut name_offset = block.len() * ENTRY;
            for (name, node) in block {
                let number = self.numbers[*node].map_or(0, |index| inodes[index].number());
                data.extend(number.to_le_bytes());
                data.extend((name_offset as u16).to_le_bytes());
                data.extend([self.file_type(*node), 0]);
                name_offset += name.len();
            }
            block.iter().for_each(|(name, _)| data.extend(*name));
        }
        data
    }

    fn write_directories(&self, store: &mut Store, inodes: &[Inode]) -> Result<()> {
        for inode in inodes.iter().filter(|inode| inode.blocks() > 0) {
            if self.tree.directory(inode.node).is_some() {
                let mut data = self.directory_data(inode, inodes);
                data.truncate(data.len() - inode.tail);
                data.resize(data.len().next_multiple_of(BLOCK), 0);
                store.append(&data)?;
            }
        }
        Ok(())
    }

    fn write_inodes(&self, store: &mut Store, inodes: &[Inode]) -> Result<()> {
        let mut order: Vec<usize> = (0..inodes.len()).collect();
        order.sort_unstable_by_key(|index| inodes[*index].offset);
        let (mut out, mut base) = (Vec::new(), 0);
        for index in order {
            let inode = &inodes[index];
            out.resize((inode.offset - base) as usize, 0);
            self.write_inode(inode, index, &mut out);
            match &self.tree.node(inode.node).body {
                Body::File(content) => store.tail(content, &mut out)?,
                Body::Symlink(target) if inode.tail > 0 => out.extend(target),
                Body::Directory(_) if inode.tail > 0 => {
                    let data = self.directory_data(inode, inodes);
                    out.extend(&data[data.len() - inode.tail..]);
                }
                _ => {}
            }
            let whole = out.len() / BLOCK * BLOCK;
            if whole >= WRITTEN_AT_ONCE {
                store.append(&out[..whole])?;
                out.drain(..whole);
                base += whole as u64;
            }
        }
        // fsck.erofs (1.5) reads a header of attributes behind each inode, also where there is none: no
        // inode may end where the image does.
        out.resize((out.len() + attributes::HEADER).next_multiple_of(BLOCK), 0);
        store.append(&out)
    }

    /// `struct erofs_inode_extended`, and the attributes behind it.
    fn write_inode(&self, inode: &Inode, index: usize, out: &mut Vec<u8>) {
        let node = self.tree.node(inode.node);
        let attributes = &node.attributes;
        let layout = if inode.tail > 0 { FLAT_INLINE } else { FLAT_PLAIN };
        out.extend((EXTENDED | layout << 1).to_le_bytes());
        out.extend(attributes::units(&attributes.extended).unwrap_or(0).to_le_bytes());
        out.extend((type_bits(&node.body) | attributes.mode).to_le_bytes());
        out.extend([0; 2]);
        out.extend(inode.size.to_le_bytes());
        out.extend(inode.start.to_le_bytes());
        // Only 32-bit programs see this number.
        out.extend((index as u32 + 1).to_le_bytes());
        out.extend(attributes.uid.to_le_bytes());
        out.extend(attributes.gid.to_le_bytes());
        out.extend(attributes.modified.0.to_le_bytes());
        out.extend(attributes.modified.1.to_le_bytes());
        out.extend(inode.links.to_le_bytes());
        out.extend([0; 16]);
        attributes::write(&attributes.extended, out);
    }

    /// As in a directory entry.
    fn file_type(&self, node: NodeId) -> u8 {
        match &self.tree.node(node).body {
            Body::File(_) => 1,
            Body::Directory(_) => 2,
            Body::Device { block: false, .. } => 3,
            Body::Device { block: true, .. } => 4,
            Body::Fifo => 5,
            Body::Socket => 6,
            Body::Symlink(_) => 7,
        }
    }
}

/// As in a mode.
fn type_bits(body: &Body) -> u16 {
    match body {
        Body::Fifo => 0o010_000,
        Body::Device { block: false, .. } => 0o020_000,
        Body::Directory(_) => 0o040_000,
        Body::Device { block: true, .. } => 0o060_000,
        Body::File(_) => 0o100_000,
        Body::Symlink(_) => 0o120_000,
        Body::Socket => 0o140_000,
    }
}

/// The kernel's `new_encode_dev`.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn block_number(block: u64) -> Result<u32> {
    u32::try_from(block).map_err(|_| too_large("an image cannot be larger than 16 TiB"))
}

/// Bytes of a block of directory entries.
fn used(block: &[(&[u8], NodeId)]) -> usize {
    block.iter().map(|(name, _)| ENTRY + name.len()).sum()
}

/// Which entries go into which block.
fn directory_blocks<'a, 'b>(names: &'b [(&'a [u8], NodeId)]) -> Vec<&'b [(&'a [u8], NodeId)]> {
    let (mut blocks, mut start, mut filled) = (Vec::new(), 0, 0);
    for (index, (name, _)) in names.iter().enumerate() {
        let size = ENTRY + name.len();
        if filled + size > BLOCK {
            blocks.push(&names[start..index]);
            (start, filled) = (index, 0);
        }
        filled += size;
    }
    blocks.push(&names[start..]);
    blocks
}

/// Gives each inode its place.
fn place_inodes(tree: &Tree, inodes: &mut [Inode]) {
    // Inode number 0 means "none" to some programs.
    let (mut open, mut next) = (vec![(0_u64, INODE)], 1_u64);
    for inode in inodes {
        let size = INODE + attributes::size(&tree.node(inode.node).attributes.extended) + inode.tail;
        let fitting = open.iter_mut().filter(|(_, used)| used.next_multiple_of(SLOT) + size <= BLOCK);
        if let Some((block, used)) = fitting.max_by_key(|(_, used)| *used) {
            let start = used.next_multiple_of(SLOT);
            inode.offset = *block * BLOCK as u64 + start as u64;
            *used = start + size;
            continue;
        }
        // Only one with many attributes takes more than a block, and that has no tail.
        inode.offset = next * BLOCK as u64;
        next += size.div_ceil(BLOCK) as u64;
        open.push((next - 1, (size - 1) % BLOCK + 1));
        if open.len() > OPEN_BLOCKS {
            let fullest = (0..open.len()).max_by_key(|index| open[*index].1).unwrap_or(0);
            open.swap_remove(fullest);
        }
    }
}

/// The block that holds it.
fn superblock(root: u64, inodes: u64, blocks: u32, first_inode: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, bytes: &[u8]| {
        let start = SUPERBLOCK_OFFSET + offset;
        block[start..start + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPATIBLE_FEATURES.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &(root as u16).to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(40, &first_inode.to_le_bytes());
    // The checksum's own field counts as zero.
    let checksum = crc32c(&block[SUPERBLOCK_OFFSET..]);
    block[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// CRC-32C without the inversion at its end, as the kernel's `crc32c(~0, ..)`.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum() {
        // The check value of the algorithm's catalogues.
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn device_numbers() {
        assert_eq!(device_number(8, 1), 0x801);
        assert_eq!(device_number(259, 0x12345), 0x1230_0000 | (259 << 8) | 0x45);
    }
}
