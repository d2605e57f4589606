//! Images and layers as directories, which overlayfs needs below a build.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::plan::Root;
use super::workshop::{Tool, Workshop};
use crate::cache::{Cache, Lock};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::progress::{Progress, ProgressEvent};
use crate::unpack;

/// Directories with programs.
const PROGRAMS: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];

/// Bytes of an os-release file that are read.
const MAX_OS_RELEASE: u64 = 64 << 10;

/// The tree of an erofs file, unpacked if it is not there: its name relative to the workshop. `what` is
/// for people.
pub(crate) fn ensure(
    cache: &Cache,
    workshop: &Workshop,
    image: &Path,
    digest: &str,
    what: &str,
    progress: &dyn Progress,
) -> Result<String> {
    let name = workshop.owned("trees", digest);
    if workshop.path().join(&name).is_dir() {
        return Ok(name);
    }
    let lock = Lock::acquire(&cache.directory("locks")?, &format!("tree-{digest}"), &mut || {
        progress.event(ProgressEvent::Waiting { what: format!("{what}, unpacked") });
    })?;
    if workshop.path().join(&name).is_dir() {
        return Ok(name);
    }
    progress.event(ProgressEvent::Step { message: format!("unpacking {what}, once") });
    let file = File::open(image).map_err(io_error("open", image))?;
    let bench = workshop.bench(progress)?;
    let place = format!("{}/tree", bench.name);
    let locks = || vec![&lock.file, &bench.lock];
    workshop
        .tool(Tool { program: "mkdir", arguments: &["-m", "0755", &place], locks: locks(), ..Tool::default() })?
        .check("mkdir")?;
    let feed = |pipe: &mut dyn Write| {
        unpack::archive(&file, &mut BufWriter::with_capacity(256 << 10, pipe)).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Error::new(
                ErrorKind::BadImage,
                format!("{} cannot be unpacked, so no packages can be installed over it", image.display()),
            )
            .source(error),
            _ => io_error("unpack", image)(error),
        })
    };
    let arguments = [
        "--extract",
        "--file=-",
        "--directory",
        &place,
        "--numeric-owner",
        "--same-owner",
        "--preserve-permissions",
        "--delay-directory-restore",
        "--xattrs",
        "--xattrs-include=*",
        "--warning=no-timestamp",
    ];
    let ended = workshop.tool(Tool {
        program: "tar",
        arguments: &arguments[..],
        locks: locks(),
        input: Some(Box::new(feed)),
        ..Tool::default()
    })?;
    if crate::output::ran_out_of_space(&ended.tail) {
        return Err(crate::error::no_space(workshop.path(), crate::error::Output(ended.tail)));
    }
    ended.check("tar")?;
    keep(workshop, &place, &name, &[&lock.file, &bench.lock])?;
    Ok(name)
}

/// Moves a finished tree to where it stays.
pub(crate) fn keep(workshop: &Workshop, place: &str, name: &str, locks: &[&File]) -> Result<()> {
    // Never into one that is there.
    workshop
        .tool(Tool { program: "mv", arguments: &["-T", "--", place, name], locks: locks.to_vec(), ..Tool::default() })?
        .check("mv")
}

/// Trees over each other, the topmost first, as far as plans ask about them.
pub(crate) struct Trees {
    pub directories: Vec<PathBuf>,
}

impl Trees {
    /// Opens what the topmost tree that has it has at a path. Links lead nowhere outside of that tree.
    fn open(&self, path: &str, flags: OFlags) -> Option<File> {
        self.directories.iter().find_map(|directory| {
            let tree = rustix::fs::open(directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
            let file = rustix::fs::openat2(tree, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT);
            Some(File::from(file.ok()?))
        })
    }
}

impl Root for Trees {
    fn has_program(&self, name: &str) -> bool {
        // A link may lead into another tree.
        let is_program = |metadata: Metadata| metadata.is_file() || metadata.is_symlink();
        PROGRAMS.iter().any(|directory| {
            self.open(&format!("{directory}/{name}"), OFlags::PATH | OFlags::NOFOLLOW)
                .and_then(|file| file.metadata().ok())
                .is_some_and(is_program)
        })
    }

    fn os_release(&self, key: &str) -> Option<String> {
        let mut text = String::new();
        let file = ["etc/os-release", "usr/lib/os-release"].iter().find_map(|path| {
            let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
            file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
        })?;
        file.take(MAX_OS_RELEASE).read_to_string(&mut text).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    }
}
