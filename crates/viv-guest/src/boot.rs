//! From the kernel's hand-over to a root to run things in.
//!
//! ```text
//!  initramfs /             new root (moved over /)
//!    /lower   erofs          overlay: lower + /scratch/upper, /scratch/work
//!    /scratch ext4           dev proc sys, moved; run, shm, pts, cgroups
//!    /joined  overlay  ──►
//! ```
//! The initramfs stays below, empty and out of reach. Before the overlay is mounted, `configure`
//! makes every file that it or a template's heir will write straight in its upper layer: through the
//! overlay each would first be copied up, which took as long as all of this together.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Resource, Rlimit};
use viv_proto::message::FailureKind;
use viv_proto::{VSOCK_KEY_BLOCK_BYTES, VsockKey};

use crate::command_line::{CommandLine, LinkKind};
use crate::error::{Context, Result, error};
use crate::{console, modules, sys, trace};

/// The serial of the disk that takes what is written.
const SCRATCH: &str = "scratch";

/// How long a disk may take to appear.
const DISK_DEADLINE: Duration = Duration::from_secs(60);

/// How often it is looked for meanwhile.
const DISK_RETRY: Duration = Duration::from_millis(2);

/// Open files of one process: programs get the first, and may raise it to the second.
const OPEN_FILES: (u64, u64) = (65_536, 1_048_576);

/// `path` below /proc/sys and its value. A kernel without one of them does without.
const SETTINGS: &[(&str, &str)] = &[
    // Editors' servers, bundlers and test runners watch whole trees.
    ("fs/inotify/max_user_watches", "1048576"),
    ("fs/inotify/max_user_instances", "1024"),
    // ping without set-uid.
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// The root image.
pub const LOWER: &str = "/lower";

/// What is written over it, on the scratch disk.
pub const UPPER: &str = "/scratch/upper";

/// Both, until they are the root.
const JOINED: &str = "/joined";

/// What the boot came to.
pub struct Booted {
    /// What carries the link.
    pub link: LinkKind,
    /// Why there can be no root, if so. The link can still be served, to say it.
    pub failure: Option<String>,
}

/// Prepares everything for [`enter_root`]. Failures are returned, not acted upon.
pub fn boot() -> Booted {
    let started = uptime();
    let command_line = match early() {
        Ok(command_line) => command_line,
        Err(reason) => {
            return Booted { link: LinkKind::VirtioSerial, failure: Some(crate::error::line(&reason)) };
        }
    };
    trace::mark_at("init", started);
    trace::mark("early");
    let failure = disks(&command_line).err().map(|reason| crate::error::line(&reason));
    Booted { link: command_line.link, failure }
}

/// Time since the kernel started.
#[must_use]
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// What everything else needs: /proc, /sys, /dev and the kernel's command line.
fn early() -> Result<CommandLine> {
    let nothing = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_on("proc", "/proc", "proc", nothing, "")?;
    mount_on("sysfs", "/sys", "sysfs", nothing, "")?;
    mount_on("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")?;
    let text = fs::read_to_string("/proc/cmdline").context(|| "cannot read the kernel's command line".to_owned())?;
    Ok(CommandLine::parse(&text))
}

/// Mounts a file system on a directory, which is made if missing.
pub(crate) fn mount_on(
    source: impl AsRef<Path>,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<()> {
    make_directory(target)?;
    mount_plain(source.as_ref(), target, kind, flags, options).context(|| format!("cannot mount {kind} on {target}"))
}

fn make_directory(path: &str) -> Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(reason) if reason.kind() != io::ErrorKind::AlreadyExists => {
            Err(reason).context(|| format!("cannot make {path}"))
        }
        _ => Ok(()),
    }
}

fn mount_plain(source: &Path, target: &str, kind: &str, flags: MountFlags, options: &str) -> rustix::io::Result<()> {
    // The kernel takes the empty string for no options.
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    mount(source, target, kind, flags, options.as_c_str())
}

/// Loads the modules and mounts the disks. The scratch disk's file system needs no module, so it
/// is mounted while the others load: one waits for a disk where the other computes. So does the
/// loopback interface, which takes as long as several mounts.
fn disks(command_line: &CommandLine) -> Result<()> {
    let (loaded, scratch) = std::thread::scope(|scope| {
        let loading = scope.spawn(|| modules::load(Path::new("/modules"), command_line.link));
        if let Err(reason) = sys::interface_up(c"lo") {
            console::say(&format!("cannot bring the loopback interface up: {reason}"));
        }
        let scratch = mount_scratch();
        // A panic of a thread ends everything, see `power`.
        (loading.join().unwrap_or(Ok(())), scratch)
    });
    // Without its modules a disk is missing: the reason, not the consequence.
    loaded?;
    scratch?;
    trace::mark("modules, scratch");
    mount_disk("root", LOWER, "erofs", MountFlags::RDONLY | MountFlags::NOATIME, "")?;
    trace::mark("root image");
    Ok(())
}

/// Makes the overlay of root image and scratch disk the root, with everything a program expects
/// around it.
///
/// # Errors
/// The first step that failed; there is then no usable root.
pub fn enter_root() -> Result<()> {
    mount_overlay()?;
    trace::mark("overlay");
    switch_root()?;
    trace::mark("switch");
    furnish()?;
    trace::mark("furnish");
    Ok(())
}

