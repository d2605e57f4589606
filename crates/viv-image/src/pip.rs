//! The host's pip settings, for the one step of a build that asks the Python package index.
//!
//! Settings come from the environment and from up to four files, merged by pip itself: each file is
//! put where the pip of the image looks for the same level. Certificates are one file, found the way
//! pip finds it.

use std::path::{Path, PathBuf};

/// The variables that say how to reach an index. Others (targets, caches, virtual environments) are
/// about the host.
const VARIABLES: [&str; 13] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_TRUSTED_HOST",
    "PIP_PROXY",
    "PIP_TIMEOUT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES",
    "PIP_PRE",
    "PIP_PREFER_BINARY",
    "PIP_USE_FEATURE",
    "PIP_USE_DEPRECATED",
];

/// Where Debian and Ubuntu keep all certificates the host trusts.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What is handed to the image's pip.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Environment variables.
    pub variables: Vec<(String, String)>,
    /// Host files and where they go in the image for the time of the build.
    pub uploads: Vec<(PathBuf, &'static str)>,
}

/// Finds the settings. `variable` reads the environment, `read` a file.
pub(crate) fn settings(variable: &dyn Fn(&str) -> Option<String>, read: &dyn Fn(&Path) -> Option<String>) -> Settings {
    let home = variable("HOME").map(PathBuf::from);
    let configuration_home =
        variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".config")));
    let named = variable("PIP_CONFIG_FILE");
    // This value turns all files off.
    let files_off = named.as_deref() == Some("/dev/null");
    let levels = [
        (Some(PathBuf::from("/etc/xdg/pip/pip.conf")), "/etc/xdg/pip/pip.conf"),
        (Some(PathBuf::from("/etc/pip.conf")), "/etc/pip.conf"),
        (home.map(|home| home.join(".pip/pip.conf")), "/viv-build/.pip/pip.conf"),
        (configuration_home.map(|home| home.join("pip/pip.conf")), "/viv-build/.config/pip/pip.conf"),
        (named.map(PathBuf::from), "/viv-build/pip.conf"),
    ];
    let mut uploads = Vec::new();
    let mut certificates = None;
    for (path, place) in levels {
        let Some(path) = path.filter(|_| !files_off) else { continue };
        let Some(content) = read(&path) else { continue };
        if let Some(named) = certificate_setting(&content) {
            certificates = Some(named);
        }
        uploads.push((path, place));
    }
    let bundle = variable("PIP_CERT")
        .or(certificates)
        .or_else(|| variable("REQUESTS_CA_BUNDLE"))
        .or_else(|| variable("CURL_CA_BUNDLE"))
        .or_else(|| variable("SSL_CERT_FILE"))
        .into_iter()
        .chain([SYSTEM_BUNDLE.to_owned()])
        .map(PathBuf::from)
        .find(|path| read(path).is_some());
    if let Some(bundle) = bundle {
        uploads.push((bundle, "/viv-build/certificates.pem"));
    }
    let variables = VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect();
    Settings { variables, uploads }
}

/// The last `cert = path` of a pip.conf.
fn certificate_setting(content: &str) -> Option<String> {
    let value = |line: &str| {
        let (key, value) = line.split_once(['=', ':'])?;
        (key.trim() == "cert").then(|| value.trim().to_owned())
    };
    content.lines().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Settings {
        settings(
            &|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
            &|path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, content)| (*content).to_owned()),
        )
    }

    #[test]
    fn nothing_set() {
        assert_eq!(find(&[], &[]), Settings::default());
        let found = find(&[("HOME", "/home/me"), ("PIP_TARGET", "/x")], &[(SYSTEM_BUNDLE, "")]);
        insta::assert_debug_snapshot!(found, @r#"
        Settings {
            variables: [],
            uploads: [
                (
                    "/etc/ssl/certs/ca-certificates.crt",
                    "/viv-build/certificates.pem",
                ),
            ],
        }
        "#);
    }

    #[test]
    fn every_level() {
        let found = find(
            &[
                ("HOME", "/home/me"),
                ("PIP_INDEX_URL", "https://index.example/simple"),
                ("PIP_CONFIG_FILE", "/own/pip.conf"),
            ],
            &[
                ("/etc/pip.conf", "[global]\ncert = /etc/first.pem\n"),
                ("/home/me/.config/pip/pip.conf", "[global]\ncert: /etc/second.pem\n"),
                ("/own/pip.conf", "[global]\ntimeout = 3\n"),
                ("/etc/second.pem", ""),
                (SYSTEM_BUNDLE, ""),
            ],
        );
        insta::assert_debug_snapshot!(found, @r#"
        Settings {
            variables: [
                (
                    "PIP_INDEX_URL",
                    "https://index.example/simple",
                ),
            ],
            uploads: [
                (
                    "/etc/pip.conf",
                    "/etc/pip.conf",
                ),
                (
                    "/home/me/.config/pip/pip.conf",
                    "/viv-build/.config/pip/pip.conf",
                ),
                (
                    "/own/pip.conf",
                    "/viv-build/pip.conf",
                ),
                (
                    "/etc/second.pem",
                    "/viv-build/certificates.pem",
                ),
            ],
        }
        "#);
    }

    #[test]
    fn files_can_be_turned_off_and_the_certificate_variable_wins() {
        let found = find(
            &[("PIP_CONFIG_FILE", "/dev/null"), ("PIP_CERT", "/own.pem"), ("SSL_CERT_FILE", "/other.pem")],
            &[("/etc/pip.conf", "cert = /etc/first.pem"), ("/own.pem", ""), ("/other.pem", ""), (SYSTEM_BUNDLE, "")],
        );
        assert_eq!(found.uploads, [(PathBuf::from("/own.pem"), "/viv-build/certificates.pem")]);
    }
}
