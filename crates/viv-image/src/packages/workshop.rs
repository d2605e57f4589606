//! Where layers are built: a directory of the cache that the ids of a build's namespaces own things in,
//! and running programs there.
//!
//! ```text
//! confined/trees/<digest>.<first id>/   an image or a layer as a directory, for overlayfs
//! confined/downloads/<name>.<first id>/ what package managers keep between builds
//! confined/build-<random>/              a build on its way; locked by it
//! ```
//!
//! All of it can be deleted at any time, but by an ordinary user only with [`Workshop::remove`]: it belongs
//! to other ids. Those ids, which may not enter the cache itself, start in `confined` and reach
//! nothing above it.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use rustix::fs::{FlockOperation, Mode, flock};

use super::confine::{Confinement, RootView, Stage};
use super::ids::{Ids, is_refusal};
use crate::cache::{Cache, is_at};
use crate::error::{Error, ErrorKind, Output, Result, io_error};
use crate::progress::{Progress, ProgressEvent};
use crate::run::each_line;
use crate::tools::SYSTEM_PATH;
use crate::{sys, tools};

/// Where layers are built, in the cache.
pub(crate) const CONFINED: &str = "confined";
const BUILD: &str = "build-";
const TAIL_LINES: usize = 40;

/// The directory, and who works in it.
#[derive(Debug)]
pub(crate) struct Workshop {
    ids: Ids,
    directory: PathBuf,
}

/// A build's own directory; removed when dropped.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    workshop: &'a Workshop,
    /// Relative to the workshop.
    pub name: String,
    pub lock: File,
}

/// Writes a program's standard input.
pub(crate) type Feed<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<()> + Send + 'a>;
/// Reads a program's standard output.
pub(crate) type Consume<'a> = Box<dyn FnOnce(&mut dyn Read) -> Result<()> + Send + 'a>;

/// Receives lines.
pub(crate) type OnLine<'a> = Box<dyn FnMut(&str) + Send + 'a>;

/// A program to run.
pub(crate) struct Job<'a> {
    /// What it sees; none: the host's root.
    pub root: Option<RootView>,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// All of its environment.
    pub environment: Vec<(String, String)>,
    pub locks: Vec<&'a File>,
    /// Writes its standard input, on a thread of its own.
    pub input: Option<Feed<'a>>,
    /// Reads its standard output; lines otherwise, as of its standard error.
    pub output: Option<Consume<'a>>,
    /// Receives each line it prints.
    pub on_line: OnLine<'a>,
    /// Receives each line it writes to its descriptor 3.
    pub on_report: Option<OnLine<'a>>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: ExitStatus,
    /// The last lines it printed.
    pub tail: String,
}

impl Workshop {
    /// The workshop of a cache.
    ///
    /// # Errors
    /// [`ErrorKind::Namespaces`] for a user without subordinate ids.
    pub(crate) fn open(cache: &Cache) -> Result<Self> {
        let ids = Ids::of_user()?;
        let directory = cache.directory(CONFINED)?;
        let workshop = Self { ids, directory };
        // The cache itself is closed to everyone else, so this is open to the namespaces' ids alone.
        for part in ["", "trees", "downloads"] {
            open_directory(&workshop.directory.join(part))?;
        }
        Ok(workshop)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// The name of something that these ids own, whose like other ids could own as well.
    pub(crate) fn owned(&self, kind: &str, name: &str) -> String {
        format!("{kind}/{name}.{}", self.ids.uid)
    }

    /// A directory for a build; those of killed builds are removed.
    pub(crate) fn bench(&self, progress: &dyn Progress) -> Result<Bench<'_>> {
        self.sweep(progress);
        loop {
            let made = tempfile::Builder::new()
                .prefix(BUILD)
                .tempdir_in(&self.directory)
                .map_err(io_error("make a directory in", &self.directory))?;
            // A sweep may see it before it is locked, and take it for a leftover.
            let Some(lock) = lock(made.path()) else { continue };
            let path = made.keep();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bench = Bench { workshop: self, name, lock };
            open_directory(&path)?;
            return Ok(bench);
        }
    }

