//! `viv cp`

pub mod progress;
mod tar;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use viv_proto::message::{PathFacts, PathKind};
use viv_sandbox::archive::{Directory, Options, Top};
use viv_sandbox::{Carried, Files, Paths, Record};

use super::block_on;
use crate::cli::CopyArguments;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::clean::clean;
use crate::output::{Printer, print_json};
use crate::terminal::Signals;
use progress::Progress;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A tar archive on a standard stream.
    Stream,
    /// A path of the host.
    Here(PathBuf),
    /// A path of a sandbox.
    Inside { sandbox: String, path: String },
}

impl Place {
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((sandbox, path)) if !sandbox.is_empty() && !text.starts_with(['/', '.']) => {
                Self::Inside { sandbox: sandbox.to_owned(), path: path.to_owned() }
            }
            _ => Self::Here(PathBuf::from(text)),
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Copied {
    sandbox: String,
    entries: u64,
    bytes: u64,
    skipped: u64,
}

/// Copies files into or out of a running sandbox.
///
/// # Errors
/// What cannot be read or written, here or inside.
pub fn copy(arguments: &CopyArguments, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let (source, destination) = (Place::parse(&arguments.source), Place::parse(&arguments.destination));
    let (sandbox, carried) = match (source, destination) {
        (Place::Inside { .. }, Place::Inside { .. }) => {
            return Err(usage("copying from one sandbox to another is not supported")
                .hint(format!("viv cp {} - | viv cp - SANDBOX:DIR", clean(&arguments.source)))
                .into());
        }
        (Place::Inside { sandbox, path }, to) => {
            let record = viv_sandbox::find(&paths, &sandbox)?;
            let from = inside(&path, &record)?;
            let carried = block_on(stoppable(take(&paths, &record, from, to, arguments, printer)))??;
            (record.id, carried)
        }
        (from, Place::Inside { sandbox, path }) => {
            let record = viv_sandbox::find(&paths, &sandbox)?;
            let to = inside(&path, &record)?;
            let carried = block_on(stoppable(put(&paths, &record, from, to, arguments, printer)))??;
            (record.id, carried)
        }
        _ => return Err(usage("neither of the two is in a sandbox").hint("viv cp FILE SANDBOX:PATH").into()),
    };
    let Carried { entries, bytes, skipped } = carried;
    if skipped > 0 {
        printer.warning(&format!("{skipped} device nodes, FIFOs or sockets were left out"), None);
    }
    if arguments.json {
        print_json(&Copied { sandbox, entries, bytes, skipped })?;
    }
    Ok(0)
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// Ends a copy when its user does.
async fn stoppable(copy: impl Future<Output = Result<Carried, Failure>>) -> Result<Carried, Failure> {
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    tokio::select! {
        done = copy => done,
        number = super::ending_signal(&mut signals) => Err(Failure::quiet(exit_code::of_signal(number))),
    }
}

/// A path inside, and what was said by the way it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InsidePath {
    /// Absolute, without `.` and `..`.
    path: String,
    /// What is in the directory is meant (`/.` at its end).
    contents: bool,
    /// It has to be a directory (`/` at its end).
    slash: bool,
}

fn inside(text: &str, record: &Record) -> Result<InsidePath, Error> {
    let workspace = record.workspace.to_str().unwrap_or("/");
    let whole = crate::resolve::working_directory(Some(text.to_owned()), workspace);
    let mut names: Vec<&str> = Vec::new();
    for component in Path::new(&whole).components() {
        match component {
            Component::Normal(name) => names.push(name.to_str().unwrap_or_default()),
            Component::ParentDir => {
                names.pop();
            }
            _ => {}
        }
    }
    if names.is_empty() {
        return Err(usage("the whole file system of a sandbox is not copied").hint("name a directory in it"));
    }
    let (contents, slash) = endings(text.as_bytes());
    Ok(InsidePath { path: format!("/{}", names.join("/")), contents, slash })
}

fn endings(text: &[u8]) -> (bool, bool) {
    let contents = text.ends_with(b"/.") || text == b".";
    (contents, contents || text.ends_with(b"/"))
}

/// A path's directory and last name.
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", path),
    }
}

async fn put(
    paths: &Paths,
    record: &Record,
    from: Place,
    to: InsidePath,
    arguments: &CopyArguments,
    printer: &Printer,
) -> Result<Carried, Failure> {
    let files = viv_sandbox::files_of(paths, record)?;
    let facts = files.look(&to.path).await?;
    let progress = Progress::new(printer);
    let told = progress.clone();
    let on_progress = Box::new(move |carried: &Carried| told.show(carried));
    let carried = match from {
        Place::Here(path) => {
            let source = Source::open(&path, arguments.follow_link, paths)?;
            let (directory, name) = into(&facts, &to, &source)?;
            files
                .put(&directory, false, on_progress, move |packer| match name {
                    Some(name) => packer.tree(&source.parent, &source.name, name.as_bytes(), source.follow),
                    None => source
                        .parent
                        .enter(&source.name, source.follow)
                        .map_err(|error| {
                            viv_sandbox::archive::Error::new(
                                viv_sandbox::archive::ErrorKind::Io,
                                "the directory cannot be opened",
                            )
                            .source(error)
                        })
                        .and_then(|directory| packer.contents(&directory, b"")),
                })
                .await?
        }
        _ => {
            if facts.kind != PathKind::Directory {
                return Err(no_directory(&to.path).into());
            }
            files.put(&to.path, false, on_progress, |packer| tar::send(std::io::stdin().lock(), packer)).await?
        }
    };
    progress.clear();
    Ok(carried)
}

