//! tar archives on standard streams.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{EntryType, Header};
use viv_proto::archive::{Record, Time, check_path};
use viv_sandbox::Carried;
use viv_sandbox::archive::{Error, ErrorKind, Packer, RecordReader};

/// What a file that says it is empty may hold all the same: those of /proc do.
const UNSIZED_BYTES: usize = 1 << 20;

fn io(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::new(ErrorKind::Io, what).source(error)
}

/// Sends what an archive holds.
///
/// # Errors
/// An archive that makes no sense, or holds what is not carried: hard links, names that lead out.
pub fn send<W: Write>(archive: impl Read, packer: &mut Packer<'_, W>) -> Result<(), Error> {
    let unreadable = || io("the tar archive cannot be read");
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(unreadable())? {
        let mut entry = entry.map_err(unreadable())?;
        let path = plain(&entry.path_bytes());
        // The archive's own top.
        if path.is_empty() {
            continue;
        }
        let refused = |why: &str| {
            let shown = String::from_utf8_lossy(&path).escape_debug().to_string();
            Error::new(ErrorKind::Stream, format!("{shown} of the tar archive: {why}"))
        };
        check_path(&path).map_err(refused)?;
        let header = entry.header();
        let mode = u16::try_from(header.mode().map_err(unreadable())? & 0o7777).unwrap_or(0o644);
        let seconds = i64::try_from(header.mtime().map_err(unreadable())?).unwrap_or(0);
        let (modified, size) = (Time { seconds, nanoseconds: 0 }, entry.size());
        match header.entry_type() {
            EntryType::Directory => packer.made_directory(&path, mode, modified)?,
            EntryType::Regular | EntryType::Continuous => {
                packer.file_from(&path, mode, modified, size, &mut entry)?;
            }
            EntryType::Symlink => match entry.link_name_bytes() {
                Some(target) => packer.made_link(&path, &target, modified)?,
                None => return Err(refused("a link to nothing")),
            },
            EntryType::Link => {
                let refusal = refused("hard links are not carried");
                return Err(refusal.hint("tar --hard-dereference"));
            }
            EntryType::XGlobalHeader => {}
            _ => packer.skip(&path)?,
        }
    }
    Ok(())
}

/// A name without what only says that it begins here.
fn plain(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

/// Writes what comes as an archive.
///
/// # Errors
/// A stream that makes no sense, a standard output that cannot be written.
pub fn receive(
    reader: &mut RecordReader<impl Read>,
    output: impl Write,
    on_progress: &dyn Fn(&Carried),
) -> Result<Carried, Error> {
    let broken =
        || |error: std::io::Error| Error::new(ErrorKind::Stream, "the stream of files broke off").source(error);
    let unwritable = || io("the tar archive cannot be written");
    let mut archive = tar::Builder::new(output);
    let mut carried = Carried::default();
    loop {
        let record = reader.next_record().map_err(broken())?;
        carried.entries += u64::from(!matches!(record, Record::Skipped { .. } | Record::End));
        match record {
            Record::Directory { path, mode, modified } => {
                let mut header = header(EntryType::Directory, mode, modified, 0);
                archive.append_data(&mut header, as_path(&path), std::io::empty()).map_err(unwritable())?;
            }
            Record::Symlink { path, target, modified } => {
                let mut header = header(EntryType::Symlink, 0o777, modified, 0);
                archive.append_link(&mut header, as_path(&path), as_path(&target)).map_err(unwritable())?;
            }
            Record::File { path, mode, modified, size } => {
                let mut data = Data { reader, rest: Vec::new(), ended: false, total: 0 };
                let mut first = Vec::new();
                if size == 0 {
                    // Its size is known once it is read.
                    let limit = UNSIZED_BYTES as u64;
                    (&mut data).take(limit).read_to_end(&mut first).map_err(broken())?;
                }
                let size = size.max(first.len() as u64);
                let mut header = header(EntryType::Regular, mode, modified, size);
                // One that was cut while it was read is filled up: the header is out already.
                let whole = first.as_slice().chain(&mut data).chain(std::io::repeat(0)).take(size);
                archive.append_data(&mut header, as_path(&path), whole).map_err(unwritable())?;
                std::io::copy(&mut data, &mut std::io::sink()).map_err(broken())?;
                carried.bytes += data.total;
            }
            Record::Skipped { .. } => carried.skipped += 1,
            Record::End => break,
            Record::Data(_) | Record::FileEnd | Record::Listed { .. } => {
                return Err(broken()(std::io::ErrorKind::InvalidData.into()));
            }
        }
        on_progress(&carried);
    }
    archive.into_inner().and_then(|mut output| output.flush()).map_err(unwritable())?;
    Ok(carried)
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn header(kind: EntryType, mode: u16, modified: Time, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode.into());
    header.set_mtime(u64::try_from(modified.seconds).unwrap_or(0));
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    header.set_size(size);
    header
}

/// The data of the file whose record was just read.
struct Data<'a, R> {
    reader: &'a mut RecordReader<R>,
    rest: Vec<u8>,
    ended: bool,
    total: u64,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.is_empty() && !self.ended {
            match self.reader.next_record()? {
                Record::Data(bytes) => self.rest = bytes,
                Record::FileEnd => self.ended = true,
                _ => return Err(std::io::ErrorKind::InvalidData.into()),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        self.total += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(archive: &[u8]) -> Result<Vec<u8>, String> {
        let mut records = Vec::new();
        let mut told = |_: &Carried| {};
        let mut packer = Packer::new(&mut records, &mut told);
        send(archive, &mut packer).and_then(|()| packer.end()).map_err(|error| error.to_string())?;
        Ok(records)
    }

    fn archive(kind: EntryType, name: &[u8], link: Option<&str>, content: &[u8]) -> Vec<u8> {
        let mut header = header(kind, 0o640, Time { seconds: 7, nanoseconds: 0 }, content.len() as u64);
        // What no honest writer would write.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        if let Some(link) = link {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_is_the_same_after_the_way_there_and_back() {
        let bytes = sent(&archive(EntryType::Regular, b"./a/b", None, &[9; 100_000])).unwrap();
        let mut back = Vec::new();
        let carried = receive(&mut RecordReader::new(bytes.as_slice()), &mut back, &|_| {}).unwrap();
        assert_eq!(carried, Carried { entries: 1, bytes: 100_000, skipped: 0 });
        let mut archive = tar::Archive::new(back.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(&*entry.path_bytes(), b"a/b");
        assert_eq!((entry.header().mode().unwrap(), entry.header().mtime().unwrap()), (0o640, 7));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert!(content == [9; 100_000]);
    }

    #[test]
    fn what_leads_out_or_is_not_carried_is_refused() {
        assert!(sent(&archive(EntryType::Regular, b"../up", None, b"")).unwrap_err().contains("`..`"));
        assert!(sent(&archive(EntryType::Link, b"hard", Some("x"), b"")).unwrap_err().contains("hard links"));
        assert!(sent(b"no archive at all, but long enough to look like one".repeat(20).as_slice()).is_err());
        let device = sent(&archive(EntryType::Char, b"dev", None, b"")).unwrap();
        let mut reader = RecordReader::new(device.as_slice());
        assert_eq!(reader.next_record().unwrap(), Record::Skipped { path: b"dev".to_vec() });
    }
}
