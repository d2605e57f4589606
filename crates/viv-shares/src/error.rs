//! What can go wrong, for callers to match on.

use std::io;

use viv_error::Kind;

/// What went wrong in the file daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The specification is not there, cannot be read or contradicts itself: a duplicate entry, a path that leaves
    /// its share.
    Specification,
    /// The source of a share is not there.
    SourceMissing,
    /// The host user may not reach the source of a share.
    SourceDenied,
    /// The source of a share is neither a directory nor a regular file.
    SourceUnsupported,
    /// A protected path goes through a symbolic link, so what is protected is not what is used.
    ProtectedLink,
    /// The kernel, or a security policy, refuses the namespaces the daemon hides in.
    NamespaceDenied,
    /// The tree of shares could not be assembled.
    Mount,
    /// The limit of open files is too low to serve anything.
    OpenFiles,
    /// Capabilities, seccomp or another part of the confinement could not be applied.
    Confinement,
    /// The owner of the daemon is gone.
    Orphaned,
    /// The connection with the VMM could not be served.
    Serve,
}

impl ErrorKind {
    const ALL: [Self; 11] = [
        Self::Specification,
        Self::SourceMissing,
        Self::SourceDenied,
        Self::SourceUnsupported,
        Self::ProtectedLink,
        Self::NamespaceDenied,
        Self::Mount,
        Self::OpenFiles,
        Self::Confinement,
        Self::Orphaned,
        Self::Serve,
    ];

    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self {
            Self::Specification => "specification",
            Self::SourceMissing => "source_missing",
            Self::SourceDenied => "source_denied",
            Self::SourceUnsupported => "source_unsupported",
            Self::ProtectedLink => "protected_link",
            Self::NamespaceDenied => "namespace_denied",
            Self::Mount => "mount",
            Self::OpenFiles => "open_files",
            Self::Confinement => "confinement",
            Self::Orphaned => "orphaned",
            Self::Serve => "serve",
        }
    }
}

/// An error of the file daemon.
pub type Error = viv_error::Error<ErrorKind>;

/// A result of the file daemon.
pub type Result<T> = std::result::Result<T, Error>;

/// Attaches a kind and a message to the errors of the system.
pub(crate) trait Context<T> {
    /// Turns the error into one of this crate, keeping it as the source.
    fn context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(kind, message()).source(error.into()))
    }
}
