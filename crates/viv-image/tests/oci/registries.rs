//! Against Debian's docker-registry.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tar::EntryType;
use viv_image::{ErrorKind, Platform, ProgressEvent, RegistryAccess};

use crate::layout::{Layer, Layout, Packing, architecture};
use crate::tools::{self, Mounted, Registry, extract};
use crate::{Fixture, kind};

const TOOLS: [&str; 3] = ["docker-registry", "skopeo", "fsck.erofs"];

/// VFS_CAP_REVISION_2, effective, CAP_NET_RAW.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Everything a layer can hold, and everything the one above it can do to it.
fn layers() -> [Vec<u8>; 3] {
    let bottom = Layer::new()
        .directory("etc", 0o755)
        .file("etc/kept", b"kept")
        .file("etc/removed", b"removed")
        .file("etc/replaced", b"old")
        .directory("opaque", 0o755)
        .file("opaque/hidden", b"hidden")
        .directory("opaque/deep", 0o755)
        .file("opaque/deep/hidden", b"hidden")
        .directory("gone", 0o700)
        .file("gone/too", b"gone")
        .directory("bin", 0o755)
        .owned("bin/setuid", b"#!/bin/sh\n", 0o4755, 0)
        .owned("bin/setgid", b"#!/bin/sh\n", 0o2755, 50)
        .attribute("security.capability", &CAPABILITY)
        .owned("bin/ping", b"ping", 0o755, 0)
        .link(EntryType::Link, "bin/hard", "bin/setuid")
        .link(EntryType::Symlink, "bin/soft", "setuid")
        .directory("tmp", 0o1777);
    let middle = Layer::new()
        .file("etc/.wh.removed", b"")
        .file("etc/replaced", b"new")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/shown", b"shown")
        .file(".wh.gone", b"")
        .fifo("pipe")
        .device("null", 1, 3);
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let top = Layer::new()
        .directory("home", 0o755)
        .owned("home/mine", b"mine", 0o600, 70_000)
        .directory(&"d".repeat(120), 0o755)
        .file(&long, b"long")
        .link(EntryType::Link, "etc/kept-too", "etc/kept")
        .file("etc/big", &vec![b'x'; 3 << 20]);
    [bottom.tar(), middle.tar(), top.tar()]
}

