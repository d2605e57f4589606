//! Images in files: an OCI image layout (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>)
//! in a tar archive or a directory, and what `docker save` writes.
//!
//! An archive is never unpacked: its entries are found once, and their bytes read where they are. So a
//! name in it is a key, and never a path of this host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::assemble::Layers;
use super::digest::{Digest, Hashing};
use super::image_config::{self, ImageInfo};
use super::manifest::{self, Blob, Candidate, Document, MAX_DOCUMENT_BYTES, unsupported};
use super::platform::Platform;
use super::reference;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::filesystem::decompress;

/// More entries are in no archive of an image.
const MAX_ENTRIES: usize = 100_000;

/// Bytes of an entry's name.
const MAX_NAME_BYTES: usize = 4096;

/// Links from one entry to the next: old versions of Docker name a layer that is there already so.
const MOST_LINKS: usize = 8;

/// The largest archive that is unpacked to be read. Bytes.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;

/// Indexes within indexes.
const MOST_INDEXES: usize = 4;

/// An archive, or a directory with a layout.
#[derive(Debug)]
pub(super) enum Archive {
    Tar { file: File, path: PathBuf, entries: BTreeMap<String, Entry> },
    Directory(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// Another entry, by its name.
    Link(String),
}

/// One image of an archive.
#[derive(Debug)]
pub(super) struct ArchivedImage {
    pub info: ImageInfo,
    /// Of its configuration.
    pub id: Digest,
    /// Of its manifest; `docker save` of old had none.
    pub manifest: Option<Digest>,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    /// Its name in the archive.
    name: String,
    /// Where it is named by its digest, that.
    digest: Option<Blob>,
}

/// An entry of `docker save`'s manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    /// Opens an archive; what is packed as a whole is unpacked into `directory` first, as one file.
    pub(super) fn open(path: &Path, directory: &Path) -> Result<Self> {
        let missing = crate::kernel::missing_or("image", path);
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return Err(missing(error)),
        };
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        let read = io_error("read", path);
        let mut file = File::open(path).map_err(read)?;
        let mut magic = [0; 6];
        let count = read_up_to(&mut file, &mut magic).map_err(io_error("read", path))?;
        file.rewind().map_err(io_error("read", path))?;
        let packed = [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"];
        if packed.iter().any(|magic_of| magic[..count].starts_with(magic_of)) {
            let unpacked = directory.join("archive.tar");
            let options = File::options().read(true).write(true).create_new(true).open(&unpacked);
            let mut output = options.map_err(io_error("write", &unpacked))?;
            let content = decompress(file)?.take(MAX_UNPACKED_BYTES + 1);
            let size = copy(content, &mut output, path, &unpacked)?;
            if size > MAX_UNPACKED_BYTES {
                let message = format!("{} unpacks to more than {} GiB", path.display(), MAX_UNPACKED_BYTES >> 30);
                return Err(Error::new(ErrorKind::TooLarge, message));
            }
            output.rewind().map_err(io_error("read", &unpacked))?;
            file = output;
        }
        let entries = entries(&mut file).map_err(|why| {
            Error::new(ErrorKind::UnsupportedImage, format!("{} is no archive of an image", path.display()))
                .source(why)
                .hint("give what `docker save`, `podman save` or `skopeo copy` wrote; tar:FILE is for a bare root file system")
        })?;
        Ok(Self::Tar { file, path: path.to_path_buf(), entries })
    }

    /// The image of that name in it, or the only one.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`] if no name chooses among several, or one chooses none.
    pub(super) fn image(&self, name: Option<&str>, platform: &Platform) -> Result<ArchivedImage> {
        let found = if self.has("index.json") {
            let bytes = self.document("index.json")?;
            self.of_layout(&bytes, name, platform)
        } else if self.has("manifest.json") {
            self.of_docker(name)
        } else {
            Err(unsupported("it has neither index.json nor manifest.json, so it is no archive of an image")
                .hint("tar:FILE and dir:PATH are for bare root file systems"))
        }?;
        found.info.check_platform(platform)?;
        found.info.check_layers(found.layers.len())?;
        Ok(found)
    }

