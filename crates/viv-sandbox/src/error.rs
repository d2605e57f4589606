//! What can go wrong in a sandbox's life.

use viv_error::Report;

/// What callers match on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A directory viv keeps its state in cannot be used.
    StateDirectory,
    /// A share that would show the guest more than a project.
    ShareRefused,
    /// Something to share does not exist.
    ShareMissing,
    /// The specification cannot be a sandbox.
    InvalidSpec,
    /// The monitor could not be started, or ended unexpectedly.
    Monitor,
    /// The guest did not come up in time.
    BootTimeout,
    /// The guest got stuck while it booted, which emulation on a busy host leads to; the next boot may not.
    GuestStuck,
    /// The VMM ended while the sandbox was in use.
    VmmDied,
    /// The guest's kernel or PID 1 crashed.
    GuestCrashed,
    /// The guest was switched off from inside.
    PoweredOff,
    /// The file daemon ended while the sandbox was in use.
    FileDaemonDied,
    /// What is behind the network device ended while the sandbox was in use.
    NetworkLost,
    /// The host's disk is full.
    HostDiskFull,
    /// The host has too little free memory for what nobody waits for.
    HostMemoryShort,
    /// The guest broke the protocol, or refused a request.
    Guest,
    /// The program does not exist inside.
    ProgramNotFound,
    /// The program exists inside and cannot be executed.
    ProgramNotExecutable,
    /// The directory to start in cannot be entered, or the user does not exist inside.
    BadRequest,
    /// A port of the guest cannot be shown.
    Publish,
    /// No running sandbox has this name.
    NotFound,
    /// The name is taken, or fits more than one sandbox.
    Ambiguous,
    /// What was asked for cannot be in the state the sandbox is in.
    WrongState,
    /// A disk that is kept is used by a machine, or worked on.
    DiskInUse,
    /// A disk that is kept cannot be made sound again by itself.
    DiskDamaged,
    /// A preset of an agent cannot be used.
    BadPreset,
    /// An agent's home is used by another sandbox.
    HomeInUse,
    /// The workspace's repository cannot be copied, or does not take what comes from a copy.
    Repository,
    /// The host refused something.
    Io,
    /// An error of another library or process, under its own name.
    Other(String),
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &str {
        match self {
            Self::StateDirectory => "state_directory",
            Self::ShareRefused => "share_refused",
            Self::ShareMissing => "share_missing",
            Self::InvalidSpec => "invalid_spec",
            Self::Monitor => "monitor",
            Self::BootTimeout => "boot_timeout",
            Self::GuestStuck => "guest_stuck",
            Self::VmmDied => "vmm_died",
            Self::GuestCrashed => "guest_crashed",
            Self::PoweredOff => "powered_off",
            Self::FileDaemonDied => "file_daemon_died",
            Self::NetworkLost => "network_lost",
            Self::HostDiskFull => "host_disk_full",
            Self::HostMemoryShort => "host_memory_short",
            Self::Guest => "guest",
            Self::ProgramNotFound => "program_not_found",
            Self::ProgramNotExecutable => "program_not_executable",
            Self::BadRequest => "bad_request",
            Self::Publish => "publish",
            Self::NotFound => "not_found",
            Self::Ambiguous => "ambiguous",
            Self::WrongState => "wrong_state",
            Self::DiskInUse => "disk_in_use",
            Self::DiskDamaged => "disk_damaged",
            Self::BadPreset => "bad_preset",
            Self::HomeInUse => "home_in_use",
            Self::Repository => "repository",
            Self::Io => "io",
            Self::Other(name) => name,
        }
    }
}

impl ErrorKind {
    /// The kind a monitor named in its report.
    fn from_name(name: &str) -> Self {
        [
            Self::StateDirectory,
            Self::ShareRefused,
            Self::ShareMissing,
            Self::InvalidSpec,
            Self::Monitor,
            Self::BootTimeout,
            Self::GuestStuck,
            Self::VmmDied,
            Self::GuestCrashed,
            Self::PoweredOff,
            Self::FileDaemonDied,
            Self::NetworkLost,
            Self::HostDiskFull,
            Self::HostMemoryShort,
            Self::Guest,
            Self::ProgramNotFound,
            Self::ProgramNotExecutable,
            Self::BadRequest,
            Self::Publish,
            Self::NotFound,
            Self::Ambiguous,
            Self::Repository,
            Self::WrongState,
            Self::DiskInUse,
            Self::DiskDamaged,
            Self::Io,
        ]
        .into_iter()
        .find(|kind| viv_error::Kind::name(kind) == name)
        .unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

/// This crate's error.
pub type Error = viv_error::Error<ErrorKind>;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that crossed a process boundary.
pub(crate) fn from_report(report: Report) -> Error {
    let mut error = Error::new(ErrorKind::from_name(&report.kind), report.message);
    if let Some(chain) = Chain::new(report.causes) {
        error = error.source(chain);
    }
    report.hints.into_iter().fold(error, Error::hint)
}

/// An error of another library, as one of this.
pub(crate) fn adopt<K: viv_error::Kind>(error: viv_error::Error<K>) -> Error {
    from_report(Report::from(&error))
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::new(ErrorKind::Io, what).source(error)
}

/// The causes of an error whose types stayed in another process.
#[derive(Debug)]
struct Chain {
    message: String,
    next: Option<Box<Chain>>,
}

impl Chain {
    fn new(causes: Vec<String>) -> Option<Self> {
        causes.into_iter().rev().fold(None, |next, message| Some(Self { message, next: next.map(Box::new) }))
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Chain {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next.as_deref().map(|next| next as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_kind_chain_and_hints() {
        let report = Report {
            kind: "boot_timeout".into(),
            message: "no answer".into(),
            causes: vec!["first".into(), "second".into()],
            hints: vec!["try again".into()],
        };
        let error = from_report(report.clone());
        assert_eq!(*error.kind(), ErrorKind::BootTimeout);
        assert_eq!(Report::from(&error), report);
        let foreign = from_report(Report { kind: "namespace_denied".into(), ..report });
        assert_eq!(Report::from(&foreign).kind, "namespace_denied");
    }
}