#[test]
fn an_image_with_everything_in_it() {
    if !tools::has(&TOOLS) {
        return;
    }
    let registry = Registry::start(false);
    let mut layout = Layout::default();
    let config = json!({
        "Env": ["PATH=/opt/bin:/bin", "A=b=c"], "Entrypoint": ["/bin/tini", "--"], "Cmd": ["sh", "-c", "true"],
        "WorkingDir": "/home", "User": "1000:1000", "ExposedPorts": {"80/tcp": {}},
    });
    for (name, packing) in [("gzip", Packing::Gzip), ("zstd", Packing::Zstd), ("none", Packing::None)] {
        let image = layout.image(&layers(), packing, config.clone());
        layout.name(name, &image);
    }
    registry.push(&layout, "team/everything", None);

    let fixture = Fixture::patient();
    let image = fixture.ensure(&format!("oci:{}/team/everything:gzip", registry.host)).unwrap();
    assert_eq!(image.config.environment, [("PATH".into(), "/opt/bin:/bin".into()), ("A".into(), "b=c".into())]);
    assert_eq!(
        (image.config.entrypoint, image.config.command),
        (vec!["/bin/tini".to_owned(), "--".to_owned()], ["sh", "-c", "true"].map(str::to_owned).to_vec())
    );
    assert_eq!(image.config.working_directory.as_deref(), Some("/home"));
    assert_eq!(image.config.user.as_deref(), Some("1000:1000"));
    let events = fixture.recorder.take();
    assert!(matches!(events.first(), Some(ProgressEvent::Started { .. })), "{events:?}");
    assert_eq!(events.last(), Some(&ProgressEvent::Finished));
    let fractions: Vec<u64> = events
        .iter()
        .filter_map(|e| if let ProgressEvent::Fraction { done, .. } = e { Some(*done) } else { None })
        .collect();
    assert!(fractions.len() > 1 && fractions.is_sorted(), "{fractions:?}");

    if rustix::process::geteuid().is_root() {
        let mounted = Mounted::new(&image.path);
        let root = mounted.path();
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let exists = |path: &str| root.join(path).symlink_metadata().is_ok();
        assert_eq!(
            (read("etc/kept"), read("etc/replaced"), read("opaque/shown")),
            ("kept".into(), "new".into(), "shown".into())
        );
        for gone in [
            "etc/removed",
            "opaque/hidden",
            "opaque/deep",
            "gone",
            "etc/.wh.removed",
            "opaque/.wh..wh..opq",
            ".wh.gone",
        ] {
            assert!(!exists(gone), "{gone}");
        }
        let of = |path: &str| root.join(path).symlink_metadata().unwrap();
        assert_eq!((of("bin/setuid").mode() & 0o7777, of("bin/setgid").mode() & 0o7777), (0o4755, 0o2755));
        assert_eq!((of("bin/setgid").gid(), of("home/mine").uid(), of("tmp").mode() & 0o7777), (50, 70_000, 0o1777));
        assert_eq!(fs::read_link(root.join("bin/soft")).unwrap(), Path::new("setuid"));
        assert!(of("pipe").file_type().is_fifo());
        assert_eq!(of("null").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(read(&format!("{}/{}", "d".repeat(120), "f".repeat(200))), "long");
    }

    // The same content packed otherwise is another download and the same image.
    let blobs = fixture.count("refs/oci-blob/");
    let zstd = fixture.ensure(&format!("oci:{}/team/everything:zstd", registry.host)).unwrap();
    assert_eq!((zstd.digest, fixture.count("refs/oci-blob/")), (image.digest.clone(), blobs));
    let plain = Fixture::patient().ensure(&format!("oci:{}/team/everything:none", registry.host)).unwrap();
    assert_eq!(plain.digest, image.digest);
}

#[test]
fn the_same_as_umoci_unpacks() {
    let root = rustix::process::geteuid().is_root();
    if !root || !tools::has(&["docker-registry", "skopeo", "umoci"]) {
        eprintln!("SKIPPED: umoci's unpacking and mounting take root: {root}");
        return;
    }
    let registry = Registry::start(false);
    let mut layout = Layout::default();
    let image = layout.image(&layers(), Packing::Gzip, json!({"Cmd": ["sh"]}));
    layout.name("1", &image);
    registry.push(&layout, "app", None);
    let fixture = Fixture::patient();
    let image = fixture.ensure(&format!("oci:{}/app:1", registry.host)).unwrap();

    let (theirs, bundle) = (fixture.path().join("layout"), fixture.path().join("bundle"));
    let source = format!("docker://{}/app:1", registry.host);
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &source]);
    tools::run(copy.arg(format!("oci:{}:1", theirs.display())));
    tools::run(Command::new("umoci").args(["unpack", "--image"]).arg(format!("{}:1", theirs.display())).arg(&bundle));
    let mounted = Mounted::new(&image.path);
    let listings = [&bundle.join("rootfs"), mounted.path()].map(tools::listing);
    assert!(listings[0].contains("security.capability"), "{}", listings[0]);
    assert_eq!(listings[0], listings[1]);
}

