//! Sandboxes restored from templates: when, with what shares and users, and apart from each other.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Host, Ran, finish, finish_within};

/// Runs a shell script in a sandbox of its own and has it say where the sandbox comes from.
fn run(host: &Host, options: &[&str], script: &str) -> Ran {
    host.run(&[&["run", "--verbose"], options, &["--", "sh", "-c", script]].concat())
}

#[test]
fn the_second_start_is_from_a_template_and_runs_like_the_first() {
    let Some(host) = Host::ordinary().map(Host::with_own_cache) else { return };
    let small = ["--cpus", "1", "--memory", "512M"];
    let script = "cat made-outside; echo to-stderr >&2; echo inside > made-inside; pwd; whoami; exit 7";
    host.write("made-outside", "outside\n");
    let expected = format!("outside\n{}\nagent\n", host.project().display());

    let first = run(&host, &small, script);
    assert_eq!((first.code, first.stdout.as_str()), (7, expected.as_str()), "{first:?}");
    let why = first.cold_because().unwrap_or_else(|| panic!("{first:?}"));
    assert!(why.contains("there is no template"), "{why}");
    assert!(!why.contains("background"), "`use` makes none: {why}");
    assert!(host.entries().0.is_empty() && host.makers().is_empty());

    let directory = host.make_template(&small);
    let key = directory.file_name().unwrap().to_str().unwrap();
    std::fs::remove_file(host.project().join("made-inside")).unwrap();
    let second = run(&host, &small, script);
    assert_eq!((second.code, second.stdout.as_str()), (7, expected.as_str()), "{second:?}");
    assert_eq!(second.ways(), [format!("from template {}", &key[..12])]);
    assert!(second.stderr.contains("to-stderr\n"), "{second:?}");
    assert_eq!(std::fs::read_to_string(host.project().join("made-inside")).unwrap(), "inside\n");
    assert_eq!(std::fs::metadata(host.project().join("made-inside")).unwrap().uid(), host.uid());

    // Events say the same.
    let ran = host.run(&[&["run", "--json"], &small[..], &["--", "true"]].concat());
    let events: Vec<Value> = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let starting = events.iter().find(|event| event["way"].is_object()).unwrap_or_else(|| panic!("{ran:?}"));
    assert_eq!((&starting["way"]["kind"], &starting["way"]["key"]), (&json!("template"), &json!(key)));

    // What is asked for is done.
    let ran = run(&host, &[&small[..], &["--cold"]].concat(), "exit 3");
    assert_eq!(ran.code, 3);
    assert!(ran.cold_because().is_some_and(|why| why.contains("asked for")), "{ran:?}");
    host.write("viv.toml", "[run]\ntemplate = \"never\"\n");
    assert!(run(&host, &small, "true").cold_because().is_some_and(|why| why.contains("asked for")));
    std::fs::remove_file(host.project().join("viv.toml")).unwrap();

    // Of another shape there is none, and the one there is remains.
    for other in [["--cpus", "2", "--memory", "512M"], ["--cpus", "1", "--memory", "513M"]] {
        let ran = run(&host, &other, "exit 4");
        assert_eq!(ran.code, 4);
        assert!(ran.cold_because().is_some_and(|why| why.contains("there is no template")), "{ran:?}");
    }
    let disk = run(&host, &["--cpus", "1", "--memory", "512M", "--disk", "256M"], "exit 4");
    assert!(disk.cold_because().is_some_and(|why| why.contains("there is no template")), "{disk:?}");
    assert_eq!(host.entries().0, [key]);
    host.assert_nothing_is_left();
}

