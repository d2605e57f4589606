//! Which hosts an image is asked of: mirrors first, where the host's configuration has any.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use oci_spec::distribution::Reference;
use serde::Deserialize;

use super::access::RegistryAccess;
use super::reference;
use crate::error::{Error, ErrorKind, Result, io_error};

/// One place that has an image, or may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `HOST[:PORT]`.
    pub host: String,
    /// The image's name there.
    pub repository: String,
    /// Whether it may be spoken to unencrypted.
    pub insecure: bool,
}

/// containers-registries.conf(5), as far as it says where images are.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    mirror_by_digest_only: bool,
    pull_from_mirror: Option<String>,
}

/// What of Docker's daemon.json is of use.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Daemon {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

/// The places of an image, in the order they are tried.
///
/// # Errors
/// [`ErrorKind::Unauthorized`] where the configuration blocks the registry; those of reading it.
pub(super) fn endpoints(access: &RegistryAccess, reference: &Reference) -> Result<Vec<Endpoint>> {
    let registries = registries(&access.registry_files)?;
    let daemon = match &access.docker_daemon_file {
        Some(path) => read(path)?.map(|text| daemon(path, &text)).transpose()?.unwrap_or_default(),
        None => Daemon::default(),
    };
    let mut found = Vec::new();
    let whole = format!("{}/{}", reference.registry(), reference.repository());
    let matching = registries.iter().filter_map(|registry| Some((registry, registry.rest(&whole)?)));
    // The longest prefix leaves the least.
    let rule = matching.min_by_key(|(_, rest)| rest.len());
    if let Some((registry, rest)) = rule {
        if registry.blocked {
            let message = format!("{} is blocked by this host's registries.conf", reference.registry());
            return Err(Error::new(ErrorKind::Unauthorized, message));
        }
        let digest = reference.digest().is_some();
        found.extend(
            registry
                .mirror
                .iter()
                .filter(|mirror| mirror.serves(digest))
                .filter_map(|mirror| Endpoint::at(&format!("{}{rest}", mirror.location), mirror.insecure)),
        );
    }
    // The registry that is meant where none is named is the one with another address.
    if reference.registry() != reference.resolve_registry() {
        found.extend(daemon.registry_mirrors.iter().filter_map(|address| {
            let (insecure, rest) = match address.strip_prefix("http://") {
                Some(rest) => (true, rest),
                None => (false, address.strip_prefix("https://").unwrap_or(address)),
            };
            Endpoint::at(&format!("{}/{}", rest.trim_end_matches('/'), reference.repository()), insecure)
        }));
    }
    let moved = rule.and_then(|(registry, rest)| {
        registry.location.as_ref().and_then(|place| Endpoint::at(&format!("{place}{rest}"), registry.insecure))
    });
    let insecure = rule.is_some_and(|(registry, _)| registry.insecure)
        || daemon.insecure_registries.iter().any(|host| host == reference.registry());
    let mut own = moved.unwrap_or_else(|| Endpoint {
        host: reference.registry().to_owned(),
        repository: reference.repository().to_owned(),
        insecure,
    });
    if own.host == reference.registry() {
        own.host = reference.resolve_registry().to_owned();
    }
    found.push(own);
    for endpoint in &mut found {
        endpoint.insecure |= is_loopback(&endpoint.host);
    }
    Ok(found)
}

impl Endpoint {
    /// `HOST[:PORT]/NAME`.
    fn at(place: &str, insecure: bool) -> Option<Self> {
        // What a name may be, and so what becomes part of an address, is decided in one place.
        let reference = reference::parse(place).ok()?;
        let (host, repository) = place.split_once('/')?;
        (reference.tag() == Some("latest") && !repository.contains(':')).then(|| Self {
            host: host.to_owned(),
            repository: repository.to_owned(),
            insecure,
        })
    }
}

impl Registry {
    /// What of a name is left behind this registry's prefix, if it has that; begins with `/` or is
    /// empty.
    fn rest<'a>(&self, whole: &'a str) -> Option<&'a str> {
        let prefix = self.prefix.as_ref().or(self.location.as_ref())?;
        let rest = match prefix.strip_prefix("*.") {
            Some(domain) => {
                let (host, _) = whole.split_once('/')?;
                host.strip_suffix(domain).filter(|sub| sub.ends_with('.'))?;
                &whole[host.len()..]
            }
            None => whole.strip_prefix(prefix.trim_end_matches('/'))?,
        };
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

impl Mirror {
    fn serves(&self, by_digest: bool) -> bool {
        match self.pull_from_mirror.as_deref() {
            Some("digest-only") => by_digest,
            Some("tag-only") => !by_digest,
            _ => by_digest || !self.mirror_by_digest_only,
        }
    }
}

