//! Sandboxes that stay: brought up, used, stopped, found again.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Host, Ran, finish, kill, until};

/// Small machines, so that tests take little of the host.
const SMALL: &str = "memory = \"512M\"\ncpus = 1\ndisk = \"1G\"\n";

/// A host whose project describes sandboxes.
fn host(description: &str) -> Option<Host> {
    let host = Host::ordinary()?;
    host.write("viv.toml", description);
    Some(host)
}

/// Runs `viv`, which has to succeed.
fn ok(host: &Host, arguments: &[&str]) -> Ran {
    let ran = host.run(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    ran
}

/// Runs a shell script in a sandbox; it has to succeed.
fn sh(host: &Host, name: &str, script: &str) -> String {
    ok(host, &["exec", name, "--", "sh", "-c", script]).stdout
}

/// What `viv ps --all --json` says of a sandbox.
fn record(host: &Host, name: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(&ok(host, &["ps", "--all", "--json"]).stdout).unwrap();
    all.into_iter().find(|record| record["name"] == name).unwrap_or(Value::Null)
}

fn log(host: &Host) -> String {
    std::fs::read_to_string(host.project().join("log")).unwrap_or_default()
}

#[test]
fn one_that_is_up_stays_until_it_is_taken_down() {
    let description = format!(
        "[sandbox]\nname = \"web\"\n{SMALL}env = {{ GREETING = \"hello\" }}\n\
         on-create = [\"echo created >> log; echo said-by-on-create\"]\n\
         on-start = [[\"sh\", \"-c\", \"echo started $GREETING >> log\"]]\n"
    );
    let Some(host) = host(&description) else { return };
    let ran = ok(&host, &["up"]);
    assert!(ran.stderr.contains("web is up") && ran.stderr.contains("said-by-on-create"), "{ran:?}");
    assert_eq!(log(&host), "created\nstarted hello\n");
    let first = record(&host, "web");
    assert_eq!((&first["state"], &first["named"]), (&Value::from("running"), &Value::from(true)));
    // It is nobody's child any more, and holds what it is made from.
    let leases = std::fs::read_dir(host.cache().join("uses")).unwrap().flatten();
    let id = first["id"].as_str().unwrap().to_owned();
    assert_eq!(leases.filter(|lease| lease.file_name().to_string_lossy().starts_with(&id)).count(), 1);

    // Up it is; nothing happens twice.
    let ran = ok(&host, &["up", "--json"]);
    let outcomes: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&outcomes[0]["done"], &outcomes[0]["id"]), (&"nothing".into(), &first["id"]));
    assert_eq!(log(&host), "created\nstarted hello\n");
    assert_eq!(sh(&host, "web", "echo $GREETING; hostname; echo kept > ~/file; cat ~/file"), "hello\nweb\nkept\n");

    // Without `persist`, a stop ends what was on its disk, so what is done once on a disk is done again.
    ok(&host, &["stop", "we"]);
    assert!(host.ps().is_empty());
    let stopped = record(&host, "web");
    assert_eq!((&stopped["state"], &stopped["ended"]["reason"]), (&"stopped".into(), &"stopped".into()), "{stopped}");
    assert!(ok(&host, &["stop", "web"]).stderr.contains("is stopped already"));
    ok(&host, &["start", "web"]);
    assert_eq!(log(&host), "created\nstarted hello\n".repeat(2));
    assert_eq!(host.run(&["exec", "web", "--", "cat", "/home/agent/file"]).code, 1);

    let inspected: Value = serde_json::from_str(&ok(&host, &["inspect", "web"]).stdout).unwrap();
    assert_eq!(inspected[0]["described"]["as"]["sandbox"]["memory_mib"], 512, "{inspected}");

    let refused = host.run(&["rm", "web"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("viv rm --force web"), "{refused:?}");
    ok(&host, &["down"]);
    assert_eq!(record(&host, "web"), Value::Null);
    assert!(ok(&host, &["down"]).stderr.contains("nothing is up here"));
    host.assert_nothing_is_left();
}

