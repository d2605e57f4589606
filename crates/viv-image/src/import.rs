//! Roots made out of the user's own directories and archives.
//!
//! An archive is imported once for each state its file is in, which one `stat` tells. A directory is known by a
//! digest of what `stat` says of everything in it: names, types, modes, owners, sizes, times of last
//! change (which no program can set back) and links' targets. To look takes about a second for a
//! hundred thousand files; their contents are read only when one of these differs.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{Built, Cache, Recipe, Stamp};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::filesystem::{FileSystem, Limits, Whiteouts, decompress};
use crate::kernel::missing_or;
use crate::progress::{Progress, ProgressEvent};
use crate::root::RootImage;

/// Changes with how an image is made of what is imported.
const VERSION: u32 = 1;
/// Bytes between two events.
const REPORTED: u64 = 4 << 20;

/// The image of a tar archive.
pub(crate) fn from_tar(cache: &Cache, path: &Path, progress: &dyn Progress) -> Result<RootImage> {
    let path = path.canonicalize().map_err(missing_or("image", path))?;
    let stamp = Stamp::of(&path).map_err(missing_or("image", &path))?;
    let recipe = Recipe {
        kind: "tar",
        text: format!("{}, version {VERSION}\n{stamp:?}", path.display()),
        what: format!("the image of {}", path.display()),
    };
    ensure(cache, &recipe, progress, |image| {
        let file = File::open(&path).map_err(io_error("read", &path))?;
        let total = stamp.size;
        let mut archive = decompress(Watched { file, done: 0, reported: 0, total, progress })?;
        image.apply_tar(&mut archive, Whiteouts::None)?;
        drop(archive);
        // What was read in two states is neither.
        if Stamp::of(&path).map_err(io_error("read", &path))? == stamp { Ok(()) } else { Err(changed(&path)) }
    })
}

/// The image of a directory.
pub(crate) fn from_directory(cache: &Cache, path: &Path, progress: &dyn Progress) -> Result<RootImage> {
    let path = path.canonicalize().map_err(missing_or("image", path))?;
    if !path.is_dir() {
        return Err(Error::new(ErrorKind::BadImage, format!("{} is not a directory", path.display()))
            .hint("give an archive as tar:FILE, an image as erofs:FILE"));
    }
    let state = state_of(&path)?;
    let recipe = Recipe {
        kind: "directory",
        text: format!("{}, version {VERSION}\n{state}", path.display()),
        what: format!("the image of {}", path.display()),
    };
    ensure(cache, &recipe, progress, |image| {
        progress.event(ProgressEvent::Step { message: format!("reading {}", path.display()) });
        image.apply_directory(&path)?;
        if state_of(&path)? == state { Ok(()) } else { Err(changed(&path)) }
    })
}

fn changed(path: &Path) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{} changed while it was read", path.display()))
        .hint("try again when nothing writes to it")
}

fn ensure(
    cache: &Cache,
    recipe: &Recipe,
    progress: &dyn Progress,
    fill: impl FnOnce(&mut FileSystem) -> Result<()>,
) -> Result<RootImage> {
    let made = cache.ensure(recipe, progress, |staging| {
        let output = staging.directory.join("root.erofs");
        let mut image = FileSystem::create(&output, Limits::default())?;
        fill(&mut image)?;
        progress.event(ProgressEvent::Step { message: "keeping the image".to_owned() });
        image.finish()?;
        Ok(Built { files: vec![("root.erofs".to_owned(), output)], ..Built::default() })
    })?;
    let file = made.files.into_iter().next();
    file.map(|file| RootImage {
        path: cache.blob(&file.digest),
        digest: file.digest,
        size: file.stamp.size,
        config: ImageConfig::default(),
        pin: None,
    })
    .ok_or_else(|| Error::new(ErrorKind::Cache, format!("the cache's entry of {} is empty", recipe.what)))
}

