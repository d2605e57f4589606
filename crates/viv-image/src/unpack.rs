//! Reads an erofs image and writes what it holds as a tar archive, so that tar can make a directory of
//! it: mounting takes root, and the tools of erofs-utils before 1.8 leave out extended attributes.
//!
//! The format: <https://docs.kernel.org/filesystems/erofs.html>. Images without compression are read, as
//! this crate and mkfs.erofs by default write them. Archives are pax (POSIX.1-2017), with GNU's and
//! star's names for extended attributes. The trees made of them are lower directories of an overlayfs
//! of a user's (`userxattr`), so `trusted.overlay.*` becomes `user.overlay.*`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::filesystem::erofs::{MAGIC, SUPERBLOCK_OFFSET};

/// The deepest directory: a path is at most 4096 bytes.
const MAX_DEPTH: usize = 2048;
const MAX_ENTRIES: u64 = 4_000_000;
const MAX_DIRECTORY: u64 = 256 << 20;
const MAX_LINK: u64 = 4096;
const MAX_PATH: usize = 4096;
/// Bytes of all files together: a damaged image can name the same data any number of times.
const MAX_BYTES: u64 = 64 << 30;
const BLOCK: usize = 512;

/// An image.
struct Image<'a> {
    file: &'a File,
    block_bits: u8,
    metadata: u64,
    shared_attributes: u64,
    root: u64,
    build_time: (u64, u32),
}

