//! Images in files, and of Docker.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};
use viv_image::ErrorKind;

use crate::Fixture;
use crate::layout::{Layer, Layout, Packing, digest};
use crate::tools;

fn layout() -> (Layout, Value) {
    let mut layout = Layout::default();
    let layers = [
        Layer::new().file("a", b"a").file("removed", b"").tar(),
        Layer::new().file(".wh.removed", b"").file("b", b"b").tar(),
    ];
    let image = layout.image(&layers, Packing::Gzip, json!({"Env": ["A=1"], "Cmd": ["/a"]}));
    layout.name("1.0", &image);
    (layout, image)
}

#[test]
fn every_form_is_the_same_image() {
    if !tools::has(&["skopeo", "fsck.erofs"]) {
        return;
    }
    let fixture = Fixture::new();
    let at = |name: &str| fixture.path().join(name);
    let (layout, _) = layout();
    layout.write_directory(&at("layout"));
    fs::write(at("by-hand.tar"), layout.tar()).unwrap();
    let gzip = fs::File::create(at("packed.tar.gz")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(gzip, flate2::Compression::fast());
    gzip.write_all(&layout.tar()).unwrap();
    gzip.finish().unwrap();
    for (kind, name) in [("oci-archive", "oci.tar"), ("docker-archive", "docker.tar")] {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet"]).arg(format!("oci:{}:1.0", at("layout").display()));
        tools::run(command.arg(format!("{kind}:{}:app:1.0", at(name).display())));
    }
    let mut digests = Vec::new();
    for name in
        ["layout", "by-hand.tar", "packed.tar.gz", "oci.tar", "docker.tar", "docker.tar:app:1.0", "by-hand.tar:1.0"]
    {
        let image = fixture.ensure(&format!("oci-archive:{}", at(name).display())).unwrap();
        assert_eq!(image.config.environment, [("A".to_owned(), "1".to_owned())], "{name}");
        assert_eq!(image.config.command, ["/a"]);
        digests.push(image.digest);
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    let extracted = tools::extract(&fixture.ensure(&format!("oci-archive:{}", at("oci.tar").display())).unwrap().path);
    let mut names: Vec<_> = fs::read_dir(extracted.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn several_images_want_a_name() {
    let fixture = Fixture::new();
    let (mut layout, image) = layout();
    let other = layout.image(&[Layer::new().file("other", b"").tar()], Packing::Zstd, json!({"Cmd": ["other"]}));
    layout.name("2.0", &other);
    let path = fixture.path().join("two.tar");
    fs::write(&path, layout.tar()).unwrap();
    let source = |name: &str| format!("oci-archive:{}{name}", path.display());
    let (kind, message) = fixture.fails(&source(""));
    assert_eq!(kind, ErrorKind::NoSuchImage);
    assert!(message.contains("1.0, 2.0"), "{message}");
    assert_eq!(fixture.fails(&source(":3.0")).0, ErrorKind::NoSuchImage);
    assert_eq!(fixture.ensure(&source(":2.0")).unwrap().config.command, ["other"]);
    assert_eq!(fixture.ensure(&source(":1.0")).unwrap().config.command, ["/a"]);
    assert_eq!(fixture.fails(&source(":1.0?platform=linux/riscv64")).0, ErrorKind::NoSuchPlatform);

    // What changes is read again.
    let mut changed = Layout::default();
    let manifest = changed.image(&[], Packing::None, json!({"Cmd": ["changed"]}));
    changed.name("1.0", &manifest);
    fs::write(&path, changed.tar()).unwrap();
    assert_eq!(fixture.ensure(&source("")).unwrap().config.command, ["changed"]);
    // A layer that is not what its digest says.
    let parsed: Value = serde_json::from_slice(layout.of(&image)).unwrap();
    let layer = parsed["layers"][0]["digest"].as_str().unwrap().to_owned();
    let bytes = layout.blobs.get_mut(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let found = digest(bytes);
    fs::write(&path, layout.tar()).unwrap();
    let fresh = Fixture::new();
    let (kind, message) = fresh.fails(&source(":1.0"));
    assert_eq!(kind, ErrorKind::DigestMismatch);
    assert!(message.contains(&layer) && message.contains(&found), "{message}");
    assert_eq!(fresh.kept(), [""; 0]);
}

#[test]
fn what_is_none_is_refused() {
    let fixture = Fixture::new();
    let path = fixture.path().join("file.tar");
    let source = format!("oci-archive:{}", path.display());
    assert_eq!(fixture.fails(&source).0, ErrorKind::NotFound);
    fs::write(&path, Layer::new().file("etc/passwd", b"").tar()).unwrap();
    assert_eq!(fixture.fails(&source).0, ErrorKind::UnsupportedImage);
    fs::write(&path, "text").unwrap();
    assert_eq!(fixture.fails(&source).0, ErrorKind::UnsupportedImage);
    assert_eq!(fixture.kept(), [""; 0]);
}

/// A command in Docker's place.
fn docker(fixture: &mut Fixture, script: &str) {
    let path = fixture.path().join("docker");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fixture.access.docker = Some(path);
}

#[test]
fn images_of_docker() {
    let mut fixture = Fixture::new();
    let (layout, _) = layout();
    fs::write(fixture.path().join("saved.tar"), layout.tar()).unwrap();
    let script = format!(
        r#"[ "$1 $2 $3 $5 $6" = "image save --output -- app:1" ] && cp {0}/saved.tar "$4" && echo once >> {0}/calls"#,
        fixture.path().display()
    );
    docker(&mut fixture, &script);
    let image = fixture.ensure("docker-daemon:app:1").unwrap();
    assert_eq!(image.config.command, ["/a"]);
    assert_eq!(fixture.ensure("docker-daemon:app:1").unwrap(), image);
    fixture.pull("docker-daemon:app:1").unwrap();
    assert_eq!(fs::read_to_string(fixture.path().join("calls")).unwrap().lines().count(), 2);

    docker(&mut fixture, "echo 'Cannot connect to the Docker daemon at unix:///run/docker.sock.' >&2; exit 1");
    let (kind, message) = fixture.fails("docker-daemon:app:2");
    assert_eq!((kind, message.split(':').next().unwrap()), (ErrorKind::Docker, "Docker's daemon does not answer"));
    docker(&mut fixture, "echo 'Error response from daemon: reference does not exist' >&2; exit 1");
    assert_eq!(fixture.fails("docker-daemon:app:2").0, ErrorKind::NoSuchImage);
}