#[test]
fn thirty_layers_some_of_them_shared_and_the_same() {
    if !tools::has(&TOOLS) {
        return;
    }
    let registry = Registry::start(false);
    let mut layout = Layout::default();
    let layer = |number: u32| {
        Layer::new()
            .file(&format!("file-{number}"), format!("{number}").as_bytes())
            .file("last", format!("{number}").as_bytes())
            .tar()
    };
    let mut layers: Vec<Vec<u8>> = (0..29).map(layer).collect();
    layers.push(layers[3].clone());
    let image = layout.image(&layers, Packing::Gzip, json!({}));
    layout.name("thirty", &image);
    let image = layout.image(&layers[..20], Packing::Gzip, json!({}));
    layout.name("twenty", &image);
    registry.push(&layout, "many", None);

    let fixture = Fixture::patient();
    let image = fixture.ensure(&format!("oci:{}/many:thirty", registry.host)).unwrap();
    assert_eq!(fixture.count("refs/oci-blob/"), 29);
    let extracted = extract(&image.path);
    assert_eq!(fs::read_dir(extracted.path()).unwrap().count(), 30);
    assert_eq!(fs::read_to_string(extracted.path().join("last")).unwrap(), "3");
    // Nothing of the smaller one is downloaded: the registry has lost it.
    for entry in &layout.blobs {
        if entry.1.starts_with(&[0x1f, 0x8b]) {
            fs::remove_file(registry.blob(entry.0)).unwrap();
        }
    }
    fixture.ensure(&format!("oci:{}/many:twenty", registry.host)).unwrap();
}

#[test]
fn a_platform_and_a_digest_are_chosen() {
    if !tools::has(&TOOLS) {
        return;
    }
    let registry = Registry::start(false);
    let mut layout = Layout::default();
    let other = if architecture() == "s390x" { "amd64" } else { "s390x" };
    let mut for_one = |name: &str| {
        let layer = Layer::new().file("architecture", name.as_bytes()).tar();
        layout.image_for(name, &[layer], Packing::Gzip, json!({}))
    };
    let (own, foreign) = (for_one(architecture()), for_one(other));
    let index = layout.index(&[(other, foreign.clone()), (architecture(), own.clone())]);
    layout.name("1", &index);
    layout.name("foreign", &foreign);
    registry.push(&layout, "both", None);
    let fixture = Fixture::patient();
    let at = |rest: &str| format!("oci:{}/both{rest}", registry.host);
    let built_for = |source: &str| {
        let image = fixture.ensure(source).unwrap();
        fs::read_to_string(extract(&image.path).path().join("architecture")).unwrap()
    };
    assert_eq!(built_for(&at(":1")), architecture());
    assert_eq!(built_for(&at(&format!(":1?platform=linux/{other}"))), other);
    let flagged = kind(&at(":1")).for_platform(format!("linux/{other}").parse::<Platform>().unwrap()).unwrap();
    assert_eq!(built_for(&flagged.to_string()), other);
    for digest in [&index, &own] {
        let digest = digest["digest"].as_str().unwrap();
        assert_eq!(built_for(&at(&format!("@{digest}"))), architecture());
        assert_eq!(built_for(&at(&format!(":ignored@{digest}"))), architecture());
    }
    for wrong in [at(":1?platform=linux/riscv64"), at(":foreign")] {
        let (kind, message) = fixture.fails(&wrong);
        assert_eq!(kind, ErrorKind::NoSuchPlatform);
        assert!(message.contains(&format!("linux/{other}")), "{message}");
    }
    let (kind, message) = fixture.fails(&at(":2"));
    assert_eq!(kind, ErrorKind::NoSuchImage);
    assert!(message.contains("both:2"), "{message}");
    assert_eq!(fixture.fails(&at(&format!("@sha256:{}", "0".repeat(64)))).0, ErrorKind::NoSuchImage);
}

