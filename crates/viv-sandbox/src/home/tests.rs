use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, Mode};
use serde_json::{Value, json};

use super::*;
use crate::Holdings;
use crate::preset::{AgentRequest, AgentStart, Prompt, find_preset};

/// A host with a user who has agents.
struct World {
    root: tempfile::TempDir,
    paths: Paths,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let below = |name: &str| root.path().join(name);
        let paths =
            Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
        std::fs::create_dir(below("user")).unwrap();
        Self { root, paths }
    }

    fn user(&self, path: &str) -> PathBuf {
        let path = self.root.path().join("user").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn agent(&self, name: &str) -> NamedPreset {
        find_preset(name, &self.paths.config).unwrap().unwrap()
    }

    fn open(&self, agent: &str, fresh: bool) -> Result<AgentHome> {
        AgentHome::open(&self.paths, &self.agent(agent), project(), fresh)
    }

    fn start(&self, agent: &str) -> AgentStart {
        self.agent(agent).preset.start(&AgentRequest {
            workspace: project().to_str().unwrap().into(),
            home: "/home/agent".into(),
            gateway: None,
            gateway_port: 4180,
            prompt: Prompt::None,
            arguments: Vec::new(),
        })
    }

    fn seed(&self, home: &AgentHome, agent: &str) -> Vec<String> {
        home.seed(&self.agent(agent).preset, &self.start(agent))
    }

    /// A path in the home, as the guest has it.
    fn inside(&self, agent: &str, path: &str) -> PathBuf {
        agent_home_of(&self.paths, agent, project()).join(HOME).join(path)
    }
}

/// One whose name is hard on those who write it into files.
fn project() -> &'static Path {
    Path::new("/srv/a \"project\" {home} x")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_home_is_private_has_a_name_for_people_and_is_shared_coherently() {
    let world = World::new();
    let home = world.open("claude", false).unwrap();
    assert_eq!(std::fs::metadata(home.path()).unwrap().mode() & 0o777, 0o700);
    let name = home.path().file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("a--project---home--x-") && name.len() == 33, "{name}");
    assert_eq!(
        home.mounts("/home/agent"),
        [Mount {
            source: home.path().join("home/.claude"),
            destination: "/home/agent/.claude".into(),
            read_only: false,
            coherent: true
        }]
    );
    assert!(home.path().join("home/.claude").is_dir());
    for odd in ["/", "/..."] {
        assert!(!project_key(Path::new(odd)).is_empty() && !project_key(Path::new(odd)).contains('/'));
    }
    assert_ne!(project_key(Path::new("/a/x")), project_key(Path::new("/b/x")));
}

#[test]
fn what_keeps_an_agent_from_asking_is_there_and_put_back_and_nothing_else_changes() {
    let world = World::new();
    let home = world.open("claude", false).unwrap();
    assert_eq!(world.seed(&home, "claude"), [""; 0]);
    let state = world.inside("claude", ".claude/.claude.json");
    let written = read(&state);
    assert_eq!(written["projects"][project().to_str().unwrap()]["hasTrustDialogAccepted"], true);
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o600);
    let settings = world.inside("claude", ".claude/settings.json");
    assert_eq!(read(&settings), json!({"skipDangerousModePermissionPrompt": true, "theme": "dark"}));

    // Where nothing is missing, nothing is written: not even the same again.
    let before = std::fs::metadata(&state).unwrap().ino();
    assert_eq!(world.seed(&home, "claude"), [""; 0]);
    assert_eq!(std::fs::metadata(&state).unwrap().ino(), before);

    std::fs::write(&state, r#"{"numStartups": 7, "projects": {"/other": {}}, "hasCompletedOnboarding": false}"#)
        .unwrap();
    std::fs::write(&settings, r#"{"theme": "light"}"#).unwrap();
    assert_eq!(world.seed(&home, "claude"), [""; 0]);
    let merged = read(&state);
    assert_eq!((&merged["numStartups"], &merged["hasCompletedOnboarding"]), (&json!(7), &json!(true)));
    assert_eq!(merged["projects"].as_object().unwrap().len(), 2);
    assert_eq!(read(&settings), json!({"skipDangerousModePermissionPrompt": true, "theme": "light"}));
    assert!(!world.inside("claude", ".claude/.claude.json.lock").exists());
}

#[test]
fn codex_keeps_its_own_settings_beside_those_it_needs() {
    let world = World::new();
    let home = world.open("codex", false).unwrap();
    assert_eq!(world.seed(&home, "codex"), [""; 0]);
    let path = world.inside("codex", ".codex/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    insta::assert_snapshot!(text);
    std::fs::write(&path, text.replace("gpt-5", "gpt-6").replace("4180", "1")).unwrap();
    assert_eq!(world.seed(&home, "codex"), [""; 0]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text.replace("gpt-5", "gpt-6"));
}

#[test]
fn a_lock_that_nobody_releases_delays_and_no_more() {
    let world = World::new();
    let home = world.open("claude", false).unwrap();
    let lock = world.inside("claude", ".claude/.claude.json.lock");
    std::fs::create_dir(&lock).unwrap();
    assert_eq!(world.seed(&home, "claude"), [""; 0]);
    assert!(world.inside("claude", ".claude/.claude.json").exists());
    assert!(lock.exists(), "it is not ours to remove");
}

#[test]
fn starts_at_once_do_not_undo_each_other() {
    let world = World::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let home = world.open("claude", false).unwrap();
                assert_eq!(world.seed(&home, "claude"), [""; 0]);
            });
        }
    });
    assert_eq!(read(&world.inside("claude", ".claude/.claude.json"))["hasCompletedOnboarding"], true);
}