/// A digest of what `stat` says of a directory and all in it, on its own file system, as
/// [`FileSystem::apply_directory`] reads it.
fn state_of(root: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut left = vec![PathBuf::new()];
    let device = root.metadata().map_err(io_error("look at", root))?.dev();
    while let Some(relative) = left.pop() {
        let path = root.join(&relative);
        let metadata = path.symlink_metadata().map_err(io_error("look at", &path))?;
        let fields = [
            u64::from(metadata.mode()),
            u64::from(metadata.uid()),
            u64::from(metadata.gid()),
            metadata.ino(),
            metadata.size(),
            metadata.mtime() as u64,
            metadata.mtime_nsec() as u64,
            metadata.ctime() as u64,
            metadata.ctime_nsec() as u64,
            metadata.rdev(),
            relative.as_os_str().len() as u64,
        ];
        fields.iter().for_each(|field| hasher.update(field.to_le_bytes()));
        hasher.update(relative.as_os_str().as_bytes());
        if metadata.is_symlink() {
            let target = std::fs::read_link(&path).map_err(io_error("read", &path))?;
            hasher.update((target.as_os_str().len() as u64).to_le_bytes());
            hasher.update(target.as_os_str().as_bytes());
        }
        if metadata.is_dir() && metadata.dev() == device {
            let names = std::fs::read_dir(&path).and_then(|entries| {
                entries.map(|entry| entry.map(|entry| relative.join(entry.file_name()))).collect::<io::Result<Vec<_>>>()
            });
            let mut names = names.map_err(io_error("list", &path))?;
            names.sort_unstable();
            left.extend(names);
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

/// A file that tells how much of it was read.
struct Watched<'a> {
    file: File,
    done: u64,
    reported: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        if self.done - self.reported >= REPORTED {
            self.reported = self.done;
            let done = self.done.min(self.total);
            self.progress.event(ProgressEvent::Fraction { done, total: self.total });
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::progress::NoProgress;
    use crate::root::ensure_root;
    use crate::source::ImageSource;

    #[derive(Default)]
    struct Events(Mutex<Vec<ProgressEvent>>);

    impl Progress for Events {
        fn event(&self, event: ProgressEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    /// A tar archive with one file.
    fn archive(content: &[u8]) -> Vec<u8> {
        let mut header = [0; 512];
        header[..4].copy_from_slice(b"file");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut archive = [&header, content].concat();
        archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
        archive
    }

    #[test]
    fn an_archive_is_imported_once_for_each_state() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let path = directory.path().join("root.tar");
        let source = ImageSource::Tar(path.clone());
        let fails = || *ensure_root(&cache, &source, &NoProgress).unwrap_err().kind();
        assert_eq!(fails(), ErrorKind::NotFound);
        std::fs::write(&path, "no archive").unwrap();
        assert_eq!(fails(), ErrorKind::Corrupt);

        let content: Vec<u8> = (0..9_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761) as u8).collect();
        std::fs::write(&path, archive(&content)).unwrap();
        let events = Events::default();
        let image = ensure_root(&cache, &source, &events).unwrap();
        let fractions =
            events.0.lock().unwrap().iter().filter(|event| matches!(event, ProgressEvent::Fraction { .. })).count();
        assert_eq!(fractions, 2);
        assert_eq!(crate::cache::hash_file(&image.path).unwrap(), image.digest);
        let again = Events::default();
        assert_eq!(ensure_root(&cache, &source, &again).unwrap(), image);
        assert_eq!(again.0.lock().unwrap().len(), 0, "a warm cache is silent");

        // Packed, it is the same image; changed, another.
        for (name, packed) in crate::compression::tests::packed(&archive(&content)) {
            if ["gzip", "xz", "zstd"].contains(&name) {
                std::fs::write(&path, packed).unwrap();
                assert_eq!(ensure_root(&cache, &source, &NoProgress).unwrap(), image, "{name}");
            }
        }
        std::fs::write(&path, archive(b"other")).unwrap();
        assert_ne!(ensure_root(&cache, &source, &NoProgress).unwrap().digest, image.digest);
        assert_eq!(std::fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_is_imported_once_for_each_state() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let path = directory.path().join("root");
        let source = ImageSource::Directory(path.clone());
        assert_eq!(*ensure_root(&cache, &source, &NoProgress).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&path, "").unwrap();
        assert_eq!(*ensure_root(&cache, &source, &NoProgress).unwrap_err().kind(), ErrorKind::BadImage);
        std::fs::remove_file(&path).unwrap();

        std::fs::create_dir_all(path.join("usr/bin")).unwrap();
        std::fs::write(path.join("usr/bin/tool"), "1").unwrap();
        let image = ensure_root(&cache, &source, &NoProgress).unwrap();
        let again = Events::default();
        assert_eq!(ensure_root(&cache, &source, &again).unwrap(), image);
        assert_eq!(again.0.lock().unwrap().len(), 0, "a warm cache is silent");
        let tool = path.join("usr/bin/tool");
        let digest = || ensure_root(&cache, &source, &NoProgress).unwrap().digest;
        let mut digests = vec![image.digest];
        std::fs::write(&tool, "2").unwrap();
        digests.push(digest());
        std::os::unix::fs::symlink("usr", tool.with_file_name("link")).unwrap();
        digests.push(digest());
        std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
        digests.push(digest());
        std::fs::remove_file(&tool).unwrap();
        digests.push(digest());
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 5);
    }
}
