//! A change as a patch, in git's form: exact for programs, coloured and escaped for people.

use std::fmt::Write as _;

use owo_colors::{OwoColorize, Style};
use viv_workspace::hunks::{CONTEXT_LINES, Hunk, TextDiff};
use viv_workspace::{FileChange, Kind, Node, TreePath, View};

use crate::output::clean::clean;

/// A patch that `git apply` takes, but for what it says of binary files.
pub(super) fn exact(file: &FileChange, view: &View) -> Vec<u8> {
    let mut patch = Vec::new();
    for line in header(file, view, false) {
        patch.extend_from_slice(line.as_bytes());
        patch.push(b'\n');
    }
    if let View::Text(text) = view {
        let shown = Shown::of(text);
        for hunk in &text.hunks {
            patch.extend_from_slice(shown.range(hunk).as_bytes());
            patch.push(b'\n');
            for (mark, line) in shown.lines(hunk) {
                patch.push(mark as u8);
                patch.extend_from_slice(line);
                if !line.ends_with(b"\n") {
                    patch.extend_from_slice(b"\n\\ No newline at end of file\n");
                }
            }
        }
    }
    patch
}

/// The same for a terminal.
pub(super) fn shown(file: &FileChange, view: &View) -> Vec<u8> {
    let mut text = String::new();
    for line in header(file, view, true) {
        let _ = writeln!(text, "{}", clean(&line).style(Style::new().bold()));
    }
    if let View::Text(diff) = view {
        let shown = Shown::of(diff);
        for hunk in &diff.hunks {
            let _ = writeln!(text, "{}", shown.range(hunk).style(Style::new().cyan()));
            for (mark, line) in shown.lines(hunk) {
                let style = match mark {
                    '+' => Style::new().green(),
                    '-' => Style::new().red(),
                    _ => Style::new(),
                };
                let _ = writeln!(text, "{}", format!("{mark}{}", visible(line)).style(style));
                if !line.ends_with(b"\n") {
                    let _ = writeln!(text, "{}", "\\ No newline at end of file".dimmed());
                }
            }
        }
    }
    text.into_bytes()
}

/// The lines before the hunks.
fn header(file: &FileChange, view: &View, all_permissions: bool) -> Vec<String> {
    let mode = |node: &Option<Node>| node.as_ref().map(|node| mode(node, all_permissions));
    let (old_mode, new_mode) = (mode(&file.old), mode(&file.new));
    let (a, b) = (prefixed("a/", file.from.as_ref().unwrap_or(&file.path)), prefixed("b/", &file.path));
    let mut header = vec![format!("diff --git {a} {b}")];
    match (&old_mode, &new_mode) {
        (None, Some(new)) => header.push(format!("new file mode {new:o}")),
        (Some(old), None) => header.push(format!("deleted file mode {old:o}")),
        (Some(old), Some(new)) if old != new => {
            header.push(format!("old mode {old:o}"));
            header.push(format!("new mode {new:o}"));
        }
        _ => {}
    }
    if let Some(from) = &file.from {
        header.push(format!("similarity index {}%", file.similarity));
        header.push(format!("rename from {}", quoted(from)));
        header.push(format!("rename to {}", quoted(&file.path)));
    }
    let a = if file.kind() == Kind::Added { "/dev/null".to_owned() } else { a };
    let b = if file.kind() == Kind::Deleted { "/dev/null".to_owned() } else { b };
    match view {
        View::Text(text) if !text.hunks.is_empty() => {
            header.push(format!("--- {a}"));
            header.push(format!("+++ {b}"));
        }
        View::Binary => header.push(format!("Binary files {a} and {b} differ")),
        View::NotKept => header.push(format!("Files {a} and {b} differ; their contents were not kept")),
        View::Text(_) | View::Same => {}
    }
    header
}

/// git knows files that may be executed and others; people see all permissions.
fn mode(node: &Node, all_permissions: bool) -> u32 {
    match node.git_mode() {
        mode if all_permissions || mode & 0o170_000 != 0o100_000 => mode,
        mode if mode & 0o100 != 0 => 0o100_755,
        _ => 0o100_644,
    }
}

/// A text's hunks as they are shown. Its lines are found once: a guest may have made as many hunks as lines.
pub(super) struct Shown<'a> {
    text: &'a TextDiff,
    old: Vec<&'a [u8]>,
    new: Vec<&'a [u8]>,
}

impl<'a> Shown<'a> {
    pub(super) fn of(text: &'a TextDiff) -> Self {
        Self { text, old: text.old_lines(), new: text.new_lines() }
    }

    /// Which lines of the texts a hunk has, as git says it.
    pub(super) fn range(&self, hunk: &Hunk) -> String {
        let (before, after) = self.context(hunk);
        let part = |range: &std::ops::Range<u32>| {
            let (start, count) = (range.start - before, range.end - range.start + before + after);
            // Where there are no lines, the one before is named.
            let line = if count == 0 { start } else { start + 1 };
            if count == 1 { line.to_string() } else { format!("{line},{count}") }
        };
        format!("@@ -{} +{} @@", part(&hunk.old), part(&hunk.new))
    }

    /// How many lines there are to show before a hunk and after it.
    fn context(&self, hunk: &Hunk) -> (u32, u32) {
        let left = u32::try_from(self.old.len()).unwrap_or(u32::MAX) - hunk.old.end;
        (hunk.old.start.min(CONTEXT_LINES), left.min(CONTEXT_LINES))
    }

