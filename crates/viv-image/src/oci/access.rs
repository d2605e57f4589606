//! What of this host decides how registries are spoken to: as data, so that tests have their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where logins, mirrors and proxies are found, and how patient a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAccess {
    /// Files with logins, the one that counts most first: podman's `auth.json` and Docker's
    /// `config.json`, which have one format
    /// (<https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md>).
    pub credential_files: Vec<PathBuf>,
    /// Where `docker-credential-NAME` may lie. PATH is no such place: a project's own directories may
    /// be in it.
    pub helper_directories: Vec<PathBuf>,
    /// Files in the format of containers-registries.conf(5), the one that counts most first.
    pub registry_files: Vec<PathBuf>,
    /// The Docker daemon's own configuration: `registry-mirrors`, `insecure-registries`.
    pub docker_daemon_file: Option<PathBuf>,
    /// The proxy for what is encrypted, as `https_proxy` has it.
    pub proxy: Option<String>,
    /// Hosts the proxy is not used for, as `no_proxy` has them.
    pub no_proxy: Option<String>,
    /// Docker's command, for images of its daemon; looked for among the system's programs where
    /// none is named.
    pub docker: Option<PathBuf>,
    /// How long and how often.
    pub patience: Patience,
}

/// How long a client waits, and how often it tries again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// A connection on which nothing comes for so long is dropped, and what is left asked for again.
    pub stall: Duration,
    /// How often something is tried in a row without a single byte gained.
    pub attempts: u32,
    /// The pause before the second try; it doubles with each further one. A server's Retry-After
    /// takes its place.
    pub pause: Duration,
    /// A server that wants more of a pause than this is not waited for.
    pub longest_pause: Duration,
}

impl Default for Patience {
    /// 30 seconds, 5 times, after half a second, and at most a minute.
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            attempts: 5,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

impl RegistryAccess {
    /// What podman and Docker use: by `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR`, `$XDG_CONFIG_HOME`,
    /// `$DOCKER_CONFIG`, `$HOME`, `$CONTAINERS_REGISTRIES_CONF`, `$HTTPS_PROXY`, `$ALL_PROXY` and
    /// `$NO_PROXY`, the latter in small letters, too.
    #[must_use]
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let first = |names: &[&str]| names.iter().find_map(|name| set(name)?.into_string().ok());
        let home = path("HOME");
        let in_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let configuration = path("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
        let credential_files = [
            path("REGISTRY_AUTH_FILE"),
            path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
            configuration.as_ref().map(|directory| directory.join("containers/auth.json")),
            path("DOCKER_CONFIG").or_else(|| in_home(".docker")).map(|directory| directory.join("config.json")),
        ];
        let system = crate::tools::SYSTEM_PATH.split(':').map(|directory| Some(PathBuf::from(directory)));
        let helper_directories = system.chain([in_home(".local/bin"), in_home("bin")]);
        let own = configuration.map(|directory| directory.join("containers/registries.conf"));
        let registry_files = match path("CONTAINERS_REGISTRIES_CONF") {
            Some(only) => vec![Some(only)],
            None => vec![own, Some("/etc/containers/registries.conf".into())],
        };
        Self {
            credential_files: credential_files.into_iter().flatten().collect(),
            helper_directories: helper_directories.flatten().collect(),
            registry_files: registry_files.into_iter().flatten().collect(),
            docker_daemon_file: Some("/etc/docker/daemon.json".into()),
            proxy: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            no_proxy: first(&["no_proxy", "NO_PROXY"]),
            docker: None,
            patience: Patience::default(),
        }
    }

    /// What the environment of this process says.
    #[must_use]
    pub fn of_environment() -> Self {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// Nothing but direct, anonymous connections.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            credential_files: Vec::new(),
            helper_directories: Vec::new(),
            registry_files: Vec::new(),
            docker_daemon_file: None,
            proxy: None,
            no_proxy: None,
            docker: None,
            patience: Patience::default(),
        }
    }

    /// The program that knows the logins of a store.
    pub(super) fn helper(&self, store: &str) -> Option<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if store.is_empty() || !store.chars().all(plain) {
            return None;
        }
        let program = format!("docker-credential-{store}");
        let is_program =
            |path: &PathBuf| path.is_file() && rustix::fs::access(path.as_path(), rustix::fs::Access::EXEC_OK).is_ok();
        self.helper_directories.iter().map(|directory: &PathBuf| Path::join(directory, &program)).find(is_program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_things_are_looked_for() {
        let variables = [
            ("HOME", "/home/me"),
            ("XDG_RUNTIME_DIR", "/run/user/1000"),
            ("https_proxy", "http://proxy.example:3128"),
            ("NO_PROXY", "localhost"),
            ("DOCKER_CONFIG", ""),
        ];
        let access = RegistryAccess::from_variables(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        });
        insta::assert_debug_snapshot!(access);
        assert_eq!(access.helper("../x"), None);
    }
}
