//! The host programs that builds use.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A host program, or a file of a host package, that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingTool {
    /// The program's name, or the file's path.
    pub program: &'static str,
    /// The Debian and Ubuntu package that has it.
    pub package: &'static str,
    /// What it is needed for.
    pub needed_for: &'static str,
}

const TOOLS: [MissingTool; 8] = [
    MissingTool { program: "mmdebstrap", package: "mmdebstrap", needed_for: "the kernel and the root image" },
    MissingTool { program: "apt-get", package: "apt", needed_for: "the kernel and the root image" },
    MissingTool { program: "dpkg-deb", package: "dpkg", needed_for: "the kernel" },
    MissingTool { program: "mkfs.erofs", package: "erofs-utils", needed_for: "the root image" },
    MissingTool { program: "unshare", package: "util-linux", needed_for: "the kernel and the root image" },
    MissingTool { program: "find", package: "findutils", needed_for: "removing what a killed build left" },
    MissingTool { program: "mkfs.ext4", package: "e2fsprogs", needed_for: "scratch disks" },
    NEWUIDMAP,
];

const NEWUIDMAP: MissingTool =
    MissingTool { program: "newuidmap", package: "uidmap", needed_for: "building as an ordinary user" };

const KEYRING: MissingTool = MissingTool {
    program: "/usr/share/keyrings/debian-archive-keyring.gpg",
    package: "debian-archive-keyring",
    needed_for: "checking what comes from Debian",
};

/// What is missing on this host for building kernels, images and scratch disks, for the calling user:
/// root needs no `newuidmap`. Nothing is run.
#[must_use]
pub fn missing_tools() -> Vec<MissingTool> {
    let root = rustix::process::geteuid().is_root();
    let mut missing: Vec<_> = TOOLS
        .into_iter()
        .filter(|tool| !(root && tool.program == NEWUIDMAP.program) && find(tool.program).is_none())
        .collect();
    let keyring = Path::new(KEYRING.program);
    if !keyring.exists() && !keyring.with_extension("pgp").exists() {
        missing.push(KEYRING);
    }
    missing
}

/// The places of system programs: an ordinary user's PATH on Debian lacks the sbin half of them.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds a program in the system's directories.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    SYSTEM_PATH
        .split(':')
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Finds programs, or says what to install.
pub(crate) fn require(programs: &[&str]) -> Result<()> {
    let missing: Vec<MissingTool> =
        missing_tools().into_iter().filter(|tool| tool == &KEYRING || programs.contains(&tool.program)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    Err(Error::new(
        ErrorKind::MissingTool,
        format!("{} is not installed; it is needed for {}", first.program, first.needed_for),
    )
    .hint("viv doctor --fix")
    .hint(format!("apt install {}", packages.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_outside_of_an_ordinary_users_path() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
        assert!(require(&["no-such-program-is-listed"]).is_ok() || !missing_tools().is_empty());
    }
}
