//! Files in and out for the host: what is asked for is done by root, on a thread of its own, without any program of
//! the image.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use viv_archive::{Carried, Directory, Limits, Options, Packer, RecordReader, Top};
use viv_link::transfer::{self, Incoming, Outgoing};
use viv_proto::archive::{MAX_PATH_BYTES, check_path};
use viv_proto::message::{Archive, ArchiveReport, FailureKind, PathFacts, PathKind, User, kind};

use crate::control;
use crate::error::{Context, Result, error, failure};
use crate::identity::is_plain_path;

/// How long the other side may take to close after the last frame.
const LINGER: Duration = Duration::from_secs(1);

/// Carries out one operation on its connection; `rest` holds what was read beyond the request's line.
pub(crate) async fn run<S>(mut stream: S, rest: Vec<u8>, id: &str, wanted: Archive, user: User)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let told = match check(&wanted) {
        Err(refusal) => control::answer_error(&mut stream, id, &refusal).await,
        Ok(()) => {
            if let Archive::Look { path } = &wanted {
                control::answer_with(&mut stream, id, kind::RESULT, &look(Path::new(path))).await
            } else {
                match control::answer_with(&mut stream, id, kind::RESULT, &Value::Null).await {
                    Ok(()) => {
                        let work = move |incoming, outgoing| report(&wanted, &user, incoming, outgoing);
                        transfer::serve(&mut stream, &rest, work).await
                    }
                    told => told,
                }
            }
        }
    };
    // A host that is gone, or that does not keep to the protocol, is not waited for.
    if told.is_ok() {
        control::close(stream, LINGER).await;
    }
}

fn check(wanted: &Archive) -> Result<()> {
    let (Archive::Look { path }
    | Archive::Get { path, .. }
    | Archive::Put { directory: path, .. }
    | Archive::Pick { directory: path }
    | Archive::List { directory: path }) = wanted;
    if is_plain_path(Path::new(path)) {
        return Ok(());
    }
    Err(error(FailureKind::BadRequest, format!("archive: {path} is not a plain absolute path")))
}

fn look(path: &Path) -> PathFacts {
    let kind = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => PathKind::Directory,
        Ok(metadata) if metadata.is_file() => PathKind::File,
        Ok(_) => PathKind::Other,
        // A link to nothing is something that can be replaced.
        Err(_) if path.symlink_metadata().is_ok() => PathKind::Other,
        Err(_) => PathKind::Missing,
    };
    let link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    PathFacts { kind, link, parent: path.parent().is_none_or(Path::is_dir) }
}

/// Does it, and says how it went.
fn report(wanted: &Archive, user: &User, mut incoming: Incoming, outgoing: Outgoing) -> Vec<u8> {
    let mut carried = Carried::default();
    let done = carry(wanted, user, &mut incoming, outgoing, &mut carried);
    if done.is_ok() {
        // The host has said all it had to say before it hears that it went well. If it is gone, nobody hears it.
        let _ = std::io::copy(&mut incoming, &mut std::io::sink());
    }
    let Carried { entries, bytes, skipped } = carried;
    let failure = done.err().map(|error| failure(&error));
    // A report of numbers and text always has a JSON form.
    serde_json::to_vec(&ArchiveReport { entries, bytes, skipped, failure }).unwrap_or_default()
}

fn carry(
    wanted: &Archive,
    user: &User,
    incoming: impl Read,
    outgoing: impl Write,
    carried: &mut Carried,
) -> Result<()> {
    let mut tell = |now: &Carried| *carried = *now;
    let failed = |reason: viv_archive::Error| error(FailureKind::Internal, "the files were not carried").source(reason);
    let open = |directory: &str| {
        Directory::open(Path::new(directory)).context(|| format!("cannot open the directory {directory}"))
    };
    match wanted {
        Archive::Look { .. } => Ok(()),
        Archive::Put { directory, make } => {
            if *make {
                make_directory(Path::new(directory), user)?;
            }
            let options = Options {
                owner: rustix::process::geteuid().is_root().then_some((user.uid, user.gid)),
                top: Top::Keep,
                // The host knows what it sends.
                limits: Limits { entries: u64::MAX, bytes: u64::MAX },
                refused: None,
                // The host begins again where this did not end.
                only_whole: false,
            };
            let mut reader = RecordReader::new(incoming);
            viv_archive::unpack(&mut reader, &open(directory)?, &options, &mut tell).map(drop).map_err(failed)
        }
        Archive::Get { path, follow } => {
            let path = Path::new(path);
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(error(FailureKind::BadRequest, "archive: the whole file system is not carried"));
            };
            let parent = open(&parent.to_string_lossy())?;
            parent.look(name, *follow).context(|| format!("there is no {}", path.display()))?;
            let mut packer = Packer::new(outgoing, &mut tell);
            packer.tree(&parent, name, name.as_bytes(), *follow).and_then(|()| packer.end()).map(drop).map_err(failed)
        }
        Archive::Pick { directory } => {
            let directory = open(directory)?;
            let mut packer = Packer::new(outgoing, &mut tell);
            for_each_path(incoming, |path| packer.pick(&directory, path).map_err(failed))?;
            packer.end().map(drop).map_err(failed)
        }
        Archive::List { directory } => {
            let directory = open(directory)?;
            let mut packer = Packer::new(outgoing, &mut tell);
            packer.list(&directory, b"").and_then(|()| packer.end()).map(drop).map_err(failed)
        }
    }
}