    /// Removes what killed builds left.
    fn sweep(&self, progress: &dyn Progress) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(BUILD) {
                continue;
            }
            if let Some(lock) = lock(&entry.path())
                && let Err(error) = self.remove(&name, &lock)
            {
                let message = format!("could not remove what a killed build left: {error}");
                progress.event(ProgressEvent::Step { message });
            }
        }
    }

    /// Removes something of the workshop.
    pub(crate) fn remove(&self, name: &str, lock: &File) -> Result<()> {
        let path = self.directory.join(name);
        let removed = self.tool(Tool {
            program: "rm",
            arguments: &["-rf", "--one-file-system", "--", name],
            locks: vec![lock],
            ..Tool::default()
        });
        // What is the user's own is left by it.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                removed.and_then(|ended| ended.check("rm"))?;
                Err(io_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Runs a program of the host as the root of the namespaces' ids.
    pub(crate) fn tool(&self, tool: Tool<'_>) -> Result<Ended> {
        let program = tools::find(tool.program).ok_or_else(|| {
            Error::new(ErrorKind::MissingTool, format!("{} is not installed", tool.program)).hint("viv doctor --fix")
        })?;
        self.run(Job {
            root: None,
            program,
            arguments: tool.arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: vec![("PATH".to_owned(), SYSTEM_PATH.to_owned()), ("LC_ALL".to_owned(), "C".to_owned())],
            locks: tool.locks,
            input: tool.input,
            output: tool.output,
            on_line: Box::new(|_| {}),
            on_report: None,
        })
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, job: Job<'_>) -> Result<Ended> {
        let Job { root, program, arguments, environment, locks, input, output, mut on_line, on_report } = job;
        let failed = io_error("run", &program);
        let mut started = match Started::new(
            self,
            root,
            &program,
            &arguments,
            &environment,
            &locks,
            Wanted { input: input.is_some(), output: output.is_some(), report: on_report.is_some() },
        ) {
            Ok(started) => started,
            Err(Failure::Before(error)) => return Err(failed(error)),
            Err(Failure::Said(error)) => return Err(error),
        };
        let mut tail = VecDeque::new();
        let (fed, read, lines) = thread::scope(|scope| {
            let feeder = input.zip(started.input.take()).map(|(feed, mut pipe)| scope.spawn(move || feed(&mut pipe)));
            let reader = output.zip(started.output.take()).map(|(read, mut pipe)| scope.spawn(move || read(&mut pipe)));
            if let Some((mut on_report, report)) = on_report.zip(started.report.take()) {
                // What cannot be read is no report; the status says whether all went well.
                scope.spawn(move || drop(each_line(BufReader::new(report), &mut on_report)));
            }
            let lines = each_line(BufReader::new(&started.lines), &mut |line| {
                on_line(line);
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(line.to_owned());
            });
            let joined = |thread: Option<thread::ScopedJoinHandle<'_, Result<()>>>| {
                thread.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            };
            (joined(feeder), joined(reader), lines)
        });
        let status = started.child.wait().and_then(|status| lines.map(|()| status)).map_err(failed)?;
        let ended = Ended { status, tail: Vec::from(tail).join("\n") };
        // A program that failed is why its input could not be written.
        if ended.status.success() {
            fed?;
        }
        read?;
        Ok(ended)
    }
}

/// A program of the host to run.
#[derive(Default)]
pub(crate) struct Tool<'a> {
    pub program: &'static str,
    pub arguments: &'a [&'a str],
    pub locks: Vec<&'a File>,
    pub input: Option<Feed<'a>>,
    pub output: Option<Consume<'a>>,
}

impl Ended {
    /// The error of a tool of the host that failed.
    pub(crate) fn check(self, program: &str) -> Result<()> {
        if self.status.success() {
            return Ok(());
        }
        let message = format!("{program} failed ({})", self.status);
        Err(Error::new(ErrorKind::Build, message).source(Output(self.tail)))
    }
}

impl Bench<'_> {
    /// Its directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.workshop.directory.join(&self.name)
    }

    /// A directory in it that the namespaces' ids may write to; gives its name relative to the workshop.
    pub(crate) fn directory(&self, name: &str) -> Result<String> {
        open_directory(&self.path().join(name))?;
        Ok(format!("{}/{name}", self.name))
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next sweep.
        let _ = self.workshop.remove(&self.name, &self.lock);
    }
}

/// Which descriptors of a program someone is interested in.
struct Wanted {
    input: bool,
    output: bool,
    report: bool,
}

/// A confined program on its way.
struct Started {
    child: Child,
    input: Option<File>,
    output: Option<File>,
    report: Option<File>,
    lines: File,
    /// Its end is what the guard waits for.
    _alive: OwnedFd,
}

/// Why a program was not started.
enum Failure {
    Before(io::Error),
    Said(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Before(error)
    }
}

impl Started {
    fn new(
        workshop: &Workshop,
        root: Option<RootView>,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        locks: &[&File],
        wanted: Wanted,
    ) -> std::result::Result<Self, Failure> {
        let sees_host = root.is_none();
        let (progress, said) = pipe()?;
        let (asked, proceed) = pipe()?;
        let (alive, held) = pipe()?;
        let (lines, printed) = pipe()?;
        let (input_read, input) = wanted.input.then(pipe).transpose()?.unzip();
        let (output, output_written) = wanted.output.then(pipe).transpose()?.unzip();
        let (report, reported) = wanted.report.then(pipe).transpose()?.unzip();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&workshop.directory)
            .stdin(input_read.map_or_else(Stdio::null, Stdio::from))
            .stderr(printed.try_clone()?)
            .stdout(output_written.unwrap_or(printed));
        let locks = locks.iter().map(|lock| Ok(File::from(high(lock)?))).collect::<io::Result<_>>()?;
        let confinement = Confinement { root, progress: said, proceed: asked, alive, report: reported, locks };
        sys::before_exec(&mut command, confinement);
        // If the number of the report's descriptor were free, one of the descriptors that the standard
        // library makes could get it.
        let reserved = rustix::io::fcntl_dupfd_cloexec(&held, super::confine::REPORT).map_err(io::Error::from)?;
        let (spawned, mapped, stage) = thread::scope(|scope| {
            let mapper = scope.spawn(move || map(workshop.ids, progress, proceed));
            let spawned = command.spawn();
            // With it go this process's copies of what the program has.
            drop(command);
            let (mapped, stage) = mapper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (spawned, mapped, stage)
        });
        drop(reserved);
        mapped.map_err(Failure::Said)?;
        let child = spawned.map_err(|error| match stage {
            None => Failure::Before(error),
            Some(_) if sees_host && !is_refusal(&error) => Failure::Before(error),
            Some((stage, what)) => Failure::Said(refused(stage, what, error)),
        })?;
        let file = |pipe: Option<OwnedFd>| pipe.map(File::from);
        Ok(Self {
            child,
            input: file(input),
            output: file(output),
            report: file(report),
            lines: lines.into(),
            _alive: held,
        })
    }
}

