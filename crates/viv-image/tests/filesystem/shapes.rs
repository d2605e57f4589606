//! Every kind of entry, every size, every number.

use std::io::{Read, repeat};

use viv_image::filesystem::{FileSystem, Limits, Whiteouts};

use super::tars::{self, device, directory, entry, file, hard_link, symlink};
use super::{check, erofs, image, image_of};

#[test]
fn kinds_modes_owners_and_times() {
    let late = tars::Entry { modified: (1_700_000_001, 123_456_789), ..file("late", "") };
    let early = tars::Entry { modified: (-2, 250_000_000), ..file("early", "") };
    let bytes = image_of(&[
        directory("./").mode(0o1777).owned(1, 2),
        file("usr/bin/su", "program").mode(0o6755),
        file("big-owner", "").owned(70_000, 4_000_000_000),
        directory("tmp").mode(0o1777),
        symlink("absolute", "/etc/passwd"),
        symlink("relative", "../../x"),
        entry(b'6', "pipe"),
        device(b'3', "null", (1, 3)),
        hard_link("su", "/usr/bin/su"),
        file([b"not-utf8-\xff\xfe".as_slice(), b"/\x80"].concat(), "x"),
        file(b"new\nline\\and\"quote", "y"),
        late,
        early,
    ]);
    let found = erofs::read(&bytes);
    let of = |path: &str| found[path.as_bytes()].clone();
    let root = of("");
    assert_eq!((root.mode, root.uid, root.gid, root.links), (0o041_777, 1, 2, 5));
    assert_eq!((of("usr").mode, of("usr").modified, of("usr").links), (0o040_755, (0, 0), 3));
    let su = of("su");
    assert_eq!((su.mode, su.links, su.text().as_str(), su.modified), (0o106_755, 2, "program", (1_700_000_000, 0)));
    assert_eq!(su.inode, of("usr/bin/su").inode);
    assert_eq!((of("big-owner").uid, of("big-owner").gid), (70_000, 4_000_000_000));
    assert_eq!((of("absolute").mode, of("absolute").text().as_str()), (0o120_777, "/etc/passwd"));
    assert_eq!(of("relative").text(), "../../x");
    assert_eq!(of("pipe").mode, 0o010_644);
    assert_eq!((of("null").mode, of("null").device), (0o020_644, 0x103));
    assert_eq!(found[b"not-utf8-\xff\xfe/\x80".as_slice()].text(), "x");
    assert_eq!(of("new\nline\\and\"quote").text(), "y");
    assert_eq!(of("late").modified, (1_700_000_001, 123_456_789));
    assert_eq!(of("early").modified, (-2, 250_000_000));
}

/// Each is checked: among so many the last block of inodes is filled to its last byte.
#[test]
fn inodes_up_to_the_end() {
    for count in 40..180 {
        let entries: Vec<_> = (0..count).map(|number| file(format!("{number:03}"), "")).collect();
        assert_eq!(erofs::read(&image_of(&entries)).len(), count + 1);
    }
}

#[test]
fn sizes_around_every_border() {
    let content = |size: usize| -> Vec<u8> { (0..size).map(|n| (n / 7 + size) as u8).collect() };
    let sizes =
        [0, 1, 511, 512, 513, 2000, 4031, 4032, 4033, 4095, 4096, 4097, 8127, 8128, 8129, 8192, 1_048_576, 3_000_001];
    let entries: Vec<_> = sizes.iter().map(|size| file(size.to_string(), content(*size))).collect();
    let found = erofs::read_texts(&image_of(&entries));
    for size in sizes {
        assert!(found[&size.to_string()].content == content(size), "{size}");
    }
}

#[test]
fn names_and_targets_as_long_as_they_may_be() {
    let name = "n".repeat(255);
    let path = [name.as_str(); 15].join("/") + "/file";
    let targets = [1, 100, 101, 4031, 4032, 4033, 4095].map(|size| "t".repeat(size));
    let mut entries: Vec<_> = targets.iter().map(|target| symlink(format!("link{}", target.len()), target)).collect();
    entries.push(file(&path, "deep"));
    entries.push(hard_link("deep", &path));
    let found = erofs::read_texts(&image_of(&entries));
    assert_eq!(found[&path].text(), "deep");
    assert_eq!(found["deep"].inode, found[&path].inode);
    for target in targets {
        assert_eq!(found[&format!("link{}", target.len())].text(), target);
    }
}

#[test]
fn a_hundred_thousand_entries_in_one_directory() {
    let entries: Vec<_> = (0..100_000).map(|n| file(format!("d/{n}"), n.to_string())).collect();
    let found = erofs::read_texts(&image_of(&entries));
    assert_eq!(found.len(), 100_002);
    assert_eq!(found["d/99999"].text(), "99999");
}

