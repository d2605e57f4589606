//! What holds of whatever is read as a description of an image.

use viv_image::{ImageSource, Platform};

/// Reads bytes as each of them.
pub fn every_reader(bytes: &[u8]) {
    let layers = viv_image::read_documents(bytes);
    // Each takes more than one byte to be named.
    assert!(layers <= bytes.len());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
    }
    for kind in ["oci:", "oci-archive:", "docker-daemon:", ""] {
        if let Ok(source) = format!("{kind}{text}").parse::<ImageSource>() {
            let written = source.to_string();
            assert_eq!(written.parse::<ImageSource>().unwrap(), source, "{written:?}");
            if let ImageSource::Oci { reference, .. } | ImageSource::DockerDaemon(reference) = source {
                // It becomes a part of addresses and of a command line.
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
                assert!(reference.bytes().all(plain) && !reference.starts_with('-'), "{reference:?}");
                assert!(!reference.split('/').any(|part| part == ".."), "{reference:?}");
            }
        }
    }
}
