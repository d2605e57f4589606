//! What git on the host would run, attacked by root inside a live workspace.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::Host;

/// A directory of the user's beside the project.
fn directory(host: &Host, name: &str) -> PathBuf {
    let directory = host.path(name);
    std::fs::create_dir(&directory).unwrap();
    host.own(&directory);
    directory
}

/// What the guest would have git run; it leaves a mark on the host.
fn trap(host: &Host) -> String {
    format!("touch {}/sprung", directory(host, "trap").display())
}

fn is_sprung(host: &Host) -> bool {
    host.path("trap/sprung").exists()
}

fn git(host: &Host, directory: &Path, arguments: &[&str]) -> bool {
    let mut git = host.command("git");
    git.arg("-C").arg(directory).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    git.status().unwrap().success()
}

/// As a prompt and a careless user would, everywhere in the project.
fn use_git_everywhere(host: &Host) {
    let mut directories = vec![host.project()];
    while let Some(directory) = directories.pop() {
        for arguments in [&["status"][..], &["diff"], &["log", "-1"], &["fetch", "--all"], &["gc", "--auto"]] {
            git(host, &directory, arguments);
        }
        git(host, &directory, &["-c", "user.name=n", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "x"]);
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            // There is nothing but data in those, and much of it.
            if entry.file_type().unwrap().is_dir() && entry.file_name() != "objects" {
                directories.push(entry.path());
            }
        }
    }
    assert!(!is_sprung(host), "git on the host ran what the guest wanted");
}

#[test]
fn a_project_with_submodules_worktrees_and_hooks_of_its_own() {
    let Some(host) = Host::ordinary() else { return };
    let project = host.project();
    let source = directory(&host, "library");
    let steps = format!(
        "set -e; export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=a@b
         git init -q {source}; cd {source}; echo 1 > f; git add f; git commit -qm one
         cd {project}; git init -q; mkdir .githooks tools; echo '#!/bin/sh' > .githooks/pre-commit
         echo '[core]' > tools/gitconfig
         git add .; git commit -qm one; git -c protocol.file.allow=always submodule --quiet add {source} lib
         git commit -qm two; git worktree add -q side; git config core.hooksPath .githooks
         git config include.path ../tools/gitconfig; git config includeIf.onbranch:x.path ../missing",
        source = source.display(),
        project = project.display()
    );
    assert!(host.command("sh").args(["-c", &steps]).status().unwrap().success());
    let sandbox = host.sandbox(&[]);
    let trap = trap(&host);
    let evil = format!("printf '[core]\\n\\tfsmonitor = {trap}\\n'");
    for attack in [
        format!("{evil} > .git/config"),
        format!("{evil} > .git/config.worktree"),
        format!("{evil} > .git/modules/lib/config"),
        format!("{evil} > .git/worktrees/side/config.worktree"),
        format!("{evil} > tools/gitconfig"),
        format!("{evil} > missing"),
        format!("mkdir tools2 && {evil} > tools2/gitconfig && mv tools tools3 && mv tools2 tools"),
        format!("mkdir new && {evil} > new/config && mv .git old && mv new .git"),
        "mv .git/modules elsewhere".to_owned(),
        "mv .git/modules/lib .git/modules/old".to_owned(),
        "echo ../evil > .git/commondir".to_owned(),
        "echo /tmp > .git/worktrees/side/commondir".to_owned(),
        format!("echo '{trap}' > .githooks/pre-commit"),
        format!("echo '{trap}' > .githooks/post-commit"),
        "mv .githooks .old".to_owned(),
        "rm -rf .githooks; test -e .githooks && exit 1".to_owned(),
        format!("echo '{trap}' > .git/modules/lib/hooks/post-checkout"),
        "mount -t tmpfs none .git/hooks && umount .git/hooks && echo x > .git/hooks/pre-commit".to_owned(),
        "ln -f .git/config other && echo x > other".to_owned(),
        "chmod 777 .githooks/pre-commit".to_owned(),
    ] {
        let command = format!("cd {} && {attack}", project.display());
        assert_ne!(sandbox.root_sh(&command).code, 0, "{attack}");
    }
    // A `.git` file may be changed, but there is nothing dangerous that it could name.
    sandbox.root_sh(&format!(
        "cd {} && mkdir evil && cd evil && git init -q --bare . ; {evil} > config; mkdir -p x/objects x/refs;
         echo 'ref: refs/heads/x' > x/HEAD; {evil} > x/config; cd ..; echo 'gitdir: ../evil' > lib/.git;
         echo 'gitdir: ../evil/x' > side/.git",
        project.display()
    ));
    use_git_everywhere(&host);
    // What git is for works.
    sandbox.ok("echo 2 > g && git add g && git -c user.email=a@b -c user.name=n commit -qm three --no-verify");
}

