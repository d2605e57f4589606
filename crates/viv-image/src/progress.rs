//! How a build tells whoever waits for it what it is doing.

/// Something a build has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent {
    /// Another process is making `what` (such as "the root image"); this one waits for it.
    Waiting {
        /// What is being made.
        what: String,
    },
    /// Making `what` begins.
    Started {
        /// What is being made.
        what: String,
    },
    /// What is being done now, one line, without a period.
    Step {
        /// The line.
        message: String,
    },
    /// How far it is: `done` of `total` equal parts, never going back within one build.
    Fraction {
        /// Parts done.
        done: u64,
        /// All parts.
        total: u64,
    },
    /// It is there. Not sent if it failed: then the call returns the error.
    Finished,
}

/// Receives the events of a build, on the thread that builds. Nothing is sent when the cache already
/// has what is asked for.
pub trait Progress: Send + Sync {
    /// One event.
    fn event(&self, event: ProgressEvent);
}

/// Nobody is watching.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn event(&self, _: ProgressEvent) {}
}
