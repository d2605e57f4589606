//! What a sandbox is to be: resolved, printable, without a default left open.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use viv_audit::Recording;
use viv_image::nix::NixEnvironment;
use viv_image::{ImageSource, Package};
use viv_proto::message::{GuestFile, User};
use viv_vmm::AccelChoice;

use crate::network::NetworkSpec;

/// Which program runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmmChoice {
    /// QEMU's microvm machine.
    #[default]
    Qemu,
}

impl std::fmt::Display for VmmChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Qemu => f.write_str("qemu"),
        }
    }
}

/// What a start may do with templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateUse {
    /// Start from one, and have a missing one made in the background.
    #[default]
    Auto,
    /// Start from one if there is one.
    Use,
    /// Always start cold.
    Never,
}

/// A host directory or file the guest sees besides the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// An absolute path on the host.
    pub source: PathBuf,
    /// An absolute path inside.
    pub destination: String,
    /// Whether the host refuses the guest's writes.
    pub read_only: bool,
    /// Whether several sandboxes write it at once, so that the guest keeps nothing of it in mind.
    #[serde(default)]
    pub coherent: bool,
}

/// Which kernel a sandbox boots. Written as the word `debian` or `own`, or as a path; a file of such a
/// name needs a path that says more (`./own`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum KernelChoice {
    /// Debian's kernel for virtual machines.
    Debian,
    /// The one that was built with `viv kernel build`.
    Own,
    /// A file of the user's.
    File(PathBuf),
}

impl From<PathBuf> for KernelChoice {
    fn from(path: PathBuf) -> Self {
        match path.to_str() {
            Some("debian") => Self::Debian,
            Some("own") => Self::Own,
            _ => Self::File(path),
        }
    }
}

impl From<KernelChoice> for PathBuf {
    fn from(choice: KernelChoice) -> Self {
        match choice {
            KernelChoice::Debian => Self::from("debian"),
            KernelChoice::Own => Self::from("own"),
            KernelChoice::File(path) => path,
        }
    }
}

impl KernelChoice {
    /// The same choice with its path, if it has one, put through `change`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map_file<E>(self, change: impl FnOnce(PathBuf) -> Result<PathBuf, E>) -> Result<Self, E> {
        match self {
            Self::File(path) => change(path).map(Self::File),
            named => Ok(named),
        }
    }
}

/// Where an agent writes down what it does, on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptPlace {
    /// Which agent.
    pub agent: String,
    /// The directory that is its user's home, as far as it is kept. The guest writes below it.
    pub home: PathBuf,
    /// Files and directories below it; a part `*` stands for any one name.
    pub paths: Vec<PathBuf>,
}

/// How a sandbox works on its workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceMode {
    /// On the host's directory itself.
    #[default]
    Live,
    /// On a private copy on its own disk, from which the host takes what it accepts.
    Clone,
}

impl WorkspaceMode {
    /// Whether this is the usual one.
    #[must_use]
    pub fn is_live(&self) -> bool {
        *self == Self::Live
    }
}

/// What a copy of the workspace has besides what is committed. Ignored files it never has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySelection {
    /// Files that git does not track.
    pub untracked: bool,
    /// What was changed of the files that git tracks; without it, they are as the commit has them that is checked out.
    pub uncommitted: bool,
}

impl Default for CopySelection {
    fn default() -> Self {
        Self { untracked: true, uncommitted: true }
    }
}

impl CopySelection {
    /// Whether this is the usual one: all of it.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

fn guarded() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_guarded(guard: &bool) -> bool {
    *guard
}

/// What a sandbox has of the host's nix.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NixSpec {
    /// The flake whose development shell programs run in: `REFERENCE[#SHELL]`.
    pub flake: Option<String>,
    /// Whether all of the host's store is to be seen, and not only what is needed of it.
    pub whole_store: bool,
    /// What these and the packages of [`viv_image::Manager::Nix`] came to; none before it was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<NixEnvironment>,
}

/// A sandbox, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// From [`new_id`].
    pub id: String,
    /// The user's name for it, unique among the running ones.
    pub name: Option<String>,
    /// The user's marks.
    pub labels: BTreeMap<String, String>,
    /// What it was started for; shown, not run.
    pub command: Vec<String>,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The most its disk may hold, in bytes.
    pub disk_bytes: u64,
    /// Which program runs the machine.
    pub vmm: VmmChoice,
    /// How its processor is run.
    pub accel: AccelChoice,
    /// A kernel instead of the preferred one.
    pub kernel: Option<KernelChoice>,
    /// A root image instead of the default one.
    pub image: Option<ImageSource>,
    /// What is installed over it.
    pub packages: Vec<Package>,
    /// What it has of the host's nix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nix: Option<NixSpec>,
    /// The directory to work in, at the same path inside and out.
    pub workspace: PathBuf,
    /// How it works on it.
    #[serde(default, skip_serializing_if = "WorkspaceMode::is_live")]
    pub workspace_mode: WorkspaceMode,
    /// What a copy of it has.
    #[serde(default, skip_serializing_if = "CopySelection::is_everything")]
    pub copied: CopySelection,
    /// What of a live workspace the guest may not change, besides git's hooks and configuration: paths
    /// relative to it. What is not there cannot be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<PathBuf>,
    /// Whether the guest is kept from changing what git on the host would run.
    #[serde(default = "guarded", skip_serializing_if = "is_guarded")]
    pub git_guard: bool,
    /// A file that holds its disk and stays when it ends, made if it is missing; without one the disk is
    /// thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_disk: Option<PathBuf>,
    /// Further shares.
    pub mounts: Vec<Mount>,
    /// The ordinary user inside.
    pub user: User,
    /// The host name inside.
    pub hostname: String,
    /// The time zone inside, as an IANA name.
    pub timezone: Option<String>,
    /// Whether it may come from a template.
    pub template: TemplateUse,
    /// How many restored, paused machines are kept ready for others like this one.
    pub spares: u32,
    /// The environment of every program inside, under what is asked for a program itself.
    pub environment: BTreeMap<String, String>,
    /// Small files inside, written before anything runs.
    pub files: Vec<GuestFile>,
    /// What it has to do with others.
    pub network: NetworkSpec,
    /// What of its programs' output is recorded.
    #[serde(default, skip_serializing_if = "Recording::is_usual")]
    pub recording: Recording,
    /// Where agents inside write down what they do; what is new of it is copied when it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transcripts: Vec<TranscriptPlace>,
    /// How long the guest may take to come up, in seconds.
    pub boot_deadline_seconds: u64,
}

impl SandboxSpec {
    /// What it is called: its name or, without one, its id. What is kept of it is kept under this.
    #[must_use]
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }
}

/// A fresh sandbox id: eight hexadecimal digits.
#[must_use]
pub fn new_id() -> String {
    hex::encode(random_bytes::<4>())
}

/// A fresh placeholder for a key, which nobody guesses: 32 hexadecimal digits.
#[must_use]
pub fn new_token() -> String {
    hex::encode(random_bytes::<16>())
}

/// Fresh bytes from the kernel's generator.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            // Interrupted; nothing else can happen to a valid buffer on a kernel that has the call.
            Err(_) => std::thread::yield_now(),
        }
    }
    bytes
}
