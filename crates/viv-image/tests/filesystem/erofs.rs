//! Reads erofs images by the letter of the kernel's documentation, to compare them with what went in.

use std::collections::BTreeMap;

const BLOCK: u64 = 4096;

/// What an image says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, u32),
    pub links: u32,
    /// The same for all names of one file.
    pub inode: u64,
    /// A file's content, a link's target.
    pub content: Vec<u8>,
    pub device: u32,
    pub attributes: BTreeMap<String, Vec<u8>>,
}

impl Found {
    pub fn text(&self) -> String {
        String::from_utf8(self.content.clone()).unwrap()
    }
}

struct Image<'a> {
    bytes: &'a [u8],
    inodes: u64,
    found: BTreeMap<Vec<u8>, Found>,
}

fn u16_at(bytes: &[u8], at: u64) -> u16 {
    u16::from_le_bytes(bytes[at as usize..][..2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: u64) -> u32 {
    u32::from_le_bytes(bytes[at as usize..][..4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: u64) -> u64 {
    u64::from_le_bytes(bytes[at as usize..][..8].try_into().unwrap())
}

/// Everything in an image by its path; the root is the empty one.
pub fn read(bytes: &[u8]) -> BTreeMap<Vec<u8>, Found> {
    assert_eq!(u32_at(bytes, 1024), 0xe0f5_e1e2);
    assert_eq!(u64::from(u32_at(bytes, 1024 + 36)) * BLOCK, bytes.len() as u64);
    let inodes = u64::from(u32_at(bytes, 1024 + 40)) * BLOCK;
    let root = u64::from(u16_at(bytes, 1024 + 14));
    let mut image = Image { bytes, inodes, found: BTreeMap::new() };
    let mut left = vec![(Vec::new(), root, root)];
    while let Some((path, number, parent)) = left.pop() {
        let found = image.inode(number);
        if found.mode & 0o170_000 == 0o040_000 {
            left.extend(image.directory(&path, &found, number, parent));
        }
        image.found.insert(path, found);
    }
    image.found
}

/// The same with paths as text.
pub fn read_texts(bytes: &[u8]) -> BTreeMap<String, Found> {
    read(bytes).into_iter().map(|(path, found)| (String::from_utf8(path).unwrap(), found)).collect()
}

impl Image<'_> {
    fn inode(&self, number: u64) -> Found {
        let at = self.inodes + number * 32;
        let bytes = self.bytes;
        let format = u16_at(bytes, at);
        assert_eq!(format & 1, 1, "an extended inode");
        let units = u64::from(u16_at(bytes, at + 2));
        let attributes_size = if units == 0 { 0 } else { 12 + (units - 1) * 4 };
        let (mode, size, start) = (u16_at(bytes, at + 4), u64_at(bytes, at + 8), u32_at(bytes, at + 16));
        let special = matches!(mode & 0o170_000, 0o020_000 | 0o060_000 | 0o010_000 | 0o140_000);
        let mut content = Vec::new();
        if !special {
            let tail = match format >> 1 {
                0 => 0,
                2 => size % BLOCK,
                other => panic!("layout {other}"),
            };
            let from = u64::from(start) * BLOCK;
            content.extend(&bytes[from as usize..][..(size - tail) as usize]);
            let from = at + 64 + attributes_size;
            assert!(tail == 0 || from / BLOCK == (from + tail - 1) / BLOCK, "a tail crosses a block");
            content.extend(&bytes[from as usize..][..tail as usize]);
        }
        Found {
            mode,
            uid: u32_at(bytes, at + 24),
            gid: u32_at(bytes, at + 28),
            modified: (u64_at(bytes, at + 32) as i64, u32_at(bytes, at + 40)),
            links: u32_at(bytes, at + 44),
            inode: number,
            content,
            device: if special { start } else { 0 },
            attributes: self.attributes(at + 64, attributes_size),
        }
    }

    fn attributes(&self, at: u64, size: u64) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut place = at + 12;
        while place < at + size {
            let (name_size, index) = (u64::from(self.bytes[place as usize]), self.bytes[place as usize + 1]);
            let value_size = u64::from(u16_at(self.bytes, place + 2));
            let name = &self.bytes[place as usize + 4..][..name_size as usize];
            let value = &self.bytes[(place + 4 + name_size) as usize..][..value_size as usize];
            let prefix = match index {
                1 => "user.",
                2 => "system.posix_acl_access",
                3 => "system.posix_acl_default",
                4 => "trusted.",
                6 => "security.",
                other => panic!("prefix {other}"),
            };
            found.insert(format!("{prefix}{}", String::from_utf8_lossy(name)), value.to_vec());
            place += (4 + name_size + value_size).next_multiple_of(4);
        }
        found
    }

    fn directory(&self, path: &[u8], found: &Found, number: u64, parent: u64) -> Vec<(Vec<u8>, u64, u64)> {
        let mut names = Vec::new();
        for block in found.content.chunks(BLOCK as usize) {
            let count = u64::from(u16_at(block, 8)) / 12;
            for index in 0..count {
                let start = usize::from(u16_at(block, index * 12 + 8));
                let end = if index + 1 < count { usize::from(u16_at(block, index * 12 + 20)) } else { block.len() };
                let name: Vec<u8> = block[start..end].iter().copied().take_while(|byte| *byte != 0).collect();
                names.push((name, u64_at(block, index * 12)));
            }
        }
        assert!(names.is_sorted(), "the kernel searches by halves");
        let mut below = Vec::new();
        for (name, child) in names {
            match name.as_slice() {
                b"." => assert_eq!(child, number),
                b".." => assert_eq!(child, parent),
                _ => {
                    let path = if path.is_empty() { name } else { [path, b"/", &name].concat() };
                    below.push((path, child, number));
                }
            }
        }
        below
    }
}
