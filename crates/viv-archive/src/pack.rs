//! From a directory to records.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use viv_proto::archive::{FileKind, MAX_DATA_BYTES, MAX_DEPTH, Record, Time};

use crate::beneath::{Directory, Look, split};
use crate::error::{io, shown, stream};
use crate::{Carried, RecordWriter, Result};

/// How much is read of a file that says that it is empty: those of /proc do.
const UNSIZED_BYTES: u64 = 1 << 20;

/// The longest `.gitignore` that comes along with a listing, in bytes.
const MOST_IGNORE_BYTES: u64 = 256 * 1024;

const IGNORE_FILE: &[u8] = b".gitignore";

/// Sends trees.
pub struct Packer<'a, W> {
    out: RecordWriter<W>,
    carried: Carried,
    on_progress: &'a mut dyn FnMut(&Carried),
}

impl<'a, W: Write> Packer<'a, W> {
    /// A packer that tells how far it is after each record.
    pub fn new(writer: W, on_progress: &'a mut dyn FnMut(&Carried)) -> Self {
        Self { out: RecordWriter::new(writer), carried: Carried::default(), on_progress }
    }

    /// Says that the tree is whole; returns what was sent.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Stream`] if it cannot be sent.
    pub fn end(self) -> Result<Carried> {
        self.out.end().map_err(stream)?;
        Ok(self.carried)
    }

    fn send(&mut self, record: &Record) -> Result<()> {
        self.out.send(record).map_err(stream)?;
        match record {
            Record::Directory { .. } | Record::File { .. } | Record::Symlink { .. } | Record::Listed { .. } => {
                self.carried.entries += 1;
            }
            Record::Data(bytes) => self.carried.bytes += bytes.len() as u64,
            Record::Skipped { .. } => self.carried.skipped += 1,
            Record::FileEnd | Record::End => {}
        }
        (self.on_progress)(&self.carried);
        Ok(())
    }

    /// Sends what is at a name in a directory, and all that is beneath it, as `path`. What is gone by then, or
    /// of a kind that is not carried, is skipped.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] for what cannot be read, [`crate::ErrorKind::Stream`] if it cannot be sent.
    pub fn tree(&mut self, directory: &Directory, name: &OsStr, path: &[u8], follow: bool) -> Result<()> {
        match self.try_entry(directory, name, path, follow)? {
            Some(below) => self.contents(&below, path),
            None => Ok(()),
        }
    }

    /// Sends all that is in a directory, as what is in `path`; an empty one is the tree's place itself.
    ///
    /// # Errors
    /// As [`Packer::tree`].
    pub fn contents(&mut self, directory: &Directory, path: &[u8]) -> Result<()> {
        for name in directory.names(b"").map_err(io(cannot_read(path)))? {
            let path = join(path, name.as_bytes());
            if is_too_deep(&path) {
                // It has no name that could be sent.
                self.carried.skipped += 1;
                continue;
            }
            self.tree(directory, &name, &path, false)?;
        }
        Ok(())
    }

    /// Sends what is at a path beneath a directory, through no link, and nothing beneath it.
    ///
    /// # Errors
    /// As [`Packer::tree`].
    pub fn pick(&mut self, root: &Directory, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        match found(root.beneath(parent), path)? {
            Some(parent) => self.try_entry(&parent, name, path, false).map(drop),
            // A link or a file where a directory was: what was there is not there any more.
            None => self.send(&Record::Skipped { path: path.to_vec() }),
        }
    }

    /// Sends a directory that there is nowhere.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Stream`] if it cannot be sent.
    pub fn made_directory(&mut self, path: &[u8], mode: u16, modified: Time) -> Result<()> {
        self.send(&Record::Directory { path: path.to_vec(), mode, modified })
    }

    /// Sends a file that there is nowhere.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Stream`] if it cannot be sent.
    pub fn made_file(&mut self, path: &[u8], mode: u16, modified: Time, content: &[u8]) -> Result<()> {
        self.file_from(path, mode, modified, content.len() as u64, content)
    }

    /// Sends a file that is read from somewhere else.
    ///
    /// # Errors
    /// As [`Packer::tree`].
    pub fn file_from(&mut self, path: &[u8], mode: u16, modified: Time, size: u64, content: impl Read) -> Result<()> {
        self.send(&Record::File { path: path.to_vec(), mode, modified, size })?;
        self.data(content, path)?;
        self.send(&Record::FileEnd)
    }

