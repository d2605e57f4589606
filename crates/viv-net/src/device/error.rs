//! What can go wrong with network devices.

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A program of the host is not installed.
    ProgramMissing,
    /// It takes root.
    NotRoot,
    /// There is no such bridge.
    BridgeMissing,
    /// The bridge was not made by viv, or is another than asked for.
    BridgeRefused,
    /// The bridge still has sandboxes.
    BridgeInUse,
    /// What was asked for cannot be.
    InvalidSpec,
    /// The host is connected to nothing.
    NoRoute,
    /// All of the subnet's addresses are taken.
    Exhausted,
    /// A program of the host failed.
    Failed,
    /// The host refused something.
    Io,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self {
            Self::ProgramMissing => "network_program_missing",
            Self::NotRoot => "not_root",
            Self::BridgeMissing => "bridge_missing",
            Self::BridgeRefused => "bridge_refused",
            Self::BridgeInUse => "bridge_in_use",
            Self::InvalidSpec => "invalid_network",
            Self::NoRoute => "no_route",
            Self::Exhausted => "addresses_exhausted",
            Self::Failed => "network_command_failed",
            Self::Io => "network_io",
        }
    }
}

/// The error of this module.
pub type Error = viv_error::Error<ErrorKind>;

/// The result of this module.
pub type Result<T> = std::result::Result<T, Error>;

pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::new(ErrorKind::Io, what).source(error)
}
