//! From a specification to everything its monitor will start. Pure.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use viv_proto::message::{self, ShareKind};
use viv_shares::{FileDaemonSpec, ShareSpec};
use viv_vmm::{Accel, Backing, CommandPlan, Disk, HostFacts, Kvm, LinkCarrier, MachineSpec, MachineStart};

use crate::error::adopt;
use crate::guard;
use crate::nic;
use crate::nix;
use crate::template::{self, TemplatePlan};
use crate::{Error, ErrorKind, Mount, Paths, Result, SandboxSpec, TemplateUse, WorkspaceMode};

/// The virtiofs device's name in the guest.
const SHARE_TAG: &str = "viv";

/// The files a machine is made from, out of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifacts {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// Of the kernel and its modules: changes with their content.
    pub kernel_digest: String,
    /// Its initial file system, with PID 1.
    pub initramfs: PathBuf,
    /// The root image.
    pub root: PathBuf,
    /// Changes with its content.
    pub root_digest: String,
    /// What is stacked over it, the lowest first; their names change with their content.
    pub layers: Vec<PathBuf>,
    /// An empty disk to clone.
    pub scratch: PathBuf,
}

/// Everything a monitor needs to start a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What was asked for.
    pub spec: SandboxSpec,
    /// How the processor is run.
    pub accel: Accel,
    /// What the user is told before the start.
    pub warnings: Vec<Warning>,
    /// The empty disk to clone.
    pub scratch: PathBuf,
    /// What carries the link.
    pub link: LinkCarrier,
    /// The VMM's command for a cold start.
    pub vmm: CommandPlan,
    /// Whether there is a quicker way.
    pub start: StartPlan,
    /// How the file daemon serves: its first line.
    pub file_daemon: FileDaemonSpec,
    /// What the file daemon shares: its second line.
    pub shares: Vec<ShareSpec>,
    /// Where the guest puts it.
    pub guest_shares: Vec<message::Share>,
}

/// How a sandbox may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartPlan {
    /// Its machine boots.
    Cold {
        /// Why it cannot come from a template.
        reason: String,
    },
    /// From a template, if there is one; else its machine boots.
    Template(Box<TemplatePlan>),
}

impl StartPlan {
    /// The template's key; empty if there can be none.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Template(template) => &template.key,
            Self::Cold { .. } => "",
        }
    }
}

/// Something lost, and the command that mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What is lost.
    pub message: String,
    /// What mends it.
    pub hint: Option<String>,
}

/// Looks at the host.
///
/// # Errors
/// If the VMM is missing or too old.
pub fn probe_host(paths: &Paths) -> Result<HostFacts> {
    HostFacts::probe(&paths.cache.join("host")).map_err(adopt)
}

/// Plans a sandbox. Only looks at the host to learn which shares are directories, and what git would obey in them.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] for a machine that cannot be, [`ErrorKind::ShareMissing`] for a
/// share that is neither a directory nor a file, and the VMM's own refusals.
pub fn plan(spec: &SandboxSpec, artifacts: &Artifacts, host: &HostFacts) -> Result<Plan> {
    let kind_of = |path: &Path| {
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            Ok(ShareKind::Directory)
        } else if metadata.is_file() {
            Ok(ShareKind::File)
        } else {
            Err(std::io::Error::other("it is neither a directory nor a regular file"))
        }
    };
    plan_with(spec, artifacts, host, &Look { kind_of: &kind_of, obeyed_by_git: &guard::protected })
}

/// The questions to the host's file system.
struct Look<'a> {
    kind_of: &'a dyn Fn(&Path) -> std::io::Result<ShareKind>,
    /// What git would obey in a directory, relative to it.
    obeyed_by_git: &'a dyn Fn(&Path) -> Vec<PathBuf>,
}

