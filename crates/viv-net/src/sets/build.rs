//! Puts an answer together.

use viv_proto::message::GuestFile;

use super::location::Location;
use super::{Error, ErrorKind, SetAnswer, SetName};
use crate::policy::Rule;

/// An answer in the making.
pub(super) struct Builder {
    set: SetName,
    answer: SetAnswer,
    /// What the project's files name, and which file.
    of_project: Vec<(Location, String)>,
}

/// More come from no one's own configuration, but perhaps from a stranger's project.
const MAX_RULES: usize = 256;
const MAX_WARNINGS: usize = 64;

impl Builder {
    pub fn new(set: SetName) -> Self {
        Self { set, answer: SetAnswer::default(), of_project: Vec::new() }
    }

    /// Allows what a URL of the user's own settings leads to. Returns the place if the guest can be given it;
    /// what is not a URL of the network is not, and needs no rule.
    pub fn allow(&mut self, url: &str) -> Option<Location> {
        self.allow_with(url, true)
    }

    /// The same; `private` as in [`Rule::private`]. A rule for an address opens it even if it is a private one,
    /// so one that may not be private is not opened.
    pub fn allow_with(&mut self, url: &str, private: bool) -> Option<Location> {
        let at = match self.set {
            SetName::Git => Location::parse_git(url)?,
            _ => Location::parse(url)?,
        };
        if let Some(reason) = at.unreachable {
            self.warn(format!("{}: {} {reason}", self.set, at.rule()));
            return None;
        }
        if at.login {
            self.warn(format!(
                "{}: {} is configured with a login, which stays outside: what it does not give to everyone will be \
                 missing",
                self.set,
                at.rule()
            ));
        }
        let text = at.rule();
        let kept_shut = match at.port {
            _ if private => None,
            _ if at.address => Some("is an address"),
            25 => Some("is the port of SMTP"),
            _ => None,
        };
        if let Some(what) = kept_shut {
            self.warn(format!("{}: {text} {what}, which a project's files do not open: --allow {text}", self.set));
            return None;
        }
        let count = self.answer.rules.len();
        if let Some(rule) = self.answer.rules.iter_mut().find(|rule| rule.text() == text) {
            rule.private |= private;
        } else if count < MAX_RULES {
            // What is no rule is no place that a guest could be let to either.
            let rule = Rule::parse(&text).ok()?;
            self.answer.rules.push(rule.with_origin(self.set.as_str()).with_private(private));
        } else {
            self.warn(format!("{}: more than {MAX_RULES} places are named; the rest is left out", self.set));
            return None;
        }
        Some(at)
    }

    /// Tells of what only the project's files name.
    pub fn tell(&mut self, url: &str, file: &str) {
        if self.of_project.len() < MAX_RULES {
            self.of_project.extend(Location::parse(url).map(|at| (at, file.to_owned())));
        }
    }

    /// Adds a warning, once.
    pub fn warn(&mut self, text: String) {
        if self.answer.warnings.len() < MAX_WARNINGS && !self.answer.warnings.contains(&text) {
            self.answer.warnings.push(text);
        }
    }

    /// Sets a variable of the guest.
    pub fn environment(&mut self, name: &str, value: String) {
        self.answer.environment.insert(name.to_owned(), value);
    }

    /// Adds a file that everyone in the guest may read.
    pub fn file(&mut self, path: &str, content: String) {
        self.answer.files.push(GuestFile { path: path.to_owned(), content, mode: 0o644, of_user: false });
    }

    /// The answer, if there is anything in it.
    pub fn finish(mut self, installed: bool) -> Result<SetAnswer, Error> {
        for (at, file) in std::mem::take(&mut self.of_project) {
            if self.answer.rules.iter().all(|rule| rule.text() != at.rule()) && at.unreachable.is_none() {
                self.warn(format!(
                    "{}: the project's {file} names {rule}, your own settings do not; what a project's files say opens \
                     nothing: --allow {rule}",
                    self.set,
                    rule = at.rule()
                ));
            }
        }
        if !self.answer.rules.is_empty() {
            return Ok(self.answer);
        }
        let client = self.set.client();
        let message = match (self.set, installed) {
            (SetName::Git, _) => "the project has no remotes that are reached over the network".to_owned(),
            (_, false) => format!("{client} is not installed here, so what it would connect to is not known"),
            (_, true) => format!("{client} does not say what it would connect to"),
        };
        let error = Error::new(ErrorKind::NotConfigured, format!("{}: {message}", self.set));
        let mut error = error.hint("name the host: --allow HOST");
        if !installed && self.set != SetName::Git {
            error =
                error.hint("programs inside the workspace are not asked, because a sandbox could have written them");
        }
        Err(self.answer.warnings.into_iter().fold(error, Error::hint))
    }
}
