//! Several attempts at one thing: side by side, one taken, and none in the way of another.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use viv_testkit::{Options, ScriptedModel, Usage};

use crate::gateway::{call, configure};
use crate::support::{Host, Ran, finish, kill, until};
use crate::terminal::Pane;

/// Machines that are small enough for several of them.
const SMALL: [&str; 4] = ["--cpus", "1", "--memory", "512M"];

fn table(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// What the attempts say of one thing, in their order.
fn each<'a>(table: &'a Value, what: &str) -> Vec<&'a Value> {
    let attempts = table["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| attempt.pointer(what).unwrap_or(&Value::Null)).collect()
}

fn ok(host: &Host, arguments: &[&str]) -> Ran {
    let ran = host.run(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    ran
}

/// A directory of the host's that the guests see at `/gate`, and may write to.
fn gate(host: &Host) -> (std::path::PathBuf, String) {
    let gate = host.path("home/gate");
    std::fs::create_dir(&gate).unwrap();
    host.own(&gate);
    let mount = format!("{}:/gate", gate.display());
    (gate, mount)
}

#[test]
fn three_attempts_are_compared_and_one_is_taken() {
    let Some(host) = Host::ordinary() else { return };
    host.write("answer", "none\n");
    host.write("other", "1\n2\n3\n");
    let script = "n=$(uname -n); echo \"I am $n\"; echo \"by $n\" > answer
        case $n in
            one-2) echo wrong > answer; sed -i 2d other ;;
            one-3) mkdir sub; echo new > sub/new; exit 3 ;;
        esac";
    let mut arguments = vec!["run", "--attempts", "3", "--name", "one", "--jobs", "2"];
    arguments.extend(SMALL);
    arguments.extend(["--check", "touch left-by-the-check; ! grep wrong answer", "--json", "--", "sh", "-c", script]);
    let ran = ok(&host, &arguments);
    let compared = table(&ran);
    assert_eq!(each(&compared, "/name"), [&json!("one-1"), &json!("one-2"), &json!("one-3")]);
    assert_eq!(each(&compared, "/ended"), [&json!("exited"); 3]);
    assert_eq!(each(&compared, "/exit_code"), [&json!(0), &json!(0), &json!(3)]);
    assert_eq!(each(&compared, "/check/result"), [&json!("passed"), &json!("failed"), &json!("passed")]);
    assert_eq!(each(&compared, "/check/exit_code"), [&Value::Null, &json!(1), &Value::Null]);
    let changes = |files, additions, deletions| json!({"files": files, "additions": additions, "deletions": deletions});
    let wanted = [changes(1, 1, 1), changes(2, 1, 2), changes(2, 2, 1)];
    assert_eq!(each(&compared, "/changes"), wanted.iter().collect::<Vec<_>>(), "what the check left is none of it");
    assert_eq!(each(&compared, "/usage/calls"), [&json!(0); 3]);
    assert_eq!((&compared["succeeded"], &compared["exit_code"]), (&json!(["one-1"]), &json!(0)));
    assert!(each(&compared, "/command_ms").iter().all(|took| took.as_u64().unwrap() > 0));
    let events: Vec<Value> = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states = |name: &str| -> Vec<&Value> {
        let is_of = |event: &&Value| event["event"] == "attempt" && event["name"] == name;
        events.iter().filter(is_of).map(|event| &event["state"]).collect()
    };
    assert_eq!(json!(states("one-3")), json!(["starting", "running", "taking", "checking", "ended"]));
    let of = |name: &str, state: &str| events.iter().position(|event| event["name"] == name && event["state"] == state);
    let first_end = of("one-1", "ended").min(of("one-2", "ended"));
    assert!(first_end < of("one-3", "starting"), "two at once");

    // Nothing has changed here; each is kept under its name, and so is what it printed.
    let here = |path: &str| std::fs::read_to_string(host.project().join(path)).unwrap();
    assert_eq!(here("answer"), "none\n");
    assert!(ok(&host, &["logs", "one-2", "--session", "1"]).stdout.contains("I am one-2\n"));
    assert_eq!(ok(&host, &["diff", "one-3", "--name-only"]).stdout, "answer\nsub/new\n");
    let unnamed = host.run(&["diff"]);
    assert!(unnamed.code == 125 && unnamed.stderr.contains("are 3 attempts"), "{unnamed:?}");

    // One is taken. Of the others only what does not contradict it could still be.
    let accepted = ok(&host, &["accept", "one-1"]);
    assert!(accepted.stderr.contains("1 file accepted\n"), "{accepted:?}");
    assert!(accepted.stderr.contains("`viv reject one-2 one-3`"), "{accepted:?}");
    assert_eq!(here("answer"), "by one-1\n");
    let refused = host.run(&["accept", "one-3", "answer"]);
    assert!(refused.code == 125 && refused.stderr.contains("answer is not what it was"), "{refused:?}");
    assert_eq!(here("answer"), "by one-1\n");
    ok(&host, &["accept", "one-3", "sub"]);
    assert_eq!(here("sub/new"), "new\n");
    let rejected = ok(&host, &["reject", "one-2", "one-3", "--json"]);
    let rejected: Value = serde_json::from_str(&rejected.stdout).unwrap();
    assert_eq!(rejected[0]["sandbox"], "one-2");
    assert_eq!((&rejected[0]["done"], &rejected[1]["done"]), (&json!(["answer", "other"]), &json!(["answer"])));
    let last = host.run(&["accept", "one-1"]);
    assert!(!last.stderr.contains("viv reject"), "nothing is left of the others: {last:?}");
    ok(&host, &["undo", "one-1"]);
    assert_eq!(here("answer"), "none\n");
    host.assert_nothing_is_left();
}

