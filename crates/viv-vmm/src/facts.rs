//! What this host can do: gathered once, handed to the planners as data.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Accel, AccelChoice, Error, ErrorKind, Result, sys, tsc};

/// The oldest QEMU that is supported: Ubuntu 24.04's series. Older ones were never tried.
pub const OLDEST_QEMU: (u32, u32) = (8, 2);

/// The oldest QEMU whose machines are saved and restored. Older ones were never tried.
pub const OLDEST_QEMU_FOR_TEMPLATES: (u32, u32) = (9, 0);

/// Whether KVM can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum Kvm {
    /// /dev/kvm opened and spoke its API.
    Usable,
    /// It cannot be used, and why.
    Unusable(String),
}

impl Kvm {
    /// Tries /dev/kvm.
    #[must_use]
    pub fn probe() -> Self {
        if !sys::has_virtualisation() {
            return Self::Unusable("the processor offers no virtualisation".to_owned());
        }
        let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        match opened.and_then(|kvm| sys::kvm_api_version(kvm.as_fd())) {
            Ok(12) => Self::Usable,
            Ok(version) => Self::Unusable(format!("/dev/kvm speaks API version {version} instead of 12")),
            Err(error) => Self::Unusable(match error.kind() {
                std::io::ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
                std::io::ErrorKind::PermissionDenied => "/dev/kvm may not be opened by this user".to_owned(),
                _ => format!("/dev/kvm cannot be used: {error}"),
            }),
        }
    }
}

/// QEMU as installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuBinary {
    /// The program's path.
    pub path: PathBuf,
    /// Its version as it prints it, such as `10.0.2`.
    pub version: String,
    /// Size and time of the file: changes whenever it is replaced.
    pub stamp: String,
}

impl QemuBinary {
    /// Finds QEMU in `search_path` (the form of `PATH`) and asks its version. The answer is
    /// remembered in `memory` until the file changes, since asking takes 30 ms.
    ///
    /// # Errors
    /// [`ErrorKind::VmmMissing`] or [`ErrorKind::VmmTooOld`].
    pub fn find(search_path: &std::ffi::OsStr, memory: &Path) -> Result<Self> {
        const PROGRAM: &str = "qemu-system-x86_64";
        let path = std::env::split_paths(search_path)
            .map(|directory| directory.join(PROGRAM))
            .find(|candidate| candidate.is_file())
            .ok_or_else(|| {
                Error::new(ErrorKind::VmmMissing, format!("{PROGRAM} is not installed"))
                    .hint("viv doctor --fix, or: sudo apt-get install qemu-system-x86")
            })?;
        let (version, stamp) = remembered_version(&path, memory)?;
        if parse_version(&version).is_none_or(|found| found < OLDEST_QEMU) {
            let (major, minor) = OLDEST_QEMU;
            return Err(Error::new(
                ErrorKind::VmmTooOld,
                format!("{} is QEMU {version}; at least {major}.{minor} is needed", path.display()),
            )
            .hint("viv doctor --fix (on Debian 12 it takes QEMU from bookworm-backports)"));
        }
        Ok(Self { path, version, stamp })
    }

    /// Whether templates can be made with it.
    #[must_use]
    pub fn makes_templates(&self) -> bool {
        parse_version(&self.version).is_some_and(|found| found >= OLDEST_QEMU_FOR_TEMPLATES)
    }
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    path: PathBuf,
    size: u64,
    modified: std::time::SystemTime,
    version: String,
}

/// The version, and the file's stamp.
fn remembered_version(path: &Path, memory: &Path) -> Result<(String, String)> {
    let io = |error| Error::new(ErrorKind::VmmMissing, format!("{} cannot be read", path.display())).source(error);
    let metadata = std::fs::metadata(path).map_err(io)?;
    let modified = metadata.modified().map_err(io)?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let stamp = format!("{} bytes, {}", metadata.len(), since.as_nanos());
    if let Ok(text) = std::fs::read(memory)
        && let Ok(known) = serde_json::from_slice::<Remembered>(&text)
        && known.path == path
        && known.size == metadata.len()
        && known.modified == modified
    {
        return Ok((known.version, stamp));
    }
    let output = std::process::Command::new(path).arg("--version").output().map_err(io)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .strip_prefix("QEMU emulator version ")
        .and_then(|rest| rest.split([' ', '\n', '(']).next())
        .ok_or_else(|| {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Error::new(ErrorKind::VmmMissing, format!("{} does not run as QEMU", path.display())).source(words)
        })?
        .to_owned();
    let known = Remembered { path: path.to_owned(), size: metadata.len(), modified, version };
    // Only a shortcut: without it the next start asks again.
    let partial = memory.with_extension(format!("{}.partial", std::process::id()));
    let _ = serde_json::to_vec(&known)
        .map_err(std::io::Error::from)
        .and_then(|text| std::fs::write(&partial, text))
        .and_then(|()| std::fs::rename(&partial, memory));
    Ok((known.version, stamp))
}

