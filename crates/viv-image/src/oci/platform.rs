//! Which of an image's builds is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// An operating system and a processor, as Go names them: `OS/ARCHITECTURE[/VARIANT]`, such as
/// `linux/arm64` (<https://github.com/opencontainers/image-spec/blob/main/image-index.md>).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// `linux`, nearly always.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, `riscv64`, ...
    pub architecture: String,
    /// `v7`, `v8`, ...
    pub variant: Option<String>,
}

/// The longest part of one.
const MAX_BYTES: usize = 32;

impl Platform {
    /// Linux on the processor this was compiled for.
    #[must_use]
    pub fn host() -> Self {
        Self { os: "linux".to_owned(), architecture: architecture(std::env::consts::ARCH).to_owned(), variant: None }
    }

    /// Whether a build for `self` is what is meant by `wanted`. A variant counts where one is named,
    /// and arm64 has had but one so far.
    pub(super) fn serves(&self, wanted: &Self) -> bool {
        let variant = |platform: &Self| match platform.variant.as_deref() {
            Some("v8") if platform.architecture == "arm64" => None,
            variant => variant.map(str::to_owned),
        };
        let same_variant = wanted.variant.is_none() || variant(self) == variant(wanted);
        self.os == wanted.os && self.architecture == wanted.architecture && same_variant
    }
}

/// The name Go has for what others call by the kernel's.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "x86" => "386",
        other => other,
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            (1..=MAX_BYTES).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match parts.as_slice() {
            [os, processor, variant @ ..] if variant.len() < 2 && parts.iter().all(plain) => Ok(Self {
                os: (*os).to_owned(),
                architecture: architecture(processor).to_owned(),
                variant: variant.first().map(|variant| (*variant).to_owned()),
            }),
            _ => Err(Error::new(ErrorKind::BadReference, format!("`{}` is no platform", text.escape_debug()))
                .hint("give OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64")),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn written_and_read() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(platform(text).to_string(), text);
        }
        assert_eq!(platform("linux/x86_64").to_string(), "linux/amd64");
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "linux/\u{e9}"] {
            assert_eq!(*bad.parse::<Platform>().unwrap_err().kind(), ErrorKind::BadReference, "{bad}");
        }
    }

    #[test]
    fn which_serves_which() {
        assert!(platform("linux/arm64/v8").serves(&platform("linux/arm64")));
        assert!(platform("linux/arm64").serves(&platform("linux/arm64/v8")));
        assert!(platform("linux/arm/v6").serves(&platform("linux/arm")));
        assert!(!platform("linux/arm/v6").serves(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm64").serves(&platform("linux/amd64")));
    }
}
