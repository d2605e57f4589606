//! The kernel's view: an image is mounted and compared with what other programs make of the same archives.
//! Only root can mount a file system of this kind.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use viv_image::filesystem::{FileSystem, Limits, Whiteouts, decompress};

use super::{check, have, run, tars, tool};

/// An image that is mounted until this is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, place: &'a Path) -> Self {
        std::fs::create_dir(place).unwrap();
        run(tool("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(place));
        Self(place)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = tool("umount").arg(self.0).status();
    }
}

fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let erofs = std::fs::read_to_string("/proc/filesystems").unwrap().contains("\terofs\n");
    if !(root && erofs) {
        eprintln!("SKIPPED: only root, on a kernel with erofs, can mount an image");
    }
    root && erofs
}

/// Everything there is to compare, a line for each path.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_path_buf()]);
    // Names of one file have one number, the first that is met.
    let mut numbers = BTreeMap::new();
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mut line = format!(
            "{:o} {}:{} {} links, {}.{:09}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            left.sort_by(|a, b| b.cmp(a));
        } else if metadata.is_file() {
            let mut hasher = std::hash::DefaultHasher::new();
            std::fs::read(&path).unwrap().hash(&mut hasher);
            line += &format!(" {} bytes {:x}", metadata.size(), hasher.finish());
        } else if metadata.is_symlink() {
            line += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
        } else {
            line += &format!(" device {}", metadata.rdev());
        }
        let next = numbers.len();
        line += &format!(" #{}", numbers.entry(metadata.ino()).or_insert(next));
        let mut names = vec![0; 65536];
        let size = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let mut names: Vec<&[u8]> = names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        for name in names {
            let mut value = vec![0; 65536];
            let size = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            line += &format!(" {}={}", name.escape_ascii(), value[..size].escape_ascii());
        }
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    found
}

fn assert_same(ours: &Path, theirs: &Path, least: usize) {
    let (ours, theirs) = (listing(ours), listing(theirs));
    for (path, theirs) in &theirs {
        assert_eq!(ours.get(path), Some(theirs), "{}", path.display());
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() >= least, "{}", ours.len());
}

/// Files of many kinds, made by the host's own programs, so that only the archive is between them and
/// the image.
const TREE: &str = r#"
    mkdir -p usr/bin etc empty many "odd names"
    printf 'program' >usr/bin/su; chmod 6755 usr/bin/su; ln usr/bin/su usr/bin/same
    ln -s usr/bin bin; ln -s /etc/passwd absolute; ln -s "$(printf %04000d 0)" long
    printf root >etc/passwd; chown 12:70000 etc/passwd; chmod 0 etc/passwd
    chmod 1777 empty; touch -d @1.5 etc; touch -h -d @7 bin; touch -d @-5.25 old
    mkfifo pipe; mknod null c 1 3; ln pipe pipe2; ln -P bin bin2
    head -c 4032 /dev/zero | tr '\0' a >edge; head -c 4033 /dev/zero | tr '\0' b >over
    head -c 3000001 /dev/urandom >large; : >nothing
    printf x >"odd names/$(printf 'new\nline')"; printf y >"odd names/$(printf '\377\376')"
    seq 1 3000 | while read n; do echo "$n" >"many/$n"; done
"#;

/// As VFS_CAP_REVISION_2 has it: cap_net_raw, permitted and effective.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Owner, one user, group, mask and others.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

fn make_tree(root: &Path) {
    std::fs::create_dir(root).unwrap();
    run(tool("sh").args(["-ec", TREE]).current_dir(root));
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("etc/passwd", "user.a", b"line\nbreak\0");
    set("usr", "trusted.t", b"t");
    set("large", "security.capability", CAPABILITY);
    set("over", "user.big", &[b'v'; 2000]);
    set("edge", "system.posix_acl_access", ACL);
    set("empty", "system.posix_acl_default", ACL);
}

fn import(archives: &[&Path], whiteouts: Whiteouts, image: &Path) {
    let mut output = FileSystem::create(image, Limits::default()).unwrap();
    for archive in archives {
        let mut reader = decompress(std::fs::File::open(archive).unwrap()).unwrap();
        output.apply_tar(&mut reader, whiteouts).unwrap();
    }
    output.finish().unwrap();
    check(image);
}

