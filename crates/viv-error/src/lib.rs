//! One shape of error for every Vivarium library: a kind to match on, a chain and hints for people.
//!
//! A library defines its own kinds and an alias:
//!
//! ```
//! #[derive(Debug, Clone, Copy, PartialEq, Eq)]
//! pub enum ErrorKind { Missing }
//! impl viv_error::Kind for ErrorKind {
//!     fn name(&self) -> &'static str { "missing" }
//! }
//! pub type Error = viv_error::Error<ErrorKind>;
//!
//! let error = Error::new(ErrorKind::Missing, "no kernel").hint("viv doctor --fix");
//! assert_eq!(error.to_string(), "no kernel");
//! ```
//!
//! `Display` is the message alone; the sources follow through [`std::error::Error::source`], and
//! whoever shows the error shows the chain. [`Report`] is the same as plain data, for crossing a
//! process boundary or for `--json`.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What callers match on.
pub trait Kind: fmt::Debug + Send + Sync + 'static {
    /// A stable name in snake case, for `--json`.
    fn name(&self) -> &str;
}

/// What went wrong, why, and what would mend it.
#[derive(Debug)]
pub struct Error<K> {
    inner: Box<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    kind: K,
    message: String,
    hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl<K> Error<K> {
    /// An error of a kind; the message says what happened, without its source and without a period.
    pub fn new(kind: K, message: impl Into<String>) -> Self {
        Self { inner: Box::new(Inner { kind, message: message.into(), hints: Vec::new(), source: None }) }
    }

    /// Why it happened.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What would mend it: a sentence or a command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hints.push(hint.into());
        self
    }

    /// What callers match on.
    pub fn kind(&self) -> &K {
        &self.inner.kind
    }

    /// What would mend it.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.inner.hints
    }
}

impl<K> fmt::Display for Error<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl<K: fmt::Debug> StdError for Error<K> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// An error as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The kind's name.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// Why, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What would mend it.
    #[serde(default)]
    pub hints: Vec<String>,
}

impl Report {
    /// What happened and why, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let parts = std::iter::once(&self.message).chain(&self.causes);
        parts.map(|part| part.lines().next().unwrap_or_default()).collect::<Vec<_>>().join(": ")
    }
}

impl<K: Kind> From<&Error<K>> for Report {
    fn from(error: &Error<K>) -> Self {
        let mut causes = Vec::new();
        let mut next = StdError::source(error);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        Self { kind: error.kind().name().to_owned(), message: error.to_string(), causes, hints: error.hints().to_vec() }
    }
}
