//! A workspace by clone, and files in and out: what comes over, what comes back, and that nothing of a hostile copy
//! is run or followed on the host.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use viv_workspace::Store;

use crate::support::{Host, Ran};

/// git on the host as its user would run it.
pub fn git(host: &Host, arguments: &[&str]) -> String {
    let mut git = host.command("git");
    git.current_dir(host.project()).args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]).args(arguments);
    let output = git.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A project with two commits' worth of everything that git knows of a file.
pub fn repository(host: &Host) {
    for (path, content) in
        [("kept", "1\n"), ("changed", "1\n"), ("gone", "1\n"), ("tool", "#!/bin/sh\n"), (".gitignore", "*.o\ndist/\n")]
    {
        host.write(path, content);
    }
    git(host, &["init", "--quiet", "--initial-branch=main"]);
    git(host, &["add", "--all"]);
    git(host, &["commit", "--quiet", "--message=first"]);
}

fn everything(host: &Host) -> Vec<(String, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![host.project()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let metadata = entry.path().symlink_metadata().unwrap();
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                let content = if metadata.is_symlink() { Vec::new() } else { std::fs::read(entry.path()).unwrap() };
                all.push((entry.path().to_string_lossy().into_owned(), metadata.mode(), content));
            }
        }
    }
    all.sort();
    all
}

/// What is kept of what a sandbox changed, in words.
fn changes(host: &Host, id: &str) -> Vec<String> {
    let store = Store::open(&host.path("state/viv"), &host.project()).unwrap();
    let diff = store.diff(id).unwrap();
    let word = |change: &viv_workspace::FileChange| format!("{:?}", change.kind()).to_lowercase();
    let mut changes: Vec<String> = diff.files.iter().map(|file| format!("{} {}", word(file), file.path)).collect();
    changes.sort();
    changes
}

