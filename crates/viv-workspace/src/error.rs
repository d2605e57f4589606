//! What can go wrong.

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The host refused something.
    Io,
    /// There is no such state.
    NotFound,
    /// A name fits more than one state.
    Ambiguous,
    /// The workspace has more than is kept.
    TooLarge,
    /// What the crate itself wrote cannot be read.
    Damaged,
    /// A path that cannot be a file of a workspace, or changes that contradict each other.
    BadChange,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::Io => "io",
            Self::NotFound => "not_found",
            Self::Ambiguous => "ambiguous",
            Self::TooLarge => "workspace_too_large",
            Self::Damaged => "state_damaged",
            Self::BadChange => "bad_change",
        }
    }
}

/// The crate's error.
pub type Error = viv_error::Error<ErrorKind>;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the operating system, with what was being done.
pub(crate) fn io<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> Error {
    let what = what.into();
    move |error| Error::new(ErrorKind::Io, what).source(error)
}
