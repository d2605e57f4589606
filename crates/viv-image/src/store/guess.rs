//! What a file or directory is, for whoever imports it without saying so.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Result, io_error};
use crate::filesystem::erofs::{MAGIC, SUPERBLOCK_OFFSET};
use crate::kernel::missing_or;
use crate::source::ImageSource;

/// What makes an archive an OCI layout, or what `docker save` writes.
const LAYOUT_FILES: [&[u8]; 3] = [b"oci-layout", b"manifest.json", b"index.json"];

/// So many entries of an archive are looked at: a layout has few.
const MAX_ENTRIES: usize = 1000;

/// What a path leads to: a directory, an erofs image, an OCI archive or a tar archive of a root. An archive
/// is taken for an OCI one if it is not compressed, as they are, and has the files that make it one.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] and [`crate::ErrorKind::Io`] if it cannot be looked at.
pub fn guess_source(path: &Path) -> Result<ImageSource> {
    let path = path.canonicalize().map_err(missing_or("image", path))?;
    if path.is_dir() {
        return if path.join("oci-layout").is_file() { archive(&path) } else { Ok(ImageSource::Directory(path)) };
    }
    let file = File::open(&path).map_err(io_error("open", &path))?;
    let mut magic = [0; 4];
    if file.read_exact_at(&mut magic, SUPERBLOCK_OFFSET as u64).is_ok() && magic == MAGIC.to_le_bytes() {
        return Ok(ImageSource::Erofs(path));
    }
    if is_layout(&file) { archive(&path) } else { Ok(ImageSource::Tar(path)) }
}

fn archive(path: &Path) -> Result<ImageSource> {
    format!("oci-archive:{}", path.display()).parse()
}

/// Walks the headers of a tar archive (POSIX.1-2017, pax, "ustar Interchange Format").
fn is_layout(file: &File) -> bool {
    let mut at = 0_u64;
    for _ in 0..MAX_ENTRIES {
        let mut header = [0; 512];
        if file.read_exact_at(&mut header, at).is_err() || &header[257..262] != b"ustar" {
            return false;
        }
        let name = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = name.strip_prefix(b"./").unwrap_or(name);
        if LAYOUT_FILES.contains(&name) {
            return true;
        }
        let size = header[124..136].iter().filter(|byte| (b'0'..=b'7').contains(byte));
        let size = size.fold(0_u64, |size, digit| (size << 3) | u64::from(digit - b'0'));
        at += 512 + size.next_multiple_of(512);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn header(name: &str, size: u64) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[257..262].copy_from_slice(b"ustar");
        header.resize(512 + usize::try_from(size).unwrap().next_multiple_of(512), 7);
        header
    }

    #[test]
    fn what_it_is_shows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("file");
        let guess = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            guess_source(&path).unwrap()
        };
        let mut erofs = vec![0; 4096];
        erofs[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        assert_eq!(guess(&erofs), ImageSource::Erofs(path.clone()));
        let root = [header("bin/", 0), header("bin/sh", 700), vec![0; 1024]].concat();
        assert_eq!(guess(&root), ImageSource::Tar(path.clone()));
        let layout = [header("blobs/", 0), header("blobs/x", 513), header("./oci-layout", 30)].concat();
        assert_eq!(guess(&layout).to_string(), format!("oci-archive:{}", path.display()));
        assert_eq!(guess(b"\x1f\x8b compressed"), ImageSource::Tar(path.clone()));
        let huge = header("x", 0o77777777777 >> 20);
        assert_eq!(guess(&huge), ImageSource::Tar(path.clone()));
        let directory = path.parent().unwrap().to_path_buf();
        assert_eq!(guess_source(&directory).unwrap(), ImageSource::Directory(directory));
        assert_eq!(*guess_source(Path::new("/no/such")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
