//! What of a shared directory git on the host would obey: found before the start, and read-only by mount.
//!
//! The file daemon keeps a guest from making or changing what makes a repository dangerous, wherever it is (see
//! `viv_shares::guarded_entry`). This list is the second line, which holds even against a guest that has taken over
//! the daemon: the configuration and hooks of the directory's own repository, of its submodules' and of its worktrees.
//! It is the only line for what a configuration names elsewhere in the directory: hooks (`core.hooksPath`) and
//! further configurations (`include.path`, `includeIf.*.path`), whether they are there yet or not.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// What git obeys in a repository. In that of a worktree, `gitdir` says where it is.
const OBEYED: [&str; 5] = ["config", "config.worktree", "hooks", "commondir", "gitdir"];

/// A longer file is no configuration and no pointer of git's. Bytes.
const MAXIMUM_FILE_BYTES: u64 = 1 << 20;

/// How many directories of submodules and worktrees are looked at, and how many configurations.
const MOST_DIRECTORIES: usize = 10_000;
const MOST_FILES: usize = 1_000;

/// What husky calls the directory that it has git call: its scripts run those beside it.
const HUSKY: &str = "_";

/// The paths below `root` that are to be read-only, relative to it. Those that are not there must not be made.
pub(crate) fn protected(root: &Path) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    protected_with(root, home.as_deref(), &git_lists)
}

/// Where settings are asked of git: all of a file, or, without one, the system's and the user's.
type Git<'a> = &'a dyn Fn(Option<&Path>) -> Vec<Setting>;

/// What a configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// The file it stands in; none if it stands in none.
    file: Option<PathBuf>,
    /// Its name: section and key in small letters.
    name: String,
    value: PathBuf,
}

fn protected_with(root: &Path, home: Option<&Path>, git: Git) -> Vec<PathBuf> {
    let Ok(root) = root.canonicalize() else { return Vec::new() };
    let mut found = Found { root: &root, paths: BTreeSet::new(), configurations: VecDeque::new() };
    found.repositories();
    let mut settings = git(None);
    let mut seen = BTreeSet::new();
    loop {
        for setting in std::mem::take(&mut settings) {
            found.setting(&setting, home);
        }
        let Some(next) = found.configurations.pop_front() else { break };
        if seen.len() < MOST_FILES && seen.insert(next.clone()) && may_point_elsewhere(&next) {
            settings = git(Some(&next));
        }
    }
    found.paths.into_iter().collect()
}

struct Found<'a> {
    root: &'a Path,
    paths: BTreeSet<PathBuf>,
    /// Configurations that are to be read.
    configurations: VecDeque<PathBuf>,
}

impl Found<'_> {
    /// The repository of the directory, or the one that it is.
    fn repositories(&mut self) {
        let mut budget = MOST_DIRECTORIES;
        let git = self.root.join(".git");
        match git.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => self.repository(&git, &mut budget),
            Ok(metadata) if metadata.is_file() => {
                self.path(&git);
                if let Some(directory) = pointer(&git, "gitdir: ") {
                    self.repository(&directory, &mut budget);
                }
            }
            // A link means where it leads.
            Ok(_) => self.repository(&git, &mut budget),
            Err(_) if self.root.join("HEAD").exists() => self.repository(self.root, &mut budget),
            Err(_) => {}
        }
    }

    fn repository(&mut self, directory: &Path, budget: &mut usize) {
        let Ok(directory) = directory.canonicalize() else { return };
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        for name in OBEYED {
            self.existing(&directory.join(name));
        }
        self.configurations.extend(["config", "config.worktree"].map(|name| directory.join(name)));
        if let Some(common) = pointer(&directory.join("commondir"), "") {
            let Ok(common) = common.canonicalize() else { return };
            if common != directory {
                self.repository(&common, budget);
            }
            return;
        }
        for worktree in directories(&directory.join("worktrees")) {
            // Its common directory is this one.
            for name in OBEYED {
                self.existing(&worktree.join(name));
            }
            self.configurations.push_back(worktree.join("config.worktree"));
        }
        self.submodules(&directory.join("modules"), budget);
    }

    /// Names of submodules may have slashes: what has no `HEAD` is a part of a name.
    fn submodules(&mut self, directory: &Path, budget: &mut usize) {
        for below in directories(directory) {
            if *budget == 0 {
                return;
            }
            if below.join("HEAD").exists() {
                self.repository(&below, budget);
            } else {
                *budget -= 1;
                self.submodules(&below, budget);
            }
        }
    }

    fn setting(&mut self, setting: &Setting, home: Option<&Path>) {
        let value = match (setting.value.strip_prefix("~"), home) {
            (Ok(below), Some(home)) => home.join(below),
            _ => setting.value.clone(),
        };
        if setting.name == "core.hookspath" {
            let hooks = self.root.join(value);
            match hooks.parent() {
                Some(parent) if hooks.file_name() == Some(OsStr::new(HUSKY)) => self.path(parent),
                _ => self.path(&hooks),
            }
        } else if setting.name == "include.path" || is_conditional_include(&setting.name) {
            let above = setting.file.as_deref().and_then(Path::parent).unwrap_or(self.root);
            let file = above.join(value);
            self.path(&file);
            self.configurations.push_back(file);
        }
    }

    /// Takes what git obeys in a repository, if it is there. If not, or if it is a link that leads nowhere, the file
    /// daemon has no other put there.
    fn existing(&mut self, path: &Path) {
        if path.exists() {
            self.path(path);
        }
    }

    /// Takes a path, if it is below the root.
    fn path(&mut self, path: &Path) {
        let Some(plain) = plain(path) else { return };
        // Where its nearest directory really is; the rest does not exist yet.
        let nearest = plain.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        let Some((above, real)) = nearest else { return };
        let path = plain.strip_prefix(above).map_or_else(|_| plain.clone(), |rest| real.join(rest));
        // `join` with nothing puts a slash behind a file's name.
        let path: PathBuf = path.components().collect();
        if let Ok(below) = path.strip_prefix(self.root)
            && !below.as_os_str().is_empty()
        {
            self.paths.insert(below.to_owned());
        }
    }
}