#[test]
fn what_persists_survives_a_stop_and_not_a_fresh_start() {
    let description = format!(
        "[sandboxes.db]\n{SMALL}persist = true\non-create = [\"echo created >> log\"]\non-start = [\"echo started >> log\"]\n"
    );
    let Some(host) = host(&description) else { return };
    ok(&host, &["up"]);
    sh(&host, "db", "echo data > ~/file; sudo sh -c 'echo root > /etc/kept'");
    let refused = host.run(&["up", "--fresh"]);
    assert!(refused.code == 125 && refused.stderr.contains("viv restart --fresh db"), "{refused:?}");
    // A stop and a start; once from the project, once from anywhere.
    ok(&host, &["restart", "db"]);
    assert_eq!(sh(&host, "db", "cat ~/file /etc/kept"), "data\nroot\n");
    ok(&host, &["down"]);
    assert_eq!(record(&host, "db")["state"], "stopped");
    let disks: Value = serde_json::from_str(&ok(&host, &["disk", "ls", "--json"]).stdout).unwrap();
    assert_eq!((&disks[0]["name"], &disks[0]["in_use"]), (&"db".into(), &false.into()));
    ok(&host, &["disk", "trim", "db"]);
    let mut start = host.viv(&["start", "db"]);
    start.current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = finish(start.spawn().unwrap());
    assert_eq!(started.code, 0, "{started:?}");
    assert_eq!(sh(&host, "db", "cat ~/file /etc/kept"), "data\nroot\n");
    assert_eq!(log(&host), format!("created\n{}", "started\n".repeat(3)));

    ok(&host, &["restart", "--fresh", "db"]);
    assert_eq!(host.run(&["exec", "db", "--", "cat", "/etc/kept"]).code, 1);
    assert!(log(&host).ends_with("created\nstarted\n"), "{}", log(&host));
    ok(&host, &["rm", "--force", "db"]);
    assert_eq!(record(&host, "db"), Value::Null);
    assert!(ok(&host, &["disk", "ls"]).stdout.starts_with("no disk is kept"));
    host.assert_nothing_is_left();
}