/// Finds a virtio disk by its serial, waiting for it.
fn find_disk(serial: &str, deadline: Instant) -> Result<PathBuf> {
    loop {
        let disks = fs::read_dir("/sys/block").context(|| "cannot list the disks".to_owned())?;
        for disk in disks.flatten() {
            // Disks of other drivers have none.
            if fs::read(disk.path().join("serial")).is_ok_and(|found| found.trim_ascii() == serial.as_bytes()) {
                return Ok(Path::new("/dev").join(disk.file_name()));
            }
        }
        if Instant::now() >= deadline {
            return Err(error(FailureKind::Internal, format!("there is no disk with the serial `{serial}`")));
        }
        std::thread::sleep(DISK_RETRY);
    }
}

/// Reads what vsock connections have to begin with.
///
/// # Errors
/// If there is no scratch disk, or it cannot be read.
pub(crate) fn vsock_key() -> io::Result<VsockKey> {
    let disk = find_disk(SCRATCH, Instant::now() + DISK_DEADLINE).map_err(io::Error::other)?;
    let mut disk = fs::File::open(disk)?;
    disk.seek(SeekFrom::End(-(VSOCK_KEY_BLOCK_BYTES as i64)))?;
    let mut key = VsockKey::default();
    disk.read_exact(&mut key)?;
    Ok(key)
}

/// Finds a disk and mounts it. A disk is listed a moment before it can be opened.
fn mount_disk(serial: &str, target: &str, kind: &str, flags: MountFlags, options: &str) -> Result<()> {
    let deadline = Instant::now() + DISK_DEADLINE;
    let disk = find_disk(serial, deadline)?;
    make_directory(target)?;
    loop {
        match mount_plain(&disk, target, kind, flags, options) {
            Err(Errno::NXIO | Errno::NOENT) if Instant::now() < deadline => std::thread::sleep(DISK_RETRY),
            result => return result.context(|| format!("cannot mount the {serial} disk as {kind}")),
        }
    }
}

/// Mounts the scratch disk once more: what is mounted already is out of reach once the root is entered.
///
/// # Errors
/// If it cannot be mounted.
pub(crate) fn mount_scratch_at(place: &str) -> Result<()> {
    let options = "barrier=0,noinit_itable,noauto_da_alloc";
    mount_disk(SCRATCH, place, "ext4", MountFlags::NOATIME, options)
}

/// The scratch disk lives no longer than the sandbox: nothing on it has to survive a crash, so
/// neither barriers nor the initialisation of unused tables are worth their time.
fn mount_scratch() -> Result<()> {
    mount_scratch_at("/scratch")?;
    make_directory(UPPER)?;
    make_directory("/scratch/work")
}

/// `redirect_dir` so that a directory of the image can be renamed, `metacopy` so that changing an
/// owner or a mode does not copy the file, `volatile` because nothing has to survive a crash.
fn mount_overlay() -> Result<()> {
    let layers = format!("lowerdir={LOWER},upperdir={UPPER},workdir=/scratch/work");
    let wanted = format!("{layers},redirect_dir=on,metacopy=on,index=off,volatile");
    let flags = MountFlags::NOATIME;
    match mount_on("overlay", JOINED, "overlay", flags, &wanted) {
        Ok(()) => Ok(()),
        // An older kernel: without its refinements.
        Err(_) => mount_on("overlay", JOINED, "overlay", flags, &layers),
    }
}

/// Makes the overlay the root, and frees the memory of the initramfs.
fn switch_root() -> Result<()> {
    for directory in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{directory}"), format!("{JOINED}/{directory}"));
        mount_move(&from, &to).context(|| format!("the image has no usable /{directory}"))?;
    }
    let switch = || -> rustix::io::Result<()> {
        let initramfs = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, 0.into())?;
        rustix::process::chdir(JOINED)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")?;
        free_initramfs(&initramfs);
        Ok(())
    };
    switch().context(|| "cannot switch to the root".to_owned())
}

/// Whatever cannot be removed stays: it costs memory only.
fn free_initramfs(initramfs: &impl std::os::fd::AsFd) {
    use rustix::fs::{AtFlags, Dir, OFlags, openat, unlinkat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(modules) = openat(initramfs, "modules", flags, 0.into())
        && let Ok(entries) = Dir::read_from(&modules)
    {
        for entry in entries.flatten() {
            let _ = unlinkat(&modules, entry.file_name(), AtFlags::empty());
        }
    }
    let _ = unlinkat(initramfs, "init", AtFlags::empty());
}

/// What a program expects around it.
fn furnish() -> Result<()> {
    let nothing = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let memory = MountFlags::NOSUID | MountFlags::NODEV;
    mount_on("tmpfs", "/run", "tmpfs", memory, "mode=0755")?;
    // Programs put their locks there; /var/lock points at it.
    let _ = fs::create_dir("/run/lock");
    let _ = fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777));
    mount_on("tmpfs", "/dev/shm", "tmpfs", memory, "mode=1777")?;
    mount_on("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "gid=5,mode=0620,ptmxmode=0666")?;
    // Useful to some programs, necessary to none.
    let _ = mount_plain(Path::new("cgroup2"), "/sys/fs/cgroup", "cgroup2", nothing, "nsdelegate");
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).context(|| format!("cannot make {link}"))?;
    }
    for (path, value) in SETTINGS {
        let _ = fs::write(Path::new("/proc/sys").join(path), value);
    }
    let (current, maximum) = OPEN_FILES;
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: Some(maximum) });
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: None });
    // The kernel opened descriptors 0 to 2 in the initramfs. They stay occupied (see
    // `sys::Command::stdio`), without keeping a terminal.
    if let Ok(null) = rustix::fs::openat(CWD, "/dev/null", rustix::fs::OFlags::RDWR, 0.into()) {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
    Ok(())
}
