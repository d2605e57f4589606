//! A home, and a configuration to import, in which each file holds the same bytes.

use std::path::Path;

use viv_sandbox::{AgentHome, AgentRequest, Paths, Prompt, find_preset};

/// Has an agent's home made ready over such files, and such a configuration imported into it: nothing panics, and what
/// could be put right is read and left alone the next time.
pub fn hold(bytes: &[u8]) {
    let root = tempfile::tempdir().expect("a directory");
    let below = |name: &str| root.path().join(name);
    let paths = Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
    for (name, file) in [("claude", ".claude/.claude.json"), ("codex", ".codex/config.toml")] {
        let agent = find_preset(name, &paths.config).expect("a built-in preset").expect("it is there");
        let start = agent.preset.start(&AgentRequest {
            workspace: "/srv/project".to_owned(),
            home: "/home/agent".to_owned(),
            gateway: None,
            gateway_port: 4180,
            prompt: Prompt::None,
            arguments: Vec::new(),
        });
        let home = AgentHome::open(&paths, &agent, Path::new("/srv/project"), false).expect("a home");
        let inside = home.path().join("home").join(file);
        std::fs::write(&inside, bytes).expect("a file");
        if home.seed(&agent.preset, &start).is_empty() {
            let once = std::fs::read(&inside).expect("what was written");
            assert!(home.seed(&agent.preset, &start).is_empty());
            assert_eq!(std::fs::read(&inside).expect("what was left alone"), once);
        } else {
            assert_eq!(std::fs::read(&inside).expect("what was left alone"), bytes);
        }
        let user = below("user");
        for import in &agent.preset.import {
            let source = user.join(&import.from);
            let file = if import.entries.is_empty() { source } else { source.join(&import.entries[0]) };
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            std::fs::write(file, bytes).expect("a file");
        }
        let _ = home.import(&agent.preset, &start, &user);
    }
}