    /// Sends a link that there is nowhere.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Stream`] if it cannot be sent.
    pub fn made_link(&mut self, path: &[u8], target: &[u8], modified: Time) -> Result<()> {
        self.send(&Record::Symlink { path: path.to_vec(), target: target.to_vec(), modified })
    }

    /// Says that something is left out.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Stream`] if it cannot be sent.
    pub fn skip(&mut self, path: &[u8]) -> Result<()> {
        self.send(&Record::Skipped { path: path.to_vec() })
    }

    /// Lists all files and links beneath a directory, as [`viv_proto::message::Archive::List`] has it.
    ///
    /// # Errors
    /// As [`Packer::tree`].
    pub fn list(&mut self, directory: &Directory, path: &[u8]) -> Result<()> {
        for name in directory.names(IGNORE_FILE).map_err(io(cannot_read(path)))? {
            let path = join(path, name.as_bytes());
            if name == ".git" || is_too_deep(&path) {
                continue;
            }
            let Some(Look { stamp }) = found(directory.look(&name, false), &path)? else { continue };
            if stamp.kind == FileKind::Directory {
                if let Some(below) = found(directory.enter(&name, false), &path)? {
                    self.list(&below, &path)?;
                }
                continue;
            }
            self.send(&Record::Listed { path: path.clone(), stamp })?;
            if name.as_bytes() == IGNORE_FILE && stamp.kind == FileKind::File {
                if let Some(Some((file, _))) = found(directory.read(&name, false), &path)? {
                    self.data(file.take(MOST_IGNORE_BYTES), &path)?;
                }
                self.send(&Record::FileEnd)?;
            }
        }
        Ok(())
    }

    /// Sends one entry; returns the directory if it is one.
    fn try_entry(&mut self, parent: &Directory, name: &OsStr, path: &[u8], follow: bool) -> Result<Option<Directory>> {
        let Some(Look { stamp }) = found(parent.look(name, follow), path)? else {
            self.send(&Record::Skipped { path: path.to_vec() })?;
            return Ok(None);
        };
        let (owned, modified) = (path.to_vec(), stamp.modified);
        match stamp.kind {
            FileKind::Directory => {
                if let Some(below) = found(parent.enter(name, follow), path)? {
                    self.send(&Record::Directory { path: owned, mode: stamp.mode, modified })?;
                    return Ok(Some(below));
                }
            }
            FileKind::File => {
                if let Some(Some((file, Look { stamp }))) = found(parent.read(name, follow), path)? {
                    let (mode, modified, size) = (stamp.mode, stamp.modified, stamp.size);
                    self.send(&Record::File { path: owned, mode, modified, size })?;
                    // One that is written to all the time has an end, too.
                    self.data(file.take(if size == 0 { UNSIZED_BYTES } else { size }), path)?;
                    self.send(&Record::FileEnd)?;
                    return Ok(None);
                }
            }
            FileKind::Symlink => {
                if let Some(target) = found(parent.link(name), path)? {
                    self.send(&Record::Symlink { path: owned, target, modified })?;
                    return Ok(None);
                }
            }
            FileKind::Special => {}
        }
        self.send(&Record::Skipped { path: path.to_vec() })?;
        Ok(None)
    }

    fn data(&mut self, mut file: impl Read, path: &[u8]) -> Result<()> {
        let mut bytes = vec![0; MAX_DATA_BYTES];
        loop {
            match file.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => self.send(&Record::Data(bytes[..count].to_vec()))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io(cannot_read(path))(error)),
            }
        }
    }
}

/// What there was; none if it is gone, or became something else between two looks.
fn found<T>(result: io::Result<T>, path: &[u8]) -> Result<Option<T>> {
    use rustix::io::Errno;
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
            _ => Err(io(cannot_read(path))(error)),
        },
    }
}

fn cannot_read(path: &[u8]) -> String {
    format!("cannot read {}", if path.is_empty() { "the directory".to_owned() } else { shown(path) })
}

fn is_too_deep(path: &[u8]) -> bool {
    path.iter().filter(|byte| **byte == b'/').count() >= MAX_DEPTH || viv_proto::archive::check_path(path).is_err()
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') }
}
