use std::collections::BTreeMap;

use super::*;

/// A file as projects have them, and whether an image is named elsewhere.
const FILES: &[(&str, &str)] = &[
    ("only an image", r#"{ "image": "mcr.example/devcontainers/rust:1-bookworm" }"#),
    (
        "comments and trailing commas",
        r#"// For format details, see the reference.
        {
            "name": "Node.js", /* a name */
            "image": "node:22",
            "postCreateCommand": "npm install", // runs inside
        }"#,
    ),
    (
        "environment",
        r#"{
            "containerEnv": { "RUST_BACKTRACE": "1", "PROJECT": "${localWorkspaceFolderBasename}", "N": 3 },
            "remoteEnv": {
                "TOKEN": "${localEnv:GITHUB_TOKEN}", "MODE": "${localEnv:MODE:dev}", "RUST_BACKTRACE": null,
                "PATH": "${containerEnv:PATH}:/opt/bin", "BOTH": "${containerEnv:PROJECT}/${containerEnv:N}"
            }
        }"#,
    ),
    (
        "users and places",
        r#"{
            "image": "x", "containerUser": "root", "remoteUser": "vscode",
            "workspaceFolder": "/workspaces/${localWorkspaceFolderBasename}",
            "workspaceMount": "source=${localWorkspaceFolder},target=/workspaces/app,type=bind",
            "postCreateCommand": "cd ${containerWorkspaceFolder} && echo ${HOME:-none} $(pwd)"
        }"#,
    ),
    ("the usual place", r#"{ "workspaceFolder": "/workspace" }"#),
    (
        "commands of all forms",
        r#"{
            "postStartCommand": ["git", "config", "a", "${containerWorkspaceFolder}"],
            "onCreateCommand": { "db": "make db", "deps": ["make", "deps"] },
            "updateContentCommand": "", "postCreateCommand": [],
            "initializeCommand": "curl http://host.example", "postAttachCommand": "true", "waitFor": "onCreateCommand"
        }"#,
    ),
    (
        "mounts",
        r#"{ "mounts": [
            "source=${localWorkspaceFolder}/data,target=/data,type=bind,readonly",
            { "source": "${localWorkspaceFolder}/data", "target": "/rw", "type": "bind" },
            "source=/var/run/docker.sock,target=/var/run/docker.sock,type=bind",
            "source=${localEnv:HOME}/.ssh,target=/home/vscode/.ssh,type=bind",
            "source=${localWorkspaceFolder}/../other,target=/other,type=bind",
            "source=${localWorkspaceFolder}/link,target=/link,type=bind",
            "source=${localWorkspaceFolder}/.git,target=/g,type=bind",
            "source=${localWorkspaceFolder}/missing,target=/m,type=bind",
            "source=cache-${devcontainerId},target=/cache,type=volume"
        ] }"#,
    ),
    ("ports", r#"{ "forwardPorts": [3000, "db:5432", 0], "appPort": ["8080:80"], "portsAttributes": { "3000": {} } }"#),
    ("one port", r#"{ "appPort": 3000 }"#),
    (
        "a container's powers",
        r#"{ "runArgs": ["--network=host"], "privileged": true, "capAdd": ["SYS_PTRACE"], "securityOpt": [],
             "hostRequirements": { "cpus": 8, "memory": "16gb", "storage": "1tb", "gpu": "optional" } }"#,
    ),
    ("what nobody knows", "{ \"imagee\": \"x\", \"\\u001b[2J\": 1, \"customizations\": { \"vscode\": {} } }"),
    ("a build", r#"{ "build": { "dockerfile": "Dockerfile", "args": { "A": "b" } } }"#),
    ("an old build", r#"{ "dockerFile": "Dockerfile" }"#),
    ("compose", r#"{ "dockerComposeFile": "compose.yml", "service": "app" }"#),
    ("features", r#"{ "image": "x", "features": { "ghcr.example/devcontainers/features/node:1": {} } }"#),
    ("no features", r#"{ "features": {} }"#),
    ("an image by a variable", r#"{ "image": "${localEnv:IMAGE}" }"#),
    ("no object", "[]"),
    ("no JSON", "{ \"image\": "),
    ("a wrong type", r#"{ "remoteUser": ["a"] }"#),
    ("a wrong user", r#"{ "remoteUser": "../root" }"#),
    ("a wrong variable", r#"{ "containerEnv": { "A B": "1" } }"#),
    ("a mount over everything", r#"{ "mounts": ["source=${localWorkspaceFolder}/data,target=/,type=bind"] }"#),
    ("a workspace nowhere", r#"{ "workspaceFolder": "relative" }"#),
    ("a NUL", "{ \"remoteEnv\": { \"A\": \"\\u0000\" } }"),
];

fn workspace() -> &'static Path {
    Path::new("/home/ann/app")
}

/// A workspace with `data`, `.git` and a `link` that leads out.
fn canonicalize(path: &Path) -> io::Result<PathBuf> {
    match path.strip_prefix(workspace()).ok().and_then(Path::to_str) {
        Some("data" | ".git") => Ok(path.to_path_buf()),
        Some("link") => Ok("/etc".into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn translated(text: &str, has_image: bool) -> Result<Translated, Error> {
    let file = file::parse(text).map_err(|why| refuse(&why))?;
    translate(file, &Context { workspace: workspace(), has_image, canonicalize: &canonicalize })
}

/// One line for each thing it comes to.
fn shown(result: &Result<Translated, Error>) -> String {
    let mut lines = Vec::new();
    match result {
        Ok(Translated { layer, setup, warnings, details, needs }) => {
            lines.extend(layer.image.iter().map(|found| format!("image {}", found.value)));
            lines.extend(layer.user.iter().map(|found| format!("user {}", found.value)));
            lines.extend(layer.workdir.iter().map(|found| format!("workdir {}", found.value)));
            for (name, found) in &layer.env {
                let EnvironmentValue::Literal(value) = &found.value else { panic!("nothing is copied from the host") };
                lines.push(format!("env {name}={value}"));
            }
            for Found { value, .. } in &layer.mounts {
                let mode = if value.read_only { " read-only" } else { "" };
                let destination = value.destination.as_deref().unwrap_or_default();
                lines.push(format!("mount {} at {destination}{mode}", value.source.display()));
            }
            lines.extend(setup.iter().map(|command| format!("{}: {:?}", command.name, command.argv)));
            let unmet = needs.unmet(2, 2 << 30, 20 << 30);
            for Warning { message, hint } in warnings.iter().chain(&unmet) {
                let hint = hint.as_ref().map(|hint| format!(" [{hint}]")).unwrap_or_default();
                lines.push(format!("warning: {message}{hint}"));
            }
            lines.extend(details.iter().map(|detail| format!("detail: {detail}")));
        }
        Err(error) => {
            lines.push(format!("error: {error}"));
            lines.extend(error.hints().iter().map(|hint| format!("hint: {hint}")));
        }
    }
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

#[test]
fn files_of_projects() {
    let all: Vec<String> =
        FILES.iter().map(|(name, text)| format!("{name}\n{}", shown(&translated(text, false)))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn an_image_named_elsewhere_needs_no_building() {
    for text in [r#"{ "build": {} }"#, r#"{ "image": "x", "features": { "a": {} } }"#] {
        let translated = translated(text, true).unwrap();
        assert_eq!((translated.layer.image, translated.details.len()), (None, 1));
    }
}

#[test]
fn limits() {
    let many = |count: usize| format!("{{ \"forwardPorts\": [{}] }}", vec!["1"; count].join(","));
    assert!(file::parse(&many(256)).is_ok());
    assert_eq!(file::parse(&many(257)).unwrap_err(), "it has more than 256 ports");
    let long = format!("{{ \"image\": \"{}\" }}", "a".repeat(70_000));
    assert!(file::parse(&long).unwrap_err().contains("longer than"));
    // Nothing but beginnings of variables is read once.
    let beginnings = format!("{{ \"postCreateCommand\": \"{}\" }}", "${".repeat(30_000));
    assert_eq!(translated(&beginnings, false).unwrap().setup[0].argv[2].len(), 60_000);
}

#[test]
fn variables_are_replaced_once_and_a_shells_are_left_alone() {
    let env = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "${localEnv:X:y}".to_owned())]);
    let variables = Variables { workspace: workspace(), folder: Some("/w/app"), container_env: &env };
    let replaced = |text: &str| variables.replace(text).0;
    assert_eq!(replaced("${localWorkspaceFolder}|${containerWorkspaceFolder}"), "/home/ann/app|/w/app");
    assert_eq!(replaced("${A} ${B:-${containerEnv:A}} $A ${"), "${A} ${B:-1} $A ${");
    assert_eq!(replaced("${localEnv:SECRET}${localEnv:MODE:a:b}"), "a:b");
    assert_eq!(variables.replace("${containerEnv:B}").1, [Unknown::Container("B".to_owned())]);
    assert_eq!(replaced("${devcontainerId}").len(), 32);
}
