//! What `--workspace clone` adds to a start and an end.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use viv_sandbox::{
    Carried, Changed, CommittedFile, CopyContents, CopySelection, Ignored, Paths, Record, Repository, Sandbox,
    SandboxSpec, State, WorkspaceCopy, WorkspaceMode,
};
use viv_workspace::{Change, Mode, Recorded, Rules, Store, TreePath};

use super::copy::progress::Progress;
use crate::error::{Error, ErrorKind, Failure};
use crate::output::Printer;
use crate::output::clean::clean;

/// Looks at the repository that a copy is made from, and lends the sandbox its objects.
///
/// # Errors
/// A repository that cannot be copied.
pub fn settle(spec: &mut SandboxSpec, i_know: bool) -> Result<Option<Repository>, Failure> {
    if spec.workspace_mode != WorkspaceMode::Clone {
        return Ok(None);
    }
    let repository = Repository::of(&spec.workspace, i_know)?;
    if let Some(repository) = &repository {
        spec.mounts.extend(repository.shares()?);
    }
    Ok(repository)
}

/// Makes the copy that a sandbox works on, before any program runs; none in live mode.
///
/// # Errors
/// What cannot be read here or written inside.
pub async fn begin(
    sandbox: &Sandbox,
    spec: &SandboxSpec,
    repository: Option<Repository>,
    paths: &Paths,
    printer: &Printer,
) -> Result<Option<WorkspaceCopy>, Failure> {
    if spec.workspace_mode != WorkspaceMode::Clone {
        return Ok(None);
    }
    let key = spec.called();
    let copy = WorkspaceCopy::new(sandbox.files()?, &spec.workspace, paths, key);
    if copy.is_there().await? {
        return Ok(Some(copy));
    }
    let store = Store::open(&paths.state, &spec.workspace)?;
    let whose = viv_workspace::Sandbox { id: key.to_owned(), name: spec.name.clone(), mode: Mode::Clone };
    let (source, selection) = (repository.clone(), spec.copied);
    let recorded = tokio::task::spawn_blocking(move || {
        record_bases(&store, std::slice::from_ref(&whose), None, source.as_ref(), selection)
    });
    make(&copy, repository, spec.copied, printer).await?;
    recorded.await.map_err(|_| Error::new(ErrorKind::Io, "the workspace could not be looked at"))??;
    Ok(Some(copy))
}

/// The same for a sandbox whose base has been recorded, and that cannot have a copy yet.
///
/// # Errors
/// As [`begin`].
pub async fn begin_recorded(
    sandbox: &Sandbox,
    spec: &SandboxSpec,
    repository: Option<Repository>,
    paths: &Paths,
    printer: &Printer,
) -> Result<WorkspaceCopy, Failure> {
    let key = spec.name.as_deref().unwrap_or(&spec.id);
    let copy = WorkspaceCopy::new(sandbox.files()?, &spec.workspace, paths, key);
    make(&copy, repository, spec.copied, printer).await?;
    Ok(copy)
}

async fn make(
    copy: &WorkspaceCopy,
    repository: Option<Repository>,
    selection: CopySelection,
    printer: &Printer,
) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    let progress = Progress::new(printer);
    let told = progress.clone();
    let carried = copy.make(repository, selection, Box::new(move |carried: &Carried| told.show(carried))).await?;
    progress.clear();
    printer.timing(&format!("a copy of {} files is inside", carried.entries), began.elapsed());
    Ok(())
}

/// Records what copies begin with, which may be less than the directory has; several of one `run` begin with the same.
///
/// # Errors
/// What cannot be read or kept.
pub fn record_bases(
    store: &Store,
    sandboxes: &[viv_workspace::Sandbox],
    run: Option<&str>,
    repository: Option<&Repository>,
    selection: CopySelection,
) -> Result<Recorded, Failure> {
    let Some(repository) = repository.filter(|_| !selection.is_everything()) else {
        return Ok(store.record_bases(sandboxes, run)?);
    };
    let contents = CopyContents::of(repository, selection)?;
    let committed = contents.committed().filter_map(|file| match file {
        Ok(CommittedFile { path, mode, content }) => TreePath::new(path).ok().map(|path| {
            Ok(match mode {
                Some(mode) => Change::File { path, mode, content: Cursor::new(content) },
                None => Change::Symlink { path, target: content },
            })
        }),
        Err(error) => Some(Err(std::io::Error::other(error))),
    });
    Ok(store.record_bases_of_copies(sandboxes, run, |path| contents.is_as_here(path.as_bytes()), committed)?)
}

/// Takes what a running sandbox that works on a copy has changed by now. Nothing is done for one in live mode.
///
/// # Errors
/// As [`finish`].
pub async fn refresh(record: &Record, paths: &Paths, printer: &Printer) -> Result<(), Failure> {
    if record.workspace_mode.is_live() {
        return Ok(());
    }
    let key = record.called();
    let copy = WorkspaceCopy::new(viv_sandbox::files_of(paths, record)?, &record.workspace, paths, key);
    take(&copy, &record.workspace, key, paths, printer).await.map(drop)
}

