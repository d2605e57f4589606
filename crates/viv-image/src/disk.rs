//! Disks that outlive their machine: ext4 with a journal, in a sparse file with a name.
//!
//! Their content is the guest's, who may have put anything there. The host reads a few fields of the
//! superblock, and leaves the rest to e2fsprogs, which is made for broken file systems, and which is only
//! called where it has to be: after an end without an unmount, and when the user asks for it.
//!
//! <https://docs.kernel.org/filesystems/ext4/super.html>

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use crate::error::{Error, ErrorKind, Output, Result, io_error};
use crate::run::{self, Invocation};
use crate::scratch::check_size;
use crate::tools::{self, SYSTEM_PATH};

/// Where the superblock is, in bytes.
const SUPERBLOCK: u64 = 1024;

/// From here on a disk has a journal of a size that is useful and still small, in bytes.
const LARGE_BYTES: u64 = 4 << 30;

/// How the names of files begin that [`make_disk`] works on; a killed one leaves its file.
pub const HALF_MADE_DISK: &str = ".disk-";

/// Makes an empty disk of `bytes`, a multiple of 4096 between 16 MiB and 16 TiB, mode 0600. Whatever happens,
/// there is a whole one at `path` or none.
///
/// # Errors
/// [`ErrorKind::BadSize`], [`ErrorKind::MissingTool`], [`ErrorKind::NoSpace`], [`ErrorKind::Build`],
/// [`ErrorKind::Io`].
pub fn make_disk(path: &Path, bytes: u64) -> Result<()> {
    check_size(bytes)?;
    tools::require_e2fsprogs(&["mkfs.ext4"])?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let file =
        tempfile::Builder::new().prefix(HALF_MADE_DISK).tempfile_in(directory).map_err(io_error("write", path))?;
    file.as_file().set_len(bytes).map_err(io_error("write", path))?;
    let invocation = make_file_system(file.path(), bytes);
    run::run(&invocation, None, &[file.as_file()], &mut |_| {})?.check(&invocation, "to make a disk")?;
    let settle = || {
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    };
    settle().map_err(io_error("write", path))
}

fn make_file_system(path: &Path, bytes: u64) -> Invocation {
    let mut arguments: Vec<String> =
        ["-q", "-F", "-b", "4096", "-m", "0", "-O", "has_journal"].map(str::to_owned).into();
    if bytes >= LARGE_BYTES {
        arguments.extend(["-J".to_owned(), "size=64".to_owned()]);
    }
    // A new file is zero, so neither tables nor the journal are written.
    arguments.extend(["-E".to_owned(), "assume_storage_prezeroed=1,nodiscard,root_owner=0:0".to_owned()]);
    arguments.push(path.display().to_string());
    invocation("mkfs.ext4", arguments)
}

fn invocation(program: &'static str, arguments: Vec<String>) -> Invocation {
    Invocation { program, arguments, environment: vec![("PATH".to_owned(), SYSTEM_PATH.to_owned())] }
}

/// How the last machine left a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCondition {
    /// Unmounted.
    Clean,
    /// Still mounted, or its kernel found errors: it is to be checked.
    Unclean,
    /// There is no ext4 file system to be seen.
    NotExt4,
}

/// Looks at a disk that no machine uses.
///
/// # Errors
/// Those of reading.
pub fn disk_condition(disk: &File) -> io::Result<DiskCondition> {
    const MAGIC: u16 = 0xef53;
    const STATE_VALID: u16 = 1;
    const STATE_ERROR: u16 = 2;
    const INCOMPAT_RECOVER: u32 = 4;
    let mut superblock = [0; 256];
    match disk.read_exact_at(&mut superblock, SUPERBLOCK) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(DiskCondition::NotExt4),
        read => read?,
    }
    let half = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    let incompatible = u32::from(half(0x60)) | u32::from(half(0x62)) << 16;
    let state = half(0x3a);
    Ok(if half(0x38) != MAGIC {
        DiskCondition::NotExt4
    } else if state & STATE_VALID == 0 || state & STATE_ERROR != 0 || incompatible & INCOMPAT_RECOVER != 0 {
        DiskCondition::Unclean
    } else {
        DiskCondition::Clean
    })
}