/// Each of these is what a guest can make of its home.
#[test]
fn nothing_a_guest_puts_there_is_followed_waited_for_or_trusted() {
    let world = World::new();
    let canary = world.root.path().join("canary.json");
    let outside = world.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(&canary, r#"{"canary": true}"#).unwrap();
    let home = world.open("claude", false).unwrap();
    let state = world.inside("claude", ".claude");
    let file = state.join(".claude.json");
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let attacks: [(&str, &dyn Fn()); 9] = [
        ("a FIFO", &|| rustix::fs::mkfifoat(CWD, &file, Mode::RWXU).unwrap()),
        ("a link out", &|| symlink(&canary, &file).unwrap()),
        ("a link to /etc/passwd", &|| symlink("/etc/passwd", &file).unwrap()),
        ("a dangling link", &|| symlink(outside.join("made"), &file).unwrap()),
        ("a directory", &|| std::fs::create_dir(&file).unwrap()),
        ("a huge file", &|| std::fs::File::create(&file).unwrap().set_len(10 << 30).unwrap()),
        ("deep JSON", &|| std::fs::write(&file, &deep).unwrap()),
        ("no JSON", &|| std::fs::write(&file, b"\xff\xfe{]").unwrap()),
        ("a list", &|| std::fs::write(&file, "[1]").unwrap()),
    ];
    for (attack, carry_out) in attacks {
        carry_out();
        let before = std::fs::symlink_metadata(&file).unwrap().ino();
        let warnings = world.seed(&home, "claude");
        assert_eq!(warnings.len(), 1, "{attack}: {warnings:?}");
        assert!(warnings[0].starts_with(".claude/.claude.json is left as it is: "), "{attack}: {warnings:?}");
        assert_eq!(std::fs::symlink_metadata(&file).unwrap().ino(), before, "{attack}");
        if file.is_dir() && !file.is_symlink() {
            std::fs::remove_dir(&file).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
    }
    // The directory of the state itself is a share's root: the guest cannot replace it. One below it, it can.
    let moved = state.with_extension("moved");
    std::fs::rename(&state, &moved).unwrap();
    symlink(&outside, &state).unwrap();
    let warnings = world.seed(&home, "claude");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), r#"{"canary": true}"#);
}

#[test]
fn a_fresh_start_puts_the_old_home_aside() {
    let world = World::new();
    let home = world.open("claude", false).unwrap();
    let session = world.inside("claude", ".claude/session");
    std::fs::write(&session, "yesterday").unwrap();
    let fresh = world.open("claude", true).unwrap();
    assert!(!session.exists() && session.parent().unwrap().is_dir());
    assert_eq!(std::fs::read_to_string(home.path().join("previous/.claude/session")).unwrap(), "yesterday");
    std::fs::write(&session, "today").unwrap();
    drop(world.open("claude", true).unwrap());
    assert_eq!(std::fs::read_to_string(fresh.path().join("previous/.claude/session")).unwrap(), "today");
}

#[test]
fn homes_are_listed_and_cleared_but_not_under_a_sandbox() {
    let world = World::new();
    assert_eq!(list_homes(&world.paths).unwrap(), []);
    let home = world.open("claude", false).unwrap();
    std::fs::write(world.inside("claude", ".claude/data"), [1; 10_000]).unwrap();
    drop(world.open("codex", false).unwrap());
    let homes = list_homes(&world.paths).unwrap();
    assert_eq!(homes.len(), 2);
    let claude = homes.iter().find(|home| home.agent == "claude").unwrap();
    assert_eq!(claude.project, project());
    assert!(claude.size >= 10_000 && claude.in_use && claude.last_used > 1_700_000_000, "{claude:?}");
    assert!(homes.iter().any(|home| home.agent == "codex" && !home.in_use));
    assert_eq!(*clear_home(home.path()).unwrap_err().kind(), ErrorKind::HomeInUse);
    let path = home.path().to_owned();
    drop(home);
    // Neither does removing follow links.
    let kept = world.root.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "").unwrap();
    symlink(&kept, world.inside("claude", ".claude/link")).unwrap();
    clear_home(&path).unwrap();
    assert!(!path.exists() && kept.join("file").exists());
    clear_home(&path).unwrap();
    assert_eq!(list_homes(&world.paths).unwrap().len(), 1);
}