fn plan_with(spec: &SandboxSpec, artifacts: &Artifacts, host: &HostFacts, look: &Look) -> Result<Plan> {
    let accel = host.accel(spec.accel).map_err(adopt)?;
    let link = link_carrier(&spec.id, host);
    let mut disks = vec![
        Disk { serial: "root".to_owned(), backing: Backing::ReadOnlyFile(artifacts.root.clone()) },
        Disk {
            serial: "scratch".to_owned(),
            backing: if spec.persistent_disk.is_some() { Backing::Kept } else { Backing::Ephemeral },
        },
    ];
    let mut kernel_arguments = viv_vmm::kernel_arguments();
    if spec.persistent_disk.is_some() {
        // The guest then writes it so that it can be mounted again.
        kernel_arguments.push("viv.disk=kept".to_owned());
    }
    if !artifacts.layers.is_empty() {
        disks.extend(artifacts.layers.iter().enumerate().map(|(index, layer)| Disk {
            serial: format!("layer-{}", index + 1),
            backing: Backing::ReadOnlyFile(layer.clone()),
        }));
        // The guest looks for so many.
        kernel_arguments.push(format!("viv.layers={}", artifacts.layers.len()));
    }
    let machine = MachineSpec {
        name: format!("viv-{}", spec.id),
        cpus: spec.cpus,
        memory_mib: spec.memory_mib,
        accel,
        kernel: artifacts.kernel.clone(),
        initramfs: artifacts.initramfs.clone(),
        kernel_arguments,
        disks,
        share_tag: Some(SHARE_TAG.to_owned()),
        link,
        network: nic::card(spec),
        start: MachineStart::Boot,
    };
    let workspace = Mount {
        source: spec.workspace.clone(),
        destination: utf8(&spec.workspace)?.to_owned(),
        read_only: false,
        coherent: false,
    };
    // A copy is put where the workspace would be; nothing of the host's own is seen.
    let live = (spec.workspace_mode == WorkspaceMode::Live).then_some(&workspace);
    if live.is_none() {
        nothing_in_the_copy(spec)?;
    }
    let mut shares: Vec<Mount> = live.into_iter().chain(&spec.mounts).cloned().collect();
    // A share below another one's destination has to be mounted after it.
    let first = usize::from(live.is_some());
    shares[first..].sort_by_key(|mount| Path::new(&mount.destination).components().count());

    let mut daemon_shares = Vec::new();
    let mut guest_shares = Vec::new();
    for (number, Mount { source, destination, read_only, coherent }) in shares.into_iter().enumerate() {
        let kind = match (look.kind_of)(&source) {
            // An agent's home, which is made before a start and not for a look at the plan.
            Err(error) if coherent && error.kind() == std::io::ErrorKind::NotFound => ShareKind::Directory,
            kind => kind.map_err(|error| {
                Error::new(ErrorKind::ShareMissing, format!("{} cannot be shared", source.display())).source(error)
            })?,
        };
        let writable = kind == ShareKind::Directory && !read_only;
        // In an agent's home nobody calls git on the host.
        let guarded = writable && !coherent && spec.git_guard;
        let mut protect = if guarded { (look.obeyed_by_git)(&source) } else { Vec::new() };
        if writable && source == spec.workspace {
            protect.extend(spec.protect.iter().cloned());
        }
        let entry = match number.to_string() {
            entry if coherent => viv_shares::coherent_entry(&entry),
            entry if guarded => viv_shares::guarded_entry(&entry),
            entry => entry,
        };
        daemon_shares.push(ShareSpec { entry: entry.clone(), source, read_only, protect, gathered: None });
        guest_shares.push(message::Share { entry, destination, kind, read_only, writable_overlay: false });
    }
    if let Some((outside, inside)) = spec.network.certificates() {
        daemon_shares.push(outside);
        guest_shares.push(inside);
    }
    for (outside, inside) in nix::shares(spec) {
        daemon_shares.push(outside);
        guest_shares.push(inside);
    }
    Ok(Plan {
        spec: spec.clone(),
        accel,
        warnings: warnings(spec, accel, host),
        scratch: artifacts.scratch.clone(),
        link,
        vmm: viv_vmm::qemu::plan(&machine, host).map_err(adopt)?,
        start: start(spec, &machine, artifacts, host)?,
        shares: daemon_shares,
        file_daemon: FileDaemonSpec {
            guest_uid: spec.user.uid,
            guest_gid: spec.user.gid,
            thread_pool: viv_shares::DEFAULT_THREAD_POOL,
        },
        guest_shares,
    })
}

