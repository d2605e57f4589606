//! What agents keep between runs, with a preset of the tests' own: an agent that is a shell.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Host, Ran, finish};

/// An agent that does as it is told. Its prompt is a script.
const SHELL: &str = r#"
description = "A shell"
interactive = ["sh"]
headless = ["sh", "-c", "{prompt}"]
state = [".shell", ".local/state/shell"]

[env]
SHELL_HOME = "{home}/.shell"

[[files]]
path = ".shell/state.json"
lock = ".shell/state.json.lock"
seed = '{ "count": 0 }'
keep = '{ "trusted": { "{workspace}": true } }'

[[files]]
path = ".shell/settings.toml"
seed = 'theme = "dark"'

[[import]]
from = ".shell"
into = ".shell"
entries = ["skills"]

[[import]]
from = ".shell/settings.toml"
into = ".shell/settings.toml"
"#;

fn host() -> Option<Host> {
    let host = Host::ordinary()?;
    let directory = host.path("config/viv/agents");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("shell.toml"), SHELL).unwrap();
    host.own(&directory);
    Some(host)
}

fn home(host: &Host) -> std::path::PathBuf {
    let listed = host.run(&["agent", "home", "shell", "--json"]);
    assert_eq!(listed.code, 0, "{listed:?}");
    let homes: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(homes.len(), 1, "{homes:?}");
    assert_eq!(homes[0]["project"].as_str(), host.project().to_str());
    homes[0]["path"].as_str().unwrap().into()
}

fn ok(ran: &Ran) -> &str {
    assert_eq!(ran.code, 0, "{ran:?}");
    &ran.stdout
}

/// What Claude Code does to its `~/.claude.json`, as often as it can: a lock by `mkdir`, a temporary file, a rename.
const COUNT: &str = r#"
import json, os, sys, time
home, me = os.environ["SHELL_HOME"], sys.argv[1]
file, lock = home + "/state.json", home + "/state.json.lock"
open(f"{home}/here-{me}", "w").close()
while not all(os.path.exists(f"{home}/here-{other}") for other in "ab"):
    time.sleep(0.01)
for _ in range(200):
    while True:
        try:
            os.mkdir(lock)
            break
        except FileExistsError:
            time.sleep(0.001)
    with open(file) as opened:
        state = json.load(opened)
    state["count"] += 1
    state[me] = state.get(me, 0) + 1
    # Now longer, now shorter, so that a size from before would show.
    state["padding"] = "x" * (state["count"] * 37 % 5000)
    temporary = f"{file}.{me}.tmp"
    with open(temporary, "w") as opened:
        json.dump(state, opened)
    os.rename(temporary, file)
    with open(home + "/history", "a") as history:
        history.write(f"{state['count']}\n")
    os.rmdir(lock)
print("counted")
"#;

#[test]
fn two_sandboxes_of_a_project_lose_no_update() {
    let Some(host) = host() else { return };
    host.write("count.py", COUNT);
    let start = |me: &str| {
        let script = format!("exec python3 count.py {me}");
        let mut client = host.viv(&["run", "--quiet", "--memory", "1G", "shell", &script]);
        client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start("a"), start("b")].map(finish);
    for ran in &both {
        assert_eq!(ok(ran), "counted\n", "{ran:?}");
    }
    let kept = home(&host).join("home/.shell");
    let state: Value = serde_json::from_slice(&std::fs::read(kept.join("state.json")).unwrap()).unwrap();
    assert_eq!((&state["count"], &state["a"], &state["b"]), (&400.into(), &200.into(), &200.into()));
    assert_eq!(state["trusted"][host.project().to_str().unwrap()], true);
    let counted: Vec<u32> =
        std::fs::read_to_string(kept.join("history")).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(counted.into_iter().eq(1..=400));
    host.assert_nothing_is_left();
}