fn id_of(ran: &Ran) -> String {
    let result = ran.stderr.lines().rfind(|line| line.contains("\"event\":\"result\"")).expect("a result");
    serde_json::from_str::<serde_json::Value>(result).unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_copy_has_what_git_knows_and_what_becomes_of_it_is_kept() {
    let Some(host) = Host::new() else { return };
    repository(&host);
    host.write("changed", "2\n");
    host.write("untracked", "new\n");
    host.write("ignored.o", "x");
    std::fs::remove_file(host.project().join("gone")).unwrap();
    std::fs::set_permissions(host.project().join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("../outside", host.project().join("link")).unwrap();
    let before = everything(&host);
    let ran = host.run(&[
        "run",
        "--json",
        "-w",
        "clone",
        "--",
        "sh",
        "-ec",
        "test ! -e ignored.o; test $(cat changed) = 2; test -x tool; test $(readlink link) = ../outside
         test \"$(git log --format=%s)\" = first; test ! -e .git/hooks/pre-commit
         git status --porcelain; test \"$(stat -c %U .)\" = agent
         echo 3 > changed; rm kept; mkdir sub; echo deep > sub/new; echo x > made.o; chmod -x tool
         git add --all; git commit --quiet --message=inside; test \"$(cat /workspace/sub/new)\" = deep",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut status: Vec<&str> = ran.stdout.lines().collect();
    status.sort_unstable();
    assert_eq!(status, [" D gone", " M changed", " M tool", "?? link", "?? untracked"]);
    assert_eq!(everything(&host), before, "the host's own directory is as it was");
    let kept = changes(&host, &id_of(&ran));
    assert_eq!(kept, ["added sub/new", "deleted kept", "mode tool", "modified changed"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_copy_of_the_commit_alone_leaves_what_is_the_users() {
    let Some(host) = Host::new() else { return };
    repository(&host);
    host.write("changed", "mine\n");
    host.write("untracked", "mine\n");
    std::fs::remove_file(host.project().join("gone")).unwrap();
    let before = everything(&host);
    let ran = host.run(&[
        "run",
        "--json",
        "-w",
        "clone",
        "--untracked=no",
        "--uncommitted=no",
        "--",
        "sh",
        "-ec",
        "test -z \"$(git status --porcelain)\"; test -e gone; test ! -e untracked; test $(cat changed) = 1
         echo 2 > changed; echo 2 > kept; echo its > untracked",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let id = id_of(&ran);
    assert_eq!(changes(&host, &id), ["added untracked", "modified changed", "modified kept"]);
    assert_eq!(everything(&host), before);
    let accepted = host.run(&["accept", &id]);
    assert_eq!(accepted.code, 125, "two of them are the user's: {accepted:?}");
    let read = |path: &str| std::fs::read_to_string(host.project().join(path)).unwrap();
    assert_eq!((read("changed"), read("untracked"), read("kept")), ("mine\n".into(), "mine\n".into(), "2\n".into()));
    let live = host.run(&["run", "--untracked=no", "--", "true"]);
    assert!(live.code == 125 && live.stderr.contains("--workspace clone"), "{live:?}");
    host.assert_nothing_is_left();
}

#[test]
fn commits_and_artifacts_are_synced_as_data() {
    let Some(host) = Host::new() else { return };
    repository(&host);
    let sandbox = host.sandbox(&["-w", "clone"]);
    let inside = sandbox.ok("set -e; cd /workspace; echo 2 > changed; git commit --quiet --all --message=second
         git checkout --quiet -b topic/one; echo 3 > changed; git commit --quiet --all --message=third
         git checkout --quiet main; mkdir dist; echo built > dist/out; git rev-parse main topic/one");
    let synced = host.run(&["sync", "fixture"]);
    assert_eq!(synced.code, 0, "{synced:?}");
    assert_eq!(git(&host, &["rev-parse", "viv/fixture/main", "viv/fixture/topic/one"]), inside.trim_end());
    assert_eq!(git(&host, &["log", "--format=%s", "main"]), "first");
    assert_eq!(git(&host, &["status", "--porcelain"]), "");
    git(&host, &["fsck", "--strict"]);

    let moved = host.run(&["sync", "fixture", "--ff", "--artifacts", "dist"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    assert_eq!(git(&host, &["log", "--format=%s", "main"]), "second\nfirst");
    assert_eq!(std::fs::read_to_string(host.project().join("changed")).unwrap(), "2\n");
    assert_eq!(std::fs::read_to_string(host.project().join("dist/out")).unwrap(), "built\n");
    assert_eq!(std::fs::metadata(host.project().join("dist/out")).unwrap().uid(), host.uid());
    let again = host.run(&["sync", "fixture"]);
    assert!(again.stdout.contains("topic/one") && !again.stdout.contains(" main "), "{again:?}");
    assert_ne!(host.run(&["sync", "fixture", "--artifacts", "changed"]).code, 0, "git does not ignore it");
    assert_ne!(host.run(&["sync", "fixture", "--artifacts", "../x"]).code, 0);

    // A host that went its own way is told, and not overwritten.
    host.write("changed", "host\n");
    git(&host, &["commit", "--quiet", "--all", "--message=here"]);
    sandbox.ok("cd /workspace; echo 4 > changed; git commit --quiet --all --message=there");
    let diverged = host.run(&["sync", "fixture", "--ff"]);
    assert_ne!(diverged.code, 0);
    assert!(diverged.stderr.contains("not moved forward"), "{diverged:?}");
    assert_eq!(git(&host, &["log", "-1", "--format=%s"]), "here");
    drop(sandbox);
    host.assert_nothing_is_left();
}

/// What root inside does to its copy so that git on the host might run it.
const HOSTILE: &str = "set -e; cd /workspace
    git config user.name x; git config user.email x@y
    printf '#!/bin/sh\\ntouch CANARY\\n' > /tmp/evil; chmod 755 /tmp/evil
    mkdir -p .git/hooks; for hook in post-checkout post-merge reference-transaction pre-commit post-update update; do
        cp /tmp/evil .git/hooks/$hook; done
    git config core.fsmonitor 'touch CANARY'; git config core.sshCommand 'touch CANARY'
    git config uploadpack.packObjectsHook 'touch CANARY'; git config core.alternateRefsCommand 'touch CANARY'
    git config filter.evil.clean 'touch CANARY; cat'; git config filter.evil.smudge 'touch CANARY; cat'
    git config filter.own.smudge 'cat'
    echo '* filter=own' > .gitattributes
    printf '[submodule \"x\"]\\n\\tpath = x\\n\\turl = ext::sh -c touch%% CANARY\\n' > .gitmodules
    rm -f .git/hooks/pre-commit .git/hooks/reference-transaction .git/hooks/post-checkout
    git -c core.fsmonitor=false -c core.hooksPath=/dev/null add --all
    git -c core.fsmonitor=false -c core.hooksPath=/dev/null commit --quiet --message=evil
    cp /tmp/evil .git/hooks/post-checkout
    mkdir -p .git/refs/heads/..hidden; printf '%040d\\n' 1 > '.git/refs/heads/$(touch x)'
    echo '/etc' >> .git/objects/info/alternates
    printf 'x' > \"$(printf 'new\\nline')\"; mkfifo fifo; mkdir .GIT; echo x > .GIT/config; mknod device b 8 0
    ln -s /etc/passwd leads-out";

#[test]
fn a_hostile_copy_runs_nothing_and_changes_nothing_outside() {
    let Some(host) = Host::new() else { return };
    repository(&host);
    let canary = host.path("home/canary");
    // The host's own filter, which the attributes of a stranger shall not choose.
    git(&host, &["config", "filter.own.smudge", &format!("touch {}; cat", canary.display())]);
    let outside = |host: &Host| {
        let config = std::fs::read(host.project().join(".git/config")).unwrap();
        (config, std::fs::read_dir(host.project().join(".git/hooks")).unwrap().count())
    };
    let before = outside(&host);
    let sandbox = host.sandbox(&["-w", "clone"]);
    let prepared = sandbox.root_sh(&HOSTILE.replace("CANARY", &canary.display().to_string()));
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let synced = host.run(&["sync", "fixture", "--ff"]);
    assert_eq!(synced.code, 0, "{synced:?}");
    assert_eq!(git(&host, &["log", "-1", "--format=%s"]), "evil");
    assert_eq!(git(&host, &["branch", "--list", "--format=%(refname:short)"]), "main\nviv/fixture/main");

    // Nor does anything come with artifacts, or with viv cp, that leads out or is git's.
    sandbox.root_sh("cd /workspace; mkdir -p dist/sub/.git/hooks; cp /tmp/evil dist/sub/.git/hooks/post-checkout");
    let artifacts = host.run(&["sync", "fixture", "--artifacts", "dist"]);
    assert_ne!(artifacts.code, 0, "{artifacts:?}");
    assert!(!host.project().join("dist/sub/.git").exists());
    let target = host.path("home/target");
    std::fs::create_dir(&target).unwrap();
    host.own(&target);
    symlink("/etc", target.join("d")).unwrap();
    sandbox.root_sh("mkdir -p /tmp/t/d; echo x > /tmp/t/d/viv-was-here");
    let led = host.run(&["cp", "fixture:/tmp/t/.", target.to_str().unwrap()]);
    assert_ne!(led.code, 0, "{led:?}");
    assert!(!Path::new("/etc/viv-was-here").exists());
    // `.git` moved away and made anew: as a link, then as a file.
    sandbox.root_sh("cd /workspace; mv .git moved; ln -s moved .git");
    let linked = host.run(&["sync", "fixture"]);
    assert!(linked.code != 0 && linked.stderr.contains("no directory any more"), "{linked:?}");
    sandbox.root_sh("cd /workspace; rm .git; echo 'gitdir: /etc' > .git");
    assert_ne!(host.run(&["sync", "fixture"]).code, 0);
    assert!(!canary.exists(), "something of the copy ran on the host");
    assert_eq!(outside(&host), before);
    drop(sandbox);
    host.assert_nothing_is_left();
}

#[test]
fn files_are_copied_both_ways() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    let here = host.path("home/here");
    std::fs::create_dir_all(here.join("deep")).unwrap();
    std::fs::write(here.join("deep/file"), vec![5; 3_000_000]).unwrap();
    std::fs::set_permissions(here.join("deep/file"), PermissionsExt::from_mode(0o750)).unwrap();
    symlink("/etc/passwd", here.join("link")).unwrap();
    let text = here.to_str().unwrap();
    let copied = host.run(&["cp", "--json", text, "fixture:/tmp"]);
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(copied.stdout.contains("3000000"), "{copied:?}");
    let seen = sandbox.ok("cd /tmp/here; stat -c '%U %a %s' deep/file; readlink link; test -h link");
    assert_eq!(seen.trim_end(), "agent 750 3000000\n/etc/passwd");
    // A name of its own, what is in a directory, a file over a file.
    assert_eq!(host.run(&["cp", text, "fixture:/tmp/other"]).code, 0);
    assert_eq!(host.run(&["cp", &format!("{text}/."), "fixture:/tmp/other"]).code, 0);
    sandbox.ok("test -f /tmp/other/deep/file && test ! -e /tmp/other/here");
    assert_ne!(host.run(&["cp", text, "fixture:/no/such/place"]).code, 0);

    sandbox.root_sh(
        "mkdir -p /srv/out && cd /srv/out && echo r > secret && chmod 4600 secret && mkfifo pipe && ln -s / l",
    );
    let back = host.path("home/back");
    let ran = host.run(&["cp", "fixture:/srv/out", back.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("left out"), "{ran:?}");
    let secret = std::fs::metadata(back.join("secret")).unwrap();
    assert_eq!((secret.mode() & 0o7777, secret.uid()), (0o600, host.uid()));
    assert_eq!(std::fs::read_link(back.join("l")).unwrap(), Path::new("/"));
    assert!(!back.join("pipe").exists());

    let archive = host.run(&["cp", "fixture:/srv/out/secret", "-"]);
    assert!(archive.code == 0 && archive.stdout.contains("secret") && archive.stdout.contains("ustar"), "{archive:?}");
    assert_ne!(host.run(&["cp", "fixture:/nowhere", "-"]).code, 0);
    drop(sandbox);
    host.assert_nothing_is_left();
}

#[test]
fn stopped_from_elsewhere_it_has_been_asked_before() {
    let Some(host) = Host::ordinary() else { return };
    repository(&host);
    let sandbox = host.sandbox(&["--workspace", "clone"]);
    sandbox.ok("echo 2 > changed");
    let stopped = host.run(&["stop", "fixture"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    let ran = sandbox.wait();
    assert!(!ran.stderr.contains("error"), "{ran:?}");
    assert_eq!(changes(&host, "fixture"), ["modified changed"]);
    host.assert_nothing_is_left();
}
