//! Finding out what is there. Quick where nothing is missing: no apt, no sudo.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Purpose;
use super::apt_sources::{self, Source};
use super::plan::{Facts, MINIMUM_QEMU, Privilege, Version};
use crate::{command, workspace};

/// How to see whether a package is there: by what it is wanted for, so that what was installed in
/// another way counts as well.
enum Sign {
    Program(&'static str),
    /// Any of these.
    File(&'static [&'static str]),
    PythonModule(&'static str),
}

struct Package {
    name: &'static str,
    sign: Sign,
    purposes: &'static [Purpose],
}

const fn package(name: &'static str, sign: Sign) -> Package {
    Package { name, sign, purposes: &[Purpose::Run, Purpose::Test, Purpose::Peers] }
}

const fn for_tests(name: &'static str, sign: Sign) -> Package {
    Package { name, sign, purposes: &[Purpose::Test] }
}

const fn for_peers(name: &'static str, sign: Sign) -> Package {
    Package { name, sign, purposes: &[Purpose::Peers] }
}

const PACKAGES: &[Package] = &[
    package("gcc", Sign::Program("cc")),
    // The guest is static, so the archive is what matters.
    package("libc6-dev", Sign::File(&["/usr/lib/x86_64-linux-gnu/libc.a", "/usr/lib64/libc.a", "/usr/lib/libc.a"])),
    package("pkgconf", Sign::Program("pkg-config")),
    package("libseccomp-dev", Sign::File(&["/usr/include/seccomp.h"])),
    package("libcap-ng-dev", Sign::File(&["/usr/include/cap-ng.h"])),
    package("qemu-system-data", Sign::File(&["/usr/share/qemu/qboot.rom"])),
    package("mmdebstrap", Sign::Program("mmdebstrap")),
    package("erofs-utils", Sign::Program("mkfs.erofs")),
    package("e2fsprogs", Sign::Program("mkfs.ext4")),
    package("uidmap", Sign::Program("newuidmap")),
    package(
        "debian-archive-keyring",
        Sign::File(&[
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.pgp",
        ]),
    ),
    for_tests("tmux", Sign::Program("tmux")),
    for_tests("git", Sign::Program("git")),
    for_tests("cpio", Sign::Program("cpio")),
    // What reaches sandboxes from outside, and what says whether a unit is one.
    for_tests("openssh-client", Sign::Program("ssh")),
    for_tests("rsync", Sign::Program("rsync")),
    for_tests("systemd", Sign::Program("systemd-analyze")),
    // What network devices take, and the namespaces they are tested in.
    for_tests("passt", Sign::Program("passt")),
    for_tests("nftables", Sign::Program("nft")),
    for_tests("iproute2", Sign::Program("ip")),
    // Whose registries sandboxes are let to. cargo and apt are there.
    for_tests("npm", Sign::Program("npm")),
    for_tests("python3-pip", Sign::PythonModule("pip")),
    // Whose packages sandboxes are shown.
    for_tests("nix-bin", Sign::Program("nix-build")),
    // A registry, what fills it, and what says how its images are unpacked.
    for_tests("docker-registry", Sign::Program("docker-registry")),
    for_tests("skopeo", Sign::Program("skopeo")),
    for_tests("umoci", Sign::Program("umoci")),
    // What configuring a kernel takes, and building one.
    for_tests("make", Sign::Program("make")),
    for_tests("flex", Sign::Program("flex")),
    for_tests("bison", Sign::Program("bison")),
    for_tests("bc", Sign::Program("bc")),
    for_tests("libelf-dev", Sign::File(&["/usr/include/libelf.h"])),
    Package { name: "xz-utils", sign: Sign::Program("xz"), purposes: &[Purpose::Test, Purpose::Peers] },
    // Debian keeps what fills an environment apart from python3.
    for_peers("python3-venv", Sign::PythonModule("ensurepip")),
    // All that a small image has; so has the guest of another.
    Package { name: "busybox-static", sign: Sign::Program("busybox"), purposes: &[Purpose::Test, Purpose::Peers] },
    for_peers("kmod", Sign::Program("depmod")),
    // virtme-ng's guest finds its standard output by it.
    for_peers("udev", Sign::File(&["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"])),
];

/// What was found.
pub fn probe(purpose: Purpose) -> Result<Facts> {
    let os_release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let missing_packages: Vec<&'static str> = PACKAGES
        .iter()
        .filter(|package| package.purposes.contains(&purpose))
        .filter(|package| match package.sign {
            Sign::Program(name) => command::find_program(name).is_none(),
            Sign::PythonModule(name) => {
                command::capture(Command::new("python3").args(["-c", &format!("import {name}")])).is_err()
            }
            Sign::File(paths) => !paths.iter().any(|path| Path::new(path).exists()),
        })
        .map(|package| package.name)
        .collect();
    let qemu = command::capture(Command::new("qemu-system-x86_64").arg("--version"))
        .ok()
        .and_then(|text| Version::find_in(&text));
    let qemu_is_fine = qemu.is_some_and(|version| version >= MINIMUM_QEMU);
    let is_root = rustix::process::geteuid().is_root();
    let user = user_name(rustix::process::geteuid().as_raw());
    let subuid = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let subgid = fs::read_to_string("/etc/subgid").unwrap_or_default();
    let mut facts = Facts {
        distribution: os_release_field(&os_release, "ID"),
        distribution_version: os_release_field(&os_release, "VERSION_ID"),
        codename: os_release_field(&os_release, "VERSION_CODENAME"),
        privilege: if is_root { Privilege::Root } else { Privilege::None },
        missing_packages,
        qemu,
        qemu_candidate: None,
        apt_sources: Vec::new(),
        lacks_subordinate_ids: !is_root && [&subuid, &subgid].iter().any(|text| !has_range(text, &user)),
        next_subordinate_id: next_subordinate_id(),
        user,
        apparmor_in_the_way: !is_root && apparmor_in_the_way(),
        target_directory: workspace::target_directory()?,
        lacks_nextest: purpose == Purpose::Test && command::find_program("cargo-nextest").is_none(),
    };
    if !qemu_is_fine {
        facts.qemu_candidate = qemu_candidate();
        facts.apt_sources = configured_sources();
    }
    let needs_root = !(facts.missing_packages.is_empty() && qemu_is_fine)
        || facts.lacks_subordinate_ids
        || facts.apparmor_in_the_way;
    if needs_root && !is_root && command::capture(Command::new("sudo").args(["-n", "true"])).is_ok() {
        facts.privilege = Privilege::Sudo;
    }
    Ok(facts)
}

/// The first id above every range in /etc/subuid and /etc/subgid.
pub fn next_subordinate_id() -> u32 {
    ["/etc/subuid", "/etc/subgid"]
        .into_iter()
        .map(|path| next_free(&fs::read_to_string(path).unwrap_or_default()))
        .max()
        .unwrap_or(0)
}

fn os_release_field(text: &str, name: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
        .unwrap_or_default()
}

fn user_name(uid: u32) -> String {
    fs::read_to_string("/etc/passwd")
        .unwrap_or_default()
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid.to_string()))
        .and_then(|line| line.split(':').next())
        .map_or_else(|| uid.to_string(), str::to_owned)
}