    fn of_layout(&self, bytes: &[u8], name: Option<&str>, platform: &Platform) -> Result<ArchivedImage> {
        let Document::Index(candidates) = manifest::parse(bytes)? else {
            return Err(unsupported("its index.json is no index"));
        };
        let chosen = by_name(&candidates, name, platform)?;
        let mut blob = chosen.manifest.clone();
        for _ in 0..MOST_INDEXES {
            let bytes = self.blob(&blob, "a manifest")?;
            match manifest::parse(&bytes)? {
                Document::Index(candidates) => blob = manifest::choose(&candidates, platform)?.manifest.clone(),
                Document::Image(found) => {
                    let info = image_config::parse(&self.blob(&found.config, "the image's configuration")?)?;
                    let layer = |blob: Blob| Layer { name: blob_name(&blob.digest), digest: Some(blob) };
                    let layers = found.layers.into_iter().map(layer).collect();
                    return Ok(ArchivedImage { info, id: found.config.digest, manifest: Some(blob.digest), layers });
                }
            }
        }
        Err(unsupported("its indexes lead from one to the next"))
    }

    fn of_docker(&self, name: Option<&str>) -> Result<ArchivedImage> {
        let bytes = self.document("manifest.json")?;
        let images: Vec<Saved> =
            serde_json::from_slice(&bytes).map_err(|why| manifest::malformed("manifest.json", why))?;
        let tags = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
        let found = match (name, images.as_slice()) {
            (None, [only]) => only,
            (None, _) => return Err(which(images.iter().flat_map(tags))),
            (Some(name), _) => images
                .iter()
                .find(|image| tags(image).iter().any(|tag| is_called(tag, name)))
                .ok_or_else(|| none_is_called(name, images.iter().flat_map(tags)))?,
        };
        let config = self.document(&found.config)?;
        let layers = found.layers.iter().map(|name| Layer { name: name.clone(), digest: None }).collect();
        Ok(ArchivedImage { info: image_config::parse(&config)?, id: Digest::of(&config), manifest: None, layers })
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Tar { entries, .. } => entries.contains_key(name),
            Self::Directory(path) => path.join(name).is_file(),
        }
    }

    /// The bytes of an entry, and how many there are.
    fn open_entry(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64)> {
        let missing = || {
            let message = format!("the archive is incomplete: it lacks {}", name.escape_debug());
            Error::new(ErrorKind::Corrupt, message)
        };
        match self {
            Self::Tar { file, path, entries } => {
                let mut name = normal(name).ok_or_else(missing)?;
                for _ in 0..MOST_LINKS {
                    match entries.get(&name).ok_or_else(missing)? {
                        Entry::Link(target) => name.clone_from(target),
                        Entry::File { offset, size } => {
                            let mut file = file;
                            file.seek(SeekFrom::Start(*offset)).map_err(io_error("read", path))?;
                            return Ok((Box::new(file.take(*size)), *size));
                        }
                    }
                }
                Err(missing())
            }
            Self::Directory(directory) => {
                let plain = normal(name).ok_or_else(missing)?;
                // A link of the directory's must not lead to what only this host's user may read.
                let path = directory.join(&plain);
                let inside = path.canonicalize().and_then(|path| Ok(path.starts_with(directory.canonicalize()?)));
                match inside {
                    Ok(true) => {}
                    Ok(false) => return Err(missing()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
                    Err(error) => return Err(io_error("read", &path)(error)),
                }
                let file = File::open(&path).map_err(io_error("read", &path))?;
                let size = file.metadata().map_err(io_error("read", &path))?.len();
                Ok((Box::new(file), size))
            }
        }
    }

    /// A small entry as a whole.
    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (reader, size) = self.open_entry(name)?;
        if size > MAX_DOCUMENT_BYTES {
            return Err(unsupported(format!("{} in it has {size} bytes", name.escape_debug())));
        }
        let mut bytes = Vec::new();
        let read = reader.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes);
        read.map_err(|why| Error::new(ErrorKind::Io, "cannot read the archive").source(why))?;
        Ok(bytes)
    }

    fn blob(&self, blob: &Blob, what: &str) -> Result<Vec<u8>> {
        let bytes = self.document(&blob_name(&blob.digest))?;
        blob.digest.check(what, &Digest::of(&bytes))?;
        Ok(bytes)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The entry an index has for a name, or the only one.
fn by_name<'a>(candidates: &'a [Candidate], name: Option<&str>, platform: &Platform) -> Result<&'a Candidate> {
    let names = || candidates.iter().filter_map(|candidate| candidate.name.clone());
    match name {
        None if candidates.len() == 1 => Ok(&candidates[0]),
        // One image for several platforms is one image.
        None if names().next().is_none() && !candidates.is_empty() => manifest::choose(candidates, platform),
        None => Err(which(names())),
        Some(name) => {
            let called = |candidate: &&Candidate| candidate.name.as_ref().is_some_and(|full| is_called(full, name));
            let found: Vec<Candidate> = candidates.iter().filter(called).cloned().collect();
            match found.as_slice() {
                [] => Err(none_is_called(name, names())),
                [only] => Ok(candidates.iter().find(|candidate| *candidate == only).unwrap_or(&candidates[0])),
                several => {
                    let chosen = manifest::choose(several, platform)?;
                    Ok(candidates.iter().find(|candidate| *candidate == chosen).unwrap_or(&candidates[0]))
                }
            }
        }
    }
}

