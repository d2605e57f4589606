//! Asks the host's clients, with limits, and remembers what they said.
//!
//! A program is started in `/`, so that no project's configuration counts, and without the client's
//! own variables. One that lies in the workspace is never started: whoever is inside could have
//! written it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, MemfdFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// How long a program may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// More output is an error.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Variables of clients and their interpreters, which would make them say something else than their default.
const LEFT_OUT: [&str; 7] = ["NPM_", "PIP_", "CARGO_", "GIT_", "NODE_OPTIONS", "PYTHON", "INIT_CWD"];

/// Runs the host's clients.
pub(super) struct Asker<'a> {
    cache: &'a Path,
    environment: &'a BTreeMap<String, String>,
    workspace: &'a Path,
}

/// A question to a client.
#[derive(Default)]
pub(super) struct Question<'a> {
    pub arguments: &'a [&'a str],
    pub environment: &'a [(&'a str, &'a str)],
    pub stdin: &'a str,
    /// Whether what it says on standard error counts, and its failure does not.
    pub errors_too: bool,
}

/// An answer, and what it depends on.
#[derive(Serialize, Deserialize)]
struct Remembered {
    stamp: String,
    answer: String,
}

impl<'a> Asker<'a> {
    pub fn new(cache: &'a Path, environment: &'a BTreeMap<String, String>, workspace: &'a Path) -> Self {
        Self { cache, environment, workspace }
    }

    /// The directories of PATH, without relative ones and those in the workspace.
    fn search_path(&self) -> Vec<PathBuf> {
        let path = self.environment.get("PATH").map(String::as_str).unwrap_or_default();
        let workspace = self.workspace.canonicalize().unwrap_or_else(|_| self.workspace.to_path_buf());
        let directories = std::env::split_paths(path).filter(|directory| directory.is_absolute());
        directories.filter(|path| path.canonicalize().is_ok_and(|path| !path.starts_with(&workspace))).collect()
    }

    /// A program on the PATH.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let workspace = self.workspace.canonicalize().unwrap_or_else(|_| self.workspace.to_path_buf());
        let candidates = self.search_path().into_iter().map(|directory| directory.join(program));
        candidates.into_iter().find(|path| {
            path.canonicalize().is_ok_and(|path| path.is_file() && !path.starts_with(&workspace))
                && rustix::fs::access(path, Access::EXEC_OK).is_ok()
        })
    }

    /// What a program says; `None` if it fails, says too much or takes too long.
    pub fn ask(&self, program: &Path, question: &Question<'_>) -> Option<String> {
        self.run(program, question).ok().flatten()
    }

    fn run(&self, program: &Path, question: &Question<'_>) -> io::Result<Option<String>> {
        let mut stdin = File::from(rustix::fs::memfd_create("question", MemfdFlags::CLOEXEC)?);
        stdin.write_all(question.stdin.as_bytes())?;
        stdin.rewind()?;
        let (mut reader, writer) = io::pipe()?;
        let kept = self.environment.iter().filter(|(name, _)| {
            let name = name.to_ascii_uppercase();
            !LEFT_OUT.iter().any(|left_out| name.starts_with(left_out))
        });
        let mut command = Command::new(program);
        command
            .args(question.arguments)
            .env_clear()
            .envs(kept)
            .env("PATH", std::env::join_paths(self.search_path()).unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .envs(question.environment.iter().copied())
            .current_dir("/")
            .process_group(0)
            .stdin(stdin)
            .stderr(if question.errors_too { writer.try_clone()?.into() } else { Stdio::null() })
            .stdout(writer);
        let mut child = command.spawn()?;
        drop(command); // with its copies of the pipe's writing end
        let mut output = Vec::new();
        let until = Instant::now() + DEADLINE;
        let ended = listen(&mut reader, &mut output, until).and_then(|()| wait(&child, until));
        if ended.is_err() {
            stop(&child);
        }
        let status = child.wait()?;
        ended?;
        let counts = status.success() || question.errors_too;
        Ok(counts.then(|| String::from_utf8_lossy(&output).into_owned()))
    }

    /// The answer that was remembered under a name, as long as these files are what they were; else
    /// asks anew.
    pub fn remembered(&self, name: &str, files: &[&Path], ask: impl FnOnce() -> Option<String>) -> Option<String> {
        let stamp: String = files.iter().map(|path| stamp(path)).collect();
        let directory = self.cache.join("clients");
        let path = directory.join(format!("{name}.json"));
        let known = super::config::read(&path).and_then(|text| serde_json::from_str::<Remembered>(&text).ok());
        if let Some(known) = known.filter(|known| known.stamp == stamp) {
            return Some(known.answer);
        }
        let answer = ask()?;
        let remembered = Remembered { stamp, answer };
        // Only speed is lost if it cannot be kept.
        let _ = fs::create_dir_all(&directory).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(&directory)?;
            serde_json::to_writer(&mut file, &remembered)?;
            file.persist(&path).map_err(|error| error.error)
        });
        Some(remembered.answer)
    }
}

