//! From records to a directory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use viv_proto::archive::{FileKind, Record, Time};

use crate::beneath::split;
use crate::error::{io, shown, stream};
use crate::{Carried, Directory, Error, ErrorKind, RecordReader, Result};

/// What of a mode is kept: nobody gains rights by a file that was carried.
const PERMISSIONS: u16 = 0o777;

/// The most that is taken.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

impl Default for Limits {
    /// A million entries, and as many bytes as the disk has room for.
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: u64::MAX }
    }
}

/// What becomes of the first component of every path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Top {
    /// It stays.
    #[default]
    Keep,
    /// It is this instead: one name.
    Rename(Vec<u8>),
    /// It is left out: what was in it goes into the directory itself.
    Strip,
}

/// Says what is wrong with a path, if something is.
pub type Refusal = fn(&[u8]) -> Option<&'static str>;

/// How a tree is written.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// User and group that everything is given to; without, it is whoever writes.
    pub owner: Option<(u32, u32)>,
    /// What becomes of the first component of every path.
    pub top: Top,
    /// The most that is taken.
    pub limits: Limits,
    /// What is wrong with a path that is not to be written, if there are such. It is asked of paths as they come.
    pub refused: Option<Refusal>,
    /// Whether a file gets its name only once it is whole, which costs a rename for each. In the directories that such
    /// a writer comes to, it removes what another one left that was killed.
    pub only_whole: bool,
}

/// Writes the tree that a reader gives beneath a directory. Returns what was written, and tells meanwhile.
///
/// Directories that are there stay as they are; a file or link in the place of one that comes is replaced at once
/// and whole, or not at all. With [`Options::only_whole`], new files are written in this way, too.
///
/// # Errors
/// [`ErrorKind::Stream`], [`ErrorKind::TooMuch`], [`ErrorKind::InTheWay`] or [`ErrorKind::Io`]. What was written by
/// then stays.
pub fn unpack(
    reader: &mut RecordReader<impl Read>,
    root: &Directory,
    options: &Options,
    on_progress: &mut dyn FnMut(&Carried),
) -> Result<Carried> {
    let mut writer =
        Writer { root, options, parent: None, swept: BTreeSet::new(), made: Vec::new(), carried: Carried::default() };
    loop {
        let record = reader.next_record().map_err(stream)?;
        match &record {
            Record::Directory { path, .. } | Record::File { path, .. } | Record::Symlink { path, .. } => {
                if let Some(why) = options.refused.and_then(|refused| refused(path)) {
                    return Err(Error::new(ErrorKind::InTheWay, format!("{} is not taken: {why}", shown(path))));
                }
                writer.carried.entries += 1;
                if writer.carried.entries > options.limits.entries {
                    let limit = options.limits.entries;
                    return Err(Error::new(ErrorKind::TooMuch, format!("more than {limit} files and directories")));
                }
            }
            _ => {}
        }
        match record {
            Record::Directory { path, mode, modified } => writer.directory(&path, mode, modified)?,
            Record::File { path, mode, modified, .. } => writer.file(reader, &path, mode, modified, on_progress)?,
            Record::Symlink { path, target, modified } => writer.link(&path, &target, modified)?,
            Record::Skipped { .. } => writer.carried.skipped += 1,
            Record::End => break,
            Record::Data(_) | Record::FileEnd | Record::Listed { .. } => {
                return Err(stream(io::Error::other("a record that has no place here")));
            }
        }
        on_progress(&writer.carried);
    }
    writer.finish(b"")?;
    Ok(writer.carried)
}

struct Writer<'a> {
    root: &'a Directory,
    options: &'a Options,
    /// The directory of the entry before: the next one is in it more often than not.
    parent: Option<(Vec<u8>, Directory)>,
    /// Directories of which others' halves were removed.
    swept: BTreeSet<Vec<u8>>,
    /// Directories that were made and may still be written to, the outermost first, and what they are to be.
    made: Vec<(Vec<u8>, u16, Time)>,
    carried: Carried,
}

