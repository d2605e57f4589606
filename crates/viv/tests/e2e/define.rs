//! `viv init`, and what a `viv.toml` says of sandboxes that stay.

use serde_json::Value;

use crate::support::{Host, Ran};

const SMALL: &str = "memory = \"512M\"\ncpus = 1\ndisk = \"1G\"\n";

fn ok(host: &Host, arguments: &[&str]) -> Ran {
    let ran = host.run(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    ran
}

/// Runs `viv init` in a project of these files; what it wrote.
fn init(host: &Host, files: &[(&str, &str)]) -> String {
    for (name, text) in files {
        let directory = host.project().join(name).parent().unwrap().to_owned();
        if !directory.exists() {
            std::fs::create_dir(&directory).unwrap();
            host.own(&directory);
        }
        host.write(name, text);
    }
    let said = ok(host, &["init"]);
    assert!(said.stderr.contains("viv.toml"), "{said:?}");
    let again = host.run(&["init"]);
    assert!(again.code == 125 && again.stderr.contains("is there already"), "{again:?}");
    std::fs::read_to_string(host.project().join("viv.toml")).unwrap()
}

fn has_line(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line}: {text}");
}

/// What it wrote, as `viv up` understands it.
fn understood(host: &Host) -> Value {
    serde_json::from_str(&ok(host, &["up", "--dry-run", "--json"]).stdout).unwrap()
}