#[test]
fn a_tag_is_looked_up_once_until_it_is_pulled() {
    if !tools::has(&TOOLS) {
        return;
    }
    let registry = Registry::start(false);
    let source = format!("oci:{}/moving", registry.host);
    let push = |content: &[u8]| {
        let mut layout = Layout::default();
        let image = layout.image(&[Layer::new().file("version", content).tar()], Packing::Gzip, json!({"User": "me"}));
        layout.name("latest", &image);
        registry.push(&layout, "moving", None);
    };
    push(b"1");
    let fixture = Fixture::patient();
    let first = fixture.ensure(&source).unwrap();
    push(b"2");
    fixture.recorder.take();
    assert_eq!(fixture.ensure(&source).unwrap(), first);
    assert_eq!(fixture.recorder.take(), []);
    let second = fixture.pull(&source).unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(fixture.ensure(&source).unwrap(), second);
    assert_eq!(fixture.pull(&source).unwrap(), second);

    // What someone has changed in the cache is made again, and means the same as before.
    push(b"3");
    let mut permissions = second.path.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(&second.path, permissions).unwrap();
    let mut content = fs::read(&second.path).unwrap();
    content[2000] ^= 1;
    fs::write(&second.path, content).unwrap();
    fixture.recorder.take();
    assert_eq!(fixture.ensure(&source).unwrap(), second);
    let events = format!("{:?}", fixture.recorder.take());
    assert!(events.contains("damaged"), "{events}");
    // The registry is not needed for what is there.
    drop(registry);
    assert_eq!(fixture.ensure(&source).unwrap(), second);
    assert_eq!(*fixture.pull(&source).unwrap_err().kind(), ErrorKind::Download);
    assert_eq!(fixture.ensure(&source).unwrap(), second);
}

#[test]
fn names_and_passwords() {
    if !tools::has(&TOOLS) {
        return;
    }
    let registry = Registry::start(true);
    let mut layout = Layout::default();
    let image = layout.image(&[Layer::new().file("a", b"a").tar()], Packing::Gzip, json!({}));
    layout.name("1", &image);
    registry.push(&layout, "private", Some("me:correct horse"));
    let source = format!("oci:{}/private:1", registry.host);
    let with = |login: &str| {
        let mut fixture = Fixture::patient();
        let file = fixture.path().join("auth.json");
        let auths = json!({"auths": {registry.host.clone(): {"username": "me", "password": login}}});
        fs::write(&file, auths.to_string()).unwrap();
        fixture.access = RegistryAccess { credential_files: vec![file], ..fixture.access };
        fixture
    };
    let (kind, message) = Fixture::patient().fails(&source);
    assert_eq!(kind, ErrorKind::Unauthorized, "{message}");
    let (kind, message) = with("wrong battery").fails(&source);
    assert_eq!(kind, ErrorKind::Unauthorized, "{message}");
    assert!(!message.contains("wrong battery"));
    let fixture = with("correct horse");
    fixture.ensure(&source).unwrap();
    for name in fixture.kept() {
        let content = fs::read(fixture.cache.root().join(&name)).unwrap();
        assert!(!content.windows(7).any(|part| part == b"correct"), "{name}");
    }
}

#[test]
fn two_at_once_download_once() {
    if !tools::has(&TOOLS) {
        return;
    }
    let registry = Registry::start(false);
    let mut layout = Layout::default();
    let layers: Vec<_> = (0..6).map(|n| Layer::new().file(&format!("f{n}"), &vec![n; 1 << 20]).tar()).collect();
    let image = layout.image(&layers, Packing::Gzip, json!({}));
    layout.name("1", &image);
    layout.name("2", &image);
    registry.push(&layout, "twice", None);
    let fixture = Fixture::patient();
    std::thread::scope(|scope| {
        let threads: Vec<_> = [1, 2, 1, 2]
            .map(|tag| {
                let (fixture, source) = (&fixture, format!("oci:{}/twice:{tag}", registry.host));
                scope.spawn(move || fixture.ensure(&source).unwrap().digest)
            })
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert!(threads.windows(2).all(|pair| pair[0] == pair[1]));
    });
    assert_eq!((fixture.count("refs/oci-image/"), fixture.count("refs/oci-blob/"), fixture.count("tmp/")), (1, 6, 0));
}
