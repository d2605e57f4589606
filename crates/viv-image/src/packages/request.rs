//! A package as it is asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Manager {
    /// The image's own: apt in Debian.
    System,
    /// npm.
    Npm,
    /// pip.
    Pip,
    /// cargo.
    Cargo,
    /// The host's nix: resolved outside, and shared rather than copied.
    Nix,
}

impl Manager {
    /// What stands before the colon; nothing for the image's own.
    #[must_use]
    pub fn prefix(self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Npm => Some("npm"),
            Self::Pip => Some("pip"),
            Self::Cargo => Some("cargo"),
            Self::Nix => Some("nix"),
        }
    }
}

/// A package: `NAME[@VERSION]` of the image's own manager (also `NAME=VERSION`, as apt has it),
/// `npm:[@SCOPE/]NAME[@VERSION]`, `pip:NAME[@VERSION]` (also `NAME==VERSION`), `cargo:NAME[@VERSION]`,
/// `nix:ATTRIBUTE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Package {
    /// Where it comes from.
    pub manager: Manager,
    /// Its name there.
    pub name: String,
    /// Exactly this version; the newest without it.
    pub version: Option<String>,
}

/// The longest name or version.
const MAX_BYTES: usize = 214;

impl FromStr for Package {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (manager, rest) = match text.split_once(':') {
            Some(("npm", rest)) => (Manager::Npm, rest),
            Some(("pip", rest)) => (Manager::Pip, rest),
            Some(("cargo", rest)) => (Manager::Cargo, rest),
            Some(("nix", rest)) => (Manager::Nix, rest),
            Some(("apt", rest)) => (Manager::System, rest),
            _ => (Manager::System, text),
        };
        // An @ at the beginning is a scope's.
        let at = rest.get(1..).and_then(|rest| rest.find('@')).map(|at| at + 1);
        let (name, version) = match (manager, at) {
            (Manager::Pip, _) if rest.contains("==") => {
                rest.split_once("==").map_or((rest, None), |(n, v)| (n, Some(v)))
            }
            (Manager::System, None) if rest.contains('=') => {
                rest.split_once('=').map_or((rest, None), |(n, v)| (n, Some(v)))
            }
            (Manager::Nix, _) | (_, None) => (rest, None),
            (_, Some(at)) => (&rest[..at], Some(&rest[at + 1..])),
        };
        let bad = |why: &str| {
            Error::new(ErrorKind::BadReference, format!("`{}` names no package: {why}", text.escape_debug()))
                .hint("give NAME, npm:NAME, pip:NAME, cargo:NAME or nix:NAME, and @VERSION after it for a certain one")
        };
        if name.is_empty() || version == Some("") {
            return Err(bad("a part of it is empty"));
        }
        if name.len() > MAX_BYTES || version.is_some_and(|version| version.len() > MAX_BYTES) {
            return Err(bad("it is too long"));
        }
        // What reaches a package manager's command line is never an option, a path or a URL.
        let scope = manager == Manager::Npm && name.starts_with('@') && name.matches('/').count() == 1;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+-~".contains(c);
        let in_name =
            |c: char| plain(c) || (scope && "@/".contains(c)) || (manager == Manager::Nix && "'\"".contains(c));
        let begins = |text: &str, also: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric() || also.contains(c));
        if !begins(name, if scope { "@" } else { "_" }) || !name.chars().all(in_name) {
            return Err(bad("its name has characters that no package's has"));
        }
        if let Some(version) = version
            && !(begins(version, "") && version.chars().all(|c| plain(c) || c == ':'))
        {
            return Err(bad("its version is not a single version"));
        }
        Ok(Self { manager, name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

impl TryFrom<String> for Package {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Package> for String {
    fn from(package: Package) -> Self {
        package.to_string()
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(prefix) = self.manager.prefix() {
            write!(f, "{prefix}:")?;
        }
        f.write_str(&self.name)?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "@{version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        for text in [
            "git",
            "g++",
            "libssl-dev@3.0-1~deb13u1",
            "npm:prettier",
            "npm:@scope/name@1.2",
            "pip:requests@2.32.3",
            "cargo:ripgrep@14.1.1",
            "nix:python3Packages.numpy",
        ] {
            assert_eq!(text.parse::<Package>().unwrap().to_string(), text);
        }
        assert_eq!("git=1:2.47.3-0".parse::<Package>().unwrap().to_string(), "git@1:2.47.3-0");
        assert_eq!("pip:requests==2".parse::<Package>().unwrap().to_string(), "pip:requests@2");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "npm:",
            "-o",
            "npm:@",
            "npm:a/b",
            "../x",
            "pip:https://x",
            "a b",
            "git@",
            "a@-x",
            "npm:--prefix",
            "a;b",
        ] {
            assert_eq!(*text.parse::<Package>().unwrap_err().kind(), ErrorKind::BadReference, "{text}");
        }
    }
}
