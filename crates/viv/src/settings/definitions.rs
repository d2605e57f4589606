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

/// What a setting's value looks like in a file: the JSON schema is made of it. A text is looked at more
/// closely when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A whole number, also as a text.
    Number {
        /// The smallest.
        least: u32,
        /// The largest.
        most: u32,
    },
    /// A number of bytes with its unit, as text.
    Size,
    /// A number of seconds, or a text such as `1h30m`.
    Duration,
    /// True or false.
    Truth,
    /// True or false, or a text.
    TruthOrText,
    /// An array of texts.
    Texts,
    /// Texts by name.
    TextTable,
    /// Texts or whole numbers by name.
    Scalars,
    /// An array of shares, each a text or a table.
    Mounts,
    /// An array of commands, each a text or an array of texts.
    Commands,
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
    /// What such a value looks like.
    pub shape: Shape,
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
        default: "Debian trixie with development tools", example: "\"oci:registry.example.com/team/tools:3\"",
        shape: Shape::Text, project: ProjectRule::BeneathWorkspace,
    };
    IMAGE_PACKAGES = Setting {
        key: "packages", flag: "--package", help: "Packages over it, as --package takes them; `packages` in [run] is the same",
        default: "none", example: "[\"ripgrep\", \"npm:prettier\"]",
        shape: Shape::Texts, project: ProjectRule::Allowed,
    };
    DEVCONTAINER = Setting {
        key: "devcontainer", flag: "--devcontainer", help: "Take image, environment and set-up commands from the project's devcontainer.json: true, false, or NAME for .devcontainer/NAME/devcontainer.json",
        default: "false", example: "true",
        shape: Shape::TruthOrText, project: ProjectRule::Allowed,
    };
    CACHE_LIMIT = Setting {
        key: "cache-limit", flag: "-", help: "What images, layers and what they are made from may take of the disk; what was not used for longest goes first, after a build",
        default: "20G", example: "\"40G\"",
        shape: Shape::Size, project: ProjectRule::UserOnly,
    };
}