#[test]
fn one_that_is_killed_and_one_that_cannot_start_stop_no_other() {
    let Some(host) = Host::ordinary() else { return };
    let (gate, mount) = gate(&host);
    let script = "echo made > by-$(uname -n); touch /gate/$(uname -n); until [ -e /gate/open ]; do sleep 0.2; done";
    let mut arguments = vec!["run", "--attempts", "3", "--name", "two", "--jobs", "3", "--mount", &mount];
    arguments.extend(SMALL);
    arguments.extend(["--check", "ls by-*", "--", "sh", "-c", script]);
    let attempts = host.viv(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("all three run", || ["two-1", "two-2", "two-3"].iter().all(|name| gate.join(name).exists()));
    // One of the same name has no chance while they run, and changes nothing of what is kept of them.
    let again = host.run(&["run", "--attempts", "2", "--name", "two", "--", "true"]);
    assert!(again.code == 125 && again.stderr.contains("a sandbox named two-"), "{again:?}");
    let victim = host.ps().into_iter().find(|record| record["name"] == "two-2").unwrap();
    kill(u32::try_from(victim["vmm_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    until("it is gone", || host.ps().len() == 2);
    std::fs::write(gate.join("open"), "").unwrap();
    let ran = finish(attempts);
    assert_eq!(ran.code, 0, "{ran:?}");
    let rows: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "EXIT", "CHECK", "FILES", "LINES", "TIME"], "{ran:?}");
    assert_eq!(rows[1][..5], ["two-1", "0", "passed", "1", "+1"]);
    assert_eq!(rows[2][..6], ["two-2", "lost", "not", "run", "-", "-"]);
    assert_eq!(rows[3][..5], ["two-3", "0", "passed", "1", "+1"]);
    assert!(ran.stderr.contains("two-2: QEMU was killed by signal 9"), "{ran:?}");
    for line in ["two-1: running", "two-2: lost after ", "two-3: ended with exit code 0 after "] {
        assert!(ran.stderr.contains(line), "{line}: {ran:?}");
    }
    let lost = host.run(&["diff", "two-2"]);
    assert!(lost.code == 125 && lost.stderr.contains("has not told what it changed"), "{lost:?}");

    // None is good enough; and none is there at all.
    let none = host.run(&[&["run", "--attempts", "2", "--check", "false"], &SMALL[..], &["--", "true"]].concat());
    assert_eq!(none.code, 1, "{none:?}");
    let unknown = host.run(&[&["run", "--attempts", "2"], &SMALL[..], &["--", "no-such-program"]].concat());
    assert!(unknown.code == 125 && unknown.stdout.matches("not started").count() == 2, "{unknown:?}");
    assert!(unknown.stderr.contains("no-such-program"), "{unknown:?}");
    host.assert_nothing_is_left();
}

#[test]
fn interrupted_they_end_and_what_they_changed_is_kept() {
    let Some(host) = Host::ordinary() else { return };
    let (gate, mount) = gate(&host);
    // One ends when it is asked to, the other does not listen.
    let script = "echo made > file; n=$(uname -n); touch /gate/$n
        case $n in *-2) trap '' INT ;; esac; exec sleep infinity";
    let run = |name: &'static str| {
        let mut arguments = vec!["run", "--attempts", "3", "--jobs", "2", "--name", name, "--mount", &mount];
        arguments.extend(SMALL);
        arguments.extend(["--check", "true", "--json", "--", "sh", "-c", script]);
        let child = host.viv(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let runs = |number: u32| gate.join(format!("{name}-{number}")).exists();
        until("two run", || runs(1) && runs(2));
        child
    };
    let attempts = run("three");
    kill(attempts.id(), Signal::INT);
    let ran = finish(attempts);
    assert_eq!(ran.code, 130, "{ran:?}");
    let compared = table(&ran);
    assert_eq!(each(&compared, "/ended"), [&json!("interrupted"), &json!("interrupted"), &json!("not_begun")]);
    assert_eq!(each(&compared, "/changes/files"), [&json!(1), &json!(1), &Value::Null]);
    assert_eq!(each(&compared, "/check/result"), [&json!("not_run"); 3]);
    assert_eq!(ok(&host, &["diff", "three-2", "--name-only"]).stdout, "file\n");
    host.assert_nothing_is_left();

    // Twice, and they are gone.
    let mut attempts = run("four");
    kill(attempts.id(), Signal::INT);
    let mut events = BufReader::new(attempts.stderr.take().unwrap()).lines();
    let taken = events.by_ref().map(Result::unwrap).find(|line| line.contains("\"taking\""));
    assert!(taken.is_some());
    kill(attempts.id(), Signal::INT);
    assert!(events.all(|line| line.is_ok()));
    assert_eq!(finish(attempts).code, 130);
    host.assert_nothing_is_left();
}

#[test]
fn what_the_models_cost_is_compared_and_a_budget_is_each_ones_own() {
    let Some(host) = Host::ordinary() else { return };
    let used = Usage { input: 1000, cached: 0, cache_write: 0, output: 200 };
    let model = ScriptedModel::start(Options { usage: Some(used), ..Options::default() });
    configure(&host, &[("anthropic", &model, "none")]);
    let prices = "[prices]\nclaude = { input = 3.0, output = 15.0 }\n";
    let config = host.path("config/viv/config.toml");
    std::fs::OpenOptions::new().append(true).open(config).unwrap().write_all(prices.as_bytes()).unwrap();
    // The second one asks three times, which is more than one may.
    let script = format!(
        "ask() {{ {}; }}; ask; case $(uname -n) in *-2) ask; ask; ask | grep 402 ;; esac",
        call("anthropic", "")
    );
    let mut arguments = vec!["run", "--attempts", "2", "--gateway", "anthropic", "--budget", "3-requests"];
    arguments.extend(SMALL);
    let as_text = ok(&host, &[&arguments[..], &["--", "sh", "-c", &script]].concat());
    assert!(as_text.stdout.contains("COST") && as_text.stdout.contains("0.0060 USD"), "{as_text:?}");
    assert!(as_text.stdout.contains("0.0180 USD"), "{as_text:?}");
    let compared = table(&ok(&host, &[&arguments[..], &["--json", "--", "sh", "-c", &script]].concat()));
    assert_eq!(each(&compared, "/exit_code"), [&json!(0); 2]);
    assert_eq!(each(&compared, "/usage/calls"), [&json!(1), &json!(3)]);
    assert_eq!(each(&compared, "/usage/microdollars"), [&json!(6000), &json!(18_000)]);
    // Without a name of the user's, they are called after the run's own.
    let name = compared["name"].as_str().unwrap();
    assert_eq!(each(&compared, "/name"), [&json!(format!("{name}-1")), &json!(format!("{name}-2"))]);
    host.assert_nothing_is_left();
}

#[test]
fn a_person_sees_a_line_for_each() {
    let Some(host) = Host::ordinary() else { return };
    let (gate, mount) = gate(&host);
    let pane = Pane::open(&host, 100, 24);
    let viv = host.executable().display();
    let script = "printf \"step one of \\033[7m$(uname -n)\\n\"; until [ -e /gate/open ]; do sleep 0.2; done";
    pane.line(&format!(
        "{viv} run --attempts 3 --jobs 2 --name five --mount {mount} {} -- sh -c '{script}'",
        SMALL.join(" ")
    ));
    let line = |screen: &str, begins: &str, holds: &str| {
        screen.lines().any(|line| line.starts_with(begins) && line.contains(holds))
    };
    pane.wait_until("two that run and one that waits", |screen| {
        line(screen, "five-1 ", "running  step one of five-1")
            && line(screen, "five-2 ", "running  step one of five-2")
            && line(screen, "five-3 ", "waiting")
    });
    // Who changes the workspace meanwhile is told by the one that has not begun.
    host.write("mine", "1\n");
    std::fs::write(gate.join("open"), "").unwrap();
    pane.wait_for("five-3: the workspace has changed since the first attempts began");
    pane.wait_until("the table", |screen| {
        screen.contains("NAME    EXIT  FILES  LINES  TIME") && line(screen, "five-3  0     0      +0 -0", "")
    });
    assert!(!pane.screen().contains("waiting"), "{}", pane.screen());
    drop(pane);
    host.assert_nothing_is_left();
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let Some(host) = Host::ordinary() else { return };
    let model = ScriptedModel::start(Options::default());
    configure(&host, &[("anthropic", &model, "none"), ("openai", &model, "none")]);
    let cases: [(&[&str], &str); 12] = [
        (&["--workspace", "live", "--", "true"], "\"live\" is asked for (command line)"),
        (&["-d", "--", "true"], "cannot be used with '--detach'"),
        (&["--ci", "--", "true"], "cannot be used with '--ci'"),
        (&["--timing", "--", "true"], "cannot be used with '--timing'"),
        (&["--no-review", "--", "true"], "cannot be used with '--no-review'"),
        (&["--deploy-key", "--", "true"], "cannot be used with '--deploy-key'"),
        (&["--publish", "8080", "--", "true"], "port 8080 of all of them cannot be shown at 127.0.0.1:8080"),
        (&["--jobs", "0", "--", "true"], "0 is not in 1..=16"),
        (&[], "there is no command to attempt"),
        (&["claude"], "there is nothing for claude to do"),
        (&["--jobs", "2", "opencode", "fix it"], "one sandbox alone may use what opencode keeps"),
        (&["--name", &"x".repeat(62), "--", "true"], "the last attempt would be called xxx"),
    ];
    let refuses = |arguments: &[&str], words: &str| {
        let ran = host.run(arguments);
        assert!(ran.code == 125 && ran.stdout.is_empty() && ran.stderr.contains(words), "{arguments:?}: {ran:?}");
    };
    for (arguments, words) in cases {
        refuses(&[&["run", "--attempts", "2"], arguments].concat(), words);
    }
    refuses(&["run", "--attempts", "1", "--", "true"], "1 is not in 2..=16");
    refuses(&["run", "--check", "true", "--", "true"], "--attempts");
    refuses(&["net", "learn", "--attempts", "2", "--", "true"], "viv net learn");
    std::fs::write(host.path("config/viv/config.toml"), "[run]\nworkspace-mode = \"live\"\n").unwrap();
    refuses(&["run", "--attempts", "2", "--", "true"], "\"live\" is asked for (user configuration)");
    // What would be run can be seen without running it.
    let dry = ok(&host, &["run", "-w", "clone", "--attempts", "3", "--name", "six", "--dry-run", "--", "true"]);
    assert!(dry.stdout.starts_with("attempts\n  3 attempts"), "{dry:?}");
    host.assert_nothing_is_left();
}