#[test]
fn a_home_for_one_is_not_lent_to_two() {
    let world = World::new();
    let in_use = || *world.open("opencode", false).unwrap_err().kind() == ErrorKind::HomeInUse;
    let first = world.open("opencode", false).unwrap();
    assert!(in_use());
    // Its monitor goes on where its client ends.
    let holdings = Holdings { cached: Vec::new(), homes: vec![first.share().unwrap()] };
    let held = holdings.hold(&world.paths, "aa000001").unwrap();
    assert!(in_use());
    drop(first);
    assert!(in_use());
    drop(held);
    world.open("opencode", false).unwrap();
    let _one = world.open("claude", false).unwrap();
    world.open("claude", false).unwrap();
}

#[test]
fn an_import_has_settings_and_no_credentials() {
    const CANARY: &str = "canary-2b8f0c";
    let world = World::new();
    let write = |path: &str, text: &str| std::fs::write(world.user(path), text).unwrap();
    write(".claude/.credentials.json", CANARY);
    write(".claude/CLAUDE.md", "be kind");
    write(".claude/agents/reviewer.md", "review");
    write(".claude/skills/deploy/SKILL.md", "how to deploy");
    write(".claude/skills/deploy/.env", CANARY);
    write(".claude/skills/deploy/notes.md", &format!("the token is sk-ant-api03-{CANARY}-0123456789"));
    write(".claude/skills/deploy/config.json", &format!(r#"{{"password": "{CANARY}", "region": "x"}}"#));
    write(".claude/skills/deploy/run.sh", "#!/bin/sh\n");
    write(".claude/projects/session.jsonl", CANARY);
    let mut permissions = std::fs::metadata(world.user(".claude/skills/deploy/run.sh")).unwrap().permissions();
    permissions.set_mode(0o755);
    std::fs::set_permissions(world.user(".claude/skills/deploy/run.sh"), permissions).unwrap();
    symlink("../../../secret", world.user(".claude/skills/deploy/out")).unwrap();
    symlink("../../.credentials.json", world.user(".claude/skills/deploy/in")).unwrap();
    write("secret", CANARY);
    symlink("../secret", world.user(".claude/commands")).unwrap();
    rustix::fs::mkfifoat(CWD, world.user(".claude/agents/fifo"), Mode::RWXU).unwrap();
    write(
        ".claude/settings.json",
        &format!(
            r#"{{"theme": "light", "apiKeyHelper": "/bin/{CANARY}", "env": {{"ANTHROPIC_API_KEY": "{CANARY}", "EDITOR": "vi"}}}}"#
        ),
    );
    write(
        ".claude.json",
        &json!({
            "oauthAccount": {"emailAddress": CANARY},
            "primaryApiKey": CANARY,
            "customApiKeyResponses": {"approved": [CANARY]},
            "mcpServers": {"db": {"command": "db-mcp", "args": ["--password", CANARY], "env": {"DB_TOKEN": CANARY, "DB_NAME": "x"}}},
            "projects": {
                project().to_str().unwrap(): {"mcpServers": {"here": {"url": "https://example.com/mcp"}}, "history": [CANARY]},
                "/other": {"mcpServers": {"there": {"command": CANARY}}}
            }
        })
        .to_string(),
    );
    let home = world.open("claude", false).unwrap();
    let imported = home.import(&world.agent("claude").preset, &world.start("claude"), &world.root.path().join("user"));
    insta::assert_json_snapshot!(imported);
    assert_eq!(world.seed(&home, "claude"), [""; 0]);
    insta::assert_json_snapshot!((
        read(&world.inside("claude", ".claude/settings.json")),
        read(&world.inside("claude", ".claude/.claude.json")),
        read(&world.inside("claude", ".claude/skills/deploy/config.json")),
    ));
    let script = std::fs::metadata(world.inside("claude", ".claude/skills/deploy/run.sh")).unwrap();
    assert_eq!(script.mode() & 0o777, 0o700);
    let mut files = vec![home.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert!(!path.is_symlink());
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(CANARY), "{}: {text}", path.display());
        }
    }
}

#[test]
fn documents_are_read_without_a_panic_whatever_they_are() {
    for text in [
        "",
        "{",
        "{}",
        "[]",
        "null",
        "1979-05-27",
        "a=1979-05-27",
        "a=nan",
        "a=[1,{b=2}]",
        "\u{feff}{}",
        "{\"a\":1e400}",
        "a.b.c.d=1",
    ] {
        for format in [Format::Json, Format::Toml] {
            if let Ok(document) = Document::parse(format, text.as_bytes()) {
                let text = document.text().unwrap();
                assert_eq!(Document::parse(format, text.as_bytes()).unwrap(), document, "{text}");
            }
        }
    }
}
