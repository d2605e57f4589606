//! Errors of the guest, and how they are told to the host.

use std::error::Error as StdError;

use viv_proto::message::{Failure, FailureKind};

/// What went wrong, in the words of the control port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorKind(pub FailureKind);

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self.0 {
            FailureKind::NotFound => "not_found",
            FailureKind::NotExecutable => "not_executable",
            FailureKind::BadDirectory => "bad_directory",
            FailureKind::UnknownUser => "unknown_user",
            FailureKind::BadRequest => "bad_request",
            FailureKind::Internal => "internal",
            FailureKind::Unknown => "unknown",
        }
    }
}

/// An error of this crate.
pub type Error = viv_error::Error<ErrorKind>;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a kind the host matches on.
#[must_use]
pub fn error(kind: FailureKind, message: impl Into<String>) -> Error {
    Error::new(ErrorKind(kind), message)
}

/// Says what was being done when a system call failed.
pub trait Context<T> {
    /// The failure as an [`FailureKind::Internal`] error with this message.
    ///
    /// # Errors
    /// The failure, if there was one.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| error(FailureKind::Internal, message()).source(source))
    }
}

/// The message and its causes on one line.
#[must_use]
pub fn line(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // The number says nothing that the words before it do not.
        let words = cause_text.split_once(" (os error ").map_or(cause_text.as_str(), |(words, _)| words);
        text.push_str(": ");
        text.push_str(words);
        next = cause.source();
    }
    text
}

/// The error as the control port tells it.
#[must_use]
pub fn failure(error: &Error) -> Failure {
    Failure { kind: error.kind().0, message: line(error) }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let missing: std::result::Result<(), _> = Err(io::Error::from_raw_os_error(libc::ENOENT));
        let refusal = missing.context(|| "cannot open it".to_owned()).unwrap_err();
        assert_eq!(
            failure(&refusal),
            Failure { kind: FailureKind::Internal, message: "cannot open it: No such file or directory".into() }
        );
    }
}
