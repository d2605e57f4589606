//! Images of a registry, of archives and of directories, booted. All of them are busybox and what the test puts
//! beside it; the registry is Debian's, on loopback. Repositories have names that no earlier run had, since what a tag
//! means is looked up but once.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tar::EntryType;

use crate::images::{SMALL, find_program, like_alpine};
use crate::layers::unique;
use crate::layout::{Layer, Layout, Packing};
use crate::support::{Host, Ran, finish};
use crate::tools::{self, Registry};

/// Says how it was called, as whom and where, and goes on until its input ends.
const ENTRY: &str = "#!/bin/sh\necho \"$0 $*\"; id -u; id -g; pwd; echo $GREETING; exec cat\n";

/// Layers with busybox, the program `entry`, users and a file that tells images apart.
fn layers(word: &str) -> [Vec<u8>; 2] {
    let busybox = std::fs::read(find_program("busybox")).unwrap();
    let mut programs = Layer::new().directory("bin", 0o755).owned("bin/busybox", &busybox, 0o755, 0);
    for name in ["sh", "cat", "id", "echo", "pwd", "sleep", "env"] {
        programs = programs.link(EntryType::Symlink, &format!("bin/{name}"), "busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1234:1235:web:/srv:/bin/sh\n";
    let own = Layer::new()
        .owned("bin/entry", ENTRY.as_bytes(), 0o755, 0)
        .directory("etc", 0o755)
        .file("etc/passwd", passwd.as_bytes())
        .file("etc/group", b"root:x:0:\nweb:x:1235:\n")
        .file("etc/word", word.as_bytes())
        .directory("srv", 0o755);
    [programs.tar(), own.tar()]
}

/// The options of a small machine with an image.
fn small<'a>(image: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--image", image], &SMALL[..], options].concat()
}

/// What is known of the image that this was asked for as.
fn listed(host: &Host, source: &str) -> Value {
    let list = host.run(&["image", "ls", "--json"]);
    assert_eq!(list.code, 0, "{list:?}");
    let list: Vec<Value> = serde_json::from_str(&list.stdout).unwrap();
    let is_it = |image: &&Value| image["sources"].as_array().is_some_and(|all| all.contains(&source.into()));
    list.iter().find(is_it).unwrap_or_else(|| panic!("{source} is not in {list:#?}")).clone()
}

#[test]
fn an_image_of_a_registry_runs_as_it_says() {
    let Some(host) = Host::ordinary().filter(|_| tools::has(&["docker-registry", "skopeo"])) else { return };
    let registry = Registry::start(false);
    let repository = format!("team/app-{}", unique());
    let mut layout = Layout::default();
    let config = json!({
        "Env": ["PATH=/bin", "GREETING=good morning"], "Entrypoint": ["entry", "--flag"], "Cmd": ["serve"],
        "WorkingDir": "/srv", "User": "web",
    });
    let image = layout.image(&layers(&repository), Packing::Gzip, config.clone());
    layout.name("named", &image);
    let mut numeric = config;
    numeric["User"] = "4321:4322".into();
    let image = layout.image(&layers(&repository), Packing::Zstd, numeric);
    layout.name("numeric", &image);
    registry.push(&layout, &repository, None);

    let image = format!("oci:{}/{repository}:named", registry.host);
    let mut client = host.viv(&small(&image, &["--name", "app"]));
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines.by_ref().take(5).map(Result::unwrap).collect();
    if said.len() < 5 {
        panic!("{said:?}: {:?}", finish(client));
    }
    assert_eq!(said, ["/bin/entry --flag serve", "1234", "1235", "/srv", "good morning"]);
    let exec = host.run(&["exec", "app", "--", "sh", "-c", "echo $GREETING; id -u"]);
    assert_eq!((exec.code, exec.stdout), (0, format!("good morning\n{}\n", agents_uid(&host))), "{}", exec.stderr);

    // It is in use as long as it runs.
    assert_eq!(listed(&host, &image)["used_by"]["sandboxes"], json!(["app"]));
    let inspected = host.run(&["image", "inspect", &image, "--json"]);
    assert!(inspected.code == 0 && inspected.stdout.contains("good morning"), "{inspected:?}");
    let refused = host.run(&["image", "rm", "--json", &image]);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!((refused.stdout.clone() + &refused.stderr).contains("in_use"), "{refused:?}");
    drop(client.stdin.take());
    let ran = finish(client);
    assert_eq!(ran.code, 0, "{ran:?}");

    // Another entrypoint takes the image's own command away; its user and its variables stay. Nobody but the user's
    // own may enter the workspace.
    let numeric = format!("oci:{}/{repository}:numeric", registry.host);
    let script = "id -u; id -g; pwd; echo $GREETING; cat /etc/word";
    let ran = host.run(&small(&numeric, &["--entrypoint", "sh -c", "--workdir", "/bin", "--", script]));
    let expected = format!("4321\n4322\n/bin\ngood morning\n{repository}");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected.as_str()), "{ran:?}");

    // What is known of it is shown before it runs.
    let shown = host.run(&["run", "--dry-run", "--json", "--image", &image]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["exec"]["argv"], json!(["entry", "--flag", "serve"]), "{shown}");
    assert_eq!((&shown["exec"]["user"], &shown["exec"]["cwd"]), (&"web".into(), &"/srv".into()), "{shown}");

    // What has no package manager takes no packages, and is not booted to find out.
    for package in ["git", "npm:prettier"] {
        let refused = host.run(&small(&numeric, &["--json", "-p", package, "--", "true"]));
        assert!(refused.code == 125 && refused.stderr.contains("no_package_manager"), "{refused:?}");
    }
    // Two images of the same layers are one file.
    let removed = host.run(&["image", "rm", &image]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(host.run(&["image", "inspect", &numeric]).code, 125);
    host.assert_nothing_is_left();
}