#[test]
fn a_hostile_home_is_warned_of_and_leads_nowhere() {
    let Some(host) = host() else { return };
    // Of the user's, outside of the share: what a host that follows links would read or write.
    let canary = host.path("home/canary.json");
    std::fs::write(&canary, "{}").unwrap();
    host.own(&canary);
    let spoil = format!(
        "echo session > ~/.shell/session; mkdir -p ~/.local/share; cd ~/.shell; rm state.json settings.toml; \
         ln -s {} state.json; ln -s /etc/passwd settings.toml; mkdir state.json.lock",
        canary.display()
    );
    ok(&host.run(&["run", "--quiet", "shell", &spoil]));
    let again = host.run(&["run", "shell", "cat ~/.shell/session; rm ~/.shell/state.json; mkfifo ~/.shell/state.json"]);
    assert_eq!(ok(&again), "session\n");
    assert!(again.stderr.contains("shell may ask questions: .shell/state.json is left as it is"), "{again:?}");
    assert!(again.stderr.contains("viv run --fresh shell"), "{again:?}");
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "{}");
    let third = host.run(&["run", "shell", "rm ~/.shell/state.json; truncate -s 10G ~/.shell/state.json"]);
    assert!(third.stderr.contains("it is no regular file"), "{third:?}");

    let kept = home(&host);
    let fresh = host.run(&["run", "--fresh", "shell", "ls -A ~/.shell"]);
    assert_eq!(ok(&fresh), "settings.toml\nstate.json\n");
    assert!(!fresh.stderr.contains("may ask"), "{fresh:?}");
    assert_eq!(std::fs::read_to_string(kept.join("previous/.shell/session")).unwrap(), "session\n");
    let refused = host.run(&["agent", "home", "--clear"]);
    assert!(refused.code == 125 && refused.stderr.contains("--yes"), "{refused:?}");
    ok(&host.run(&["agent", "home", "--clear", "--yes"]));
    assert!(!kept.exists());
    host.assert_nothing_is_left();
}

#[test]
fn what_is_imported_has_no_credentials() {
    const CANARY: &str = "canary-77b1e0";
    let Some(host) = host() else { return };
    let write = |path: &str, content: &str| {
        let path = host.path("home/.shell").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
    };
    write("credentials.json", CANARY);
    write("skills/greet/SKILL.md", "how to greet");
    write("skills/greet/.env", CANARY);
    write("settings.toml", &format!("theme = \"light\"\n[servers.db.env]\nDB_TOKEN = \"{CANARY}\"\nDB_NAME = \"x\"\n"));
    let script = format!("cat ~/.shell/skills/greet/SKILL.md ~/.shell/settings.toml; ! grep -rs {CANARY} ~");
    let ran = host.run(&["run", "--import-config", "shell", &script]);
    let output = ok(&ran);
    assert!(output.contains("how to greet") && output.contains("theme = \"light\"") && output.contains("DB_NAME"));
    for left_out in ["~/.shell/skills/greet/.env", "servers.db.env.DB_TOKEN"] {
        assert!(ran.stderr.contains(left_out), "{ran:?}");
    }
}

#[test]
fn git_knows_who_commits_and_asks_nothing() {
    let Some(host) = Host::ordinary() else { return };
    let git = |arguments: &[&str]| {
        let output = host.command("git").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["config", "--global", "user.name", "Ada \"the first\" \\ Lovelace"]);
    git(&["config", "--global", "user.email", "ada@example.com"]);
    git(&["config", "--global", "core.excludesFile", "~/ignored"]);
    std::fs::write(host.path("home/ignored"), "*.bak\n").unwrap();
    git(&["init", "-q"]);
    // The host user signs; the keys are not inside.
    git(&["config", "commit.gpgsign", "true"]);
    host.write("kept.txt", "");
    host.write("left.bak", "");
    let script = "git add -A && git commit -qm inside && \
        ! echo url=https://example.com | timeout 60 git credential fill < /dev/null";
    ok(&host.run(&["run", "--quiet", "--", "sh", "-c", script]));
    assert_eq!(git(&["log", "--format=%an <%ae>"]), "Ada \"the first\" \\ Lovelace <ada@example.com>\n");
    assert_eq!(git(&["ls-files"]), "kept.txt\n");
}
