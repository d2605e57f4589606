//! What can go wrong with a tree.

use std::io;

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The stream is none of records, or was cut short.
    Stream,
    /// There are more files, or more bytes, than are taken.
    TooMuch,
    /// What there is at a place keeps it from being written there: a link on the way, a directory where a file
    /// is to be, or the reverse.
    InTheWay,
    /// The file system refused.
    Io,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::Stream => "archive_stream",
            Self::TooMuch => "archive_too_much",
            Self::InTheWay => "archive_in_the_way",
            Self::Io => "archive_io",
        }
    }
}

/// This crate's error.
pub type Error = viv_error::Error<ErrorKind>;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A path as people may see it: what a terminal would obey is escaped.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::new(ErrorKind::Io, what).source(error)
}

pub(crate) fn stream(error: io::Error) -> Error {
    Error::new(ErrorKind::Stream, "the stream of files broke off or makes no sense").source(error)
}
