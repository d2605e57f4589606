//! Copies of real repositories, made by the host's git and read by it again, without a machine between.

mod killed;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use viv_archive::{Carried, Directory, Options, Packer, RecordReader};

use super::repository::{OBJECTS, Repository};
use super::tree;
use crate::{CopySelection, ErrorKind, Result};

fn run(directory: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GIT_")) {
        git.env_remove(name);
    }
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").current_dir(directory);
    let output = git.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn repository(directory: &Path, options: &[&str]) {
    fs::create_dir_all(directory.join("src")).unwrap();
    for (path, content) in [("a", "1\n"), ("src/b", "1\n"), ("gone", "1\n"), (".gitignore", "*.o\n")] {
        fs::write(directory.join(path), content).unwrap();
    }
    run(directory, &[&["init", "--quiet", "--initial-branch=main"], options].concat());
    run(directory, &["add", "--all"]);
    run(directory, &["commit", "--quiet", "--message=first"]);
}

/// What a guest would have, with the host's objects where they are.
fn copied(workspace: &Path, untracked: bool) -> tempfile::TempDir {
    selected(workspace, CopySelection { untracked, uncommitted: true }).unwrap()
}

fn selected(workspace: &Path, selection: CopySelection) -> Result<tempfile::TempDir> {
    let repository = Repository::of(workspace, false).unwrap().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    let mut told = |_: &Carried| {};
    let mut packer = Packer::new(&mut bytes, &mut told);
    let (place, objects) = (repository.workspace.clone(), repository.objects[0].display().to_string());
    let wanted = tree::Wanted { repository: Some(repository), selection, scratch: copy.path().join("scratch") };
    tree::send(&mut packer, &place, &wanted)?;
    packer.end().unwrap();
    let root = Directory::open(copy.path()).unwrap();
    viv_archive::unpack(&mut RecordReader::new(bytes.as_slice()), &root, &Options::default(), &mut |_| {}).unwrap();
    let alternates = copy.path().join(".git/objects/info/alternates");
    assert_eq!(fs::read_to_string(&alternates).unwrap(), format!("{OBJECTS}\n"));
    fs::write(&alternates, format!("{objects}\n")).unwrap();
    Ok(copy)
}

