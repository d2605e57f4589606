//! Changes in numbers.

use std::fmt::Write as _;

use owo_colors::{OwoColorize, Style};
use serde::Serialize;
use viv_workspace::{FileChange, Found, Kind, Node, Store, View};

use super::{mode, patch};
use crate::error::Failure;
use crate::output::clean::clean;

/// The widest bar of `--stat`, in characters.
const WIDEST_BAR: usize = 50;

/// Lines that were added and removed; none where there are no lines.
pub(super) type Lines = Option<(usize, usize)>;

/// The lines of each change, in their order.
pub(super) fn lines(store: &Store, files: &[FileChange]) -> Result<Vec<Lines>, Failure> {
    let mut lines = Vec::with_capacity(files.len());
    store.views(files, |_, view| -> Result<(), Failure> {
        lines.push(match view {
            View::Text(text) => Some(text.counts()),
            View::Same => Some((0, 0)),
            View::Binary | View::NotKept => None,
        });
        Ok(())
    })?;
    Ok(lines)
}

/// What `git diff --stat` would say.
pub(super) fn stat(files: &[FileChange], lines: &[Lines]) -> String {
    let names: Vec<String> = files.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let most = lines.iter().flatten().map(|(added, removed)| added + removed).max().unwrap_or(0);
    let digits = most.to_string().len().max(3);
    let (mut text, mut added, mut removed) = (String::new(), 0, 0);
    for (name, lines) in names.iter().zip(lines) {
        let room = width - name.chars().count();
        let _ = write!(text, " {name}{:room$} | ", "");
        match lines {
            None => text.push_str("Bin\n"),
            Some((plus, minus)) => {
                added += plus;
                removed += minus;
                // As many characters as lines, or in proportion; at least one for what is not nothing.
                let bar = |count: usize| if most <= WIDEST_BAR { count } else { (count * WIDEST_BAR).div_ceil(most) };
                let (pluses, minuses) = ("+".repeat(bar(*plus)), "-".repeat(bar(*minus)));
                let _ = write!(text, "{:>digits$}", plus + minus);
                if plus + minus > 0 {
                    let (green, red) = (Style::new().green(), Style::new().red());
                    let _ = write!(text, " {}{}", pluses.style(green), minuses.style(red));
                }
                text.push('\n');
            }
        }
    }
    if !files.is_empty() {
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let changed = format!("{} changed", plural(files.len(), "file"));
        let _ = writeln!(text, " {changed}, {}(+), {}(-)", plural(added, "insertion"), plural(removed, "deletion"));
    }
    text
}

/// A file's name in a list, and what became of it if that is not seen.
pub(super) fn name(file: &FileChange) -> String {
    let path = patch::quoted(&file.path);
    let text = match (&file.from, file.kind()) {
        (Some(from), _) => format!("{} => {path}", patch::quoted(from)),
        (None, Kind::Added) => format!("{path} (new)"),
        (None, Kind::Deleted) => format!("{path} (gone)"),
        (None, Kind::Mode) => {
            let mode = |node: &Option<Node>| node.as_ref().map_or(0, Node::git_mode) & 0o777;
            format!("{path} (mode {:o} => {:o})", mode(&file.old), mode(&file.new))
        }
        (None, _) => path,
    };
    clean(&text).into_owned()
}

/// Whose changes these are.
pub(super) fn title(found: &Found) -> String {
    let sandbox = &found.sandbox;
    let name = sandbox.name.as_deref().unwrap_or(&sandbox.id);
    clean(&format!("{name} ({}) on {}", mode(sandbox.mode), found.workspace.to_string_lossy())).into_owned()
}

/// `viv diff --json`
#[derive(Serialize)]
pub(super) struct Json {
    sandbox: JsonSandbox,
    workspace: String,
    files: Vec<JsonFile>,
    additions: usize,
    deletions: usize,
    /// Left out, since rules ignore it that came with the changes.
    newly_ignored: Vec<String>,
    /// Directories that are repositories of their own.
    repositories: Vec<String>,
    /// What else was left out.
    left_out: Vec<String>,
}

#[derive(Serialize)]
struct JsonSandbox {
    id: String,
    name: Option<String>,
    mode: &'static str,
    /// When the state was recorded that this is compared with, milliseconds since the Unix epoch.
    since_unix_ms: u64,
}

#[derive(Serialize)]
struct JsonFile {
    path: String,
    /// Where it was, if it was renamed.
    from: Option<String>,
    kind: &'static str,
    old_mode: Option<String>,
    new_mode: Option<String>,
    old_size: Option<u64>,
    new_size: Option<u64>,
    /// None if it is binary, or not kept.
    additions: Option<usize>,
    deletions: Option<usize>,
}

impl Json {
    pub(super) fn new(found: &Found, diff: &viv_workspace::Diff, lines: &[Lines]) -> Self {
        let notes = &diff.notes;
        let text = |path: &viv_workspace::TreePath| String::from_utf8_lossy(path.as_bytes()).into_owned();
        let octal = |node: &Option<Node>| node.as_ref().map(|node| format!("{:06o}", node.git_mode()));
        let files = diff.files.iter().zip(lines).map(|(file, lines)| JsonFile {
            path: text(&file.path),
            from: file.from.as_ref().map(text),
            kind: match file.kind() {
                Kind::Added => "added",
                Kind::Deleted => "deleted",
                Kind::Renamed => "renamed",
                Kind::Modified => "modified",
                Kind::Mode => "mode",
            },
            old_mode: octal(&file.old),
            new_mode: octal(&file.new),
            old_size: file.old.as_ref().map(Node::size),
            new_size: file.new.as_ref().map(Node::size),
            additions: lines.map(|(added, _)| added),
            deletions: lines.map(|(_, removed)| removed),
        });
        let sandbox = &found.sandbox;
        Self {
            sandbox: JsonSandbox {
                id: sandbox.id.clone(),
                name: sandbox.name.clone(),
                mode: mode(sandbox.mode),
                since_unix_ms: found.created_unix_ms,
            },
            workspace: found.workspace.to_string_lossy().into_owned(),
            files: files.collect(),
            additions: lines.iter().flatten().map(|(added, _)| added).sum(),
            deletions: lines.iter().flatten().map(|(_, removed)| removed).sum(),
            newly_ignored: notes.newly_ignored.clone(),
            repositories: notes.repositories.clone(),
            left_out: [&notes.refused, &notes.others, &notes.large, &notes.unreadable]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use viv_workspace::{Digest, TreePath};

    #[test]
    fn numbers_line_up() {
        let node = |mode: u32, fill: u8| Some(Node::File { digest: Digest([fill; 32]), size: 1, mode });
        let file = |path: &str, old, new| FileChange {
            path: TreePath::new(path).unwrap(),
            from: None,
            similarity: 0,
            old,
            new,
        };
        let mut moved = file("to", node(0o644, 0), node(0o644, 1));
        moved.from = Some(TreePath::new("from").unwrap());
        let files = [
            file("a\u{1b}[2J\n", node(0o644, 0), node(0o644, 1)),
            file("new", None, node(0o644, 1)),
            file("gone", node(0o644, 0), None),
            file("run.sh", node(0o644, 0), node(0o755, 0)),
            moved,
        ];
        let text = stat(&files, &[Some((100, 3)), Some((1, 0)), None, Some((0, 0)), Some((2, 2))]);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
        assert_eq!(stat(&[], &[]), "");
    }
}
