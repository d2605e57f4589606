//! An image before it becomes the root: what it has, and what is laid over it.
//!
//! Nothing is taken for granted: an image may have no /etc, links in place of directories, or anything in
//! place of a file. Whatever it has, no link of it leads out of it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::accounts;

/// A root file system before its layers are joined: what is read below, and written above.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The root image, with all that comes with it.
    pub lower: &'a Path,
    /// What is to lie over it. Files made here hide those of the image.
    pub upper: &'a Path,
}

/// A directory in both layers.
pub(crate) struct Place {
    /// There only if the image has it.
    pub lower: PathBuf,
    /// There.
    pub upper: PathBuf,
}

impl Layers<'_> {
    /// A directory (`path` without a leading slash), made in the upper layer if missing, with the
    /// owner and mode it has in the image. Links in the image are followed.
    pub(crate) fn directory(&self, path: &str) -> io::Result<Place> {
        let mut known = Path::new(path);
        let canonical = loop {
            match self.canonical(known) {
                Ok(canonical) => break canonical.join(Path::new(path).strip_prefix(known).unwrap_or(Path::new(""))),
                // What is no directory is hidden by one.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => known = known.parent().unwrap_or(Path::new("")),
                Err(reason) => return Err(reason.into()),
            }
        };
        let mut place = Place { lower: self.lower.to_owned(), upper: self.upper.to_owned() };
        for part in &canonical {
            place.lower.push(part);
            place.upper.push(part);
            match fs::DirBuilder::new().mode(0o755).create(&place.upper) {
                Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => {}
                Err(reason) => return Err(reason),
                Ok(()) => {
                    if let Ok(facts) = fs::symlink_metadata(&place.lower)
                        && facts.is_dir()
                    {
                        std::os::unix::fs::lchown(&place.upper, Some(facts.uid()), Some(facts.gid()))?;
                        fs::set_permissions(&place.upper, facts.permissions())?;
                    }
                }
            }
        }
        Ok(place)
    }

    /// A path of the image without links.
    pub(crate) fn canonical(&self, path: &Path) -> rustix::io::Result<PathBuf> {
        if path.as_os_str().is_empty() {
            return Ok(PathBuf::new());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lower = rustix::fs::open(self.lower, flags, 0.into())?;
        let found = self.open(path, flags)?;
        let link = |file: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let (root, found) = link(&lower)
            .and_then(|root| Ok((root, link(&found)?)))
            .map_err(|reason| Errno::from_io_error(&reason).unwrap_or(Errno::IO))?;
        found.strip_prefix(root).map(Path::to_owned).map_err(|_| Errno::XDEV)
    }

    /// Opens what is at a path of the image, where its links lead within the image.
    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lower = rustix::fs::open(self.lower, directory, 0.into())?;
        rustix::fs::openat2(&lower, path, flags, 0.into(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// A file of the image; empty where there is none.
    pub(crate) fn read(&self, path: &str) -> String {
        // An image may have anything in its place; a pipe would never open.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let read = || {
            let file = fs::File::from(self.open(Path::new(path), flags)?);
            if !file.metadata()?.is_file() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            accounts::read_from(file)
        };
        read().unwrap_or_default()
    }

    /// The first of these programs that the image has.
    pub(crate) fn program(&self, places: &[&'static str]) -> Option<&'static str> {
        let is_program = |place: &&str| {
            let found = self.open(Path::new(place), OFlags::PATH | OFlags::CLOEXEC);
            found.and_then(rustix::fs::fstat).is_ok_and(|facts| {
                rustix::fs::FileType::from_raw_mode(facts.st_mode).is_file() && facts.st_mode & 0o111 != 0
            })
        };
        places.iter().copied().find(|place| is_program(place))
    }

    /// Makes the directories that something is mounted on, and those that no program does without.
    pub(crate) fn make_mount_points(&self) -> io::Result<()> {
        for name in MOUNT_POINTS {
            // Not through a link: what is mounted before the change of root would go elsewhere.
            if !fs::symlink_metadata(self.lower.join(name)).is_ok_and(|facts| facts.is_dir()) {
                make_directory(&self.upper.join(name), 0o755)?;
            }
        }
        for name in ["tmp", "var/tmp"] {
            if self.canonical(Path::new(name)).is_err() {
                let made = self.directory(name)?.upper;
                fs::set_permissions(&made, fs::Permissions::from_mode(0o1777))?;
            }
        }
        Ok(())
    }
}

/// Makes a directory with exactly this mode, if it is not there.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(reason) => Err(reason),
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    }
}

/// What [`crate::boot::enter_root`] mounts something on.
const MOUNT_POINTS: [&str; 4] = ["proc", "sys", "dev", "run"];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Image(tempfile::TempDir);

    impl Image {
        fn new() -> Self {
            let image = Self(tempfile::tempdir().unwrap());
            for name in ["lower", "upper"] {
                fs::create_dir(image.0.path().join(name)).unwrap();
            }
            image
        }

        fn lower(&self, path: &str) -> PathBuf {
            self.0.path().join("lower").join(path)
        }

        fn upper(&self, path: &str) -> PathBuf {
            self.0.path().join("upper").join(path)
        }

        fn with<T>(&self, act: impl FnOnce(Layers<'_>) -> T) -> T {
            act(Layers { lower: &self.lower(""), upper: &self.upper("") })
        }
    }

    #[test]
    fn an_empty_image_gets_what_is_mounted_on() {
        let image = Image::new();
        image.with(|layers| layers.make_mount_points()).unwrap();
        let mode = |path: &str| fs::symlink_metadata(image.upper(path)).unwrap().mode();
        for (path, wanted) in
            [("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("run", 0o755), ("tmp", 0o1777), ("var/tmp", 0o1777)]
        {
            assert_eq!(mode(path), 0o040_000 | wanted, "{path}");
        }
    }

    #[test]
    fn what_an_image_has_stays_and_what_cannot_be_mounted_on_is_hidden() {
        let image = Image::new();
        for path in ["proc", "sys", "var/run", "var/tmp"] {
            fs::create_dir_all(image.lower(path)).unwrap();
        }
        symlink("/var/run", image.lower("run")).unwrap();
        symlink("var/tmp", image.lower("tmp")).unwrap();
        fs::write(image.lower("dev"), "").unwrap();
        image.with(|layers| layers.make_mount_points()).unwrap();
        let made: Vec<_> = fs::read_dir(image.upper("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(made.len(), 2, "{made:?}");
        assert!(image.upper("run").is_dir() && image.upper("dev").is_dir());
    }

    #[test]
    fn directories_are_made_where_links_lead_nowhere_or_in_circles() {
        let image = Image::new();
        symlink("nowhere", image.lower("etc")).unwrap();
        symlink("home", image.lower("home")).unwrap();
        fs::write(image.lower("usr"), "").unwrap();
        for path in ["etc/sudoers.d", "home/agent", "usr/local/sbin"] {
            let place = image.with(|layers| layers.directory(path)).unwrap();
            assert_eq!(place.upper, image.upper(path));
            assert!(place.upper.is_dir());
        }
    }

    #[test]
    fn files_are_read_where_their_links_lead_within_the_image() {
        let image = Image::new();
        fs::create_dir_all(image.lower("etc")).unwrap();
        fs::create_dir_all(image.lower("usr/lib")).unwrap();
        fs::write(image.lower("usr/lib/passwd"), "theirs").unwrap();
        let read = |path: &str| image.with(|layers| layers.read(path));
        symlink("/usr/lib/passwd", image.lower("etc/passwd")).unwrap();
        assert_eq!(read("etc/passwd"), "theirs");
        // The host has one there.
        symlink("/etc/passwd", image.lower("etc/group")).unwrap();
        assert_eq!(read("etc/group"), "theirs");
        symlink("/proc/self/environ", image.lower("etc/shadow")).unwrap();
        assert_eq!(read("etc/shadow"), "");
        assert_eq!(read("etc"), "");
        assert_eq!(read("etc/none"), "");
        rustix::fs::mkfifoat(rustix::fs::CWD, image.lower("etc/pipe"), 0o666.into()).unwrap();
        assert_eq!(read("etc/pipe"), "");
    }

    #[test]
    fn programs_are_found_through_links() {
        let image = Image::new();
        fs::create_dir_all(image.lower("usr/bin")).unwrap();
        symlink("usr/bin", image.lower("bin")).unwrap();
        fs::write(image.lower("usr/bin/busybox"), "").unwrap();
        symlink("/bin/busybox", image.lower("usr/bin/sh")).unwrap();
        let shell = || image.with(|layers| layers.program(&["/bin/bash", "/bin/sh"]));
        assert_eq!(shell(), None, "it is not executable");
        fs::set_permissions(image.lower("usr/bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(shell(), Some("/bin/sh"));
        symlink("nowhere", image.lower("usr/bin/bash")).unwrap();
        assert_eq!(shell(), Some("/bin/sh"));
    }
}
