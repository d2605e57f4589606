//! What holds for any bytes as an archive.

use std::io::Read;

use viv_image::ErrorKind;
use viv_image::filesystem::{FileSystem, Limits, Whiteouts, decompress};

/// Reads them in every way there is. Nothing panics, nothing but the output is made, and the limits hold.
pub fn any_archive(bytes: &[u8]) {
    let limits = Limits { entries: 1000, bytes: 1 << 20, names: 64 << 10, attributes: 64 << 10 };
    for whiteouts in [Whiteouts::None, Whiteouts::Resolve, Whiteouts::Overlay] {
        let directory = tempfile::tempdir().expect("a directory");
        let output = directory.path().join("image");
        let mut image = FileSystem::create(&output, limits.clone()).expect("a file");
        // Twice: as a layer over itself.
        let done = apply(&mut image, bytes, whiteouts) && apply(&mut image, bytes, whiteouts);
        let summary = image.finish().expect("whatever was taken can be written");
        assert!(!done || summary.inodes <= 1001);
        // Each entry makes at most two blocks (a tail of its own, and an inode) beside what it holds.
        assert!(summary.size <= (1 << 20) + 1003 * 8192, "{} bytes", summary.size);
        let made = std::fs::read_dir(directory.path()).expect("a directory").count();
        assert_eq!(made, 1);
    }
}

fn apply(image: &mut FileSystem, bytes: &[u8], whiteouts: Whiteouts) -> bool {
    let applied = decompress(bytes).and_then(|mut archive| {
        image.apply_tar(&mut archive, whiteouts)?;
        assert_eq!(archive.read(&mut [0]).expect("the end"), 0);
        Ok(())
    });
    if let Err(error) = &applied {
        let expected = [ErrorKind::UnsafeArchive, ErrorKind::TooLarge, ErrorKind::Corrupt];
        assert!(expected.contains(error.kind()), "{error:?}");
        let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        assert!(error.to_string().bytes().all(printable), "{error}");
    }
    applied.is_ok()
}