settings! {
    ALL: "Every setting of the section `[run]`, in the order of the reference.";
    CPUS = Setting {
        key: "cpus", flag: "--cpus", help: "Virtual CPUs",
        default: "2, or fewer if the host has fewer", example: "4",
        shape: Shape::Number { least: 1, most: MAXIMUM_CPUS }, project: ProjectRule::Allowed,
    };
    MEMORY = Setting {
        key: "memory", flag: "--memory", help: "Memory, such as 512M or 4G",
        default: "2G", example: "\"4G\"",
        shape: Shape::Size, project: ProjectRule::Allowed,
    };
    DISK = Setting {
        key: "disk", flag: "--disk", help: "Cap on what the sandbox writes outside its shares, such as 40G; it is thrown away afterwards",
        default: "20G", example: "\"40G\"",
        shape: Shape::Size, project: ProjectRule::Allowed,
    };
    ENV = Setting {
        key: "env", flag: "--env KEY=VALUE", help: "Environment variables of the program",
        default: "none", example: "{ RUST_BACKTRACE = \"1\" }",
        shape: Shape::Scalars, project: ProjectRule::Allowed,
    };
    ENV_FROM_HOST = Setting {
        key: "env-from-host", flag: "--env KEY", help: "Environment variables copied from the host, by name",
        default: "none", example: "[\"EDITOR\"]",
        shape: Shape::Texts, project: ProjectRule::Refused,
    };
    MOUNTS = Setting {
        key: "mounts", flag: "--mount", help: "Further host directories or files to share: SOURCE[:DESTINATION][:ro]",
        default: "none", example: "[\"~/data:/data:ro\"]",
        shape: Shape::Mounts, project: ProjectRule::BeneathWorkspace,
    };
    WORKSPACE_MODE = Setting {
        key: "workspace-mode", flag: "--workspace live|clone", help: "Work on the workspace itself (live), or on a copy inside from which you take what you accept (clone)",
        default: "live", example: "\"clone\"",
        shape: Shape::OneOf(&["live", "clone"]), project: ProjectRule::Allowed,
    };
    UNTRACKED = Setting {
        key: "untracked", flag: "--untracked yes|no", help: "Whether a copy of the workspace has files that git does not track",
        default: "true", example: "false",
        shape: Shape::Truth, project: ProjectRule::Allowed,
    };
    UNCOMMITTED = Setting {
        key: "uncommitted", flag: "--uncommitted yes|no", help: "Whether a copy of the workspace has changes that are not committed, or begins with the commit that is checked out",
        default: "true", example: "false",
        shape: Shape::Truth, project: ProjectRule::Allowed,
    };
    PROTECT = Setting {
        key: "protect", flag: "--protect", help: "Paths of a live workspace that are read-only inside, relative to it; what is not there cannot be made either",
        default: "none", example: "[\".envrc\", \".vscode\"]",
        shape: Shape::Texts, project: ProjectRule::Allowed,
    };
    GIT_GUARD = Setting {
        key: "git-guard", flag: "--no-git-guard", help: "Keep the sandbox from changing what git on this host would run: hooks and configuration of every repository in what it may write",
        default: "true", example: "false",
        shape: Shape::Truth, project: ProjectRule::UserOnly,
    };
    WORKDIR = Setting {
        key: "workdir", flag: "--workdir", help: "Directory inside to start in, absolute or relative to the workspace",
        default: "the workspace, or the image's own for its own program", example: "\"packages/api\"",
        shape: Shape::Text, project: ProjectRule::Allowed,
    };
    USER = Setting {
        key: "user", flag: "--user", help: "User inside to run as: NAME, UID, NAME:GROUP or UID:GID",
        default: "the image's own, else agent", example: "\"root\"",
        shape: Shape::Text, project: ProjectRule::Allowed,
    };
    TIMEOUT = Setting {
        key: "timeout", flag: "--timeout", help: "Kill the program after this long, such as 90s, 5m or 1h30m; the exit code is then 124",
        default: "none", example: "\"30m\"",
        shape: Shape::Duration, project: ProjectRule::Allowed,
    };
    VMM = Setting {
        key: "vmm", flag: "--vmm", help: "Virtual machine monitor: qemu",
        default: "qemu", example: "\"qemu\"",
        shape: Shape::OneOf(&["qemu"]), project: ProjectRule::Allowed,
    };
    ACCEL = Setting {
        key: "accel", flag: "--accel", help: "Acceleration: kvm, tcg (emulation), or auto, which is kvm where it can be opened",
        default: "auto", example: "\"kvm\"",
        shape: Shape::OneOf(&["auto", "kvm", "tcg"]), project: ProjectRule::Allowed,
    };
    KERNEL = Setting {
        key: "kernel", flag: "--kernel", help: "Another kernel: `debian`, `own` (see `viv kernel`), a vmlinux with a PVH entry, or a bzImage",
        default: "the one chosen with `viv kernel use`, else Debian's", example: "\"/srv/vmlinux\"",
        shape: Shape::Text, project: ProjectRule::BeneathWorkspace,
    };
    IMAGE = Setting {
        key: "image", flag: "--image", help: "Another root file system: oci:REFERENCE, oci-archive:FILE, docker-daemon:REFERENCE, dir:PATH, tar:FILE, erofs:FILE or name:NAME",
        default: "Debian trixie with development tools", example: "\"/srv/root.erofs\"",
        shape: Shape::Text, project: ProjectRule::BeneathWorkspace,
    };
    PLATFORM = Setting {
        key: "platform", flag: "--platform", help: "Which of an OCI image's builds is taken: OS/ARCHITECTURE[/VARIANT]. Only what this host's processor runs can be started",
        default: "linux on this host's architecture", example: "\"linux/arm64\"",
        shape: Shape::Text, project: ProjectRule::Allowed,
    };
    PACKAGES = Setting {
        key: "packages", flag: "--package", help: "Packages to have inside: NAME of the image's own manager (apt in Debian), npm:NAME, pip:NAME, cargo:NAME or nix:NAME, each with @VERSION if need be",
        default: "none", example: "[\"ripgrep\", \"npm:prettier\"]",
        shape: Shape::Texts, project: ProjectRule::Allowed,
    };
    FLAKE = Setting {
        key: "flake", flag: "--flake", help: "Run in the development shell of a nix flake, which this host's nix evaluates: REFERENCE[#SHELL]",
        default: "none", example: "\"/srv/shells#rust\"",
        shape: Shape::Text, project: ProjectRule::UserOnly,
    };
    NIX_STORE = Setting {
        key: "nix-store", flag: "--nix-store", help: "Share all of this host's /nix/store, and not only what is needed of it",
        default: "false", example: "true",
        shape: Shape::Truth, project: ProjectRule::Refused,
    };
    TEMPLATE = Setting {
        key: "template", flag: "--template", help: "Start from a template: auto (a missing one is made in the background), use (if there is one), or never",
        default: "auto", example: "\"use\"",
        shape: Shape::OneOf(&["auto", "use", "never"]), project: ProjectRule::Allowed,
    };
    SPARES = Setting {
        key: "spares", flag: "--spares", help: "Restored, paused machines kept ready for the next starts like this one; each takes memory",
        default: "0", example: "2",
        shape: Shape::Number { least: 0, most: MAXIMUM_SPARES }, project: ProjectRule::UserOnly,
    };
    NET = Setting {
        key: "net", flag: "--net", help: "Network: none; filtered, by policy and without a device; nat; or bridge[:NAME], which needs root",
        default: "filtered", example: "\"none\"",
        shape: Shape::Text, project: ProjectRule::Trusted,
    };
    ALLOW = Setting {
        key: "allow", flag: "--allow", help: "What may be connected to: HOST[:PORT], *.HOST[:PORT], CIDR[:PORT], or what this host's own clients use: @npm, @pip, @cargo, @apt, @git",
        default: "none", example: "[\"@npm\", \"*.example.com:443\"]",
        shape: Shape::Texts, project: ProjectRule::Trusted,
    };
    DENY = Setting {
        key: "deny", flag: "--deny", help: "What may not be connected to, whatever else is allowed: HOST[:PORT], *.HOST[:PORT] or CIDR[:PORT]",
        default: "none", example: "[\"tracker.example.com\"]",
        shape: Shape::Texts, project: ProjectRule::Allowed,
    };
    GATEWAY = Setting {
        key: "gateway", flag: "--gateway", help: "Model APIs to call with the host's keys, which stay outside: anthropic, openai, gemini, or one of your [gateway.NAME]",
        default: "none", example: "[\"anthropic\"]",
        shape: Shape::Texts, project: ProjectRule::UserOnly,
    };
    BUDGET = Setting {
        key: "budget", flag: "--budget", help: "The most that may be spent at model APIs, such as 5usd, 200k-tokens or 100-requests; several with commas",
        default: "none", example: "\"5usd\"",
        shape: Shape::Text, project: ProjectRule::UserOnly,
    };
    PUBLISH = Setting {
        key: "publish", flag: "--publish", help: "Show a port of the sandbox: [[ADDRESS:]HOST_PORT:]PORT, on the loopback interface unless an address is given",
        default: "none", example: "[\"3000:8080\"]",
        shape: Shape::Texts, project: ProjectRule::UserOnly,
    };
    SECRETS = Setting {
        key: "secrets", flag: "--secret", help: "Put a secret into /run/secrets: NAME[=SOURCE], a source being env:NAME (the default), file:PATH or command:PROGRAM ARGUMENTS",
        default: "none", example: "{ DEPLOY_TOKEN = \"file:~/.token\" }",
        shape: Shape::TextTable, project: ProjectRule::Refused,
    };
    SSH_AGENT = Setting {
        key: "ssh-agent", flag: "--ssh-agent", help: "Let the sandbox use this host's SSH agent",
        default: "false", example: "true",
        shape: Shape::Truth, project: ProjectRule::UserOnly,
    };
    LOCALHOST_PORT = Setting {
        key: "localhost-port", flag: "--localhost-port", help: "Port of http://NAME.localhost:PORT, where the servers of all named sandboxes answer; 0 for none",
        default: "7080", example: "8000",
        shape: Shape::Number { least: 0, most: 65535 }, project: ProjectRule::UserOnly,
    };
    TRUST = Setting {
        key: "trust", flag: "--trust", help: "A PEM file with further certificate authorities to trust inside, besides this host's",
        default: "none", example: "[\"/srv/ca.pem\"]",
        shape: Shape::Texts, project: ProjectRule::BeneathWorkspace,
    };
    RECORD = Setting {
        key: "record", flag: "--record", help: "What to record of the programs' output, for `viv logs`: none, terminals or all; a project's file can only ask for more than you do",
        default: "terminals; with --ci: all", example: "\"all\"",
        shape: Shape::OneOf(&["none", "terminals", "all"]), project: ProjectRule::Allowed,
    };
    NAME = Setting {
        key: "name", flag: "--name", help: "Name of the sandbox, for `viv ps` and `viv exec`, and its host name",
        default: "none", example: "\"review\"",
        shape: Shape::Text, project: ProjectRule::Allowed,
    };
    LABELS = Setting {
        key: "labels", flag: "--label", help: "Labels shown by `viv ps --json`",
        default: "none", example: "{ team = \"core\" }",
        shape: Shape::Scalars, project: ProjectRule::Allowed,
    };
}