impl Writer<'_> {
    /// A path as it is here; none for the tree's own top that is left out.
    fn place(&self, path: &[u8]) -> Option<Vec<u8>> {
        let rest = path.iter().position(|byte| *byte == b'/').map_or(&b""[..], |at| &path[at..]);
        match &self.options.top {
            Top::Keep => Some(path.to_vec()),
            Top::Rename(name) => Some([name, rest].concat()),
            Top::Strip => rest.get(1..).map(<[u8]>::to_vec),
        }
    }

    /// Opens the directory that holds a path.
    fn enter<'p>(&mut self, path: &'p [u8]) -> Result<&'p OsStr> {
        self.finish(path)?;
        let (parent, name) = split(path);
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            let directory = self.root.beneath(parent).map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::LOOP) => {
                    Error::new(ErrorKind::InTheWay, format!("there is a link on the way to {}", shown(path)))
                }
                Some(Errno::NOTDIR) => in_the_way("is no directory, but something is to be in it", parent),
                _ => cannot_write(path)(error),
            })?;
            if self.options.only_whole && self.swept.insert(parent.to_vec()) {
                sweep(&directory);
            }
            self.parent = Some((parent.to_vec(), directory));
        }
        Ok(name)
    }

    fn here(&self) -> &Directory {
        self.parent.as_ref().map_or(self.root, |(_, directory)| directory)
    }

    fn directory(&mut self, path: &[u8], mode: u16, modified: Time) -> Result<()> {
        let Some(path) = self.place(path) else { return Ok(()) };
        let name = self.enter(&path)?;
        match rustix::fs::mkdirat(self.here().as_fd(), name, Mode::RWXU) {
            Ok(()) => {
                self.give_away(name).map_err(cannot_write(&path))?;
                self.made.push((path, mode, modified));
                Ok(())
            }
            Err(Errno::EXIST) => match self.here().look(name, false) {
                Ok(look) if look.stamp.kind == FileKind::Directory => Ok(()),
                _ => Err(in_the_way("is no directory", &path)),
            },
            Err(errno) => Err(cannot_write(&path)(errno.into())),
        }
    }

    fn give_away(&self, name: &OsStr) -> io::Result<()> {
        if let Some((uid, gid)) = self.options.owner {
            let stat = rustix::fs::statat(self.here().as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
            if !is_of(&stat, uid, gid) {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chownat(self.here().as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        reader: &mut RecordReader<impl Read>,
        path: &[u8],
        mode: u16,
        modified: Time,
        on_progress: &mut dyn FnMut(&Carried),
    ) -> Result<()> {
        let path = self.place(path).ok_or_else(|| in_the_way("is no directory", path))?;
        let name = self.enter(&path)?;
        let (mut file, partial) = create(self.here(), name, self.options.only_whole).map_err(cannot_write(&path))?;
        let written = self.fill(reader, &mut file, &path, on_progress).and_then(|()| {
            let parent = self.here();
            let finished = finish_file(&file, self.options.owner, mode, modified)
                .and_then(|()| partial.as_ref().map_or(Ok(()), |partial| replace(parent, partial, name)));
            finished.map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::ISDIR) => in_the_way("is a directory", &path),
                _ => cannot_write(&path)(error),
            })
        });
        if written.is_err() {
            let half = partial.as_deref().map_or(name, OsStr::new);
            let _ = rustix::fs::unlinkat(self.here().as_fd(), half, AtFlags::empty());
        }
        written
    }

    fn fill(
        &mut self,
        reader: &mut RecordReader<impl Read>,
        file: &mut File,
        path: &[u8],
        on_progress: &mut dyn FnMut(&Carried),
    ) -> Result<()> {
        loop {
            match reader.next_record().map_err(stream)? {
                Record::Data(bytes) => {
                    self.carried.bytes += bytes.len() as u64;
                    if self.carried.bytes > self.options.limits.bytes {
                        let limit = self.options.limits.bytes;
                        return Err(Error::new(ErrorKind::TooMuch, format!("more than {limit} bytes")));
                    }
                    file.write_all(&bytes).map_err(cannot_write(path))?;
                    on_progress(&self.carried);
                }
                Record::FileEnd => return Ok(()),
                _ => return Err(stream(io::Error::other("a file without an end"))),
            }
        }
    }

    fn link(&mut self, path: &[u8], target: &[u8], modified: Time) -> Result<()> {
        let path = self.place(path).ok_or_else(|| in_the_way("is no directory", path))?;
        let name = self.enter(&path)?;
        let here = self.here();
        let made = match rustix::fs::symlinkat(target, here.as_fd(), name) {
            Err(Errno::EXIST) => {
                let partial = partial_name();
                rustix::fs::symlinkat(target, here.as_fd(), partial.as_str()).map_err(io::Error::from).and_then(|()| {
                    let replaced = replace(here, &partial, name);
                    if replaced.is_err() {
                        let _ = rustix::fs::unlinkat(here.as_fd(), partial.as_str(), AtFlags::empty());
                    }
                    replaced
                })
            }
            made => made.map_err(io::Error::from),
        };
        made.and_then(|()| {
            self.give_away(name)?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::utimensat(self.here().as_fd(), name, &times(modified), flags)?)
        })
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::ISDIR) => in_the_way("is a directory", &path),
            _ => cannot_write(&path)(error),
        })
    }

    /// Gives directories their modes and times once nothing more goes into them: those that `next` is not in.
    fn finish(&mut self, next: &[u8]) -> Result<()> {
        while let Some((path, mode, modified)) = self.made.last() {
            if next.starts_with(path) && next.get(path.len()) == Some(&b'/') {
                break;
            }
            let finished = self.root.beneath(path).and_then(|directory| {
                rustix::fs::fchmod(directory.as_fd(), Mode::from_raw_mode(u32::from(mode & PERMISSIONS)))?;
                Ok(rustix::fs::futimens(directory.as_fd(), &times(*modified))?)
            });
            finished.map_err(cannot_write(path))?;
            self.made.pop();
        }
        Ok(())
    }
}

