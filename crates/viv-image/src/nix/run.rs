//! Runs the user's nix as the user would: with the user's environment, found on the user's PATH.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::plan::Command;
use crate::error::{Error, ErrorKind, Output, Result, io_error};
use crate::progress::{Progress, ProgressEvent};
use crate::sys;

/// The most that is read of what a command prints. The registration of twenty thousand paths takes half of it.
const MOST_BYTES: u64 = 64 << 20;

/// How many of the last lines an error shows.
const TAIL_LINES: usize = 20;

/// Longer lines are cut.
const LINE_BYTES: u64 = 4096;

/// How a command ended.
pub(super) struct Ended {
    pub(super) success: bool,
    pub(super) output: Vec<u8>,
    /// The last lines it had to say.
    pub(super) tail: String,
    what: String,
}

impl Ended {
    /// What it printed, if it succeeded.
    pub(super) fn check(self) -> Result<Vec<u8>> {
        if self.success { Ok(self.output) } else { Err(self.error()) }
    }

    /// The error of its failure.
    pub(super) fn error(self) -> Error {
        Error::new(ErrorKind::Build, format!("nix could not provide {}", self.what)).source(Output(self.tail))
    }

    /// What it printed, line by line.
    pub(super) fn lines(self) -> Result<Vec<String>> {
        let text = String::from_utf8(self.check()?)
            .map_err(|error| Error::new(ErrorKind::Build, "nix printed what is not UTF-8").source(error))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// The programs of nix on the user's PATH.
pub(super) struct Programs<'a> {
    /// Directories that no program is taken from: a guest could have put it there.
    pub(super) untrusted: &'a [PathBuf],
}

impl Programs<'_> {
    /// Runs a command to its end. What it says on the way goes to `progress`, from its first line on: nix is silent when
    /// there is nothing to fetch or build.
    pub(super) fn run(&self, command: &Command, what: &str, progress: &dyn Progress) -> Result<Ended> {
        let program = self.find(command)?;
        let failed = || io_error("run", &program);
        let mut child = start(command, &program).map_err(failed())?;
        let output = child.stdout.take();
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            output.map_or(Ok(0), |output| output.take(MOST_BYTES).read_to_end(&mut bytes)).map(|_| bytes)
        });
        let mut tail = std::collections::VecDeque::new();
        let mut begun = false;
        let heard = each_line(child.stderr.take(), |line| {
            if !begun {
                begun = true;
                progress.event(ProgressEvent::Started { what: what.to_owned() });
            }
            progress.event(ProgressEvent::Step { message: line.to_owned() });
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line.to_owned());
        });
        let output = reading.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        let status = child.wait().and_then(|status| heard.map(|()| status)).map_err(failed())?;
        let output = output.map_err(failed())?;
        if output.len() as u64 == MOST_BYTES {
            return Err(Error::new(
                ErrorKind::Build,
                format!("{} printed more than {} MiB", command.program, MOST_BYTES >> 20),
            ));
        }
        if begun && status.success() {
            progress.event(ProgressEvent::Finished);
        }
        Ok(Ended { success: status.success(), output, tail: Vec::from(tail).join("\n"), what: what.to_owned() })
    }

    /// What a command printed if it succeeded within `time`. It is killed then.
    pub(super) fn ask(&self, command: &Command, time: Duration) -> Option<Vec<u8>> {
        let mut child = start(command, &self.find(command).ok()?).ok()?;
        let (output, errors) = (child.stdout.take()?, child.stderr.take()?);
        let (told, answer) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(MOST_BYTES).read_to_end(&mut bytes).map(|_| bytes);
            // Nobody listens once the time is up.
            let _ = told.send(read);
        });
        std::thread::spawn(move || io::copy(&mut { errors }, &mut io::sink()));
        let read = answer.recv_timeout(time);
        if read.is_err() {
            // It may have ended just now.
            let _ = child.kill();
        }
        let status = child.wait().ok()?;
        read.ok()?.ok().filter(|_| status.success())
    }

    fn find(&self, command: &Command) -> Result<PathBuf> {
        let executable =
            |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
        // As it is called and as it is: PATH may reach a directory of the guest through a link.
        let trusted = |file: &PathBuf| {
            let real = file.canonicalize().unwrap_or_default();
            file.is_absolute() && !self.untrusted.iter().any(|place| file.starts_with(place) || real.starts_with(place))
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut files = std::env::split_paths(&path).map(|directory| directory.join(command.program));
        files.find(|file| executable(file) && trusted(file)).ok_or_else(|| {
            Error::new(
                ErrorKind::MissingTool,
                format!("nix is not installed: there is no {} on the PATH", command.program),
            )
            .hint("apt install nix-bin nix-setup-systemd, or the nix of your distribution; then start a new session")
            .hint("or name packages of the image's own manager, without `nix:`")
        })
    }
}

fn start(command: &Command, program: &Path) -> io::Result<process::Child> {
    let mut started = process::Command::new(program);
    started.args(&command.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    sys::tie(&mut started, &[])?;
    started.spawn()
}

/// Lines without control characters, colour sequences among them.
fn each_line(reader: Option<impl Read>, mut on_line: impl FnMut(&str)) -> io::Result<()> {
    let Some(reader) = reader else { return Ok(()) };
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        let line = plain(&String::from_utf8_lossy(&bytes));
        if !line.trim().is_empty() {
            on_line(line.trim_end());
        }
    }
}

/// A line without colours: ECMA-48 control sequences are ESC [ parameters and a final byte from @ to ~.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\x1b' && characters.next_if_eq(&'[').is_some() {
            let _ = characters.by_ref().find(|c| ('@'..='~').contains(c));
        } else if !character.is_control() || character == '\t' {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_out() {
        assert_eq!(plain("\x1b[31;1merror:\x1b[0m no\x07\n"), "error: no");
        assert_eq!(plain("\x1b[31"), "");
        assert_eq!(plain("a\x1bb"), "ab");
    }

    #[test]
    fn no_program_of_a_guest_is_run() {
        let sh = Command { program: "sh", arguments: Vec::new() };
        let path = Programs { untrusted: &[] }.find(&sh).unwrap();
        let places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
        assert!(places.iter().any(|place| path.starts_with(place)));
        assert_eq!(*Programs { untrusted: &places }.find(&sh).unwrap_err().kind(), ErrorKind::MissingTool);
    }

    #[test]
    fn a_command_that_takes_too_long_is_given_up() {
        let nix = Programs { untrusted: &[] };
        let sleep = Command { program: "sleep", arguments: vec!["1000".to_owned()] };
        assert_eq!(nix.ask(&sleep, Duration::ZERO), None);
        let say = Command { program: "sh", arguments: vec!["-c".to_owned(), "echo said; echo more >&2".to_owned()] };
        assert_eq!(nix.ask(&say, Duration::from_secs(100)).as_deref(), Some(b"said\n".as_slice()));
    }
}