/// Reads paths that each end with a NUL.
fn for_each_path(incoming: impl Read, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut incoming = BufReader::new(incoming);
    let mut path = Vec::new();
    loop {
        path.clear();
        let limit = MAX_PATH_BYTES as u64 + 1;
        (&mut incoming).take(limit).read_until(0, &mut path).context(|| "cannot read the paths".to_owned())?;
        match path.split_last() {
            None => return Ok(()),
            Some((0, path)) if check_path(path).is_ok() => each(path)?,
            Some(_) => return Err(error(FailureKind::BadRequest, "archive: not a path beneath the directory")),
        }
    }
}

/// Makes a directory for the user, and those above it for nobody.
fn make_directory(path: &Path, user: &User) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let cannot = || format!("cannot make {}", path.display());
    let mut missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    while let Some(directory) = missing.pop() {
        std::fs::DirBuilder::new().mode(0o755).create(directory).context(cannot)?;
        let theirs = directory == path || directory.starts_with(&user.home);
        if theirs && rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(directory, Some(user.uid), Some(user.gid)).context(cannot)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use viv_link::transfer::Asked;
    use viv_proto::archive::Record;

    use super::*;

    fn user() -> User {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        User { name: "agent".into(), uid, gid, home: "/home/agent".into() }
    }

    /// Sends `input` and returns what comes back, and how it went.
    async fn carried(wanted: Archive, input: Vec<u8>) -> (Vec<Record>, ArchiveReport) {
        let (mut ours, theirs) = tokio::io::duplex(10_000);
        let served = tokio::spawn(run(theirs, Vec::new(), "7", wanted, user()));
        let mut rest = Vec::new();
        let line = viv_link::line::read_line(&mut ours, &mut rest).await.unwrap().unwrap();
        assert_eq!(viv_proto::envelope::Envelope::parse(&line).unwrap().kind, kind::RESULT);
        let asked = transfer::ask(&mut ours, &rest, move |mut incoming, mut outgoing| {
            outgoing.write_all(&input).and_then(|()| outgoing.flush()).map_err(drop)?;
            drop(outgoing);
            let mut bytes = Vec::new();
            incoming.read_to_end(&mut bytes).map_err(drop)?;
            Ok(bytes)
        });
        let (bytes, report) = match asked.await.unwrap() {
            Asked::Done(bytes, report) => (bytes, report),
            Asked::Refused(report) => (Vec::new(), report),
            Asked::Failed((), _) => panic!("the work here failed"),
        };
        drop(ours);
        served.await.unwrap();
        let mut reader = RecordReader::new(bytes.as_slice());
        let records = std::iter::from_fn(|| reader.next_record().ok()).collect();
        (records, serde_json::from_slice(&report).unwrap())
    }

    fn text(path: &Path) -> String {
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_tree_goes_out_and_in_again() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("p/deep")).unwrap();
        fs::write(from.path().join("p/deep/file"), vec![7; 200_000]).unwrap();
        symlink("/etc/passwd", from.path().join("p/link")).unwrap();
        let get = Archive::Get { path: text(&from.path().join("p")), follow: false };
        let (records, report) = carried(get, Vec::new()).await;
        assert_eq!(report, ArchiveReport { entries: 4, bytes: 200_000, ..ArchiveReport::default() });
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes).unwrap());
        let made = to.path().join("made/here");
        let (_, report) = carried(Archive::Put { directory: text(&made), make: true }, bytes).await;
        assert_eq!(report.failure, None);
        assert_eq!(fs::read(made.join("p/deep/file")).unwrap(), vec![7; 200_000]);
        assert_eq!(fs::read_link(made.join("p/link")).unwrap(), Path::new("/etc/passwd"));
    }

    #[tokio::test]
    async fn what_is_picked_comes_in_order_and_what_is_gone_is_skipped() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "1").unwrap();
        symlink("/etc", root.path().join("etc")).unwrap();
        let pick = Archive::Pick { directory: text(root.path()) };
        let (records, report) = carried(pick.clone(), b"gone\0etc/passwd\0a\0".to_vec()).await;
        assert_eq!(report.failure, None);
        let paths: Vec<_> = records.iter().filter_map(Record::path).collect();
        assert_eq!(paths, [&b"gone"[..], b"etc/passwd", b"a"]);
        assert!(matches!(records[1], Record::Skipped { .. }), "not through a link");
        let (_, report) = carried(pick, b"../etc/passwd\0".to_vec()).await;
        assert_eq!(report.failure.unwrap().kind, FailureKind::BadRequest);
    }

    #[tokio::test]
    async fn a_listing_leaves_out_git_and_brings_what_is_ignored() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(".git")).unwrap();
        fs::create_dir_all(root.path().join("d/.git")).unwrap();
        for (name, content) in [(".git/HEAD", "x"), ("d/.git/HEAD", "x"), ("-", "1"), (".gitignore", "*.o\n")] {
            fs::write(root.path().join(name), content).unwrap();
        }
        let (records, _) = carried(Archive::List { directory: text(root.path()) }, Vec::new()).await;
        let paths: Vec<_> = records.iter().filter_map(Record::path).collect();
        assert_eq!(paths, [&b".gitignore"[..], b"-"]);
        assert_eq!(records[1..3], [Record::Data(b"*.o\n".to_vec()), Record::FileEnd]);
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_said() {
        let missing = Archive::Get { path: "/nowhere/at/all".into(), follow: false };
        let (records, report) = carried(missing, Vec::new()).await;
        assert!(records.is_empty() && report.failure.unwrap().message.contains("cannot open"));
        assert!(check(&Archive::Look { path: "/a/../b".into() }).is_err());
        assert!(check(&Archive::Look { path: "a".into() }).is_err());
        assert_eq!(look(Path::new("/")), PathFacts { kind: PathKind::Directory, link: false, parent: true });
        assert_eq!(look(Path::new("/nowhere/x")), PathFacts { kind: PathKind::Missing, link: false, parent: false });
    }
}