/// A mount in a copied workspace would have the copy written into the host's directory.
fn nothing_in_the_copy(spec: &SandboxSpec) -> Result<()> {
    let within = spec.mounts.iter().find(|mount| Path::new(&mount.destination).starts_with(&spec.workspace));
    match within {
        None => Ok(()),
        Some(mount) => Err(Error::new(
            ErrorKind::InvalidSpec,
            format!("{} is in the workspace, which is a copy: nothing of the host is mounted there", mount.destination),
        )
        .hint("mount it elsewhere, or use --workspace live")),
    }
}

fn start(spec: &SandboxSpec, machine: &MachineSpec, artifacts: &Artifacts, host: &HostFacts) -> Result<StartPlan> {
    let cold = |reason: String| Ok(StartPlan::Cold { reason });
    if spec.template == TemplateUse::Never {
        return cold("a cold start was asked for".to_owned());
    }
    if spec.persistent_disk.is_some() {
        return cold("a sandbox that keeps its disk boots from it".to_owned());
    }
    if nic::card(spec).is_some() {
        return cold("a sandbox with a network device boots".to_owned());
    }
    if !host.qemu.makes_templates() {
        let (major, minor) = viv_vmm::OLDEST_QEMU_FOR_TEMPLATES;
        return cold(format!("QEMU {} makes no templates, {major}.{minor} does", host.qemu.version));
    }
    Ok(StartPlan::Template(Box::new(template::plan(spec, machine, artifacts, host)?)))
}

/// A serial port, which can be saved and restored with the machine. Where that is not to be had
/// anyway, vsock if the host has it.
fn link_carrier(id: &str, host: &HostFacts) -> LinkCarrier {
    if host.vhost_vsock && !host.qemu.makes_templates() {
        LinkCarrier::Vsock { cid: vsock_address(id) }
    } else {
        LinkCarrier::VirtioSerial
    }
}

/// A guest's vsock address: as random as the id it comes from, 3 to 2^31 - 1. Two sandboxes may
/// meet, though hardly ever do; the VMM of the second one then says that the address is in use.
fn vsock_address(id: &str) -> u32 {
    /// The addresses below are the hypervisor's and the host's; those from 2^31 on are left out
    /// because tools take them for negative.
    const ADDRESSES: std::ops::Range<u64> = 3..1 << 31;
    // FNV-1a, so that an id of any form will do.
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (ADDRESSES.start + hash % (ADDRESSES.end - ADDRESSES.start)) as u32
}

fn warnings(spec: &SandboxSpec, accel: Accel, host: &HostFacts) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let (Accel::Tcg, viv_vmm::AccelChoice::Auto, Kvm::Unusable(reason)) = (accel, spec.accel, &host.kvm) {
        warnings.push(Warning {
            message: format!("no KVM ({reason}); the sandbox runs under emulation, several times slower"),
            hint: Some("viv doctor".to_owned()),
        });
    }
    warnings
}

pub(crate) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::InvalidSpec, format!("{} is not UTF-8, so it has no name inside", path.display()))
            .hint("rename the directory, or share it from another path with --mount SRC:DST")
    })
}

