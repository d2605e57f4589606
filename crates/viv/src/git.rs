//! Git inside works at once: it knows who commits, whose the project is, and what to ignore.
//!
//! What is written is git's system-wide configuration inside, so that everything a user sets there wins. Only what
//! would make git fail or wait is set more strongly, by variables: signing, whose keys are not inside.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use viv_proto::message::GuestFile;
use viv_sandbox::{Warning, git_config_value};

use crate::environment::HostEnvironment;
use crate::resolve::Resolved;

/// Where git inside finds it: in memory, where writing costs nothing of the disk's layers. The image's own file is
/// included in it.
const CONFIGURATION: &str = "/run/viv/gitconfig";

/// Where it finds what is ignored.
const IGNORE: &str = "/run/viv/gitignore";

/// A longer list of what is ignored is left out: it travels in one message. Bytes.
const MAXIMUM_IGNORE_BYTES: u64 = 16 << 10;

/// A longer value is none. Bytes.
const MAXIMUM_VALUE_BYTES: usize = 1024;

/// Who commits where the host does not say.
const NOBODY: (&str, &str) = ("AI Agent", "agent@localhost");

/// What the host's user has told git about themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitFacts {
    /// `user.name`
    pub name: Option<String>,
    /// `user.email`
    pub email: Option<String>,
    /// `init.defaultBranch`
    pub default_branch: Option<String>,
    /// What the file that `core.excludesFile` names holds.
    pub ignore: Option<String>,
    /// What could not be taken over.
    pub warning: Option<String>,
}

impl GitFacts {
    /// Asks git, as it is configured for the user: never what the project says, which may be hostile and name
    /// any file of the host. `workspace` is where `includeIf` looks.
    #[must_use]
    pub fn probe(workspace: &Path, host: &HostEnvironment) -> Self {
        let mut git = Command::new("git");
        let keys = r"^(user\.(name|email)|init\.defaultbranch|core\.excludesfile)$";
        git.args(["config", "--global", "--includes", "--null", "--get-regexp", keys]).current_dir(workspace);
        git.stdin(Stdio::null()).stderr(Stdio::null());
        // No git, or nothing configured: the defaults are for that.
        let values = git.output().map(|output| values(&output.stdout)).unwrap_or_default();
        let value = |key: &str| values.get(key).filter(|value| !value.is_empty()).cloned();
        let mut facts = Self {
            name: value("user.name"),
            email: value("user.email"),
            default_branch: value("init.defaultbranch"),
            ..Self::default()
        };
        if let Some(file) = ignore_file(value("core.excludesfile").as_deref(), host) {
            match read_ignore(&file) {
                Ok(ignore) => facts.ignore = ignore,
                Err(reason) => {
                    facts.warning = Some(format!("git inside does not ignore what {} says: {reason}", file.display()))
                }
            }
        }
        facts
    }
}

/// Makes git inside ready for a run.
pub fn apply(resolved: &mut Resolved, host: &HostEnvironment) {
    let facts = GitFacts::probe(&resolved.sandbox.workspace, host);
    resolved.sandbox.files.extend(files(&facts));
    resolved.sandbox.environment.extend(environment());
    resolved.warnings.extend(facts.warning.map(|message| Warning { message, hint: None }));
}

