//! Runs a program in namespaces of its own, with no more of the host than is listed.
//!
//! ```text
//! viv ─► guard: new user namespace; ids from viv; then mount, pid, ipc, uts, cgroup and net namespaces
//!          └─► process 1: mounts, root by pivot_root, limits, capabilities; becomes the program
//! ```
//!
//! All of this happens between fork and exec, by system calls alone, so no program of the host takes
//! part, none of the image runs before it is confined, and any process can build. The guard stays
//! outside of the process namespace: it kills process 1, and thereby everything in there, when viv is
//! gone, however that ended, and holds the build's locks until all of it is.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, Gid, Uid, UnshareFlags};

use crate::sys;

/// The number that the report's descriptor has in a confined program.
pub(crate) const REPORT: i32 = 3;

/// The most directories that are bound.
const MAX_BINDS: usize = 8;

/// What a program that installs packages may do as root, of what it could do in its namespaces: own,
/// change and read every file, become other users, set file capabilities, use chroot(2). Not: mount,
/// make interfaces, trace, raise limits.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SYS_CHROOT);

/// Limits of each program: no core dumps, enough files for a package manager, an end to fork bombs.
const LIMITS: [(Resource, u64); 3] = [(Resource::Core, 0), (Resource::Nofile, 65_536), (Resource::Nproc, 8192)];

/// Devices of the host that are safe in anyone's hands.
const DEVICES: [(&CStr, &CStr); 6] = [
    (c"/dev/null", c"/dev/null"),
    (c"/dev/zero", c"/dev/zero"),
    (c"/dev/full", c"/dev/full"),
    (c"/dev/random", c"/dev/random"),
    (c"/dev/urandom", c"/dev/urandom"),
    (c"/dev/tty", c"/dev/tty"),
];

const DEVICE_LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
    (c"pts/ptmx", c"/dev/ptmx"),
];

/// What is mounted besides, over directories that are made if they are not there.
const MOUNT_POINTS: [&CStr; 5] = [c"/proc", c"/dev", c"/run", c"/tmp", c"/viv-build"];

/// What a program sees as its root.
#[derive(Debug)]
pub(crate) struct RootView {
    /// Options of overlayfs: directories are relative to where the program starts.
    pub overlay: CString,
    /// An empty directory, relative to the same.
    pub mount_point: CString,
    /// Directories that it sees, relative to the same, where they are, in order, and whether it may write.
    pub binds: Vec<(CString, CString, bool)>,
    /// It has the host's network; none otherwise, not even a loopback interface that is up.
    pub network: bool,
}

/// How a process gets from where it is into its confinement. Everything it needs is made beforehand.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// What it sees; none: the host's root, as one of the ids that are no one there.
    pub root: Option<RootView>,
    /// Takes the process's id when its user namespace is there, and at a failure the number of a
    /// [`Stage`]: four bytes each, native.
    pub progress: OwnedFd,
    /// Gives one byte when the ids are set.
    pub proceed: OwnedFd,
    /// Ends when viv is gone.
    pub alive: OwnedFd,
    /// Becomes descriptor [`REPORT`] of the program.
    pub report: Option<OwnedFd>,
    /// Locks that are held until all of it is gone.
    pub locks: Vec<File>,
}

/// What was being done when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Stage {
    UserNamespace,
    Ids,
    Namespaces,
    Overlay,
    Mounts,
    Root,
    Limits,
}

