//! The one line by which the daemon tells its monitor how the start went.

use serde::{Deserialize, Serialize};
use viv_error::Report;

use crate::error::Error;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Failed { error: Report },
    Ready { ok: bool },
}

/// The line for a daemon that is ready: `{"ok":true}`.
pub(crate) fn ready() -> String {
    line(&Line::Ready { ok: true })
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

/// What a line from the daemon's ready pipe says: `Ok(())` if it serves, else its report.
///
/// # Errors
///
/// The daemon's own report; or one of kind `serve`, if the line is not one of its lines (it is empty if the daemon
/// was killed before it could say anything).
pub fn parse_ready(line: &str) -> Result<(), Report> {
    let unexpected = |message: String| Report { kind: "serve".to_owned(), message, causes: vec![], hints: vec![] };
    match serde_json::from_str(line) {
        Ok(Line::Ready { ok: true }) => Ok(()),
        Ok(Line::Failed { error }) => Err(error),
        _ if line.is_empty() => Err(unexpected("the file daemon ended before it was ready".to_owned())),
        _ => Err(unexpected(format!("the file daemon said {:?} instead of being ready", line.trim_end()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

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
    fn anything_else_is_a_failure() {
        assert!(parse_ready("").unwrap_err().message.contains("ended before"));
        assert!(parse_ready("{\"ok\":false}\n").is_err());
        assert!(parse_ready("panicked at\n").unwrap_err().message.contains("panicked"));
    }
}