/// A path without `.` and `..`, as far as that can be said without looking at it.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if plain.pop() => {}
            Component::ParentDir => return None,
            other => plain.push(other),
        }
    }
    plain.is_absolute().then_some(plain)
}

fn is_conditional_include(name: &str) -> bool {
    name.starts_with("includeif.") && name.ends_with(".path")
}

/// What a file of git's points to, after a prefix: a path, relative to the file.
fn pointer(file: &Path, prefix: &str) -> Option<PathBuf> {
    let content = read(file)?;
    let line = content.split(|byte| matches!(byte, b'\n' | b'\r')).next()?;
    let target = line.strip_prefix(prefix.as_bytes()).filter(|target| !target.is_empty())?;
    Some(file.parent()?.join(OsStr::from_bytes(target)))
}

/// The directories in a directory, in order, without links.
fn directories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let is_directory = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut found: Vec<PathBuf> =
        entries.take(MOST_DIRECTORIES).flatten().filter(is_directory).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The beginning of a regular file.
fn read(file: &Path) -> Option<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    // What a project has put there may be a FIFO, which is never waited for.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(file).ok()?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    let mut content = Vec::new();
    file.take(MAXIMUM_FILE_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}

/// Whether git has to be asked about a configuration: most say nothing of the kind.
fn may_point_elsewhere(file: &Path) -> bool {
    let Some(mut content) = read(file) else { return false };
    content.make_ascii_lowercase();
    let has = |wanted: &[u8]| content.windows(wanted.len()).any(|window| window == wanted);
    has(b"include") || has(b"hookspath")
}

/// Asks git, which knows best what it reads. It is called where there is no repository, runs nothing for this and
/// gets no variables that would have it look elsewhere. Without git on the host, nothing obeys anything.
fn git_lists(file: Option<&Path>) -> Vec<Setting> {
    let mut git = Command::new("git");
    git.args(["config", "--list", "--null", "--show-origin"]);
    match file {
        Some(file) => git.arg("--no-includes").arg("--file").arg(file),
        None => git.arg("--includes"),
    };
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_TRACE", "GIT_TRACE2"] {
        git.env_remove(variable);
    }
    git.current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    git.output().map(|output| settings(&output.stdout)).unwrap_or_default()
}

/// Reads `ORIGIN\0NAME\nVALUE\0`, over and over.
fn settings(output: &[u8]) -> Vec<Setting> {
    let mut parts = output.split(|byte| *byte == 0);
    let mut settings = Vec::new();
    while let (Some(origin), Some(entry)) = (parts.next(), parts.next()) {
        let at = entry.iter().position(|byte| *byte == b'\n');
        let (name, value) = at.map_or((entry, &b""[..]), |at| (&entry[..at], &entry[at + 1..]));
        settings.push(Setting {
            file: origin.strip_prefix(b"file:").map(|file| PathBuf::from(OsStr::from_bytes(file))),
            name: String::from_utf8_lossy(name).into_owned(),
            value: PathBuf::from(OsStr::from_bytes(value)),
        });
    }
    settings
}

#[cfg(test)]
mod tests;
