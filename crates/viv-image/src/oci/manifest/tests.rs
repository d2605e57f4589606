use super::*;

fn digest(of: &str) -> String {
    Digest::of(of.as_bytes()).to_string()
}

fn image(config: &str, layers: &[(&str, u64)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(kind, size)| serde_json::json!({"mediaType": kind, "digest": digest("layer"), "size": size}))
        .collect();
    serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": {"mediaType": config, "digest": digest("config"), "size": 2},
        "layers": layers,
    }))
    .unwrap()
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn why(bytes: &[u8]) -> String {
    let error = parse(bytes).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::UnsupportedImage, "{error}");
    error.to_string()
}

#[test]
fn both_families() {
    for (config, layer) in [
        (CONFIG, LAYER),
        (CONFIG, "application/vnd.oci.image.layer.v1.tar"),
        (CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ] {
        let Document::Image(manifest) = parse(&image(config, &[(layer, 5)])).unwrap() else { panic!() };
        assert_eq!(manifest.layers, [Blob { digest: Digest::of(b"layer"), size: 5 }]);
        assert_eq!(manifest.config.digest, Digest::of(b"config"));
    }
}

#[test]
fn what_nobody_can_unpack_is_refused_by_name() {
    let foreign = why(&image(CONFIG, &[("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1)]));
    assert!(foreign.contains("foreign") && foreign.contains(&digest("layer")), "{foreign}");
    why(&image(CONFIG, &[("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", 1)]));
    why(&image(CONFIG, &[("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", 1)]));
    assert!(why(&image("application/vnd.cncf.helm.config.v1+json", &[])).contains("helm"));
    assert!(why(br#"{"schemaVersion": 1, "fsLayers": []}"#).contains("schema 1"));
    assert!(why(&image(CONFIG, &vec![(LAYER, 1); 513])).contains("513 layers"));
    why(&image(CONFIG, &[(LAYER, u64::MAX)]));
}

#[test]
fn hostile_documents() {
    why(b"");
    why(b"null");
    why(br#"{"schemaVersion": 2}"#);
    why(&[b'{'; 1000]);
    why(&[br#"{"schemaVersion":2,"manifests":"#.as_slice(), &[b'['; 200_000]].concat());
    why(&vec![b' '; MAX_DOCUMENT_BYTES as usize + 1]);
    // A digest becomes a part of paths and addresses.
    let text = String::from_utf8(image(CONFIG, &[(LAYER, 1)])).unwrap();
    parse(text.replace(&digest("layer"), "sha256:../../../x").as_bytes()).unwrap_err();
    parse(text.replace("sha256:", "md5:").as_bytes()).unwrap_err();
}

fn index(platforms: &[Option<&str>]) -> Vec<Candidate> {
    let manifests: Vec<_> = platforms
        .iter()
        .enumerate()
        .map(|(number, platform)| {
            let mut entry = serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&number.to_string()), "size": 1
            });
            if let Some(platform) = platform {
                let mut parts = platform.split('/');
                entry["platform"] = serde_json::json!({"os": parts.next(), "architecture": parts.next()});
                if let Some(variant) = parts.next() {
                    entry["platform"]["variant"] = variant.into();
                }
            }
            entry
        })
        .collect();
    let bytes = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": manifests})).unwrap();
    let Document::Index(candidates) = parse(&bytes).unwrap() else { panic!() };
    candidates
}

#[test]
fn one_of_several() {
    let candidates = index(&[
        Some("linux/arm/v6"),
        Some("linux/arm/v7"),
        Some("linux/amd64/v3"),
        Some("linux/amd64"),
        Some("unknown/unknown"),
    ]);
    let chosen = |wanted: &str| {
        let chosen = choose(&candidates, &wanted.parse().unwrap());
        chosen.map(|found| found.platform.as_ref().unwrap().to_string())
    };
    assert_eq!(chosen("linux/amd64").unwrap(), "linux/amd64");
    assert_eq!(chosen("linux/amd64/v3").unwrap(), "linux/amd64/v3");
    assert_eq!(chosen("linux/arm/v7").unwrap(), "linux/arm/v7");
    let error = chosen("linux/s390x").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoSuchPlatform);
    assert_eq!(
        error.to_string(),
        "it is not there for linux/s390x, only for linux/arm/v6, linux/arm/v7, linux/amd64/v3, linux/amd64"
    );
    assert_eq!(choose(&index(&[None]), &Platform::host()).unwrap().platform, None);
    choose(&index(&[None, None]), &Platform::host()).unwrap_err();
    choose(&[], &Platform::host()).unwrap_err();
}
