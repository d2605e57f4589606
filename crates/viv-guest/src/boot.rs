//! From the kernel's hand-over to a root to run things in.
//!
//! ```text
//!  initramfs /             new root (moved over /)
//!    /lower   erofs          overlay: layers + lower + /scratch/upper, /scratch/work
//!    /1 ...   erofs, layers  dev proc sys, moved; run, shm, pts, cgroups
//!    /scratch ext4
//!    /joined  overlay  ──►
//! ```
//! The initramfs stays below, empty and out of reach. Before the overlay is mounted, `configure`
//! makes every file that it or a template's heir will write straight in its upper layer: through the
//! overlay each would first be copied up, which took as long as all of this together. What the image
//! and its layers have there is looked up in a second overlay of them alone, `/image`, so that the
//! kernel's own rules say which layer's file counts; without layers the image is its own answer.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
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
const LOWER: &str = "/lower";

/// The root image and what lies over it, to look things up.
const IMAGE: &str = "/image";

/// Where the scratch disk is until the root is entered.
pub(crate) const SCRATCH_AT: &str = "/scratch";

/// What is written over it, on the scratch disk.
pub const UPPER: &str = "/scratch/upper";

/// Both, until they are the root.
const JOINED: &str = "/joined";

/// What the boot came to.
pub struct Booted {
    /// What carries the link.
    pub link: LinkKind,
    /// How many layers lie over the root image.
    pub layers: u16,
    /// Why there can be no root, if so. The link can still be served, to say it.
    pub failure: Option<String>,
}

/// Prepares everything for [`enter_root`]. Failures are returned, not acted upon.
pub fn boot() -> Booted {
    let started = uptime();
    let command_line = match early() {
        Ok(command_line) => command_line,
        Err(reason) => {
            let failure = Some(crate::error::line(&reason));
            return Booted { link: LinkKind::VirtioSerial, layers: 0, failure };
        }
    };
    trace::mark_at("init", started);
    trace::mark("early");
    let failure = disks(&command_line).err().map(|reason| crate::error::line(&reason));
    Booted { link: command_line.link, layers: command_line.layers, failure }
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
    let (images, scratch) = std::thread::scope(|scope| {
        let images = scope.spawn(|| {
            modules::load(Path::new("/modules"), command_line.link)?;
            trace::mark("modules");
            mount_images(command_line.layers)
        });
        if let Err(reason) = sys::interface_up(c"lo") {
            console::say(&format!("cannot bring the loopback interface up: {reason}"));
        }
        let scratch = mount_scratch();
        // A panic of a thread ends everything, see `power`.
        (images.join().unwrap_or(Ok(())), scratch)
    });
    // Without its modules a disk is missing: the reason, not the consequence.
    images?;
    scratch?;
    trace::mark("disks");
    Ok(())
}

/// Mounts the root image and its layers.
fn mount_images(layers: u16) -> Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    let mut disks = Disks::default();
    mount_disk(&mut disks, "root", LOWER, "erofs", flags, "")?;
    for number in 1..=layers {
        mount_disk(&mut disks, &format!("layer-{number}"), &layer(number), "erofs", flags, "")?;
    }
    Ok(())
}

/// Where a layer is mounted, 1 being the lowest. Short, because all of them have to fit into the page
/// that a mount's options are.
fn layer(number: u16) -> String {
    format!("/{number}")
}

/// The layers and the root image as overlayfs has them: the highest first.
fn lower_directories(layers: u16) -> String {
    let mut directories: Vec<String> = (1..=layers).rev().map(layer).collect();
    directories.push(LOWER.to_owned());
    directories.join(":")
}

/// Makes what the root image and its layers come to readable at the path that is returned.
///
/// # Errors
/// If they cannot be joined.
pub fn open_image(layers: u16) -> Result<&'static Path> {
    if layers == 0 {
        return Ok(Path::new(LOWER));
    }
    let joined = format!("lowerdir={}", lower_directories(layers));
    mount_overlay_on(IMAGE, &joined, ",redirect_dir=follow,metacopy=on,index=off")?;
    Ok(Path::new(IMAGE))
}

