//! Scratch disks: an empty ext4 for each sandbox's writes, cloned from a template.
//!
//! A template has the disk's full size but holds about 100 KiB, whatever the size, so that making a
//! sandbox's own copy takes about a millisecond: no journal (nothing survives the sandbox anyway), no
//! backups, inode tables that are holes and marked as zeroed already (the guest's kernel would zero
//! them in the background otherwise), all metadata at the beginning.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::cache::{Cache, Lock};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::run::{self, Invocation};
use crate::tools::{self, SYSTEM_PATH};

/// Changes with the options below.
const VERSION: u32 = 1;

/// Below this, nothing useful fits beside the metadata.
const LEAST_BYTES: u64 = 16 << 20;
/// ext4's own limit with 4 KiB blocks and these features.
const MOST_BYTES: u64 = 16 << 40;

/// The template of a scratch disk of `bytes`, a multiple of 4096 between 16 MiB and 16 TiB. Made once
/// per size, by `mkfs.ext4`; later calls cost two system calls. It is read-only: clone it.
///
/// # Errors
/// [`ErrorKind::BadSize`], [`ErrorKind::MissingTool`], [`ErrorKind::NoSpace`], [`ErrorKind::Build`],
/// [`ErrorKind::Io`].
pub fn ensure_scratch(cache: &Cache, bytes: u64) -> Result<PathBuf> {
    check_size(bytes)?;
    let path = cache.root().join("scratch").join(format!("{bytes}-v{VERSION}.ext4"));
    if is_template(&path, bytes) {
        return Ok(path);
    }
    let directory = cache.directory("scratch")?;
    let lock = Lock::acquire(&cache.directory("locks")?, &format!("scratch-{bytes}"), &mut || {})?;
    if is_template(&path, bytes) {
        return Ok(path);
    }
    tools::require(&["mkfs.ext4"])?;
    let file = tempfile::Builder::new().prefix(".new-").tempfile_in(&directory).map_err(io_error("write", &path))?;
    file.as_file().set_len(bytes).map_err(io_error("write", &path))?;
    let invocation = make_file_system(file.path());
    run::run(&invocation, None, &[&lock.file], &mut |_| {})?.check(&invocation, "to make a scratch disk")?;
    let settle = || {
        file.as_file().set_permissions(fs::Permissions::from_mode(0o400))?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    settle().map_err(io_error("write", &path))?;
    Ok(path)
}

/// Whether a disk can have this size.
pub(crate) fn check_size(bytes: u64) -> Result<()> {
    if (LEAST_BYTES..=MOST_BYTES).contains(&bytes) && bytes.is_multiple_of(4096) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadSize,
        format!("a scratch disk of {bytes} bytes cannot be made: it must be 16 MiB to 16 TiB, in steps of 4 KiB"),
    ))
}

fn make_file_system(path: &Path) -> Invocation {
    let arguments = [
        "-q",
        "-F",
        "-b",
        "4096",
        "-m",
        "0",
        "-O",
        "^has_journal,^resize_inode,sparse_super2",
        "-E",
        "assume_storage_prezeroed=1,nodiscard,packed_meta_blocks=1,num_backup_sb=0,root_owner=0:0",
        &path.display().to_string(),
    ];
    Invocation {
        program: "mkfs.ext4",
        arguments: arguments.map(str::to_owned).into(),
        environment: vec![("PATH".to_owned(), SYSTEM_PATH.to_owned())],
    }
}

/// Whole files get this name by a rename and are never written again, so size and magic are enough.
fn is_template(path: &Path, bytes: u64) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut magic = [0; 2];
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.size() == bytes)
        && file.read_exact_at(&mut magic, 1024 + 56).is_ok()
        && magic == [0x53, 0xef]
}

/// A private copy of a template, as an open file without a name in `directory`, mode 0600: it is gone
/// when its last descriptor is closed, however that happens. Blocks are shared with the template where
/// the file system can do that; else only the data is copied, and holes stay holes.
///
/// # Errors
/// [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
pub fn clone_scratch(template: &Path, directory: &Path) -> Result<File> {
    let source = File::open(template).map_err(io_error("open", template))?;
    clone_disk(&source, directory)
}

