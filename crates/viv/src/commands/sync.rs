//! `viv sync`

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use viv_sandbox::archive::{Directory, Limits, Options, Top};
use viv_sandbox::{Carried, Fetched, Files, Paths, Repository, Sync};
use viv_workspace::TreePath;

use super::block_on;
use super::copy::progress::Progress;
use crate::cli::SyncArguments;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Synced {
    fetched: Vec<Fetched>,
    fast_forwarded: bool,
    artifacts: u64,
}

/// Fetches commits, and ignored files, of a sandbox that works on a copy.
///
/// # Errors
/// A sandbox without a copy, commits that are refused, files that cannot be written.
pub fn sync(arguments: &SyncArguments, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let record = viv_sandbox::find(&paths, &arguments.sandbox)?;
    if record.workspace_mode.is_live() {
        return Err(Error::new(ErrorKind::Usage, "this sandbox works on the directory itself, where its commits are")
            .hint("viv sync is for viv run --workspace clone")
            .into());
    }
    let name = record.called().to_owned();
    let repository = Repository::of(&record.workspace, arguments.i_know)?;
    let artifacts = arguments.artifacts.iter().map(|path| artifact(path)).collect::<Result<Vec<_>, _>>()?;
    // Before anything is changed.
    artifacts.iter().try_for_each(|path| check_ignored(&record.workspace, path))?;
    let synced = block_on(async {
        let files = viv_sandbox::files_of(&paths, &record)?;
        let (mut fetched, mut fast_forwarded) = (Vec::new(), false);
        match repository {
            Some(repository) => {
                let sync = Sync::new(viv_sandbox::files_of(&paths, &record)?, repository, &name, &paths).await?;
                fetched = sync.fetch().await?;
                fast_forwarded = arguments.ff && sync.fast_forward(&fetched)?;
            }
            None if artifacts.is_empty() => {
                return Err(Failure::from(
                    Error::new(ErrorKind::Usage, "the workspace is no repository").hint("viv diff"),
                ));
            }
            None => {}
        }
        let mut count = 0;
        for path in &artifacts {
            count += bring(&files, &record.workspace, path, printer).await?.entries;
        }
        Ok(Synced { fetched, fast_forwarded, artifacts: count })
    })??;
    if arguments.json {
        print_json(&synced)?;
        return Ok(0);
    }
    let mut text = String::new();
    for Fetched { branch, here, commit } in &synced.fetched {
        text.push_str(&format!("{} {} -> {}\n", &commit[..12.min(commit.len())], clean(branch), clean(here)));
    }
    if synced.fetched.is_empty() && artifacts.is_empty() {
        text.push_str("nothing new\n");
    }
    if synced.fast_forwarded {
        text.push_str("moved forward\n");
    }
    if synced.artifacts > 0 {
        text.push_str(&format!("{} files and directories of artifacts\n", synced.artifacts));
    }
    print(&text)?;
    Ok(0)
}

fn artifact(path: &Path) -> Result<TreePath, Error> {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
    TreePath::new(bytes.strip_prefix(b"./").unwrap_or(bytes)).map_err(|problem| {
        let shown = clean(&path.to_string_lossy()).into_owned();
        Error::new(ErrorKind::Usage, format!("--artifacts {shown}: {}", problem.describe()))
            .hint("a path relative to the workspace")
    })
}

/// Other files are changes, which are looked at first.
fn check_ignored(workspace: &Path, path: &TreePath) -> Result<(), Failure> {
    if viv_sandbox::is_ignored(workspace, path.as_path())? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("git does not ignore {path} here, so it is no artifact"))
        .hint("viv diff shows changes to other files; viv cp takes any")
        .into())
}

/// Brings one artifact to its own place here.
async fn bring(files: &Files, workspace: &Path, path: &TreePath, printer: &Printer) -> Result<Carried, Failure> {
    let cannot = || error::io(format!("cannot write {path}"));
    let root = Directory::open(workspace).map_err(cannot())?;
    let directory = root.beneath(path.parent().unwrap_or_default()).map_err(cannot())?;
    let inside = PathBuf::from(workspace).join(path.as_path());
    let inside = inside.to_str().ok_or_else(|| Error::new(ErrorKind::Usage, format!("{path} is not UTF-8")))?;
    let progress = Progress::new(printer);
    let told = progress.clone();
    let limits = Limits::default();
    let options = Options { top: Top::Keep, limits, refused: Some(problem_of), only_whole: true, ..Options::default() };
    let carried = files
        .get(inside, false, move |reader| {
            viv_sandbox::archive::unpack(reader, &directory, &options, &mut |carried| told.show(carried))
        })
        .await?;
    progress.clear();
    Ok(carried)
}

/// What git on this host would take for its own is not written.
fn problem_of(path: &[u8]) -> Option<&'static str> {
    TreePath::new(path).err().map(viv_workspace::PathProblem::describe)
}