settings! {
    IN_SANDBOX: "What only the sections of one sandbox have, `[sandbox]` and `[sandboxes.NAME]`, in the order of the reference.";
    WORKSPACE = Setting {
        key: "workspace", flag: "-", help: "The directory it works on; in your own config.toml, for [sandboxes.NAME]",
        default: "the directory of viv.toml", example: "\"~/src/project\"",
        shape: Shape::Text, project: ProjectRule::UserOnly,
    };
    AGENT = Setting {
        key: "agent", flag: "-", help: "The agent it is for, with its packages and model API; see `viv agent ls`",
        default: "none", example: "\"claude\"",
        shape: Shape::Text, project: ProjectRule::Trusted,
    };
    PERSIST = Setting {
        key: "persist", flag: "-", help: "Keep what it wrote outside its shares when it is stopped",
        default: "false", example: "true",
        shape: Shape::Truth, project: ProjectRule::Allowed,
    };
    AUTOSTART = Setting {
        key: "autostart", flag: "-", help: "Start it when you log in, or when the host starts",
        default: "false", example: "true",
        shape: Shape::Truth, project: ProjectRule::Trusted,
    };
    ON_CREATE = Setting {
        key: "on-create", flag: "-", help: "Commands to run inside once, when it has been made: each a text for the shell, or an array of words",
        default: "none", example: "[\"npm ci\"]",
        shape: Shape::Commands, project: ProjectRule::Allowed,
    };
    ON_START = Setting {
        key: "on-start", flag: "-", help: "Commands to run inside after each start",
        default: "none", example: "[[\"docker\", \"compose\", \"up\", \"-d\"]]",
        shape: Shape::Commands, project: ProjectRule::Allowed,
    };
}

