//! `viv.lock`: which versions a project's packages had, and which content its image, when they were last looked up.
//!
//! ```toml
//! version = 1
//!
//! [image]
//! source = "oci:alpine:3.20"
//! digest = "sha256:…"
//!
//! [[package]]
//! package = "npm:prettier"   # as it is asked for
//! version = "3.6.2"
//! layer = "sha256:…"         # where it was when this was written
//! ```
//!
//! The file lies beside `viv.toml` and is heeded where it is. What it names gets exactly the version that it has;
//! what it does not name is looked up as without it, and [`Applied::notes`] says so. Packages of nix are not in it:
//! nix pins them by its own means. The layer is a record, not a condition: the same packages give other bytes on
//! another day.

mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, io_error};
use crate::packages::{Layer, Manager, Package};
use crate::source::ImageSource;

/// The content of a `viv.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockFile {
    /// The image, where it can be pinned.
    pub image: Option<LockedImage>,
    /// The packages, by what is asked for.
    packages: BTreeMap<Package, LockedVersion>,
}

/// What an image's source stood for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedImage {
    /// The source as it is asked for; a path is relative to the project's directory if it is in there.
    pub source: ImageSource,
    /// `sha256:` and 64 hexadecimal digits: of an OCI image its manifest, of a file the file.
    pub digest: String,
}

/// What a package stood for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedVersion {
    /// The version that was installed.
    pub version: String,
    /// The layer it was in: `sha256:` and 64 hexadecimal digits.
    pub layer: Option<String>,
}

/// What a run takes in place of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The image, by digest if that is locked.
    pub image: ImageSource,
    /// The packages in the same order, with the versions that are locked.
    pub packages: Vec<Package>,
    /// Where the lock and what is asked for differ.
    pub notes: Vec<LockNote>,
}

/// A difference between the lock and what is asked for. Its text is a sentence for a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockNote {
    /// The lock does not have this package, so it was looked up freely.
    NotLocked(Package),
    /// The lock has this package, and nothing asks for it.
    Unused(Package),
    /// The lock is about another image than the one that is asked for, which was looked up freely.
    OtherImage {
        /// The lock's.
        locked: ImageSource,
        /// The one asked for.
        asked: ImageSource,
    },
}

impl fmt::Display for LockNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLocked(package) => {
                write!(f, "{package} is not in {FILE_NAME}: it can be another version each time")
            }
            Self::Unused(package) => write!(f, "{FILE_NAME} has {package}, which nothing asks for"),
            Self::OtherImage { locked, asked } => {
                write!(f, "{FILE_NAME} is about the image {locked}, not {asked}, which can be another one each time")
            }
        }
    }
}

/// The file's name.
const FILE_NAME: &str = "viv.lock";

impl LockFile {
    /// The file's name, in the project's directory.
    pub const NAME: &str = FILE_NAME;

