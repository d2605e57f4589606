//! What one place asks for, and how places are laid over each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use viv_image::{ImageSource, Package, Platform};
use viv_net::gateway::{Budget, Credential};
use viv_sandbox::{AccelChoice, KernelChoice, Publish, Recording, TemplateUse, VmmChoice, WorkspaceMode};

use super::network::{NetworkChoice, PriceSettings, UpstreamSettings};
use super::values::Size;

/// Where a setting was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Built in.
    Default,
    /// The preset of the agent that is run.
    Preset,
    /// The user's own configuration file.
    UserConfig,
    /// The project's `devcontainer.json`.
    DevContainer,
    /// `viv.toml` in the workspace.
    Project,
    /// A flag.
    CommandLine,
}

impl Origin {
    /// For people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Preset => "agent's preset",
            Self::UserConfig => "user configuration",
            Self::DevContainer => "devcontainer.json",
            Self::Project => "viv.toml",
            Self::CommandLine => "command line",
        }
    }
}

/// A variable's value, or the wish to copy it from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvironmentValue {
    /// This value.
    Literal(String),
    /// The host's value, if it has one.
    FromHost,
}

/// A share, its source absolute but not yet looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// The host's side.
    pub source: PathBuf,
    /// The guest's side; none for the same path as the source.
    pub destination: Option<String>,
    /// Whether the guest may write.
    pub read_only: bool,
}

/// A value and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// Where it was found.
    pub origin: Origin,
}

/// What one place, or several laid over each other, asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layer {
    /// Virtual CPUs.
    pub cpus: Option<Found<u32>>,
    /// Memory.
    pub memory: Option<Found<Size>>,
    /// Cap of the scratch disk.
    pub disk: Option<Found<Size>>,
    /// Environment variables.
    pub env: BTreeMap<String, Found<EnvironmentValue>>,
    /// Further shares, the weakest first.
    pub mounts: Vec<Found<MountRequest>>,
    /// How it works on the workspace.
    pub workspace_mode: Option<Found<WorkspaceMode>>,
    /// Whether a copy of it has what git does not track.
    pub untracked: Option<Found<bool>>,
    /// Whether a copy of it has what is not committed.
    pub uncommitted: Option<Found<bool>>,
    /// What of a live workspace it may not change, relative to that.
    pub protect: Vec<Found<PathBuf>>,
    /// Whether it is kept from changing what git on the host would run.
    pub git_guard: Option<Found<bool>>,
    /// Directory inside to start in.
    pub workdir: Option<Found<String>>,
    /// User inside to run as.
    pub user: Option<Found<String>>,
    /// Time for the program.
    pub timeout: Option<Found<Duration>>,
    /// Virtual machine monitor.
    pub vmm: Option<Found<VmmChoice>>,
    /// Acceleration.
    pub accel: Option<Found<AccelChoice>>,
    /// Kernel, absolute.
    pub kernel: Option<Found<KernelChoice>>,
    /// Root image, its path absolute.
    pub image: Option<Found<ImageSource>>,
    /// Which of the root image's builds.
    pub platform: Option<Found<Platform>>,
    /// Packages over it, the weakest first.
    pub packages: Vec<Found<Package>>,
    /// The flake whose development shell it runs in.
    pub flake: Option<Found<String>>,
    /// Whether it sees the whole store of nix.
    pub nix_store: Option<Found<bool>>,
    /// Whether the project's devcontainer.json counts, and which.
    pub devcontainer: Option<Found<DevContainerChoice>>,
    /// What images may take of the disk.
    pub cache_limit: Option<Found<Size>>,
    /// What to do with templates.
    pub template: Option<Found<TemplateUse>>,
    /// Machines kept ready.
    pub spares: Option<Found<u32>>,
    /// What of the programs' output is recorded.
    pub recording: Option<Found<Recording>>,
    /// Name.
    pub name: Option<Found<String>>,
    /// Labels.
    pub labels: BTreeMap<String, Found<String>>,
    /// Which way it reaches others.
    pub net: Option<Found<NetworkChoice>>,
    /// What it may connect to: rules, and names of sets after an `@`.
    pub allow: Vec<Found<String>>,
    /// What it may not.
    pub deny: Vec<Found<String>>,
    /// Model APIs it may call, by name.
    pub gateway: Vec<Found<String>>,
    /// What may be spent there.
    pub budget: Option<Found<Budget>>,
    /// Ports of it that the host shows.
    pub publish: Vec<Found<Publish>>,
    /// Secrets for it, by name.
    pub secrets: BTreeMap<String, Found<SecretSetting>>,
    /// Where the servers of named sandboxes answer; 0 for nowhere.
    pub localhost_port: Option<Found<u16>>,
    /// Whether it may use the host's SSH agent.
    pub ssh_agent: Option<Found<bool>>,
    /// Further certificate authorities, absolute.
    pub trust: Vec<Found<PathBuf>>,
    /// Model APIs as the user's file describes them.
    pub upstreams: BTreeMap<String, UpstreamSettings>,
    /// Prices by the beginning of a model's name.
    pub prices: BTreeMap<String, PriceSettings>,
}

