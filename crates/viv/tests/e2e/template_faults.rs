//! Templates that are damaged, foreign, half made or out of reach: at worst a start is cold.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Host, Ran, finish, kill, until};

/// Small machines: what is tested does not depend on their size.
const SMALL: [&str; 4] = ["--cpus", "1", "--memory", "512M"];

/// Runs a program whose effects can be seen, and checks them.
fn run(host: &Host, options: &[&str]) -> Ran {
    run_by(host.viv(&[]), host, options)
}

fn run_by(mut viv: Command, host: &Host, options: &[&str]) -> Ran {
    let script = "cat question > answer; exit 9";
    host.write("question", "who is there?\n");
    viv.args([&["run", "--verbose"], options, &["--", "sh", "-c", script]].concat());
    let ran = finish(viv.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(ran.code, 9, "{ran:?}");
    assert_eq!(std::fs::read_to_string(host.project().join("answer")).unwrap(), "who is there?\n");
    std::fs::remove_file(host.project().join("answer")).unwrap();
    ran
}

fn assert_cold(ran: &Ran, reason: &str) {
    assert!(ran.cold_because().is_some_and(|why| why.contains(reason)), "not `{reason}`: {:?}", ran.ways());
}

fn assert_restored(ran: &Ran) {
    assert!(ran.is_from_template(), "{:?}", ran.ways());
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["--archive", "--sparse=always"]).arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn a_maker_that_is_killed_leaves_nothing_that_is_used_or_stays() {
    let Some(host) = Host::ordinary().map(Host::with_own_cache) else { return };
    let holds_data = |path: PathBuf| std::fs::metadata(path).is_ok_and(|facts| facts.blocks() > 0);
    type Point<'a> = (&'a str, &'a dyn Fn(&Path) -> bool);
    let points: [Point<'_>; 3] = [
        ("it has a directory", &|_| true),
        ("it has a disk", &|staged| holds_data(staged.join("scratch"))),
        ("some of the memory is written", &|staged| holds_data(staged.join("memory"))),
    ];
    let auto = [&["--template", "auto"], &SMALL[..]].concat();
    let staged = || host.entries().1.into_iter().find(|name| name.starts_with(".new-"));
    let mut left: Option<String> = None;
    for (point, reached) in points {
        assert_cold(&run(&host, &auto), "there is no template of this image and shape yet");
        until("the maker begins", || host.makers().len() == 1);
        let maker = host.makers()[0];
        until(point, || {
            let new = staged().filter(|name| Some(name) != left.as_ref());
            new.is_some_and(|name| reached(&host.templates().join(name)))
        });
        kill(maker, Signal::KILL);
        // Its VMM and its file daemon go with it, or they would hold the disk.
        until("all of it is gone", || host.processes().is_empty());
        assert_eq!(host.entries().0, [""; 0], "{point}: it had not been finished");
        let remains = staged();
        assert!(remains.is_some() && remains != left, "{point}: the next maker removed what the last one left");
        left = remains;
    }
    assert_cold(&run(&host, &auto), "there is no template of this image and shape yet");
    host.until_made(&[]);
    assert_eq!(staged(), None);
    assert_restored(&run(&host, &SMALL));
    host.assert_nothing_is_left();
}

/// One bit of a file becomes another, and its time of modification remains.
fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
    file.set_modified(modified).unwrap();
}

/// The first data of a file.
fn data_of(path: &Path) -> u64 {
    rustix::fs::seek(std::fs::File::open(path).unwrap(), rustix::fs::SeekFrom::Data(0)).unwrap()
}

fn edit(template: &Path, change: impl FnOnce(&mut Value)) {
    let path = template.join("template.json");
    let mut description = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut description);
    std::fs::write(&path, description.to_string()).unwrap();
}

/// Has the description vouch for files that are not those it was written for.
fn forge(template: &Path) {
    edit(template, |description| {
        for name in ["memory", "devices", "scratch"] {
            let facts = std::fs::metadata(template.join(name)).unwrap();
            description[name]["stamp"] = json!({
                "size": facts.size(),
                "inode": facts.ino(),
                "modified": [facts.mtime(), facts.mtime_nsec()],
                "changed": [facts.ctime(), facts.ctime_nsec()],
            });
        }
    });
}

