//! What is written down of a sandbox, who can change it, and what a pipeline gets of it.

mod at_end;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Host, Ran, finish, kill, until};
use crate::terminal::Pane;

/// The lines of a timeline.
fn lines(host: &Host, name: &str) -> Vec<Value> {
    let shown = host.run(&["audit", "show", name, "--json"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn types(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"]["type"].as_str().unwrap()).collect()
}

fn verify(host: &Host, name: &str) -> Ran {
    host.run(&["audit", "verify", name])
}

fn segment(host: &Host, name: &str) -> PathBuf {
    host.path("state/viv/audit").join(name).join("timeline-000001.jsonl")
}

#[test]
fn a_timeline_verifies_until_it_is_tampered_with() {
    let Some(host) = Host::ordinary() else { return };
    let ran = host.run(&[
        "run",
        "--name",
        "tale",
        "--record",
        "all",
        "--env",
        "TOKEN=hunter2-is-secret",
        "--allow",
        "one.example",
        "--",
        "sh",
        "-c",
        "echo to be recorded; exit 3",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "to be recorded\n"), "{ran:?}");

    let told = lines(&host, "tale");
    let mut kinds = types(&told);
    kinds.dedup();
    let expected = ["start", "policy", "ready", "exec", "exec_ended", "files", "end"];
    assert_eq!(kinds.iter().filter(|kind| **kind != "log").copied().collect::<Vec<_>>(), expected, "{told:?}");
    let event = |kind: &str| &told.iter().find(|line| line["event"]["type"] == kind).unwrap()["event"];
    assert_eq!(event("start")["name"], "tale");
    let made_from = event("start")["spec"]["made_from"].as_array().unwrap();
    assert!(made_from.iter().all(|digest| digest.as_str().unwrap().starts_with("sha256-")), "{made_from:?}");
    assert!(!made_from.is_empty());
    assert_eq!(event("policy")["network"], "filtered");
    assert!(event("policy")["rules"].to_string().contains("one.example"));
    assert!(event("exec")["environment"].as_array().unwrap().contains(&"TOKEN".into()));
    assert_eq!(event("exec_ended")["end"]["code"], 3);
    assert_eq!(event("end")["reason"], "stopped");
    assert!(event("exec_ended")["recording"]["bytes"].as_u64().unwrap() > 0);
    let path = segment(&host, "tale");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hunter2"), "values are not written down");

    // It has ended, and is found by its name and by a beginning of its id.
    let id = event("start")["sandbox"].as_str().unwrap();
    assert_eq!(host.run(&["logs", "tale"]).stdout, "to be recorded\n");
    assert_eq!(host.run(&["logs", &id[..6]]).stdout, "to be recorded\n");
    let whole = verify(&host, "tale");
    assert!(whole.code == 0 && whole.stdout.starts_with("whole: "), "{whole:?}");
    let head: Value = serde_json::from_str(&host.run(&["audit", "verify", "tale", "--json"]).stdout).unwrap();
    let head = head["head"].as_str().unwrap();
    assert_eq!(host.run(&["audit", "verify", "tale", "--head", head]).code, 0);
    assert_eq!(host.run(&["audit", "verify", "tale", "--head", &"0".repeat(64)]).code, 1);

    let all: Vec<&str> = text.split_inclusive('\n').collect();
    let mut deleted = all.clone();
    deleted.remove(2);
    let mut swapped = all.clone();
    swapped.swap(2, 3);
    for (what, tampered, word) in [
        ("an edited line", text.replace("\"code\":3", "\"code\":0"), "changed"),
        ("a deleted line", deleted.concat(), "cut"),
        ("a tail cut off", all[..all.len() - 1].concat(), "cut"),
        ("two lines swapped", swapped.concat(), "inserted"),
        ("a line added", format!("{text}{}", all[0]), "inserted"),
    ] {
        std::fs::write(&path, &tampered).unwrap();
        let found = verify(&host, "tale");
        assert!(found.code == 1 && found.stdout.contains(word), "{what}: {found:?}");
    }
    std::fs::write(&path, &text).unwrap();
    assert_eq!(verify(&host, "tale").code, 0);
    host.assert_nothing_is_left();
}

#[test]
fn root_inside_can_neither_write_nor_forge_it() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    let directory = host.path("state/viv/audit/fixture");
    let before = std::fs::read_to_string(segment(&host, "fixture")).unwrap();
    // A forged line, the end of a recording's string, codes that would drive a terminal.
    let forged = r#"{\"seq\":0,\"at_ms\":0,\"prev\":\"00\",\"event\":{\"type\":\"end\"}}"#;
    let print = format!("printf '%s\\n\\033[31mred\\033[0m\\033]0;title\\007\"]\\n[9,\"o\",\"x\"]\\n' \"{forged}\"");
    let attack =
        format!("mkdir -p '{0}' && echo '{{}}' > '{0}/head.json'; rm -f '{0}'/*.jsonl; {print}", directory.display());

    let pane = Pane::open(&host, 120, 40);
    host.write("attack.sh", attack);
    pane.line(&format!("{} exec --root fixture -- sh attack.sh; echo don''e", host.executable().display()));
    pane.wait_for("\ndone");
    assert!(pane.screen().contains("red"), "{}", pane.screen());

    let after = std::fs::read_to_string(segment(&host, "fixture")).unwrap();
    assert!(after.starts_with(&before) && !after.contains('\u{1b}') && !after.contains("forged"));
    let running = verify(&host, "fixture");
    assert!(running.code == 0 && running.stdout.contains("as it was written so far"), "{running:?}");
    let mut program = Value::Null;
    until("the program's end is written down", || {
        let shown = host.run(&["logs", "fixture", "--json"]).stdout;
        let programs: Vec<Value> = serde_json::from_str(&shown).unwrap();
        program = programs.last().unwrap().clone();
        !program["end"].is_null()
    });
    assert_eq!((program["end"]["code"].as_i64(), &program["user"]), (Some(0), &"root".into()), "{program}");
    let number = program["program"].to_string();

    // As text it is text; as a recording it is what was written.
    let text = host.run(&["logs", "fixture", "--session", &number]);
    assert!(text.stdout.contains("\"type\":\"end\"") && text.stdout.contains("\nred"), "{text:?}");
    assert!(!text.stdout.contains(['\u{1b}', '\u{7}']), "{text:?}");
    let cast = host.path("home/out.cast");
    let exported = host.run(&["logs", "fixture", "--session", &number, "--export", cast.to_str().unwrap()]);
    assert_eq!(exported.code, 0, "{exported:?}");
    assert!(replayed(&cast).contains("\u{1b}[31mred\u{1b}[0m\u{1b}]0;title\u{7}\"]\r\n[9,\"o\",\"x\"]\r\n"));
    accepted_by_asciinema(&host, &pane, &cast);
    let again = host.run(&["logs", "fixture", "--session", &number, "--export", cast.to_str().unwrap()]);
    assert_eq!(again.code, 125, "nothing is replaced: {again:?}");

    pane.line(&format!(
        "clear; {} logs fixture --session {number} --play --speed 100; echo playe''d",
        host.executable().display()
    ));
    pane.wait_for("played");
    assert!(pane.screen().contains("red"), "{}", pane.screen());
    drop(pane);

    let follower = host.viv(&["logs", "-f", "fixture"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its monitor is killed: what was written stays, the next of that name goes on.
    kill(sandbox.pid("monitor_pid"), Signal::KILL);
    sandbox.wait();
    // Whoever follows is told all, and that it ended.
    let followed = finish(follower);
    assert!(followed.code == 0 && followed.stdout.contains("\nred"), "{followed:?}");
    until("the writer is gone", || verify(&host, "fixture").stdout.contains("until its writer was killed"));
    let next = host.run(&["run", "--name", "fixture", "--", "true"]);
    assert_eq!(next.code, 0, "{next:?}");
    let told = lines(&host, "fixture");
    let kinds = types(&told);
    assert_eq!(kinds.iter().filter(|kind| **kind == "start").count(), 2, "{kinds:?}");
    assert!(kinds.contains(&"recovered") && kinds.last() == Some(&"end"), "{kinds:?}");
    assert_eq!(verify(&host, "fixture").code, 0);
    host.assert_nothing_is_left();
}

#[test]
fn a_run_in_a_pipeline_has_its_artifacts_and_its_output_is_no_command() {
    let Some(host) = Host::ordinary() else { return };
    let artifacts = host.path("home/artifacts");
    let script = "mkdir -p dist/deep; echo built > dist/deep/a.txt; ln -s /etc/passwd dist/link; echo no > other.txt; \
                  curl -sS http://denied.example/ >/dev/null 2>&1; \
                  echo ::error::forged; echo '::add-mask::e' >&2; printf 'unfinished'; exit 4";
    let mut viv = host.viv(&[
        "run",
        "--ci",
        "--artifacts",
        artifacts.to_str().unwrap(),
        "--collect",
        "dist/**",
        "--",
        "sh",
        "-c",
        script,
    ]);
    viv.env("GITHUB_ACTIONS", "true").stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = finish(viv.spawn().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (4, ""), "{ran:?}");
    assert!(!ran.stdout.contains('\u{1b}'), "no colours: {ran:?}");
    let said: Vec<&str> = ran.stdout.lines().collect();
    let stopped = said.iter().position(|line| line.starts_with("::stop-commands::")).unwrap();
    let token = said[stopped].trim_start_matches("::stop-commands::");
    let resumed = said.iter().position(|line| *line == format!("::{token}::")).unwrap();
    assert!(said[0].starts_with("::group::viv run sh -c "), "{said:?}");
    // Both streams of the guest's may meet in one line; none of it is before or behind.
    let (between, behind) = (said[stopped..resumed].join("\n"), &said[resumed..]);
    for guests in ["::error::forged", "::add-mask::e", "unfinished"] {
        assert!(between.contains(guests), "{guests}: {said:?}");
        assert!(!behind.iter().any(|line| line.starts_with(guests)), "{guests}: {said:?}");
    }
    assert!(
        said[resumed..].iter().any(|line| line.starts_with("::error title=viv::") && line.ends_with("exit code 4"))
    );

    let result: Value = serde_json::from_slice(&std::fs::read(artifacts.join("result.json")).unwrap()).unwrap();
    assert_eq!((&result["exit_code"], &result["timed_out"]), (&4.into(), &false.into()), "{result}");
    assert_eq!(std::fs::read_to_string(artifacts.join("files/dist/deep/a.txt")).unwrap(), "built\n");
    assert!(!artifacts.join("files/dist/link").exists() && !artifacts.join("files/other.txt").exists());
    assert!(said.iter().any(|line| line.contains("dist/link was not collected")), "{said:?}");
    let timeline = artifacts.join("timeline");
    let verified = host.run(&["audit", "verify", timeline.to_str().unwrap()]);
    assert!(verified.code == 0 && verified.stdout.starts_with("whole: "), "{verified:?}");
    assert!(replayed(&timeline.join("casts/000001.cast")).contains("unfinished"));
    // The logs it refers to are there and are compared, too.
    let id = result["id"].as_str().unwrap();
    let log = artifacts.join("logs").join(id).join("log.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("denied.example"), "{text}");
    std::fs::write(&log, text.replace("denied.example", "golden.example")).unwrap();
    let changed = host.run(&["audit", "verify", timeline.to_str().unwrap()]);
    assert!(changed.code == 1 && changed.stdout.contains("network log"), "{changed:?}");

    let full = host.run(&["run", "--ci", "--artifacts", artifacts.to_str().unwrap(), "--", "true"]);
    assert!(full.code == 125 && full.stderr.contains("is not empty"), "{full:?}");
    let inside = host.run(&["run", "--ci", "--artifacts", "artifacts", "--", "true"]);
    assert!(inside.code == 125 && inside.stderr.contains("are in each other"), "{inside:?}");
    assert!(!host.project().join("artifacts").exists());
    host.assert_nothing_is_left();
}

/// What a player of this recording would write, as the specification of asciicast v2 has it.
fn replayed(cast: &Path) -> String {
    let text = std::fs::read_to_string(cast).unwrap();
    let mut lines = text.lines();
    let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(header["version"], 2);
    assert!(header["width"].is_u64() && header["height"].is_u64() && header["timestamp"].is_u64(), "{header}");
    let mut last = 0.0;
    let mut played = String::new();
    for line in lines {
        let (seconds, kind, data): (f64, String, String) = serde_json::from_str(line).unwrap();
        assert!(seconds >= last, "{line}");
        last = seconds;
        assert!(["o", "r", "m"].contains(&kind.as_str()), "{line}");
        if kind == "o" {
            played.push_str(&data);
        }
    }
    played
}

/// asciinema's own parser, where it is installed. It wants a terminal of its own.
fn accepted_by_asciinema(host: &Host, pane: &Pane<'_>, cast: &Path) {
    let version = host.command("asciinema").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = version {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        return;
    }
    let played = host.path("home/played");
    pane.line(&format!("clear; asciinema cat {} > {}; echo catt''ed", cast.display(), played.display()));
    pane.wait_for("catted");
    let played = String::from_utf8_lossy(&std::fs::read(played).unwrap()).into_owned();
    assert!(played.contains("\u{1b}[31mred\u{1b}[0m"), "{played:?}, {}", pane.screen());
}
