//! What a machine is made of, and what a plan to start one looks like.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the guest's processor is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM where it can be used, else emulation.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// Emulation.
    Tcg,
}

/// How the guest's processor is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor's own virtualisation, through /dev/kvm.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// A machine, in the terms every VMM shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineSpec {
    /// Shown in the VMM's process title.
    pub name: String,
    /// Virtual processors, 1 to 255.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Resolved accelerator.
    pub accel: Accel,
    /// An ELF kernel with a PVH note.
    pub kernel: PathBuf,
    /// The initial file system, a multiple of 4096 bytes long.
    pub initramfs: PathBuf,
    /// What the kernel command line says beyond the driver's own arguments.
    pub kernel_arguments: Vec<String>,
    /// Block devices in the order the guest sees them.
    pub disks: Vec<Disk>,
    /// The tag of the virtiofs device, if there is one.
    pub share_tag: Option<String>,
    /// What carries the link.
    pub link: LinkCarrier,
    /// The network device, if there is one. Without it nothing in the machine is a network.
    pub network: Option<NetworkCard>,
    /// How it comes to life.
    pub start: MachineStart,
}

/// How a machine comes to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineStart {
    /// It boots.
    Boot,
    /// It boots, and its devices can be saved to [`Descriptor::Devices`].
    BootToSave,
    /// Its memory is filled already, and its devices come from [`Descriptor::Devices`], which those
    /// of a machine of the same specification were saved to. It goes on as soon as they are there.
    Restore,
}

/// What carries the link between host and guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkCarrier {
    /// A virtio-serial port, behind [`Descriptor::LinkListener`].
    VirtioSerial,
    /// AF_VSOCK, on which the guest listens.
    Vsock {
        /// The guest's address: at least 3, and unique among the host's running machines.
        cid: u32,
    },
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkCard {
    /// Its hardware address: six bytes in hexadecimal with colons.
    pub mac: String,
    /// The longest packet, in bytes, if the guest is to be told one.
    pub mtu: Option<u16>,
    /// What [`Descriptor::Network`] is.
    pub backing: NetworkBacking,
}

/// Where a network device's frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkBacking {
    /// A connected Unix socket: each frame with its length in front, four bytes, big-endian.
    Stream,
    /// A tap device with the header of virtio-net in front of each frame (`IFF_VNET_HDR`).
    Tap,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// What the guest finds it by: at most 20 ASCII letters, digits, `-` or `_`.
    pub serial: String,
    /// Where its bytes are.
    pub backing: Backing,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// A file, opened read-only by the VMM.
    ReadOnlyFile(PathBuf),
    /// A descriptor handed over at launch; read-write, and lost with the machine.
    Ephemeral,
    /// The same, but kept: what the guest flushes is on the host's disk.
    Kept,
}

/// A descriptor the VMM gets at launch, by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptor {
    /// A listening Unix socket: whoever connects to it holds the guest's link port. Absent if the
    /// link goes over vsock.
    LinkListener,
    /// One end of a socket pair that speaks QMP.
    Monitor,
    /// A socket connected to the file daemon.
    FileDaemon,
    /// What the network device's frames go through.
    Network,
    /// The ephemeral disk, or the one that is kept.
    Scratch,
    /// A file in memory that is the machine's own, from [`crate::memory::make`].
    Memory,
    /// The state of everything but the memory: a file open for writing alone to save, a pipe to
    /// restore from.
    Devices,
}

/// A descriptor and the number it has in the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// What it is for.
    pub descriptor: Descriptor,
    /// Its number there.
    pub number: i32,
}

/// A command ready to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandPlan {
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The descriptors it expects.
    pub descriptors: Vec<Placed>,
}

/// Arguments that make a distribution's kernel boot faster in a machine that has none of the
/// hardware and needs none of the self-tests; as a set they took a third off the boot under
/// emulation. Mitigations stay on.
#[must_use]
pub fn kernel_arguments() -> Vec<String> {
    [
        "console=ttyS0",
        "quiet",
        "panic=-1",
        "reboot=t",
        "cryptomgr.notests",
        "apparmor=0",
        "selinux=0",
        "audit=0",
        "initcall_blacklist=load_system_certificate_list,jent_mod_init,bpf_tcp_ca_kfunc_init,\
         bpf_dummy_struct_ops_init,bpf_sockmap_iter_init,trace_eval_init,bert_init,init_encrypted,lockup_detector_check",
    ]
    .map(str::to_owned)
    .to_vec()
}