/// What may stand in both kinds of sections of a sandbox, after the one key that they do not have in common.
macro_rules! of_sandbox {
    ($first:ident) => {
        &[
            &$first,
            &AGENT,
            &FROM,
            &IMAGE,
            &PLATFORM,
            &PACKAGES,
            &DEVCONTAINER,
            &FLAKE,
            &NIX_STORE,
            &CPUS,
            &MEMORY,
            &DISK,
            &PERSIST,
            &AUTOSTART,
            &ON_CREATE,
            &ON_START,
            &WORKSPACE_MODE,
            &UNTRACKED,
            &UNCOMMITTED,
            &PROTECT,
            &GIT_GUARD,
            &MOUNTS,
            &NET,
            &ALLOW,
            &DENY,
            &GATEWAY,
            &BUDGET,
            &PUBLISH,
            &SECRETS,
            &SSH_AGENT,
            &LOCALHOST_PORT,
            &TRUST,
            &ENV,
            &ENV_FROM_HOST,
            &WORKDIR,
            &USER,
            &LABELS,
            &RECORD,
            &VMM,
            &ACCEL,
            &KERNEL,
            &TEMPLATE,
        ]
    };
}

/// What may stand in `[sandbox]`: what is of use to a machine that stays.
pub const OF_OWN_SANDBOX: &[&Setting] = of_sandbox!(NAME);

/// What may stand in `[sandboxes.NAME]`: its name is in its title.
pub const OF_NAMED_SANDBOX: &[&Setting] = of_sandbox!(WORKSPACE);

/// What is for one program or for the host as a whole, and so not of one sandbox.
#[cfg(test)]
const NOT_OF_ONE_SANDBOX: &[&Setting] = &[&TIMEOUT, &SPARES, &CACHE_LIMIT];

/// Options of `viv run` that no configuration file may set.
pub const COMMAND_LINE_ONLY: &[&str] = &[
    "i-know",
    "no-review",
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
    "attempts",
    "check",
    "jobs",
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
    fn every_setting_is_of_one_sandbox_or_not() {
        let twice = |list: &[&Setting], key| list.iter().filter(|setting| setting.key == key).count();
        for setting in ALL.iter().chain(IN_IMAGE).chain(IN_SANDBOX) {
            let (own, named) = (twice(OF_OWN_SANDBOX, setting.key), twice(OF_NAMED_SANDBOX, setting.key));
            let expected = match setting.key {
                "name" => (1, 0),
                "workspace" => (0, 1),
                key if find_in(NOT_OF_ONE_SANDBOX, key).is_some() => (0, 0),
                _ => (1, 1),
            };
            assert_eq!((own, named), expected, "{}", setting.key);
        }
    }

    #[test]
    fn default_cpus_is_two_where_there_are_two() {
        assert_eq!([0, 1, 2, 64].map(default_cpus), [1, 1, 2, 2]);
    }
}
