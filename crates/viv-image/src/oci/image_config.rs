//! The configuration of an image, read with limits.

use oci_spec::image::ImageConfiguration;

use super::digest::Digest;
use super::manifest::{MAX_DOCUMENT_BYTES, malformed, no_such_platform, unsupported};
use super::platform::Platform;
use crate::config::ImageConfig;
use crate::error::Result;

/// What is taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageInfo {
    pub config: ImageConfig,
    /// The digests of the layers' content, unpacked; the lowest first.
    pub diff_ids: Vec<Digest>,
    /// `None` where it does not say.
    pub platform: Option<Platform>,
}

/// Reads a configuration.
///
/// # Errors
/// [`crate::ErrorKind::UnsupportedImage`] if it is none.
pub(crate) fn parse(bytes: &[u8]) -> Result<ImageInfo> {
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(unsupported(format!("its configuration has more than {MAX_DOCUMENT_BYTES} bytes")));
    }
    let read: ImageConfiguration = serde_json::from_slice(bytes).map_err(|why| malformed("configuration", why))?;
    let diff_ids = read.rootfs().diff_ids().iter().map(|text| Digest::parse(text)).collect::<Result<Vec<_>>>()?;
    let (os, architecture) = (read.os().to_string(), read.architecture().to_string());
    let variant = read.variant().clone().filter(|variant| !variant.is_empty());
    let platform = (!os.is_empty() && !architecture.is_empty()).then_some(Platform { os, architecture, variant });
    let config = read.config().as_ref().map(config).transpose()?.unwrap_or_default();
    Ok(ImageInfo { config, diff_ids, platform })
}

fn config(read: &oci_spec::image::Config) -> Result<ImageConfig> {
    let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut environment = Vec::new();
    for variable in words(read.env()) {
        // Docker has a variable without a value mean the host's; there is none to be taken from here.
        let Some((name, value)) = variable.split_once('=') else { continue };
        if !name.is_empty() {
            environment.push((name.to_owned(), value.to_owned()));
        }
    }
    let config = ImageConfig {
        environment,
        entrypoint: words(read.entrypoint()),
        command: words(read.cmd()),
        // Where a path is relative, builders take it from the root.
        working_directory: text(read.working_dir())
            .map(|path| if path.starts_with('/') { path } else { format!("/{path}") }),
        user: text(read.user()),
    };
    let named = config.environment.iter().flat_map(|(name, value)| [name, value]);
    let single = [&config.working_directory, &config.user].into_iter().flatten();
    // No program could be given such a word.
    if named.chain(&config.entrypoint).chain(&config.command).chain(single).any(|word| word.contains('\0')) {
        return Err(unsupported("its configuration has a NUL byte in a word"));
    }
    Ok(config)
}

impl ImageInfo {
    /// That it is for the platform.
    pub(crate) fn check_platform(&self, wanted: &Platform) -> Result<()> {
        match &self.platform {
            Some(found) if !found.serves(wanted) => {
                Err(no_such_platform(wanted, &found.to_string().escape_debug().to_string()))
            }
            _ => Ok(()),
        }
    }

    /// That it speaks of as many layers as its manifest.
    pub(crate) fn check_layers(&self, count: usize) -> Result<()> {
        if self.diff_ids.len() == count {
            return Ok(());
        }
        let message = format!("its manifest has {count} layers, its configuration {}", self.diff_ids.len());
        Err(unsupported(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_is_heeded() {
        let text = r#"{
            "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/bin:/bin", "EMPTY=", "EQUALS=a=b", "NOTHING", "=x"],
                "Entrypoint": ["/bin/tini", "--"], "Cmd": null, "WorkingDir": "srv", "User": "1000:1000",
                "ExposedPorts": {"80/tcp": {}}, "Labels": null, "Volumes": {"/data": {}}, "ArgsEscaped": true
            },
            "rootfs": {"type": "layers", "diff_ids": []}, "history": []
        }"#;
        insta::assert_debug_snapshot!(parse(text.as_bytes()).unwrap());
    }

    #[test]
    fn nothing_said_and_too_much_said() {
        let empty = parse(br#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#).unwrap();
        assert_eq!(empty, ImageInfo { config: ImageConfig::default(), diff_ids: Vec::new(), platform: None });
        empty.check_platform(&Platform::host()).unwrap();
        empty.check_layers(1).unwrap_err();
        for bad in [
            &br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:0"]}}"#[..],
            br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["a\u0000b"]},"rootfs":{"type":"layers","diff_ids":[]}}"#,
            br#"{"architecture":"amd64","os":"linux"}"#,
            b"",
            &[b'['; 100_000],
        ] {
            let kind = *parse(bad).unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::UnsupportedImage | ErrorKind::BadReference), "{kind:?}");
        }
    }
}
