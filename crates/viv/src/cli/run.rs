//! `viv run` as it is typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use viv_image::{ImageSource, Package, Platform};
use viv_sandbox::{AccelChoice, KernelChoice, TemplateUse, VmmChoice};

use super::attempts::AttemptsArguments;
use super::ci::CiArguments;
use super::network::NetworkArguments;
use super::nix::NixArguments;
use super::workspace::WorkspaceArguments;
use crate::settings::definitions as d;
use crate::settings::layer::Found;
use crate::settings::values::{self, EnvironmentRequest, MountText, Size, Words};
use crate::settings::{DevContainerChoice, EnvironmentValue, Layer, MountRequest, Origin};

/// `viv run`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv run                                    a login shell in this directory
  viv run -- make test                       one command
  viv run --memory 8G --cpus 4 -- npm test   more machine
  viv run --mount ~/data:/data:ro -- ls /data
  viv run --env API_URL=http://x --env LANG -- env
  viv run --timeout 5m --json -- ./script    for programs: events and the result as JSON on stderr
  viv run --timing -- true                   where the time goes
  viv run --dry-run                          what would be run, without running it
  viv run --allow @npm -- npm install        the registry this host's npm uses, and nothing else
  viv run -p git,ripgrep,npm:prettier -- make lint
  viv run --workspace clone claude           on a copy, of which you take what you accept
  viv run --devcontainer                     as the project's devcontainer.json has it
  viv run claude                             an agent, ready to work; see `viv agent ls`
  viv run --budget 500k-tokens claude \"fix the tests\"
  viv run claude -- --resume                 flags of the agent's own
  viv run --publish 8080 -- python3 -m http.server 8080
  viv run -d --name night claude \"tidy up\"   in the background; `viv attach night` looks at it
  viv run --attempts 3 --check \"make test\" claude \"fix it\"    three sandboxes at it, compared at the end

Inside, the command is user agent with your uid, may use sudo, and sees this directory under its own
path and as /workspace; the rest of the machine is thrown away afterwards. It reaches what --allow
names and nothing else of the network; see docs/network.md.

Exit code: the command's; 124 timed out, 125 viv failed, 126 not executable, 127 not found. With
--attempts 0 if one of them succeeded, else 1.")]
pub struct RunArguments {
    /// Program and arguments, or an agent's name and what it is to do; a login shell without them
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,

    #[command(flatten)]
    pub machine: MachineArguments,
    #[arg(long, value_name = "auto|use|never", help = d::TEMPLATE.help_of_flag(), value_parser = values::parse_template, help_heading = "Machine")]
    pub template: Option<TemplateUse>,
    /// Boot the machine: the same as --template never
    #[arg(long, conflicts_with = "template", help_heading = "Machine")]
    pub cold: bool,
    #[arg(long, value_name = "NUMBER", help = d::SPARES.help_of_flag(), value_parser = values::parse_spares, help_heading = "Machine")]
    pub spares: Option<u32>,

    #[command(flatten)]
    pub workspace: WorkspaceArguments,
    #[arg(long = "mount", value_name = "SOURCE[:DEST][:ro]", help = d::MOUNTS.help_of_flag(), value_parser = values::parse_mount, help_heading = "Shares")]
    pub mounts: Vec<MountText>,
    /// Share even what viv refuses to: /, your home directory, viv's own files
    #[arg(long, help_heading = "Shares")]
    pub i_know: bool,

    /// Do not keep what the workspace has: `viv diff` and `viv undo` will know nothing of this sandbox
    #[arg(long, help_heading = "Shares")]
    pub no_review: bool,

    #[command(flatten)]
    pub network: NetworkArguments,

    #[command(flatten)]
    pub nix: NixArguments,

    /// Environment variable of the program: KEY=VALUE, or KEY to copy the host's
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = values::parse_environment, help_heading = "Program")]
    pub env: Vec<EnvironmentRequest>,
    /// What to put before the command in place of the image's entrypoint, as one text; '' for nothing
    #[arg(long, value_name = "WORDS", value_parser = values::parse_words, help_heading = "Program")]
    pub entrypoint: Option<Words>,
    #[arg(long, value_name = "DIR", help = d::WORKDIR.help_of_flag(), help_heading = "Program")]
    pub workdir: Option<String>,
    #[arg(short, long, value_name = "NAME", help = d::USER.help_of_flag(), value_parser = values::parse_user, help_heading = "Program")]
    pub user: Option<String>,
    /// Run as root inside; files on shares still belong to you
    #[arg(long, conflicts_with = "user", help_heading = "Program")]
    pub root: bool,
    #[arg(long, value_name = "DURATION", help = d::TIMEOUT.help_of_flag(), value_parser = values::parse_duration, help_heading = "Program")]
    pub timeout: Option<Duration>,

    #[arg(long, value_name = "NAME", help = d::NAME.help_of_flag(), value_parser = values::parse_name, help_heading = "Sandbox")]
    pub name: Option<String>,
    /// Label shown by `viv ps --json`; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::parse_label, help_heading = "Sandbox")]
    pub labels: Vec<(String, String)>,

    /// Start with an empty home, for an agent called by name; the old one is kept as `previous`
    #[arg(long, help_heading = "Agent")]
    pub fresh: bool,
    /// Copy your own configuration of the agent into its home, without credentials
    #[arg(long, help_heading = "Agent")]
    pub import_config: bool,

    /// Leave the sandbox to itself once the program runs, and print its id; it ends with the program
    #[arg(short, long, conflicts_with_all = ["timing", "dry_run"], help_heading = "Sandbox")]
    pub detach: bool,
    #[command(flatten)]
    pub attempts: AttemptsArguments,
    #[command(flatten)]
    pub ci: CiArguments,

    /// Report events, errors and at last the result on stderr, as one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Say at the end where the time went, on the host and inside
    #[arg(long)]
    pub timing: bool,
    /// Print what would be run, and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What the machine is made of.
