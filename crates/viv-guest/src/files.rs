//! Small files that the host puts into a sandbox, and the certificate authorities it trusts.
//!
//! All of it is written before there are shares: nothing here is ever written to the host, and a share
//! covers what was written in its place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use viv_proto::message::{FailureKind, GuestFile, User};

use crate::error::{Context, Result, error};
use crate::identity::is_plain_path;

/// What a file's mode may have.
const PERMISSIONS: u32 = 0o777;

/// Checks files before anything is written.
///
/// # Errors
/// [`FailureKind::BadRequest`], naming the file.
pub fn check(files: &[GuestFile], certificates: Option<&str>) -> Result<()> {
    for file in files {
        let path = Path::new(&file.path);
        if !is_plain_path(path) || path.file_name().is_none() || file.path.ends_with('/') {
            return Err(error(FailureKind::BadRequest, format!("configure: {} is not a file's plain path", file.path)));
        }
        if file.mode & !PERMISSIONS != 0 {
            return Err(error(FailureKind::BadRequest, format!("configure: {:o} is not a file's mode", file.mode)));
        }
    }
    match certificates {
        Some(path) if !is_plain_path(Path::new(path)) => {
            Err(error(FailureKind::BadRequest, "configure: the certificates are not at a plain absolute path"))
        }
        _ => Ok(()),
    }
}

/// Writes a file beneath `root`. Links on the way to it are followed within `root`; one in its place is
/// replaced. Directories that are missing are made, for whoever the file belongs to.
///
/// # Errors
/// If it cannot be written.
pub fn write(root: &Path, file: &GuestFile, user: &User) -> Result<()> {
    try_write(root, file, user).context(|| format!("cannot write {}", file.path))
}

fn try_write(root: &Path, file: &GuestFile, user: &User) -> io::Result<()> {
    let owner = file.of_user.then(|| (Uid::from_raw(user.uid), Gid::from_raw(user.gid)));
    let path = Path::new(&file.path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = open_directory(root, path.parent().unwrap_or(Path::new("/")), owner)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Nobody else reads it before it is who may.
    let private = Mode::from_raw_mode(file.mode & 0o700);
    let opened = match rustix::fs::openat(&directory, name, flags, private) {
        Err(Errno::LOOP) => {
            rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
            rustix::fs::openat(&directory, name, flags | OFlags::EXCL, private)?
        }
        opened => opened?,
    };
    let mut opened = File::from(opened);
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(&opened, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(&opened, Mode::from_raw_mode(file.mode & PERMISSIONS))?;
    opened.write_all(file.content.as_bytes())
}

/// Opens a directory beneath `root`, making what is missing.
fn open_directory(root: &Path, path: &Path, owner: Option<(Uid, Gid)>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let open = |path: &Path| rustix::fs::openat2(&root, path, flags, Mode::empty(), beneath);
    match open(path) {
        Err(Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    let mut known = Path::new("/").to_path_buf();
    let mut directory = open(&known)?;
    for part in path.components() {
        let Component::Normal(part) = part else { continue };
        known.push(part);
        directory = match open(&known) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755))?;
                // Not through a link: the directory just made.
                let made = rustix::fs::openat(directory.as_fd(), part, flags | OFlags::NOFOLLOW, Mode::empty())?;
                if let Some((uid, gid)) = owner {
                    rustix::fs::chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
                }
                made
            }
            opened => opened?,
        };
    }
    Ok(directory)
}

/// Where distributions keep all certificate authorities in one file: Debian's and Alpine's, Fedora's old
/// and new, openSUSE's, Alpine's and OpenBSD's, and the one that Debian's OpenSSL looks for first.
const BUNDLES: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
    "usr/lib/ssl/cert.pem",
];

/// Points all of them that the image has at `certificates`, Debian's in any case. A link, and not a mount,
/// because a package's script may replace it.
///
/// # Errors
/// If that cannot be done for Debian's.
pub fn link_certificates(root: &Path, certificates: &str) -> Result<()> {
    for (index, place) in BUNDLES.iter().enumerate() {
        let place = root.join(place);
        let wanted = index == 0;
        // Debian's OpenSSL has a place for it that is empty.
        let there = place.symlink_metadata().is_ok()
            || place.ends_with("ssl/cert.pem") && place.parent().is_some_and(Path::is_dir);
        if !wanted && !there {
            continue;
        }
        let linked = replace_by_link(&place, certificates);
        if wanted {
            linked.context(|| format!("cannot make {}", place.display()))?;
        }
    }
    Ok(())
}