/// What changes when a file does; of a link, what it leads to. npm gives every file it installs the
/// same time of modification, so the time of change counts too.
pub(crate) fn stamp(path: &Path) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    match fs::metadata(&real) {
        Err(_) => format!("{} absent\n", path.display()),
        Ok(data) => format!(
            "{} {} {}:{} {} {}.{} {}.{}\n",
            path.display(),
            real.display(),
            data.dev(),
            data.ino(),
            data.size(),
            data.mtime(),
            data.mtime_nsec(),
            data.ctime(),
            data.ctime_nsec()
        ),
    }
}

/// Reads to the end.
fn listen(reader: &mut io::PipeReader, output: &mut Vec<u8>, until: Instant) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        ready(PollFd::new(reader, PollFlags::IN), until)?;
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            count if output.len() + count > MAX_OUTPUT_BYTES => return Err(io::ErrorKind::FileTooLarge.into()),
            count => output.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Waits for the program's end: it may have closed its output long before.
fn wait(child: &Child, until: Instant) -> io::Result<()> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    ready(PollFd::new(&pidfd, PollFlags::IN), until)
}

fn ready(descriptor: PollFd<'_>, until: Instant) -> io::Result<()> {
    let mut descriptors = [descriptor];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends the program and what it started. It is a group of its own, and not waited for yet, so the number is
/// still its own.
fn stop(child: &Child) {
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> BTreeMap<String, String> {
        std::env::vars().filter(|(name, _)| name == "PATH").collect()
    }

    #[test]
    fn a_program_is_asked_once() {
        let directory = tempfile::tempdir().unwrap();
        let (environment, workspace) = (environment(), directory.path().join("workspace"));
        let asker = Asker::new(directory.path(), &environment, &workspace);
        let sh = asker.find("sh").unwrap();
        let input = directory.path().join("input");
        fs::write(&input, "1").unwrap();
        let answer = |word: &str| {
            asker.remembered("test", &[&sh, &input], || {
                let script = format!("read line; echo $line {word}");
                asker.ask(&sh, &Question { arguments: &["-c", &script], stdin: "x\n", ..Question::default() })
            })
        };
        assert_eq!(answer("one").unwrap(), "x one\n");
        assert_eq!(answer("two").unwrap(), "x one\n");
        fs::write(&input, "more").unwrap();
        assert_eq!(answer("three").unwrap(), "x three\n");
    }

    #[test]
    fn failures_and_floods_are_no_answers() {
        let environment = environment();
        let asker = Asker::new(Path::new("/nonexistent"), &environment, Path::new("/nonexistent"));
        let sh = asker.find("sh").unwrap();
        let say = |script: &str, errors_too| {
            asker.ask(&sh, &Question { arguments: &["-c", script], errors_too, ..Question::default() })
        };
        assert_eq!(say("echo no; exit 1", false), None);
        assert_eq!(say("echo no >&2; exit 1", true).as_deref(), Some("no\n"));
        assert_eq!(say("yes", false), None);
        assert_eq!(asker.remembered("test", &[], || Some("not kept".to_owned())).as_deref(), Some("not kept"));
    }

    #[test]
    fn programs_of_the_workspace_are_not_started() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let workspace = directory.path().join("workspace");
        let (inside, outside) = (workspace.join("bin"), directory.path().join("bin"));
        for path in [&inside, &outside] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(inside.join("client"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(inside.join("client"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(inside.join("client"), outside.join("client")).unwrap();
        std::os::unix::fs::symlink(&inside, directory.path().join("link")).unwrap();
        let find = |path: PathBuf| {
            let environment = [("PATH".to_owned(), path.display().to_string())].into();
            Asker::new(directory.path(), &environment, &workspace).find("client")
        };
        assert_eq!(find(inside), None);
        assert_eq!(find(outside), None);
        assert_eq!(find(directory.path().join("link")), None);
        assert_eq!(find("bin".into()), None);
    }
}
