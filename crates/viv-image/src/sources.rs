//! Where Debian's packages come from: the mirror the host already uses, with Debian's stable suite in
//! place of the host's own.
//!
//! On a Debian host that is read from its apt configuration. Elsewhere no mirror is named and
//! mmdebstrap takes the one it was built with. `VIV_DEBIAN_MIRROR` (a URI) overrides both.

use std::fs;
use std::path::Path;

/// The suite kernels and roots are made of, on every host.
pub(crate) const SUITE: &str = "trixie";

/// The environment variable that names another mirror.
pub(crate) const MIRROR_VARIABLE: &str = "VIV_DEBIAN_MIRROR";

/// One package source of the host, of those with binary packages.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// What of the host's files decides about the mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostFiles {
    /// `/etc/os-release`
    pub os_release: String,
    /// Names and contents of apt's source files.
    pub sources: Vec<(String, String)>,
}

impl HostFiles {
    /// Reads them; what is not there or not readable counts as empty.
    pub(crate) fn read() -> Self {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let mut paths = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
        if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
            let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            more.sort();
            paths.extend(more);
        }
        Self {
            os_release: read(Path::new("/etc/os-release")),
            sources: paths.iter().map(|path| (path.display().to_string(), read(path))).collect(),
        }
    }
}

/// The sources to build from, as lines of a `sources.list`; empty leaves the choice to mmdebstrap.
pub(crate) fn resolve(mirror: Option<&str>, files: &HostFiles) -> Vec<String> {
    if let Some(mirror) = mirror.filter(|mirror| !mirror.is_empty()) {
        return vec![format!("deb {mirror} {SUITE} main")];
    }
    let release = |key: &str| {
        let value = files.os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    if release("ID").as_deref() != Some("debian") {
        return Vec::new();
    }
    let codename = release("VERSION_CODENAME").unwrap_or_default();
    let mut sources = Vec::new();
    for (name, content) in &files.sources {
        if name.ends_with(".list") {
            sources.extend(content.lines().filter_map(one_line));
        } else if name.ends_with(".sources") {
            sources.extend(stanzas(content).iter().flat_map(|stanza| deb822(stanza)));
        }
    }
    from_host(&codename, &sources)
}

fn from_host(codename: &str, sources: &[Source]) -> Vec<String> {
    let of_suite = |suffixes: &[&str]| {
        let names: Vec<String> = [codename, "stable", "oldstable", SUITE]
            .iter()
            .filter(|name| !name.is_empty())
            .flat_map(|name| suffixes.iter().map(move |suffix| format!("{name}{suffix}")))
            .collect();
        let matches = move |source: &&Source| {
            let suite = source.suite.trim_end_matches('/');
            names.iter().any(|name| name == suite) && source.components.iter().any(|component| component == "main")
        };
        sources.iter().filter(matches).collect::<Vec<_>>()
    };
    let updates = of_suite(&["-updates"]);
    // Other archives name their suites after Debian's as well, so the likeliest one is taken.
    let likeliness = |source: &Source| {
        let has_updates = updates.iter().any(|other| other.uri == source.uri);
        let named_debian = source.uri.rsplit('/').next().is_some_and(|last| last.starts_with("debian"));
        let debian_key = source.signed_by.as_deref().is_none_or(|key| key.contains("debian-archive-keyring"));
        (has_updates, debian_key, named_debian)
    };
    // max_by_key takes the last of equals; the first configured should win.
    let best = |found: Vec<&Source>| found.into_iter().rev().max_by_key(|source| likeliness(source)).cloned();
    let Some(main) = best(of_suite(&[""])) else { return Vec::new() };
    let mut lines = vec![format!("deb {} {SUITE} main", main.uri)];
    if updates.iter().any(|source| source.uri == main.uri) {
        lines.push(format!("deb {} {SUITE}-updates main", main.uri));
    }
    if let Some(security) = best(of_suite(&["-security", "/updates"])) {
        lines.push(format!("deb {} {SUITE}-security main", security.uri));
    }
    lines
}

/// Only what is fetched over the network can be expected to have another suite than the host's.
fn usable(uri: &str) -> Option<String> {
    (uri.starts_with("http://") || uri.starts_with("https://")).then(|| uri.trim_end_matches('/').to_owned())
}

/// `deb [options] uri suite components...`
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (usable(&words.next()?)?, words.next()?);
    Some(Source { uri, suite, components: words.collect(), signed_by })
}

/// The paragraphs of a deb822 file, each as pairs of lower-case key and value.
fn stanzas(content: &str) -> Vec<Vec<(String, String)>> {
    let mut all = vec![Vec::<(String, String)>::new()];
    for line in content.lines() {
        if line.starts_with('#') {
            continue;
        }
        let Some(stanza) = all.last_mut() else { continue };
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            stanza.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    all
}

fn deb822(stanza: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| stanza.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name: &str| field(name).unwrap_or_default().split_whitespace();
    let disabled = field("enabled").is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "no" | "false"));
    if disabled || !words("types").any(|word| word == "deb") {
        return Vec::new();
    }
    let mut sources = Vec::new();
    for uri in words("uris").filter_map(usable) {
        for suite in words("suites") {
            sources.push(Source {
                uri: uri.clone(),
                suite: suite.to_owned(),
                components: words("components").map(str::to_owned).collect(),
                signed_by: field("signed-by").map(str::to_owned),
            });
        }
    }
    sources
}