/// Reads `KEY\nVALUE\0`, of which the last value of a key counts.
fn values(output: &[u8]) -> BTreeMap<String, String> {
    output
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let (key, value) = std::str::from_utf8(entry).ok()?.split_once('\n')?;
            (value.len() <= MAXIMUM_VALUE_BYTES).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The user's own, or where git looks without one.
fn ignore_file(configured: Option<&str>, host: &HostEnvironment) -> Option<PathBuf> {
    let home = host.home.as_deref();
    match configured {
        Some(path) => match path.strip_prefix("~/") {
            Some(below) => Some(home?.join(below)),
            None => Some(PathBuf::from(path)).filter(|path| path.is_absolute()),
        },
        None => {
            let configuration = host.variables.get("XDG_CONFIG_HOME").filter(|path| path.starts_with('/'));
            let directory =
                configuration.map_or_else(|| home.map(|home| home.join(".config")), |path| Some(path.into()));
            Some(directory?.join("git/ignore"))
        }
    }
}

fn read_ignore(path: &Path) -> Result<Option<String>, String> {
    let file = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => std::fs::File::open(path).map_err(|error| error.to_string())?,
        Ok(_) => return Err("it is no file".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(MAXIMUM_IGNORE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAXIMUM_IGNORE_BYTES {
        return Err("it is larger than 16 KiB".to_owned());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".to_owned())
}

/// The files that git inside reads.
#[must_use]
pub fn files(facts: &GitFacts) -> Vec<GuestFile> {
    let (name, email) = match (&facts.name, &facts.email) {
        (Some(name), Some(email)) => (name.as_str(), email.as_str()),
        // Half an identity is nobody's.
        _ => NOBODY,
    };
    let mut text = format!(
        "# Written by viv. What is set inside, for a user or in a repository, wins.\n\
         [include]\n\tpath = /etc/gitconfig\n\
         [user]\n\tname = {}\n\temail = {}\n\
         [safe]\n\tdirectory = *\n\
         # Logins stay outside; without an answer git would ask the terminal, and wait.\n\
         [credential]\n\thelper =\n\thelper = \"!echo quit=1 #\"\n\
         [commit]\n\tgpgSign = false\n[tag]\n\tgpgSign = false\n",
        git_config_value(name),
        git_config_value(email),
    );
    if let Some(branch) = &facts.default_branch {
        text.push_str(&format!("[init]\n\tdefaultBranch = {}\n", git_config_value(branch)));
    }
    let file = |path: &str, content: String| GuestFile { path: path.to_owned(), content, mode: 0o644, of_user: false };
    let mut files = Vec::new();
    if let Some(ignore) = &facts.ignore {
        text.push_str(&format!("[core]\n\texcludesFile = {IGNORE}\n"));
        files.push(file(IGNORE, ignore.clone()));
    }
    files.push(file(CONFIGURATION, text));
    files
}

/// The variables of every program. Those of signing are stronger than a repository's own file, and weaker than
/// `git -c`.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("GIT_CONFIG_SYSTEM".to_owned(), CONFIGURATION.to_owned()),
        ("GIT_CONFIG_COUNT".to_owned(), "2".to_owned()),
    ]);
    for (index, key) in ["commit.gpgSign", "tag.gpgSign"].into_iter().enumerate() {
        environment.insert(format!("GIT_CONFIG_KEY_{index}"), key.to_owned());
        environment.insert(format!("GIT_CONFIG_VALUE_{index}"), "false".to_owned());
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> GitFacts {
        GitFacts {
            name: Some("Ada \"the\" \\ [core]\n\tpager = x".to_owned()),
            email: Some("ada@example.com # ; ".to_owned()),
            default_branch: Some("trunk".to_owned()),
            ignore: Some(".idea/\n".to_owned()),
            warning: None,
        }
    }

    #[test]
    fn the_files() {
        insta::assert_snapshot!(
            files(&facts()).into_iter().map(|file| format!("{}\n{}", file.path, file.content)).collect::<String>()
        );
        let half = GitFacts { name: Some("Ada".to_owned()), ..GitFacts::default() };
        assert!(files(&half)[0].content.contains("name = \"AI Agent\"\n\temail = \"agent@localhost\""));
    }

    #[test]
    fn git_reads_back_what_was_meant() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, &files(&facts())[1].content).unwrap();
        let get = |key: &str| {
            let mut git = Command::new("git");
            let output = git.args(["config", "--null", "--file"]).arg(&path).args(["--get-all", key]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(get("user.name"), format!("{}\0", facts().name.unwrap()));
        assert_eq!(get("user.email"), format!("{}\0", facts().email.unwrap()));
        assert_eq!(get("credential.helper"), "\0!echo quit=1 #\0");
        assert_eq!(get("core.pager"), "");
        assert_eq!(get("safe.directory"), "*\0");
    }

    #[test]
    fn a_helper_with_nothing_to_give_ends_it_at_once_and_signing_is_off_even_where_a_repository_wants_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, &files(&facts())[1].content).unwrap();
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment());
            git.env("HOME", directory.path()).env("GIT_CONFIG_SYSTEM", &path).current_dir(directory.path());
            git.stdin(Stdio::null()).args(arguments).output().unwrap()
        };
        assert!(git(&["init", "-q", "work"]).status.success());
        assert!(git(&["-C", "work", "config", "commit.gpgsign", "true"]).status.success());
        let committed = git(&["-C", "work", "commit", "-q", "--allow-empty", "-m", "x"]);
        assert!(committed.status.success(), "{committed:?}");
        let asked = git(&["credential", "fill"]);
        assert!(!asked.status.success(), "{asked:?}");
    }

    #[test]
    fn only_whole_values_of_sensible_size_are_read() {
        let long = "x".repeat(MAXIMUM_VALUE_BYTES + 1);
        let output = format!("user.name\nA\0user.name\nB\nC\0user.email\n{long}\0init.defaultbranch\0");
        assert_eq!(values(output.as_bytes()), BTreeMap::from([("user.name".to_owned(), "B\nC".to_owned())]));
    }
}
