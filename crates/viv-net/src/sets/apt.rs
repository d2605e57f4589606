//! `@apt`: what apt is configured with.
//!
//! apt says itself which repositories it uses, whatever format its sources have. The guest's apt needs no
//! settings: its image is made from the host's mirrors, or from the one `VIV_DEBIAN_MIRROR` names.

use std::fs;
use std::path::{Path, PathBuf};

use super::ask::Question;
use super::build::Builder;
use super::location::Location;
use super::{Error, Host, SetAnswer, SetName};

/// What apt is configured with.
#[derive(Debug, Clone, Default)]
pub struct AptClient {
    /// Whether apt is there.
    pub installed: bool,
    /// URIs of its repositories, as apt says.
    pub repositories: Vec<String>,
    /// Settings that name proxies, as lines of `apt-config dump`.
    pub proxies: Vec<String>,
    /// `VIV_DEBIAN_MIRROR`.
    pub mirror: Option<String>,
}

pub(super) fn gather(host: &Host<'_>) -> AptClient {
    let apt_get = host.asker.find("apt-get");
    let apt_config = host.asker.find("apt-config");
    let inputs = inputs(Path::new("/etc/apt"));
    // What is remembered holds no logins.
    let ask = |name: &str, program: Option<&Path>, arguments: &[&str], line: &dyn Fn(&str) -> Option<String>| {
        let program = program?;
        let files: Vec<&Path> = std::iter::once(program).chain(inputs.iter().map(PathBuf::as_path)).collect();
        let question = Question { arguments, ..Question::default() };
        let ask = || {
            let said = host.asker.ask(program, &question)?;
            let mut lines: Vec<String> = said.lines().filter_map(line).collect();
            lines.sort();
            lines.dedup();
            Some(lines.join("\n"))
        };
        host.asker.remembered(name, &files, ask)
    };
    let lines = |said: Option<String>| said.iter().flat_map(|said| said.lines()).map(str::to_owned).collect();
    let sites = ["indextargets", "--format", "$(SITE)"];
    let repositories = ask("apt-sites", apt_get.as_deref(), &sites, &|line| Some(Location::without_login(line)));
    let proxies = ask("apt-proxies", apt_config.as_deref(), &["dump", "Acquire"], &|line| {
        let (key, uri) = proxy(line)?;
        Some(format!("{key} \"{}\";", Location::without_login(uri)))
    });
    AptClient {
        installed: apt_get.is_some(),
        repositories: lines(repositories),
        proxies: lines(proxies),
        mirror: host.variable("VIV_DEBIAN_MIRROR").map(str::to_owned),
    }
}

/// The files whose change can change what apt says. A directory's stamp changes when a file in it is
/// replaced, but not when it is written in place.
fn inputs(etc: &Path) -> Vec<PathBuf> {
    let mut paths = ["sources.list", "apt.conf"].map(|name| etc.join(name)).to_vec();
    for directory in ["sources.list.d", "apt.conf.d"].map(|name| etc.join(name)) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        paths.push(directory);
        paths.append(&mut entries);
    }
    paths
}

pub(super) fn answer(client: &AptClient) -> Result<SetAnswer, Error> {
    let mut builder = Builder::new(SetName::Apt);
    for uri in client.mirror.iter().chain(&client.repositories) {
        builder.allow(uri);
    }
    for (key, uri) in client.proxies.iter().filter_map(|line| proxy(line)) {
        if let Some(at) = builder.allow(uri) {
            builder.warn(format!(
                "@apt: apt goes through the proxy {} ({key}), so inside everything can be reached that it lets through",
                at.rule()
            ));
        }
    }
    builder.finish(client.installed)
}

/// A line `Acquire::http::Proxy "URI";`, for one of the two transports and perhaps one host.
fn proxy(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.trim().split_once(' ')?;
    let lower = key.to_ascii_lowercase();
    let rest = lower.strip_prefix("acquire::http")?.trim_start_matches('s').strip_prefix("::proxy")?;
    let value = value.trim_end_matches(';').trim_matches('"');
    let set = !value.is_empty();
    (set && (rest.is_empty() || rest.starts_with("::"))).then_some((key, value))
}
