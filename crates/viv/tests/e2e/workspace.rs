//! The project inside and out: ownership, kinds of files, mounts, and what is refused.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::support::Host;

/// The same for root and for an ordinary user.
fn a_project_works_inside(host: &Host) {
    let project = host.project();
    let secret = host.path("home/secret");
    std::fs::write(&secret, "of the host").unwrap();
    host.own(&secret);
    symlink(&secret, project.join("out")).unwrap();
    symlink("/etc/passwd", project.join("passwd")).unwrap();
    let sandbox = host.sandbox(&[]);

    // Whoever makes a file inside, it is the host user's outside and the agent's inside.
    sandbox.ok("echo a > by-agent; sudo sh -c 'echo r > by-root; mkdir -m 700 dir-by-root; echo x > dir-by-root/x'");
    for made in ["by-agent", "by-root", "dir-by-root", "dir-by-root/x"] {
        assert_eq!(std::fs::metadata(project.join(made)).unwrap().uid(), host.uid(), "{made}");
    }
    assert_eq!(sandbox.ok("stat -c %U by-agent by-root dir-by-root").lines().collect::<Vec<_>>(), ["agent"; 3]);

    // A link means what it means where it is followed.
    assert!(sandbox.ok("cat passwd").contains("agent:"), "the guest's own file");
    assert_ne!(sandbox.sh("cat out").code, 0, "a host link out of the project");
    sandbox.ok("ln -s /etc/passwd made-inside");
    assert_eq!(std::fs::read_link(project.join("made-inside")).unwrap(), Path::new("/etc/passwd"));

    sandbox.ok("set -e; echo 1 > one; mv one two; test ! -e one; ln two three; test $(stat -c %h two) = 2
         echo 3 > temporary; mv -f temporary two; test $(cat two) = 3; mkfifo pipe
         python3 - <<'P'
import mmap
with open('mapped', 'w+b') as file:
    file.truncate(65536)
    with mmap.mmap(file.fileno(), 65536) as view:
        view[1000:1005] = b'hello'
        view.flush()
P");
    assert_eq!(&std::fs::read(project.join("mapped")).unwrap()[1000..1005], b"hello");

    sandbox.ok("mkdir many && cd many && python3 -c \"\nfor i in range(10000): open(f'f{i}', 'w').write(str(i))\"");
    assert_eq!(std::fs::read_dir(project.join("many")).unwrap().count(), 10_000);
    assert_eq!(sandbox.ok("ls many | wc -l; cat many/f9999"), "10000\n9999");

    sandbox.ok(
        "set -e; export GIT_CONFIG_GLOBAL=/tmp/gitconfig; git config --global user.email a@b; git config --global user.name n
         git init -q origin; cd origin; echo 1 > f; git add f; git commit -qm one; cd ..
         git clone -q origin copy; cd copy; echo 2 >> f; git commit -qam two; test -z \"$(git status --porcelain)\"; git fsck",
    );
    assert!(project.join("copy/.git/HEAD").exists());

    sandbox.ok("touch 'with space' \"$(printf 'new\\nline')\" 'ünïcödé-日本' -- '-dash'");
    for name in ["with space", "new\nline", "ünïcödé-日本", "-dash"] {
        assert!(project.join(name).exists(), "{name:?}");
    }
    host.write("made outside", "seen");
    assert_eq!(sandbox.ok("cat 'made outside'"), "seen");

    // What the guest marks as setuid is not; what it calls a device is not made.
    sandbox.ok("cp /bin/true evil; sudo chmod 6755 evil; sudo chown root:root evil || true");
    assert_eq!(std::fs::metadata(project.join("evil")).unwrap().mode() & 0o6000, 0);
    assert_ne!(sandbox.root_sh("mknod device b 8 0").code, 0);
    assert!(!project.join("device").exists());
}

#[test]
fn a_project_works_inside_for_whoever_runs_the_tests() {
    let Some(host) = Host::new() else { return };
    a_project_works_inside(&host);
    host.assert_nothing_is_left();
}

#[test]
fn a_project_works_inside_for_an_ordinary_user() {
    let Some(host) = Host::ordinary() else { return };
    a_project_works_inside(&host);
    host.assert_nothing_is_left();
}

#[test]
fn mounts_are_where_and_as_they_were_asked_for() {
    let Some(host) = Host::ordinary() else { return };
    for directory in ["library", "library/inner", "other"] {
        std::fs::create_dir(host.path(directory)).unwrap();
        host.own(&host.path(directory));
    }
    for file in ["library/book", "settings.json", "fixed.txt"] {
        std::fs::write(host.path(file), "old").unwrap();
        host.own(&host.path(file));
    }
    let mount = |source: &str, rest: &str| format!("{}{rest}", host.path(source).display());
    let sandbox = host.sandbox(&[
        "--mount",
        &mount("library", ":/srv/library:ro"),
        "--mount",
        &mount("other", ""),
        "--mount",
        &mount("settings.json", ":/home/agent/.settings.json"),
        "--mount",
        &mount("fixed.txt", ":/srv/fixed.txt:ro"),
    ]);

    assert_eq!(sandbox.ok("cat /srv/library/book /srv/fixed.txt"), "oldold");
    for attack in [
        "echo x > /srv/library/new",
        "echo x > /srv/library/book",
        "rm /srv/library/book",
        "mount -o remount,rw /srv/library && echo x > /srv/library/new",
        "mount -o remount,rw,bind /srv/library && echo x > /srv/library/new",
        "chmod 777 /srv/library/book",
        "mkdir /tmp/again && mount -t virtiofs viv /tmp/again && echo x > /tmp/again/*/new && test -e /srv/library/new",
        "echo x > /srv/fixed.txt",
    ] {
        assert_ne!(sandbox.root_sh(attack).code, 0, "{attack}");
    }
    assert!(!host.path("library/new").exists());
    assert_eq!(std::fs::read_to_string(host.path("library/book")).unwrap(), "old");

    sandbox.ok(&format!("echo y > {}/y", host.path("other").display()));
    assert_eq!(std::fs::read_to_string(host.path("other/y")).unwrap(), "y\n");

    // As programs save their settings: a temporary file, then a rename over the old one.
    sandbox.ok("cd; cat .settings.json; echo new > .settings.tmp; mv .settings.tmp .settings.json; cat .settings.json");
    assert_eq!(std::fs::read_to_string(host.path("settings.json")).unwrap(), "new\n");
    assert_eq!(std::fs::metadata(host.path("settings.json")).unwrap().uid(), host.uid());
    sandbox.ok("cd; echo more >> .settings.json");
    assert_eq!(std::fs::read_to_string(host.path("settings.json")).unwrap(), "new\nmore\n");
}

#[test]
fn what_git_would_run_on_the_host_is_read_only() {
    let Some(host) = Host::ordinary() else { return };
    let git = |arguments: &[&str]| {
        let status = host.command("git").args(arguments).status().unwrap();
        assert!(status.success(), "git {arguments:?}");
    };
    git(&["init", "-q"]);
    let hook = host.project().join(".git/hooks/pre-commit");
    let config = std::fs::read(host.project().join(".git/config")).unwrap();
    let sandbox = host.sandbox(&[]);
    for attack in [
        "echo evil > .git/hooks/pre-commit",
        "git config core.fsmonitor evil",
        "echo evil >> .git/config",
        "mv .git/hooks .git/old && mkdir .git/hooks && echo evil > .git/hooks/pre-commit",
        "mv .git .old && mkdir -p .git/hooks && echo evil > .git/hooks/pre-commit",
        "rm -rf .git/hooks && mkdir .git/hooks && echo evil > .git/hooks/pre-commit",
    ] {
        assert_ne!(sandbox.root_sh(&format!("cd {} && {attack}", host.project().display())).code, 0, "{attack}");
    }
    assert!(!hook.exists());
    assert_eq!(std::fs::read(host.project().join(".git/config")).unwrap(), config);
    sandbox.ok("echo 1 > f && git add f && git -c user.email=a@b -c user.name=n commit -qm one");
    git(&["log", "--oneline"]);
}

#[test]
fn wide_shares_are_refused_and_say_how_to_insist() {
    let Some(host) = Host::ordinary() else { return };
    let home = host.path("home").display().to_string();
    let state = host.path("state/viv").display().to_string();
    for wide in ["/", &home, host.path("").to_str().unwrap(), &state] {
        if wide == state {
            std::fs::create_dir_all(wide).unwrap();
            host.own(Path::new(wide));
        }
        for options in [["-w", wide], ["--mount", wide]] {
            let ran = host.run(&[&["run"], &options[..], &["--", "true"]].concat());
            assert_eq!(ran.code, 125, "{options:?}: {ran:?}");
            assert!(ran.stderr.contains("not shared") && ran.stderr.contains("--i-know"), "{ran:?}");
        }
    }
    let missing = host.run(&["run", "--mount", "/no/such/path", "--", "true"]);
    assert_eq!(missing.code, 125);
    assert!(missing.stderr.contains("/no/such/path"), "{missing:?}");
    host.assert_nothing_is_left();
}