/// Sets the ids of a process when it has made its user namespace; then tells at which stage it failed, if it did.
fn map(ids: Ids, progress: OwnedFd, proceed: OwnedFd) -> (Result<()>, Option<(Stage, &'static str)>) {
    let mut progress = File::from(progress);
    let mut next = || {
        let mut number = [0; 4];
        progress.read_exact(&mut number).ok().map(|()| u32::from_ne_bytes(number))
    };
    // A failure before that, too, is a number: smaller than any process's id that is not the first.
    let Some(first) = next() else { return (Ok(()), None) };
    if first == Stage::UserNamespace as u32 {
        return (Ok(()), Stage::of(first));
    }
    let mapped = ids.map(first);
    if mapped.is_ok() {
        // It may be gone.
        let _ = rustix::io::write(&proceed, &[1]);
    }
    drop(proceed);
    (mapped, next().and_then(Stage::of))
}

fn refused(stage: Stage, what: &str, error: io::Error) -> Error {
    let failed = Error::new(ErrorKind::Namespaces, format!("packages cannot be installed: {what} failed"));
    let failed = failed.source(error);
    match stage {
        Stage::Overlay => failed
            .hint("the cache has to be on a file system that overlayfs can be put over, such as ext4, xfs or btrfs")
            .hint("move it with XDG_CACHE_HOME"),
        _ => failed.hint("viv doctor --fix"),
    }
}

/// A pipe whose ends are not among the numbers that programs use, and which programs may open by name
/// (`/dev/stderr`) although they are nobody.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    rustix::fs::fchmod(&writer, Mode::from_raw_mode(0o666))?;
    Ok((high(&reader)?, high(&writer)?))
}

fn high(descriptor: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 10)?)
}

/// Makes a directory that everyone may write to, if it is not there.
fn open_directory(path: &Path) -> Result<()> {
    let make = || {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if path.metadata()?.permissions().mode() & 0o777 != 0o777 {
            fs::set_permissions(path, Permissions::from_mode(0o777))?;
        }
        Ok(())
    };
    make().map_err(io_error("make the directory", path))
}

/// The lock of a directory, if nobody has it.
fn lock(path: &Path) -> Option<File> {
    let directory = File::open(path).ok()?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    // Whoever had the lock may have removed it.
    is_at(&directory, path).then_some(directory)
}

/// A path as system calls take it.
pub(crate) fn c_string(path: impl AsRef<Path>) -> Result<CString> {
    let path = path.as_ref();
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(ErrorKind::Io, format!("{} has a zero byte in it", path.display())))
}

/// Has the next build of a layer read the lists of packages anew, and whatever else package managers keep
/// between builds; otherwise they hold for a day. Does nothing while a build is under way.
///
/// # Errors
/// [`ErrorKind::Namespaces`] for a user without subordinate ids; [`ErrorKind::Io`].
pub(super) fn forget_package_lists(cache: &Cache) -> Result<()> {
    remove_parts(cache, Some("downloads"))
}

/// Removes what a cache keeps unpacked of images and layers, and what package managers keep between
/// builds, unless a build is under way, in which case nothing is removed. It is made again when something is
/// built. An ordinary user cannot delete a cache that has any of it without this: it belongs to subordinate
/// ids.
///
/// # Errors
/// [`ErrorKind::Namespaces`] for a user without subordinate ids; [`ErrorKind::Io`].
pub fn remove_unpacked(cache: &Cache) -> Result<()> {
    remove_parts(cache, None)
}

/// Removes a part of a cache's workshop, or all of it.
fn remove_parts(cache: &Cache, part: Option<&str>) -> Result<()> {
    let directory = cache.root().join(CONFINED);
    if !directory.exists() {
        return Ok(());
    }
    let workshop = Workshop::open(cache)?;
    workshop.sweep(&crate::progress::NoProgress);
    let names = || {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    if names().any(|name| name.starts_with(BUILD)) {
        return Ok(());
    }
    let lock = File::open(&directory).map_err(io_error("open", &directory))?;
    for name in names().filter(|name| part.is_none_or(|part| part == name)) {
        workshop.remove(&name, &lock)?;
    }
    match part {
        None => fs::remove_dir(&directory).map_err(io_error("remove", &directory)),
        Some(_) => Ok(()),
    }
}
