//! What is known about a machine: plain data, so that judgement can be tested without one.

use std::path::PathBuf;

/// Everything the checks ask for.
#[derive(Debug, Clone)]
pub struct Facts {
    /// We are root.
    pub root: bool,
    /// Our login name.
    pub user: String,
    /// The hardware's virtualisation.
    pub kvm: Kvm,
    /// The virtual machine monitor.
    pub qemu: Qemu,
    /// User namespaces.
    pub namespaces: Namespaces,
    /// Subordinate ids, which a rootless image build needs.
    pub subordinate: Subordinate,
    /// Space where things are kept.
    pub disks: Vec<Disk>,
    /// Memory, if it could be found out.
    pub memory: Option<Memory>,
    /// Programs that building kernel and image needs and that are not there.
    pub missing_tools: Vec<Tool>,
    /// The default kernel is in the cache.
    pub kernel_built: bool,
    /// The default root image is in the cache.
    pub image_built: bool,
    /// Templates in the cache.
    pub templates: Templates,
    /// /dev/vhost-vsock can be opened.
    pub vsock: bool,
    /// Programs that network devices need and that are not there.
    pub missing_network_tools: Vec<&'static str>,
    /// apt-get is there to install what is missing.
    pub apt: bool,
    /// On a Debian whose own QEMU is too old: where there is a newer one.
    pub backports: Option<Backports>,
}

/// Booted machines that were saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Templates {
    /// How many.
    pub count: usize,
    /// What they take on disk, bytes.
    pub disk: u64,
}

/// Debian's newer packages for an older release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backports {
    /// Their suite.
    pub suite: String,
    /// The mirror the host takes its packages from.
    pub mirror: String,
    /// apt knows the suite already.
    pub enabled: bool,
}

/// /dev/kvm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It can be used.
    Works,
    /// There is no such device.
    Missing {
        /// The CPU says it could.
        cpu_capable: bool,
    },
    /// It may not be opened.
    Denied {
        /// The group that may, if the device belongs to one.
        group: Option<String>,
        /// We are in that group already, only not since this login.
        login_pending: bool,
    },
    /// It is there and does not work.
    Broken {
        /// The kernel's words.
        reason: String,
    },
}

/// QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qemu {
    /// It says which version it is.
    Found {
        /// Where.
        path: PathBuf,
        /// major, minor.
        version: (u32, u32),
    },
    /// It is not in PATH.
    Missing,
    /// It does not say which version it is.
    Broken {
        /// Where.
        path: PathBuf,
        /// What happened instead.
        reason: String,
    },
}

/// Whether an ordinary process may make user namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// What happened when one was made and a file system mounted in it.
    pub attempt: Result<(), String>,
    /// user.max_user_namespaces.
    pub maximum: Option<u64>,
    /// kernel.unprivileged_userns_clone, where a kernel has it.
    pub unprivileged_clone: Option<bool>,
    /// kernel.apparmor_restrict_unprivileged_userns, where a kernel has it.
    pub apparmor_restricts: bool,
    /// An AppArmor profile for viv is there.
    pub apparmor_profile: bool,
    /// Our own executable, for that profile.
    pub executable: PathBuf,
}

/// /etc/subuid, /etc/subgid and the programs that use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subordinate {
    /// User ids we may use.
    pub uids: u64,
    /// Group ids we may use.
    pub gids: u64,
    /// The first id above every range given out.
    pub next_free: u64,
    /// newuidmap and newgidmap are there.
    pub tools: bool,
}

/// A directory's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What is kept there.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Free for us, bytes.
    pub free: u64,
    /// What a first run needs, bytes.
    pub needed: u64,
}

/// The host's memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// There is.
    pub total: u64,
    /// That is not in use.
    pub available: u64,
}

/// A program that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub program: String,
    /// Debian's package.
    pub package: String,
    /// What it is for.
    pub needed_for: String,
}
