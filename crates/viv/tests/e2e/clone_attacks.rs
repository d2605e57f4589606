//! A copy whose root does what it can with names and numbers, in its files and in its commits. What it would have git run
//! is in `clone`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use crate::clone::{git, repository};
use crate::support::{Host, Ran, finish};

/// Names that nobody wants and that are none of git's.
const ODD: [&[u8]; 6] = [b"new\nline", b"\x1b[2J\x07", b"\xff\xfe", b"readme", b"README", b"-rf"];

/// Shell that writes the odd names, each with its own number in it, into the current directory.
const WRITE_ODD: &str = r#"number=0; for name in 'new\nline' '\033[2J\007' '\377\376' readme README -rf; do
    printf %s $number > "./$(printf -- "$name")"; number=$((number + 1)); done"#;

/// Runs `viv` with at most this many KiB of memory of its own, and the same for what it starts.
fn run_within(host: &Host, kibibytes: u32, arguments: &[&str]) -> Ran {
    let mut shell = host.command("sh");
    shell.args(["-c", &format!("ulimit -d {kibibytes} && exec \"$0\" \"$@\"")]).arg(host.executable()).args(arguments);
    finish(shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn assert_odd_names_are_there(host: &Host) {
    for (number, name) in ODD.iter().enumerate() {
        let content = std::fs::read_to_string(host.project().join(OsStr::from_bytes(name))).unwrap();
        assert_eq!(content, number.to_string(), "{name:?}");
    }
}

/// What git on the host has of the project: branches, and that no file was touched.
fn state(host: &Host) -> (String, String) {
    (git(host, &["for-each-ref", "--format=%(refname) %(objectname)"]), git(host, &["status", "--porcelain"]))
}

#[test]
fn odd_names_come_as_they_are_and_those_of_gits_own_do_not() {
    let Some(host) = Host::new() else { return };
    repository(&host);
    let sandbox = host.sandbox(&["-w", "clone"]);
    sandbox.ok(&format!(
        "set -e; cd /workspace; {WRITE_ODD}
         mkdir .GIT '.git ' \"$(printf '.g\\342\\200\\214it')\" GIT~1 sub sub/.Git; for d in .G* .g*t' ' GIT~1 sub/.Git; do
         echo '[core]' > \"$d/config\"; done; echo '[core]' > \"$(printf '.g\\342\\200\\214it')/config\""
    ));
    let names = host.run(&["diff", "fixture", "--name-only"]);
    assert_eq!(names.code, 0, "{names:?}");
    for shown in ["\"new\\nline\"", "\"\\033[2J\\007\"", "\"\\377\\376\"", "readme", "README", "-rf"] {
        assert!(names.stdout.lines().any(|line| line == shown), "{shown}: {names:?}");
    }
    assert_eq!(names.stdout.lines().count(), ODD.len(), "{names:?}");
    assert!(names.stderr.contains("git's own files are not touched"), "{names:?}");
    assert!(!names.stderr.contains('\x1b') && !names.stdout.contains('\x1b'), "{names:?}");
    let accepted = host.run(&["accept", "fixture"]);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    assert_odd_names_are_there(&host);
    let mut here: Vec<_> = std::fs::read_dir(host.project()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    here.retain(|name| name.to_string_lossy().to_lowercase().contains("git"));
    here.sort();
    assert_eq!(here, [".git", ".gitignore"]);
    assert!(!host.project().join("sub").exists());
    drop(sandbox);
    host.assert_nothing_is_left();
}

/// Makes a commit of one tree entry the only thing on a branch called `evil`: what is before a tab and after it.
fn evil(kind: &str, name: &str, content: &str) -> String {
    format!(
        "set -e; cd /workspace; blob=$(printf '{content}' | git hash-object -w --stdin); kind='{kind}'
         case $kind in 040000*) blob=$(printf '100644 blob %s\\tconfig\\n' $blob | git mktree);; esac
         tree=$(printf '%s %s\\t{name}\\000' \"$kind\" $blob | git mktree -z)
         commit=$(git -c user.name=x -c user.email=x@y commit-tree -p main -m evil $tree)
         git update-ref refs/heads/evil $commit"
    )
}

#[test]
fn commits_with_names_of_gits_own_are_refused_and_others_are_data() {
    let Some(host) = Host::new() else { return };
    repository(&host);
    let canary = host.path("home/canary");
    let sandbox = host.sandbox(&["-w", "clone"]);
    let before = state(&host);
    let upload = format!("[submodule \"x\"]\\n\\tpath = x\\n\\turl = --upload-pack=touch\\t{}\\n", canary.display());
    let outside = "[submodule \"../../x\"]\\n\\tpath = x\\n\\turl = x\\n";
    for (kind, name, content) in [
        ("100644 blob", ".git", "gitdir: /etc"),
        ("040000 tree", ".GIT", "[core]"),
        ("040000 tree", ".git ", "[core]"),
        ("040000 tree", ".g\\342\\200\\214it", "[core]"),
        ("040000 tree", "git~1", "[core]"),
        ("040000 tree", "..", "[core]"),
        ("120000 blob", ".gitmodules", "/etc/passwd"),
        ("100644 blob", ".gitmodules", &upload),
        ("100644 blob", ".gitmodules", outside),
    ] {
        sandbox.ok(&evil(kind, name, content));
        let refused = host.run(&["sync", "fixture", "--ff"]);
        assert!(refused.code == 125 && refused.stderr.contains("git refused"), "{name}: {refused:?}");
        assert_eq!(state(&host), before, "{name}");
    }
    assert!(!canary.exists());
    // Branches whose names are no names, and one that is odd in all but its own.
    sandbox.root_sh(
        "cd /workspace/.git/refs/heads; rm evil; for name in '\\033[2J' 'a\\nb' '..x' 'x.lock'; do
        cp main \"$(printf \"$name\")\"; done",
    );
    sandbox.ok(&format!("set -e; cd /workspace; {WRITE_ODD}; git add --all; git commit --quiet --message=odd"));
    let synced = host.run(&["sync", "fixture", "--ff"]);
    assert_eq!(synced.code, 0, "{synced:?}");
    assert_eq!(git(&host, &["branch", "--format=%(refname:short)"]), "main\nviv/fixture/main");
    assert_eq!(git(&host, &["status", "--porcelain"]), "");
    assert_odd_names_are_there(&host);
    drop(sandbox);
    host.assert_nothing_is_left();
}

#[test]
fn a_million_files_are_refused_by_name_and_a_million_in_a_commit_are_data() {
    let Some(host) = Host::new() else { return };
    repository(&host);
    let sandbox = host.sandbox(&["-w", "clone"]);
    let before = state(&host);
    // Root has a thousand files a thousand times: ten times ten times ten directories, each of them the same one.
    let many = sandbox.root_sh(
        "set -e; mkdir /tmp/1000; cd /tmp/1000; seq 1000 | xargs touch; cd /workspace; mkdir many; mount -t tmpfs none many
         cd many; mkdir a b c; for i in 0 1 2 3 4 5 6 7 8 9; do mkdir a/$i b/$i c/$i; done
         for i in 0 1 2 3 4 5 6 7 8 9; do mount --bind /tmp/1000 a/$i; done
         for i in 0 1 2 3 4 5 6 7 8 9; do mount --rbind a b/$i; done
         for i in 0 1 2 3 4 5 6 7 8 9; do mount --rbind b c/$i; done; ls c/9/9/9 | wc -l",
    );
    assert_eq!((many.code, many.stdout.trim_end()), (0, "1000"), "{many:?}");
    let refused = run_within(&host, 512 << 10, &["diff", "fixture", "--name-only"]);
    assert!(refused.code == 125 && refused.stderr.contains("more than 200000 files have changed"), "{refused:?}");
    assert_eq!(state(&host), before);
    sandbox.root_sh("umount -l /workspace/many; rmdir /workspace/many");
    assert_eq!(host.run(&["diff", "fixture", "--name-only"]).stdout, "");

    sandbox.ok("set -e; cd /workspace; blob=$(echo new | git hash-object -w --stdin)
         echo $blob | git pack-objects -q .git/objects/pack/pack
         tree=$(seq -f \"100644 blob $blob%%f%.0f\" 1000000 | tr % '\\t' | git mktree --missing)
         git update-ref refs/heads/main $(git -c user.name=x -c user.email=x@y commit-tree -p main -m many $tree)");
    let forward = run_within(&host, 1 << 20, &["sync", "fixture", "--ff"]);
    assert!(forward.code == 125 && forward.stderr.contains("more than 200000 files would change"), "{forward:?}");
    assert_eq!(git(&host, &["log", "--format=%s", "main"]), "first");
    assert_eq!(git(&host, &["log", "-1", "--format=%s", "viv/fixture/main"]), "many");
    assert_eq!(git(&host, &["status", "--porcelain"]), "");
    drop(sandbox);
    host.assert_nothing_is_left();
}
