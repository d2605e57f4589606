//! Contents, by their digest: appended to segments, which are never changed.
//!
//! ```text
//! segments/N.data     zstd frames, one after the other
//! segments/N.index    which content is where; what has no index was not finished, and is removed
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::entry::{Digest, decode, encode};
use crate::error::io;
use crate::{Error, ErrorKind, Result};

/// More segments than this are made one, since each is opened and its index read.
const MOST_SEGMENTS: usize = 64;

/// Garbage is tolerated up to this many bytes, and beyond it up to the size of what is used.
const TOLERATED_BYTES: u64 = 16 << 20;

/// Where a content is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Place {
    segment: u32,
    offset: u64,
    /// Bytes there.
    length: u32,
    /// Bytes of the content.
    size: u64,
}

/// The contents that are kept. Whoever has one holds the lock of the store.
#[derive(Debug)]
pub(crate) struct Blobs {
    directory: PathBuf,
    places: HashMap<Digest, Place>,
    next: u32,
    open: HashMap<u32, File>,
    writing: Option<Writing>,
}

/// The segment that is being written.
#[derive(Debug)]
struct Writing {
    file: std::io::BufWriter<File>,
    offset: u64,
    places: Vec<(Digest, Place)>,
}

/// A content as it is stored, made without the lock of anything.
pub(crate) struct Packed {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    bytes: Vec<u8>,
}

impl Packed {
    /// Packs a content whose digest is known.
    pub(crate) fn new(digest: Digest, content: &[u8]) -> std::io::Result<Self> {
        Ok(Self { digest, size: content.len() as u64, bytes: zstd::bulk::compress(content, 1)? })
    }
}

/// The digest of a content.
pub(crate) fn digest_of(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

impl Blobs {
    /// What the directory has; made if missing. Segments that were not finished are removed.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let failed = || io(format!("{} cannot be used", directory.display()));
        std::fs::create_dir_all(directory).map_err(failed())?;
        let mut blobs = Self {
            directory: directory.to_path_buf(),
            places: HashMap::new(),
            next: 1,
            open: HashMap::new(),
            writing: None,
        };
        for (number, whole) in blobs.segments()? {
            blobs.next = blobs.next.max(number.saturating_add(1));
            if !whole {
                let _ = std::fs::remove_file(blobs.data(number));
                continue;
            }
            let path = blobs.index(number);
            let index = std::fs::read(&path).map_err(failed())?;
            // A loss of power may have left half of it: what it told of is lost, and the next collection removes it.
            let places: Vec<(Digest, Place)> = decode(&index, &path).unwrap_or_default();
            blobs.places.extend(places);
        }
        Ok(blobs)
    }

    /// The segments there are, and whether each has its index.
    fn segments(&self) -> Result<BTreeMap<u32, bool>> {
        let failed = || io(format!("{} cannot be read", self.directory.display()));
        let mut segments = BTreeMap::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(number) = number else { continue };
            let whole = path.extension().is_some_and(|extension| extension == "index");
            *segments.entry(number).or_insert(false) |= whole;
        }
        Ok(segments)
    }

    fn data(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number}.data"))
    }

    fn index(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number}.index"))
    }

    /// Whether the content is kept.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.places.contains_key(digest)
    }

    /// The digests of what is kept.
    pub(crate) fn known(&self) -> std::collections::HashSet<Digest> {
        self.places.keys().copied().collect()
    }

    /// Keeps a content; it counts once [`Blobs::commit`] was called.
    pub(crate) fn put(&mut self, content: &[u8]) -> Result<Digest> {
        let digest = digest_of(content);
        if !self.has(&digest) {
            self.append(Packed::new(digest, content).map_err(io("a content cannot be packed"))?)?;
        }
        Ok(digest)
    }

    /// Keeps a packed content; it counts once [`Blobs::commit`] was called.
    pub(crate) fn append(&mut self, packed: Packed) -> Result<()> {
        if self.has(&packed.digest) {
            return Ok(());
        }
        let failed = || io(format!("contents cannot be written to {}", self.directory.display()));
        let writing = match &mut self.writing {
            Some(writing) => writing,
            None => {
                let path = self.directory.join(format!("{}.data", self.next));
                let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path);
                let file = std::io::BufWriter::with_capacity(1 << 18, file.map_err(failed())?);
                self.writing.insert(Writing { file, offset: 0, places: Vec::new() })
            }
        };
        writing.file.write_all(&packed.bytes).map_err(failed())?;
        let length = u32::try_from(packed.bytes.len())
            .map_err(|_| Error::new(ErrorKind::TooLarge, "a content is over 4 GiB"))?;
        let place = Place { segment: self.next, offset: writing.offset, length, size: packed.size };
        writing.offset += u64::from(length);
        writing.places.push((packed.digest, place));
        self.places.insert(packed.digest, place);
        Ok(())
    }

    /// Makes what was put count.
    pub(crate) fn commit(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let failed = || io(format!("contents cannot be written to {}", self.directory.display()));
        writing.file.into_inner().map_err(|error| failed()(error.into_error()))?;
        write_whole(&self.index(self.next), &encode(&writing.places)?, false)?;
        self.next += 1;
        Ok(())
    }

    /// A content, compared with its digest.
    pub(crate) fn get(&mut self, digest: &Digest) -> Result<Vec<u8>> {
        let damaged = || Error::new(ErrorKind::Damaged, "a content that was kept cannot be read");
        let place = *self.places.get(digest).ok_or_else(damaged)?;
        let path = self.data(place.segment);
        let file = match self.open.entry(place.segment) {
            std::collections::hash_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(File::open(path).map_err(|error| damaged().source(error))?)
            }
        };
        let mut packed = vec![0; place.length as usize];
        file.read_exact_at(&mut packed, place.offset).map_err(|error| damaged().source(error))?;
        let size = usize::try_from(place.size).map_err(|_| damaged())?;
        let content = zstd::bulk::decompress(&packed, size).map_err(|error| damaged().source(error))?;
        if digest_of(&content) == *digest { Ok(content) } else { Err(damaged()) }
    }

    /// Has the disk keep these contents, also through a loss of power.
    pub(crate) fn sync<'a>(&self, digests: impl Iterator<Item = &'a Digest>) -> Result<()> {
        let segments: BTreeSet<u32> =
            digests.filter_map(|digest| self.places.get(digest)).map(|at| at.segment).collect();
        if segments.is_empty() {
            return Ok(());
        }
        for segment in segments {
            for path in [self.data(segment), self.index(segment)] {
                File::open(&path)
                    .and_then(|file| file.sync_data())
                    .map_err(io(format!("{} cannot be written", path.display())))?;
            }
        }
        sync_directory(&self.directory)
    }

    /// Removes segments of which nothing is used, and writes what is used anew once there is more garbage than
    /// that, or too many segments.
    pub(crate) fn collect(&mut self, used: &BTreeSet<Digest>) -> Result<()> {
        self.commit()?;
        let mut used_of: BTreeMap<u32, u64> = BTreeMap::new();
        for (_, place) in self.places.iter().filter(|(digest, _)| used.contains(digest)) {
            *used_of.entry(place.segment).or_default() += u64::from(place.length);
        }
        let mut total = 0;
        for (segment, _) in self.segments()? {
            if used_of.contains_key(&segment) {
                total += std::fs::metadata(self.data(segment)).map_or(0, |metadata| metadata.len());
            } else {
                self.remove(segment);
            }
        }
        let kept: u64 = used_of.values().sum();
        if total - kept.min(total) <= kept.max(TOLERATED_BYTES) && used_of.len() <= MOST_SEGMENTS {
            return Ok(());
        }
        let old: Vec<u32> = used_of.into_keys().collect();
        let moved: Vec<Digest> = self.places.keys().copied().filter(|digest| used.contains(digest)).collect();
        for digest in moved {
            let content = self.get(&digest)?;
            let packed = Packed::new(digest, &content).map_err(io("a content cannot be packed"))?;
            self.places.remove(&digest);
            self.append(packed)?;
        }
        self.commit()?;
        old.into_iter().for_each(|segment| self.remove(segment));
        Ok(())
    }

    fn remove(&mut self, segment: u32) {
        // The index first: data without one is nothing.
        let _ = std::fs::remove_file(self.index(segment));
        let _ = std::fs::remove_file(self.data(segment));
        self.open.remove(&segment);
        self.places.retain(|_, place| place.segment != segment);
    }
}

