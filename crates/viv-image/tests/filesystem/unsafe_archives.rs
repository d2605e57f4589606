//! Archives that nobody makes in good faith, and damaged ones: refused, and nothing but the output is made.

use std::io::{Read, Write};

use viv_image::ErrorKind;
use viv_image::filesystem::{FileSystem, Limits, Whiteouts, decompress};

use super::tars::{self, Entry, archive, device, directory, entry, file, hard_link, symlink};
use super::{erofs, image, image_of, refusal, write};

fn refused(entries: &[Entry]) -> String {
    let (kind, message) = refusal(&[&archive(entries)], Whiteouts::Resolve);
    assert_eq!(kind, ErrorKind::UnsafeArchive, "{message}");
    message.strip_prefix("the archive is not safe: ").unwrap_or(&message).to_owned()
}

#[test]
fn names_that_lead_out() {
    for name in ["../x", "a/../../x", "/..", "a/../b", ".."] {
        assert_eq!(refused(&[file(name, "x")]), format!("`{name}` leads out of its directory"));
        assert!(refused(&[file("x", ""), hard_link("y", name)]).contains("leads out"));
    }
    assert_eq!(refused(&[file("a\0b", "")]), "`a\\x00b` has a name with a NUL in it");
    assert_eq!(refused(&[file("./.", "")]), "`./.` stands for the root, and is no directory");
    assert_eq!(refused(&[file("f", ""), file("f/x", "")]), "`f` is below something that is no directory");
    // An absolute name is one below the root of the image.
    let found = erofs::read_texts(&image_of(&[file("//etc/passwd", "x"), hard_link("etc/y", "/etc/passwd")]));
    assert_eq!((found["etc/passwd"].text().as_str(), found["etc/y"].links), ("x", 2));
}

#[test]
fn hard_links_to_nothing() {
    assert_eq!(refused(&[hard_link("x", "/etc/passwd")]), "`x` is a hard link to something that is not there");
    assert_eq!(refused(&[hard_link("x", "")]), "`x` is a hard link to something that is not there");
    assert_eq!(refused(&[directory("d"), hard_link("x", "d")]), "`x` is a hard link to a directory");
    let link = [symlink("s", "/etc"), hard_link("x", "s/passwd")];
    assert_eq!(refused(&link), "`x` is a hard link to something that is not there");
    for target in ["".to_owned(), "a\0b".to_owned(), "t".repeat(4096)] {
        assert!(refused(&[symlink("s", target)]).ends_with("is a symbolic link to what cannot be a name"));
    }
}

#[test]
fn devices() {
    for (kind, number) in [(b'4', (8, 0)), (b'3', (1, 1)), (b'3', (0, 0)), (b'4', (0, 0)), (b'3', (10, 229))] {
        assert_eq!(refused(&[device(kind, "tmp/x", number)]), "`tmp/x` is a device");
        // The guest's kernel fills /dev; what an image says of it is passed over.
        let found = erofs::read_texts(&image_of(&[device(kind, "dev/x", number), device(b'3', "dev/null", (1, 3))]));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["", "dev"]);
    }
    // Of a jail's own, as name servers have it.
    let found = erofs::read_texts(&image_of(&[device(b'3', "var/named/dev/null", (1, 3))]));
    assert_eq!(found["var/named/dev/null"].device, 0x103);
    // A link to /dev is no way around.
    assert_eq!(refused(&[symlink("x", "tmp"), device(b'4', "x/sda", (8, 0))]), "`x/sda` is a device");
    let (kind, _) = refusal(&[&archive(&[device(b'4', "x", (8, 0))])], Whiteouts::Overlay);
    assert_eq!(kind, ErrorKind::UnsafeArchive);
}

#[test]
fn whiteouts_of_nothing() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        assert!(refused(&[file(name, "")]).ends_with("is a whiteout of nothing"), "{name}");
    }
    assert_eq!(refused(&[file(".wh.d/x", "")]), "`.wh.d/x` is below a whiteout");
}

#[test]
fn more_than_the_limits() {
    let over = |entries: &[Entry], limits: Limits| {
        let directory = tempfile::tempdir().unwrap();
        let error = write(&directory.path().join("image"), &[&archive(entries)], Whiteouts::None, limits).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::TooLarge, "{error}");
        assert!(!error.hints().is_empty());
        error.to_string()
    };
    let all = Limits::default;
    let files = [file("a/b/c/d", ""), file("e", "")];
    assert_eq!(over(&files, Limits { entries: 4, ..all() }), "there are more entries than there may be");
    assert_eq!(over(&files, Limits { names: 4, ..all() }), "there are more bytes of names than there may be");
    let link = [symlink("s", "t".repeat(100))];
    assert_eq!(over(&link, Limits { names: 100, ..all() }), "there are more bytes of names than there may be");
    let attribute = [file("a", "").attribute("user.a", b"1")];
    assert_eq!(
        over(&attribute, Limits { attributes: 5, ..all() }),
        "there are more bytes of extended attributes than there may be"
    );
    assert_eq!(
        over(&[file("a", [0; 5000])], Limits { bytes: 5000, ..all() }),
        "the archive holds more bytes than it may"
    );
    assert!(over(&[file("n".repeat(256), "")], all()).ends_with("is longer than 255 bytes"));
    assert!(over(&[file("n/".repeat(2049), "")], all()).ends_with("is longer than 4096 bytes"));
    let deep =
        [directory("d/".repeat(2000)), symlink("s", "d/".repeat(1000)), file(format!("s/{}x", "d/".repeat(1048)), "")];
    assert!(over(&deep, all()).ends_with("is too deep"));
    let large = [file("a", "").attribute("user.a", &vec![0; 65_536])];
    assert_eq!(over(&large, all()), "`a` has an extended attribute that is too large: `user.a`");
    let many = (0..17).fold(file("a", ""), |file, n| file.attribute(&format!("user.{n}"), &[0; 64_000]));
    assert!(over(&[many], all()).ends_with("bytes of names and attributes; 1048576 are allowed"));
}

