//! The one list of settings: help texts, configuration keys and the reference all come from it.

use super::values::Size;

/// Memory of a sandbox unless asked otherwise.
pub const DEFAULT_MEMORY: Size = Size(2 << 30);

/// Cap on what a sandbox may write to its own disk unless asked otherwise.
pub const DEFAULT_DISK: Size = Size(20 << 30);

/// The most virtual CPUs a sandbox may have.
pub const MAXIMUM_CPUS: u32 = 64;

/// The most machines that are kept ready.
pub const MAXIMUM_SPARES: u32 = 64;

/// What images, layers and what they are made from may take of the disk unless asked otherwise.
pub const DEFAULT_CACHE_LIMIT: Size = Size(20 << 30);

/// Where the servers of named sandboxes answer unless asked otherwise.
pub const DEFAULT_LOCALHOST_PORT: u16 = 7080;

/// Virtual CPUs of a sandbox unless asked otherwise: more of them make the boot slower.
#[must_use]
pub fn default_cpus(host_cpus: u32) -> u32 {
    host_cpus.clamp(1, 2)
}

/// What `viv.toml`, which may come from a hostile repository, may do with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectRule {
    /// It changes the sandbox only.
    Allowed,
    /// It names paths of the host: only those beneath the workspace, which the guest sees anyway.
    BeneathWorkspace,
    /// It would show the guest something of the host: command line and user configuration only.
    Refused,
    /// It takes something of the host's: command line and user configuration only.
    UserOnly,
    /// It would let the sandbox reach more: only what the user has trusted with `viv net trust`.
    Trusted,
}

impl ProjectRule {
    /// For the reference.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Allowed => "yes",
            Self::BeneathWorkspace => "only paths beneath the workspace",
            Self::Refused | Self::UserOnly => "no",
            Self::Trusted => "once trusted, see `viv net trust`",
        }
    }
}

impl Setting {
    /// The help of its flag.
    #[must_use]
    pub fn help_of_flag(&self) -> String {
        match self.default {
            "none" => self.help.to_owned(),
            default => format!("{} [default: {default}]", self.help),
        }
    }
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The key in its section.
    pub key: &'static str,
    /// The flag on the command line; `-` if there is none.
    pub flag: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// The default, in words.
    pub default: &'static str,
    /// A value as it is written in a configuration file.
    pub example: &'static str,
    /// What `viv.toml` may do with it.
    pub project: ProjectRule,
}

