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
    /// The file system it is on is full.
    NoSpace,
    /// It cannot be read or written.
    Io,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::NotFound => "audit_not_found",
            Self::Ambiguous => "ambiguous",
            Self::Busy => "audit_busy",
            Self::NoSpace => "no_space",
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
    let path = path.display().to_string();
    move |error| {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Error::new(ErrorKind::NoSpace, format!("there is not enough space for the timeline {path}"))
                .source(error)
                .hint(format!("free some space on the file system that holds {path}"));
        }
        Error::new(ErrorKind::Io, format!("the timeline {path} cannot be used")).source(error)
    }
}