/// The uid of the ordinary user inside.
fn agents_uid(host: &Host) -> u32 {
    if host.uid() == 0 { 1000 } else { host.uid() }
}

#[test]
fn images_of_files_run() {
    let Some(host) = Host::ordinary() else { return };
    let mut layout = Layout::default();
    let config = json!({ "Cmd": ["entry", "of an archive"], "WorkingDir": "/srv", "Env": ["GREETING=hello"] });
    let image = layout.image(&layers("archive"), Packing::None, config);
    layout.name("one", &image);
    let archive = host.write("image.tar", layout.tar());
    let ran = host.run(&small(&format!("oci-archive:{}", archive.display()), &[]));
    let uid = agents_uid(&host);
    let expected = format!("/bin/entry of an archive\n{uid}\n{uid}\n/srv\nhello\n");
    assert_eq!((ran.code, ran.stdout), (0, expected), "{}", ran.stderr);

    // The owners of an archive are numbers in it; those of a directory, too.
    let tree = like_alpine(&host, "tree").file("opt/file", "one\n").directory;
    let packed = host.path("home/root.tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--owner=1234:1234", "-czf"]).arg(&packed).arg("-C").arg(&tree).arg(".");
    assert!(tar.status().unwrap().success());
    std::fs::write(tree.join("opt/file"), "two\n").unwrap();
    let script = "cat /opt/file; stat -c %u /opt/file; id -un; touch /opt/new 2>/dev/null || echo refused; echo x >x";
    let run = |image: String| -> Ran { host.run(&small(&image, &["--", "sh", "-c", script])) };
    let ran = run(format!("tar:{}", packed.display()));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "one\n1234\nagent\nrefused\n"), "{ran:?}");
    let owner = rustix::process::geteuid().as_raw();
    let ran = run(format!("dir:{}", tree.display()));
    assert_eq!((ran.code, ran.stdout), (0, format!("two\n{owner}\nagent\nrefused\n")), "{}", ran.stderr);
    assert!(host.project().join("x").exists());
    host.assert_nothing_is_left();
}

#[test]
fn a_locked_image_stays_though_its_tag_moves() {
    let Some(host) = Host::ordinary().filter(|_| tools::has(&["docker-registry", "skopeo"])) else { return };
    let registry = Registry::start(false);
    let repository = format!("team/moving-{}", unique());
    let push = |word: &str| {
        let mut layout = Layout::default();
        let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["cat", "/etc/word"] });
        let image = layout.image(&layers(&format!("{word} of {repository}\n")), Packing::Gzip, config);
        layout.name("latest", &image);
        registry.push(&layout, &repository, None);
        image["digest"].as_str().unwrap().to_owned()
    };
    let image = format!("oci:{}/{repository}:latest", registry.host);
    host.write("viv.toml", format!("[image]\nfrom = \"{image}\"\n"));
    let first = push("one");
    let locked = host.run(&["image", "lock"]);
    assert_eq!(locked.code, 0, "{locked:?}");
    let lock = || std::fs::read_to_string(host.project().join("viv.lock")).unwrap();
    assert!(lock().contains(&first), "{}", lock());

    let second = push("two");
    // Who does not heed a lock has the new one.
    let pulled = host.run(&["image", "pull", &image]);
    assert_eq!(pulled.code, 0, "{pulled:?}");
    assert_eq!(host.run(&["image", "lock"]).code, 0);
    assert!(lock().contains(&first), "{}", lock());
    let run = || host.run(&[&["run"], &SMALL[..]].concat());
    let ran = run();
    assert_eq!((ran.code, ran.stdout), (0, format!("one of {repository}\n")), "{}", ran.stderr);
    let updated = host.run(&["image", "update"]);
    assert_eq!(updated.code, 0, "{updated:?}");
    assert!(lock().contains(&second) && !lock().contains(&first), "{}", lock());
    let ran = run();
    assert_eq!((ran.code, ran.stdout), (0, format!("two of {repository}\n")), "{}", ran.stderr);
    host.assert_nothing_is_left();
}
