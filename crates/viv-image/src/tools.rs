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

/// What building a kernel needs beside [`TOOLS`]; names that are paths are headers.
const KERNEL_TOOLS: [MissingTool; 10] = [
    MissingTool { program: "make", package: "make", needed_for: KERNEL_BUILD },
    MissingTool { program: "gcc", package: "gcc", needed_for: KERNEL_BUILD },
    MissingTool { program: "strip", package: "binutils", needed_for: KERNEL_BUILD },
    MissingTool { program: "flex", package: "flex", needed_for: KERNEL_BUILD },
    MissingTool { program: "bison", package: "bison", needed_for: KERNEL_BUILD },
    MissingTool { program: "bc", package: "bc", needed_for: KERNEL_BUILD },
    MissingTool { program: "tar", package: "tar", needed_for: KERNEL_BUILD },
    MissingTool { program: "xz", package: "xz-utils", needed_for: KERNEL_BUILD },
    MissingTool { program: "/usr/include/stdio.h", package: "libc6-dev", needed_for: KERNEL_BUILD },
    // The kernel's own checker of what was compiled reads object files with it.
    MissingTool { program: "/usr/include/libelf.h", package: "libelf-dev", needed_for: KERNEL_BUILD },
];

const KERNEL_BUILD: &str = "building a kernel";

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
    refuse(&missing).map_or(Ok(()), |error| Err(error.hint("viv doctor --fix").hint(install(&missing))))
}

/// Finds programs of e2fsprogs, which come with mkfs.ext4, or says what to install.
pub(crate) fn require_e2fsprogs(programs: &[&'static str]) -> Result<()> {
    let tool =
        |&program: &&'static str| MissingTool { program, package: "e2fsprogs", needed_for: "disks that are kept" };
    let missing: Vec<MissingTool> = programs.iter().filter(|program| find(program).is_none()).map(tool).collect();
    refuse(&missing).map_or(Ok(()), |error| Err(error.hint(install(&missing))))
}

/// Finds what building a kernel needs, the tools that fetch its source aside, or says what to install.
pub(crate) fn require_for_kernel() -> Result<()> {
    let is_there = |tool: &MissingTool| match tool.program.strip_prefix('/') {
        Some(_) => Path::new(tool.program).exists(),
        None => find(tool.program).is_some(),
    };
    let missing: Vec<MissingTool> = KERNEL_TOOLS.into_iter().filter(|tool| !is_there(tool)).collect();
    // Not doctor's business: nobody needs a kernel of one's own.
    refuse(&missing).map_or(Ok(()), |error| Err(error.hint(install(&missing))))
}

/// The error that names the first of them, if there is one.
fn refuse(missing: &[MissingTool]) -> Option<Error> {
    let first = missing.first()?;
    let message = format!("{} is not installed; it is needed for {}", first.program, first.needed_for);
    Some(Error::new(ErrorKind::MissingTool, message))
}

/// The command that installs them.
fn install(missing: &[MissingTool]) -> String {
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    format!("apt install {}", packages.join(" "))
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
