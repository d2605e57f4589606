//! The log of a pipeline, as GitHub Actions reads it.
//!
//! There, a line that begins with `::` is a command to the runner (`::error::`, `::add-mask::` and others),
//! whoever printed it; so is `##[` anywhere in a line. So while a sandbox's output passes, commands are stopped
//! by a token that only viv knows (`::stop-commands::TOKEN`), until `::TOKEN::`. That only holds if all is one
//! stream, whose lines the runner sees in their order: everything is on standard output.
//!
//! <https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands>

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use viv_error::Report;

use super::clean::clean;
use crate::terminal::Descriptor;

/// The log of a step.
#[derive(Debug, Clone)]
pub struct Pipeline(Arc<Mutex<Log>>);

#[derive(Debug)]
struct Log {
    /// Commands are stopped until it is said again.
    token: Option<String>,
    /// Whether programs of the sandbox may still write.
    open: bool,
    /// The last byte was no line break.
    mid_line: bool,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is less than it could be.
    Warning,
}

impl Pipeline {
    /// A log that nothing was written to.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Log { token: None, open: false, mid_line: false })))
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a group of lines that is folded away.
    pub fn begin_group(&self, title: &str) {
        self.lock().line(&format!("::group::{}", escape(&clean(title))));
    }

    /// Ends it.
    pub fn end_group(&self) {
        self.lock().line("::endgroup::");
    }

    /// From here on programs of the sandbox write, and no line is a command.
    pub fn begin_untrusted(&self, token: String) {
        let mut log = self.lock();
        log.line(&format!("::stop-commands::{token}"));
        log.token = Some(token);
        log.open = true;
    }

    /// They write no more: whatever one still tries to is thrown away. Lines are commands again.
    pub fn end_untrusted(&self) {
        let mut log = self.lock();
        log.open = false;
        if let Some(token) = log.token.take() {
            log.line(&format!("::{token}::"));
        }
    }

    /// Where programs of the sandbox write.
    #[must_use]
    pub fn stream(&self) -> Box<dyn Write + Send> {
        Box::new(Untrusted(self.clone()))
    }

    /// Says something of viv's own.
    pub fn say(&self, text: &str) {
        let mut log = self.lock();
        for line in text.lines() {
            log.line(&harmless(line));
        }
    }

    /// Marks the run with a program that ended with an error.
    pub fn program_failed(&self, command: &str, code: u8) {
        let command = if command.is_empty() { "the shell" } else { command };
        let message = format!("{command} ended with exit code {code}");
        let report = Report { kind: "program".to_owned(), message, causes: Vec::new(), hints: Vec::new() };
        self.annotate(Level::Error, &report, &report.message);
    }

    /// Marks the run with something, if lines are commands; else it is only said.
    pub fn annotate(&self, level: Level, report: &Report, text: &str) {
        let is_stopped = self.lock().token.is_some();
        if is_stopped {
            return self.say(text);
        }
        let level = if level == Level::Error { "error" } else { "warning" };
        let mut properties = vec![format!("title={}", escape_property("viv"))];
        if let Some((file, line)) = place(report) {
            properties.insert(0, format!("file={}", escape_property(&file)));
            properties.extend(line.map(|line| format!("line={line}")));
        }
        let mut message = clean(&report.message).into_owned();
        for cause in &report.causes {
            message.push_str(&format!("\ncaused by: {}", super::clean_lines(cause)));
        }
        for hint in &report.hints {
            message.push_str(&format!("\nhint: {}", super::clean_lines(hint)));
        }
        self.lock().line(&format!("::{level} {}::{}", properties.join(","), escape(&message)));
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    fn line(&mut self, line: &str) {
        let begin = if std::mem::take(&mut self.mid_line) { "\n" } else { "" };
        // A log that nobody takes has nobody to tell.
        let _ = Descriptor::stdout().write_all(format!("{begin}{line}\n").as_bytes());
    }
}

/// Output of the sandbox.
struct Untrusted(Pipeline);

impl Write for Untrusted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock();
        if log.open {
            Descriptor::stdout().write_all(bytes)?;
            log.mid_line = bytes.last().is_some_and(|byte| *byte != b'\n');
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of viv's own that may quote others: no command.
fn harmless(line: &str) -> String {
    let line = line.replace("##[", "# #[");
    if line.trim_start().starts_with("::") { format!("| {line}") } else { line }
}

/// A command's data, as the runner unescapes it.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A").replace("##[", "# #[")
}

/// A command's property, as the runner unescapes it.
fn escape_property(text: &str) -> String {
    escape(text).replace(':', "%3A").replace(',', "%2C")
}

/// The file of the project that a failure is about, and the line in it, as the parser of TOML says it.
fn place(report: &Report) -> Option<(String, Option<u32>)> {
    let texts = || std::iter::once(&report.message).chain(&report.causes);
    texts().any(|text| text.contains("viv.toml")).then(|| {
        let line = texts().find_map(|text| {
            let rest = text.split("at line ").nth(1)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        ("viv.toml".to_owned(), line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_no_command() {
        for text in ["::error::x", "  ::set-env name=x::y", "a ##[error]b"] {
            let line = harmless(text);
            assert!(!line.trim_start().starts_with("::") && !line.contains("##["), "{line}");
        }
        assert_eq!(harmless("a :: b"), "a :: b");
        assert_eq!(escape("50%\r\n::x ##[y]"), "50%25%0D%0A::x # #[y]");
        assert_eq!(escape_property("a:b,c"), "a%3Ab%2Cc");
    }

    #[test]
    fn a_mistake_in_the_project_s_file_is_marked_there() {
        let report = |message: &str, cause: &str| Report {
            kind: "configuration".into(),
            message: message.into(),
            causes: vec![cause.into()],
            hints: vec![],
        };
        let parsed = report("/p/viv.toml cannot be read", "TOML parse error at line 12, column 5");
        assert_eq!(place(&parsed), Some(("viv.toml".to_owned(), Some(12))));
        assert_eq!(place(&report("/p/viv.toml: no such image", "")), Some(("viv.toml".to_owned(), None)));
        assert_eq!(place(&report("no QEMU", "at line 3")), None);
    }
}