impl fmt::Display for Plan {
    /// One option a line: what `--dry-run` shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}", self.vmm.program.display())?;
        for argument in &self.vmm.arguments {
            let lead = if argument.starts_with('-') { " \\\n      " } else { " " };
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+@%".contains(c);
            if argument.chars().all(plain) {
                write!(f, "{lead}{argument}")?;
            } else {
                write!(f, "{lead}'{}'", argument.replace('\'', "'\\''"))?;
            }
        }
        writeln!(f)?;
        for share in &self.shares {
            let guest = self.guest_shares.iter().find(|guest| guest.entry == share.entry);
            let mode = if share.read_only { "read-only" } else { "read-write" };
            let destination = guest.map_or("", |guest| guest.destination.as_str());
            writeln!(f, "  share {} at {destination}, {mode}", share.source.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VmmChoice;

    fn spec() -> SandboxSpec {
        SandboxSpec {
            id: "0123abcd".into(),
            name: None,
            labels: std::collections::BTreeMap::new(),
            command: vec!["true".into()],
            cpus: 2,
            memory_mib: 2048,
            disk_bytes: 20 << 30,
            vmm: VmmChoice::Qemu,
            accel: viv_vmm::AccelChoice::Auto,
            kernel: None,
            image: None,
            packages: Vec::new(),
            nix: None,
            environment: std::collections::BTreeMap::new(),
            files: Vec::new(),
            workspace: "/home/u/project".into(),
            mounts: vec![
                Mount {
                    source: "/data/deep".into(),
                    destination: "/data/deep/er".into(),
                    read_only: true,
                    coherent: false,
                },
                Mount {
                    source: "/home/u/notes.txt".into(),
                    destination: "/notes.txt".into(),
                    read_only: false,
                    coherent: false,
                },
            ],
            user: message::User { name: "agent".into(), uid: 1000, gid: 1000, home: "/home/agent".into() },
            hostname: "viv-0123abcd".into(),
            timezone: Some("Europe/Berlin".into()),
            template: TemplateUse::Auto,
            spares: 0,
            network: crate::NetworkSpec::default(),
            workspace_mode: crate::WorkspaceMode::Live,
            copied: crate::CopySelection::default(),
            protect: Vec::new(),
            git_guard: true,
            persistent_disk: None,
            recording: viv_audit::Recording::default(),
            transcripts: Vec::new(),
            boot_deadline_seconds: 60,
        }
    }

    fn host() -> HostFacts {
        HostFacts {
            qemu: viv_vmm::QemuBinary {
                path: "/usr/bin/qemu-system-x86_64".into(),
                version: "10.0.2".into(),
                stamp: "1 bytes, 2".into(),
            },
            kvm: Kvm::Unusable("there is no /dev/kvm".into()),
            tsc_khz: 2_893_000,
            cpus: 2,
            processor: "a processor".into(),
            vhost_vsock: false,
        }
    }

    fn old_qemu() -> viv_vmm::QemuBinary {
        viv_vmm::QemuBinary { version: "8.2.2".into(), ..host().qemu }
    }

    fn template(spec: &SandboxSpec, artifacts: &Artifacts, host: &HostFacts) -> TemplatePlan {
        match plan_with(spec, artifacts, host, &LOOK).unwrap().start {
            StartPlan::Template(template) => *template,
            StartPlan::Cold { reason } => panic!("{reason}"),
        }
    }

    fn artifacts() -> Artifacts {
        Artifacts {
            kernel: "/cache/vmlinux".into(),
            kernel_digest: "kernel".into(),
            initramfs: "/cache/initramfs".into(),
            root: "/cache/root".into(),
            root_digest: "root".into(),
            layers: Vec::new(),
            scratch: "/cache/scratch".into(),
        }
    }

    const LOOK: Look = Look {
        kind_of: &|path| Ok(if path.extension().is_some() { ShareKind::File } else { ShareKind::Directory }),
        obeyed_by_git: &|_| vec![".git/config".into(), ".git/hooks".into()],
    };

    #[test]
    fn a_sandbox_with_three_shares() {
        let plan = plan_with(&spec(), &artifacts(), &host(), &LOOK).unwrap();
        insta::assert_snapshot!(plan);
        insta::assert_json_snapshot!((&plan.warnings, &plan.file_daemon, &plan.shares, &plan.guest_shares));
    }

    #[test]
    fn what_git_obeys_is_protected_unless_that_is_not_wanted() {
        let shares = |spec: &SandboxSpec| plan_with(spec, &artifacts(), &host(), &LOOK).unwrap().shares;
        let guarded = shares(&SandboxSpec { protect: vec![".envrc".into()], ..spec() });
        assert_eq!(guarded[0].entry, "0.guarded");
        assert_eq!(guarded[0].protect, [".git/config", ".git/hooks", ".envrc"].map(PathBuf::from));
        assert!(guarded[1..].iter().all(|share| share.protect.is_empty()), "read-only, and a file");
        let open = shares(&SandboxSpec { protect: vec![".envrc".into()], git_guard: false, ..spec() });
        assert_eq!((open[0].entry.as_str(), open[0].protect.as_slice()), ("0", &[PathBuf::from(".envrc")][..]));
    }

    #[test]
    fn layers_are_further_disks_that_the_guest_is_told_of() {
        let without = plan_with(&spec(), &artifacts(), &host(), &LOOK).unwrap().to_string();
        let layered = Artifacts { layers: vec!["/cache/base".into(), "/cache/top".into()], ..artifacts() };
        let with = plan_with(&spec(), &layered, &host(), &LOOK).unwrap();
        let lines = with.to_string();
        let changed: Vec<&str> = lines.lines().filter(|line| !without.contains(line)).collect();
        insta::assert_json_snapshot!(changed);
        let files = template(&spec(), &layered, &host()).files;
        assert!(layered.layers.iter().all(|layer| files.contains(layer)));
        let many = Artifacts { layers: vec!["/cache/layer".into(); 200], ..artifacts() };
        let error = plan_with(&spec(), &many, &host(), &LOOK).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidSpec);
    }

    #[test]
    fn the_link_goes_over_vsock_where_the_host_has_it() {
        let serial = plan_with(&spec(), &artifacts(), &host(), &LOOK).unwrap();
        assert_eq!(serial.link, LinkCarrier::VirtioSerial);
        let templates = HostFacts { vhost_vsock: true, ..host() };
        assert_eq!(plan_with(&spec(), &artifacts(), &templates, &LOOK).unwrap().link, LinkCarrier::VirtioSerial);
        let host = HostFacts { qemu: old_qemu(), ..templates };
        let vsock = plan_with(&spec(), &artifacts(), &host, &LOOK).unwrap();
        assert_eq!(vsock, plan_with(&spec(), &artifacts(), &host, &LOOK).unwrap(), "a plan is pure");
        insta::assert_json_snapshot!(vsock.link);
        insta::assert_snapshot!(vsock);
    }

    #[test]
    fn a_template_is_for_all_that_differ_only_in_what_a_guest_is_told_later() {
        let one = template(&spec(), &artifacts(), &host());
        insta::assert_json_snapshot!((&one.key, &one.ingredients));
        let other = SandboxSpec {
            id: "fedcba98".into(),
            name: Some("other".into()),
            command: vec!["make".into()],
            workspace: "/home/u/other".into(),
            mounts: Vec::new(),
            hostname: "other".into(),
            ..spec()
        };
        // Measured again after a boot of the host.
        let later = HostFacts { tsc_khz: 2_893_001, cpus: 3, ..host() };
        assert_eq!(template(&other, &artifacts(), &later).key, one.key);
    }

    #[test]
    fn whatever_makes_another_machine_makes_another_template() {
        let one = template(&spec(), &artifacts(), &host()).key;
        let specs = [
            SandboxSpec { cpus: 3, ..spec() },
            SandboxSpec { memory_mib: 1024, ..spec() },
            SandboxSpec { timezone: None, ..spec() },
            SandboxSpec { user: message::User { uid: 7, ..spec().user }, ..spec() },
        ];
        let artifact = [
            Artifacts { kernel_digest: "x".into(), ..artifacts() },
            Artifacts { initramfs: "x".into(), ..artifacts() },
            Artifacts { root_digest: "x".into(), ..artifacts() },
            Artifacts { scratch: "x".into(), ..artifacts() },
            Artifacts { layers: vec!["x".into()], ..artifacts() },
            Artifacts { layers: vec!["x".into(), "y".into()], ..artifacts() },
            Artifacts { layers: vec!["y".into(), "x".into()], ..artifacts() },
        ];
        let qemu = host().qemu;
        let hosts = [
            HostFacts { kvm: Kvm::Usable, ..host() },
            HostFacts { kvm: Kvm::Usable, processor: "another".into(), ..host() },
            HostFacts { qemu: viv_vmm::QemuBinary { path: "/opt/qemu".into(), ..qemu.clone() }, ..host() },
            HostFacts { qemu: viv_vmm::QemuBinary { version: "10.1.0".into(), ..qemu.clone() }, ..host() },
            HostFacts { qemu: viv_vmm::QemuBinary { stamp: "another".into(), ..qemu }, ..host() },
        ];
        let mut keys: std::collections::BTreeSet<String> = specs
            .iter()
            .map(|spec| template(spec, &artifacts(), &host()).key)
            .chain(artifact.iter().map(|artifacts| template(&spec(), artifacts, &host()).key))
            .chain(hosts.iter().map(|host| template(&spec(), &artifacts(), host).key))
            .collect();
        keys.insert(one);
        assert_eq!(keys.len(), specs.len() + artifact.len() + hosts.len() + 1);
    }

    #[test]
    fn where_there_can_be_no_template_the_plan_says_why() {
        let cold =
            plan_with(&SandboxSpec { template: TemplateUse::Never, ..spec() }, &artifacts(), &host(), &LOOK).unwrap();
        let old = plan_with(&spec(), &artifacts(), &HostFacts { qemu: old_qemu(), ..host() }, &LOOK).unwrap();
        insta::assert_json_snapshot!([cold.start, old.start]);
    }

    #[test]
    fn a_copied_workspace_is_not_shared() {
        let copied = SandboxSpec { workspace_mode: WorkspaceMode::Clone, ..spec() };
        let copied = plan_with(&copied, &artifacts(), &host(), &LOOK).unwrap();
        assert!(copied.shares.iter().all(|share| share.source != spec().workspace));
        assert_eq!(copied.shares.len(), spec().mounts.len());
        let within = Mount {
            source: "/data".into(),
            destination: "/home/u/project/data".into(),
            read_only: true,
            coherent: false,
        };
        let within = SandboxSpec { workspace_mode: WorkspaceMode::Clone, mounts: vec![within], ..spec() };
        let refused = plan_with(&within, &artifacts(), &host(), &LOOK).unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::InvalidSpec);
    }