#[test]
fn a_node_project_is_up_by_what_init_wrote() {
    let Some(host) = Host::ordinary() else { return };
    let package = r#"{ "name": "shop", "private": true, "scripts": { "greet": "node -p \"'hello'\"" } }"#;
    let text = init(&host, &[("package.json", package)]);
    has_line(&text, "# In the default image already: nodejs, npm.");
    has_line(&text, "# packages = []");
    has_line(&text, "allow = [\"@npm\"]");
    has_line(&text, "on-create = [\"npm install\"]");
    // What it may reach is not a file's to say, which does not keep it from coming up.
    let up = ok(&host, &["up"]);
    assert!(up.stderr.contains("viv net trust") && up.stderr.contains("project is up"), "{up:?}");
    assert!(host.project().join("package-lock.json").exists(), "npm install was run: {up:?}");
    let greeted = ok(&host, &["exec", "proj", "--", "npm", "run", "--silent", "greet"]);
    assert_eq!(greeted.stdout, "hello\n");
    ok(&host, &["down"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_python_project_is_up_by_what_init_wrote() {
    let Some(host) = Host::ordinary() else { return };
    let text = init(&host, &[("requirements.txt", ""), ("main.py", "print('hello')\n")]);
    has_line(&text, "# In the default image already: python3-pip, python3-venv.");
    has_line(&text, "allow = [\"@pip\"]");
    ok(&host, &["up"]);
    assert_eq!(ok(&host, &["exec", "project", "--", ".venv/bin/python", "main.py"]).stdout, "hello\n");
    ok(&host, &["down"]);
    host.assert_nothing_is_left();
}

#[test]
fn other_projects_get_what_they_need() {
    let Some(host) = Host::ordinary() else { return };
    let text = init(&host, &[("Cargo.toml", "[package]\nname = \"shop\"\nversion = \"0.1.0\"\n")]);
    has_line(&text, "packages = [\"cargo\", \"rustc\"]");
    has_line(&text, "on-create = [\"cargo fetch\"]");
    let dry = understood(&host);
    assert_eq!(dry["sandbox"]["packages"], serde_json::json!(["cargo", "rustc"]), "{dry}");

    let Some(host) = Host::ordinary() else { return };
    let container =
        r#"{ "name": "app", "containerEnv": { "LEVEL": "container" }, "workspaceFolder": "/workspaces/app" }"#;
    let text = init(&host, &[(".devcontainer/devcontainer.json", container), ("package.json", "{}")]);
    has_line(&text, "devcontainer = true");
    // Its image is not the default one, so what that has says nothing.
    has_line(&text, "# packages = [\"nodejs\", \"npm\"]");
    let dry = understood(&host);
    assert_eq!(dry["sandbox"]["environment"]["LEVEL"], "container", "{dry}");
    assert_eq!(dry["exec"]["cwd"], "/workspaces/app", "{dry}");
}

#[test]
fn two_of_a_project_are_each_as_described() {
    let Some(host) = Host::ordinary() else { return };
    std::fs::create_dir(host.project().join("api")).unwrap();
    host.own(&host.project().join("api"));
    host.write(
        "viv.toml",
        format!(
            "[run]\nnet = \"none\"\n{SMALL}[sandboxes.web]\nworkdir = \"api\"\n\
             [sandboxes.worker]\nuser = \"root\"\nenv = {{ QUEUE = \"jobs\" }}\nlabels = {{ tier = \"back\" }}\n"
        ),
    );
    let unclear = host.run(&["up"]);
    assert!(unclear.code == 125 && unclear.stderr.contains("web, worker"), "{unclear:?}");
    ok(&host, &["up", "--all"]);
    let facts = |name: &str, options: &[&str]| {
        let words = [&["exec"], options, &[name, "--", "sh", "-c", "id -un; pwd; hostname; echo $QUEUE"]].concat();
        ok(&host, &words).stdout
    };
    let project = host.project();
    let project = project.display();
    assert_eq!(facts("web", &[]), format!("agent\n{project}/api\nweb\n\n"));
    assert_eq!(facts("wo", &[]), format!("root\n{project}\nworker\njobs\n"));
    // What is said goes before what is described, and what is described now counts from the next start on.
    assert_eq!(facts("web", &["--root", "--workdir", "/"]), "root\n/\nweb\n\n");
    let text = std::fs::read_to_string(host.project().join("viv.toml")).unwrap();
    host.write("viv.toml", text.replace("workdir = \"api\"\n", ""));
    assert_eq!(facts("web", &[]), format!("agent\n{project}/api\nweb\n\n"));
    let unclear = host.run(&["exec", "w", "--", "true"]);
    assert!(unclear.code == 125 && unclear.stderr.contains("worker"), "{unclear:?}");

    ok(&host, &["pause", "web"]);
    let paused = host.run(&["exec", "web", "--", "true"]);
    assert!(paused.code == 125 && paused.stderr.contains("viv resume web"), "{paused:?}");
    ok(&host, &["resume", "web"]);
    ok(&host, &["stop", "web"]);
    let stopped = host.run(&["exec", "web", "--", "true"]);
    assert!(stopped.stderr.contains("web is stopped") && stopped.stderr.contains("viv start web"), "{stopped:?}");
    ok(&host, &["start", "web"]);
    assert_eq!(facts("web", &[]), format!("agent\n{project}\nweb\n\n"));

    let inspected: Value = serde_json::from_str(&ok(&host, &["inspect", "worker"]).stdout).unwrap();
    let described = &inspected[0]["described"]["as"]["sandbox"];
    assert_eq!((&described["id"], &described["labels"]["tier"]), (&Value::Null, &"back".into()), "{inspected}");
    ok(&host, &["down", "--all"]);
    host.assert_nothing_is_left();
}

#[test]
fn what_is_wrong_in_a_file_is_refused_by_its_place() {
    let Some(host) = Host::ordinary() else { return };
    for (text, said, hint) in [
        (
            "[sandbox]\nname = \"web\"\nmemroy = \"4G\"\n",
            "viv.toml:3:1: unknown key `memroy`",
            "did you mean `memory`?",
        ),
        ("[sandboxes.db]\npresist = true\n", "viv.toml:2:1: unknown key `presist`", "did you mean `persist`?"),
        ("[sandbxo]\n", "viv.toml:1:2: unknown section or key `sandbxo`", "did you mean [sandbox]?"),
        ("[sandbox]\nmemory = \"4 potatoes\"\n", "viv.toml:2:", ""),
    ] {
        host.write("viv.toml", text);
        for arguments in [&["up"][..], &["run", "--", "true"]] {
            let refused = host.run(arguments);
            assert_eq!((refused.code, refused.stdout.as_str()), (125, ""), "{refused:?}");
            assert!(refused.stderr.contains(said) && refused.stderr.contains(hint), "{refused:?}");
        }
    }
    // The home directory is not shared by a file's word, nor by anybody's who does not say so twice.
    host.write("viv.toml", "");
    let home = host.path("home");
    let refused = host.run(&["up", "--workspace", home.to_str().unwrap()]);
    assert!(refused.code == 125 && refused.stderr.contains("--i-know"), "{refused:?}");
    let dry = ok(&host, &["up", "--workspace", home.to_str().unwrap(), "--i-know", "--dry-run", "--json"]);
    let dry: Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!(dry["sandbox"]["workspace"], home.to_str().unwrap());
}