fn replace_by_link(place: &Path, target: &str) -> io::Result<()> {
    match symlink(target, place) {
        Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(place)?;
            symlink(target, place)
        }
        Err(reason) if matches!(reason.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            make_directories(place.parent().unwrap_or(Path::new("/")))?;
            symlink(target, place)
        }
        linked => linked,
    }
}

/// Makes a directory and those above it. A link that leads nowhere, or anything else that is no directory,
/// makes way.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directories(parent)?;
    }
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path)?;
    }
    fs::create_dir(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn user() -> User {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        User { name: "agent".into(), uid, gid, home: "/home/agent".into() }
    }

    fn file(path: &str) -> GuestFile {
        GuestFile { path: path.into(), content: "text".into(), mode: 0o640, of_user: true }
    }

    #[test]
    fn files_come_with_their_directories_and_modes() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("home/agent")).unwrap();
        write(root.path(), &file("/home/agent/.config/tool/settings"), &user()).unwrap();
        let made = root.path().join("home/agent/.config/tool/settings");
        assert_eq!(fs::read_to_string(&made).unwrap(), "text");
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(made.parent().unwrap()).unwrap().mode() & 0o777, 0o755);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o600)).unwrap();
        let shorter = GuestFile { content: "x".into(), ..file("/home/agent/.config/tool/settings") };
        write(root.path(), &shorter, &user()).unwrap();
        assert_eq!(fs::read_to_string(&made).unwrap(), "x");
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn no_link_leads_out() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(outside.path().join("kept"), "kept").unwrap();
        symlink(outside.path().join("kept"), root.path().join("etc/file")).unwrap();
        symlink("/var/real", root.path().join("etc/linked")).unwrap();
        symlink("../../../../../..", root.path().join("etc/up")).unwrap();
        write(root.path(), &file("/etc/file"), &user()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("etc/file")).unwrap(), "text");
        assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "kept");
        write(root.path(), &file("/etc/up/here"), &user()).unwrap();
        assert!(root.path().join("here").exists());
        fs::create_dir_all(root.path().join("var/real")).unwrap();
        write(root.path(), &file("/etc/linked/deep/file"), &user()).unwrap();
        assert!(root.path().join("var/real/deep/file").exists());
    }

    #[test]
    fn what_is_no_file_is_refused() {
        check(&[file("/etc/x")], Some("/run/ca.pem")).unwrap();
        for path in ["etc/x", "/etc/../x", "/", "/etc/", ""] {
            assert!(check(&[file(path)], None).is_err(), "{path}");
        }
        assert!(check(&[GuestFile { mode: 0o4755, ..file("/x") }], None).is_err());
        assert!(check(&[], Some("ca.pem")).is_err());
    }

    #[test]
    fn the_bundles_an_image_has_lead_to_the_hosts() {
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        fs::create_dir_all(path("etc/pki/tls/certs")).unwrap();
        fs::create_dir_all(path("usr/lib/ssl")).unwrap();
        fs::write(path("etc/pki/tls/certs/ca-bundle.crt"), "old").unwrap();
        link_certificates(root.path(), "/run/viv/ca.pem").unwrap();
        for linked in ["etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "usr/lib/ssl/cert.pem"] {
            assert_eq!(fs::read_link(path(linked)).unwrap(), Path::new("/run/viv/ca.pem"), "{linked}");
        }
        assert!(!path("etc/ssl/ca-bundle.pem").exists());
        link_certificates(root.path(), "/run/viv/ca.pem").unwrap();
    }

    #[test]
    fn an_image_without_any_gets_debians() {
        let bare = tempfile::tempdir().unwrap();
        let odd = tempfile::tempdir().unwrap();
        fs::create_dir(odd.path().join("etc")).unwrap();
        symlink("nowhere", odd.path().join("etc/ssl")).unwrap();
        let odder = tempfile::tempdir().unwrap();
        fs::write(odder.path().join("etc"), "").unwrap();
        for root in [bare, odd, odder] {
            link_certificates(root.path(), "/run/viv/ca.pem").unwrap();
            let linked = root.path().join("etc/ssl/certs/ca-certificates.crt");
            assert_eq!(fs::read_link(&linked).unwrap(), Path::new("/run/viv/ca.pem"));
        }
    }
}
