//! What ends a command early: the libraries' errors and the command's own, as plain data to show.

use std::error::Error as StdError;

use viv_error::{Kind, Report};

use crate::exit_code;

/// The command's own kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line cannot be understood.
    Usage,
    /// A configuration file is wrong.
    Configuration,
    /// Something named does not exist.
    NotFound,
    /// Something is used, and so cannot be removed.
    InUse,
    /// A file or the terminal could not be read or written.
    Io,
    /// The sandbox ended while its program ran.
    SandboxLost,
    /// A command that a sandbox runs before others use it did not succeed.
    CommandFailed,
    /// What was waited for did not come in time.
    TimedOut,
}

impl Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::Usage => "usage",
            Self::Configuration => "configuration",
            Self::NotFound => "not_found",
            Self::InUse => "in_use",
            Self::Io => "io",
            Self::SandboxLost => "sandbox_lost",
            Self::CommandFailed => "command_failed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// The command's own error.
pub type Error = viv_error::Error<ErrorKind>;

/// Why a command ended early, and with which exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What to show; nothing for an end that explains itself, such as a signal.
    pub report: Option<Report>,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// An end without words.
    #[must_use]
    pub fn quiet(code: u8) -> Self {
        Self { report: None, code }
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl<K: Kind> From<viv_error::Error<K>> for Failure {
    fn from(error: viv_error::Error<K>) -> Self {
        Self { report: Some(Report::from(&error)), code: exit_code::VIV_FAILED }
    }
}

/// A failure of the operating system, with what was being done.
pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |error| Error::new(ErrorKind::Io, what).source(Box::new(error) as Box<dyn StdError + Send + Sync>)
}