#[test]
fn a_template_that_is_not_as_it_was_made_costs_a_cold_start_and_no_more() {
    let Some(host) = Host::new().map(Host::with_own_cache) else { return };
    let one = host.make_template(&SMALL);
    let other_shape = ["--cpus", "1", "--memory", "384M"];
    let other = host.make_template(&other_shape);
    let (saved, saved_other) = (host.path("saved"), host.path("saved-other"));
    std::fs::rename(&one, &saved).unwrap();
    std::fs::rename(&other, &saved_other).unwrap();
    let memory_of_other = saved_other.join("memory");

    // A copy is as good as the template itself: whatever happens below is not because it is one.
    copy(&saved, &one);
    for _ in 0..2 {
        assert_restored(&run(&host, &SMALL));
    }
    type Damage<'a> = (&'a dyn Fn(), &'a str);
    let damages: [Damage<'_>; 12] = [
        (&|| flip(&one.join("memory"), data_of(&one.join("memory"))), "memory has other content"),
        (&|| flip(&one.join("scratch"), data_of(&one.join("scratch"))), "scratch has other content"),
        (&|| flip(&one.join("devices"), data_of(&one.join("devices")) + 1000), "devices has other content"),
        (
            &|| {
                let memory = std::fs::File::options().write(true).open(one.join("memory")).unwrap();
                memory.set_len(memory.metadata().unwrap().len() / 2).unwrap();
            },
            "memory has",
        ),
        (&|| flip(&one.join("template.json"), 0), "dropped"),
        (
            &|| {
                edit(&one, |description| {
                    let vmm = description["ingredients"]["vmm"].as_str().unwrap().to_owned();
                    description["ingredients"]["vmm"] = json!(vmm.replacen(' ', " 1", 1));
                });
            },
            "another one's",
        ),
        (
            &|| {
                std::fs::remove_dir_all(&one).unwrap();
                copy(&saved_other, &one);
            },
            "another one's",
        ),
        // What no stamp and no digest tells: the VMM refuses it, or the guest says who it is.
        (
            &|| {
                copy(&memory_of_other, &one.join("memory"));
                forge(&one);
            },
            "dropped",
        ),
        (
            &|| {
                let devices = std::fs::File::options().write(true).open(one.join("devices")).unwrap();
                devices.write_all_at(&[0xff; 4096], 0).unwrap();
                forge(&one);
            },
            "dropped",
        ),
        (
            &|| edit(&one, |description| description["id"] = json!("0123456789abcdef0123456789abcdef")),
            "not the one that was saved",
        ),
        // A guest that never answers, for it waits for another word.
        (&|| edit(&one, |description| description["link_token"] = json!("00".repeat(16))), "did not come up within"),
        (&|| edit(&one, |description| description["tsc_khz"] = json!(1_000_000)), "clock runs at another rate"),
    ];
    for (number, (damage, reason)) in damages.iter().enumerate() {
        if one.exists() {
            std::fs::remove_dir_all(&one).unwrap();
        }
        copy(&saved, &one);
        damage();
        let mut viv = host.viv(&[]);
        // Ten times what a cold start took, which has the same deadline.
        viv.env("VIV_BOOT_DEADLINE", "30s");
        let ran = run_by(viv, &host, &SMALL);
        assert_cold(&ran, reason);
        assert!(ran.cold_because().unwrap().starts_with("its template was dropped: "), "{number}: {ran:?}");
        let (templates, others) = host.entries();
        assert_eq!(templates, [""; 0], "{number}: {ran:?}");
        assert!(others.iter().all(|name| name.starts_with(".lock-")), "{number}: {others:?}");
    }
    copy(&saved, &one);
    assert_restored(&run(&host, &SMALL));
    host.assert_nothing_is_left();
}

#[test]
fn templates_out_of_reach_cost_a_cold_start_and_no_more() {
    let Some(host) = Host::ordinary().map(Host::with_own_cache) else { return };
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let auto = [&["--template", "auto"], &SMALL[..]].concat();

    // Where nothing can be written none is made, and that is all.
    std::fs::create_dir(host.templates()).unwrap();
    host.own(&host.templates());
    set(&host.templates(), 0o500);
    assert_cold(&run(&host, &auto), "there is no template of this image and shape yet");
    until("the maker has given up", || host.makers().is_empty());
    assert_eq!(host.entries(), (Vec::new(), Vec::new()));
    set(&host.templates(), 0o700);

    let template = host.make_template(&SMALL);
    set(&host.templates(), 0o500);
    // Reading it is enough.
    assert_restored(&run(&host, &SMALL));
    set(&host.templates(), 0o700);
    let saved = host.path("saved");
    copy(&template, &saved);
    set(&template.join("memory"), 0);
    assert_cold(&run(&host, &SMALL), "Permission denied");
    assert!(!template.exists());
    copy(&saved, &template);
    set(&template, 0);
    assert_cold(&run(&host, &SMALL), "Permission denied");
    assert!(!template.exists());
    copy(&saved, &template);
    assert_restored(&run(&host, &SMALL));
    host.assert_nothing_is_left();
}