#[test]
fn one_whose_first_commands_fail_is_not_up() {
    let describe =
        |last: &str| format!("[sandbox]\nname = \"web\"\n{SMALL}on-create = [\"echo one >> log\", \"{last}\"]\n");
    let Some(host) = host(&describe("echo why >&2; exit 3")) else { return };
    let ran = host.run(&["up"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("why\n") && ran.stderr.contains("web is not up: on-create ended with exit code 3"));
    host.assert_nothing_is_left();
    assert_eq!(record(&host, "web")["on_create_done"], false);
    host.write("viv.toml", describe("echo two >> log"));
    ok(&host, &["up"]);
    assert_eq!(log(&host), "one\none\ntwo\n");
    // The next start takes what is described then, and says so.
    host.write("viv.toml", describe("echo three >> log"));
    assert!(ok(&host, &["up"]).stderr.contains("viv.toml has changed since web was started"));
    ok(&host, &["down"]);
    host.assert_nothing_is_left();
}

#[test]
fn two_at_once_bring_one_up_and_a_killed_monitor_is_told_of() {
    let Some(host) = host(&format!("[sandbox]\nname = \"web\"\n{SMALL}on-start = [\"echo started >> log\"]\n")) else {
        return;
    };
    let up = || host.viv(&["up", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let both = [up(), up()].map(finish);
    assert!(both.iter().all(|ran| ran.code == 0), "{both:?}");
    let outcomes = both.each_ref().map(|ran| serde_json::from_str::<Value>(&ran.stdout).unwrap()[0].clone());
    assert_eq!(outcomes[0]["id"], outcomes[1]["id"]);
    let mut done = outcomes.each_ref().map(|outcome| outcome["done"].as_str().unwrap());
    done.sort_unstable();
    assert_eq!(done, ["nothing", "started"]);
    assert_eq!(log(&host), "started\n");

    let waiting = host.viv(&["wait", "web"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let monitor = record(&host, "web")["monitor_pid"].as_u64().unwrap();
    kill(u32::try_from(monitor).unwrap(), Signal::KILL);
    let waited = finish(waiting);
    assert_eq!(waited.code, 125, "{waited:?}");
    assert!(waited.stderr.contains("its monitor was killed"), "{waited:?}");
    host.assert_nothing_is_left();
    let lost = record(&host, "web");
    assert_eq!((&lost["state"], &lost["ended"]["reason"]), (&"failed".into(), &"monitor_killed".into()));
    ok(&host, &["up"]);
    assert_eq!(sh(&host, "web", "echo up"), "up\n");

    // As after a power cut: everything is gone, and the host has booted anew.
    kill(u32::try_from(record(&host, "web")["monitor_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    until("its processes are gone", || host.processes().is_empty());
    let id = record_file(&host);
    std::fs::remove_dir_all(host.path("run/viv").join(id)).unwrap();
    let rebooted = record(&host, "web");
    assert_eq!((&rebooted["state"], &rebooted["ended"]["reason"]), (&"stopped".into(), &"host_restarted".into()));
    ok(&host, &["rm", "web"]);
    host.assert_nothing_is_left();
}

/// Writes another boot of the host into a sandbox's record; returns its machine's id.
fn record_file(host: &Host) -> String {
    let path = host.path("state/viv/sandboxes/web/record.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let id = record["machine"]["id"].as_str().unwrap().to_owned();
    record["machine"]["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    std::fs::write(&path, record.to_string()).unwrap();
    id
}

#[test]
fn pause_rename_and_names_that_fit_several() {
    let Some(host) = host(&format!("[sandboxes.web]\n{SMALL}\n[sandboxes.wiki]\n{SMALL}")) else { return };
    let unclear = host.run(&["up"]);
    assert!(unclear.code == 125 && unclear.stderr.contains("web, wiki"), "{unclear:?}");
    ok(&host, &["up", "web"]);
    ok(&host, &["pause", "web"]);
    assert_eq!(record(&host, "web")["state"], "paused");
    assert!(ok(&host, &["pause", "web"]).stderr.contains("is paused already"));
    assert!(ok(&host, &["up", "web"]).stderr.contains("web goes on"));
    assert_eq!(sh(&host, "web", "echo up"), "up\n");
    let clock: i64 = sh(&host, "web", "date +%s").trim().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(u64::try_from(clock).unwrap()) < 60, "{clock} and {now}");

    let refused = host.run(&["rename", "web", "shop"]);
    assert!(refused.code == 125 && refused.stderr.contains("viv stop web"), "{refused:?}");
    ok(&host, &["pause", "web"]);
    ok(&host, &["stop", "web"]);
    ok(&host, &["rename", "web", "shop"]);
    assert!(host.run(&["start", "web"]).stderr.contains("no sandbox is called"));
    ok(&host, &["start", "sh"]);
    assert_eq!(sh(&host, "shop", "hostname"), "shop\n");
    ok(&host, &["kill", "shop"]);
    assert_eq!(host.run(&["wait", "shop"]).code, 137);

    ok(&host, &["rename", "shop", "work"]);
    ok(&host, &["up", "wiki"]);
    let ambiguous = host.run(&["stop", "w"]);
    assert!(ambiguous.code == 125 && ambiguous.stderr.contains("work"), "{ambiguous:?}");
    ok(&host, &["wait", "--for", "running", "wiki"]);
    assert_eq!(host.run(&["wait", "--timeout", "1s", "wiki"]).code, 124);
    ok(&host, &["down", "--all"]);
    assert_eq!(ok(&host, &["ps", "--all"]).stdout, "there is no sandbox\n");
    host.assert_nothing_is_left();
}