/// apt's settings about how to fetch, which a build needs as much as the host: proxies, certificates
/// and time checks. Taken from the output of `apt-config dump`, returned as options for mmdebstrap.
pub(crate) fn fetch_options(dump: &str) -> Vec<String> {
    let carried = |key: &str| {
        let key = key.to_ascii_lowercase();
        let Some(key) = key.strip_prefix("acquire::") else { return false };
        let whole = ["check-valid-until", "check-date", "retries", "forceipv4", "forceipv6"];
        let transport = key.strip_prefix("http").map(|rest| rest.trim_start_matches('s'));
        whole.contains(&key)
            || transport.and_then(|rest| rest.strip_prefix("::")).is_some_and(|rest| {
                ["proxy", "cainfo", "timeout", "verify-peer"].iter().any(|name| rest.starts_with(name))
            })
    };
    let set = |line: &&str| {
        line.split_once(' ').is_some_and(|(key, value)| carried(key) && !value.trim_start().starts_with("\"\""))
    };
    dump.lines().filter(set).map(|line| line.trim_end_matches(';').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(os_release: &str, sources: &[(&str, &str)]) -> HostFiles {
        HostFiles {
            os_release: os_release.to_owned(),
            sources: sources.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect(),
        }
    }

    const BOOKWORM: &str = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_CODENAME=bookworm\nID=debian\n";

    #[test]
    fn a_container_with_deb822_sources() {
        let files = host(
            BOOKWORM,
            &[
                ("/etc/apt/sources.list", ""),
                (
                    "/etc/apt/sources.list.d/debian.sources",
                    "# a comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian/\nSuites: bookworm\n bookworm-updates\n\
                     Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                     types: deb\nuris: http://mirror.example/debian-security\nsuites: bookworm-security\ncomponents: main\n",
                ),
                (
                    "/etc/apt/sources.list.d/off.sources",
                    "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n",
                ),
            ],
        );
        insta::assert_snapshot!(resolve(None, &files).join("\n"), @r#"
        deb http://mirror.example/debian trixie main
        deb http://mirror.example/debian trixie-updates main
        deb http://mirror.example/debian-security trixie-security main
        "#);
    }

    #[test]
    fn an_installed_system_with_one_line_sources_and_other_archives() {
        let files = host(
            BOOKWORM,
            &[
                (
                    "/etc/apt/sources.list.d/vendor.list",
                    "deb [arch=amd64 signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.example bookworm main\n",
                ),
                (
                    "/etc/apt/sources.list",
                    "#deb cdrom:[Debian]/ bookworm main\ndeb cdrom:[Debian]/ bookworm main\n\
                     deb-src https://mirror.example/debian bookworm main\n\
                     deb  https://mirror.example/debian bookworm main non-free-firmware # the mirror\n\
                     deb https://mirror.example/security bookworm-security/ main\n\
                     deb https://mirror.example/debian bookworm-backports main\n",
                ),
            ],
        );
        insta::assert_snapshot!(resolve(None, &files).join("\n"), @r#"
        deb https://mirror.example/debian trixie main
        deb https://mirror.example/security trixie-security main
        "#);
    }

    #[test]
    fn elsewhere_mmdebstrap_decides_and_the_variable_always_wins() {
        let ubuntu = host(
            "ID=ubuntu\nVERSION_CODENAME=noble\n",
            &[("/etc/apt/sources.list", "deb http://mirror.example/ubuntu noble main\n")],
        );
        assert_eq!(resolve(None, &ubuntu), Vec::<String>::new());
        assert_eq!(resolve(Some("http://m.example/d"), &ubuntu), ["deb http://m.example/d trixie main"]);
        assert_eq!(resolve(Some(""), &host(BOOKWORM, &[])), Vec::<String>::new());
    }

    #[test]
    fn settings_about_fetching_are_carried_over() {
        let dump = "APT \"\";\nAcquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\n\
                    Acquire::http::Pipeline-Depth \"5\";\nAcquire::https::CaInfo \"/etc/ssl/own.pem\";\n\
                    Acquire::http::Proxy::direct.example \"DIRECT\";\nAcquire::Check-Date \"false\";\nAcquire::https::Proxy \"\";\n";
        insta::assert_snapshot!(fetch_options(dump).join("\n"), @r#"
        Acquire::http::Proxy "http://proxy.example:3128"
        Acquire::https::CaInfo "/etc/ssl/own.pem"
        Acquire::http::Proxy::direct.example "DIRECT"
        Acquire::Check-Date "false"
        "#);
    }
}