    /// A hunk's lines, each with `' '`, `-` or `+`, those around it among them.
    pub(super) fn lines(&self, hunk: &Hunk) -> Vec<(char, &'a [u8])> {
        let (before, after) = self.context(hunk);
        let mut marked: Vec<(char, &[u8])> = Vec::new();
        let mut add = |mark: char, lines: &[&'a [u8]], from: u32, to: u32| {
            marked.extend(lines[from as usize..to as usize].iter().map(|line| (mark, *line)));
        };
        let mut at = hunk.old.start - before;
        // Hunks are further from each other than the changes in one.
        let first = self.text.changes.partition_point(|change| change.old.start < hunk.old.start);
        for change in self.text.changes[first..].iter().take_while(|change| change.old.end <= hunk.old.end) {
            add(' ', &self.old, at, change.old.start);
            add('-', &self.old, change.old.start, change.old.end);
            add('+', &self.new, change.new.start, change.new.end);
            at = change.old.end;
        }
        add(' ', &self.old, at, hunk.old.end + after);
        marked
    }
}

/// A line as people see it: without its end, tabs as they are, everything else that drives a terminal escaped, and
/// bytes that are no UTF-8 as `\xNN`.
pub(super) fn visible(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for (number, part) in chunk.valid().split('\t').enumerate() {
            if number > 0 {
                text.push('\t');
            }
            text.push_str(&clean(part));
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A path as git writes it: in quotes, with escapes, if it has anything that would be taken for something else.
pub(super) fn quoted(path: &TreePath) -> String {
    prefixed("", path)
}

/// The same for a terminal.
pub(super) fn quoted_clean(path: &TreePath) -> String {
    clean(&quoted(path)).into_owned()
}

fn prefixed(prefix: &str, path: &TreePath) -> String {
    let bytes = path.as_bytes();
    let plain = std::str::from_utf8(bytes).ok();
    let harmful = |c: char| c.is_control() || c == '"' || c == '\\';
    if let Some(plain) = plain
        && !plain.contains(harmful)
    {
        return format!("{prefix}{plain}");
    }
    let mut text = format!("\"{prefix}");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '"' | '\\' => text.extend(['\\', c]),
                c if c.is_control() => octal(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        octal(&mut text, chunk.invalid());
    }
    text.push('"');
    text
}

fn octal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "\\{byte:03o}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use viv_workspace::Digest;

    fn file(path: &[u8], old: Option<u32>, new: Option<u32>) -> FileChange {
        let node = |mode: u32, fill: u8| Node::File { digest: Digest([fill; 32]), size: 1, mode };
        FileChange {
            path: TreePath::new(path).unwrap(),
            from: None,
            similarity: 0,
            old: old.map(|mode| node(mode, 0)),
            new: new.map(|mode| node(mode, 1)),
        }
    }

    fn text(old: &str, new: &str) -> View {
        View::Text(TextDiff::new(old.as_bytes().to_vec(), new.as_bytes().to_vec()))
    }

    #[test]
    fn patches_are_gits() {
        let numbers = |changed: &str| {
            (1..=20).map(|n| if n == 10 { changed.to_owned() } else { format!("{n}\n") }).collect::<String>()
        };
        let modified = exact(&file(b"a b", Some(0o600), Some(0o644)), &text(&numbers("10\n"), &numbers("ten\nand\n")));
        let added = exact(&file(b"new\nline", None, Some(0o755)), &text("", "x\ny"));
        let gone = exact(&file("ünï\u{7f}".as_bytes(), Some(0o644), None), &text("x\n", ""));
        let binary = exact(&file(b"\xff", Some(0o644), Some(0o755)), &View::Binary);
        let mut moved = file(b"to", Some(0o644), Some(0o644));
        moved.from = Some(TreePath::new("from").unwrap());
        moved.similarity = 100;
        let all = [modified, added, gone, binary, exact(&moved, &View::Same)].concat();
        insta::assert_snapshot!(String::from_utf8(all).unwrap());
    }

    #[test]
    fn nothing_in_a_file_drives_a_terminal() {
        let hostile = file("x\u{202e}y".as_bytes(), Some(0o600), Some(0o644));
        let shown = shown(&hostile, &text("a\n", "\x1b]0;owned\x07\ttab\u{202e}\r\n\u{9b}2J"));
        let plain = anstream::adapter::strip_bytes(&shown).into_vec();
        insta::assert_snapshot!(String::from_utf8(plain).unwrap());
        assert_eq!(visible(b"a\xffb\x1b[m\n"), "a\\xffb\\u{1b}[m");
    }

    /// If each hunk went through all of the text, nobody would wait for this.
    #[test]
    fn a_text_may_have_very_many_hunks() {
        let line = |number: u32, with: &str| format!("{number}{}\n", if number % 8 == 3 { with } else { "" });
        let of = |with: &str| (0..80_000).map(|number| line(number, with)).collect::<String>();
        let patch = exact(&file(b"a", Some(0o644), Some(0o644)), &text(&of("a"), &of("b")));
        assert_eq!(patch.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"@@ ")).count(), 10_000);
    }

    #[test]
    fn git_takes_them() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a"), "1\n2\n3").unwrap();
        let patch = [
            exact(&file(b"a", Some(0o644), Some(0o644)), &text("1\n2\n3", "0\n1\n2\n3\n")),
            exact(&file(b"new\n\xff\"", None, Some(0o755)), &text("", "x\n")),
        ];
        std::fs::write(root.path().join("patch"), patch.concat()).unwrap();
        let mut git = std::process::Command::new("git");
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CEILING_DIRECTORIES", root.path().parent().unwrap());
        let output = git.args(["apply", "patch"]).current_dir(root.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(std::fs::read(root.path().join("a")).unwrap(), b"0\n1\n2\n3\n");
        use std::os::unix::ffi::OsStrExt;
        let odd = root.path().join(std::ffi::OsStr::from_bytes(b"new\n\xff\""));
        assert_eq!(std::fs::read(odd).unwrap(), b"x\n");
    }
}
