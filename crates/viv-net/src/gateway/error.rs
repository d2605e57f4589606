//! What can go wrong before a gateway answers, and when its records are read.

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The specification asks for what cannot be.
    Specification,
    /// A budget that cannot be read.
    Budget,
    /// No certificate authority to check upstreams by.
    Authorities,
    /// The records of usage cannot be read or written.
    Usage,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::Specification => "gateway_specification",
            Self::Budget => "budget",
            Self::Authorities => "certificate_authorities",
            Self::Usage => "usage",
        }
    }
}

/// What went wrong.
pub type Error = viv_error::Error<ErrorKind>;
