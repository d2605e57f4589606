//! The ids that the root of a build's namespace and those below it are outside.
//!
//! Never those of the user, and never 0: whatever gets out of a build is nobody on the host.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, ErrorKind, Output, Result};
use crate::tools;

/// Ids of a namespace: 0 to 65535, of which Debian hands out all (nobody is 65534).
pub(crate) const COUNT: u32 = 65_536;

/// Where root's begin if it has no subordinate ids: above what systemd takes for containers, below
/// 2^31 (<https://systemd.io/UIDS-GIDS>).
const OF_ROOT: u32 = 0x7000_0000;

/// Where the two ranges begin on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    pub uid: u32,
    pub gid: u32,
}

impl Ids {
    /// Those of this process's user.
    ///
    /// # Errors
    /// [`ErrorKind::Namespaces`] if the user has none.
    pub(crate) fn of_user() -> Result<Self> {
        let me = rustix::process::geteuid();
        let name = fs::read_to_string("/etc/passwd").ok().and_then(|passwd| name_of(&passwd, me.as_raw()));
        let first = |path: &str| {
            let found = fs::read_to_string(path).ok().and_then(|text| range(&text, name.as_deref(), me.as_raw()));
            found.or(me.is_root().then_some(OF_ROOT))
        };
        match (first("/etc/subuid"), first("/etc/subgid")) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err(Error::new(
                ErrorKind::Namespaces,
                format!("packages cannot be installed: this user has no {COUNT} subordinate ids in /etc/subuid and /etc/subgid"),
            )
            .hint("viv doctor --fix")),
        }
    }

    /// Gives the user namespace of a process, which has none yet, its ids.
    pub(crate) fn map(self, process: u32) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            let write = |file: &str, first: u32| {
                fs::write(Path::new("/proc").join(process.to_string()).join(file), format!("0 {first} {COUNT}\n"))
            };
            return write("uid_map", self.uid)
                .and_then(|()| write("gid_map", self.gid))
                .map_err(|error| cannot(error.into()));
        }
        for (program, first) in [("newuidmap", self.uid), ("newgidmap", self.gid)] {
            let path = tools::find(program).ok_or_else(|| {
                Error::new(ErrorKind::MissingTool, format!("{program} is not installed")).hint("viv doctor --fix")
            })?;
            let numbers = [process, 0, first, COUNT].map(|number| number.to_string());
            let output = Command::new(path).args(numbers).env_clear().stdin(Stdio::null()).output();
            let output = output.map_err(|error| cannot(error.into()))?;
            if !output.status.success() {
                return Err(cannot(Output(String::from_utf8_lossy(&output.stderr).trim().to_owned()).into()));
            }
        }
        Ok(())
    }
}

fn cannot(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Namespaces, "the ids of a build's user namespace cannot be set")
        .source(source)
        .hint("viv doctor --fix")
}

/// The name of a user in a passwd(5) file.
fn name_of(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    users.find(|fields| fields.get(2) == Some(&uid.as_str())).map(|fields| fields[0].to_owned())
}

/// The first of [`COUNT`] ids that a subuid(5) file gives the user.
fn range(text: &str, name: Option<&str>, uid: u32) -> Option<u32> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (first, count) = (first.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
        let fits = count >= COUNT && first.checked_add(COUNT).is_some();
        ((Some(owner) == name || owner == uid) && fits).then_some(first)
    })
}

/// Whether an error is that of a kernel or a system that lets this user make no namespaces.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::PERM, Errno::NOSPC, Errno::USERS, Errno::ACCESS, Errno::NOSYS, Errno::INVAL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_that_is_large_enough() {
        let passwd = "root:x:0:0:root:/:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(name_of(passwd, 1001), None);
        let subuid = "other:100000:65536\nme:1:1000\nme:165536:65536\n1001:300000:65536\nme:4294967290:65536\n";
        assert_eq!(range(subuid, Some("me"), 1000), Some(165_536));
        assert_eq!(range(subuid, None, 1001), Some(300_000));
        assert_eq!(range(subuid, Some("nobody"), 65_534), None);
        assert_eq!(range("me:x\n:::\nme:4294967290:65536", Some("me"), 1), None);
    }
}