#[test]
fn extended_attributes() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\n";
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff";
    let large = vec![b'v'; 60_000];
    let bytes = image_of(&[
        file("ping", vec![7; 5000]).attribute("security.capability", capability),
        directory("d").attribute("system.posix_acl_default", acl).attribute("system.posix_acl_access", acl),
        file("large", "tail").attribute("user.large", &large).attribute("user.empty", b""),
        file("other", "").attribute("com.apple.quarantine", b"x").attribute("trusted.overlay.opaque", b"y"),
        symlink("link", "ping").attribute("security.selinux", b"system_u:object_r:bin_t:s0\0"),
    ]);
    let found = erofs::read_texts(&bytes);
    let of = |path: &str, name: &str| found[path].attributes[name].clone();
    assert_eq!(of("ping", "security.capability"), capability);
    assert_eq!(found["ping"].content, vec![7; 5000]);
    assert_eq!((of("d", "system.posix_acl_default"), of("d", "system.posix_acl_access")), (acl.to_vec(), acl.to_vec()));
    assert_eq!((of("large", "user.large"), of("large", "user.empty")), (large, Vec::new()));
    assert_eq!(found["large"].text(), "tail");
    assert_eq!(found["other"].attributes.len(), 0);
    assert_eq!(of("link", "security.selinux"), b"system_u:object_r:bin_t:s0\0");
}

#[test]
fn an_upper_directory_of_an_overlay() {
    let archive = tars::archive(&[
        device(b'3', "gone", (0, 0)),
        directory("opaque").attribute("user.overlay.opaque", b"y").attribute("user.overlay.origin", b"x"),
    ]);
    let found = erofs::read_texts(&image(&[&archive], Whiteouts::Overlay).unwrap());
    assert_eq!((found["gone"].mode, found["gone"].device), (0o020_644, 0));
    let expected = [("trusted.overlay.opaque".to_owned(), b"y".to_vec())];
    assert_eq!(found["opaque"].attributes, expected.into());
}

/// More than 4 GiB, almost all of it zeros, which become holes.
#[test]
fn a_file_larger_than_four_gibibytes() {
    const SIZE: u64 = (4 << 30) + 4096 * 3 + 5;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let (mut start, mut end) = (Vec::new(), Vec::new());
    tars::header(&entry(b'0', "huge"), SIZE, &mut start);
    tars::data(b"last!", &mut end);
    tars::write(&file("after", "x"), &mut end);
    end.resize(end.len() + 1024, 0);
    let mut image = FileSystem::create(&path, Limits::default()).unwrap();
    image.apply_tar(&mut start.chain(repeat(0).take(SIZE - 5)).chain(end.as_slice()), Whiteouts::None).unwrap();
    let size = image.finish().unwrap().size;
    assert_eq!(size, path.metadata().unwrap().len());
    let blocks = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
    assert!(blocks < 1000, "{blocks} blocks of 512 bytes");
    check(&path);
    use std::os::unix::fs::FileExt;
    let opened = std::fs::File::open(&path).unwrap();
    let mut inodes = vec![0; 4096];
    opened.read_exact_at(&mut inodes, size - 4096).unwrap();
    assert!(
        memchr::memmem::find(&inodes, b"last!").is_some()
            && memchr::memmem::find(&inodes, &SIZE.to_le_bytes()).is_some()
    );
}

#[test]
fn the_same_in_gives_the_same_out() {
    let entries = [file("b", vec![1; 9000]), file("a", "small"), directory("d"), symlink("s", "a")];
    let one = image_of(&entries);
    assert!(one == image_of(&entries));
    // What a later layer removed takes no place, and leaves the rest as it was.
    let (first, second) = (tars::archive(&entries), tars::archive(&[file(".wh.b", "")]));
    let less = erofs::read_texts(&image(&[&first, &second], Whiteouts::Resolve).unwrap());
    assert_eq!(less.keys().collect::<Vec<_>>(), ["", "a", "d", "s"]);
}

#[test]
fn a_directory_of_the_host() {
    let source = tempfile::tempdir().unwrap();
    let at = |name: &str| source.path().join(name);
    std::fs::create_dir_all(at("usr/bin")).unwrap();
    std::fs::write(at("usr/bin/tool"), "program").unwrap();
    std::fs::hard_link(at("usr/bin/tool"), at("tool")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
    std::os::unix::fs::symlink("usr", at("also")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let result = tempfile::tempdir().unwrap();
    let path = result.path().join("image");
    let mut image = FileSystem::create(&path, Limits::default()).unwrap();
    image.apply_directory(source.path()).unwrap();
    image.finish().unwrap();
    check(&path);
    let found = erofs::read_texts(&std::fs::read(&path).unwrap());
    let paths: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(paths, ["", "also", "link", "socket", "tool", "usr", "usr/bin", "usr/bin/tool"]);
    assert_eq!((found["tool"].inode, found["tool"].links), (found["usr/bin/tool"].inode, 2));
    assert_eq!((found["tool"].text().as_str(), found["tool"].uid), ("program", 0), "root's, whoever ran the test");
    assert_eq!((found["link"].text().as_str(), found["socket"].mode & 0o170_000), ("/etc/passwd", 0o140_000));
}