#[test]
fn every_layout_of_shares_and_every_user_can_be_restored() {
    let Some(host) = Host::ordinary() else { return };
    for directory in ["library", "library/inner", "other", "home/project/below"] {
        std::fs::create_dir(host.path(directory)).unwrap();
        host.own(&host.path(directory));
    }
    for file in ["library/book", "library/inner/page", "settings", "fixed"] {
        std::fs::write(host.path(file), "old").unwrap();
        host.own(&host.path(file));
    }
    let at = |source: &str, rest: &str| format!("{}{rest}", host.path(source).display());
    let (library, other, settings, fixed) = (
        at("library", ":/srv/library:ro"),
        at("other", ":/srv/other"),
        at("settings", ":/home/agent/.settings"),
        at("fixed", ":/srv/fixed:ro"),
    );
    let (outer, inner) = (at("other", ":/srv/outer"), at("library", ":/srv/outer/deep/inner:ro"));
    let below = at("other", &format!(":{}", host.project().join("below").display()));
    let workspace = host.path("other").display().to_string();
    let layouts: [(&[&str], &str); 9] = [
        (&[], "echo new > here; test \"$(readlink -f /workspace)\" = \"$PWD\"; sudo -n true"),
        (&["--root"], "test \"$(id -u)\" = 0; echo new > by-root; test \"$(stat -c %U by-root)\" = agent"),
        (&["--user", "nobody", "--workspace", &workspace], "test \"$(whoami)\" = nobody; ! touch here"),
        (&["--mount", &library], "cat /srv/library/inner/page; ! sudo sh -c 'echo x > /srv/library/book'"),
        (&["--mount", &other, "--mount", &library], "cp /srv/library/book /srv/other/copy; sync /srv/other/copy"),
        (
            &["--mount", &settings],
            "cd; cat .settings; echo new > .settings.new; mv .settings.new .settings; echo more >> .settings",
        ),
        (&["--mount", &fixed], "cat /srv/fixed; ! sudo sh -c 'echo x > /srv/fixed'"),
        (&["--mount", &outer, "--mount", &inner], "cat /srv/outer/deep/inner/book; echo 1 > /srv/outer/one"),
        (&["--workspace", &workspace, "--mount", &below], "echo two > two; cat one two"),
    ];
    for (options, script) in layouts {
        let ran = run(&host, options, &format!("set -e; {script}"));
        assert_eq!(ran.code, 0, "{options:?}: {ran:?}");
        assert!(ran.is_from_template(), "{options:?}: {ran:?}");
    }
    let read = |path: &str| std::fs::read_to_string(host.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(read("home/project/here"), "new\n");
    assert_eq!(std::fs::metadata(host.project().join("by-root")).unwrap().uid(), host.uid());
    assert_eq!([read("library/book"), read("fixed"), read("other/copy")], ["old", "old", "old"]);
    assert_eq!(read("settings"), "new\nmore\n");
    assert_eq!((read("other/one"), read("other/two")), ("1\n".to_owned(), "two\n".to_owned()));
    host.assert_nothing_is_left();
}

#[test]
fn twenty_at_once_from_a_template_that_is_replaced_and_removed_meanwhile() {
    let Some(host) = Host::ordinary().map(Host::with_own_cache) else { return };
    let small = ["--cpus", "1", "--memory", "320M"];
    host.make_template(&small);
    let clients: Vec<Child> = (0..20)
        .map(|number| {
            let script = format!("echo $(cat /proc/sys/kernel/random/boot_id) > made-by-{number}; exit {number}");
            let mut viv = host.viv(&["run", "--verbose", "--template", "use"]);
            viv.args(small).args(["--", "sh", "-c", &script]);
            // Some may start cold, on processors that are shared with all the others.
            viv.env("VIV_BOOT_DEADLINE", "5m").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let done = AtomicBool::new(false);
    let (rans, rebuilt) = std::thread::scope(|scope| {
        let rebuilding = scope.spawn(|| {
            let mut rebuilt = 0;
            while !done.load(Ordering::Relaxed) {
                let mut build = host.viv(&["template", "build", "--force"]);
                build.args(small).stdout(Stdio::piped()).stderr(Stdio::piped());
                let ran = finish_within(build.spawn().unwrap(), 4 * DEADLINE);
                assert_eq!(ran.code, 0, "{ran:?}");
                rebuilt += 1;
            }
            rebuilt
        });
        let mut rans = Vec::new();
        for (number, client) in clients.into_iter().enumerate() {
            rans.push(finish_within(client, 4 * DEADLINE));
            // Under those that still start from it, and while it is being made.
            let removal = match number {
                0 => host.run(&["template", "rm", "--all"]),
                7 => host.run(&["template", "prune", "--all"]),
                _ => continue,
            };
            assert_eq!(removal.code, 0, "{removal:?}");
        }
        done.store(true, Ordering::Relaxed);
        (rans, rebuilding.join().unwrap())
    });
    let mut boots = BTreeSet::new();
    for (number, ran) in rans.iter().enumerate() {
        assert_eq!(ran.code, i32::try_from(number).unwrap(), "{ran:?}");
        // A template that is whole is never found damaged, whatever is done to it.
        let ways = ran.ways();
        let is_fine = |way: &&str| way.starts_with("from template") || way.contains("there is no template of this");
        assert!(ways.iter().all(is_fine), "{ways:?}");
        boots.insert(std::fs::read_to_string(host.project().join(format!("made-by-{number}"))).unwrap());
    }
    assert_eq!(boots.len(), 20, "each is a machine of its own");
    let restored = rans.iter().filter(|ran| ran.is_from_template()).count();
    eprintln!("{restored} of 20 were restored, and the template was rebuilt {rebuilt} times");
    assert!(restored > 0 && rebuilt > 0);
    let left = host.entries().1;
    assert!(left.iter().all(|name| name.starts_with(".lock-")), "{left:?}");
    host.assert_nothing_is_left();
}

/// All that a file says of itself, and its data with its places.
fn state_of(path: &Path) -> (u64, u64, [i64; 4], u64) {
    use std::hash::Hasher;
    let facts = std::fs::metadata(path).unwrap();
    let mut hasher = std::hash::DefaultHasher::new();
    crate::canaries::for_each_block(path, |offset, block| {
        hasher.write_u64(offset);
        hasher.write(block);
    });
    let times = [facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec()];
    (facts.ino(), facts.size(), times, hasher.finish())
}

#[test]
fn clones_neither_see_nor_change_each_other_or_their_template() {
    let Some(host) = Host::new() else { return };
    let first = host.clone_of_template(&[]);
    let key = host.entries().0;
    let files: Vec<_> = key
        .iter()
        .flat_map(|key| ["memory", "devices", "scratch"].map(|name| host.templates().join(key).join(name)))
        .collect();
    let before: Vec<_> = files.iter().map(|path| state_of(path)).collect();

    // On the disk, in memory alone, in the kernel's own state, and of processes.
    let places = ["/srv/mark", "/etc/mark", "/dev/shm/mark", "/run/mark", "/tmp/mark"];
    for place in places {
        let written = first.root_sh(&format!("echo mine > {place} && sync {place}"));
        assert_eq!(written.code, 0, "{place}: {written:?}");
    }
    first.root_sh("hostname another; sysctl -w vm.swappiness=7; date -s 2001-01-01; rm -rf /usr/bin/git; sync");
    let second = second(&host);
    let seen = second(&format!(
        "ls {} 2>/dev/null; hostname; sysctl -n vm.swappiness; date +%Y; git --version",
        places.join(" ")
    ));
    let lines: Vec<_> = seen.stdout.lines().collect();
    let year = finish(host.command("date").arg("+%Y").stdout(Stdio::piped()).spawn().unwrap()).stdout;
    assert_eq!(lines[..3], ["second", "60", year.trim()], "{seen:?}");
    assert!(lines[3].starts_with("git version"), "{seen:?}");
    assert!(first.root_sh("cat /srv/mark /dev/shm/mark; ls /srv").stdout.starts_with("mine\nmine\n"));
    assert_ne!(first.root_sh("ls /srv/of-second").code, 0);
    drop(first);
    let third = second(&format!("ls {} /srv/of-second", places.join(" ")));
    assert_eq!(third.stdout, "", "{third:?}");

    let after: Vec<_> = files.iter().map(|path| state_of(path)).collect();
    assert_eq!(after, before);
}

/// Runs a script as root in another clone, which leaves a mark of its own first.
fn second(host: &Host) -> impl Fn(&str) -> Ran + '_ {
    |script| {
        let script = format!("{script}; echo theirs > /srv/of-second; sync");
        let ran = run(host, &["--root", "--name", "second"], &script);
        assert!(ran.is_from_template(), "{ran:?}");
        ran
    }
}