/// Whether a project's devcontainer.json counts, and which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevContainerChoice {
    /// None.
    Off,
    /// `.devcontainer/devcontainer.json` or `.devcontainer.json`.
    Default,
    /// `.devcontainer/NAME/devcontainer.json`.
    Named(String),
}

/// A secret for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSetting {
    /// Where it comes from.
    pub source: Credential,
    /// Whether the program also gets it as an environment variable.
    pub in_environment: bool,
}

/// A project does not get at files that its user keeps from copies.
fn unless_kept_away(stronger: Option<Found<bool>>, weaker: Option<Found<bool>>) -> Option<Found<bool>> {
    match (stronger, weaker) {
        (Some(Found { value: true, origin: Origin::Project }), Some(users @ Found { value: false, .. })) => Some(users),
        (stronger, weaker) => stronger.or(weaker),
    }
}

impl Layer {
    /// This layer over a weaker one. Variables and labels are merged one by one; shares add up.
    #[must_use]
    pub fn over(self, weaker: Self) -> Self {
        Self {
            cpus: self.cpus.or(weaker.cpus),
            memory: self.memory.or(weaker.memory),
            disk: self.disk.or(weaker.disk),
            env: weaker.env.into_iter().chain(self.env).collect(),
            mounts: weaker.mounts.into_iter().chain(self.mounts).collect(),
            workspace_mode: match (self.workspace_mode, weaker.workspace_mode) {
                // A project does not get at a directory that its user keeps guests away from.
                (Some(Found { value: WorkspaceMode::Live, origin: Origin::Project }), Some(users)) => Some(users),
                (stronger, weaker) => stronger.or(weaker),
            },
            untracked: unless_kept_away(self.untracked, weaker.untracked),
            uncommitted: unless_kept_away(self.uncommitted, weaker.uncommitted),
            protect: weaker.protect.into_iter().chain(self.protect).collect(),
            git_guard: self.git_guard.or(weaker.git_guard),
            workdir: self.workdir.or(weaker.workdir),
            user: self.user.or(weaker.user),
            timeout: self.timeout.or(weaker.timeout),
            vmm: self.vmm.or(weaker.vmm),
            accel: self.accel.or(weaker.accel),
            kernel: self.kernel.or(weaker.kernel),
            image: self.image.or(weaker.image),
            platform: self.platform.or(weaker.platform),
            packages: weaker.packages.into_iter().chain(self.packages).collect(),
            flake: self.flake.or(weaker.flake),
            nix_store: self.nix_store.or(weaker.nix_store),
            devcontainer: self.devcontainer.or(weaker.devcontainer),
            cache_limit: self.cache_limit.or(weaker.cache_limit),
            template: self.template.or(weaker.template),
            spares: self.spares.or(weaker.spares),
            recording: match (self.recording, weaker.recording) {
                // A project does not hide what its user wants to see.
                (Some(Found { value, origin: Origin::Project }), Some(users))
                    if value < users.value && users.origin != Origin::Project =>
                {
                    Some(users)
                }
                (stronger, weaker) => stronger.or(weaker),
            },
            name: self.name.or(weaker.name),
            labels: weaker.labels.into_iter().chain(self.labels).collect(),
            net: self.net.or(weaker.net),
            allow: weaker.allow.into_iter().chain(self.allow).collect(),
            deny: weaker.deny.into_iter().chain(self.deny).collect(),
            gateway: weaker.gateway.into_iter().chain(self.gateway).collect(),
            budget: self.budget.or(weaker.budget),
            publish: weaker.publish.into_iter().chain(self.publish).collect(),
            secrets: weaker.secrets.into_iter().chain(self.secrets).collect(),
            localhost_port: self.localhost_port.or(weaker.localhost_port),
            ssh_agent: self.ssh_agent.or(weaker.ssh_agent),
            trust: weaker.trust.into_iter().chain(self.trust).collect(),
            upstreams: weaker.upstreams.into_iter().chain(self.upstreams).collect(),
            prices: weaker.prices.into_iter().chain(self.prices).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_more_recorded_and_not_less() {
        let layer = |value, origin| Layer { recording: Some(Found { value, origin }), ..Layer::default() };
        let over = |project: Recording, user: Recording| {
            let layer = layer(project, Origin::Project).over(layer(user, Origin::UserConfig));
            layer.recording.unwrap().value
        };
        assert_eq!(over(Recording::All, Recording::None), Recording::All);
        assert_eq!(over(Recording::Terminals, Recording::All), Recording::All);
        let typed = layer(Recording::None, Origin::CommandLine).over(layer(Recording::All, Origin::Project));
        assert_eq!(typed.recording.unwrap().value, Recording::None);
        // What a project says of one sandbox goes over what it says of all.
        let one = layer(Recording::Terminals, Origin::Project).over(layer(Recording::All, Origin::Project));
        assert_eq!(one.recording.unwrap().value, Recording::Terminals);
    }
}
