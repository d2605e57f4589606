//! Archives and directories as erofs images: what is in them, layer over layer, is what the archives say,
//! and `fsck.erofs` has nothing against any of them.

mod erofs;
mod layers;
mod mounted;
mod random;
mod shapes;
#[path = "../support/archives.rs"]
mod support;
mod tars;
mod unsafe_archives;

use std::path::Path;
use std::process::Command;

use viv_image::filesystem::{FileSystem, Limits, Whiteouts};
use viv_image::{ErrorKind, Result};

/// The image of some archives, one over the other.
fn image(archives: &[&[u8]], whiteouts: Whiteouts) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.erofs");
    write(&path, archives, whiteouts, Limits::default())?;
    assert_eq!(left_beside(&path), 1);
    check(&path);
    Ok(std::fs::read(&path).unwrap())
}

fn write(path: &Path, archives: &[&[u8]], whiteouts: Whiteouts, limits: Limits) -> Result<()> {
    let mut image = FileSystem::create(path, limits)?;
    for mut archive in archives.iter().copied() {
        image.apply_tar(&mut archive, whiteouts)?;
        assert!(archive.is_empty(), "an archive is read to its end");
    }
    let summary = image.finish()?;
    assert_eq!(summary.size, path.metadata().unwrap().len());
    Ok(())
}

/// How many files there are where the image is.
fn left_beside(path: &Path) -> usize {
    std::fs::read_dir(path.parent().unwrap()).unwrap().count()
}

/// The image of these entries as one archive.
fn image_of(entries: &[tars::Entry]) -> Vec<u8> {
    image(&[&tars::archive(entries)], Whiteouts::None).unwrap()
}

/// Why it is refused.
fn refusal(archives: &[&[u8]], whiteouts: Whiteouts) -> (ErrorKind, String) {
    let error = image(archives, whiteouts).map(|image| image.len()).unwrap_err();
    (*error.kind(), error.to_string())
}

/// Without a program that a test needs it skips, and says so; where everything has to be there, it fails.
fn have(program: &str) -> bool {
    let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|place| Path::new(place).join(program).exists());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command
}

/// Runs it, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What erofs's own checker says.
fn check(image: &Path) {
    if have("fsck.erofs") {
        run(tool("fsck.erofs").arg("-d0").arg(image));
    }
}