fn has_range(text: &str, user: &str) -> bool {
    ranges(text).any(|(name, _, count)| name == user && count > 0)
}

fn next_free(text: &str) -> u32 {
    ranges(text).map(|(_, first, count)| first.saturating_add(count)).max().unwrap_or(0)
}

fn ranges(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// Ubuntu lets only programs with a profile make user namespaces with capabilities in them.
fn apparmor_in_the_way() -> bool {
    let restricts = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
        .is_ok_and(|value| value.trim() == "1");
    restricts && !Path::new("/etc/apparmor.d/viv-development").exists()
}

fn qemu_candidate() -> Option<Version> {
    let text =
        command::capture(Command::new("apt-cache").args(["policy", "qemu-system-x86"]).env("LC_ALL", "C")).ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    Version::find_in(line)
}

/// The host's suite, and where its packages are from.
pub fn codename_and_sources() -> Result<(String, Vec<Source>)> {
    let os_release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    Ok((os_release_field(&os_release, "VERSION_CODENAME"), configured_sources()))
}

fn configured_sources() -> Vec<Source> {
    let directory = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = directory.collect();
    paths.sort();
    paths.insert(0, "/etc/apt/sources.list".into());
    let mut sources = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(apt_sources::parse_one_line(&text)),
            Some("sources") => sources.extend(apt_sources::parse_deb822(&text)),
            _ => {}
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_fields_with_and_without_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(os_release_field(text, "ID"), "debian");
        assert_eq!(os_release_field(text, "VERSION_ID"), "12");
        assert_eq!(os_release_field(text, "VERSION_CODENAME"), "");
    }

    #[test]
    fn subordinate_ranges() {
        let text = "a:100000:65536\nb:165536:65536\nnonsense\nc:x:1\n";
        assert!(has_range(text, "a") && !has_range(text, "c") && !has_range(text, "d"));
        assert_eq!(next_free(text), 231_072);
        assert_eq!(next_free(""), 0);
    }
}