fn no_directory(path: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} is no directory", clean(path)))
}

/// Which directory inside it goes to, and under which name; without one, what is in it goes there.
fn into(facts: &PathFacts, to: &InsidePath, source: &Source) -> Result<(String, Option<OsString>), Error> {
    let (parent, name) = split(&to.path);
    let renamed = || (parent.to_owned(), Some(OsString::from(name)));
    match facts.kind {
        PathKind::Directory if source.is_directory && source.contents => Ok((to.path.clone(), None)),
        PathKind::Directory => Ok((to.path.clone(), Some(source.own_name.clone()))),
        PathKind::Missing if !facts.parent => Err(no_directory(parent)),
        PathKind::Missing if to.slash && !source.is_directory => Err(no_directory(&to.path)),
        PathKind::Missing => Ok(renamed()),
        PathKind::File | PathKind::Other if source.is_directory || to.slash => Err(no_directory(&to.path)),
        PathKind::File | PathKind::Other => Ok(renamed()),
    }
}

/// What is copied from here.
struct Source {
    parent: Directory,
    /// Its name in it.
    name: OsString,
    /// The name it has when it keeps its own.
    own_name: OsString,
    follow: bool,
    is_directory: bool,
    contents: bool,
}

impl Source {
    fn open(path: &Path, follow: bool, paths: &Paths) -> Result<Self, Error> {
        let cannot = || error::io(format!("cannot read {}", clean(&path.to_string_lossy())));
        let (contents, slash) = endings(path.as_os_str().as_bytes());
        let follow = follow || slash;
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent.to_owned(), name.to_owned()),
            // `.`, `..`, `/`: the directory itself.
            _ => (path.to_owned(), OsString::from(".")),
        };
        let parent = open_here(&parent, paths).map_err(cannot())?;
        let look = parent.look(&name, follow).map_err(cannot())?;
        let is_directory = look.stamp.kind == viv_proto::archive::FileKind::Directory;
        if slash && !is_directory {
            return Err(no_directory(&path.to_string_lossy()));
        }
        let own_name = if name == "." {
            let whole = path.canonicalize().map_err(cannot())?;
            whole.file_name().map(OsStr::to_owned).ok_or_else(|| usage("the whole file system is not copied"))?
        } else {
            name.clone()
        };
        Ok(Self { parent, name, own_name, follow, is_directory, contents })
    }
}

/// Opens a directory of the host. In what a running sandbox may write to, no link is followed: it may have made it.
fn open_here(path: &Path, paths: &Paths) -> std::io::Result<Directory> {
    let running = viv_sandbox::list(paths).unwrap_or_default();
    let shared = running.into_iter().flat_map(|record| std::iter::once(record.workspace).chain(record.writable));
    open_within(path, &shared.collect::<Vec<_>>())
}

fn open_within(path: &Path, shared: &[PathBuf]) -> std::io::Result<Directory> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let absolute = std::path::absolute(path)?;
    let mut way = PathBuf::new();
    let mut rest = absolute.components();
    while let Some(next) = rest.next() {
        way.push(next);
        // Up to where it is shared, links are the user's own.
        let Ok(real) = way.canonicalize() else { break };
        if let Some(top) = shared.iter().find(|top| real.starts_with(top)) {
            let below = real.strip_prefix(top).unwrap_or(&real).join(rest.as_path());
            return Directory::open(top)?.beneath(below.as_os_str().as_bytes());
        }
    }
    Directory::open(path)
}

async fn take(
    paths: &Paths,
    record: &Record,
    from: InsidePath,
    to: Place,
    arguments: &CopyArguments,
    printer: &Printer,
) -> Result<Carried, Failure> {
    let files = viv_sandbox::files_of(paths, record)?;
    let follow = arguments.follow_link || from.slash;
    let facts = files.look(&from.path).await?;
    if facts.kind == PathKind::Missing {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no {} inside", clean(&from.path))).into());
    }
    let is_directory = facts.kind == PathKind::Directory && (follow || !facts.link);
    if from.slash && !is_directory {
        return Err(no_directory(&from.path).into());
    }
    let progress = Progress::new(printer);
    let carried = match to {
        Place::Here(path) => unpack(&files, &from, &path, is_directory, follow, paths, progress.clone()).await?,
        _ => {
            let told = progress.clone();
            let stdout = std::io::stdout();
            files.get(&from.path, follow, move |reader| tar::receive(reader, stdout, &|done| told.show(done))).await?
        }
    };
    progress.clear();
    Ok(carried)
}