/// A new file, under its own name if that is free and it may be seen before it is whole, else under another.
fn create(directory: &Directory, name: &OsStr, only_whole: bool) -> io::Result<(File, Option<String>)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = Mode::RUSR | Mode::WUSR;
    if !only_whole {
        match rustix::fs::openat(directory.as_fd(), name, flags, private) {
            Err(Errno::EXIST) => {}
            opened => return Ok((opened?.into(), None)),
        }
    }
    let partial = partial_name();
    let file = rustix::fs::openat(directory.as_fd(), partial.as_str(), flags, private)?;
    Ok((file.into(), Some(partial)))
}

/// How the names of files begin that are not whole.
const PARTIAL: &[u8] = b".viv-";

/// A name that nobody else uses: and if someone does, there is no writing through it.
fn partial_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec;
    format!(".viv-{}-{now:x}-{}", rustix::process::getpid().as_raw_pid(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether a name is one of [`partial_name`]'s, of a process that is gone.
fn is_left(name: &OsStr) -> bool {
    let fields = name.as_bytes().strip_prefix(PARTIAL).and_then(|rest| std::str::from_utf8(rest).ok());
    let Some((pid, rest)) = fields.and_then(|fields| fields.split_once('-')) else { return false };
    let is_ours = rest
        .split_once('-')
        .is_some_and(|(time, number)| i64::from_str_radix(time, 16).is_ok() && number.parse::<u64>().is_ok());
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    is_ours && pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
}

/// Removes the halves of files in a directory whose writers are gone.
fn sweep(directory: &Directory) {
    for name in directory.names(b"").unwrap_or_default().into_iter().filter(|name| is_left(name)) {
        // A half that stays is in nobody's way.
        let _ = rustix::fs::unlinkat(directory.as_fd(), name.as_os_str(), AtFlags::empty());
    }
}

fn replace(directory: &Directory, partial: &str, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::renameat(directory.as_fd(), partial, directory.as_fd(), name)?)
}

/// On a share of a guest everything is the user's already, and nobody can give it away.
fn is_of(stat: &rustix::fs::Stat, uid: u32, gid: u32) -> bool {
    (stat.st_uid, stat.st_gid) == (uid, gid)
}

fn finish_file(file: &File, owner: Option<(u32, u32)>, mode: u16, modified: Time) -> io::Result<()> {
    if let Some((uid, gid)) = owner
        && !is_of(&rustix::fs::fstat(file)?, uid, gid)
    {
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(u32::from(mode & PERMISSIONS)))?;
    Ok(rustix::fs::futimens(file, &times(modified))?)
}

fn times(modified: Time) -> Timestamps {
    let time = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn cannot_write(path: &[u8]) -> impl FnOnce(io::Error) -> Error + use<> {
    io(format!("cannot write {}", shown(path)))
}

fn in_the_way(what: &str, place: &[u8]) -> Error {
    Error::new(ErrorKind::InTheWay, format!("{} {what}", shown(place)))
}