/// How large the file system on a disk says it is, in bytes; none if there is none. The guest's word, which may
/// be any number.
///
/// # Errors
/// Those of reading.
pub fn disk_bytes(disk: &File) -> io::Result<Option<u64>> {
    if disk_condition(disk)? == DiskCondition::NotExt4 {
        return Ok(None);
    }
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, SUPERBLOCK)?;
    let word = |at: usize| {
        let bytes = [superblock[at], superblock[at + 1], superblock[at + 2], superblock[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    // s_blocks_count_lo, s_blocks_count_hi, s_log_block_size. Of no other size than 4096 is ever made one.
    let blocks = word(0x4) | word(0x150) << 32;
    Ok(if word(0x18) == 2 { blocks.checked_mul(4096) } else { None })
}

/// What a check of a disk is to do besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCheck {
    /// Nothing: what is known to be sound is left alone.
    Mend,
    /// Look at everything, and give the blocks that hold nothing back to the host.
    Trim,
}

/// Has e2fsck replay the journal of a disk that no machine uses, and mend what can be mended without asking.
///
/// # Errors
/// [`ErrorKind::MissingTool`]; [`ErrorKind::Build`] if more would have to be done than e2fsck does by itself;
/// [`ErrorKind::Io`].
pub fn check_disk(path: &Path, check: DiskCheck) -> Result<()> {
    tools::require_e2fsprogs(&["e2fsck"])?;
    let mut arguments = vec!["-p".to_owned()];
    if check == DiskCheck::Trim {
        arguments.extend(["-f", "-E", "discard"].map(str::to_owned));
    }
    arguments.push(path.display().to_string());
    let invocation = invocation("e2fsck", arguments);
    let ended = run::run(&invocation, None, &[], &mut |_| {})?;
    // e2fsck(8): 1 and 2 say that there were errors, which are corrected now.
    match ended.status.code() {
        Some(0..=2) => Ok(()),
        _ => {
            let message = format!("e2fsck cannot mend {} by itself ({})", path.display(), ended.status);
            Err(Error::new(ErrorKind::Build, message)
                .source(Output(ended.tail))
                .hint(format!("e2fsck -f {} asks what to do about each error", path.display())))
        }
    }
}

/// Makes a disk that no machine uses larger or smaller: to `bytes`, a multiple of 4096 between 16 MiB and
/// 16 TiB. Interrupted, it leaves what [`check_disk`] mends.
///
/// # Errors
/// As [`check_disk`]; [`ErrorKind::BadSize`] also for one that is too small for what is there.
pub fn resize_disk(path: &Path, bytes: u64) -> Result<()> {
    check_size(bytes)?;
    tools::require_e2fsprogs(&["e2fsck", "resize2fs"])?;
    check_disk(path, DiskCheck::Trim)?;
    let resize = || File::options().write(true).open(path);
    let file = resize().map_err(io_error("open", path))?;
    let before = file.metadata().map_err(io_error("look at", path))?.len();
    if bytes > before {
        file.set_len(bytes).map_err(io_error("enlarge", path))?;
    }
    let invocation = invocation("resize2fs", vec![path.display().to_string(), format!("{}K", bytes >> 10)]);
    let ended = run::run(&invocation, None, &[], &mut |_| {})?;
    if !ended.status.success() {
        let message = format!("{} cannot be made {bytes} bytes large", path.display());
        return Err(Error::new(ErrorKind::BadSize, message).source(Output(ended.tail)));
    }
    if bytes < before {
        file.set_len(bytes).map_err(io_error("shorten", path))?;
    }
    file.sync_all().map_err(io_error("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    /// Whether the tools are there; loudly.
    fn have_tools() -> bool {
        let missing =
            ["mkfs.ext4", "e2fsck", "resize2fs", "debugfs"].into_iter().find(|tool| tools::find(tool).is_none());
        assert!(missing.is_none() || std::env::var_os("CI").is_none(), "{missing:?} is not installed");
        if let Some(missing) = missing {
            eprintln!("SKIPPED: {missing} is not installed");
        }
        missing.is_none()
    }

    fn debugfs(disk: &Path, command: &str) {
        let done =
            Command::new(tools::find("debugfs").unwrap()).args(["-w", "-R", command]).arg(disk).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    fn allocated(disk: &Path) -> u64 {
        fs::metadata(disk).unwrap().blocks() * 512
    }

    #[test]
    fn a_new_disk_is_sparse_clean_and_private() {
        if !have_tools() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        make_disk(&disk, 20 << 30).unwrap();
        let facts = fs::metadata(&disk).unwrap();
        assert_eq!((facts.len(), facts.mode() & 0o777), (20 << 30, 0o600));
        assert!(allocated(&disk) < 8 << 20, "{}", allocated(&disk));
        assert_eq!(disk_condition(&File::open(&disk).unwrap()).unwrap(), DiskCondition::Clean);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn one_with_errors_is_mended_and_one_that_is_none_is_not() {
        if !have_tools() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        make_disk(&disk, 64 << 20).unwrap();
        let condition = || disk_condition(&File::open(&disk).unwrap()).unwrap();
        // As the kernel leaves one that was not unmounted, and one it found errors in.
        debugfs(&disk, "set_super_value state 0");
        assert_eq!(condition(), DiskCondition::Unclean);
        check_disk(&disk, DiskCheck::Mend).unwrap();
        assert_eq!(condition(), DiskCondition::Clean);
        debugfs(&disk, "set_super_value state 3");
        debugfs(&disk, "set_inode_field / links_count 17");
        assert_eq!(condition(), DiskCondition::Unclean);
        check_disk(&disk, DiskCheck::Mend).unwrap();
        assert_eq!(condition(), DiskCondition::Clean);

        let file = File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        assert_eq!(condition(), DiskCondition::NotExt4);
        file.set_len(100).unwrap();
        assert_eq!(condition(), DiskCondition::NotExt4);
        assert_eq!(*check_disk(&disk, DiskCheck::Mend).unwrap_err().kind(), ErrorKind::Build);
    }

    #[test]
    fn what_is_freed_goes_back_and_its_size_can_change() {
        if !have_tools() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        make_disk(&disk, 256 << 20).unwrap();
        let empty = allocated(&disk);
        let content = directory.path().join("content");
        fs::write(&content, vec![7; 32 << 20]).unwrap();
        debugfs(&disk, &format!("write {} content", content.display()));
        assert!(allocated(&disk) > empty + (30 << 20));
        assert!(resize_disk(&disk, 16 << 20).is_err(), "there is more in it");
        debugfs(&disk, "rm content");
        check_disk(&disk, DiskCheck::Trim).unwrap();
        assert!(allocated(&disk) < empty + (4 << 20), "{} after {empty}", allocated(&disk));
        for bytes in [128 << 20, 512 << 20] {
            resize_disk(&disk, bytes).unwrap();
            assert_eq!(fs::metadata(&disk).unwrap().len(), bytes);
            check_disk(&disk, DiskCheck::Trim).unwrap();
            assert_eq!(disk_condition(&File::open(&disk).unwrap()).unwrap(), DiskCondition::Clean);
        }
    }
}
