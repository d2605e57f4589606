//! Finds the facts. Nothing here judges.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use viv_image::Cache;
use viv_net::device::find_program;
use viv_sandbox::Paths;

use super::facts::{Backports, Disk, Facts, Kvm, Memory, Namespaces, Qemu, Subordinate, Templates, Tool};
use crate::sys;

/// The hidden command that tries a user namespace out.
pub const NAMESPACE_PROBE: &str = "internal-namespace-probe";

/// What kernel, image and the building of them take.
const CACHE_BYTES: u64 = 3 << 30;
/// What a sandbox may want to write before anyone worries.
const STATE_BYTES: u64 = 1 << 30;

/// Looks at everything. What cannot be found out counts as absent.
#[must_use]
pub fn probe(paths: &Paths) -> Facts {
    let uid = rustix::process::geteuid().as_raw();
    let user = user_name(uid);
    let built = Cache::open(&paths.cache).ok().map(|cache| viv_image::is_built(&cache));
    Facts {
        root: uid == 0,
        kvm: kvm(&user),
        qemu: qemu(),
        namespaces: namespaces(),
        subordinate: subordinate(&user, uid),
        disks: [("images", &paths.cache, CACHE_BYTES), ("state", &paths.state, STATE_BYTES)]
            .into_iter()
            .filter_map(|(what, path, needed)| Some(Disk { what, free: free_space(path)?, path: path.clone(), needed }))
            .collect(),
        memory: memory(),
        missing_tools: viv_image::missing_tools()
            .into_iter()
            .map(|tool| Tool {
                program: tool.program.to_string(),
                package: tool.package.to_string(),
                needed_for: tool.needed_for.to_string(),
            })
            .collect(),
        kernel_built: built.as_ref().is_some_and(|built| built.kernel),
        image_built: built.as_ref().is_some_and(|built| built.root),
        templates: templates(paths),
        vsock: OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok(),
        missing_network_tools: ["passt", "ip", "nft"]
            .into_iter()
            .filter(|program| find_program(program).is_err())
            .collect(),
        apt: find_program("apt-get").is_ok(),
        backports: backports(),
        user,
    }
}

fn templates(paths: &Paths) -> Templates {
    let all = viv_sandbox::list_templates(paths).unwrap_or_default();
    Templates { count: all.len(), disk: all.iter().map(|info| info.disk_bytes).sum() }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The lines of a colon-separated file, as their fields.
fn database(path: &str) -> Vec<Vec<String>> {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

fn user_name(uid: u32) -> String {
    database("/etc/passwd")
        .into_iter()
        .find(|fields| fields.get(2).is_some_and(|id| *id == uid.to_string()))
        .and_then(|fields| fields.into_iter().next())
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| uid.to_string())
}

fn kvm(user: &str) -> Kvm {
    const DEVICE: &str = "/dev/kvm";
    // A run asks the same question, so that doctor and run never disagree.
    let viv_sandbox::Kvm::Unusable(reason) = viv_sandbox::Kvm::probe() else { return Kvm::Works };
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kvm::Missing { cpu_capable: cpu_capable() },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && cpu_capable() => denied(DEVICE, user),
        _ => Kvm::Broken { reason },
    }
}

fn cpu_capable() -> bool {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split(' ').any(|flag| flag == "vmx" || flag == "svm"))
}

fn denied(device: &str, user: &str) -> Kvm {
    let owner = fs::metadata(device).ok().filter(|found| found.file_type().is_char_device()).map(|found| found.gid());
    let group = database("/etc/group")
        .into_iter()
        .find(|fields| owner.is_some_and(|gid| gid != 0 && fields.get(2).is_some_and(|id| *id == gid.to_string())));
    let login_pending = group
        .as_ref()
        .and_then(|fields| fields.get(3))
        .is_some_and(|members| members.split(',').any(|member| member == user));
    Kvm::Denied { group: group.and_then(|fields| fields.into_iter().next()), login_pending }
}