/// Undoes [`open_image`].
pub fn close_image(layers: u16) {
    if layers > 0 {
        // It is out of reach anyway.
        let _ = rustix::mount::unmount(IMAGE, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Makes the overlay of root image, layers and scratch disk the root, with everything a program expects
/// around it.
///
/// # Errors
/// The first step that failed; there is then no usable root.
pub fn enter_root(layers: u16) -> Result<()> {
    mount_overlay(layers)?;
    trace::mark("overlay");
    switch_root()?;
    trace::mark("switch");
    furnish()?;
    trace::mark("furnish");
    Ok(())
}

/// The virtio disks that have been seen, by their serials. Each reading of a serial is a request to the host.
#[derive(Default)]
struct Disks {
    by_serial: BTreeMap<Vec<u8>, PathBuf>,
    seen: BTreeSet<OsString>,
}

impl Disks {
    /// Finds a disk by its serial, waiting for it.
    fn find(&mut self, serial: &str, deadline: Instant) -> Result<PathBuf> {
        loop {
            if let Some(disk) = self.by_serial.get(serial.as_bytes()) {
                return Ok(disk.clone());
            }
            if !self.look_for(serial)? {
                if Instant::now() >= deadline {
                    return Err(error(FailureKind::Internal, format!("there is no disk with the serial `{serial}`")));
                }
                std::thread::sleep(DISK_RETRY);
            }
        }
    }

    /// Looks at disks not seen yet until one has the serial. Returns whether one has.
    fn look_for(&mut self, serial: &str) -> Result<bool> {
        let disks = fs::read_dir("/sys/block").context(|| "cannot list the disks".to_owned())?;
        for disk in disks.flatten() {
            if self.seen.contains(&disk.file_name()) {
                continue;
            }
            // Disks of other drivers have none.
            let Ok(found) = fs::read(disk.path().join("serial")) else { continue };
            let found = found.trim_ascii().to_vec();
            let is_wanted = found == serial.as_bytes();
            self.by_serial.insert(found, Path::new("/dev").join(disk.file_name()));
            self.seen.insert(disk.file_name());
            if is_wanted {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads what vsock connections have to begin with.
///
/// # Errors
/// If there is no scratch disk, or it cannot be read.
pub(crate) fn vsock_key() -> io::Result<VsockKey> {
    let disk = Disks::default().find(SCRATCH, Instant::now() + DISK_DEADLINE).map_err(io::Error::other)?;
    let mut disk = fs::File::open(disk)?;
    disk.seek(SeekFrom::End(-(VSOCK_KEY_BLOCK_BYTES as i64)))?;
    let mut key = VsockKey::default();
    disk.read_exact(&mut key)?;
    Ok(key)
}

/// Finds a disk and mounts it. A disk is listed a moment before it can be opened.
fn mount_disk(
    disks: &mut Disks,
    serial: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<()> {
    let deadline = Instant::now() + DISK_DEADLINE;
    let disk = disks.find(serial, deadline)?;
    make_directory(target)?;
    loop {
        match mount_plain(&disk, target, kind, flags, options) {
            Err(Errno::NXIO | Errno::NOENT) if Instant::now() < deadline => std::thread::sleep(DISK_RETRY),
            result => return result.context(|| format!("cannot mount the {serial} disk as {kind}")),
        }
    }
}

/// Whether the scratch disk outlives the machine.
#[must_use]
pub(crate) fn disk_is_kept() -> bool {
    // Without a command line nothing boots.
    fs::read_to_string("/proc/cmdline").is_ok_and(|text| CommandLine::parse(&text).kept_disk)
}

/// Mounts the scratch disk once more: what is mounted already is out of reach once the root is entered.
///
/// Usually it lives no longer than the sandbox: nothing on it has to survive a crash, so neither barriers nor
/// the initialisation of unused tables are worth their time. One that is kept has a journal and is flushed, what
/// is freed goes back to the host at once, and nothing more is written to it once it has errors.
///
/// # Errors
/// If it cannot be mounted.
pub(crate) fn mount_scratch_at(place: &str) -> Result<()> {
    let options = if disk_is_kept() {
        "discard,noinit_itable,errors=remount-ro"
    } else {
        "barrier=0,noinit_itable,noauto_da_alloc"
    };
    mount_disk(&mut Disks::default(), SCRATCH, place, "ext4", MountFlags::NOATIME, options)
}

fn mount_scratch() -> Result<()> {
    mount_scratch_at(SCRATCH_AT)?;
    make_directory(UPPER)?;
    make_directory("/scratch/work")
}

/// `redirect_dir` so that a directory of the image can be renamed, `metacopy` so that changing an
/// owner or a mode does not copy the file, `volatile` because nothing has to survive a crash.
///
/// On a disk that is kept it does, and the overlay of a machine that crashed is mounted again, which the kernel
/// refuses after `volatile`. Its files are whole, since the image may be a newer one the next time.
///
/// <https://docs.kernel.org/filesystems/overlayfs.html>
fn mount_overlay(layers: u16) -> Result<()> {
    let joined = format!("lowerdir={},upperdir={UPPER},workdir=/scratch/work", lower_directories(layers));
    let refinements = if disk_is_kept() {
        ",redirect_dir=on,metacopy=off,index=off"
    } else {
        ",redirect_dir=on,metacopy=on,index=off,volatile"
    };
    mount_overlay_on(JOINED, &joined, refinements)
}

/// An older kernel gets no refinements.
fn mount_overlay_on(target: &str, layers: &str, refinements: &str) -> Result<()> {
    let flags = MountFlags::NOATIME;
    mount_on("overlay", target, "overlay", flags, &format!("{layers}{refinements}"))
        .or_else(|_| mount_on("overlay", target, "overlay", flags, layers))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_layer_comes_first() {
        assert_eq!(lower_directories(0), "/lower");
        assert_eq!(lower_directories(3), "/3:/2:/1:/lower");
        // The options are a page at the most, in which the rest takes less than 256 bytes.
        assert!(lower_directories(500).len() < 4096 - 256);
    }
}
