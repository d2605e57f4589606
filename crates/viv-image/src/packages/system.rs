//! The image's own package manager: apt, apk or dnf, by which of them the image has.
//!
//! apt installs no recommended packages: a layer holds what was asked for and what that needs.

use super::plan::{Plan, Recipe, Root, Script, Step};
use super::{Host, Package};
use crate::error::{Error, ErrorKind, Result};

/// For how long the lists of packages are taken as they are.
const FRESH_MINUTES: u32 = 24 * 60;

pub(crate) const RECIPE: Recipe = Recipe { version: 1, scripts: &[APT, APK, DNF], keep: None };

const APT: Script = Script {
    fetch: include_str!("../../data/layer-apt-fetch.sh"),
    install: include_str!("../../data/layer-apt-install.sh"),
};
const APK: Script = Script {
    fetch: include_str!("../../data/layer-apk-fetch.sh"),
    install: include_str!("../../data/layer-apk-install.sh"),
};
const DNF: Script = Script {
    fetch: include_str!("../../data/layer-dnf-fetch.sh"),
    install: include_str!("../../data/layer-dnf-install.sh"),
};

/// apt's settings in both phases. The image's own hold as well: what its dpkg leaves out, its sources,
/// its keys.
const APT_SETTINGS: &str = r#"Dir::State::Lists "/viv-build/cache/lists";
Dir::Cache::Archives "/viv-build/job/archives";
Dir::Cache::pkgcache "/viv-build/cache/pkgcache.bin";
Dir::Cache::srcpkgcache "/viv-build/cache/srcpkgcache.bin";
Dir::Log "/viv-build/job/log";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Keep-Downloaded-Packages "true";
Binary::apt-get::APT::Keep-Downloaded-Packages "true";
DPkg::Use-Pty "false";
DPkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };
"#;

pub(crate) fn plan(set: &[Package], host: &Host, root: &dyn Root) -> Result<Plan> {
    if root.has_program("apt-get") {
        Ok(apt(set, host))
    } else if root.has_program("apk") {
        Ok(apk(set, host))
    } else if root.has_program("dnf") {
        Ok(dnf(set, host))
    } else {
        let name = root.os_release("PRETTY_NAME").map(|name| format!(" ({name})")).unwrap_or_default();
        Err(Error::new(
            ErrorKind::NoPackageManager,
            format!("the image{name} has no package manager of its own: no apt, apk or dnf"),
        )
        .hint("take packages from nix:, which needs nothing of an image")
        .hint("or another --image"))
    }
}

/// Packages as `NAME` and `NAME=VERSION`, the separator aside.
fn words(set: &[Package], separator: char) -> Vec<String> {
    let word = |package: &Package| match &package.version {
        Some(version) => format!("{}{separator}{version}", package.name),
        None => package.name.clone(),
    };
    set.iter().map(word).collect()
}