/// Whether what an archive has is what was asked for: by the same words, or by what they mean.
fn is_called(full: &str, asked: &str) -> bool {
    let meaning = |text: &str| reference::parse(text).ok().map(|name| name.whole());
    full == asked || meaning(full).is_some_and(|full| meaning(asked) == Some(full))
}

fn which(names: impl Iterator<Item = String>) -> Error {
    let message = format!("it holds several images or none: {}", list(names));
    Error::new(ErrorKind::NoSuchImage, message).hint("name one: oci-archive:FILE:NAME")
}

fn none_is_called(name: &str, names: impl Iterator<Item = String>) -> Error {
    Error::new(ErrorKind::NoSuchImage, format!("it holds no {}, only {}", name.escape_debug(), list(names)))
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(20).map(|name| name.escape_debug().take(200).collect()).collect();
    if names.is_empty() { "none has a name".to_owned() } else { names.join(", ") }
}

/// How many entries bytes have as an archive.
pub(super) fn read_table(bytes: &[u8]) -> usize {
    entries(&mut io::Cursor::new(bytes)).map_or(0, |entries| entries.len())
}

/// The entries of a tar archive that are files or links to such.
fn entries(file: &mut (impl Read + Seek)) -> io::Result<BTreeMap<String, Entry>> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(&mut *file);
    for (number, entry) in archive.entries_with_seek()?.enumerate() {
        let entry = entry?;
        if number >= MAX_ENTRIES {
            return Err(invalid("it has too many entries"));
        }
        let name = entry.path_bytes();
        if name.len() > MAX_NAME_BYTES {
            return Err(invalid("a name in it is too long"));
        }
        let Some(name) = std::str::from_utf8(&name).ok().and_then(normal) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_contiguous() {
            found.insert(name, Entry::File { offset: entry.raw_file_position(), size: entry.size() });
        } else if let Some(target) = entry.link_name_bytes() {
            let Ok(target) = std::str::from_utf8(&target) else { continue };
            // A hard link is named from the archive's root, a symbolic one from its own directory.
            let target = match name.rsplit_once('/') {
                Some((above, _)) if kind.is_symlink() => normal(&format!("{above}/{target}")),
                _ => normal(target),
            };
            if let Some(target) = target {
                found.insert(name, Entry::Link(target));
            }
        }
    }
    if found.is_empty() {
        return Err(invalid("it has no entries"));
    }
    Ok(found)
}

/// A name without `.` and `..`; `None` if it leads out of the archive.
fn normal(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(name).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match reader.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Copies, and tells a damaged source from a full disk.
fn copy(mut from: impl Read, to: &mut File, source: &Path, target: &Path) -> Result<u64> {
    use io::Write;
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let message = format!("{} cannot be unpacked", source.display());
                return Err(Error::new(ErrorKind::Corrupt, message).source(error));
            }
        };
        to.write_all(&buffer[..count]).map_err(io_error("write", target))?;
        total += count as u64;
    }
}

/// Reads the layers of an image where they are.
pub(super) struct Reading<'a> {
    archive: &'a Archive,
    image: &'a ArchivedImage,
}

impl ArchivedImage {
    pub(super) fn layers<'a>(&'a self, archive: &'a Archive) -> Reading<'a> {
        Reading { archive, image: self }
    }
}

impl Layers for Reading<'_> {
    fn name(&self, index: usize) -> String {
        let layer = &self.image.layers[index];
        let name =
            layer.digest.as_ref().map_or_else(|| layer.name.escape_debug().to_string(), |b| b.digest.to_string());
        format!("layer {} of {} ({name})", index + 1, self.image.layers.len())
    }

    fn open(&mut self, index: usize) -> Result<Box<dyn Read + '_>> {
        self.archive.open_entry(&self.image.layers[index].name).map(|(reader, _)| reader)
    }

    fn verify(&mut self, index: usize) -> Result<()> {
        // Where a layer has no digest of its own, that of its content has to do.
        let Some(blob) = &self.image.layers[index].digest else { return Ok(()) };
        let (reader, _) = self.archive.open_entry(&self.image.layers[index].name)?;
        let (digest, _) = Hashing::new(reader)
            .finish()
            .map_err(|why| Error::new(ErrorKind::Io, "cannot read the archive").source(why))?;
        blob.digest.check(&self.name(index), &digest)
    }
}

#[cfg(test)]
mod tests;
