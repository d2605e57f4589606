//! What a sandbox changed in its workspace: seen, accepted, rejected, undone.

use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;

use crate::support::Host;

fn read(host: &Host, path: &str) -> String {
    std::fs::read_to_string(host.project().join(path)).unwrap()
}

fn ok(host: &Host, arguments: &[&str]) -> String {
    let ran = host.run(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    ran.stdout
}

/// What `viv diff --json` says, as lines.
fn changes(host: &Host) -> Vec<String> {
    let diff: Value = serde_json::from_str(&ok(host, &["diff", "--json"])).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let files = diff["files"].as_array().unwrap().iter();
    files.map(|file| format!("{} {}{}", text(&file["kind"]), text(&file["from"]), text(&file["path"]))).collect()
}

#[test]
fn what_an_agent_did_live_is_shown_accepted_and_undone() {
    let Some(host) = Host::ordinary() else { return };
    let git = |arguments: &[&str]| {
        let output =
            host.command("git").args(["-c", "user.name=n", "-c", "user.email=e"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let numbers: String = (1..=30).map(|number| format!("{number}\n")).collect();
    host.write("numbers", &numbers);
    host.write(".gitignore", "target\n");
    host.write("tool.sh", "#!/bin/sh\n");
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "one"]);
    host.write("untracked", "mine\n");
    host.write("uncommitted", "mine\n");

    let ran = host.run(&[
        "run",
        "--",
        "sh",
        "-c",
        "set -e; sed -i -e 's/^3$/three/' -e 's/^25$/twenty-five/' numbers; chmod +x tool.sh; rm untracked
         mkdir -p src target; mv uncommitted src/moved; printf 'a\\033[2Jb\\n' > 'src/new file'; echo x > target/out
         ln -s /etc/passwd link; rm -rf .git/objects .git/refs",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let all = [
        "added link",
        "modified numbers",
        "added src/new file",
        "renamed uncommittedsrc/moved",
        "mode tool.sh",
        "deleted untracked",
    ];
    let mut seen = changes(&host);
    seen.sort();
    let mut wanted = all.to_vec();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
    let patch = ok(&host, &["diff"]);
    assert!(patch.contains("-3\n+three\n") && patch.contains("rename from uncommitted\n"), "{patch}");
    // On a terminal nothing that a file holds drives it.
    let terminal = host.run(&["diff", "--no-pager", "numbers"]);
    assert!(terminal.stdout.starts_with("diff --git a/numbers b/numbers\n"), "{terminal:?}");
    assert!(ok(&host, &["diff", "--stat"]).contains(" 6 files changed, "));

    assert_eq!(ok(&host, &["accept", "src", "--json"]).matches("src/").count(), 2);
    assert_eq!(changes(&host), ["added link", "modified numbers", "mode tool.sh", "deleted untracked"]);
    ok(&host, &["reject", "numbers"]);
    assert_eq!(read(&host, "numbers"), numbers);
    ok(&host, &["undo"]);
    assert_eq!((read(&host, "untracked").as_str(), read(&host, "src/moved").as_str()), ("mine\n", "mine\n"));
    assert!(!host.project().join("link").is_symlink());
    let mode = std::fs::metadata(host.project().join("tool.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0, "{mode:o}");
    assert_eq!(changes(&host), [""; 0]);
    ok(&host, &["undo", "--redo"]);
    assert!(host.project().join("link").is_symlink() && !host.project().join("untracked").exists());
    ok(&host, &["undo", "--start"]);
    assert_eq!((read(&host, "uncommitted").as_str(), read(&host, "untracked").as_str()), ("mine\n", "mine\n"));
    assert!(!host.project().join("src").exists(), "directories that were made for it go with it");
    assert_eq!(read(&host, "target/out"), "x\n", "what is ignored stays");
    host.assert_nothing_is_left();
}

#[test]
fn a_hostile_guest_has_nothing_outside_written_or_run() {
    let Some(host) = Host::new() else { return };
    let outside = host.path("home/outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "the host's").unwrap();
    let (file, ran) = (outside.join("file"), outside.join("ran"));
    std::fs::create_dir(host.project().join("dir")).unwrap();
    host.write("dir/file", "mine");
    host.write("plain", "mine");
    symlink("plain", host.project().join("link")).unwrap();
    let hook = format!("touch {}", ran.display());
    let script = format!(
        "set -e; git init -q .; git config filter.x.clean '{hook}'; git config filter.x.smudge '{hook}'
         git config core.fsmonitor '{hook}' || true; echo '* filter=x diff=x' > .gitattributes
         mkdir -p sub/.git/hooks .GIT/hooks; echo '[core]' > sub/.git/config
         printf '#!/bin/sh\\n{hook}\\n' > sub/.git/hooks/post-checkout; chmod +x sub/.git/hooks/post-checkout
         rm -rf dir; ln -s {outside} dir; rm plain; ln -s {file} plain
         touch \"$(printf 'new\\nline\\033[2J')\"; mkfifo fifo",
        outside = outside.display(),
        file = file.display(),
    );
    let done = host.run(&["run", "--no-git-guard", "--", "sh", "-c", &script]);
    assert_eq!(done.code, 0, "{done:?}");
    let shown = host.run(&["diff", "--name-only"]);
    assert!(shown.code == 0 && shown.stdout.contains("\"new\\nline\\033[2J\"\n"), "{shown:?}");
    assert!(shown.stderr.contains(".GIT") && shown.stderr.contains("fifo"), "{shown:?}");
    assert!(!host.run(&["diff"]).stdout.contains("the host's"));
    ok(&host, &["undo"]);
    assert_eq!((read(&host, "dir/file").as_str(), read(&host, "plain").as_str()), ("mine", "mine"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "the host's");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "nothing ran, nothing was written");
    host.assert_nothing_is_left();
}

#[test]
fn without_a_state_the_sandbox_runs_and_says_so() {
    let Some(host) = Host::new() else { return };
    host.write("file", "1");
    let unknown = host.run(&["diff"]);
    assert!(unknown.code == 125 && unknown.stderr.contains("no sandbox's changes"), "{unknown:?}");
    let ran = host.run(&["run", "--no-review", "--", "sh", "-c", "echo 2 > file"]);
    assert!(ran.code == 0 && !ran.stderr.contains("viv diff"), "{ran:?}");
    assert_eq!(host.run(&["diff"]).code, 125);
    // Where it cannot be kept, that is told, and the program runs.
    std::fs::create_dir_all(host.path("state/viv")).unwrap();
    std::fs::write(host.path("state/viv/workspaces"), "in the way").unwrap();
    let ran = host.run(&["run", "--", "true"]);
    assert!(ran.code == 0 && ran.stderr.contains("viv diff and viv undo will know nothing"), "{ran:?}");
    host.assert_nothing_is_left();
}
