//! Which kernel is used where none is named.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use super::{OwnKernel, find_own_kernel};
use crate::cache::Cache;
use crate::error::{ErrorKind, Result, io_error};
use crate::kernel::KernelSource;

/// The kernel used where none is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferredKernel {
    /// Where it comes from.
    pub source: KernelSource,
    /// The id of the own kernel that was chosen, if that is gone or damaged: then it is Debian's.
    pub lost: Option<String>,
}

/// The kernel that was chosen with [`select_kernel`], or Debian's if none was or it is gone.
///
/// # Errors
/// [`ErrorKind::Io`] if the cache cannot be read.
pub fn preferred_kernel(cache: &Cache) -> Result<PreferredKernel> {
    let debian = |lost| Ok(PreferredKernel { source: KernelSource::Default, lost });
    let Some(digest) = read(cache)? else { return debian(None) };
    match find_own_kernel(cache, &digest) {
        Ok(kernel) => Ok(PreferredKernel { source: KernelSource::Own(kernel.digest), lost: None }),
        Err(error) if *error.kind() == ErrorKind::NotFound => {
            debian(Some(digest.chars().take(super::ID_DIGITS).collect()))
        }
        Err(error) => Err(error),
    }
}

/// Chooses the kernel that is used where none is named: an own one, or Debian's for `None`.
///
/// # Errors
/// [`ErrorKind::Io`] and [`ErrorKind::NoSpace`] if that cannot be written down.
pub fn select_kernel(cache: &Cache, kernel: Option<&OwnKernel>) -> Result<()> {
    let path = path(cache);
    let Some(kernel) = kernel else {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        };
    };
    let directory = cache.directory("kernels")?;
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        writeln!(file, "{}", kernel.digest)?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(io_error("write", &path))
}

/// Nothing is chosen any more if that was.
pub(super) fn forget(cache: &Cache, kernel: &OwnKernel) -> Result<()> {
    if read(cache)?.as_deref() == Some(&kernel.digest) { select_kernel(cache, None) } else { Ok(()) }
}

/// The digest that was written down.
fn read(cache: &Cache) -> Result<Option<String>> {
    let path = path(cache);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

fn path(cache: &Cache) -> PathBuf {
    cache.root().join("kernels").join("selected")
}
