//! A configuration from someone who wants git to run something: what is let through, git reads in the same way.
//!
//! Used by `tests/configurations.rs` on stable Rust, and by the fuzz target in `fuzz/`, which includes this file.

use std::io::Write;
use std::process::{Command, Stdio};

/// What git may find, by how the keys begin and how they end: none of it names a program, a path or another file.
const HARMLESS: &[(&str, &[&str])] = &[
    (
        "core.",
        &[
            "autocrlf",
            "bare",
            "filemode",
            "ignorecase",
            "logallrefupdates",
            "precomposeunicode",
            "repositoryformatversion",
            "symlinks",
        ],
    ),
    ("extensions.", &["objectformat", "refstorage"]),
    ("remote.", &["fetch", "pushurl", "tagopt", "url"]),
    ("branch.", &["merge", "rebase", "remote"]),
    ("user.", &["email", "name"]),
    ("init.", &["defaultbranch"]),
    ("submodule.", &["active", "url"]),
];

/// Asks git itself what is in a text that is let through. Returns whether it is.
pub fn any_text(text: &[u8]) -> bool {
    if !viv_shares::is_inert(text) {
        return false;
    }
    let mut git = Command::new("git");
    git.args(["config", "--file", "-", "--null", "--list"]);
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut git = git.spawn().expect("git");
    // It may refuse what it has not read to the end.
    let _ = git.stdin.take().expect("a pipe").write_all(text);
    let output = git.wait_with_output().expect("git");
    // What it refuses to read it does not obey.
    if output.status.success() {
        for entry in output.stdout.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let entry = String::from_utf8_lossy(entry);
            let (key, value) = entry.split_once('\n').unwrap_or((&entry, ""));
            let name = key.rsplit('.').next().unwrap_or_default();
            let is_harmless = HARMLESS.iter().any(|(section, names)| key.starts_with(section) && names.contains(&name));
            assert!(is_harmless, "{key} of {:?}", String::from_utf8_lossy(text));
            assert!(!value.contains("::"), "{key} of {:?}", String::from_utf8_lossy(text));
        }
    }
    true
}
