//! What can go wrong between a specification and a running machine.

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The VMM is not installed.
    VmmMissing,
    /// The VMM is older than the oldest that works.
    VmmTooOld,
    /// The accelerator asked for cannot be used.
    AccelUnavailable,
    /// This processor architecture has no driver.
    UnsupportedHost,
    /// The specification cannot be a machine.
    InvalidSpec,
    /// The VMM could not be started, or ended at once.
    Spawn,
    /// The machine's state could not be saved.
    NotSaved,
    /// The host refused something the machine needs.
    Io,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self {
            Self::VmmMissing => "vmm_missing",
            Self::VmmTooOld => "vmm_too_old",
            Self::AccelUnavailable => "accel_unavailable",
            Self::UnsupportedHost => "unsupported_host",
            Self::InvalidSpec => "invalid_spec",
            Self::Spawn => "vmm_spawn",
            Self::NotSaved => "not_saved",
            Self::Io => "vmm_io",
        }
    }
}

/// This crate's error.
pub type Error = viv_error::Error<ErrorKind>;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;