/// A few kilobytes that become a terabyte.
#[test]
fn decompression_bombs() {
    let limits = || Limits { bytes: 50 << 20, ..Limits::default() };
    let mut headers = Vec::new();
    tars::header(&entry(b'0', "bomb"), 1 << 40, &mut headers);
    // As a file's data, as padding behind the end, and as a file whose data is passed over.
    let mut passed_over = Vec::new();
    tars::header(&entry(b'g', "bomb"), 8 << 30, &mut passed_over);
    for start in [headers, vec![0; 1024], passed_over] {
        let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        packed.write_all(&start).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(200 << 20), &mut packed).unwrap();
        let packed = packed.finish().unwrap();
        assert!(packed.len() < 64 << 10);
        let directory = tempfile::tempdir().unwrap();
        let mut image = FileSystem::create(&directory.path().join("image"), limits()).unwrap();
        let error = image.apply_tar(&mut decompress(packed.as_slice()).unwrap(), Whiteouts::None).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::TooLarge, "{error:?}");
    }
}

#[test]
fn damaged_ones() {
    let whole = archive(&[file("a", vec![b'x'; 700]), file("b", "y")]);
    let damage = |archive: &[u8]| {
        let (kind, message) = refusal(&[archive], Whiteouts::None);
        assert_eq!(kind, ErrorKind::Corrupt, "{message}");
        message
    };
    assert_eq!(damage(b"not an archive"), "the archive is damaged: it is cut short");
    assert_eq!(damage(&whole[..700]), "the archive is damaged");
    assert_eq!(damage(&whole[..1600]), "the archive is damaged: it is cut short");
    let mut changed = whole.clone();
    changed[0] = b'c';
    assert_eq!(damage(&changed), "the archive is damaged: the sum of a header is wrong");
    let zeros = [&[0; 512], whole.as_slice()].concat();
    assert_eq!(damage(&zeros), "the archive is damaged: a block of zeros stands between two entries");
    // The end may be missing, as archivers accept, and much may stand behind it.
    let found = erofs::read_texts(&image(&[&whole[..whole.len() - 1024]], Whiteouts::None).unwrap());
    assert_eq!(found["b"].text(), "y");
    assert!(image(&[&[whole.as_slice(), &vec![1; 100_000]].concat()], Whiteouts::None).is_ok());
}

#[test]
fn what_is_not_supported_is_said() {
    let unsupported = |archive: &[u8]| {
        let (kind, message) = refusal(&[archive], Whiteouts::None);
        assert_eq!(kind, ErrorKind::Corrupt);
        message
    };
    assert_eq!(unsupported(&archive(&[entry(b'M', "a")])), "`a` is of a type that is not supported: M");
    assert_eq!(unsupported(&archive(&[entry(b'S', "a")])), "`a` is stored as a sparse file, which is not supported");
    let (mut records, mut sparse) = (Vec::new(), Vec::new());
    tars::record(b"path", b"a", &mut records);
    tars::record(b"GNU.sparse.major", b"1", &mut records);
    tars::header(&entry(b'x', "pax"), records.len() as u64, &mut sparse);
    tars::data(&records, &mut sparse);
    tars::write(&file("GNUSparseFile.1/a", ""), &mut sparse);
    assert_eq!(unsupported(&sparse), "`a` is stored as a sparse file, which is not supported");
}

/// Readers that disagree about where an entry ends show different files to a scanner than to a user.
#[test]
fn a_pax_size_is_what_counts() {
    let (mut records, mut bytes) = (Vec::new(), Vec::new());
    tars::record(b"size", b"600", &mut records);
    tars::header(&entry(b'x', "pax"), records.len() as u64, &mut bytes);
    tars::data(&records, &mut bytes);
    tars::header(&entry(b'0', "a"), 0, &mut bytes);
    let mut hidden = Vec::new();
    tars::write(&file("hidden", "x"), &mut hidden);
    hidden.truncate(600);
    tars::data(&hidden, &mut bytes);
    bytes.resize(bytes.len() + 512, 0);
    tars::write(&file("b", "y"), &mut bytes);
    let (kind, _) = refusal(&[&bytes], Whiteouts::None);
    assert_eq!(kind, ErrorKind::Corrupt);
    // Directories and links have no data, whatever their size says.
    let mut bytes = Vec::new();
    tars::header(&directory("d"), 512, &mut bytes);
    tars::write(&file("b", "y"), &mut bytes);
    let found = erofs::read_texts(&image(&[&bytes], Whiteouts::None).unwrap());
    assert_eq!(found.keys().collect::<Vec<_>>(), ["", "b", "d"]);
}
