//! A project's `devcontainer.json` in a real sandbox, over the default image; and what keeps that image in the cache.

use serde_json::Value;

use crate::support::Host;

const FILE: &str = r#"// Inside, everything of this is seen.
{
    "name": "app",
    "containerEnv": { "LEVEL": "container", "BOTH": "container", "PLACE": "${containerWorkspaceFolder}" },
    "remoteEnv": { "BOTH": "remote", "TOKEN": "${localEnv:HOME}" },
    "workspaceFolder": "/workspaces/app",
    "mounts": [
        "source=${localWorkspaceFolder}/data,target=/data,type=bind,readonly",
        "source=/etc,target=/host-etc,type=bind",
    ],
    "onCreateCommand": { "b": "echo on-b >> log", "a": ["sh", "-c", "echo on-a >> log"] },
    "postCreateCommand": "id -un >> log; pwd >> log; echo said; echo BOTH=$BOTH >> log",
    "postStartCommand": "test ! -e fail",
    "forwardPorts": [3000],
    "customizations": { "vscode": { "extensions": [] } },
}"#;

#[test]
fn a_dev_container_is_as_its_file_has_it() {
    let Some(host) = Host::new() else { return };
    let project = host.project();
    for directory in [".devcontainer", "data"] {
        std::fs::create_dir(project.join(directory)).unwrap();
        host.own(&project.join(directory));
    }
    host.write(".devcontainer/devcontainer.json", FILE);
    host.write("data/file", "shared\n");

    // Not asked for: it does not count, and that there is one is said to who wants to know more.
    let without = host.run(&["run", "-v", "--", "sh", "-c", "echo $LEVEL; test ! -e log"]);
    assert_eq!((without.code, without.stdout.trim()), (0, ""), "{without:?}");
    assert!(without.stderr.contains("there is a devcontainer.json"), "{without:?}");

    let script =
        "echo $LEVEL $BOTH $PLACE $TOKEN; pwd; cat /data/file; test ! -e /host-etc; echo x > /data/y || echo no";
    let ran = host.run(&["run", "--devcontainer", "--", "sh", "-c", script]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines, ["container remote /workspaces/app", "/workspaces/app", "shared", "no"], "{ran:?}");
    // What set-up says is not the program's output.
    assert!(ran.stderr.contains("said"), "{ran:?}");
    for said in ["the mount at /host-etc is left out", "the variable TOKEN is left out", "--publish 3000"] {
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
    }
    let log = std::fs::read_to_string(project.join("log")).unwrap();
    assert_eq!(log, "on-a\non-b\nagent\n/workspaces/app\nBOTH=remote\n");

    // What fails before the program keeps it from running, with its own exit code.
    host.write("fail", "");
    let failed = host.run(&["run", "--devcontainer", "--", "touch", "reached"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("postStartCommand of devcontainer.json ended with exit code 1"), "{failed:?}");
    assert!(!project.join("reached").exists());
    host.assert_nothing_is_left();
}

#[test]
fn what_a_sandbox_uses_stays_in_the_cache() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.named_sandbox("user", &[]);
    let list = || serde_json::from_str::<Value>(&host.run(&["image", "ls", "--json"]).stdout).unwrap();
    let users = |list: &Value| {
        let image = list.as_array().unwrap().iter().find(|image| image["sources"][0] == "debian").cloned().unwrap();
        (image["used_by"]["sandboxes"].as_array().unwrap().clone(), image["path"].as_str().unwrap().to_owned())
    };
    let (used_by, path) = users(&list());
    // Other tests use it, too.
    assert!(used_by.contains(&"user".into()), "{used_by:?}");
    let refused = host.run(&["image", "rm", "debian"]);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.stderr.contains("stays: ") && refused.stderr.contains("user"), "{refused:?}");
    assert!(std::path::Path::new(&path).exists());
    assert_eq!(sandbox.ok("echo on"), "on\n");
    drop(sandbox);
    assert!(!users(&list()).0.contains(&"user".into()));
    host.assert_nothing_is_left();
}
