//! The text of a `viv.lock`: strictly read, always written the same way.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::{FILE_NAME, LockFile, LockedImage, LockedVersion, can_be_locked};
use crate::error::{Error, ErrorKind, Result};
use crate::packages::Package;
use crate::source::ImageSource;

/// A larger file is none that viv has written. Bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// The format's number.
const VERSION: u32 = 1;
/// What the file begins with.
const HEADER: &str = "# Written by `viv image lock`. Keep it with viv.toml, under version control.";

/// The number alone: another format may have anything else.
#[derive(Deserialize)]
struct Format {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "version")]
    _version: u32,
    image: Option<WrittenImage>,
    #[serde(default, rename = "package")]
    packages: Vec<WrittenPackage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenImage {
    source: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPackage {
    package: String,
    version: String,
    layer: Option<String>,
}

/// The error for a file that is no lock.
pub(super) fn bad(why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::BadLock, format!("{FILE_NAME} cannot be used: {why}"))
        .hint("viv image lock writes it anew; delete it to go on without")
}

impl LockFile {
    /// Reads a lock's text, which may come from a stranger's project.
    ///
    /// # Errors
    /// [`ErrorKind::BadLock`].
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(bad(format_args!("it has more than {MAX_BYTES} bytes")));
        }
        let syntax = |error: toml::de::Error| {
            let place = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let message = error.message().escape_debug().to_string();
            bad(place.map_or_else(|| message.clone(), |line| format!("line {line}: {message}")))
        };
        let format: Format = toml::from_str(text).map_err(syntax)?;
        if format.version != VERSION {
            return Err(bad(format_args!("it is of version {}, and this viv knows {VERSION}", format.version)));
        }
        let written: Written = toml::from_str(text).map_err(syntax)?;
        let image = written.image.map(image).transpose()?;
        let mut packages = BTreeMap::new();
        for entry in written.packages {
            let (package, locked) = package(entry)?;
            if packages.contains_key(&package) {
                return Err(bad(format_args!("{package} is in it twice")));
            }
            packages.insert(package, locked);
        }
        Ok(Self { image, packages })
    }
}

fn image(written: WrittenImage) -> Result<LockedImage> {
    let source: ImageSource = written.source.parse().map_err(bad)?;
    Ok(LockedImage { source, digest: digest(written.digest)? })
}

fn package(written: WrittenPackage) -> Result<(Package, LockedVersion)> {
    let asked: Package = written.package.parse().map_err(bad)?;
    if !can_be_locked(&asked) {
        return Err(bad(format_args!("{asked} is nix's to pin")));
    }
    // The version reaches a command line, so it is what a version may be.
    let name = Package { version: None, ..asked.clone() };
    let pinned: Package = format!("{name}@{}", written.version).parse().map_err(bad)?;
    if pinned.version.as_ref() != Some(&written.version) || pinned.name != asked.name {
        return Err(bad(format_args!("{:?} is no version of {name}", written.version)));
    }
    let layer = written.layer.map(digest).transpose()?;
    Ok((asked, LockedVersion { version: written.version, layer }))
}

fn digest(text: String) -> Result<String> {
    let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    match text.strip_prefix("sha256:") {
        Some(digits) if digits.len() == 64 && digits.bytes().all(hexadecimal) => Ok(text),
        _ => Err(bad(format_args!("{text:?} is no digest (sha256: and 64 hexadecimal digits)"))),
    }
}

/// A string of TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl fmt::Display for LockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nversion = {VERSION}")?;
        if let Some(image) = &self.image {
            let source = quoted(&image.source.to_string());
            writeln!(f, "\n[image]\nsource = {source}\ndigest = {}", quoted(&image.digest))?;
        }
        for (package, locked) in &self.packages {
            let (package, version) = (quoted(&package.to_string()), quoted(&locked.version));
            writeln!(f, "\n[[package]]\npackage = {package}\nversion = {version}")?;
            if let Some(layer) = &locked.layer {
                writeln!(f, "layer = {}", quoted(layer))?;
            }
        }
        Ok(())
    }
}
