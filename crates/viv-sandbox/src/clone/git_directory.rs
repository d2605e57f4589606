//! The `.git` of a copy: made anew from what the host's says, with nothing in it that git would run.

use std::collections::BTreeMap;
use std::path::Path;

use super::git::{ask, git, run};
use super::repository::{OBJECTS, Repository};
use crate::error::io;
use crate::{Error, ErrorKind, Result};

/// What is taken over as it is, if it is there.
const FILES: [&str; 5] = ["info/exclude", "info/sparse-checkout", "info/grafts", "shallow", "ORIG_HEAD"];

/// The same for what is under way and not committed.
const UNDER_WAY: [&str; 6] = ["MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "CHERRY_PICK_HEAD", "REVERT_HEAD", "SQUASH_MSG"];

/// Settings that change what files and commits look like, and none that name a program, a path or another file.
const SETTINGS: [&str; 14] = [
    "core.filemode",
    "core.symlinks",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.autocrlf",
    "core.eol",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
    "core.quotepath",
    "index.sparse",
    "pull.rebase",
    "push.default",
    "merge.conflictstyle",
    "user.name",
];

/// The largest index, in bytes: some ten million files.
const MOST_INDEX_BYTES: u64 = 1 << 30;

/// The most references, which is more than the largest public repositories have.
const MOST_REFERENCES: usize = 1_000_000;

/// The files of a `.git`, by their paths in it; directories are those that the paths name. Where nothing comes along
/// that is not committed, the index is made anew, for which `scratch` is a file that can be written.
pub(super) fn files(repository: &Repository, uncommitted: bool, scratch: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let workspace = &repository.workspace;
    let mut files = BTreeMap::new();
    let under_way = if uncommitted { &UNDER_WAY[..] } else { &[] };
    for name in FILES.iter().chain(under_way) {
        if let Some(content) = repository.small_file(name)? {
            files.insert((*name).to_owned(), content);
        }
    }
    if uncommitted {
        index_files(repository, &mut files)?;
    } else {
        files.insert("index".to_owned(), index_of_commit(repository, scratch)?);
    }
    let head = match ask(workspace, &["symbolic-ref", "-q", "HEAD"])? {
        Some(reference) => [b"ref: ", reference.trim_ascii_end(), b"\n"].concat(),
        None => ask(workspace, &["rev-parse", "--verify", "-q", "HEAD"])?.ok_or_else(|| broken("HEAD"))?,
    };
    files.insert("HEAD".to_owned(), head);
    references(repository, &mut files)?;
    files.insert("config".to_owned(), configuration(repository)?.into_bytes());
    files.insert("objects/info/alternates".to_owned(), format!("{OBJECTS}\n").into_bytes());
    Ok(files)
}

/// The index as it is, and if it is split what it is split from.
fn index_files(repository: &Repository, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let Some(index) = repository.file("index", MOST_INDEX_BYTES)? else { return Ok(()) };
    files.insert("index".to_owned(), index);
    for entry in std::fs::read_dir(&repository.git_directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_shared = name.strip_prefix("sharedindex.").is_some_and(|digest| is_digest(digest.as_bytes()));
        if is_shared && let Some(index) = repository.file(&name, MOST_INDEX_BYTES)? {
            files.insert(name, index);
        }
    }
    Ok(())
}

/// An index of what the commit has that is checked out.
fn index_of_commit(repository: &Repository, scratch: &Path) -> Result<Vec<u8>> {
    let failed = || io("an index of the commit cannot be made");
    let mut command = git(&repository.workspace);
    command.env("GIT_INDEX_FILE", scratch);
    command.args(["-c", "core.splitIndex=false", "-c", "index.sparse=false", "read-tree", "HEAD"]);
    // What an interrupted one left would be read.
    match std::fs::remove_file(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    run(command)?;
    let index = std::fs::read(scratch).map_err(failed())?;
    std::fs::remove_file(scratch).map_err(failed())?;
    Ok(index)
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Repository, format!("the repository's {what} cannot be read"))
}

pub(super) fn is_digest(text: &[u8]) -> bool {
    matches!(text.len(), 40 | 64) && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// References as git packs them, and symbolic ones as files.
fn references(repository: &Repository, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut command = git(&repository.workspace);
    command.args(["for-each-ref", "--format=%(objectname)%00%(refname)%00%(symref)%00%(*objectname)"]);
    let told = run(command)?;
    let mut packed = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    let lines = told.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for (index, line) in lines.enumerate() {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let &[object, name, symbolic, peeled] = fields.as_slice() else { return Err(broken("list of references")) };
        if index == MOST_REFERENCES {
            return Err(Error::new(ErrorKind::Repository, "the repository has too many references"));
        }
        if symbolic.is_empty() {
            packed.extend([object, b" ", name, b"\n"].concat());
            if !peeled.is_empty() {
                packed.extend([b"^", peeled, b"\n"].concat());
            }
        } else if let Ok(name) = std::str::from_utf8(name) {
            files.insert(name.to_owned(), [b"ref: ", symbolic, b"\n"].concat());
        }
    }
    files.insert("packed-refs".to_owned(), packed);
    Ok(())
}

/// A configuration of viv's own, with a few settings of the repository's.
fn configuration(repository: &Repository) -> Result<String> {
    let told = ask(&repository.workspace, &["config", "--null", "--list", "--local"])?.unwrap_or_default();
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in told.split(|byte| *byte == 0) {
        // A key without a value is true.
        let text = String::from_utf8_lossy(entry);
        let (key, value) = text.split_once('\n').unwrap_or((&text, "true"));
        settings.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    let mut text = String::from("# Written by viv for a copy of the workspace.\n");
    let mut put = |key: &str, value: &str| {
        // section.name, or section.anything at all.name
        let (Some((section, _)), Some((before, name))) = (key.split_once('.'), key.rsplit_once('.')) else { return };
        match before.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')) {
            Some(subsection) => text.push_str(&format!(
                "[{section} {}]\n\t{name} = {}\n",
                git_config_value(subsection),
                git_config_value(value)
            )),
            None => text.push_str(&format!("[{section}]\n\t{name} = {}\n", git_config_value(value))),
        }
    };
    let borrows = settings.keys().any(|key| key == "extensions.partialclone" || key.ends_with(".promisor"));
    put("core.repositoryformatversion", if repository.sha256 || borrows { "1" } else { "0" });
    put("core.bare", "false");
    put("core.logallrefupdates", "true");
    // The copies have other inodes and times of change than what the index remembers.
    put("core.checkstat", "minimal");
    put("core.trustctime", "false");
    if repository.sha256 {
        put("extensions.objectformat", "sha256");
    }
    for (key, values) in &settings {
        let Some(value) = values.last() else { continue };
        let of = |section: &str, names: &[&str]| {
            key.strip_prefix(section)
                .and_then(|rest| rest.rsplit_once('.'))
                .is_some_and(|(_, name)| names.contains(&name))
        };
        if SETTINGS.contains(&key.as_str()) || key == "user.email" || key == "extensions.partialclone" {
            put(key, value);
        } else if of("remote.", &["url", "pushurl"]) {
            put(key, &without_login(value));
        } else if of("remote.", &["fetch", "promisor", "partialclonefilter"])
            || of("branch.", &["remote", "merge", "rebase"])
        {
            values.iter().for_each(|value| put(key, value));
        }
    }
    Ok(text)
}

/// A remote's address without a name and password: secrets stay outside.
fn without_login(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match (scheme, rest[..end].rsplit_once('@')) {
        // Here the name is part of the address, and no secret.
        ("ssh" | "git+ssh" | "ssh+git", Some((login, _))) if !login.contains(':') => address.to_owned(),
        (_, Some((login, host))) if scheme.contains("ssh") => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{}", &rest[end..])
        }
        (_, Some((_, host))) => format!("{scheme}://{host}{}", &rest[end..]),
        (_, None) => address.to_owned(),
    }
}

/// A value as git's configuration files have it: `git-config(1)`, "Syntax". Control characters that have no
/// form there are left out.
#[must_use]
pub fn git_config_value(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_stay_outside() {
        for (address, inside) in [
            ("https://token@example.com/a.git", "https://example.com/a.git"),
            ("https://user:pass@example.com/a", "https://example.com/a"),
            ("https://example.com/a@b", "https://example.com/a@b"),
            ("ssh://git@example.com/a", "ssh://git@example.com/a"),
            ("ssh://git:pass@example.com/a", "ssh://git@example.com/a"),
            ("git@example.com:a/b", "git@example.com:a/b"),
            ("/srv/git/a", "/srv/git/a"),
        ] {
            assert_eq!(without_login(address), inside);
        }
    }

    #[test]
    fn values_are_quoted() {
        assert_eq!(git_config_value("a\"b\\c\nd\u{1b}"), "\"a\\\"b\\\\c\\nd\"");
    }
}
