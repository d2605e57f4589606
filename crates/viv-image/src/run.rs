//! Runs a tool: its output line by line to a listener, the last lines kept for the error.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{Error, ErrorKind, Output, Result, io_error};
use crate::sys;
use crate::tools;

/// A command as data: what is run, and nothing of the caller's environment beside what is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub program: &'static str,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: ExitStatus,
    /// The last lines it printed.
    pub tail: String,
}

const TAIL_LINES: usize = 40;
/// Longer lines are cut.
const LINE_BYTES: u64 = 4096;

/// Starts the tool, and ends it with everything it started when told to: mmdebstrap by itself goes on
/// to the end. First politely, because it then removes what it made; 10 seconds later in any case,
/// and then what it made is removed by the next builder. $@ is the tool. (A background command of a
/// shell gets an empty standard input unless it comes from another descriptor.)
const WRAPPER: &str = r#"
trap 'tool=$!; trap "" HUP INT TERM; kill -s TERM 0; (sleep 10; kill -s KILL 0) & ${tool:+wait $tool}; kill -s KILL 0' HUP INT TERM
exec 3<&0
"$@" <&3 3<&- &
wait "$!"
"#;

/// Runs a command to its end, in a process group of its own. Its standard output and error come to
/// `on_line` as they were written, without control characters; its standard input is `stdin`, or
/// empty. It is tied to this thread and to `locks` (see [`sys::tie`]).
pub(crate) fn run(
    invocation: &Invocation,
    stdin: Option<File>,
    locks: &[&File],
    on_line: &mut dyn FnMut(&str),
) -> Result<Ended> {
    let program: PathBuf = tools::find(invocation.program).ok_or_else(|| {
        Error::new(ErrorKind::MissingTool, format!("{} is not installed", invocation.program)).hint("viv doctor --fix")
    })?;
    let failed = io_error("run", &program);
    let start = || -> io::Result<_> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WRAPPER, "sh"])
            .arg(&program)
            .args(&invocation.arguments)
            .env_clear()
            .envs(invocation.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(writer.try_clone()?)
            .stderr(writer);
        sys::tie(&mut command, locks)?;
        // The command is dropped here, and with it this process's copies of the pipe's writing end.
        Ok((command.spawn()?, reader))
    };
    let (mut child, reader) = start().map_err(failed)?;
    let mut tail = VecDeque::new();
    let read = each_line(BufReader::new(reader), &mut |line| {
        on_line(line);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line.to_owned());
    });
    let status = child.wait().and_then(|status| read.map(|()| status)).map_err(io_error("run", &program))?;
    Ok(Ended { status, tail: Vec::from(tail).join("\n") })
}

impl Ended {
    /// The error of a simple tool that failed.
    pub(crate) fn check(self, invocation: &Invocation, purpose: &str) -> Result<()> {
        if self.status.success() {
            return Ok(());
        }
        let message = format!("{} failed ({}) {purpose}", invocation.program, self.status);
        Err(Error::new(ErrorKind::Build, message).source(Output(self.tail)))
    }
}

/// Splits at newlines and carriage returns.
pub(crate) fn each_line(mut reader: impl BufRead, on_line: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        for part in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let line: String =
                String::from_utf8_lossy(part).chars().filter(|c| !c.is_control() || *c == '\t').collect();
            if !line.trim().is_empty() {
                on_line(line.trim_end());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation {
            program: "sh",
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("GREETING".to_owned(), "hello".to_owned())],
        }
    }

    #[test]
    fn both_streams_and_only_the_named_environment() {
        let lock = tempfile::tempfile().unwrap();
        let mut lines = Vec::new();
        let invocation = shell("echo $GREETING; echo ${HOME-none} >&2; printf 'a\\rb\\033[1mc\\n\\n'; cat; exit 3");
        let ended = run(&invocation, None, &[&lock], &mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["hello", "none", "a", "b[1mc"]);
        assert_eq!(ended.status.code(), Some(3));
        let error = ended.check(&invocation, "in a test").unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3) in a test");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let lock = tempfile::tempfile().unwrap();
        let ended = run(&shell("seq 1 1000"), None, &[&lock], &mut |_| {}).unwrap();
        assert_eq!(ended.tail.lines().count(), TAIL_LINES);
        assert!(ended.tail.ends_with("\n1000"));
    }

    #[test]
    fn standard_input_is_the_file_itself() {
        use std::io::{Seek, Write};
        let (lock, mut file) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        run(&shell("echo written >&0"), Some(file.try_clone().unwrap()), &[&lock], &mut |_| {}).unwrap();
        file.write_all(b"after\n").unwrap();
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "written\nafter\n");
    }

    #[test]
    fn all_of_it_dies_with_its_thread_and_holds_the_lock_until_then() {
        use rustix::fs::{FlockOperation, flock};
        let path = tempfile::NamedTempFile::new().unwrap();
        let lock = File::options().write(true).open(path.path()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        // The thread ends with the tool still running: it says when it is up, and then waits for longer
        // than any test, as does what it started.
        let (reader, writer) = io::pipe().unwrap();
        let mut reader = BufReader::new(reader);
        let thread = std::thread::spawn(move || {
            let script = "trap 'echo asked; exit 0' TERM; sleep 1000 & echo up; wait";
            let mut command = Command::new("/bin/sh");
            command.args(["-c", WRAPPER, "sh", "sh", "-c", script]).stdout(writer).process_group(0);
            sys::tie(&mut command, &[&lock]).unwrap();
            let child = command.spawn().unwrap();
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "up\n");
            drop((command, lock));
            let other = File::open(path.path()).unwrap();
            assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
            (child, reader, path)
        });
        let (mut child, reader, path) = thread.join().unwrap();
        let other = File::open(path.path()).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        // The pipe ends only when nobody is left who could write to it.
        assert_eq!(io::read_to_string(reader).unwrap(), "asked\n");
        assert!(!child.wait().unwrap().success());
    }
}