#[test]
fn a_directory_without_a_repository_gets_none_that_runs_something() {
    let Some(host) = Host::ordinary() else { return };
    let sandbox = host.sandbox(&["--protect", ".envrc,deep/down/file"]);
    let project = host.project();
    let trap = trap(&host);
    let evil = format!("printf '[core]\\n\\tfsmonitor = {trap}\\n\\tbare = false\\n'");
    let script = format!(
        "cd {project}; export GIT_CONFIG_GLOBAL=/tmp/g; git config --global safe.directory '*'
         mkdir -p a/.git/hooks; {evil} > a/.git/config; echo '{trap}' > a/.git/hooks/pre-commit
         mkdir b; cd b; mkdir objects refs; {evil} > config; echo 'ref: refs/heads/main' > HEAD; cd ..
         mkdir c; cd c; mkdir objects refs; echo 'ref: refs/heads/main' > HEAD; {evil} > config; cd ..
         mkdir d; cd d; {evil} > config; mkdir hooks objects refs; echo '{trap}' > hooks/post-commit; chmod +x hooks/*; cd ..
         mv d .git; ln -s d .git; echo 'gitdir: d' > e; mkdir f; ln -s ../d f/.git
         git init -q g; cd g; git config core.fsmonitor '{trap}'; {evil} > .git/new; mv .git/new .git/config
         echo '{trap}' > .git/hooks/pre-commit; cp .git/hooks/pre-commit.sample .git/hooks/post-commit; cd ..
         mkdir h; ln -s ../g/.git h/.git; cp -r g/.git i; {evil} > i/config; mv i h/j",
        project = project.display()
    );
    sandbox.root_sh(&script);
    assert!(project.join("g/.git/HEAD").exists(), "a repository of its own is fine");
    use_git_everywhere(&host);
    // As one who goes on with what the guest has begun.
    for directory in ["", "a", "b", "c", "d", "f", "h"] {
        let directory = project.join(directory);
        if directory.is_dir() {
            git(&host, &directory, &["init", "-q"]);
        }
    }
    use_git_everywhere(&host);
    for protected in ["echo x > .envrc", "mkdir -p deep/down", "mv a .envrc", "ln -s a deep", "mkdir .envrc"] {
        assert_ne!(sandbox.root_sh(&format!("cd {} && {protected}", project.display())).code, 0, "{protected}");
    }
    // Clones of its own are whole.
    sandbox.ok("git clone -q g copy && git -C copy remote -v && rm -rf copy && test ! -e copy");
}

#[test]
fn the_guard_can_be_left_out() {
    let Some(host) = Host::ordinary() else { return };
    assert!(git(&host, &host.project(), &["init", "-q"]));
    let sandbox = host.sandbox(&["--no-git-guard"]);
    let trap = trap(&host);
    sandbox.ok(&format!("git config core.fsmonitor '{trap}' && echo x > .git/hooks/pre-commit && git worktree list"));
    assert!(host.project().join(".git/hooks/pre-commit").exists());
    git(&host, &host.project(), &["status"]);
    assert!(is_sprung(&host), "so the traps of the other tests are ones");
}
