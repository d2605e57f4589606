use super::*;

fn tar_of(entries: &[(&str, Content<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match content {
            Content::File(bytes) => {
                header.set_size(bytes.len() as u64);
                // Not through `append_data`, which refuses what an attacker would write.
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                builder.append(&header, *bytes).unwrap();
            }
            Content::Link(kind, target) => {
                header.set_size(0);
                header.set_entry_type(*kind);
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
                header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
                header.set_cksum();
                builder.append(&header, io::empty()).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

enum Content<'a> {
    File(&'a [u8]),
    Link(tar::EntryType, &'a str),
}

fn open(bytes: &[u8]) -> Result<(tempfile::TempDir, Archive)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    std::fs::write(&path, bytes).unwrap();
    let archive = Archive::open(&path, directory.path())?;
    Ok((directory, archive))
}

fn content(archive: &Archive, name: &str) -> Result<String> {
    let mut text = String::new();
    archive.open_entry(name)?.0.read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn names_are_keys_and_lead_nowhere() {
    use tar::EntryType;
    let bytes = tar_of(&[
        ("./a/layer.tar", Content::File(b"layer")),
        ("../../etc/evil", Content::File(b"evil")),
        ("/etc/absolute", Content::File(b"evil")),
        ("b/layer.tar", Content::Link(EntryType::Symlink, "../a/layer.tar")),
        ("c/layer.tar", Content::Link(EntryType::Link, "a/layer.tar")),
        ("d", Content::Link(EntryType::Symlink, "/etc/passwd")),
        ("e", Content::Link(EntryType::Symlink, "../../../etc/passwd")),
        ("f", Content::Link(EntryType::Symlink, "g")),
        ("g", Content::Link(EntryType::Symlink, "f")),
    ]);
    let (_directory, archive) = open(&bytes).unwrap();
    for name in ["a/layer.tar", "b/layer.tar", "c/layer.tar", "./b/../a/layer.tar"] {
        assert_eq!(content(&archive, name).unwrap(), "layer", "{name}");
    }
    for name in ["d", "e", "f", "g", "../../etc/evil", "/etc/absolute", "/etc/passwd", "../image.tar", ""] {
        assert_eq!(*content(&archive, name).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
    }
}

#[test]
fn a_directory_keeps_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    std::fs::write(directory.path().join("secret"), "secret").unwrap();
    std::fs::write(layout.join("in"), "in").unwrap();
    std::os::unix::fs::symlink("../secret", layout.join("out")).unwrap();
    let archive = Archive::open(&layout, directory.path()).unwrap();
    assert_eq!(content(&archive, "in").unwrap(), "in");
    for name in ["out", "../secret", "none", "/etc/passwd"] {
        assert_eq!(*content(&archive, name).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
    }
}

#[test]
fn what_is_no_archive_of_an_image() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Archive::open(&directory.path().join("none"), directory.path()).unwrap_err();
    assert_eq!(*missing.kind(), ErrorKind::NotFound);
    assert_eq!(*open(b"").unwrap_err().kind(), ErrorKind::UnsupportedImage);
    assert_eq!(*open(&[7; 5000]).unwrap_err().kind(), ErrorKind::UnsupportedImage);
    assert_eq!(*open(b"\x1f\x8b no gzip").unwrap_err().kind(), ErrorKind::Corrupt);
    let (_directory, archive) = open(&tar_of(&[("etc/passwd", Content::File(b""))])).unwrap();
    assert_eq!(*archive.image(None, &Platform::host()).unwrap_err().kind(), ErrorKind::UnsupportedImage);
    for hostile in [&br#"[{"Config":"../x","Layers":[]}]"#[..], b"[]", b"{}", &[b'['; 100_000]] {
        let (_directory, archive) = open(&tar_of(&[("manifest.json", Content::File(hostile))])).unwrap();
        archive.image(None, &Platform::host()).unwrap_err();
    }
}

#[test]
fn a_name_chooses_among_several() {
    let host = Platform::host();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"User":"me"}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
        host.architecture
    );
    let saved =
        r#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":[]},{"Config":"c.json","RepoTags":null,"Layers":[]}]"#;
    let bytes =
        tar_of(&[("manifest.json", Content::File(saved.as_bytes())), ("c.json", Content::File(config.as_bytes()))]);
    let (_directory, archive) = open(&bytes).unwrap();
    let image = archive.image(Some("app:1"), &host).unwrap();
    assert_eq!((image.info.config.user.as_deref(), image.id), (Some("me"), Digest::of(config.as_bytes())));
    let full = reference::parse("app:1").unwrap().whole();
    archive.image(Some(&full), &host).unwrap();
    for name in [None, Some("app:2"), Some("app")] {
        assert_eq!(*archive.image(name, &host).unwrap_err().kind(), ErrorKind::NoSuchImage);
    }
    let other = Platform { architecture: "s390x".to_owned(), ..host };
    assert_eq!(*archive.image(Some("app:1"), &other).unwrap_err().kind(), ErrorKind::NoSuchPlatform);
}
