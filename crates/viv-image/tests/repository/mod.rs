//! A small Debian whose only source of packages is a directory of its own, with packages made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// When all files of the packages were made.
pub const TIME: i64 = 1_700_000_000;

const SCRIPT: &str = include_str!("make.sh");

/// Where the image is; made on the first call, once for all tests of a process, or of all if
/// `VIV_TEST_CACHE` is set.
pub fn image() -> &'static Path {
    static IMAGE: OnceLock<(PathBuf, Option<tempfile::TempDir>)> = OnceLock::new();
    let (path, _) = IMAGE.get_or_init(|| {
        if let Some(path) = std::env::var_os("VIV_TEST_PACKAGES_IMAGE") {
            return (path.into(), None);
        }
        // Kept under a name that changes with what makes it.
        let digest = SCRIPT
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let name = format!("packages-{digest:016x}.erofs");
        match std::env::var_os("VIV_TEST_CACHE") {
            Some(directory) => {
                let path = Path::new(&directory).join(name);
                // Each test is a process of its own.
                let lock = fs::File::create(path.with_extension("lock")).unwrap();
                rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
                if !path.exists() {
                    make(&path);
                }
                (path, None)
            }
            None => {
                let directory = tempfile::tempdir_in("/var/tmp").unwrap();
                let path = directory.path().join(name);
                make(&path);
                (path, Some(directory))
            }
        }
    });
    path
}

fn make(path: &Path) {
    let output = path.with_extension("new");
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&output).unwrap();
    let status = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "sh"])
        .env("TIME", TIME.to_string())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::from(file))
        .status()
        .unwrap();
    assert!(status.success(), "the image could not be made: {status}");
    fs::rename(&output, path).unwrap();
}
