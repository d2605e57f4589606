//! What can go wrong with kernels, images and their cache.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A host program or file that builds need is not installed.
    MissingTool,
    /// The namespaces a build runs in cannot be made: for an ordinary user, user namespaces over
    /// subordinate ids.
    Namespaces,
    /// A tool ran and failed.
    Build,
    /// A package could not be fetched.
    Download,
    /// A file given by the user is damaged or cut short.
    Corrupt,
    /// A file given by the user is not there.
    NotFound,
    /// A file system is full.
    NoSpace,
    /// A file is not a kernel that can be booted directly, or lacks a module that is needed.
    BadKernel,
    /// A file is not an erofs image.
    BadImage,
    /// A scratch disk of that size cannot be made.
    BadSize,
    /// What names an image or a package is not written as such names are.
    BadReference,
    /// A package manager knows no package of that name, or not in that version.
    NoSuchPackage,
    /// A `viv.lock` is not one, or says otherwise than what is there.
    BadLock,
    /// The image lacks the package manager that is asked for.
    NoPackageManager,
    /// A registry, an archive or Docker has no image of that name.
    NoSuchImage,
    /// An image is not there for the platform that is asked for.
    NoSuchPlatform,
    /// An image is of a kind that cannot be used, or is none.
    UnsupportedImage,
    /// A registry wants another login, or any.
    Unauthorized,
    /// What came is not what its digest says.
    DigestMismatch,
    /// Docker does not answer, or not as it should.
    Docker,
    /// Given up because something else failed.
    Cancelled,
    /// An archive holds what no honest one does, such as names that lead out of it.
    UnsafeArchive,
    /// An archive or a directory holds more than it may.
    TooLarge,
    /// The cache cannot be used.
    Cache,
    /// Reading or writing failed.
    Io,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self {
            Self::MissingTool => "missing_tool",
            Self::Namespaces => "namespaces",
            Self::Build => "build",
            Self::Download => "download",
            Self::Corrupt => "corrupt",
            Self::NotFound => "not_found",
            Self::NoSpace => "no_space",
            Self::BadKernel => "bad_kernel",
            Self::BadImage => "bad_image",
            Self::BadSize => "bad_size",
            Self::BadReference => "bad_reference",
            Self::NoSuchPackage => "no_such_package",
            Self::BadLock => "bad_lock",
            Self::NoPackageManager => "no_package_manager",
            Self::NoSuchImage => "no_such_image",
            Self::NoSuchPlatform => "no_such_platform",
            Self::UnsupportedImage => "unsupported_image",
            Self::Unauthorized => "unauthorized",
            Self::DigestMismatch => "digest_mismatch",
            Self::Docker => "docker",
            Self::Cancelled => "cancelled",
            Self::UnsafeArchive => "unsafe_archive",
            Self::TooLarge => "too_large",
            Self::Cache => "cache",
            Self::Io => "io",
        }
    }
}

/// An error of this crate.
pub type Error = viv_error::Error<ErrorKind>;
/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The last lines a tool printed, as an error's source.
#[derive(Debug)]
pub(crate) struct Output(pub String);

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Output {}

/// Turns an I/O error into one that says what was done to which path; a full disk gets its own kind.
pub(crate) fn io_error<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return no_space(path, source);
        }
        Error::new(ErrorKind::Io, format!("cannot {action} {}", path.display())).source(source)
    }
}

/// The file system that holds `path` is full.
pub(crate) fn no_space(path: &Path, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    let place = mount_point(path);
    // Measured now: what had filled it may be gone already.
    let free = free_bytes(&place).map_or(String::new(), |bytes| format!(": {} MiB are free", bytes >> 20));
    Error::new(ErrorKind::NoSpace, format!("there is not enough space on the file system at {}{free}", place.display()))
        .source(source)
        .hint(format!("free some space there: {}", path.display()))
        .hint("or move the cache with XDG_CACHE_HOME, or the place of builds with TMPDIR")
}

/// Where the file system that holds `path` is mounted, as far as the directory tree tells.
fn mount_point(path: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let mut place = path.to_path_buf();
    let device = loop {
        match place.metadata() {
            Ok(metadata) => break metadata.dev(),
            Err(_) if place.pop() => {}
            Err(_) => return path.to_path_buf(),
        }
    };
    while let Some(parent) = place.parent() {
        if parent.metadata().map(|metadata| metadata.dev()).ok() != Some(device) {
            break;
        }
        place = parent.to_path_buf();
    }
    place
}

/// Bytes an ordinary user can still write to the file system that holds `path`.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(path).ok()?;
    status.f_bavail.checked_mul(status.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named() {
        let error = io_error("write", Path::new("/proc/self/nothing"))(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(*error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().starts_with("there is not enough space on the file system at /proc"), "{error}");
    }

    #[test]
    fn the_mount_point_of_a_path_that_does_not_exist_yet() {
        assert_eq!(mount_point(Path::new("/proc/nothing/here")), Path::new("/proc"));
    }
}
