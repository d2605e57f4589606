//! Layers of OCI images, one over the other.

use viv_image::ErrorKind;
use viv_image::filesystem::Whiteouts;

use super::tars::{Entry, archive, directory, file, hard_link, symlink};
use super::{erofs, image, refusal};

/// Files and their content (a slash for directories, an arrow for links), as text.
fn stacked(layers: &[&[Entry]]) -> String {
    let archives: Vec<Vec<u8>> = layers.iter().map(|entries| archive(entries)).collect();
    let archives: Vec<&[u8]> = archives.iter().map(Vec::as_slice).collect();
    let found = erofs::read_texts(&image(&archives, Whiteouts::Resolve).unwrap());
    let show = |(path, found): (&String, &erofs::Found)| match found.mode & 0o170_000 {
        0o040_000 => format!("{path}/"),
        0o120_000 => format!("{path}->{}", found.text()),
        _ => format!("{path}={}", found.text()),
    };
    found.iter().skip(1).map(show).collect::<Vec<_>>().join(" ")
}

/// The same with the second layer forwards and backwards, which must not matter.
fn stacked_in_any_order(lower: &[Entry], upper: &[Entry]) -> String {
    let backwards: Vec<Entry> = upper.iter().rev().cloned().collect();
    let result = stacked(&[lower, upper]);
    assert_eq!(stacked(&[lower, &backwards]), result);
    result
}

fn lower() -> Vec<Entry> {
    vec![directory("d"), file("d/a", "1"), file("d/b", "1"), directory("d/e"), file("d/e/f", "1"), file("x", "1")]
}

#[test]
fn replaced_and_removed() {
    assert_eq!(stacked(&[&lower(), &[file("d/a", "2")]]), "d/ d/a=2 d/b=1 d/e/ d/e/f=1 x=1");
    assert_eq!(stacked(&[&lower(), &[file("d/.wh.a", ""), file(".wh.x", "")]]), "d/ d/b=1 d/e/ d/e/f=1");
    assert_eq!(stacked(&[&lower(), &[file(".wh.d", "")]]), "x=1");
    assert_eq!(
        stacked(&[&lower(), &[file(".wh.nothing", ""), file("no/.wh.thing", "")]]),
        "d/ d/a=1 d/b=1 d/e/ d/e/f=1 x=1"
    );
    assert_eq!(stacked(&[&lower(), &[file(".wh.d", "")], &[file("d/new", "3")]]), "d/ d/new=3 x=1");
    // Not of an image: names like others.
    let plain = image(&[&archive(&[file(".wh.a", "")])], Whiteouts::None).unwrap();
    assert!(erofs::read_texts(&plain).contains_key(".wh.a"));
}

#[test]
fn a_whiteout_and_a_new_entry_of_one_name_in_any_order() {
    assert_eq!(stacked_in_any_order(&lower(), &[file(".wh.x", ""), file("x", "2")]), "d/ d/a=1 d/b=1 d/e/ d/e/f=1 x=2");
    let again = [file(".wh.d", ""), directory("d"), file("d/new", "2")];
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        assert_eq!(stacked(&[&lower(), &order.map(|index| again[index].clone())]), "d/ d/new=2 x=1");
    }
    assert_eq!(stacked_in_any_order(&lower(), &[file(".wh.d", ""), file("d/e/new", "2")]), "d/ d/e/ d/e/new=2 x=1");
}

#[test]
fn opaque_directories() {
    let upper = [directory("d"), file("d/.wh..wh..opq", ""), file("d/b", "2"), file("d/e/new", "2")];
    for order in [[0, 1, 2, 3], [0, 2, 3, 1], [1, 0, 3, 2], [3, 2, 0, 1]] {
        let upper = order.map(|index| upper[index].clone());
        assert_eq!(stacked(&[&lower(), &upper]), "d/ d/b=2 d/e/ d/e/new=2 x=1");
    }
    assert_eq!(stacked(&[&lower(), &[file(".wh..wh..opq", "")]]), "");
    // The directory itself stays as it was.
    let archives = [archive(&[directory("d").mode(0o700), file("d/a", "")]), archive(&[file("d/.wh..wh..opq", "")])];
    let found = erofs::read_texts(&image(&[&archives[0], &archives[1]], Whiteouts::Resolve).unwrap());
    assert_eq!((found["d"].mode, found.len()), (0o040_700, 2));
}

