//! Named sets of a policy: `@npm`, `@pip`, `@cargo`, `@apt`, `@git`.
//!
//! Which hosts a set means is not written here. It is what the host's own clients are configured
//! with, and where they are not configured, what they themselves say their default is. The guest's
//! clients are given the same registries, indexes and mirrors, so that a company's mirror works
//! inside as it does outside; logins stay outside.
//!
//! [`gather`] reads files and asks programs, [`answer`] is pure.
//!
//! | set | from | the guest gets |
//! |---|---|---|
//! | `@npm` | npmrc files, `npm_config_*`, Yarn's `npmRegistryServer`; npm's own default | a global npmrc, `npm_config_*`, `YARN_NPM_REGISTRY_SERVER` |
//! | `@pip` | pip.conf files, `PIP_*`, uv.toml files, `UV_*`; pip's own default | pip.conf and uv.toml under /etc/xdg, `PIP_*`, `UV_*` |
//! | `@cargo` | config.toml files, `CARGO_REGISTRIES_*_INDEX`, what the indexes say of downloads; cargo's own default | /.cargo/config.toml, `CARGO_REGISTRIES_*_INDEX` |
//! | `@apt` | apt's index targets and proxies, `VIV_DEBIAN_MIRROR` | nothing: its image is made from the same mirrors |
//! | `@git` | the project's remotes and submodules, `url.*.insteadOf` | `url.*.insteadOf` |
//!
//! **What a project's files say opens nothing**, with the exception of its remotes, which are what
//! `@git` means. They come with a repository that need not be trusted, and in a live workspace they
//! can be written from inside. A registry that only they name is told of in a warning, with the
//! `--allow` that would permit it. Remotes do not reach private addresses, unless the user's own git
//! configuration names the same host in a `url`, `http` or `credential` section.

mod apt;
mod ask;
mod build;
mod cargo;
mod config;
mod error;
#[cfg(test)]
mod gathering;
mod git;
mod location;
mod npm;
mod pip;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use viv_proto::message::GuestFile;

use crate::policy::Rule;

pub(crate) use ask::stamp;
pub(crate) use config::ini;

pub use apt::AptClient;
pub use cargo::{CargoClient, CargoIndex};
pub use config::{ConfigFile, Variables};
pub use error::{Error, ErrorKind};
pub use git::GitClient;
pub use npm::NpmClient;
pub use pip::PipClient;

/// A named set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// The registries of npm, and of Yarn and pnpm, which use the same.
    Npm,
    /// The package indexes of pip and uv.
    Pip,
    /// The registries of cargo.
    Cargo,
    /// The mirrors of apt.
    Apt,
    /// The remotes of the project.
    Git,
}

impl SetName {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Npm, Self::Pip, Self::Cargo, Self::Apt, Self::Git];

    /// Its name with the `@`, as in a policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Npm => "@npm",
            Self::Pip => "@pip",
            Self::Cargo => "@cargo",
            Self::Apt => "@apt",
            Self::Git => "@git",
        }
    }

    /// The program's name.
    fn client(self) -> &'static str {
        &self.as_str()[1..]
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SetName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|set| set.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
            let all = Self::ALL.map(Self::as_str).join(", ");
            Error::new(ErrorKind::UnknownSet, format!("there is no set {shown}")).hint(format!("the sets are {all}"))
        })
    }
}

/// What the host's clients are configured with. Holds logins, which its `Debug` does not show.
#[derive(Debug, Clone, Default)]
pub struct HostClients {
    /// For [`SetName::Npm`].
    pub npm: NpmClient,
    /// For [`SetName::Pip`].
    pub pip: PipClient,
    /// For [`SetName::Cargo`].
    pub cargo: CargoClient,
    /// For [`SetName::Apt`].
    pub apt: AptClient,
    /// For [`SetName::Git`].
    pub git: GitClient,
}

/// What a set means on this host. Without logins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetAnswer {
    /// What may be connected to.
    pub rules: Vec<Rule>,
    /// Settings of the guest's clients, in places that images and projects leave free.
    pub files: Vec<GuestFile>,
    /// More of them, for the environment of every program inside.
    pub environment: BTreeMap<String, String>,
    /// What the user should know: sentences without a period, without control characters.
    pub warnings: Vec<String>,
}

/// What a set means, given what the host's clients are configured with.
///
/// # Errors
/// [`ErrorKind::NotConfigured`] if the client is neither installed nor configured, or names nothing.
pub fn answer(set: SetName, host: &HostClients) -> Result<SetAnswer, Error> {
    match set {
        SetName::Npm => npm::answer(&host.npm),
        SetName::Pip => pip::answer(&host.pip),
        SetName::Cargo => cargo::answer(&host.cargo),
        SetName::Apt => apt::answer(&host.apt),
        SetName::Git => git::answer(&host.git),
    }
}

/// Reads what the clients of these sets are configured with. Configuration files count up to 1 MiB.
///
/// Programs are asked only for what no file says, each for 20 s at most; what they answer is kept in
/// `cache` until the program or the files it reads change. A client that is not there, or cannot
/// answer, is for [`answer`] to tell. cargo, asked for the first time, fetches one small file of its
/// default registry.
#[must_use]
pub fn gather(sets: &[SetName], workspace: &Path, cache: &Path, environment: &BTreeMap<String, String>) -> HostClients {
    let host = Host { workspace, environment, asker: ask::Asker::new(cache, environment, workspace) };
    let mut clients = HostClients::default();
    for set in sets {
        match set {
            SetName::Npm => clients.npm = npm::gather(&host),
            SetName::Pip => clients.pip = pip::gather(&host),
            SetName::Cargo => clients.cargo = cargo::gather(&host),
            SetName::Apt => clients.apt = apt::gather(&host),
            SetName::Git => clients.git = git::gather(&host),
        }
    }
    clients
}

/// Where the clients' settings are looked for.
struct Host<'a> {
    workspace: &'a Path,
    environment: &'a BTreeMap<String, String>,
    asker: ask::Asker<'a>,
}

impl Host<'_> {
    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A path in the home directory.
    fn home(&self, path: &str) -> Option<PathBuf> {
        self.variable("HOME").map(|home| Path::new(home).join(path))
    }

    /// A path in the user's configuration directory (XDG Base Directory Specification).
    fn user_config(&self, path: &str) -> Option<PathBuf> {
        let directory = self.variable("XDG_CONFIG_HOME").filter(|path| path.starts_with('/')).map(PathBuf::from);
        Some(directory.or_else(|| self.home(".config"))?.join(path))
    }

    /// Whether the file is of the project, and so can come from a stranger or from inside.
    fn of_project(&self, path: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        path.starts_with(self.workspace) || real(path).starts_with(real(self.workspace))
    }

    /// A configuration file, if it is there.
    fn file(&self, path: PathBuf) -> Option<ConfigFile> {
        let text = config::read(&path)?;
        Some(ConfigFile { project: self.of_project(&path), path, text })
    }
}