#[test]
fn archives_of_gnu_tar_and_a_directory() {
    if !can_mount() || !have("tar") {
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| directory.path().join(name);
    make_tree(&at("tree"));
    for (name, options) in
        [("pax", vec!["--format=pax", "--xattrs", "--xattrs-include=*"]), ("gnu", vec!["--format=gnu"])]
    {
        let (archive, image) = (at(&format!("{name}.tar")), at(&format!("{name}.erofs")));
        run(tool("tar").args(&options).arg("-cf").arg(&archive).arg("-C").arg(at("tree")).arg("."));
        import(&[&archive], Whiteouts::None, &image);
        let unpacked = at(&format!("{name}.unpacked"));
        std::fs::create_dir(&unpacked).unwrap();
        run(tool("tar").args(&options[1..]).arg("-xpf").arg(&archive).arg("-C").arg(&unpacked));
        let place = at(&format!("{name}.mounted"));
        let mounted = Mounted::new(&image, &place);
        assert_same(mounted.0, &unpacked, 3020);
    }
    let image = at("directory.erofs");
    let mut output = FileSystem::create(&image, Limits::default()).unwrap();
    output.apply_directory(&at("tree")).unwrap();
    output.finish().unwrap();
    check(&image);
    let place = at("directory.mounted");
    let mounted = Mounted::new(&image, &place);
    assert_same(mounted.0, &at("tree"), 3020);
}

/// Three layers that umoci makes out of what changed, and unpacks: files replaced, removed, made
/// opaque, and linked across.
#[test]
fn layers_as_umoci_unpacks_them() {
    if !can_mount() || !have("umoci") || !have("tar") {
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| directory.path().join(name);
    let layout = at("layout");
    let image = format!("{}:latest", layout.display());
    let umoci = |words: &[&str]| run(tool("umoci").args(words));
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &image]);
    make_tree(&at("tree"));
    run(tool("tar")
        .args(["--format=pax", "--xattrs", "--xattrs-include=*", "-cf"])
        .arg(at("1.tar"))
        .arg("-C")
        .arg(at("tree"))
        .arg("."));
    let upper = at("upper");
    let layers: [&str; 2] = [
        "mkdir -p etc many usr/lib; : >.wh.empty; : >etc/.wh.passwd; printf new >etc/new; : >many/.wh..wh..opq; printf 1 >many/1
         printf other >edge; mkdir large; : >.wh.large; printf x >large/x; printf y >usr/lib/y",
        "mkdir -p empty usr/bin; printf z >usr/bin/same; : >.wh.large; printf w >old; : >.wh.pipe2; : >.wh.nothing",
    ];
    for (index, script) in layers.iter().enumerate() {
        let _ = std::fs::remove_dir_all(&upper);
        std::fs::create_dir(&upper).unwrap();
        run(tool("sh").args(["-ec", script]).current_dir(&upper));
        let name = at(&format!("{}.tar", index + 2));
        // A link to what the first layer has.
        run(tool("tar").args(["--format=pax", "-cf"]).arg(&name).arg("-C").arg(&upper).arg("."));
    }
    let archives = ["1.tar", "2.tar", "3.tar"].map(at);
    for archive in &archives {
        umoci(&["raw", "add-layer", "--image", &image, archive.to_str().unwrap()]);
    }
    let bundle = at("bundle");
    umoci(&["unpack", "--image", &image, bundle.to_str().unwrap()]);
    import(&archives.each_ref().map(PathBuf::as_path), Whiteouts::Resolve, &at("image.erofs"));
    let place = at("mounted");
    let mounted = Mounted::new(&at("image.erofs"), &place);
    assert_same(mounted.0, &bundle.join("rootfs"), 20);
}

/// A layer of packages over a root, as a guest stacks them.
#[test]
fn layers_as_overlayfs_reads_them() {
    if !can_mount() || !std::fs::read_to_string("/proc/filesystems").unwrap().contains("\toverlay\n") {
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| directory.path().join(name);
    let lower = [
        tars::directory("opaque"),
        tars::file("opaque/old", "1"),
        tars::directory("merged"),
        tars::file("merged/old", "1"),
        tars::file("gone", "1"),
        tars::file("merged/gone", "1"),
        tars::file("kept", "1"),
    ];
    let upper = [
        tars::directory("opaque").attribute("user.overlay.opaque", b"y").attribute("user.overlay.origin", b"x"),
        tars::file("opaque/new", "2"),
        tars::device(b'3', "gone", (0, 0)),
        tars::device(b'3', "merged/gone", (0, 0)),
        tars::file("merged/new", "2"),
    ];
    std::fs::write(at("lower.tar"), tars::archive(&lower)).unwrap();
    std::fs::write(at("upper.tar"), tars::archive(&upper)).unwrap();
    import(&[&at("lower.tar")], Whiteouts::None, &at("lower.erofs"));
    import(&[&at("upper.tar")], Whiteouts::Overlay, &at("upper.erofs"));
    let places = [at("lower"), at("upper")];
    let _mounted = [Mounted::new(&at("lower.erofs"), &places[0]), Mounted::new(&at("upper.erofs"), &places[1])];
    let stacked = at("stacked");
    std::fs::create_dir(&stacked).unwrap();
    let layers = format!("ro,lowerdir={}:{}", places[1].display(), places[0].display());
    run(tool("mount").args(["-t", "overlay", "-o", &layers, "overlay"]).arg(&stacked));
    let stacked = Mounted(&stacked);
    let found = listing(stacked.0);
    let paths: Vec<String> = found.keys().map(|path| path.display().to_string()).collect();
    assert_eq!(paths, ["", "kept", "merged", "merged/new", "merged/old", "opaque", "opaque/new"]);
    drop(stacked);
}