#[test]
fn a_template_is_for_the_vmm_that_made_it() {
    let Some(host) = Host::ordinary().map(Host::with_own_cache) else { return };
    host.make_template(&SMALL);
    let path = std::env::var("PATH").unwrap();
    let qemu = std::env::split_paths(&path).map(|place| place.join("qemu-system-x86_64")).find(|file| file.is_file());
    let qemu = qemu.expect("QEMU is there");
    // Anyone else's that says it is of another version; what it does is the same.
    let of_version = |version: &str| {
        let directory = host.path(version);
        std::fs::create_dir(&directory).unwrap();
        let program = directory.join("qemu-system-x86_64");
        let script = format!(
            "#!/bin/sh\n[ \"$*\" = --version ] && exec echo 'QEMU emulator version {version} (another one)'\nexec {} \"$@\"\n",
            qemu.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut viv = host.viv(&[]);
        viv.env("PATH", format!("{}:{path}", directory.display()));
        run_by(viv, &host, &SMALL)
    };
    assert_cold(&of_version("97.1.0"), "there is no template of this image and shape yet");
    assert_cold(&of_version("8.2.2"), "QEMU 8.2.2 makes no templates");
    // The first one's is still there.
    assert_restored(&run(&host, &SMALL));
    host.assert_nothing_is_left();
}

#[test]
fn a_template_from_before_the_image_changed_is_not_used() {
    let Some(host) = Host::new().map(Host::with_own_cache) else { return };
    let blobs = std::fs::read_dir(host.cache().join("blobs")).unwrap().map(|entry| entry.unwrap());
    let root = blobs.max_by_key(|entry| entry.metadata().unwrap().len()).unwrap().path();
    let image = host.path("image.erofs");
    copy(&root, &image);
    std::fs::set_permissions(&image, PermissionsExt::from_mode(0o600)).unwrap();
    let options = [&["--image", image.to_str().unwrap()], &SMALL[..]].concat();
    let template = host.make_template(&options);
    let issue = || host.run(&[&["run", "--verbose"], &options[..], &["--", "cat", "/etc/issue"]].concat());
    let before = issue();
    assert!(before.is_from_template() && before.stdout.starts_with("Debian GNU/Linux"), "{before:?}");

    // A file of the image changes in its place, and the image's time does not.
    let places = Command::new("grep").args(["-obUaF", before.stdout.trim_end()]).arg(&image).output().unwrap();
    let place = String::from_utf8_lossy(&places.stdout).split(':').next().unwrap().parse().unwrap();
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"Marble", place).unwrap();
    file.set_modified(modified).unwrap();
    let after = issue();
    assert_cold(&after, "there is no template of this image and shape yet");
    assert!(after.stdout.starts_with("Marble GNU/Linux"), "{after:?}");
    assert!(template.exists(), "it may be of use to who still has that image");
    host.assert_nothing_is_left();
}

/// Runs a shell script where a directory of the host's is a small file system of its own.
fn with_a_small_disk(host: &Host, size: &str, directory: &Path, script: &str) -> Ran {
    let script = format!("mount -t tmpfs -o size={size},mode=700 none {} && {script}", directory.display());
    let options = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let mut command = host.command("unshare");
    command.args([options, "sh", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().unwrap())
}

#[test]
fn a_disk_too_small_for_a_template_has_none_and_is_named() {
    let Some(host) = Host::new().map(Host::with_own_cache) else { return };
    let templates = host.templates();
    std::fs::create_dir(&templates).unwrap();
    let viv = host.executable().display();
    let run = format!("{viv} run --verbose --template auto --cpus 1 --memory 512M -- sh -c");
    let script = format!(
        "{run} 'exit 7'; echo first $?
         until [ -e {templates}/.failed-* ]; do sleep 0.1; done; ls -A {templates} | grep -v '^.lock-'
         {run} 'exit 8'; echo second $?",
        templates = templates.display()
    );
    let ran = with_a_small_disk(&host, "16m", &templates, &script);
    let said: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!((said[0], said[2]), ("first 7", "second 8"), "{ran:?}");
    assert!(said.len() == 3 && said[1].starts_with(".failed-"), "nothing else is left: {ran:?}");
    assert!(ran.ways()[0].ends_with("one is made in the background"), "{ran:?}");
    // Not tried again at once.
    assert!(ran.ways()[1].contains("making its template failed: "), "{ran:?}");
    assert!(!ran.ways()[1].contains("background"), "{ran:?}");
    assert!(ran.ways()[1].contains("disk is full") || ran.ways()[1].contains("No space left"), "{ran:?}");
    host.assert_nothing_is_left();
}

#[test]
fn a_disk_that_is_full_while_restoring_is_named_and_the_template_stays() {
    let Some(host) = Host::new() else { return };
    assert_restored(&run(&host, &[]));
    let templates = host.entries();
    let script = format!("exec {} run --verbose -- true", host.executable().display());
    let ran = with_a_small_disk(&host, "16k", &host.path("state"), &script);
    assert_eq!(ran.code, 125, "{ran:?}");
    let state = host.path("state");
    assert!(ran.stderr.contains("not enough space") && ran.stderr.contains(state.to_str().unwrap()), "{ran:?}");
    assert_eq!(host.entries(), templates);
    host.assert_nothing_is_left();
}
