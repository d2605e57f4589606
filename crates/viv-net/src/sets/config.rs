//! Configuration files of clients, read with limits.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// A configuration file. May hold logins, so its `Debug` does not show its text.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is of the project, and so can come from a stranger or from inside.
    pub project: bool,
    /// Its text.
    pub text: String,
}

impl ConfigFile {
    /// Its name alone.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigFile").field("path", &self.path).field("project", &self.project).finish_non_exhaustive()
    }
}

/// Variables of the environment. May hold logins, so its `Debug` shows their names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(pub BTreeMap<String, String>);

impl Variables {
    /// Those whose names, in capitals, begin so; empty ones do not count.
    pub(super) fn of(environment: &BTreeMap<String, String>, prefixes: &[&str]) -> Self {
        let ours = |name: &str| {
            let name = name.to_ascii_uppercase();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        let found = environment.iter().filter(|(name, value)| ours(name) && !value.is_empty());
        Self(found.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// A variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Larger files are not read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The text of a regular file, if it is one and not too large. A project may have a pipe, or a link
/// to a device, in a file's place: opening neither blocks.
pub(crate) fn read(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// A setting of an INI file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Empty before the first section.
    pub section: String,
    pub key: String,
    /// Without quotes; continued lines are joined by newlines.
    pub value: String,
}

/// Reads the INI dialect that npmrc and pip.conf have in common: `key = value` or, where `colon` says so,
/// `key: value`; comments in lines of their own; indented lines continue a value.
pub(crate) fn ini(text: &str, colon: bool) -> Vec<Setting> {
    let mut section = String::new();
    let mut settings: Vec<Setting> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if colon && line.starts_with([' ', '\t']) {
            if let Some(last) = settings.last_mut() {
                last.value.push('\n');
                last.value.push_str(trimmed);
            }
        } else if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = trimmed.split_once(|c| c == '=' || (colon && c == ':')) {
            let value = value.trim();
            let unquoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
            let (section, key) = (section.clone(), key.trim().to_owned());
            settings.push(Setting { section, key, value: unquoted.unwrap_or(value).to_owned() });
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ini_files() {
        let text = "a = 1\n; no\n# no\n[global]\nindex-url: https://a.example/\nextra =\n  x\n  y\nq=\"v\"\n";
        let shown: Vec<String> =
            ini(text, true).iter().map(|s| format!("[{}] {}={:?}", s.section, s.key, s.value)).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        [] a="1"
        [global] index-url="https://a.example/"
        [global] extra="\nx\ny"
        [global] q="v"
        "#);
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        assert_eq!(read(Path::new("/dev/zero")), None);
        assert_eq!(read(Path::new("/")), None);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn logins_are_not_shown() {
        let file = ConfigFile { path: "a".into(), project: false, text: "canary".into() };
        let variables = Variables([("NAME".to_owned(), "canary".to_owned())].into());
        assert!(!format!("{file:?} {variables:?}").contains("canary"));
    }
}
