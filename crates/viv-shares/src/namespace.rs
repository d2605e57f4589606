//! Moves the daemon into namespaces of its own.
//!
//! An ordinary user becomes root of a user namespace that knows one user only: himself. Root gets a user namespace
//! too, in which every id keeps its number. It costs nothing, makes both cases run through the same code, and means
//! that a daemon taken over by its guest has no capability over the host: it can neither mount, nor trace or signal
//! processes outside, nor open files by handle, nor make device nodes or file capabilities the host would honour.
//!
//! There is no process id namespace: it would take another process that waits, and the filter already refuses
//! signals ([`crate::filter`]). `/proc` is not mounted again; one directory of it is cloned ([`crate::tree`]).

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, Signal, getegid, geteuid, getppid, set_parent_process_death_signal};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// The process that owns this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(Option<Pid>);

impl Owner {
    /// This process, whose parent says that it is it.
    pub(crate) fn parent(process: Pid) -> Self {
        Self(Some(process))
    }

    /// Whoever is the parent now.
    pub(crate) fn current() -> Self {
        Self(getppid())
    }

    /// Makes the kernel kill this process when its owner dies, and fails if that has already happened.
    ///
    /// The kernel forgets the wish when credentials change, so it is renewed after each change.
    pub(crate) fn bind(self) -> Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))
            .context(ErrorKind::Confinement, || "cannot tie the file daemon to its owner".to_owned())?;
        if getppid() != self.0 {
            return Err(Error::new(ErrorKind::Orphaned, "the owner of the file daemon is gone"));
        }
        Ok(())
    }
}

/// The ids that exist in the daemon's user namespace.
pub(crate) struct Maps {
    users: String,
    groups: String,
}

impl Maps {
    /// For whoever runs this process. They are read and not made up, because in a container some ids are missing.
    pub(crate) fn current() -> Result<Self> {
        if geteuid().is_root() {
            return Ok(Self {
                users: identity(&read_map("/proc/self/uid_map")?),
                groups: identity(&read_map("/proc/self/gid_map")?),
            });
        }
        Ok(Self { users: format!("0 {} 1\n", geteuid().as_raw()), groups: format!("0 {} 1\n", getegid().as_raw()) })
    }

    /// Gives them to a process that has entered a new user namespace. Only a process outside can do that: root's map
    /// takes privileges over the old namespace, which the other one no longer has.
    pub(crate) fn write(&self, process: Pid) -> io::Result<()> {
        let write = |file: &str, text: &str| {
            fs::OpenOptions::new()
                .write(true)
                .open(format!("/proc/{}/{file}", process.as_raw_nonzero()))?
                .write_all(text.as_bytes())
        };
        // The kernel wants this before the group map of an ordinary user; nobody needs supplementary groups here.
        write("setgroups", "deny")?;
        write("uid_map", &self.users)?;
        write("gid_map", &self.groups)
    }
}

/// Enters new user, mount, network, IPC and UTS namespaces, as root of the first once `map` has had it given its
/// [`Maps`], with all mounts private.
pub(crate) fn enter(map: impl FnOnce() -> io::Result<()>) -> Result<()> {
    let namespaces = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    sys::unshare(namespaces)
        .and_then(|()| map())
        .map_err(|error| denied("the file daemon cannot enter a user namespace", error))?;
    detach_mounts()
}

/// Joins the namespaces of `daemon` but for its mounts: from then on this process has no right over the host that the
/// host user has not.
///
/// `daemon` is a descriptor of a process. Needs to run in a process of one thread.
pub(crate) fn join(daemon: impl AsFd) -> Result<()> {
    let others = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    move_into_thread_name_spaces(daemon.as_fd(), others)
        .map_err(|errno| denied("the helper of the file daemon cannot join its namespaces", errno.into()))
}

/// Makes a copy of the mounts this process sees and moves it there, where it may mount.
pub(crate) fn copy_mounts() -> Result<()> {
    sys::unshare(UnshareFlags::NEWNS)
        .map_err(|error| denied("the helper of the file daemon cannot enter a mount namespace", error))?;
    detach_mounts()
}

/// Moves this process to the mounts that `daemon` sees, and to their root.
pub(crate) fn join_mounts(daemon: impl AsFd) -> Result<()> {
    move_into_thread_name_spaces(daemon.as_fd(), ThreadNameSpaceType::MOUNT)
        .map_err(|errno| denied("the helper of the file daemon cannot join its mounts", errno.into()))
}

/// Nothing mounted on the host from now on appears here: it would be writable inside a read-only share.
fn detach_mounts() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| denied("the file daemon may not mount in its own namespace", errno.into()))
}

fn read_map(path: &str) -> Result<String> {
    fs::read_to_string(path).context(ErrorKind::NamespaceDenied, || format!("cannot read {path}"))
}

/// A map in which every id known here keeps its number. In a container these are not all there are.
fn identity(map: &str) -> String {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (first, count) = (fields.next()?, fields.nth(1)?);
            Some(format!("{first} {first} {count}\n"))
        })
        .collect()
}

/// An error about namespaces, with what would mend it on this host.
fn denied(message: &str, error: io::Error) -> Error {
    let setting = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let facts = Facts {
        apparmor_restricts: setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        unprivileged_clone: setting("/proc/sys/kernel/unprivileged_userns_clone"),
        most_namespaces: setting("/proc/sys/user/max_user_namespaces"),
    };
    let mut denied = Error::new(ErrorKind::NamespaceDenied, message);
    for hint in hints(&facts, geteuid().is_root()) {
        denied = denied.hint(hint);
    }
    denied.source(error)
}

/// The kernel's settings about user namespaces; `None` where this kernel has no such setting.
#[derive(Default)]
struct Facts {
    apparmor_restricts: Option<String>,
    unprivileged_clone: Option<String>,
    most_namespaces: Option<String>,
}

fn hints(facts: &Facts, root: bool) -> Vec<String> {
    let is = |fact: &Option<String>, value: &str| fact.as_deref() == Some(value);
    let mut hints = Vec::new();
    if !root && is(&facts.apparmor_restricts, "1") {
        hints.push("AppArmor restricts user namespaces on this host: viv doctor --fix".to_owned());
    }
    if !root && is(&facts.unprivileged_clone, "0") {
        hints.push("sudo sysctl kernel.unprivileged_userns_clone=1".to_owned());
    }
    if is(&facts.most_namespaces, "0") {
        hints.push("sudo sysctl user.max_user_namespaces=65536".to_owned());
    }
    if hints.is_empty() {
        hints.push("in a container, it must allow user namespaces and mounts; otherwise: viv doctor --fix".to_owned());
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_keeps_the_numbers_it_knows() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        // A rootless container: its ids have other numbers outside, which don't matter.
        assert_eq!(
            identity("         0       1000          1\n         1     100000      65536\n"),
            "0 0 1\n1 1 65536\n"
        );
    }

    #[test]
    fn each_restriction_has_its_remedy() {
        let some = |value: &str| Some(value.to_owned());
        let restricted = Facts { apparmor_restricts: some("1"), ..Facts::default() };
        assert_eq!(hints(&restricted, false), ["AppArmor restricts user namespaces on this host: viv doctor --fix"]);
        let none_allowed =
            Facts { apparmor_restricts: some("1"), unprivileged_clone: some("0"), most_namespaces: some("0") };
        assert_eq!(hints(&none_allowed, true), ["sudo sysctl user.max_user_namespaces=65536"]);
        assert_eq!(hints(&none_allowed, false).len(), 3);
        assert!(hints(&Facts::default(), false)[0].contains("container"));
    }
}
