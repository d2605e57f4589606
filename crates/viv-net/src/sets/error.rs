//! What can go wrong with named sets.

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no set of that name.
    UnknownSet,
    /// The host has no such client, or it is configured with nothing that can be reached.
    NotConfigured,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self {
            Self::UnknownSet => "unknown_set",
            Self::NotConfigured => "not_configured",
        }
    }
}

/// An error of a named set.
pub type Error = viv_error::Error<ErrorKind>;
