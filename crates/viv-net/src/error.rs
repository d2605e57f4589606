//! What can go wrong, for callers to match on.

use viv_error::Kind;

/// What went wrong in a sandbox's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A rule of a policy cannot be read.
    Rule,
    /// The specification is not there, cannot be read or contradicts itself.
    Specification,
    /// The log cannot be opened or read.
    Log,
    /// The egress cannot serve: its socket, its process or its runtime.
    Serve,
    /// The model gateway cannot start.
    Gateway,
    /// A budget that cannot be read.
    Budget,
    /// The record of model calls cannot be read or written.
    Usage,
}

impl Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::Rule => "rule",
            Self::Specification => "specification",
            Self::Log => "log",
            Self::Serve => "serve",
            Self::Gateway => "gateway",
            Self::Budget => "budget",
            Self::Usage => "usage",
        }
    }
}

/// An error of a sandbox's network.
pub type Error = viv_error::Error<ErrorKind>;

/// What can fail that way.
pub type Result<T> = std::result::Result<T, Error>;