/// The same of an open file.
///
/// # Errors
/// [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
pub fn clone_disk(source: &File, directory: &Path) -> Result<File> {
    let target = tempfile::tempfile_in(directory).map_err(io_error("make a file in", directory))?;
    let mode = fs::Permissions::from_mode(0o600);
    target.set_permissions(mode).map_err(io_error("change the mode of a file in", directory))?;
    copy_sparse(source, &target).map_err(io_error("copy the scratch disk to", directory))?;
    Ok(target)
}

/// Copies a file into an empty one: blocks are shared where the file system can do that; else only the
/// data is copied, and holes stay holes.
///
/// # Errors
/// Those of reading and writing.
pub fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    // Fails wherever blocks cannot be shared, in too many ways to tell apart.
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut buffer = vec![0; 64 << 10];
    let mut offset = 0;
    while offset < size {
        let data = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // Only holes from here on.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(data))?;
        offset = data;
        while offset < end {
            let count = usize::try_from(end - offset).map_or(buffer.len(), |rest| rest.min(buffer.len()));
            let part = &mut buffer[..count];
            source.read_exact_at(part, offset)?;
            // A file system that cannot tell data from holes calls everything data.
            if part.iter().any(|byte| *byte != 0) {
                target.write_all_at(part, offset)?;
            }
            offset += count as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        (directory, cache)
    }

    /// Whether the tools are there; loudly.
    fn have(program: &str) -> bool {
        let found = tools::find(program).is_some();
        assert!(found || std::env::var_os("CI").is_none(), "{program} is not installed");
        if !found {
            eprintln!("SKIPPED: {program} is not installed");
        }
        found
    }

    #[test]
    fn a_large_disk_is_small_sound_and_quickly_copied() {
        if !have("mkfs.ext4") || !have("e2fsck") {
            return;
        }
        let (directory, cache) = cache();
        let template = ensure_scratch(&cache, 20 << 30).unwrap();
        assert_eq!(ensure_scratch(&cache, 20 << 30).unwrap(), template);
        assert!(template.metadata().unwrap().blocks() * 512 < 2 << 20, "it should hold little");

        let mut copy = clone_scratch(&template, directory.path()).unwrap();
        let metadata = copy.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777, metadata.nlink()), (20 << 30, 0o600, 0));
        assert!(metadata.blocks() * 512 < 2 << 20);
        let mut beginning = vec![0; 4 << 20];
        copy.read_exact(&mut beginning).unwrap();
        let mut original = vec![0; 4 << 20];
        File::open(&template).unwrap().read_exact(&mut original).unwrap();
        assert!(beginning == original);

        let check = std::process::Command::new(tools::find("e2fsck").unwrap())
            .args(["-f", "-n"])
            .arg(&template)
            .output()
            .unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }

    #[test]
    fn a_template_that_was_cut_or_emptied_is_made_again() {
        if !have("mkfs.ext4") {
            return;
        }
        let (_directory, cache) = cache();
        let template = ensure_scratch(&cache, 64 << 20).unwrap();
        for size in [0, 64 << 20] {
            fs::set_permissions(&template, fs::Permissions::from_mode(0o600)).unwrap();
            let file = File::options().write(true).open(&template).unwrap();
            file.set_len(0).unwrap();
            file.set_len(size).unwrap();
            assert!(!is_template(&template, 64 << 20));
            assert_eq!(ensure_scratch(&cache, 64 << 20).unwrap(), template);
            assert!(is_template(&template, 64 << 20));
        }
    }

    #[test]
    fn sizes_that_cannot_be() {
        let (_directory, cache) = cache();
        for bytes in [0, 4096, (64 << 20) + 1, u64::MAX] {
            assert_eq!(*ensure_scratch(&cache, bytes).unwrap_err().kind(), ErrorKind::BadSize, "{bytes}");
        }
    }

    #[test]
    fn data_at_both_ends_of_a_sparse_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("template");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"end", (1 << 30) - 3).unwrap();
        let copy = clone_scratch(&path, directory.path()).unwrap();
        let (mut begin, mut end) = ([0; 5], [0; 3]);
        copy.read_exact_at(&mut begin, 0).unwrap();
        copy.read_exact_at(&mut end, (1 << 30) - 3).unwrap();
        assert_eq!((&begin, &end, copy.metadata().unwrap().len()), (b"begin", b"end", 1 << 30));
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
