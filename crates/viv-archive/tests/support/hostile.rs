//! A stream of records from someone who wants out: whatever it holds, nothing outside of the directory changes.
//!
//! Used by `tests/trees.rs` on stable Rust, and by the fuzz target in `fuzz/`, which includes this file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use viv_archive::{Directory, Limits, Options, RecordReader, Top, unpack};

/// Unpacks bytes into a directory with links that lead out, and looks at what they lead to.
pub fn any_stream(bytes: &[u8]) {
    let place = tempfile::tempdir().expect("a directory");
    let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
    fs::create_dir(&inside).expect("made");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("kept"), "kept").expect("written");
    symlink(&outside, inside.join("out")).expect("made");
    symlink(outside.join("kept"), inside.join("file")).expect("made");
    symlink("..", inside.join("up")).expect("made");
    let limits = Limits { entries: 1000, bytes: 1 << 20 };
    for top in [Top::Keep, Top::Strip, Top::Rename(b"x".to_vec())] {
        let root = Directory::open(&inside).expect("opened");
        let options = Options { top, limits, ..Options::default() };
        // Whether it is taken or refused.
        let _ = unpack(&mut RecordReader::new(bytes), &root, &options, &mut |_| {});
    }
    let names = |directory: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(directory).expect("read").flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&outside), ["kept"]);
    assert_eq!(fs::read(outside.join("kept")).expect("read"), b"kept");
    assert_eq!(names(place.path()), ["inside", "outside"]);
}