    /// Reads the lock of a project's directory, if it has one.
    ///
    /// # Errors
    /// [`ErrorKind::BadLock`] for what is not a lock or larger than a mebibyte, [`ErrorKind::Io`].
    pub fn read(project: &Path) -> Result<Option<Self>> {
        let path = project.join(FILE_NAME);
        let mut text = String::new();
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        // One byte more than may be, so that too much is seen.
        match file.take(text::MAX_BYTES as u64 + 1).read_to_string(&mut text) {
            Ok(_) => Self::parse(&text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(text::bad("it is not text")),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Writes the lock to a project's directory, in place of the one that may be there: whoever reads sees one of
    /// them whole. The file is not touched if it says the same already.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and [`ErrorKind::NoSpace`].
    pub fn write(&self, project: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = project.join(FILE_NAME);
        let text = self.to_string();
        if fs::read(&path).is_ok_and(|present| present == text.as_bytes()) {
            return Ok(());
        }
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix(&format!(".{FILE_NAME}."))
                // As any file of the project: the umask is heeded.
                .permissions(fs::Permissions::from_mode(0o666))
                .tempfile_in(project)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_data()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(io_error("write", &path))
    }

    /// The packages it has, sorted.
    pub fn packages(&self) -> impl Iterator<Item = (&Package, &LockedVersion)> {
        self.packages.iter()
    }

    /// What `asked` stands for according to the lock. `project` is the directory that relative paths start from.
    #[must_use]
    pub fn apply(&self, project: &Path, image: &ImageSource, asked: &[Package]) -> Applied {
        let mut notes = Vec::new();
        let image = self.apply_image(project, image, &mut notes);
        let packages = asked.iter().map(|package| self.apply_package(package, &mut notes)).collect();
        let unused = self.packages.keys().filter(|locked| !asked.contains(locked));
        notes.extend(unused.cloned().map(LockNote::Unused));
        Applied { image, packages, notes }
    }

    fn apply_image(&self, project: &Path, asked: &ImageSource, notes: &mut Vec<LockNote>) -> ImageSource {
        let Some(locked) = &self.image else { return asked.clone() };
        if joined(&locked.source, project) != *asked {
            notes.push(LockNote::OtherImage { locked: locked.source.clone(), asked: asked.clone() });
            return asked.clone();
        }
        match asked {
            // A reference that has a digest says itself what it is.
            ImageSource::Oci { reference, platform } if !reference.contains('@') => {
                ImageSource::Oci { reference: format!("{reference}@{}", locked.digest), platform: platform.clone() }
            }
            other => other.clone(),
        }
    }

    fn apply_package(&self, asked: &Package, notes: &mut Vec<LockNote>) -> Package {
        if let Some(locked) = self.packages.get(asked) {
            return Package { version: Some(locked.version.clone()), ..asked.clone() };
        }
        // The locked version asked for by number is what is locked.
        let same = |(package, locked): (&Package, &LockedVersion)| {
            same_name(package, asked) && Some(&locked.version) == asked.version.as_ref()
        };
        if can_be_locked(asked) && !self.packages.iter().any(same) {
            notes.push(LockNote::NotLocked(asked.clone()));
        }
        asked.clone()
    }

    /// Whether an image that was made is the one that is locked; `digest` as in [`LockedImage::digest`].
    ///
    /// # Errors
    /// [`ErrorKind::BadLock`] if it is another.
    pub fn check_image(&self, project: &Path, source: &ImageSource, digest: &str) -> Result<()> {
        let Some(locked) = self.image.as_ref().filter(|locked| joined(&locked.source, project) == *source) else {
            return Ok(());
        };
        if locked.digest == digest {
            return Ok(());
        }
        let message = format!("{source} is {digest}, and {FILE_NAME} has it as {}", locked.digest);
        Err(Error::new(ErrorKind::BadLock, message)
            .hint("viv image update, if it changed because it should have")
            .hint(format!("or take back what changed it; {FILE_NAME} says which content was used before")))
    }

    /// The lock without some packages, so that they are looked up anew: those of `names`, whatever their version;
    /// all, and the image, if `names` is empty.
    ///
    /// # Errors
    /// [`ErrorKind::BadLock`] for a name that the lock does not have.
    pub fn without(&self, names: &[Package]) -> Result<Self> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut left = self.clone();
        for name in names {
            let before = left.packages.len();
            left.packages.retain(|package, _| !same_name(package, name));
            if left.packages.len() == before && !self.packages.keys().any(|package| same_name(package, name)) {
                return Err(Error::new(ErrorKind::BadLock, format!("{FILE_NAME} has no package {name}"))
                    .hint("viv image lock, to have what is missing added"));
            }
        }
        Ok(left)
    }

    /// A lock of what was installed: `image` with its digest, if it can be pinned (see [`LockedImage`]), and for each
    /// package of `asked` the version that `layers` have it in.
    #[must_use]
    pub fn of(project: &Path, image: Option<(&ImageSource, &str)>, asked: &[Package], layers: &[Layer]) -> Self {
        let image =
            image.map(|(source, digest)| LockedImage { source: relative(source, project), digest: digest.to_owned() });
        let found = |asked: &Package| {
            let mut installed =
                layers.iter().flat_map(|layer| layer.packages.iter().map(move |package| (package, layer)));
            let (package, layer) = installed.find(|(package, _)| same_name(package, asked))?;
            let version = package.version.clone()?;
            Some((asked.clone(), LockedVersion { version, layer: Some(format!("sha256:{}", layer.digest)) }))
        };
        let packages = asked.iter().filter(|package| can_be_locked(package)).filter_map(found).collect();
        Self { image, packages }
    }

    /// The same error; of a package that is not to be had in the version that the lock has, it says so and what
    /// mends it.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        if *error.kind() != ErrorKind::NoSuchPackage {
            return error;
        }
        let message = error.to_string();
        let has = |word: &str| message.split_whitespace().any(|other| other.trim_matches(['`', ',', ':']) == word);
        let named = |asked: &Package, locked: &LockedVersion| {
            has(&locked.version) && has(&Package { version: None, ..asked.clone() }.to_string())
        };
        let Some((asked, locked)) = self.packages.iter().find(|(asked, locked)| named(asked, locked)) else {
            return error;
        };
        let name = Package { version: None, ..asked.clone() };
        error.hint(format!("{FILE_NAME} has {asked} as {}", locked.version)).hint(format!("viv image update {name}"))
    }
}

/// Whether a lock has anything to say about it.
fn can_be_locked(package: &Package) -> bool {
    package.manager != Manager::Nix
}

fn same_name(one: &Package, other: &Package) -> bool {
    one.manager == other.manager && one.name == other.name
}

/// The source with its path made absolute.
fn joined(source: &ImageSource, project: &Path) -> ImageSource {
    map_path(source, |path| project.join(path))
}

/// The source with its path made relative, if it is within the project.
fn relative(source: &ImageSource, project: &Path) -> ImageSource {
    map_path(source, |path| path.strip_prefix(project).map_or_else(|_| path.clone(), Path::to_path_buf))
}

fn map_path(source: &ImageSource, change: impl Fn(PathBuf) -> PathBuf) -> ImageSource {
    match source.clone().try_map_path(|path| Ok::<_, std::convert::Infallible>(change(path))) {
        Ok(source) => source,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests;