#[derive(Debug, Clone, Args)]
pub struct MachineArguments {
    #[arg(long, value_name = "NUMBER", help = d::CPUS.help_of_flag(), value_parser = values::parse_cpus, help_heading = "Machine")]
    pub cpus: Option<u32>,
    #[arg(long, value_name = "SIZE", help = d::MEMORY.help_of_flag(), help_heading = "Machine")]
    pub memory: Option<Size>,
    #[arg(long, value_name = "SIZE", help = d::DISK.help_of_flag(), help_heading = "Machine")]
    pub disk: Option<Size>,
    #[arg(long, value_name = "VMM", help = d::VMM.help_of_flag(), value_parser = values::parse_vmm, help_heading = "Machine")]
    pub vmm: Option<VmmChoice>,
    #[arg(long, value_name = "auto|kvm|tcg", help = d::ACCEL.help_of_flag(), value_parser = values::parse_accel, help_heading = "Machine")]
    pub accel: Option<AccelChoice>,
    #[arg(long, value_name = "debian|own|FILE", help = d::KERNEL.help_of_flag(), help_heading = "Machine")]
    pub kernel: Option<PathBuf>,
    #[arg(long, value_name = "IMAGE", help = d::IMAGE.help_of_flag(), help_heading = "Machine")]
    pub image: Option<ImageSource>,
    #[arg(long, value_name = "PLATFORM", help = d::PLATFORM.help_of_flag(), help_heading = "Machine")]
    pub platform: Option<Platform>,
    #[arg(short, long = "package", value_name = "NAME", help = d::PACKAGES.help_of_flag(), value_parser = values::parse_package, value_delimiter = ',', num_args = 1.., help_heading = "Machine")]
    pub packages: Vec<Package>,
    #[arg(long, value_name = "NAME", help = d::DEVCONTAINER.help_of_flag(), value_parser = values::parse_devcontainer, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Machine")]
    pub devcontainer: Option<DevContainerChoice>,
}

pub(super) fn found<T>(value: T) -> Found<T> {
    Found { value, origin: Origin::CommandLine }
}

impl MachineArguments {
    /// The settings among the arguments; relative paths are meant from `directory`.
    #[must_use]
    pub fn layer(&self, directory: &Path) -> Layer {
        Layer {
            cpus: self.cpus.map(found),
            memory: self.memory.map(found),
            disk: self.disk.map(found),
            vmm: self.vmm.map(found),
            accel: self.accel.map(found),
            kernel: self.kernel.clone().map(|path| {
                found(match KernelChoice::from(path) {
                    KernelChoice::File(path) => KernelChoice::File(directory.join(path)),
                    named => named,
                })
            }),
            image: self.image.clone().map(|source| {
                let absolute = source.try_map_path(|path| Ok::<_, std::convert::Infallible>(directory.join(path)));
                found(absolute.unwrap_or_default())
            }),
            platform: self.platform.clone().map(found),
            packages: self.packages.iter().cloned().map(found).collect(),
            devcontainer: self.devcontainer.clone().map(found),
            ..Layer::default()
        }
    }
}

impl RunArguments {
    /// The settings among the arguments; relative paths are meant from `directory`.
    #[must_use]
    pub fn layer(&self, directory: &Path) -> Layer {
        let user = if self.root { Some("root".to_owned()) } else { self.user.clone() };
        let environment = |request: &EnvironmentRequest| {
            let value = match &request.value {
                Some(value) => EnvironmentValue::Literal(value.clone()),
                None => EnvironmentValue::FromHost,
            };
            (request.name.clone(), found(value))
        };
        let mount = |text: &MountText| {
            found(MountRequest {
                source: directory.join(&text.source),
                destination: text.destination.clone(),
                read_only: text.read_only,
            })
        };
        let rest = self.workspace.layer(self.nix.layer(self.machine.layer(directory)));
        Layer {
            env: self.env.iter().map(environment).collect(),
            mounts: self.mounts.iter().map(mount).collect(),
            workdir: self.workdir.clone().map(found),
            user: user.map(found),
            timeout: self.timeout.map(found),
            template: if self.cold { Some(TemplateUse::Never) } else { self.template }.map(found),
            spares: self.spares.map(found),
            recording: self.ci.record.map(found),
            name: self.name.clone().map(found),
            labels: self.labels.iter().map(|(key, value)| (key.clone(), found(value.clone()))).collect(),
            ..self.network.layer(directory, rest)
        }
    }
}