    #[test]
    fn a_disk_that_is_kept_is_booted_from_and_written_with_care() {
        let kept = SandboxSpec { persistent_disk: Some("/state/sandboxes/web/disk".into()), ..spec() };
        let lost = plan_with(&spec(), &artifacts(), &host(), &LOOK).unwrap();
        let kept = plan_with(&kept, &artifacts(), &host(), &LOOK).unwrap();
        let before = lost.to_string();
        let lines = kept.to_string();
        let changed: Vec<&str> = lines.lines().filter(|line| !before.contains(line)).collect();
        insta::assert_json_snapshot!((changed, kept.start));
    }

    #[test]
    fn vsock_addresses_are_a_guests_and_differ() {
        let ids = ["00000000", "00000001", "0123abcd", "ffffffff", "", "any name"];
        let addresses: std::collections::BTreeSet<u32> = ids.map(vsock_address).into();
        assert_eq!(addresses.len(), ids.len());
        assert!(addresses.iter().all(|address| (3..1 << 31).contains(address)), "{addresses:?}");
    }

    #[test]
    fn a_special_file_is_not_shared() {
        let special = |_: &Path| Err(std::io::Error::other("it is neither a directory nor a regular file"));
        let error = plan_with(&spec(), &artifacts(), &host(), &Look { kind_of: &special, ..LOOK }).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::ShareMissing);
    }
}
