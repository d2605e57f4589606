use super::*;

fn request(prompt: Prompt) -> AgentRequest {
    AgentRequest {
        workspace: "/home/u/a \"b\" {home}".into(),
        home: "/home/agent".into(),
        gateway: None,
        gateway_port: 4180,
        prompt,
        arguments: vec!["--model".into(), "{prompt}".into()],
    }
}

fn find(name: &str, directory: &Path) -> Preset {
    find_preset(name, directory).unwrap().unwrap().preset
}

#[test]
fn every_built_in_preset_starts_its_agent() {
    let nowhere = Path::new("/nonexistent");
    assert_eq!(preset_names(nowhere).unwrap(), ["claude", "codex", "gemini", "opencode", "pi"]);
    for name in preset_names(nowhere).unwrap() {
        let preset = find(&name, nowhere);
        assert!(preset.packages.iter().all(|package| package.version.is_some()), "{name}: a version is not pinned");
        let starts =
            [Prompt::None, Prompt::First("-- fix {home}".into()), Prompt::Headless("fix it".into()), Prompt::Input]
                .map(|prompt| preset.start(&request(prompt)));
        insta::assert_json_snapshot!(
            format!("agent_{name}"),
            serde_json::json!({
                "commands": starts.clone().map(|start| start.command),
                "environment": starts[0].environment,
                "memory_mib": starts[0].memory_mib,
            })
        );
    }
}

#[test]
fn a_preset_comes_back_from_what_is_shown_of_it() {
    for (name, _) in BUILT_IN {
        let preset = find(name, Path::new("/nonexistent"));
        let shown = toml::to_string_pretty(&preset).unwrap();
        assert_eq!(toml::from_str::<Preset>(&shown).unwrap(), preset, "{shown}");
    }
}

#[test]
fn another_gateway_takes_the_place_of_the_presets() {
    let request = AgentRequest { gateway: Some("local".into()), ..request(Prompt::None) };
    let start = find("opencode", Path::new("/nonexistent")).start(&request);
    let configuration = &start.environment["OPENCODE_CONFIG_CONTENT"];
    assert!(configuration.contains("http://127.0.0.1:4180/local/v1"), "{configuration}");
    assert!(configuration.contains("{env:ANTHROPIC_AUTH_TOKEN}"), "{configuration}");
}

#[test]
fn words_are_a_prompt_up_to_the_dashes() {
    let sort = |words: &[&str]| AgentWords::sort(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let words = |prompt: Option<&str>, arguments: &[&str]| {
        Ok(AgentWords {
            prompt: prompt.map(str::to_owned),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        })
    };
    assert_eq!(sort(&[]), words(None, &[]));
    assert_eq!(sort(&["fix", "it"]), words(Some("fix it"), &[]));
    assert_eq!(sort(&["--", "-p", "fix", "--", "x"]), words(None, &["-p", "fix", "--", "x"]));
    assert_eq!(sort(&["fix it", "--", "--model", "m"]), words(Some("fix it"), &["--model", "m"]));
    assert_eq!(sort(&["- a list\n- of things"]), words(Some("- a list\n- of things"), &[]));
    assert_eq!(sort(&["subtract", "-1", "-"]), words(Some("subtract -1 -"), &[]));
    assert_eq!(sort(&["-p", "fix"]), Err("-p".to_owned()));
    assert_eq!(sort(&["fix", "--json"]), Err("--json".to_owned()));
    assert_eq!(sort(&["  "]), words(None, &[]));
}

#[test]
fn the_users_file_changes_adds_and_extends() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("claude.toml", "packages = [\"npm:@anthropic-ai/claude-code-linux-x64@9.9.9\"]\n[env]\nMINE = \"1\"\n");
    let changed = find_preset("claude", directory.path()).unwrap().unwrap();
    assert_eq!(changed.source, PresetSource::Changed(directory.path().join("claude.toml")));
    assert_eq!(changed.preset.version(), Some("9.9.9"));
    assert_eq!(changed.preset.env["MINE"], "1");
    assert_eq!(changed.preset.env["IS_SANDBOX"], "1");

    write("local.toml", "extends = \"codex\"\ngateway = [\"local\"]\n");
    let local = find_preset("local", directory.path()).unwrap().unwrap();
    assert_eq!(local.preset.gateway, ["local"]);
    assert_eq!(local.preset.state, [Path::new(".codex")]);

    write("mine.toml", "description = \"Mine\"\ninteractive = [\"mine\"]\nheadless = [\"mine\", \"{prompt}\"]\n");
    assert_eq!(find("mine", directory.path()).headless, ["mine", "{prompt}"]);
    assert_eq!(preset_names(directory.path()).unwrap().len(), 7);
    assert!(find_preset("other", directory.path()).unwrap().is_none());
    assert!(find_preset("../claude", directory.path()).unwrap().is_none());
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let complain = |text: &str| {
        std::fs::write(directory.path().join("x.toml"), text).unwrap();
        let error = find_preset("x", directory.path()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::BadPreset);
        error.to_string().replace(&directory.path().display().to_string(), "AGENTS")
    };
    let rest = "description = \"\"\ninteractive = [\"x\"]\nheadless = [\"x\"]\n";
    let with = |more: &str| format!("{rest}{more}\n");
    insta::assert_json_snapshot!([
        complain("description = "),
        complain("description = \"x\"\n"),
        complain(&with("colour = 1")),
        complain(&with("packages = [\"npm:\"]")),
        complain(&with("memory = \"4\"")),
        complain(&with("state = [\"../x\"]")),
        complain(&with("state = [\"/etc\"]")),
        complain(&with("state = [\".x\", \".x/y\"]")),
        complain(&with("env = { A = \"{wrkspace}\" }")),
        complain(&with("[[files]]\npath = \".x/y.json\"\nseed = \"\"")),
        complain(&with("state = [\".x\"]\n[[files]]\npath = \".x/y.ini\"\nkeep = \"\"")),
        complain(&with("state = [\".x\"]\n[[files]]\npath = \".x/y.json\"\nkeep = \"{\"")),
        complain(&with("state = [\".x\"]\n[[files]]\npath = \".x/y.json\"")),
        complain(&with("state = [\".x\"]\n[[import]]\nfrom = \".x\"\ninto = \".x\"")),
        complain("extends = \"x\""),
        complain("extends = \"nothing\""),
        complain("description = \"\"\ninteractive = []\nheadless = [\"x\"]"),
    ]);
    std::fs::write(directory.path().join("y.toml"), "extends = \"z\"").unwrap();
    std::fs::write(directory.path().join("z.toml"), "extends = \"y\"").unwrap();
    assert_eq!(*find_preset("y", directory.path()).unwrap_err().kind(), ErrorKind::BadPreset);
}