/// What a plan needs to know of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// QEMU.
    pub qemu: QemuBinary,
    /// KVM.
    pub kvm: Kvm,
    /// The time-stamp counter's rate in kHz.
    pub tsc_khz: u32,
    /// Processors this process may use.
    pub cpus: u32,
    /// The processor's model and features as Linux names them, in one line.
    pub processor: String,
    /// Whether /dev/vhost-vsock can be opened for reading and writing.
    pub vhost_vsock: bool,
}

impl HostFacts {
    /// Looks at the host. `memory` is a private directory for what is slow to find out.
    ///
    /// # Errors
    /// If QEMU is missing or too old.
    pub fn probe(memory: &Path) -> Result<Self> {
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        // Best effort: without the directory everything is asked anew.
        let _ = std::fs::create_dir_all(memory);
        Ok(Self {
            qemu: QemuBinary::find(&search_path, &memory.join("qemu.json"))?,
            kvm: Kvm::probe(),
            tsc_khz: tsc::frequency_khz(&memory.join("tsc-khz"))?,
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
            processor: processor(),
            vhost_vsock: std::fs::File::options().read(true).write(true).open("/dev/vhost-vsock").is_ok(),
        })
    }

    /// The accelerator for a choice.
    ///
    /// # Errors
    /// [`ErrorKind::AccelUnavailable`] if KVM was demanded and cannot be used.
    pub fn accel(&self, choice: AccelChoice) -> Result<Accel> {
        match (choice, &self.kvm) {
            (AccelChoice::Tcg, _) | (AccelChoice::Auto, Kvm::Unusable(_)) => Ok(Accel::Tcg),
            (AccelChoice::Auto | AccelChoice::Kvm, Kvm::Usable) => Ok(Accel::Kvm),
            (AccelChoice::Kvm, Kvm::Unusable(reason)) => {
                Err(Error::new(ErrorKind::AccelUnavailable, format!("KVM was asked for, but {reason}"))
                    .hint("viv doctor says what to do; --accel auto runs under emulation meanwhile"))
            }
        }
    }
}

/// What /proc/cpuinfo says of the first processor, without what changes as it runs.
fn processor() -> String {
    const NAMES: [&str; 7] = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"];
    // The file is as long as there are processors; the first one fits.
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open("/proc/cpuinfo") {
        // What cannot be read names no processor, which is the same one each time.
        let _ = file.take(16 * 1024).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().take_while(|line| !line.is_empty());
    let fields = first.filter_map(|line| line.split_once(':')).filter(|(name, _)| NAMES.contains(&name.trim()));
    fields.map(|(_, value)| value.trim()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fake_qemu(directory: &Path, prints: &str) {
        let path = directory.join("qemu-system-x86_64");
        std::fs::write(&path, format!("#!/bin/sh\necho '{prints}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn tells_missing_old_and_foreign_programs_apart() {
        let directory = tempfile::tempdir().unwrap();
        let find = || QemuBinary::find(directory.path().as_os_str(), &directory.path().join("memory"));
        assert_eq!(*find().unwrap_err().kind(), ErrorKind::VmmMissing);
        fake_qemu(directory.path(), "QEMU emulator version 7.2.9 (Debian 1:7.2)");
        let old = find().unwrap_err();
        assert_eq!(*old.kind(), ErrorKind::VmmTooOld);
        assert!(old.to_string().ends_with("is QEMU 7.2.9; at least 8.2 is needed"), "{old}");
        fake_qemu(directory.path(), "hello, I am another program altogether");
        assert_eq!(*find().unwrap_err().kind(), ErrorKind::VmmMissing);
        fake_qemu(directory.path(), "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)");
        let found = find().unwrap();
        assert_eq!(found.version, "10.0.2");
        assert!(found.makes_templates());
        let with = |version: &str| QemuBinary { version: version.to_owned(), ..found.clone() };
        assert!(with("9.0.0").makes_templates() && !with("8.2.9").makes_templates());
    }

    #[test]
    fn demanding_kvm_without_it_is_an_error_and_auto_is_not() {
        let facts = HostFacts {
            qemu: QemuBinary { path: "qemu".into(), version: "10.0.2".into(), stamp: String::new() },
            kvm: Kvm::Unusable("there is no /dev/kvm".into()),
            tsc_khz: 1,
            cpus: 1,
            processor: String::new(),
            vhost_vsock: false,
        };
        assert_eq!(facts.accel(AccelChoice::Auto).unwrap(), Accel::Tcg);
        let refused = facts.accel(AccelChoice::Kvm).unwrap_err();
        assert_eq!(refused.to_string(), "KVM was asked for, but there is no /dev/kvm");
    }
}
