//! What can go wrong with a timeline.

use std::io;
use std::path::Path;

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No timeline is called so.
    NotFound,
    /// More than one timeline is called so.
    Ambiguous,
    /// Another process writes it.
    Busy,
    /// It cannot be read or written.
    Io,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::NotFound => "audit_not_found",
            Self::Ambiguous => "ambiguous",
            Self::Busy => "audit_busy",
            Self::Io => "audit_io",
        }
    }
}

/// The crate's error.
pub type Error = viv_error::Error<ErrorKind>;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the operating system at a path.
pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let message = format!("the timeline {} cannot be used", path.display());
    move |error| Error::new(ErrorKind::Io, message).source(error)
}
