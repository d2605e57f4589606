//! The life of sandboxes that stay, as far as it needs no machine: the real `viv`, real records, and a stand-in for the
//! monitor, which answers what a monitor is asked.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

const ID: &str = "aa000001";

/// A home, a project and no QEMU.
struct Harness {
    root: tempfile::TempDir,
}

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Harness {
    /// One whose project describes `web`.
    fn new(settings: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["home", "home/project", "config/viv", "bin"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let harness = Self { root };
        harness.describe(&format!("[sandboxes.web]\n{settings}"));
        harness
    }

    fn describe(&self, text: &str) {
        fs::write(self.path("home/project/viv.toml"), text).unwrap();
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(relative)
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_viv"));
        command.args(arguments).current_dir(self.path("home/project")).env_clear().stdin(Stdio::null());
        command.env("HOME", self.path("home")).env("PATH", self.path("bin"));
        for variable in ["config", "cache", "state"] {
            command.env(format!("XDG_{}_HOME", variable.to_uppercase()), self.path(variable));
        }
        command.env("XDG_RUNTIME_DIR", self.path("runtime"));
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec())
                .unwrap()
                .replace(self.path("").to_str().unwrap().trim_end_matches('/'), "[ROOT]")
        };
        Ran { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    fn directory(&self) -> PathBuf {
        self.path("state/viv/sandboxes/web")
    }

    /// Has `web` be in a state, as if it had come to that by itself.
    fn bring_to(&self, state: &str) -> Option<Monitor> {
        // Without QEMU it is not started, but it is there.
        let ran = self.run(&["up", "web"]);
        assert!(is_start(&ran), "{ran:?}");
        let path = self.directory().join("record.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        record["state"] = state.into();
        record["machine"] = json!({ "id": ID, "boot_id": boot.trim(), "started_at_unix_ms": 1_000 });
        let reason = if state == "failed" { "failed" } else { "stopped" };
        let ended = json!({ "at_unix_ms": 2_000, "reason": reason, "message": null });
        let has_machine = ["running", "paused"].contains(&state);
        record["ended"] = if has_machine { Value::Null } else { ended };
        fs::write(&path, record.to_string()).unwrap();
        has_machine.then(|| Monitor::begin(self, state))
    }

    /// What `viv ps --all` says of its state.
    fn state(&self) -> String {
        let ran = self.run(&["ps", "--all", "--json"]);
        let all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        all.first().map_or_else(|| "gone".to_owned(), |record| record["state"].as_str().unwrap().to_owned())
    }
}

/// Whether a machine would be started now, if there were a QEMU.
fn is_start(ran: &Ran) -> bool {
    ran.code == 125 && ran.stderr.contains("QEMU")
}

/// Stands in for a monitor and its machine.
struct Monitor {
    thread: JoinHandle<()>,
    run: PathBuf,
}

impl Monitor {
    fn begin(harness: &Harness, state: &str) -> Self {
        let run = harness.path("runtime/viv").join(ID);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&run).unwrap();
        let lock = File::create(run.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        write_record(&run, harness, state);
        let listener = UnixListener::bind(run.join("sandbox.sock")).unwrap();
        let (project, place) = (harness.path("home/project"), harness.directory());
        let thread = std::thread::spawn({
            let run = run.clone();
            move || serve(&listener, &run, &project, &place, lock)
        });
        Self { thread, run }
    }

    /// Ends it, if nobody has.
    fn end(self) {
        if let Ok(mut stream) = UnixStream::connect(self.run.join("sandbox.sock")) {
            let _ = stream.write_all(b"KILL\n");
        }
        self.thread.join().unwrap();
    }
}

fn write_record(run: &Path, harness: &Harness, state: &str) {
    write_record_of(run, &harness.path("home/project"), state);
}

fn write_record_of(run: &Path, project: &Path, state: &str) {
    let record = json!({
        "id": ID, "name": "web", "labels": {}, "command": [], "state": state, "workspace": project, "cpus": 1,
        "memory_mib": 512, "accel": "tcg", "started_at_unix_ms": 1_000, "network": "filtered", "published": [],
        "monitor_pid": 1, "vmm_pid": null, "processes": [], "file_daemon_pid": null,
        "detached": true,
    });
    fs::write(run.join(".record.partial"), record.to_string()).unwrap();
    fs::rename(run.join(".record.partial"), run.join("record.json")).unwrap();
}

/// As a monitor does, until it is asked to end.
fn serve(listener: &UnixListener, run: &Path, project: &Path, place: &Path, lock: File) {
    let mut waiting = Vec::new();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        match line.trim_end() {
            "WAIT" => waiting.push(stream),
            "PAUSE" | "RESUME" => {
                write_record_of(run, project, if line == "PAUSE\n" { "paused" } else { "running" });
                let _ = stream.write_all(b"OK\n");
            }
            asked => {
                let reason = if asked == "KILL" { "killed" } else { "stopped" };
                let ended = json!({ "id": ID, "at_unix_ms": 3_000, "reason": reason, "message": null });
                fs::write(place.join("ended.json"), ended.to_string()).unwrap();
                fs::remove_dir_all(run).unwrap();
                drop(lock);
                let _ = stream.write_all(b"OK\n");
                return;
            }
        }
    }
}

/// What a command came to, in a few words.
fn outcome(harness: &Harness, command: &[&str]) -> String {
    let arguments: Vec<&str> = command.iter().copied().chain(["--json"]).collect();
    let ran = harness.run(&arguments);
    let results: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let result = &results[0];
    let done = match result["done"].as_str() {
        Some(done) => {
            assert_eq!((ran.code, &results.as_array().unwrap().len()), (0, &1), "{ran:?}");
            done.to_owned()
        }
        None if is_start(&ran) => "would be started".to_owned(),
        None => {
            let hints: Vec<&str> =
                result["error"]["hints"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert_eq!((ran.code, result["exit_code"].as_u64()), (125, Some(125)), "{ran:?}");
            format!("refused: {}", hints.join("; "))
        }
    };
    let state = harness.state();
    if state == "stopped" && done == "would be started" { done } else { format!("{done}, {state}") }
}

#[test]
fn every_command_in_every_state() {
    let commands: [&[&str]; 13] = [
        &["up", "web"],
        &["up", "--fresh", "web"],
        &["start", "web"],
        &["restart", "web"],
        &["down", "web"],
        &["stop", "web"],
        &["kill", "web"],
        &["rm", "web"],
        &["rm", "--force", "web"],
        &["pause", "web"],
        &["resume", "web"],
        &["rename", "web", "shop"],
        &["disk", "discard", "web"],
    ];
    let mut table = BTreeMap::new();
    for persist in ["ephemeral", "persistent"] {
        for state in ["stopped", "failed", "running", "paused"] {
            for command in commands {
                let harness = Harness::new(&format!("persist = {}\n", persist == "persistent"));
                let monitor = harness.bring_to(state);
                let came = outcome(&harness, command);
                table.insert((command.join(" "), format!("{state}, {persist}")), came);
                monitor.map(Monitor::end);
            }
        }
    }
    let text: String = commands
        .iter()
        .map(|command| {
            let command = command.join(" ");
            let rows = table.iter().filter(|((of, _), _)| *of == command);
            let rows: String = rows.map(|((_, state), came)| format!("    {state}: {came}\n")).collect();
            format!("viv {command}\n{rows}")
        })
        .collect();
    insta::assert_snapshot!(text);
}

#[test]
fn names_are_found_by_their_beginnings_and_said_where_several_fit() {
    let harness = Harness::new("");
    harness.describe("[sandboxes.web]\n[sandboxes.wiki]\n");
    assert!(is_start(&harness.run(&["up", "--all"])));
    let said = |arguments: &[&str]| {
        let ran = harness.run(arguments);
        assert_eq!(ran.code, 125, "{arguments:?}: {ran:?}");
        ran.stderr
    };
    let cases: [&[&str]; 8] = [
        &["up"],
        &["up", "wep"],
        &["start", "w"],
        &["stop", "nobody"],
        &["rename", "web", "wiki"],
        &["rename", "web", "Not_A_Name"],
        &["disk", "trim", "web"],
        &["disk", "resize", "web", "small"],
    ];
    let shown: String =
        cases.iter().map(|arguments| format!("$ viv {}\n{}\n", arguments.join(" "), said(arguments))).collect();
    insta::assert_snapshot!(shown);
    let renamed = harness.run(&["rename", "we", "shop"]);
    assert_eq!((renamed.code, renamed.stderr.as_str()), (0, "shop is what web is called now\n"));
    // It is still described as `web`.
    assert!(is_start(&harness.run(&["start", "sh"])));
    let dry: Value = serde_json::from_str(&harness.run(&["inspect", "shop"]).stdout).unwrap();
    assert_eq!(dry[0]["described"]["as"]["name"], "web", "{dry}");
    assert_eq!(dry[0]["described"]["as"]["sandbox"]["hostname"], "shop");
    harness.describe("[sandboxes.wiki]\n");
    assert!(said(&["start", "shop"]).contains("describes no sandbox called web any more"));
    // Another project's is not taken over.
    fs::create_dir(harness.path("home/other")).unwrap();
    fs::write(harness.path("home/other/viv.toml"), "[sandboxes.wiki]\n").unwrap();
    assert!(said(&["up", "-w", "../other", "wiki"]).contains("wiki is the sandbox of [ROOT]/home/project"));
}

#[test]
fn several_are_done_one_after_the_other_whatever_becomes_of_each() {
    let harness = Harness::new("");
    let monitor = harness.bring_to("running");
    let ran = harness.run(&["stop", "nobody", "web"]);
    assert_eq!(ran.code, 125);
    assert!(ran.stderr.contains("no sandbox is called \"nobody\""), "{ran:?}");
    monitor.unwrap().end();
    assert_eq!(harness.run(&["stop", "--all"]).code, 0);
    let waited = harness.run(&["wait", "web", "--json"]);
    let results: Value = serde_json::from_str(&waited.stdout).unwrap();
    assert_eq!((&results[0]["done"], &results[0]["ended"]), (&"waited".into(), &"killed".into()), "{waited:?}");
    assert_eq!(waited.code, 137);
}

#[test]
fn a_dry_run_shows_what_would_be_up() {
    let harness = Harness::new("memory = \"4G\"\nagent = \"claude\"\n");
    let ran = harness.run(&["up", "--dry-run", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&shown["sandbox"]["name"], &shown["sandbox"]["memory_mib"]), (&"web".into(), &4096.into()));
    assert!(shown["sandbox"]["mounts"][0]["destination"].as_str().unwrap().ends_with("/.claude"));
    assert!(!harness.directory().exists(), "nothing is made");
}