fn apt(set: &[Package], host: &Host) -> Plan {
    let environment = |more: &[(&str, String)]| {
        let always = [
            ("APT_CONFIG", "/viv-build/files/apt.conf".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true".to_owned()),
        ];
        always.iter().chain(more).map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Vec<_>>()
    };
    let mut settings = format!("{APT_SETTINGS}Acquire::https::CaInfo \"/viv-build/certificates.pem\";\n");
    for option in &host.bootstrap.apt_options {
        // The host's certificates have another place in here.
        if !option.to_ascii_lowercase().contains("::cainfo") {
            settings.push_str(&format!("{option};\n"));
        }
    }
    let mut files = Vec::new();
    if let Some(mirror) = &host.mirror {
        settings.push_str("Dir::Etc::SourceList \"/viv-build/files/sources.list\";\nDir::Etc::SourceParts \"-\";\n");
        files.push(("sources.list".to_owned(), mirror.clone().into_bytes()));
    }
    if !host.apt_credentials.is_empty() {
        settings.push_str("Dir::Etc::Netrc \"/viv-build/files/auth.conf\";\n");
        files.push(("auth.conf".to_owned(), host.apt_credentials.clone().into_bytes()));
    }
    files.push(("apt.conf".to_owned(), settings.into_bytes()));
    let mut fetching = environment(&[("VIV_FRESH_MINUTES", FRESH_MINUTES.to_string())]);
    fetching.extend(host.bootstrap.proxies.iter().cloned());
    Plan {
        script: APT,
        tools: Vec::new(),
        arguments: words(set, '='),
        fetch: Step { environment: fetching, files },
        install: Step {
            environment: environment(&[]),
            files: vec![("apt.conf".to_owned(), APT_SETTINGS.as_bytes().to_vec())],
        },
    }
}

fn apk(set: &[Package], host: &Host) -> Plan {
    Plan {
        script: APK,
        arguments: words(set, '='),
        fetch: Step { environment: host.bootstrap.proxies.clone(), files: Vec::new() },
        ..Plan::default()
    }
}

fn dnf(set: &[Package], host: &Host) -> Plan {
    let names = set.iter().map(|package| package.name.as_str()).collect::<Vec<_>>().join(" ");
    let environment = vec![("VIV_NAMES".to_owned(), names)];
    let fetching = environment.iter().chain(&host.bootstrap.proxies).cloned().collect();
    Plan {
        script: DNF,
        arguments: words(set, '-'),
        fetch: Step { environment: fetching, files: Vec::new() },
        install: Step { environment, files: Vec::new() },
        ..Plan::default()
    }
}

/// Follows apt's lines: how far a phase is.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    expected: u64,
    seen: u64,
}

impl Lines {
    /// Done and all parts, if the line says anything about that.
    pub(crate) fn next(&mut self, line: &str) -> Option<(u64, u64)> {
        if let Some(count) = crate::output::newly_installed(line) {
            // Fetched in the one phase; unpacked and set up in the other.
            *self = Self { expected: count, seen: 0 };
            return None;
        }
        let weight = if line.starts_with("Get:") {
            2
        } else if line.starts_with("Unpacking ") || line.starts_with("Setting up ") {
            1
        } else {
            return None;
        };
        self.seen += weight;
        (self.expected > 0).then(|| (self.seen.min(self.expected * 2), self.expected * 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap;

    struct Has(&'static str);

    impl Root for Has {
        fn has_program(&self, name: &str) -> bool {
            name == self.0
        }

        fn os_release(&self, key: &str) -> Option<String> {
            (key == "PRETTY_NAME").then(|| "Distroless".to_owned())
        }
    }

    fn set() -> Vec<Package> {
        ["git@1:2.47.3-0", "ripgrep"].iter().map(|text| text.parse().unwrap()).collect()
    }

    fn host() -> Host {
        Host {
            bootstrap: bootstrap::Host {
                apt_options: vec![
                    "Acquire::http::Proxy \"http://proxy.example:3128\"".to_owned(),
                    "Acquire::https::CaInfo \"/etc/ssl/own.pem\"".to_owned(),
                ],
                proxies: vec![("https_proxy".to_owned(), "http://proxy.example:3128".to_owned())],
                ..bootstrap::Host::default()
            },
            apt_credentials: "machine mirror.example login me password secret\n".to_owned(),
            ..Host::default()
        }
    }

    #[test]
    fn apt_behind_a_proxy_with_credentials() {
        let plan = plan(&set(), &host(), &Has("apt-get")).unwrap();
        insta::assert_snapshot!(plan.shown());
        let install = format!("{:?}", plan.install);
        assert!(!install.contains("proxy") && !plan.install.files.iter().any(|(name, _)| name == "auth.conf"));
    }

    #[test]
    fn others_and_none() {
        insta::assert_snapshot!(plan(&set(), &host(), &Has("apk")).unwrap().shown());
        insta::assert_snapshot!(plan(&set(), &host(), &Has("dnf")).unwrap().shown());
        let error = plan(&set(), &host(), &Has("sh")).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::NoPackageManager);
        assert!(error.to_string().contains("(Distroless)"), "{error}");
    }

    #[test]
    fn lines() {
        let mut lines = Lines::default();
        let text = "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.\nGet:1 http://m jq\nGet:2 http://m libjq\nGet:3 more";
        let parts: Vec<_> = text.lines().filter_map(|line| lines.next(line)).collect();
        assert_eq!(parts, [(2, 4), (4, 4), (4, 4)]);
    }
}