impl Stage {
    const ALL: [(Self, &'static str); 7] = [
        (Self::UserNamespace, "making a user namespace"),
        (Self::Ids, "becoming its root"),
        (Self::Namespaces, "making namespaces"),
        (Self::Overlay, "mounting the layers"),
        (Self::Mounts, "mounting what a root needs"),
        (Self::Root, "changing the root"),
        (Self::Limits, "setting limits"),
    ];

    /// The stage of that number, and what it does.
    pub(crate) fn of(number: u32) -> Option<(Self, &'static str)> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

impl Confinement {
    /// Enters; an error is reported to `progress` as well.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let mut stage = Stage::UserNamespace;
        self.enter_at(&mut stage).inspect_err(|_| {
            // Nobody may be listening any more.
            let _ = rustix::io::write(&self.progress, &(stage as u32).to_ne_bytes());
        })
    }

    fn enter_at(&self, stage: &mut Stage) -> io::Result<()> {
        sys::close_on_exec()?;
        // Neither the terminal's signals nor the keys of the user's session are the program's.
        rustix::process::setsid()?;
        sys::forget_keys()?;
        sys::unshare(UnshareFlags::NEWUSER)?;
        *stage = Stage::Ids;
        let id = rustix::process::getpid().as_raw_pid().unsigned_abs();
        rustix::io::write(&self.progress, &id.to_ne_bytes())?;
        if rustix::io::retry_on_intr(|| rustix::io::read(&self.proceed, &mut [0; 1]))? == 0 {
            return Err(Errno::CANCELED.into());
        }
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        *stage = Stage::Namespaces;
        let mut namespaces = UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        if self.root.is_some() {
            namespaces |= UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP;
        }
        if !self.root.as_ref().is_some_and(|root| root.network) {
            namespaces |= UnshareFlags::NEWNET;
        }
        sys::unshare(namespaces)?;
        let (guarded, guarding) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        if let Some(child) = sys::fork()? {
            self.guard(child, guarding.as_fd());
        }
        drop(guarding);
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if is_over(guarded.as_fd()) {
            return Err(Errno::CANCELED.into());
        }
        if let Some(root) = &self.root {
            root.enter(stage)?;
        }
        *stage = Stage::Limits;
        self.limit()
    }

    /// What the guard does until all is over.
    fn guard(&self, child: Pid, guarding: BorrowedFd<'_>) -> ! {
        let mut kept: [BorrowedFd<'_>; 10] = [guarding; 10];
        let mut count = 2;
        kept[1] = self.alive.as_fd();
        for lock in self.locks.iter().take(kept.len() - 2) {
            kept[count] = lock.as_fd();
            count += 1;
        }
        kept[..count].sort_unstable_by_key(AsRawFd::as_raw_fd);
        // What viv has open would stay open with the guard: pipes above all, whose end someone waits for.
        sys::close_others(&kept[..count]);
        if let Ok(process) = rustix::process::pidfd_open(child, PidfdFlags::empty()) {
            loop {
                let mut both =
                    [PollFd::new(&process, PollFlags::IN), PollFd::new(&self.alive, PollFlags::IN | PollFlags::HUP)];
                match poll(&mut both, None) {
                    Err(Errno::INTR) => continue,
                    _ if both[0].revents().is_empty() => {
                        let _ = rustix::process::kill_process(child, Signal::KILL);
                        break;
                    }
                    _ => break,
                }
            }
        } else {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        // Process 1 of a namespace is gone when all others of it are.
        loop {
            match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => sys::exit(code),
                    (None, Some(signal)) => sys::exit(128 + signal),
                    (None, None) => {}
                },
                _ => sys::exit(125),
            }
        }
    }

    /// The last steps of process 1, after which it can do no more than the program may.
    fn limit(&self) -> io::Result<()> {
        for (resource, value) in LIMITS {
            let ceiling = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX).min(value);
            rustix::process::setrlimit(resource, Rlimit { current: Some(ceiling), maximum: Some(ceiling) })?;
        }
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        if let Some(report) = &self.report {
            sys::place(report.as_fd(), REPORT)?;
        }
        if self.root.is_some() {
            for number in 0..64 {
                let capability = CapabilitySet::from_bits_retain(1 << number);
                if CAPABILITIES.contains(capability) {
                    continue;
                }
                match rustix::thread::remove_capability_from_bounding_set(capability) {
                    // Beyond the last one that the kernel knows.
                    Err(Errno::INVAL) => break,
                    other => other?,
                }
            }
            rustix::thread::set_no_new_privs(true)?;
        }
        Ok(())
    }
}

impl RootView {
    fn enter(&self, stage: &mut Stage) -> io::Result<()> {
        *stage = Stage::Overlay;
        mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        mount(c"overlay", &*self.mount_point, c"overlay", MountFlags::NODEV, &*self.overlay)?;
        *stage = Stage::Mounts;
        // From here on everything is held by descriptors until the new root is the only one: then no
        // path of the image, whatever it links to, leads anywhere else.
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let proc = file_system(c"proc", &[], quiet | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        let dev = file_system(c"tmpfs", &[(c"mode", c"755"), (c"size", c"64k")], MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        let shm = file_system(c"tmpfs", &[(c"mode", c"1777")], quiet)?;
        let run = file_system(c"tmpfs", &[(c"mode", c"755")], quiet)?;
        let terminals = file_system(c"devpts", &[(c"ptmxmode", c"666"), (c"mode", c"620"), (c"gid", c"5")], quiet)?;
        let mut devices = [const { None::<OwnedFd> }; DEVICES.len()];
        for (slot, (source, _)) in devices.iter_mut().zip(DEVICES) {
            *slot = clone_of(source).ok();
        }
        let mut binds = [const { None::<OwnedFd> }; MAX_BINDS];
        for (slot, (source, _, _)) in binds.iter_mut().zip(&self.binds) {
            *slot = Some(clone_of(source)?);
        }

        *stage = Stage::Root;
        rustix::process::chdir(&*self.mount_point)?;
        rustix::process::pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;

        *stage = Stage::Mounts;
        for point in MOUNT_POINTS {
            directory(point)?;
        }
        put(&proc, c"/proc")?;
        put(&dev, c"/dev")?;
        put(&run, c"/run")?;
        for (device, (_, target)) in devices.iter().zip(DEVICES) {
            if let Some(device) = device {
                drop(rustix::fs::open(target, OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty())?);
                put(device, target)?;
            }
        }
        for point in [c"/dev/pts", c"/dev/shm"] {
            directory(point)?;
        }
        put(&terminals, c"/dev/pts")?;
        put(&shm, c"/dev/shm")?;
        for (target, link) in DEVICE_LINKS {
            rustix::fs::symlink(target, link)?;
        }
        for (bind, (_, target, writable)) in binds.iter().flatten().zip(&self.binds) {
            sys::restrict_mount(bind.as_fd(), !writable)?;
            if rustix::fs::fstat(bind)?.st_mode & 0o170_000 == 0o100_000 {
                file(target)?;
            }
            put(bind, target)?;
        }
        // No namespaces within: there an attacker would have the capabilities again that are taken away
        // below, if over nothing of value.
        let limit =
            rustix::fs::open(c"/proc/sys/user/max_user_namespaces", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&limit, b"0")?;
        rustix::system::sethostname(b"viv-build")?;
        rustix::process::chdir(c"/viv-build/job")?;
        Ok(())
    }
}

/// Whether the other end of a pipe is closed.
fn is_over(pipe: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::new(&pipe, PollFlags::IN | PollFlags::HUP)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut one, Some(&now)).is_ok_and(|count| count > 0)
}

/// A file system of this namespace, not mounted anywhere yet.
fn file_system(kind: &CStr, options: &[(&CStr, &CStr)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(context.as_fd(), *name, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// What is at a path, as a mount that is not anywhere yet.
fn clone_of(path: &CStr) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// Mounts at a path, whose last component is never followed.
fn put(mount: &OwnedFd, path: &CStr) -> io::Result<()> {
    Ok(move_mount(mount.as_fd(), c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes sure of a file to mount over: a link, which may lead nowhere in here, gives way to an empty one.
fn file(path: &CStr) -> io::Result<()> {
    let there = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW);
    if there.is_ok_and(|status| status.st_mode & 0o170_000 == 0o120_000) {
        rustix::fs::unlink(path)?;
    }
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    drop(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?);
    Ok(())
}

fn directory(path: &CStr) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}