async fn unpack(
    files: &Files,
    from: &InsidePath,
    to: &Path,
    is_directory: bool,
    follow: bool,
    paths: &Paths,
    progress: Progress,
) -> Result<Carried, Failure> {
    let shown = clean(&to.to_string_lossy()).into_owned();
    let cannot = || error::io(format!("cannot write {shown}"));
    let (_, slash) = endings(to.as_os_str().as_bytes());
    let there = std::fs::metadata(to).ok();
    let (directory, top) = match there {
        Some(metadata) if metadata.is_dir() => {
            let top = if is_directory && from.contents { Top::Strip } else { Top::Keep };
            (open_here(to, paths).map_err(cannot())?, top)
        }
        Some(_) if is_directory || slash => return Err(no_directory(&shown).into()),
        None if slash && !is_directory => return Err(no_directory(&shown).into()),
        _ => {
            let name = to.file_name().ok_or_else(|| no_directory(&shown))?;
            let parent = open_here(to.parent().unwrap_or(Path::new("")), paths).map_err(cannot())?;
            (parent, Top::Rename(name.as_bytes().to_vec()))
        }
    };
    let options = Options { top, ..Options::default() };
    let receive = move |reader: &mut viv_sandbox::archive::RecordReader<_>| {
        viv_sandbox::archive::unpack(reader, &directory, &options, &mut |carried| progress.show(carried))
    };
    Ok(files.get(&from.path, follow, receive).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let here = |path: &str| Place::Here(path.into());
        assert_eq!(Place::parse("-"), Place::Stream);
        for path in ["a", "./a:b", "/a:b", "../x:y", ":a"] {
            assert_eq!(Place::parse(path), here(path), "{path}");
        }
        assert_eq!(Place::parse("box:/a:b"), Place::Inside { sandbox: "box".into(), path: "/a:b".into() });
        assert_eq!(Place::parse("box:"), Place::Inside { sandbox: "box".into(), path: String::new() });
    }

    fn to(path: &str, slash: bool) -> InsidePath {
        InsidePath { path: path.into(), contents: false, slash }
    }

    fn source(is_directory: bool, contents: bool) -> Source {
        let parent = Directory::open(Path::new("/")).unwrap();
        let (name, own_name) = (OsString::from("n"), OsString::from("own"));
        Source { parent, name, own_name, follow: false, is_directory, contents }
    }

    /// As `docker cp` has it: <https://docs.docker.com/reference/cli/docker/container/cp/>.
    #[test]
    fn where_it_goes_depends_on_what_is_there() {
        let facts = |kind| PathFacts { kind, link: false, parent: true };
        let go = |kind, slash, is_directory, contents| {
            into(&facts(kind), &to("/d/x", slash), &source(is_directory, contents))
                .map(|(directory, name)| (directory, name.map(|name| name.into_string().unwrap())))
                .map_err(|error| error.to_string())
        };
        let renamed = Ok(("/d".to_owned(), Some("x".to_owned())));
        let within = Ok(("/d/x".to_owned(), Some("own".to_owned())));
        let refused = Err("/d/x is no directory".to_owned());
        assert_eq!(go(PathKind::Missing, false, false, false), renamed);
        assert_eq!(go(PathKind::Missing, true, false, false), refused);
        assert_eq!(go(PathKind::File, false, false, false), renamed);
        assert_eq!(go(PathKind::Directory, false, false, false), within);
        assert_eq!(go(PathKind::Missing, false, true, false), renamed);
        assert_eq!(go(PathKind::File, false, true, false), refused);
        assert_eq!(go(PathKind::Directory, false, true, false), within);
        assert_eq!(go(PathKind::Directory, false, true, true), Ok(("/d/x".to_owned(), None)));
        let orphan = PathFacts { kind: PathKind::Missing, link: false, parent: false };
        assert!(into(&orphan, &to("/d/x", false), &source(false, false)).is_err());
    }

    #[test]
    fn no_link_is_followed_in_what_a_sandbox_may_write_to() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in ["shared/deep", "outside"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("outside"), root.join("shared/link")).unwrap();
        std::os::unix::fs::symlink(root.join("shared"), root.join("users")).unwrap();
        let open = |path: &str, shared: &[PathBuf]| open_within(&root.join(path), shared).is_ok();
        let shared = [root.join("elsewhere"), root.join("shared")];
        for good in ["shared", "shared/deep", "users/deep", "outside"] {
            assert!(open(good, &shared), "{good}");
        }
        for bad in ["shared/link", "users/link", "shared/deep/../link"] {
            assert!(!open(bad, &shared) && open(bad, &[]), "{bad}");
        }
    }

    #[test]
    fn endings_say_what_is_meant() {
        assert_eq!(endings(b"a"), (false, false));
        assert_eq!(endings(b"a/"), (false, true));
        assert_eq!(endings(b"a/."), (true, true));
        assert_eq!(endings(b"."), (true, true));
        assert_eq!(endings(b"a/.x."), (false, false));
    }
}
