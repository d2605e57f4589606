use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, RenameFlags};

use super::*;

/// A directory `root/in` to work in, with a secret beside it.
fn place() -> (tempfile::TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("in/a/b")).unwrap();
    fs::create_dir(root.path().join("out")).unwrap();
    fs::write(root.path().join("out/secret"), "secret").unwrap();
    let directory = Directory::open(&root.path().join("in")).unwrap();
    (root, directory)
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().as_ref().and_then(Errno::from_io_error)
}

#[test]
fn nothing_outside_is_reached() {
    let (root, directory) = place();
    let inside = root.path().join("in");
    symlink("../out", inside.join("link")).unwrap();
    symlink(root.path().join("out"), inside.join("absolute")).unwrap();
    symlink("/proc/self/root", inside.join("a/magic")).unwrap();
    symlink("b", inside.join("a/harmless")).unwrap();
    for path in ["link", "absolute", "a/magic", "a/harmless", "link/secret", "absolute/secret", "a/magic/etc"] {
        assert_eq!(errno(directory.beneath(Path::new(path))), Some(Errno::LOOP), "{path}");
        assert_eq!(errno(directory.file(Path::new(path))), Some(Errno::LOOP), "{path}");
        assert!(directory.make(Path::new(path), Mode::RWXU).is_err(), "{path}");
    }
    let absolute = root.path().join("out/secret");
    for path in ["..", "../out", "a/../../out/secret", "/", absolute.to_str().unwrap()] {
        assert_eq!(errno(directory.beneath(Path::new(path))), Some(Errno::XDEV), "{path}");
        assert_eq!(errno(directory.file(Path::new(path))), Some(Errno::XDEV), "{path}");
        assert!(directory.make(Path::new(path), Mode::RWXU).is_err(), "{path}");
    }
    assert_eq!(fs::read_dir(root.path().join("out")).unwrap().count(), 1);
    // What leads nowhere else is fine.
    assert!(directory.beneath(Path::new("a/../a/b")).is_ok() && directory.beneath(Path::new("")).is_ok());
}

#[test]
fn directories_are_made_where_they_are_missing_and_nowhere_else() {
    let (root, directory) = place();
    directory.make(Path::new("./a/new/deep"), Mode::RWXU).unwrap();
    directory.make(Path::new("a/new/deep"), Mode::RWXU).unwrap();
    assert!(root.path().join("in/a/new/deep").is_dir());
    fs::write(root.path().join("in/file"), "").unwrap();
    assert_eq!(errno(directory.make(Path::new("file/below"), Mode::RWXU)), Some(Errno::NOTDIR));
}

#[test]
fn a_fifo_does_not_keep_anyone_waiting() {
    let (root, directory) = place();
    rustix::fs::mknodat(&directory, "fifo", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let file = directory.file(Path::new("fifo")).unwrap();
    assert!(!file.metadata().unwrap().is_file());
    drop(root);
}

#[test]
fn names_are_all_but_the_two() {
    let (_root, directory) = place();
    let names: Vec<OsString> = directory.names().unwrap().collect::<io::Result<_>>().unwrap();
    assert_eq!(names, ["a"]);
}

/// Somebody swaps a directory and a link to elsewhere, over and over.
#[test]
fn what_is_swapped_meanwhile_leads_nowhere_else() {
    let (root, directory) = place();
    let inside = root.path().join("in");
    fs::write(inside.join("a/secret"), "ours").unwrap();
    symlink("../out", inside.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&directory, "a", &directory, "link", RenameFlags::EXCHANGE).unwrap();
            }
        });
        let mut read = 0;
        while read < 1000 {
            match directory.file(Path::new("a/secret")) {
                Ok(mut file) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "ours");
                    read += 1;
                }
                Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP)),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
