//! The one line by which the daemon tells its monitor how the start went, and its helper tells the daemon.

use std::fmt;

use serde::{Deserialize, Serialize};
use viv_error::Report;

use crate::error::{Error, ErrorKind, Result};
use crate::guard::Reserved;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Failed {
        error: Report,
    },
    Ready {
        ok: bool,
        /// From the helper to the daemon only.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reserved: Vec<Reserved>,
    },
}

/// The line for a daemon that is ready: `{"ok":true}`.
pub(crate) fn ready() -> String {
    line(&Line::Ready { ok: true, reserved: Vec::new() })
}

/// The line for a daemon that is not, and why: `{"error":{…}}`.
pub(crate) fn failed(error: &Error) -> String {
    line(&Line::Failed { error: Report::from(error) })
}

fn line(line: &Line) -> String {
    // Strings and a bool: nothing in it can fail to be JSON.
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

/// The line that says `result`.
pub(crate) fn told(result: &Result<()>) -> String {
    result.as_ref().map_or_else(failed, |()| ready())
}

/// The first line of the helper: what is not there and must not be made.
pub(crate) fn reserved(reserved: Vec<Reserved>) -> String {
    line(&Line::Ready { ok: true, reserved })
}

/// What a line of the helper says, if it has said one.
pub(crate) fn heard(line: &str) -> Result<Vec<Reserved>> {
    match serde_json::from_str(line) {
        Ok(Line::Ready { ok: true, reserved }) => Ok(reserved),
        Ok(Line::Failed { error }) => Err(from_report(error)),
        _ => Err(Error::new(ErrorKind::Mount, "the helper of the file daemon ended before the shares were mounted")),
    }
}

/// The error that `report` was made from, as far as it can be had back.
fn from_report(report: Report) -> Error {
    let kind = ErrorKind::named(&report.kind).unwrap_or(ErrorKind::Mount);
    let mut error = Error::new(kind, report.message);
    for hint in report.hints {
        error = error.hint(hint);
    }
    let causes = report.causes.into_iter().rev();
    match causes.fold(None, |source, message| Some(Box::new(Cause { message, source }))) {
        Some(cause) => error.source(cause),
        None => error,
    }
}

/// One cause of an error of another process.
#[derive(Debug)]
struct Cause {
    message: String,
    source: Option<Box<Cause>>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

/// What a line from the daemon's ready pipe says: `Ok(())` if it serves, else its report.
///
/// # Errors
///
/// The daemon's own report; or one of kind `serve`, if the line is not one of its lines (it is empty if the daemon
/// was killed before it could say anything).
pub fn parse_ready(line: &str) -> std::result::Result<(), Report> {
    let unexpected = |message: String| Report { kind: "serve".to_owned(), message, causes: vec![], hints: vec![] };
    match serde_json::from_str(line) {
        Ok(Line::Ready { ok: true, .. }) => Ok(()),
        Ok(Line::Failed { error }) => Err(error),
        _ if line.is_empty() => Err(unexpected("the file daemon ended before it was ready".to_owned())),
        _ => Err(unexpected(format!("the file daemon said {:?} instead of being ready", line.trim_end()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_come_back_as_what_they_were() {
        assert_eq!(ready(), "{\"ok\":true}\n");
        assert_eq!(parse_ready(&ready()), Ok(()));
        let error = Error::new(ErrorKind::SourceMissing, "cannot share /x")
            .source(std::io::Error::from_raw_os_error(libc::ENOENT))
            .hint("make it");
        let report = parse_ready(&failed(&error)).unwrap_err();
        assert_eq!((report.kind.as_str(), report.message.as_str()), ("source_missing", "cannot share /x"));
        assert_eq!((report.causes.len(), report.hints.len()), (1, 1));
    }

    #[test]
    fn the_daemon_passes_on_what_its_helper_said() {
        let error = Error::new(ErrorKind::ProtectedLink, "cannot protect x")
            .source(Cause {
                message: "outer".to_owned(),
                source: Some(Box::new(Cause { message: "inner".to_owned(), source: None })),
            })
            .hint("make it a file");
        let line = failed(&error);
        let heard = heard(&line).unwrap_err();
        assert_eq!(*heard.kind(), ErrorKind::ProtectedLink);
        assert_eq!(failed(&heard), line);
        assert!(super::heard(&told(&Ok(()))).is_ok());
        assert_eq!(*super::heard("").unwrap_err().kind(), ErrorKind::Mount);
    }

    #[test]
    fn anything_else_is_a_failure() {
        assert!(parse_ready("").unwrap_err().message.contains("ended before"));
        assert!(parse_ready("{\"ok\":false}\n").is_err());
        assert!(parse_ready("panicked at\n").unwrap_err().message.contains("panicked"));
    }
}