/// Writes a file whole or not at all; `sync` has the disk keep it before this returns.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
    let failed = || io(format!("{} cannot be written", path.display()));
    let partial = path.with_extension("partial");
    let write = || {
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&partial, path)
    };
    write().map_err(|error| {
        // A full disk is not to be fuller for it.
        let _ = std::fs::remove_file(&partial);
        failed()(error)
    })?;
    if sync { sync_directory(path.parent().unwrap_or(path)) } else { Ok(()) }
}

/// Has the disk keep the names in a directory.
fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(io(format!("{} cannot be written", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_kept_found_and_collected() {
        let root = tempfile::tempdir().unwrap();
        let mut blobs = Blobs::open(root.path()).unwrap();
        let first = blobs.put(b"one").unwrap();
        assert_eq!(blobs.put(b"one").unwrap(), first);
        blobs.commit().unwrap();
        let second = blobs.put(&vec![7; 100_000]).unwrap();
        blobs.commit().unwrap();
        // Never finished.
        blobs.put(b"three").unwrap();
        let mut blobs = Blobs::open(root.path()).unwrap();
        assert_eq!(blobs.get(&first).unwrap(), b"one");
        assert_eq!(blobs.get(&second).unwrap().len(), 100_000);
        assert!(!blobs.has(&digest_of(b"three")) && !root.path().join("3.data").exists());

        blobs.collect(&BTreeSet::from([second])).unwrap();
        assert!(!blobs.has(&first) && !root.path().join("1.data").exists());
        assert_eq!(Blobs::open(root.path()).unwrap().get(&second).unwrap().len(), 100_000);
    }

    #[test]
    fn many_segments_become_one_and_a_changed_byte_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let mut blobs = Blobs::open(root.path()).unwrap();
        let mut all = BTreeSet::new();
        for number in 0..=MOST_SEGMENTS {
            all.insert(blobs.put(number.to_string().as_bytes()).unwrap());
            blobs.commit().unwrap();
        }
        blobs.collect(&all).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
        let mut blobs = Blobs::open(root.path()).unwrap();
        for digest in &all {
            blobs.get(digest).unwrap();
        }
        let mut data = std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path());
        let data = data.find(|path| path.extension().unwrap() == "data").unwrap();
        let mut bytes = std::fs::read(&data).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(&data, bytes).unwrap();
        let mut blobs = Blobs::open(root.path()).unwrap();
        assert_eq!(*blobs.get(all.first().unwrap()).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