#[test]
fn git_sees_the_same_in_a_copy() {
    for options in [&[][..], &["--object-format=sha256"]] {
        let workspace = tempfile::tempdir().unwrap();
        let workspace = workspace.path();
        repository(workspace, options);
        run(workspace, &["tag", "--annotate", "--message=v1", "v1"]);
        run(workspace, &["branch", "topic/one"]);
        run(workspace, &["remote", "add", "origin", "https://token@example.com/a.git"]);
        run(workspace, &["config", "core.fsmonitor", "touch canary"]);
        run(workspace, &["config", "include.path", "/nowhere/canary"]);
        run(workspace, &["config", "filter.x.clean", "touch canary"]);
        fs::write(workspace.join(".git/hooks/post-checkout"), "#!/bin/sh\n").unwrap();
        fs::write(workspace.join("a"), "2\n").unwrap();
        fs::write(workspace.join("new"), "1\n").unwrap();
        fs::write(workspace.join("x.o"), "1\n").unwrap();
        fs::remove_file(workspace.join("gone")).unwrap();
        fs::set_permissions(workspace.join("src/b"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/nowhere", workspace.join("link")).unwrap();
        let copy = copied(workspace, true);
        let copy = copy.path();
        let status =
            |directory: &Path| run(directory, &["-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch"]);
        assert_eq!(status(copy), status(workspace));
        assert_eq!(run(copy, &["for-each-ref"]), run(workspace, &["for-each-ref"]));
        assert_eq!(run(copy, &["remote", "get-url", "origin"]), "https://example.com/a.git");
        run(copy, &["fsck", "--strict"]);
        assert!(!copy.join("x.o").exists() && !copy.join(".git/hooks").exists());
        let configuration = fs::read_to_string(copy.join(".git/config")).unwrap();
        for word in ["fsmonitor", "include", "filter", "canary", "token"] {
            assert!(!configuration.contains(word), "{word} in {configuration}");
        }
        assert!(!workspace.join("canary").exists(), "the repository's own configuration ran something");
        assert!(!copied(workspace, false).path().join("new").exists());
    }
}

#[test]
fn a_copy_begins_with_the_commit_if_that_is_wanted() {
    let place = tempfile::tempdir().unwrap();
    let library = place.path().join("library");
    repository(&library, &[]);
    let workspace = &place.path().join("workspace");
    repository(workspace, &[]);
    let local = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"];
    run(workspace, &[&local[..], &[library.to_str().unwrap(), "sub"]].concat());
    symlink("a", workspace.join("link")).unwrap();
    fs::set_permissions(workspace.join("src/b"), fs::Permissions::from_mode(0o755)).unwrap();
    run(workspace, &["add", "--all"]);
    run(workspace, &["commit", "--quiet", "--message=second"]);
    run(workspace, &["config", "filter.x.smudge", "touch canary"]);
    // Whatever can be done to files that is not committed, a merge that is under way among it.
    for path in ["a", "sub/a"] {
        fs::write(workspace.join(path), "mine\n").unwrap();
    }
    fs::remove_file(workspace.join("gone")).unwrap();
    fs::remove_dir_all(workspace.join("src")).unwrap();
    fs::write(workspace.join("src"), "now a file\n").unwrap();
    fs::write(workspace.join("staged"), "1\n").unwrap();
    run(workspace, &["add", "staged"]);
    fs::write(workspace.join("staged"), "2\n").unwrap();
    fs::create_dir(workspace.join("new")).unwrap();
    fs::write(workspace.join("new/untracked"), "1\n").unwrap();
    fs::write(workspace.join(".gitattributes"), "* filter=x\n").unwrap();
    fs::write(workspace.join(".git/MERGE_MSG"), "under way\n").unwrap();
    for untracked in [false, true] {
        let copy = selected(workspace, CopySelection { untracked, uncommitted: false }).unwrap();
        let copy = copy.path();
        let read = |path: &str| fs::read_to_string(copy.join(path)).unwrap();
        assert_eq!((read("a"), read("sub/a"), read("gone"), read("src/b")), ["1\n"; 4].map(str::to_owned).into());
        assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("a"));
        let status = run(copy, &["status", "--porcelain", "--ignore-submodules"]);
        assert_eq!(status, if untracked { "?? .gitattributes\n?? new/" } else { "" });
        assert!(!copy.join("staged").exists() && !copy.join(".git/MERGE_MSG").exists());
        assert!(!copy.join("scratch").exists());
    }
    assert!(!workspace.join("canary").exists());
    run(workspace, &["config", "core.sparseCheckout", "true"]);
    let clean = CopySelection { untracked: true, uncommitted: false };
    assert!(selected(workspace, clean).unwrap_err().to_string().contains("sparse"));
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    run(&empty, &["init", "--quiet"]);
    assert!(selected(&empty, clean).unwrap_err().to_string().contains("no commit yet"));
}

#[test]
fn a_split_index_comes_with_what_it_is_split_from() {
    let workspace = tempfile::tempdir().unwrap();
    let workspace = workspace.path();
    repository(workspace, &[]);
    run(workspace, &["update-index", "--split-index"]);
    fs::write(workspace.join("a"), "2\n").unwrap();
    run(workspace, &["-c", "splitIndex.maxPercentChange=100", "add", "a"]);
    assert!(fs::read(workspace.join(".git/index")).unwrap().windows(4).any(|word| word == b"link"));
    for uncommitted in [true, false] {
        let copy = selected(workspace, CopySelection { untracked: true, uncommitted }).unwrap();
        let changed = if uncommitted { "M  a" } else { "" };
        assert_eq!(run(copy.path(), &["status", "--porcelain"]).trim_end(), changed);
    }
}

#[test]
fn worktrees_and_submodules_name_whose_they_are_and_strangers_do_not() {
    let place = tempfile::tempdir().unwrap();
    let main = place.path().join("main");
    repository(&main, &[]);
    let worktree = place.path().join("worktree");
    run(&main, &["worktree", "add", "--quiet", worktree.to_str().unwrap()]);
    let copy = copied(&worktree, true);
    assert_eq!(run(copy.path(), &["rev-parse", "--abbrev-ref", "HEAD"]), "worktree");
    assert_eq!(run(copy.path(), &["status", "--porcelain"]), "");

    let stranger = place.path().join("stranger");
    fs::create_dir(&stranger).unwrap();
    fs::write(stranger.join(".git"), format!("gitdir: {}/.git\n", main.display())).unwrap();
    let refused = Repository::of(&stranger, false).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::Repository);

    let borrower = place.path().join("borrower");
    run(place.path(), &["clone", "--quiet", "--shared", "main", "borrower"]);
    assert!(Repository::of(&borrower, false).unwrap_err().to_string().contains("outside of the workspace"));
    let known = Repository::of(&borrower, true).unwrap().unwrap();
    let shares = known.shares().unwrap();
    assert_eq!(shares.len(), 2);
    assert!(shares.iter().all(|share| share.read_only));
    assert_eq!((shares[0].destination.as_str(), &shares[1].source), (OBJECTS, &main.join(".git/objects")));

    let outer = place.path().join("outer");
    repository(&outer, &[]);
    run(&outer, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", main.to_str().unwrap(), "sub"]);
    let copy = copied(&outer, true);
    assert!(copy.path().join("sub/src/b").exists() && !copy.path().join("sub/.git").exists());
    assert!(Repository::of(&place.path().join("nothing"), false).unwrap().is_none());
}

#[test]
fn what_is_ignored_is_what_git_says() {
    let workspace = tempfile::tempdir().unwrap();
    repository(workspace.path(), &[]);
    assert!(super::is_ignored(workspace.path(), Path::new("x.o")).unwrap());
    assert!(!super::is_ignored(workspace.path(), Path::new("a")).unwrap());
    fs::write(workspace.path().join(".gitignore"), "dist/\n").unwrap();
    assert!(super::is_ignored(workspace.path(), Path::new("dist")).unwrap(), "which is not there");
}
