//! Tar archives, also ones that no archiver writes.

/// One entry. The fields are those of a header, and come as they are.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: u8,
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub modified: (i64, u32),
    pub link: Vec<u8>,
    pub device: (u64, u64),
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub content: Vec<u8>,
}

pub fn entry(kind: u8, path: impl AsRef<[u8]>) -> Entry {
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    Entry {
        path: path.as_ref().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        modified: (1_700_000_000, 0),
        link: Vec::new(),
        device: (0, 0),
        attributes: Vec::new(),
        content: Vec::new(),
    }
}

pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Entry {
    Entry { content: content.as_ref().to_vec(), ..entry(b'0', path) }
}

pub fn directory(path: impl AsRef<[u8]>) -> Entry {
    entry(b'5', path)
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), mode: 0o777, ..entry(b'2', path) }
}

pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), ..entry(b'1', path) }
}

pub fn device(kind: u8, path: impl AsRef<[u8]>, device: (u64, u64)) -> Entry {
    Entry { device, ..entry(kind, path) }
}

impl Entry {
    pub fn attribute(mut self, name: &str, value: &[u8]) -> Self {
        self.attributes.push((name.into(), value.to_vec()));
        self
    }

    pub fn owned(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    pub fn mode(self, mode: u64) -> Self {
        Self { mode, ..self }
    }
}

/// An archive with its end.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    entries.iter().for_each(|entry| write(entry, &mut out));
    out.resize(out.len() + 1024, 0);
    out
}

/// A header with a right sum, and padded data. What a header has no room for is in a pax header before it.
pub fn write(entry: &Entry, out: &mut Vec<u8>) {
    let mut records = Vec::new();
    let plain = |name: &[u8], room: usize| name.len() <= room && !name.contains(&0);
    if !plain(&entry.path, 100) {
        record(b"path", &entry.path, &mut records);
    }
    if !plain(&entry.link, 100) {
        record(b"linkpath", &entry.link, &mut records);
    }
    for (key, value) in [("uid", entry.uid), ("gid", entry.gid)] {
        if value > 0o777_7777 {
            record(key.as_bytes(), value.to_string().as_bytes(), &mut records);
        }
    }
    if entry.modified.1 > 0 || entry.modified.0 < 0 {
        let (seconds, nanoseconds) = entry.modified;
        let text = match (seconds < 0, nanoseconds) {
            (true, 1..) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
            _ => format!("{seconds}.{nanoseconds:09}"),
        };
        record(b"mtime", text.as_bytes(), &mut records);
    }
    for (name, value) in &entry.attributes {
        record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value, &mut records);
    }
    if !records.is_empty() {
        header(&self::entry(b'x', "pax"), records.len() as u64, out);
        data(&records, out);
    }
    header(entry, entry.content.len() as u64, out);
    data(&entry.content, out);
}

/// A pax record, whose length counts itself.
pub fn record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend(format!("{length} ").into_bytes());
    out.extend([key, b"=", value, b"\n"].concat());
}

pub fn data(content: &[u8], out: &mut Vec<u8>) {
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// A header that says the data has `size` bytes.
pub fn header(entry: &Entry, size: u64, out: &mut Vec<u8>) {
    let mut block = [0; 512];
    let mut text = |start: usize, room: usize, value: &[u8]| {
        let value = &value[..value.len().min(room)];
        block[start..start + value.len()].copy_from_slice(value);
    };
    text(0, 100, &entry.path);
    text(100, 8, format!("{:07o}", entry.mode).as_bytes());
    text(108, 8, format!("{:07o}", entry.uid & 0o777_7777).as_bytes());
    text(116, 8, format!("{:07o}", entry.gid & 0o777_7777).as_bytes());
    if size < 8 << 30 {
        text(124, 12, format!("{size:011o}").as_bytes());
    } else {
        text(124, 1, b"\x80");
        text(128, 8, &size.to_be_bytes());
    }
    text(136, 12, format!("{:011o}", entry.modified.0.max(0)).as_bytes());
    text(148, 8, b"        ");
    text(156, 1, &[entry.kind]);
    text(157, 100, &entry.link);
    text(257, 8, b"ustar\x0000");
    text(329, 8, format!("{:07o}", entry.device.0).as_bytes());
    text(337, 8, format!("{:07o}", entry.device.1).as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend(block);
}
