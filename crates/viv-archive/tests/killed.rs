//! `kill -9` of whoever writes a tree, wherever the stream is, and what the next one makes of it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use viv_archive::{Carried, Directory, Options, Packer, RecordReader, unpack};

/// Where the child of the test finds what it is to work on, and after how many reads it dies.
const PLACE: &str = "VIV_ARCHIVE_TEST_PLACE";
const READS: &str = "VIV_ARCHIVE_TEST_READS";

/// Gives a few bytes at a time, and ends the process at one of them.
struct Deadly<R>(R, u32);

impl<R: Read> Read for Deadly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1 == 0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        self.1 = self.1.saturating_sub(1);
        let most = buffer.len().min(40);
        self.0.read(&mut buffer[..most])
    }
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let at = |path: &str| place.path().join(path);
    fs::create_dir_all(at("from/dist/sub")).unwrap();
    fs::create_dir_all(at("to/dist")).unwrap();
    fs::write(at("from/dist/kept"), "new".repeat(50)).unwrap();
    fs::write(at("from/dist/made"), "new".repeat(50)).unwrap();
    fs::write(at("from/dist/sub/deep"), "new").unwrap();
    symlink("made", at("from/dist/link")).unwrap();
    fs::write(at("to/dist/kept"), "old").unwrap();
    symlink("kept", at("to/dist/link")).unwrap();
    place
}

fn bring(place: &Path, reads: u32) {
    let mut bytes = Vec::new();
    let mut told = |_: &Carried| {};
    let mut packer = Packer::new(&mut bytes, &mut told);
    packer.tree(&Directory::open(&place.join("from")).unwrap(), OsStr::new("dist"), b"dist", false).unwrap();
    packer.end().unwrap();
    let options = Options { only_whole: true, ..Options::default() };
    let root = Directory::open(&place.join("to")).unwrap();
    unpack(&mut RecordReader::new(Deadly(bytes.as_slice(), reads)), &root, &options, &mut |_| {}).unwrap();
}

/// Not a test of its own: what the other one runs in a process that dies.
#[test]
fn child() {
    let (Some(place), Ok(reads)) = (std::env::var_os(PLACE), std::env::var(READS)) else { return };
    bring(Path::new(&place), reads.parse().unwrap());
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_killed_leaves_whole_files_and_nothing_after_the_next_one() {
    let mut halves = 0;
    for reads in 0.. {
        let place = place();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child", "--test-threads", "1"]).env(PLACE, place.path()).env(READS, reads.to_string());
        let output = child.output().unwrap();
        if output.status.success() {
            assert!(reads > 10 && halves > 2, "{reads} reads, {halves} halves");
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        let dist = place.path().join("to/dist");
        let new = "new".repeat(50);
        assert!(["old", &new].contains(&fs::read_to_string(dist.join("kept")).unwrap().as_str()));
        assert!(fs::read_to_string(dist.join("made")).map_or(true, |made| made == new), "after {reads} reads");
        assert!(["kept", "made"].contains(&fs::read_link(dist.join("link")).unwrap().to_str().unwrap()));
        halves += names(&dist).iter().filter(|name| name.starts_with(".viv-")).count();
        // Someone else's, who is there.
        let living = format!(".viv-{}-1f-0", std::process::id());
        fs::write(dist.join(&living), "").unwrap();
        bring(place.path(), u32::MAX);
        assert_eq!(names(&dist), [living.as_str(), "kept", "link", "made", "sub"]);
        assert_eq!(
            (fs::read_to_string(dist.join("kept")).unwrap(), names(&dist.join("sub"))),
            (new, vec!["deep".into()])
        );
    }
}
