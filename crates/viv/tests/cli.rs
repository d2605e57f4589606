//! The real binary in a cleared environment, for everything that needs no VM.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A home, a project and nothing else.
struct Harness {
    root: tempfile::TempDir,
}

/// What a command did, its paths made the same everywhere.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Harness {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["home", "home/project", "config/viv", "bin"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        Self { root }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(relative)
    }

    fn write(&self, relative: &str, content: &str) -> &Self {
        std::fs::write(self.path(relative), content).unwrap();
        self
    }

    /// A QEMU that only knows its version, so that no test depends on the machine's.
    fn with_qemu(&self, version: &str) -> &Self {
        use std::os::unix::fs::PermissionsExt;
        let script = format!("#!/bin/sh\necho 'QEMU emulator version {version}'\n");
        self.write("bin/qemu-system-x86_64", &script);
        std::fs::set_permissions(self.path("bin/qemu-system-x86_64"), std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_viv"));
        command.args(arguments).current_dir(self.path("home/project")).env_clear().stdin(Stdio::null());
        command.env("HOME", self.path("home")).env("PATH", self.path("bin"));
        for (variable, directory) in [
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_RUNTIME_DIR", "runtime"),
        ] {
            command.env(variable, self.path(directory));
        }
        command
    }

    fn finish(&self, output: &Output) -> Ran {
        let root = self.path("").to_string_lossy().trim_end_matches('/').to_owned();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("viv speaks UTF-8").replace(&root, "[ROOT]");
        Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.finish(&self.command(arguments).output().unwrap())
    }
}

impl Ran {
    /// Exit code, then both streams, for a snapshot.
    fn whole(&self) -> String {
        format!("exit {:?}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr)
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.whole()))
    }
}

#[test]
fn help_of_every_command() {
    let harness = Harness::new();
    let commands = [
        "",
        "run",
        "exec",
        "up",
        "down",
        "ps",
        "start",
        "stop",
        "kill",
        "restart",
        "pause",
        "resume",
        "wait",
        "rm",
        "rename",
        "inspect",
        "disk",
        "disk ls",
        "disk trim",
        "disk resize",
        "disk discard",
        "image",
        "image build",
        "image pull",
        "image import",
        "image ls",
        "image inspect",
        "image rm",
        "image prune",
        "image lock",
        "image update",
        "image export",
        "kernel",
        "kernel build",
        "kernel ls",
        "kernel use",
        "kernel rm",
        "template",
        "template ls",
        "template build",
        "template rm",
        "template prune",
        "doctor",
        "completions",
        "man",
    ];
    for command in commands {
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).filter(|word| !word.is_empty()).collect();
        let ran = harness.run(&arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{command}");
        assert!(ran.stdout.contains("Examples:"), "{command} --help has examples");
        let name = if command.is_empty() { "viv".to_owned() } else { command.replace(' ', "-") };
        insta::assert_snapshot!(format!("help-{name}"), ran.stdout);
    }
}