macro_rules! settings {
    ($all:ident: $what:literal; $($name:ident = $setting:expr;)*) => {
        $(#[doc = "The setting of this name."] pub const $name: Setting = $setting;)*
        #[doc = $what]
        pub const $all: &[&Setting] = &[$(&$name),*];
    };
}

settings! {
    IN_IMAGE: "Every setting of the section `[image]`, in the order of the reference.";
    FROM = Setting {
        key: "from", flag: "--image", help: "The root file system, as --image takes it; `image` in [run] is the same",
        default: "Debian trixie with development tools", example: "\"oci:registry.example.com/team/tools:3\"", project: ProjectRule::BeneathWorkspace,
    };
    IMAGE_PACKAGES = Setting {
        key: "packages", flag: "--package", help: "Packages over it, as --package takes them; `packages` in [run] is the same",
        default: "none", example: "[\"ripgrep\", \"npm:prettier\"]", project: ProjectRule::Allowed,
    };
    DEVCONTAINER = Setting {
        key: "devcontainer", flag: "--devcontainer", help: "Take image, environment and set-up commands from the project's devcontainer.json: true, false, or NAME for .devcontainer/NAME/devcontainer.json",
        default: "false", example: "true", project: ProjectRule::Allowed,
    };
    CACHE_LIMIT = Setting {
        key: "cache-limit", flag: "-", help: "What images, layers and what they are made from may take of the disk; what was not used for longest goes first, after a build",
        default: "20G", example: "\"40G\"", project: ProjectRule::UserOnly,
    };
}

settings! {
    ALL: "Every setting of the section `[run]`, in the order of the reference.";
    CPUS = Setting {
        key: "cpus", flag: "--cpus", help: "Virtual CPUs",
        default: "2, or fewer if the host has fewer", example: "4", project: ProjectRule::Allowed,
    };
    MEMORY = Setting {
        key: "memory", flag: "--memory", help: "Memory, such as 512M or 4G",
        default: "2G", example: "\"4G\"", project: ProjectRule::Allowed,
    };
    DISK = Setting {
        key: "disk", flag: "--disk", help: "Cap on what the sandbox writes outside its shares, such as 40G; it is thrown away afterwards",
        default: "20G", example: "\"40G\"", project: ProjectRule::Allowed,
    };
    ENV = Setting {
        key: "env", flag: "--env KEY=VALUE", help: "Environment variables of the program",
        default: "none", example: "{ RUST_BACKTRACE = \"1\" }", project: ProjectRule::Allowed,
    };
    ENV_FROM_HOST = Setting {
        key: "env-from-host", flag: "--env KEY", help: "Environment variables copied from the host, by name",
        default: "none", example: "[\"EDITOR\"]", project: ProjectRule::Refused,
    };
    MOUNTS = Setting {
        key: "mounts", flag: "--mount", help: "Further host directories or files to share: SOURCE[:DESTINATION][:ro]",
        default: "none", example: "[\"~/data:/data:ro\"]", project: ProjectRule::BeneathWorkspace,
    };
    WORKDIR = Setting {
        key: "workdir", flag: "--workdir", help: "Directory inside to start in, absolute or relative to the workspace",
        default: "the workspace, or the image's own for its own program", example: "\"packages/api\"", project: ProjectRule::Allowed,
    };
    USER = Setting {
        key: "user", flag: "--user", help: "User inside to run as: NAME, UID, NAME:GROUP or UID:GID",
        default: "the image's own, else agent", example: "\"root\"", project: ProjectRule::Allowed,
    };
    TIMEOUT = Setting {
        key: "timeout", flag: "--timeout", help: "Kill the program after this long, such as 90s, 5m or 1h30m; the exit code is then 124",
        default: "none", example: "\"30m\"", project: ProjectRule::Allowed,
    };
    VMM = Setting {
        key: "vmm", flag: "--vmm", help: "Virtual machine monitor: qemu",
        default: "qemu", example: "\"qemu\"", project: ProjectRule::Allowed,
    };
    ACCEL = Setting {
        key: "accel", flag: "--accel", help: "Acceleration: kvm, tcg (emulation), or auto, which is kvm where it can be opened",
        default: "auto", example: "\"kvm\"", project: ProjectRule::Allowed,
    };
    KERNEL = Setting {
        key: "kernel", flag: "--kernel", help: "Another kernel: `debian`, `own` (see `viv kernel`), a vmlinux with a PVH entry, or a bzImage",
        default: "the one chosen with `viv kernel use`, else Debian's", example: "\"/srv/vmlinux\"", project: ProjectRule::BeneathWorkspace,
    };
    IMAGE = Setting {
        key: "image", flag: "--image", help: "Another root file system: oci:REFERENCE, oci-archive:FILE, docker-daemon:REFERENCE, dir:PATH, tar:FILE, erofs:FILE or name:NAME",
        default: "Debian trixie with development tools", example: "\"/srv/root.erofs\"", project: ProjectRule::BeneathWorkspace,
    };
    PLATFORM = Setting {
        key: "platform", flag: "--platform", help: "Which of an OCI image's builds is taken: OS/ARCHITECTURE[/VARIANT]. Only what this host's processor runs can be started",
        default: "linux on this host's architecture", example: "\"linux/arm64\"", project: ProjectRule::Allowed,
    };
    PACKAGES = Setting {
        key: "packages", flag: "--package", help: "Packages to have inside: NAME of the image's own manager (apt in Debian), npm:NAME, pip:NAME, cargo:NAME or nix:NAME, each with @VERSION if need be",
        default: "none", example: "[\"ripgrep\", \"npm:prettier\"]", project: ProjectRule::Allowed,
    };
    FLAKE = Setting {
        key: "flake", flag: "--flake", help: "Run in the development shell of a nix flake, which this host's nix evaluates: REFERENCE[#SHELL]",
        default: "none", example: "\"/srv/shells#rust\"", project: ProjectRule::UserOnly,
    };
    NIX_STORE = Setting {
        key: "nix-store", flag: "--nix-store", help: "Share all of this host's /nix/store, and not only what is needed of it",
        default: "false", example: "true", project: ProjectRule::Refused,
    };
    TEMPLATE = Setting {
        key: "template", flag: "--template", help: "Start from a template: auto (a missing one is made in the background), use (if there is one), or never",
        default: "auto", example: "\"use\"", project: ProjectRule::Allowed,
    };
    SPARES = Setting {
        key: "spares", flag: "--spares", help: "Restored, paused machines kept ready for the next starts like this one; each takes memory",
        default: "0", example: "2", project: ProjectRule::UserOnly,
    };
    NET = Setting {
        key: "net", flag: "--net", help: "Network: none; filtered, by policy and without a device; nat; or bridge[:NAME], which needs root",
        default: "filtered", example: "\"none\"", project: ProjectRule::Trusted,
    };
    ALLOW = Setting {
        key: "allow", flag: "--allow", help: "What may be connected to: HOST[:PORT], *.HOST[:PORT], CIDR[:PORT], or what this host's own clients use: @npm, @pip, @cargo, @apt, @git",
        default: "none", example: "[\"@npm\", \"*.example.com:443\"]", project: ProjectRule::Trusted,
    };
    DENY = Setting {
        key: "deny", flag: "--deny", help: "What may not be connected to, whatever else is allowed: HOST[:PORT], *.HOST[:PORT] or CIDR[:PORT]",
        default: "none", example: "[\"tracker.example.com\"]", project: ProjectRule::Allowed,
    };
    GATEWAY = Setting {
        key: "gateway", flag: "--gateway", help: "Model APIs to call with the host's keys, which stay outside: anthropic, openai, gemini, or one of your [gateway.NAME]",
        default: "none", example: "[\"anthropic\"]", project: ProjectRule::UserOnly,
    };
    BUDGET = Setting {
        key: "budget", flag: "--budget", help: "The most that may be spent at model APIs, such as 5usd, 200k-tokens or 100-requests; several with commas",
        default: "none", example: "\"5usd\"", project: ProjectRule::UserOnly,
    };
    PUBLISH = Setting {
        key: "publish", flag: "--publish", help: "Show a port of the sandbox: [[ADDRESS:]HOST_PORT:]PORT, on the loopback interface unless an address is given",
        default: "none", example: "[\"3000:8080\"]", project: ProjectRule::UserOnly,
    };
    SECRETS = Setting {
        key: "secrets", flag: "--secret", help: "Put a secret into /run/secrets: NAME[=SOURCE], a source being env:NAME (the default), file:PATH or command:PROGRAM ARGUMENTS",
        default: "none", example: "{ DEPLOY_TOKEN = \"file:~/.token\" }", project: ProjectRule::Refused,
    };
    SSH_AGENT = Setting {
        key: "ssh-agent", flag: "--ssh-agent", help: "Let the sandbox use this host's SSH agent",
        default: "false", example: "true", project: ProjectRule::UserOnly,
    };
    LOCALHOST_PORT = Setting {
        key: "localhost-port", flag: "--localhost-port", help: "Port of http://NAME.localhost:PORT, where the servers of all named sandboxes answer; 0 for none",
        default: "7080", example: "8000", project: ProjectRule::UserOnly,
    };
    TRUST = Setting {
        key: "trust", flag: "--trust", help: "A PEM file with further certificate authorities to trust inside, besides this host's",
        default: "none", example: "[\"/srv/ca.pem\"]", project: ProjectRule::BeneathWorkspace,
    };
    NAME = Setting {
        key: "name", flag: "--name", help: "Name of the sandbox, for `viv ps` and `viv exec`, and its host name",
        default: "none", example: "\"review\"", project: ProjectRule::Allowed,
    };
    LABELS = Setting {
        key: "labels", flag: "--label", help: "Labels shown by `viv ps --json`",
        default: "none", example: "{ team = \"core\" }", project: ProjectRule::Allowed,
    };
}

/// Options of `viv run` that no configuration file may set.
pub const COMMAND_LINE_ONLY: &[&str] = &[
    "i-know",
    "no-review",
    "workspace",
    "root",
    "json",
    "quiet",
    "verbose",
    "dry-run",
    "timing",
    "cold",
    "mount",
    "label",
    "secret",
    "secret-env",
    "deploy-key",
];

/// The setting of `[run]` with this key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    find_in(ALL, key)
}

/// The setting of a section with this key.
#[must_use]
pub fn find_in(section: &[&'static Setting], key: &str) -> Option<&'static Setting> {
    section.iter().find(|setting| setting.key == key).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_found() {
        for setting in ALL {
            assert_eq!(find(setting.key).map(|found| found.flag), Some(setting.flag));
        }
    }

    #[test]
    fn default_cpus_is_two_where_there_are_two() {
        assert_eq!([0, 1, 2, 64].map(default_cpus), [1, 1, 2, 2]);
    }
}