fn qemu() -> Qemu {
    let Ok(path) = find_program("qemu-system-x86_64") else { return Qemu::Missing };
    let broken = |reason: String| Qemu::Broken { path: path.clone(), reason };
    match Command::new(&path).arg("--version").stdin(Stdio::null()).output() {
        Err(error) => broken(error.to_string()),
        Ok(output) if !output.status.success() => {
            broken(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it says nothing").to_owned())
        }
        Ok(output) => match parse_qemu_version(&String::from_utf8_lossy(&output.stdout)) {
            Some(version) => Qemu::Found { path, version },
            None => broken("it does not say its version".to_owned()),
        },
    }
}

/// Reads `QEMU emulator version 10.0.2 (...)`.
fn parse_qemu_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where an older Debian has a newer QEMU: its own mirror's backports.
fn backports() -> Option<Backports> {
    // Releases after this one bring a QEMU that is new enough.
    const CODENAME: &str = "bookworm";
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let has = |wanted: &str| release.lines().any(|line| line == wanted);
    if !(has("ID=debian") && has(&format!("VERSION_CODENAME={CODENAME}"))) {
        return None;
    }
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    parse_backports(&String::from_utf8_lossy(&targets.stdout), CODENAME)
}

fn parse_backports(targets: &str, codename: &str) -> Option<Backports> {
    let suite = format!("{codename}-backports");
    let find = |wanted: &str| {
        targets.lines().find_map(|line| {
            let mut fields = line.split(' ');
            (fields.next() == Some(wanted) && fields.next() == Some("main")).then(|| fields.next()).flatten()
        })
    };
    let mirror = find(codename)?.to_owned();
    Some(Backports { enabled: find(&suite).is_some(), mirror, suite })
}

fn namespaces() -> Namespaces {
    let executable = std::env::current_exe().unwrap_or_default();
    Namespaces {
        attempt: try_namespaces(&executable),
        maximum: read_number("/proc/sys/user/max_user_namespaces"),
        unprivileged_clone: read_number("/proc/sys/kernel/unprivileged_userns_clone").map(|value| value != 0),
        apparmor_restricts: read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
        apparmor_profile: Path::new("/etc/apparmor.d/viv").exists(),
        executable,
    }
}

/// Another process tries: namespaces cannot be left again, and AppArmor judges by executable.
fn try_namespaces(executable: &Path) -> Result<(), String> {
    let output = Command::new(executable)
        .arg(NAMESPACE_PROBE)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("viv cannot run itself: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no reason was given").to_owned())
}

/// The other process's part: makes namespaces and mounts in them, as the file daemon does.
///
/// # Errors
/// Which step failed, and the kernel's words.
pub fn namespace_probe() -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    sys::unshare_user_and_mounts().map_err(step("unshare"))?;
    fs::write("/proc/self/setgroups", "deny").map_err(step("setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(step("uid_map"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(step("gid_map"))?;
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| step("private mounts")(errno.into()))?;
    mount("tmpfs", "/tmp", "tmpfs", MountFlags::empty(), None).map_err(|errno| step("mounting a tmpfs")(errno.into()))
}

fn subordinate(user: &str, uid: u32) -> Subordinate {
    let (uids, users_end) = ranges(&database("/etc/subuid"), user, uid);
    let (gids, groups_end) = ranges(&database("/etc/subgid"), user, uid);
    Subordinate {
        uids,
        gids,
        next_free: users_end.max(groups_end).max(100_000),
        tools: find_program("newuidmap").is_ok() && find_program("newgidmap").is_ok(),
    }
}

/// How many ids the user has, and where the last range of anyone ends.
fn ranges(lines: &[Vec<String>], user: &str, uid: u32) -> (u64, u64) {
    let mut own = 0;
    let mut end = 0;
    for line in lines {
        let [name, first, count] = &line[..] else { continue };
        let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else { continue };
        let (first, count) = (u64::from(first), u64::from(count));
        end = end.max(first + count);
        if name == user || *name == uid.to_string() {
            own += count;
        }
    }
    (own, end)
}

/// Free space where a directory is, or will be made.
fn free_space(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let found = rustix::fs::fstatvfs(File::open(existing).ok()?).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// The host's memory, if its kernel says.
#[must_use]
pub fn memory() -> Option<Memory> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total: field("MemTotal:")?, available: field("MemAvailable:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_qemu_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some((10, 0)));
        assert_eq!(parse_qemu_version("QEMU emulator version 8.2.2"), Some((8, 2)));
        assert_eq!(parse_qemu_version("something else"), None);
    }

    #[test]
    fn backports_of_the_hosts_own_mirror() {
        let targets = "bookworm-security main http://s/\nbookworm contrib http://c/\nbookworm main http://m/debian/\n";
        let found =
            |enabled| Backports { suite: "bookworm-backports".into(), mirror: "http://m/debian/".into(), enabled };
        assert_eq!(parse_backports(targets, "bookworm"), Some(found(false)));
        let targets = format!("{targets}bookworm-backports main http://m/debian/\n");
        assert_eq!(parse_backports(&targets, "bookworm"), Some(found(true)));
        assert_eq!(parse_backports("", "bookworm"), None);
    }

    #[test]
    fn subordinate_ranges() {
        let lines: Vec<Vec<String>> = ["ann:100000:65536", "bob:165536:65536", "1001:300000:10", "broken", "x:y:z"]
            .iter()
            .map(|line| line.split(':').map(str::to_owned).collect())
            .collect();
        assert_eq!(ranges(&lines, "bob", 1001), (65546, 300_010));
        assert_eq!(ranges(&lines, "eve", 7), (0, 300_010));
    }
}