#[test]
fn what_is_wrong_with_arguments_is_said_and_exits_125() {
    let harness = Harness::new();
    let cases: [&[&str]; 19] = [
        &["rum"],
        &["run", "-p", "git", "./configure", "--prefix=/usr"],
        &["run", "-p", "git", "sh -c"],
        &["run", "--devcontainer=../other"],
        &["image", "export", "debian", "x.tar", "--format", "tar"],
        &["image", "rm"],
        &["run", "--memmory", "4G"],
        &["run", "--memory", "lots"],
        &["run", "--memory", "512"],
        &["run", "--cpus", "0"],
        &["run", "--vmm", "firecracker"],
        &["run", "--vmm", "virtualbox"],
        &["run", "--accel", "hvf"],
        &["run", "--timeout", "soon"],
        &["run", "--mount", "/a:b"],
        &["run", "--env", "=x"],
        &["run", "--root", "--user", "x"],
        &["run", "--name", "Not_A_Name"],
        &["stop"],
    ];
    let shown: Vec<String> = cases
        .iter()
        .map(|arguments| {
            let ran = harness.run(arguments);
            assert_eq!(ran.code, Some(125), "{arguments:?}");
            assert_eq!(ran.stdout, "", "{arguments:?}");
            format!("$ viv {}\n{}", arguments.join(" "), ran.stderr)
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn without_a_command_help_is_shown() {
    let ran = Harness::new().run(&[]);
    assert_eq!(ran.code, Some(125));
    assert!(ran.stderr.contains("Usage: viv"));
}

#[test]
fn paths_that_cannot_be_shared_are_refused() {
    let harness = Harness::new();
    harness.with_qemu("10.0.2").write("home/project/file", "");
    let cases: [&[&str]; 7] = [
        &["run", "-w", "missing"],
        &["run", "-w", "file"],
        &["run", "--mount", "missing"],
        &["run", "-w", "/"],
        &["run", "-w", ".."],
        &["run", "--mount", "../../cache:/c"],
        &["run", "--kernel", "missing"],
    ];
    std::fs::create_dir(harness.path("cache")).unwrap();
    let shown: Vec<String> = cases
        .iter()
        .map(|arguments| {
            let ran = harness.run(arguments);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{arguments:?}: {}", ran.stderr);
            format!("$ viv {}\n{}", arguments.join(" "), ran.stderr)
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn i_know_shares_the_home_directory() {
    let harness = Harness::new();
    harness.with_qemu("10.0.2");
    let ran = harness.run(&["run", "-w", "..", "--i-know", "--dry-run", "--json"]);
    assert_eq!(ran.json()["sandbox"]["workspace"], "[ROOT]/home", "{}", ran.whole());
}

#[test]
fn templates_are_managed_without_a_vm() {
    let harness = Harness::new();
    harness.with_qemu("10.0.2");
    // One of another viv, one that cannot be read, and what is left of one that was being made.
    let of_another = |name: &str| format!("cache/viv/templates/{name}");
    let key = "0123456789abcdef".repeat(2);
    for name in [&key, "damaged"] {
        std::fs::create_dir_all(harness.path(&of_another(name))).unwrap();
    }
    let content =
        serde_json::json!({ "digest": "", "stamp": { "size": 0, "inode": 1, "modified": [0, 0], "changed": [0, 0] } });
    let description = serde_json::json!({
        "format": 1, "key": key, "id": "", "link_token": "", "tsc_khz": null, "created_at_unix_ms": 0,
        "ingredients": { "viv": "0.0.1, templates 1" }, "files": [], "memory": content, "devices": content, "scratch": content,
    });
    harness.write(&of_another(&format!("{key}/template.json")), &description.to_string());
    harness.write(&of_another("damaged/template.json"), "{");
    let listed = harness.run(&["template", "ls", "--json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed[0]["unusable_because"], "made by viv 0.0.1", "{listed}");
    let shown: Vec<String> = [
        &["template", "rm", "ffff"][..],
        &["template", "rm", ""],
        &["template", "rm"],
        &["template", "prune", "--older-than", "soon"],
    ]
    .iter()
    .map(|arguments| format!("$ viv {}\n{}", arguments.join(" "), harness.run(arguments).whole()))
    .collect();
    insta::assert_snapshot!(shown.join("\n"));
    let pruned = harness.run(&["template", "prune", "--json"]).json();
    assert_eq!((pruned["removed"][0]["key"].as_str(), &pruned["leftovers"]), (Some(&*key), &1.into()), "{pruned}");
    let shown = [&["template", "prune"][..], &["template", "ls"]].map(|arguments| harness.run(arguments).whole());
    insta::assert_snapshot!(shown.join("\n"));
    harness.with_qemu("8.2.2");
    insta::assert_snapshot!(harness.run(&["template", "build"]).whole());
}

/// An erofs image of nothing, as far as its superblock is looked at.
fn superblock() -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
    image[1024 + 12] = 12;
    image[1024 + 36] = 2;
    image
}

#[test]
fn images_are_managed_without_a_vm() {
    let harness = Harness::new();
    std::fs::write(harness.path("home/project/root.erofs"), superblock()).unwrap();
    assert_eq!(harness.run(&["image", "ls", "--json"]).json(), serde_json::json!([]));
    let imported = harness.run(&["image", "import", "root.erofs", "--name", "tools", "--json"]).json();
    assert_eq!((imported["source"].as_str(), imported["size"].as_u64()), (Some("name:tools"), Some(8192)));
    let digest = imported["digest"].as_str().unwrap();
    std::fs::remove_file(harness.path("home/project/root.erofs")).unwrap();
    let listed = harness.run(&["image", "ls", "--json"]).json();
    assert_eq!((listed.as_array().map(Vec::len), listed[0]["digest"].as_str()), (Some(1), Some(digest)), "{listed}");
    assert_eq!(listed[0]["used_by"], serde_json::json!({ "sandboxes": [], "templates": [] }));
    // Another directory each time, and other times.
    let settled = |ran: Ran| {
        let lines = ran.whole();
        lines
            .lines()
            .filter(|line| !line.starts_with("age") && !line.starts_with("last used"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let shown: Vec<String> = [
        &["image", "inspect", "name:tools"][..],
        &["image", "inspect", "nothing"],
        &["image", "export", "name:tools", "copy.erofs"],
        &["image", "export", "name:tools", "copy.erofs"],
        &["image", "import", "copy.erofs"],
        &["image", "import", "copy.erofs", "--name", "Not A Name"],
        &["image", "import", "missing"],
        &["image", "prune", "--all"],
        &["image", "rm", "name:tools", "nothing"],
        &["image", "rm", "name:tools"],
        &["image", "ls"],
        &["image", "prune"],
    ]
    .iter()
    .map(|arguments| format!("$ viv {}\n{}", arguments.join(" "), settled(harness.run(arguments))))
    .collect();
    insta::assert_snapshot!(shown.join("\n"));
    assert_eq!(std::fs::read(harness.path("home/project/copy.erofs")).unwrap(), superblock());
}

#[test]
fn a_dev_container_counts_where_that_is_said() {
    let harness = Harness::new();
    harness.with_qemu("10.0.2");
    std::fs::create_dir_all(harness.path("home/project/.devcontainer/web")).unwrap();
    harness
        .write(
            "home/project/.devcontainer/devcontainer.json",
            r#"{ "containerEnv": { "A": "1" }, "remoteUser": "web" }"#,
        )
        .write("home/project/.devcontainer/web/devcontainer.json", r#"{ "postCreateCommand": "make" }"#);
    let dry = |arguments: &[&str]| harness.run(&[&["run", "--dry-run", "--json"], arguments].concat()).json();
    assert_eq!(dry(&[])["exec"]["user"], "agent");
    let plan = dry(&["--devcontainer"]);
    assert_eq!((&plan["exec"]["user"], &plan["exec"]["env"]["A"]), (&"web".into(), &"1".into()), "{plan}");
    assert_eq!(plan["origins"]["user"], "dev-container");
    let plan = dry(&["--devcontainer=web"]);
    assert_eq!(plan["setup"][0]["argv"], serde_json::json!(["/bin/sh", "-c", "make"]), "{plan}");
    harness.write("home/project/viv.toml", "[image]\ndevcontainer = true\n[run]\nuser = \"root\"\n");
    let plan = dry(&[]);
    assert_eq!((&plan["exec"]["user"], &plan["exec"]["env"]["A"]), (&"root".into(), &"1".into()), "{plan}");
    assert_eq!(dry(&["--devcontainer=false"])["exec"]["env"]["A"], Value::Null);
    harness.write("home/project/.devcontainer/devcontainer.json", r#"{ "build": { "dockerfile": "Dockerfile" } }"#);
    let shown = [&["run", "--dry-run"][..], &["run", "--dry-run", "--devcontainer=none"]]
        .map(|arguments| harness.run(arguments).whole());
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let harness = Harness::new();
    harness.write("home/project/viv.toml", "[run]\nmemmory = \"4G\"\n");
    let project = harness.run(&["run", "--dry-run"]);
    harness.write("home/project/viv.toml", "[run]\nmounts = [\"/etc:/host-etc\"]\n");
    let escaping = harness.run(&["run", "--dry-run"]);
    harness.write("home/project/viv.toml", "").write("config/viv/config.toml", "[run]\ncpus = \"many\"\n");
    let user = harness.run(&["run", "--dry-run"]);
    insta::assert_snapshot!([project, escaping, user].iter().map(Ran::whole).collect::<Vec<_>>().join("\n"));
}

#[test]
fn an_error_is_json_where_that_is_asked_for() {
    let harness = Harness::new();
    harness.write("home/project/viv.toml", "[run]\nmemmory = \"4G\"\n");
    let ran = harness.run(&["run", "--json", "true"]);
    let event: Value = serde_json::from_str(&ran.stderr).unwrap();
    insta::assert_json_snapshot!(event);
    let usage = harness.run(&["run", "--json", "--cpus", "0"]);
    let event: Value = serde_json::from_str(&usage.stderr).unwrap();
    assert_eq!((event["error"]["kind"].as_str(), usage.code), (Some("usage"), Some(125)));
}

/// The plan of a dry run, without what differs from run to run and machine to machine.
fn resolved(ran: &Ran) -> Value {
    let mut plan = ran.json();
    let sandbox = plan["sandbox"].as_object_mut().unwrap();
    assert_eq!(sandbox["id"].as_str().map(str::len), Some(8));
    assert!(sandbox["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
    for (key, value) in [("id", "[ID]"), ("hostname", "[HOSTNAME]"), ("user", "[USER]"), ("timezone", "[TIMEZONE]")] {
        if key != "hostname" || sandbox["name"].is_null() {
            sandbox.insert(key.to_owned(), value.into());
        }
    }
    let object = plan.as_object_mut().unwrap();
    object.remove("machine");
    object.remove("machine_error");
    plan
}

#[test]
fn a_dry_run_shows_what_comes_from_where() {
    let harness = Harness::new();
    harness
        .with_qemu("10.0.2")
        .write("home/project/viv.toml", "[run]\nmemory = \"1G\"\nenv = { FROM = \"project\" }\nworkdir = \"src\"\n")
        .write("config/viv/config.toml", "[run]\ncpus = 1\nmemory = \"512M\"\nmounts = [\"~/data:/data:ro\"]\n");
    std::fs::create_dir(harness.path("home/data")).unwrap();
    let arguments = ["run", "--dry-run", "--json", "--env", "A=1", "--name", "review", "--", "make", "a b"];
    let mut seen = resolved(&harness.run(&arguments));
    // Where it is, if there is one, is the host's affair.
    seen["sandbox"]["network"]["certificates"] = serde_json::Value::Null;
    seen["sandbox"]["network"]["environment"] = serde_json::Value::Null;
    insta::assert_json_snapshot!(seen);

    let text = harness.run(&["run", "--dry-run", "--env", "A=1", "--name", "review", "--", "make", "a b"]);
    let (sandbox, machine) = text.stdout.split_once("machine\n").expect("a machine is planned");
    let sandbox: Vec<&str> = sandbox.lines().filter(|line| !line.starts_with("  id ")).collect();
    insta::assert_snapshot!(sandbox.join("\n"));
    assert!(machine.contains("-M microvm") || machine.contains("microvm"), "{machine}");
}

#[test]
fn a_dry_run_starts_and_builds_nothing_and_works_without_qemu() {
    let harness = Harness::new();
    let ran = harness.run(&["run", "--dry-run", "--json", "true"]);
    let plan = ran.json();
    assert_eq!(plan["to_build"], serde_json::json!(["kernel", "root image"]));
    assert_eq!(plan["machine_error"]["kind"], "vmm_missing", "{}", ran.whole());
    assert!(!harness.path("runtime").exists() && !harness.path("state").exists());
}

#[test]
fn a_missing_or_old_qemu_is_named_before_anything_is_built() {
    let harness = Harness::new();
    let missing = harness.run(&["run", "true"]);
    harness.with_qemu("7.2.9 (Debian 1:7.2)");
    let old = harness.run(&["run", "true"]);
    for ran in [&missing, &old] {
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""));
    }
    insta::assert_snapshot!(format!("{}\n{}", missing.stderr, old.stderr));
}

#[test]
fn a_machine_that_cannot_boot_is_refused_before_anything_is_built() {
    let harness = Harness::new();
    harness.with_qemu("10.0.2");
    let ran = harness.run(&["run", "--accel", "tcg", "--memory", "16M", "true"]);
    assert_eq!(ran.code, Some(125));
    assert!(ran.stderr.contains("16 MiB"), "{}", ran.stderr);
}

#[test]
fn no_sandbox_runs_and_none_is_found() {
    let harness = Harness::new();
    assert_eq!(harness.run(&["ps"]).whole(), "exit Some(0)\n--- stdout\nno sandbox is running\n--- stderr\n");
    assert_eq!(harness.run(&["ps", "--json"]).json(), serde_json::json!([]));
    assert_eq!(harness.run(&["stop", "--all"]).code, Some(0));
    for command in ["stop", "kill", "exec"] {
        let ran = harness.run(&[command, "nobody"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{command}");
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains("nobody"), "{}", ran.stderr);
    }
}

#[test]
fn doctor_answers_in_a_fixed_shape() {
    let harness = Harness::new();
    let ran = harness.run(&["doctor", "--json"]);
    let verdict = ran.json();
    let checks = verdict["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in ["kvm", "qemu", "virtiofsd", "namespaces", "disk", "memory", "image tools", "kernel", "image", "vsock"]
    {
        assert!(names.contains(&name), "{name} is missing from {names:?}");
    }
    for check in checks {
        assert!(["ok", "warn", "fail"].contains(&check["status"].as_str().unwrap()), "{check}");
        assert!(!check["message"].as_str().unwrap().is_empty(), "{check}");
    }
    let qemu = checks.iter().find(|check| check["name"] == "qemu").unwrap();
    assert_eq!(qemu["status"], "fail", "this PATH has no QEMU");
    assert_eq!((verdict["ready"].as_bool(), ran.code), (Some(false), Some(1)));
    assert!(harness.run(&["doctor"]).stdout.contains("fail  qemu"));
}

#[test]
fn completions_and_manual_pages() {
    let harness = Harness::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = harness.run(&["completions", shell]);
        assert!(ran.code == Some(0) && ran.stdout.contains("memory"), "{shell}");
        assert!(!ran.stdout.contains("internal-"), "{shell} completes hidden commands");
    }
    assert!(harness.run(&["man"]).stdout.contains(".TH viv 1"));
    let ran = harness.run(&["man", "pages"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let page = std::fs::read_to_string(harness.path("home/project/pages/viv-run.1")).unwrap();
    assert!(page.contains("\\-\\-memory"));
    assert!(!harness.path("home/project/pages/viv-internal-reference.1").exists());
}

#[test]
fn the_reference_is_markdown() {
    let ran = Harness::new().run(&["internal-reference"]);
    assert!(ran.stdout.starts_with("# Reference\n"), "{}", ran.whole());
}

#[test]
fn colours_only_where_they_are_wanted() {
    let harness = Harness::new();
    assert!(!harness.run(&["stop", "nobody"]).stderr.contains('\x1b'));
    let forced = harness.command(&["stop", "nobody"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(harness.finish(&forced).stderr.contains('\x1b'));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let harness = Harness::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = harness.command(&["completions", "zsh"]).stdout(writer).output().unwrap();
    let ran = harness.finish(&output);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(141), ""));
}

#[test]
fn strings_of_others_cannot_drive_the_terminal() {
    let harness = Harness::new();
    harness.write("home/project/viv.toml", "[run]\n\"\\u001b[2Jx\" = 1\n");
    for arguments in [&["run", "--dry-run"][..], &["stop", "\x1b[2J"], &["run", "-w", "\x1b[2J"]] {
        let ran = harness.run(arguments);
        assert!(ran.code == Some(125) && !ran.stderr.contains('\x1b'), "{arguments:?}: {:?}", ran.stderr);
    }
}

#[test]
fn nothing_of_the_environment_is_needed_but_home() {
    let harness = Harness::new();
    let output = harness.command(&["ps"]).env_clear().output().unwrap();
    let ran = harness.finish(&output);
    assert_eq!(ran.code, Some(125));
    assert!(ran.stderr.contains("HOME"), "{}", ran.stderr);
    assert!(Path::new(env!("CARGO_BIN_EXE_viv")).exists());
}
