//! The checks of the fuzz target `images`, bounded and on stable Rust.

#[path = "support/documents.rs"]
mod documents;

use proptest::prelude::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Documents that can be read, for parts of them to be changed.
fn documents() -> Vec<String> {
    let descriptor = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{DIGEST}","size":1}}"#);
    let config = descriptor("application/vnd.oci.image.config.v1+json");
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
    vec![
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer},{layer}]}}"#),
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"{DIGEST}","size":1,"platform":{{"os":"linux","architecture":"amd64","variant":"v1"}}}}]}}"#
        ),
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=1"],"Cmd":["x"],"User":"me","WorkingDir":"/"}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#
        ),
        format!("host.example:5000/a/b:tag@{DIGEST}?platform=linux/arm64/v8"),
        "linux/arm/v7".to_owned(),
    ]
}

#[test]
fn documents_are_read() {
    let found: Vec<usize> = documents().iter().map(|text| viv_image::read_documents(text.as_bytes())).collect();
    assert_eq!(found, [2, 0, 1, 0, 0]);
    documents().iter().for_each(|text| documents::every_reader(text.as_bytes()));
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        documents::every_reader(&bytes);
    }

    #[test]
    fn any_text(text in "[a-z0-9:/@._?=-]{0,80}") {
        documents::every_reader(text.as_bytes());
    }

    #[test]
    fn changed_documents(
        which in 0..documents().len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), "[\\x00-\\x7f]{0,3}"), 1..4),
    ) {
        let mut text = documents()[which].clone();
        for (place, new) in changes {
            let place = place.index(text.len());
            text.replace_range(place..=place, &new);
            if text.is_empty() {
                break;
            }
        }
        documents::every_reader(text.as_bytes());
    }
}
