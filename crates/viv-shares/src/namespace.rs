//! Moves the daemon into namespaces of its own.
//!
//! An ordinary user becomes root of a user namespace that knows one user only: himself. Root gets a user namespace
//! too, in which every id keeps its number. It costs nothing, makes both cases run through the same code, and means
//! that a daemon taken over by its guest has no capability over the host: it can neither mount, nor trace or signal
//! processes outside, nor open files by handle, nor make device nodes or file capabilities the host would honour.
//!
//! There is no process id namespace: it would take a second process that waits, and the filter already refuses
//! signals ([`crate::filter`]). `/proc` is not mounted again; one directory of it is cloned ([`crate::tree`]).

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{
    Pid, Signal, WaitOptions, getegid, geteuid, getpid, getppid, kill_process, set_parent_process_death_signal, waitpid,
};
use rustix::thread::UnshareFlags;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// The process that owns this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(Option<Pid>);

impl Owner {
    /// Whoever is the parent now.
    pub(crate) fn current() -> Self {
        Self(getppid())
    }

    /// Makes the kernel kill this process when its owner dies, and fails if that has already happened.
    ///
    /// The kernel forgets the wish when credentials change, so it is renewed after each change.
    pub(crate) fn bind(self) -> Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))
            .context(ErrorKind::Confinement, || "cannot tie the file daemon to its monitor".to_owned())?;
        if getppid() != self.0 {
            return Err(Error::new(ErrorKind::Orphaned, "the monitor of the file daemon is gone"));
        }
        Ok(())
    }
}

/// Enters new user, mount, network, IPC and UTS namespaces, as root of the first, with all mounts private.
pub(crate) fn enter() -> Result<()> {
    let maps = if geteuid().is_root() {
        Maps { users: identity(&read_map("/proc/self/uid_map")?), groups: identity(&read_map("/proc/self/gid_map")?) }
    } else {
        Maps { users: format!("0 {} 1\n", geteuid().as_raw()), groups: format!("0 {} 1\n", getegid().as_raw()) }
    };
    let namespaces = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    unshare_with_maps(namespaces, &maps)?;
    // Nothing mounted on the host from now on appears here: it would be writable inside a read-only share.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| denied("the file daemon may not mount in its own namespace", errno.into()))
}

struct Maps {
    users: String,
    groups: String,
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

/// Enters the namespaces while a helper that stays outside writes the maps: root's map takes privileges over the
/// old user namespace, which this process no longer has once it is in the new one.
fn unshare_with_maps(namespaces: UnshareFlags, maps: &Maps) -> Result<()> {
    let trouble = |what: &str| format!("cannot {what} for the file daemon's namespaces");
    let (mut here, mut there) =
        UnixStream::pair().context(ErrorKind::NamespaceDenied, || trouble("make a socket pair"))?;
    let daemon = getpid();
    // The helper owns its end: this process keeps no copy, so it sees the end of the stream if the helper dies.
    let helper = sys::fork(move || {
        // The helper has a copy of this process's end, so it would not see that one's death.
        if Owner(Some(daemon)).bind().is_err() || there.read_exact(&mut [0]).is_err() {
            return 1;
        }
        let errno = write_maps(daemon, maps).err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
        u8::from(there.write_all(&errno.to_ne_bytes()).is_err())
    })
    .context(ErrorKind::NamespaceDenied, || trouble("start a helper"))?;

    let entered = sys::unshare(namespaces);
    let mapped = entered.and_then(|()| {
        here.write_all(&[0])?;
        let mut errno = [0; size_of::<i32>()];
        here.read_exact(&mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    });
    if mapped.is_err() {
        // It may still wait for a word. It is this process's child and not reaped yet: the id is its own.
        let _ = kill_process(helper, Signal::KILL);
    }
    while matches!(waitpid(Some(helper), WaitOptions::empty()), Err(Errno::INTR)) {}
    mapped.map_err(|error| denied("the file daemon cannot enter a user namespace", error))
}

fn write_maps(process: Pid, maps: &Maps) -> io::Result<()> {
    let write = |file: &str, text: &str| {
        fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{}/{file}", process.as_raw_nonzero()))?
            .write_all(text.as_bytes())
    };
    // The kernel wants this before the group map of an ordinary user; nobody needs supplementary groups here.
    write("setgroups", "deny")?;
    write("uid_map", &maps.users)?;
    write("gid_map", &maps.groups)
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