/// Takes what a sandbox that `began` then has changed in its copy, so that it can be looked at and accepted, and says how
/// much that is. Who stops a sandbox from elsewhere has taken it before.
///
/// # Errors
/// A sandbox that is gone, or sends what makes no sense.
pub async fn finish(
    copy: &WorkspaceCopy,
    spec: &SandboxSpec,
    began: SystemTime,
    paths: &Paths,
    printer: &Printer,
) -> Result<(), Failure> {
    let key = spec.called();
    let count = match take(copy, &spec.workspace, key, paths, printer).await {
        Ok(count) => count,
        Err(failure) => {
            let reported = Store::open(&paths.state, &spec.workspace)?.reported_at(key);
            if is_running(spec, paths) || reported.is_none_or(|at| at < began) {
                return Err(failure);
            }
            printer.note(&format!("the sandbox was stopped; what it had changed before that is kept: viv diff {key}"));
            return Ok(());
        }
    };
    if count > 0 {
        let files = if count == 1 { "1 file has".to_owned() } else { format!("{count} files have") };
        printer.note(&format!("{files} changed in the copy: viv diff {key}"));
    }
    Ok(())
}

fn is_running(spec: &SandboxSpec, paths: &Paths) -> bool {
    let all = viv_sandbox::list(paths).unwrap_or_default();
    all.iter().any(|record| record.id == spec.id && record.state == State::Running)
}

/// Has the store take the changes; returns how many files differ.
///
/// # Errors
/// As [`finish`].
pub async fn take(
    copy: &WorkspaceCopy,
    workspace: &Path,
    key: &str,
    paths: &Paths,
    printer: &Printer,
) -> Result<usize, Failure> {
    let store = Arc::new(Store::open(&paths.state, workspace)?);
    let (taker, id) = (Arc::clone(&store), key.to_owned());
    let refused = copy
        .changes(CopyRules::new(Rules::of(workspace)), move |changes| {
            let mut refused = Vec::new();
            taker.record_changes(
                &id,
                changes.filter_map(|change| change.map(|change| as_change(change, &mut refused)).transpose()),
            )?;
            Ok::<_, viv_workspace::Error>(refused)
        })
        .await?;
    for (path, why) in refused.iter().take(10) {
        printer.warning(&format!("{} of the copy was left there: {why}", clean(path)), None);
    }
    if refused.len() > 10 {
        printer.warning(&format!("and {} more of that kind", refused.len() - 10), None);
    }
    Ok(store.diff(key)?.files.len())
}

/// A change as the store has it; none for a path that it does not take.
fn as_change(change: Changed, refused: &mut Vec<(String, &'static str)>) -> Option<Change<viv_sandbox::Content>> {
    let mut checked = |path: Vec<u8>| {
        TreePath::new(path.clone())
            .map_err(|problem| refused.push((String::from_utf8_lossy(&path).into_owned(), problem.describe())))
            .ok()
    };
    Some(match change {
        Changed::Gone { path } => Change::Deleted { path: checked(path)? },
        Changed::Link { path, target } => Change::Symlink { path: checked(path)?, target },
        Changed::File { path, mode, content } => Change::File { path: checked(path)?, mode: mode.into(), content },
    })
}

/// The rules of a copy's `.gitignore` files, as a listing brings them.
pub struct CopyRules {
    outer: Rules,
    /// Of directories on the way to where the listing is, the outermost first.
    stack: Vec<(Vec<u8>, Rules)>,
    /// The directory that was last found to be ignored.
    ignored: Option<Vec<u8>>,
}

impl CopyRules {
    /// Those that are in none of its files.
    #[must_use]
    pub fn new(outer: Rules) -> Self {
        Self { outer, stack: Vec::new(), ignored: None }
    }

    /// Those that count in a directory.
    fn at(&self, directory: &[u8]) -> &Rules {
        let found = self.stack.iter().rev().find(|(place, _)| is_within(directory, place));
        found.map_or(&self.outer, |(_, rules)| rules)
    }
}

/// Whether a path is a directory or beneath it.
fn is_within(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at])
}

impl Ignored for CopyRules {
    fn rules(&mut self, directory: &[u8], text: &[u8]) {
        self.stack.retain(|(place, _)| is_within(directory, place));
        let rules = self.at(directory).with(directory, text);
        self.stack.push((directory.to_vec(), rules));
    }

    fn ignores(&mut self, path: &[u8]) -> bool {
        if self.ignored.as_ref().is_some_and(|ignored| is_within(path, ignored)) {
            return true;
        }
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let directory = &path[..end];
            if self.at(parent(directory)).ignores(directory, true) {
                self.ignored = Some(directory.to_vec());
                return true;
            }
        }
        self.at(parent(path)).ignores(path, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_where_they_are() {
        let workspace = tempfile::tempdir().unwrap();
        let mut rules = CopyRules::new(Rules::of(workspace.path()));
        rules.rules(b"", b"target/\n*.log\n");
        assert!(rules.ignores(b"target/debug/x") && rules.ignores(b"a/x.log") && !rules.ignores(b"a/x"));
        rules.rules(b"a", b"!x.log\n/only\n");
        assert!(!rules.ignores(b"a/x.log") && rules.ignores(b"a/y.log") && rules.ignores(b"a/only"));
        rules.rules(b"b", b"c\n");
        assert!(rules.ignores(b"b/c/d") && rules.ignores(b"b/x.log") && !rules.ignores(b"b/only"));
        assert!(rules.ignores(b"z/target/x"));
    }

    #[test]
    fn gits_own_files_are_left_where_they_are() {
        let mut refused = Vec::new();
        for path in [".git/hooks/post-checkout", "a/.GIT/config", "git~1/x"] {
            assert!(as_change(Changed::Gone { path: path.into() }, &mut refused).is_none(), "{path}");
        }
        assert_eq!(refused.len(), 3);
        assert!(as_change(Changed::Gone { path: b".gitignore".to_vec() }, &mut refused).is_some());
    }
}
