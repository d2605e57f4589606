//! What of the host goes into the building of layers.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::plan::Step;
use super::settings::Look;
use super::{cargo, npm, pip};
use crate::sources::MIRROR_VARIABLE;
use crate::{bootstrap, tools};

/// The host's settings about where packages come from. Gathered only when something is to be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// What the building of root images heeds, too: apt's sources and options, proxies, pip's settings.
    pub bootstrap: bootstrap::Host,
    /// `sources.list` for Debian images, if the user names a mirror.
    pub mirror: Option<String>,
    /// What apt's `auth.conf` and its parts say, as far as the user may read it.
    pub apt_credentials: String,
    /// Certificates that the host trusts, PEM.
    pub certificates: Vec<u8>,
    /// The host's resolv.conf.
    pub resolver: Vec<u8>,
    /// How npm and pip reach their registries: what of the host FETCH has.
    pub npm: Step,
    pub pip: Step,
    /// The same for cargo.
    pub cargo: cargo::Settings,
}

/// Where Debian, Ubuntu and their kind, and where Fedora's, keep all certificates the host trusts.
const BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

impl Host {
    pub(crate) fn probe() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let mut variables: Vec<_> = env::vars_os().filter_map(text).collect();
        variables.sort();
        let read = |path: &Path| read_settings(path);
        let look = Look {
            variables: &variables,
            home: env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            node: tools::find("node"),
            read: &read,
        };
        let bootstrap = bootstrap::Host::probe();
        let mirror = env::var(MIRROR_VARIABLE).ok().filter(|mirror| !mirror.is_empty());
        Self {
            // With a mirror named, what was found is that mirror.
            mirror: mirror.map(|_| bootstrap.sources.iter().map(|line| format!("{line}\n")).collect()),
            apt_credentials: apt_credentials(&bootstrap.sources),
            certificates: certificates(&bootstrap),
            resolver: fs::read("/etc/resolv.conf").unwrap_or_default(),
            npm: npm::settings(&look),
            pip: pip::settings(&bootstrap.pip, &read),
            cargo: cargo::settings(&look),
            bootstrap,
        }
    }
}

/// A larger file of settings or certificates is none. Bytes.
const MAX_SETTINGS_BYTES: u64 = 16 << 20;

/// A file of the user's settings; none if it cannot be read.
fn read_settings(path: &Path) -> Option<Vec<u8>> {
    let file = fs::File::open(path).ok().filter(|file| file.metadata().is_ok_and(|data| data.is_file()))?;
    let mut content = Vec::new();
    file.take(MAX_SETTINGS_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}

/// What the host trusts: a file that is named for this user or for apt, else the system's.
fn certificates(bootstrap: &bootstrap::Host) -> Vec<u8> {
    let named = |option: &String| {
        let (key, value) = option.split_once(' ')?;
        key.eq_ignore_ascii_case("Acquire::https::CaInfo").then(|| PathBuf::from(value.trim_matches('"')))
    };
    let variable = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    variable
        .into_iter()
        .chain(bootstrap.apt_options.iter().filter_map(named))
        .chain(BUNDLES.map(PathBuf::from))
        .find_map(|path| fs::read(path).ok())
        .unwrap_or_default()
}

/// `auth.conf` and its parts (apt_auth.conf(5)), and what the mirrors of the host's sources have in
/// their URIs: the default image's sources are the same without.
fn apt_credentials(sources: &[String]) -> String {
    let mut paths = vec![PathBuf::from("/etc/apt/auth.conf")];
    let parts = fs::read_dir("/etc/apt/auth.conf.d").into_iter().flatten().flatten().map(|entry| entry.path());
    paths.extend(parts.filter(|path| path.extension().is_some_and(|extension| extension == "conf")));
    paths.sort();
    let mut all: Vec<String> = paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    all.extend(sources.iter().filter_map(|line| of_uri(line)));
    all.sort();
    all.dedup();
    all.iter().map(|text| format!("{}\n", text.trim_end())).collect()
}

/// The credentials in the URI of a line of a sources.list.
fn of_uri(line: &str) -> Option<String> {
    let (_, rest) = line.split_whitespace().nth(1)?.split_once("://")?;
    let (user, host) = rest.split('/').next()?.rsplit_once('@')?;
    let (login, password) = user.split_once(':')?;
    Some(format!("machine {host} login {login} password {password}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_uris() {
        let line = "deb https://me:secret@mirror.example:8080/debian trixie main";
        assert_eq!(of_uri(line).unwrap(), "machine mirror.example:8080 login me password secret");
        assert_eq!(of_uri("deb https://mirror.example/debian trixie main"), None);
        assert_eq!(of_uri("deb"), None);
    }
}