/// Of several entries for one prefix, that of the file that counts more.
fn registries(files: &[PathBuf]) -> Result<Vec<Registry>> {
    let Some((path, text)) = files
        .iter()
        .find_map(|path| match read(path) {
            Ok(None) => None,
            Ok(Some(text)) => Some(Ok((path, text))),
            Err(error) => Some(Err(error)),
        })
        .transpose()?
    else {
        return Ok(Vec::new());
    };
    let mut by_prefix: BTreeMap<String, Registry> = BTreeMap::new();
    let mut add = |path: &Path, text: &str| -> Result<()> {
        let file: File = toml::from_str(text).map_err(|why| unreadable(path, why.message()))?;
        for registry in file.registry {
            let key = registry.prefix.clone().or_else(|| registry.location.clone()).unwrap_or_default();
            by_prefix.insert(key, registry);
        }
        Ok(())
    };
    add(path, &text)?;
    // What lies in the directory of that name comes over it, in the order of names.
    let mut dropped: Vec<PathBuf> = match fs::read_dir(path.with_extension("conf.d")) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    dropped.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    dropped.sort();
    for path in &dropped {
        if let Some(text) = read(path)? {
            add(path, &text)?;
        }
    }
    Ok(by_prefix.into_values().collect())
}

fn daemon(path: &Path, text: &str) -> Result<Daemon> {
    serde_json::from_str(text).map_err(|why| unreadable(path, &why.to_string()))
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // Docker's is for the daemon alone on some hosts.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn unreadable(path: &Path, why: &str) -> Error {
    let reason = why.lines().next().unwrap_or_default().to_owned();
    Error::new(ErrorKind::Io, format!("{} cannot be understood", path.display())).source(reason)
}

/// Whether a host is this one.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reference: &str, registries: &str, daemon: &str) -> Result<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let (conf, json) = (directory.path().join("registries.conf"), directory.path().join("daemon.json"));
        fs::write(&conf, registries).unwrap();
        fs::write(&json, daemon).unwrap();
        let access = RegistryAccess {
            registry_files: vec![directory.path().join("none.conf"), conf],
            docker_daemon_file: Some(json),
            ..RegistryAccess::anonymous()
        };
        let found = endpoints(&access, &reference::parse(reference).unwrap())?;
        Ok(found
            .iter()
            .map(|at| format!("{}{} {}", if at.insecure { "http:" } else { "" }, at.host, at.repository))
            .collect())
    }

    #[test]
    fn without_configuration() {
        assert_eq!(of("registry.example/a/b:1", "", "{}").unwrap(), ["registry.example a/b"]);
        assert_eq!(of("localhost:5000/a", "", "{}").unwrap(), ["http:localhost:5000 a"]);
        assert_eq!(of("127.0.0.2:5000/a", "", "{}").unwrap(), ["http:127.0.0.2:5000 a"]);
        let default = reference::parse("alpine").unwrap();
        let expected = format!("{} library/alpine", default.resolve_registry());
        assert_eq!(of("alpine", "", "{}").unwrap(), [expected]);
    }

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_counts() {
        let text = r#"
            unqualified-search-registries = ["registry.example"]
            [[registry]]
            location = "registry.example"
            [[registry]]
            prefix = "registry.example/team"
            location = "internal.example/kept"
            [[registry.mirror]]
            location = "mirror.example:5000/copies"
            [[registry.mirror]]
            location = "digests.example"
            mirror-by-digest-only = true
            [[registry]]
            prefix = "*.blocked.example"
            blocked = true
        "#;
        assert_eq!(
            of("registry.example/team/app", text, "{}").unwrap(),
            ["mirror.example:5000 copies/app", "internal.example kept/app"]
        );
        let pinned = format!("registry.example/team/app@sha256:{}", "0".repeat(64));
        assert_eq!(of(&pinned, text, "{}").unwrap().len(), 3);
        assert_eq!(of("registry.example/teams/app", text, "{}").unwrap(), ["registry.example teams/app"]);
        assert_eq!(*of("a.blocked.example/x", text, "{}").unwrap_err().kind(), ErrorKind::Unauthorized);
    }

    #[test]
    fn dockers_daemon() {
        let json = r#"{"registry-mirrors": ["https://mirror.example/"], "insecure-registries": ["old.example:80"], "log-driver": "x"}"#;
        assert_eq!(of("alpine", "", json).unwrap()[0], "mirror.example library/alpine");
        assert_eq!(of("old.example:80/x", "", json).unwrap(), ["http:old.example:80 x"]);
        assert_eq!(*of("a.example/b", "[[registry]", "{}").unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(*of("a.example/b", "", "[").unwrap_err().kind(), ErrorKind::Io);
    }
}