#[derive(Debug)]
struct Inode {
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    size: u64,
    modified: (u64, u32),
    /// Where the data begins, or the device's number.
    raw: u32,
    /// Where the last block is, if it lies behind the inode.
    tail: Option<u64>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl<'a> Image<'a> {
    fn open(file: &'a File) -> io::Result<Self> {
        let mut block = [0; 128];
        file.read_exact_at(&mut block, SUPERBLOCK_OFFSET as u64)?;
        let block_bits = block[12];
        if u32_at(&block, 0) != MAGIC || !(9..=16).contains(&block_bits) {
            return Err(bad("it is not an erofs file system"));
        }
        // Zero padding of compressed data means nothing without any.
        const UNDERSTOOD: u32 = 1;
        let features = u32_at(&block, 80);
        if features & !UNDERSTOOD != 0 {
            return Err(bad("it uses features such as compression or chunks; make it with mkfs.erofs without options"));
        }
        Ok(Self {
            file,
            block_bits,
            metadata: u64::from(u32_at(&block, 40)) << block_bits,
            shared_attributes: u64::from(u32_at(&block, 44)) << block_bits,
            root: u64::from(u16_at(&block, 14)),
            build_time: (u64_at(&block, 24), u32_at(&block, 32)),
        })
    }

    fn inode(&self, number: u64) -> io::Result<Inode> {
        let at = number
            .checked_mul(32)
            .and_then(|offset| offset.checked_add(self.metadata))
            .ok_or_else(|| bad("an inode lies nowhere"))?;
        let mut bytes = [0; 64];
        self.file.read_exact_at(&mut bytes[..32], at)?;
        let format = u16_at(&bytes, 0);
        let extended = format & 1 == 1;
        if extended {
            self.file.read_exact_at(&mut bytes[32..], at + 32)?;
        }
        let length = if extended { 64 } else { 32 };
        let attribute_bytes = match u64::from(u16_at(&bytes, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        let layout = format >> 1 & 7;
        if layout != 0 && layout != 2 {
            return Err(bad("a file is compressed or in chunks"));
        }
        let mode = u32::from(u16_at(&bytes, 4));
        let (size, uid, gid, links, modified) = if extended {
            let modified = (u64_at(&bytes, 32), u32_at(&bytes, 40));
            (u64_at(&bytes, 8), u32_at(&bytes, 24), u32_at(&bytes, 28), u32_at(&bytes, 44), modified)
        } else {
            let (uid, gid) = (u32::from(u16_at(&bytes, 24)), u32::from(u16_at(&bytes, 26)));
            (u64::from(u32_at(&bytes, 8)), uid, gid, u32::from(u16_at(&bytes, 6)), self.build_time)
        };
        Ok(Inode {
            mode,
            uid,
            gid,
            links,
            size,
            modified,
            raw: u32_at(&bytes, 16),
            tail: (layout == 2).then_some(at + length + attribute_bytes),
            attributes: self.attributes(at + length, attribute_bytes)?,
        })
    }

    fn attributes(&self, at: u64, bytes: u64) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        if bytes < 12 {
            return Ok(found);
        }
        let mut own = vec![0; usize::try_from(bytes).map_err(|_| bad("too many extended attributes"))?];
        self.file.read_exact_at(&mut own, at)?;
        let shared = usize::from(own[4]);
        for index in 0..shared {
            let id = u64::from(u32_at(&own, 12 + index * 4));
            let at = self.shared_attributes + id * 4;
            let mut head = [0; 4];
            self.file.read_exact_at(&mut head, at)?;
            let mut entry = vec![0; 4 + usize::from(head[0]) + usize::from(u16_at(&head, 2))];
            self.file.read_exact_at(&mut entry, at)?;
            found.extend(attribute(&entry).and_then(|(entry, _)| entry));
        }
        let mut rest = own.get(12 + shared * 4..).unwrap_or_default();
        while rest.len() >= 4 {
            let Some((entry, length)) = attribute(rest) else { return Err(bad("an extended attribute is damaged")) };
            found.extend(entry);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(found)
    }

    /// The data of a file, piece by piece.
    fn data(&self, inode: &Inode, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let block = 1_u64 << self.block_bits;
        let inline = match inode.tail {
            Some(_) if inode.size > 0 => inode.size - (inode.size.div_ceil(block) - 1) * block,
            _ => 0,
        };
        let mut buffer = vec![0; 256 << 10];
        let extents =
            [(u64::from(inode.raw) << self.block_bits, inode.size - inline), (inode.tail.unwrap_or(0), inline)];
        for (mut at, mut left) in extents {
            while left > 0 {
                // At most the buffer's length.
                let count = left.min(buffer.len() as u64) as usize;
                self.file.read_exact_at(&mut buffer[..count], at)?;
                sink(&buffer[..count])?;
                at += count as u64;
                left -= count as u64;
            }
        }
        Ok(())
    }

    fn all_data(&self, inode: &Inode, limit: u64) -> io::Result<Vec<u8>> {
        if inode.size > limit {
            return Err(bad("a directory or a link is too large"));
        }
        let mut all = Vec::new();
        self.data(inode, &mut |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(all)
    }

    /// Names and inodes of a directory, itself and the one above left out.
    fn entries(&self, inode: &Inode) -> io::Result<Vec<(Vec<u8>, u64)>> {
        let data = self.all_data(inode, MAX_DIRECTORY)?;
        let mut entries = Vec::new();
        for block in data.chunks(1 << self.block_bits) {
            let count = usize::from(u16_at(block, 8)) / 12;
            if count == 0 || count * 12 > block.len() {
                return Err(bad("a directory is damaged"));
            }
            for index in 0..count {
                let begin = usize::from(u16_at(block, index * 12 + 8));
                let end =
                    if index + 1 < count { usize::from(u16_at(block, (index + 1) * 12 + 8)) } else { block.len() };
                let name = block.get(begin..end).ok_or_else(|| bad("a directory is damaged"))?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                if name == b"." || name == b".." {
                    continue;
                }
                if name.is_empty() || name.contains(&b'/') {
                    return Err(bad("a name cannot be one"));
                }
                entries.push((name.to_vec(), u64_at(block, index * 12)));
            }
        }
        Ok(entries)
    }
}

/// The entry that begins there, if it is of a kind that is carried over, and its length.
#[expect(clippy::type_complexity, reason = "a pair of a name and a value, and a length")]
fn attribute(bytes: &[u8]) -> Option<(Option<(Vec<u8>, Vec<u8>)>, usize)> {
    let (name_length, value_length) = (usize::from(*bytes.first()?), usize::from(u16_at(bytes, 2)));
    let name = bytes.get(4..4 + name_length)?;
    let value = bytes.get(4 + name_length..4 + name_length + value_length)?;
    let whole = |prefix: &str| Some(([prefix.as_bytes(), name].concat(), value.to_vec()));
    let entry = match bytes.get(1)? {
        1 => whole("user."),
        2 => whole("system.posix_acl_access"),
        3 => whole("system.posix_acl_default"),
        // Others of these mean nothing outside of the host they are from.
        4 if name.starts_with(b"overlay.") => whole("user."),
        6 if name == b"capability" => whole("security."),
        _ => None,
    };
    Some((entry, 4 + name_length + value_length))
}

/// Writes what an image holds. Devices are left out, but for those that are whiteouts.
///
/// # Errors
/// `InvalidData` and `UnexpectedEof` for an image that is damaged or of a kind that is not read.
pub fn archive(file: &File, output: &mut dyn Write) -> io::Result<()> {
    let image = Image::open(file)?;
    let mut first_names: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut left = MAX_ENTRIES;
    let mut bytes_left = MAX_BYTES;
    // Directories that are being written, each with what is left of it.
    let mut open = vec![(Vec::new(), vec![(b".".to_vec(), image.root)].into_iter())];
    while let Some((directory, entries)) = open.last_mut() {
        let Some((name, number)) = entries.next() else {
            open.pop();
            continue;
        };
        left = left.checked_sub(1).ok_or_else(|| bad("there are too many files"))?;
        let path = if directory.is_empty() { name } else { [directory, &b"/"[..], &name].concat() };
        if path.len() > MAX_PATH {
            return Err(bad("a path is too long"));
        }
        let inode = image.inode(number)?;
        let kind = inode.mode & 0o170_000;
        if kind != 0o040_000 && inode.links > 1 {
            if let Some(first) = first_names.get(&number) {
                write_header(output, &path, &inode, b'1', first, 0, (0, 0))?;
                continue;
            }
            first_names.insert(number, path.clone());
        }
        let device = (inode.raw >> 8 & 0xfff, inode.raw & 0xff | inode.raw >> 12 & 0xf_ff00);
        match kind {
            0o100_000 => {
                bytes_left = bytes_left.checked_sub(inode.size).ok_or_else(|| bad("files are too large"))?;
                write_header(output, &path, &inode, b'0', b"", inode.size, (0, 0))?;
                image.data(&inode, &mut |bytes| output.write_all(bytes))?;
                pad(output, inode.size)?;
            }
            0o040_000 => {
                write_header(output, &path, &inode, b'5', b"", 0, (0, 0))?;
                if open.len() >= MAX_DEPTH {
                    return Err(bad("directories are nested too deeply"));
                }
                open.push((path, image.entries(&inode)?.into_iter()));
            }
            0o120_000 => write_header(output, &path, &inode, b'2', &image.all_data(&inode, MAX_LINK)?, 0, (0, 0))?,
            0o020_000 if device == (0, 0) => write_header(output, &path, &inode, b'3', b"", 0, device)?,
            0o010_000 => write_header(output, &path, &inode, b'6', b"", 0, (0, 0))?,
            _ => {}
        }
    }
    output.write_all(&[0; 2 * BLOCK])?;
    output.flush()
}

fn pad(output: &mut dyn Write, size: u64) -> io::Result<()> {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { Ok(()) } else { output.write_all(&[0; BLOCK][over..]) }
}

/// A pax header with what the other has no room for, and that other one.
fn write_header(
    output: &mut dyn Write,
    path: &[u8],
    inode: &Inode,
    kind: u8,
    link: &[u8],
    size: u64,
    device: (u32, u32),
) -> io::Result<()> {
    let mut records = Vec::new();
    let (seconds, nanoseconds) = inode.modified;
    record(&mut records, b"mtime", format!("{seconds}.{nanoseconds:09}").as_bytes());
    record(&mut records, b"uid", inode.uid.to_string().as_bytes());
    record(&mut records, b"gid", inode.gid.to_string().as_bytes());
    record(&mut records, b"path", path);
    if !link.is_empty() {
        record(&mut records, b"linkpath", link);
    }
    if size >= 1 << 33 {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    if kind != b'1' {
        for (name, value) in &inode.attributes {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
    }
    plain_header(output, b"pax", b'x', 0o644, records.len() as u64, (0, 0))?;
    output.write_all(&records)?;
    pad(output, records.len() as u64)?;
    plain_header(output, b"entry", kind, inode.mode & 0o7777, size, device)
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits as well.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn plain_header(
    output: &mut dyn Write,
    name: &[u8],
    kind: u8,
    mode: u32,
    size: u64,
    device: (u32, u32),
) -> io::Result<()> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    // A larger one stands in the pax header.
    put(124, format!("{:011o}", size.min((1 << 33) - 1)).as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", device.0).as_bytes());
    put(337, format!("{:07o}", device.1).as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    output.write_all(&block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::{FileSystem, Limits, Whiteouts};
    use proptest::prelude::*;

    /// An archive with one of each kind of file, and names that are long.
    fn sample() -> Vec<u8> {
        let mut output = Vec::new();
        let inode = |mode: u32, links: u32, attributes: &[(&str, &str)]| Inode {
            mode,
            uid: 70_000,
            gid: 5,
            links,
            size: 0,
            modified: (1_700_000_000, 123_456_789),
            raw: 0,
            tail: None,
            attributes: attributes
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect(),
        };
        let mut put = |path: &str, kind: u8, mode: u32, link: &str, content: &[u8], attributes: &[(&str, &str)]| {
            write_header(
                &mut output,
                path.as_bytes(),
                &inode(mode, 1, attributes),
                kind,
                link.as_bytes(),
                content.len() as u64,
                (0, 0),
            )
            .unwrap();
            output.write_all(content).unwrap();
            pad(&mut output, content.len() as u64).unwrap();
        };
        put(".", b'5', 0o755, "", b"", &[]);
        put("./a", b'5', 0o1777, "", b"", &[("user.overlay.opaque", "y")]);
        put(
            "./a/setuid",
            b'0',
            0o4755,
            "",
            b"a program",
            &[("security.capability", "\u{1}caps"), ("user.name", "value")],
        );
        put("./a/large", b'0', 0o644, "", &[7; 10_000], &[]);
        put("./a/empty", b'0', 0o644, "", b"", &[]);
        put("./a/linked", b'1', 0o644, "./a/large", b"", &[]);
        put(&format!("./{}/{}", "long".repeat(50), "name".repeat(40)), b'0', 0o600, "", &[1; 4096], &[]);
        put("./link", b'2', 0o777, "a/large", b"", &[]);
        put("./pipe", b'6', 0o600, "", b"", &[]);
        put("./gone", b'3', 0o000, "", b"", &[]);
        for index in 0..300 {
            put(&format!("./many-{index}"), b'0', 0o644, "", format!("{index}").as_bytes(), &[]);
        }
        output.extend([0; 2 * BLOCK]);
        output
    }

    fn image_of(archive: &[u8], directory: &std::path::Path, name: &str) -> std::path::PathBuf {
        let path = directory.join(name);
        let mut image = FileSystem::create(&path, Limits::default()).unwrap();
        image.apply_tar(&mut &*archive, Whiteouts::Overlay).unwrap();
        image.finish().unwrap();
        path
    }

    #[test]
    fn an_image_made_of_its_archive_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let first = image_of(&sample(), directory.path(), "first");
        let mut again = Vec::new();
        archive(&File::open(&first).unwrap(), &mut again).unwrap();
        let text = String::from_utf8_lossy(&again);
        assert!(text.contains("SCHILY.xattr.user.overlay.opaque=y") && text.contains("SCHILY.xattr.user.name=value"));
        // Its data may lie in another order; what it holds is the same.
        let second = image_of(&again, directory.path(), "second");
        let mut once_more = Vec::new();
        archive(&File::open(&second).unwrap(), &mut once_more).unwrap();
        assert!(again == once_more);
    }

    #[test]
    fn what_is_no_image() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(archive(&file, &mut io::sink()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.write_all_at(&[0; 4096], 0).unwrap();
        assert_eq!(archive(&file, &mut io::sink()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Ends, with an error or without, whatever is damaged.
        #[test]
        fn damaged(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), cut in any::<prop::sample::Index>()) {
            let directory = tempfile::tempdir().unwrap();
            let path = image_of(&sample(), directory.path(), "image");
            let mut bytes = std::fs::read(&path).unwrap();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let file = tempfile::tempfile().unwrap();
            // Half of them whole.
            let length = if cut.index(2) == 0 { bytes.len() } else { cut.index(bytes.len()) };
            file.write_all_at(&bytes[..length], 0).unwrap();
            let _ = archive(&file, &mut io::sink());
        }
    }
}