/// Twice the same whiteout costs once: else an archive of them could keep a processor busy for days.
#[test]
fn a_hundred_thousand_opaque_marks() {
    let mut upper: Vec<Entry> = (0..50_000).map(|n| file(n.to_string(), "")).collect();
    upper.extend((0..100_000).map(|_| file(".wh..wh..opq", "")));
    let found = image(&[&archive(&lower()), &archive(&upper)], Whiteouts::Resolve).unwrap();
    assert_eq!(erofs::read(&found).len(), 50_001);
}

#[test]
fn files_directories_and_links_take_each_others_place() {
    assert_eq!(stacked(&[&lower(), &[file("d", "2")]]), "d=2 x=1");
    assert_eq!(stacked(&[&lower(), &[directory("x"), file("x/y", "2")]]), "d/ d/a=1 d/b=1 d/e/ d/e/f=1 x/ x/y=2");
    assert_eq!(stacked(&[&lower(), &[file("d", "2")], &[directory("d")]]), "d/ x=1");
    assert_eq!(stacked(&[&lower(), &[symlink("d", "x")], &[directory("d"), file("d/z", "3")]]), "d/ d/z=3 x=1");
    // Another directory entry over a directory changes what it is, not what it holds.
    let archives = [archive(&lower()), archive(&[directory("d").mode(0o700).owned(5, 6)])];
    let found = erofs::read_texts(&image(&[&archives[0], &archives[1]], Whiteouts::Resolve).unwrap());
    assert_eq!((found["d"].mode, found["d"].uid, found["d"].gid, found.len()), (0o040_700, 5, 6, 7));
}

#[test]
fn below_a_symbolic_link() {
    let base = [directory("usr"), directory("usr/bin"), symlink("bin", "usr/bin"), symlink("abs", "/usr")];
    assert_eq!(stacked(&[&base, &[file("bin/tool", "2")]]), "abs->/usr bin->usr/bin usr/ usr/bin/ usr/bin/tool=2");
    assert_eq!(
        stacked(&[&base, &[file("abs/tool", "2"), hard_link("abs/same", "/abs/tool")]]),
        "abs->/usr bin->usr/bin usr/ usr/bin/ usr/same=2 usr/tool=2"
    );
    // What leads out of the root ends in it, as after chroot(2).
    let out = [symlink("out", "../../../../etc"), file("out/passwd", "x")];
    assert_eq!(stacked(&[&out]), "etc/ etc/passwd=x out->../../../../etc");
    let whiteout = [file("bin/.wh.tool", "")];
    assert_eq!(stacked(&[&base, &[file("usr/bin/tool", "")], &whiteout]), "abs->/usr bin->usr/bin usr/ usr/bin/");
    // The link itself is replaced, not what it leads to.
    assert_eq!(stacked(&[&base, &[file("bin", "2")]]), "abs->/usr bin=2 usr/ usr/bin/");
    let (kind, message) =
        refusal(&[&archive(&[symlink("a", "b"), symlink("b", "a"), file("a/x", "")])], Whiteouts::Resolve);
    assert_eq!((kind, message.as_str()), (ErrorKind::UnsafeArchive, "`a` leads through too many symbolic links"));
}

#[test]
fn hard_links_across_layers() {
    let upper = [hard_link("y", "x"), hard_link("d/z", "./d/e/f")];
    assert_eq!(stacked(&[&lower(), &upper]), "d/ d/a=1 d/b=1 d/e/ d/e/f=1 d/z=1 x=1 y=1");
    // The other name stays with the old content.
    assert_eq!(stacked(&[&lower(), &upper, &[file("x", "3"), file(".wh.d", "")]]), "x=3 y=1");
    assert_eq!(stacked(&[&[file("a", "1"), hard_link("a", "a"), hard_link("b", "a")]]), "a=1 b=1");
    assert_eq!(stacked(&[&lower(), &[hard_link("d", "d/e/f")]]), "d=1 x=1");
    assert_eq!(stacked(&[&[symlink("s", "nowhere"), hard_link("t", "s")]]), "s->nowhere t->nowhere");
}

#[test]
fn records_of_aufs_mean_nothing() {
    let upper = [directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", "")];
    assert_eq!(stacked(&[&lower(), &upper]), stacked(&[&lower()]));
}

#[test]
fn thirty_layers() {
    let layers: Vec<Vec<Entry>> = (0..30)
        .map(|n| vec![file("same", n.to_string()), file(format!("own{n}"), ""), file(format!(".wh.own{}", n - 1), "")])
        .collect();
    let layers: Vec<&[Entry]> = layers.iter().map(Vec::as_slice).collect();
    assert_eq!(stacked(&layers), "own29= same=29");
}
