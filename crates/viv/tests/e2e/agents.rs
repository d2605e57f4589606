//! The agents themselves, from their packages, at work in a sandbox against a scripted model.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use viv_testkit::{Options, ScriptedModel, Step};

use crate::gateway::configure;
use crate::isolation::canary;
use crate::key_search::{assert_in_the_egress_alone, marker};
use crate::support::{Host, finish_within};

/// Ten times what the slowest of them took on a machine of two busy cores, without KVM.
const DEADLINE: Duration = Duration::from_secs(1800);

/// Where the guest has what `cargo xtask test` installed.
const INSIDE: &str = "/opt/agents";

fn agents() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("VIV_TEST_CACHE_HOME")?).join("agents");
    if !directory.join("installed").exists() {
        let missing = format!("{} has no agents: run the tests with `cargo xtask test`", directory.display());
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("SKIPPED: {missing}");
        return None;
    }
    Some(directory)
}

/// One of them, and all that it needs to know of where it is.
struct Agent {
    name: &'static str,
    upstream: &'static str,
    /// What is in its configuration inside, by place.
    files: &'static [(&'static str, &'static str)],
    command: &'static str,
}

const AGENTS: [Agent; 3] = [
    Agent {
        name: "claude",
        upstream: "anthropic",
        files: &[],
        command: "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 \
            $AGENTS/node_modules/@anthropic-ai/claude-code-linux-x64/claude -p \"$PROMPT\" --dangerously-skip-permissions",
    },
    Agent {
        name: "codex",
        upstream: "openai",
        files: &[(
            ".codex/config.toml",
            "model = \"gpt-5\"\nmodel_provider = \"gateway\"\ncheck_for_update_on_startup = false\n\
             [model_providers.gateway]\nname = \"gateway\"\nbase_url = \"http://127.0.0.1:4180/openai/v1\"\n\
             env_key = \"OPENAI_API_KEY\"\nwire_api = \"responses\"\n\
             [analytics]\nenabled = false\n[feedback]\nenabled = false\n[otel]\nmetrics_exporter = \"none\"\n\
             [features]\nplugins = false\napps = false\ndaemon_auto_start = false\n",
        )],
        command: "$AGENTS/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex \
            exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \"$PROMPT\"",
    },
    Agent {
        name: "gemini",
        upstream: "gemini",
        files: &[(
            ".gemini/settings.json",
            "{\"security\":{\"auth\":{\"selectedType\":\"gemini-api-key\"},\"folderTrust\":{\"enabled\":false}},\
             \"privacy\":{\"usageStatisticsEnabled\":false},\"telemetry\":{\"enabled\":false},\
             \"general\":{\"enableAutoUpdate\":false}}",
        )],
        command: "node $AGENTS/node_modules/@google/gemini-cli/bundle/gemini.js -m gemini-2.5-pro -p \"$PROMPT\" --yolo",
    },
];

/// A program with an error in it, and the test that finds it.
const PROJECT: [(&str, &str); 2] = [
    ("calc.py", "def add(a, b):\n    return a - b\n"),
    (
        "test_calc.py",
        "import unittest\nfrom calc import add\n\n\nclass Add(unittest.TestCase):\n    def test_add(self):\n        \
         self.assertEqual(add(2, 3), 5)\n",
    ),
];

#[test]
fn real_agents_do_their_work_with_keys_that_they_never_have() {
    let (Some(host), Some(agents)) = (Host::ordinary(), agents()) else { return };
    let marker = marker(&host);
    let keys = [canary(), canary(), canary()];
    let models: Vec<ScriptedModel> = AGENTS
        .iter()
        .zip(&keys)
        .map(|(agent, key)| {
            let script = vec![
                Step::shell("cat calc.py").saying("I look at it first."),
                Step::shell("sed -i 's/a - b/a + b/' calc.py"),
                Step::shell("python3 -m unittest > tested 2>&1; tail -n 1 tested"),
                Step::text(format!("The test passes now, says {}.", agent.name)),
            ];
            ScriptedModel::start(Options { script, key: Some(key.clone()), ..Options::default() })
        })
        .collect();
    let variables = ["FIRST", "SECOND", "THIRD"];
    let sources = variables.map(|name| format!("env:{name}"));
    let upstreams: Vec<(&str, &ScriptedModel, &str)> = AGENTS
        .iter()
        .zip(&models)
        .zip(&sources)
        .map(|((agent, model), source)| (agent.upstream, model, source.as_str()))
        .collect();
    configure(&host, &upstreams);
    for agent in &AGENTS {
        let directory = host.project().join(agent.name);
        std::fs::create_dir(&directory).unwrap();
        host.own(&directory);
        for (name, content) in PROJECT {
            host.write(&format!("{}/{name}", agent.name), content);
        }
    }

    let mount = format!("{}:{INSIDE}:ro", agents.display());
    let environment: Vec<(&str, &str)> = variables.into_iter().zip(keys.iter().map(String::as_str)).collect();
    let sandbox = host.sandbox_with(
        &["--memory", "4G", "--cpus", "2", "--mount", &mount, "--gateway", "anthropic,openai,gemini"],
        &environment,
    );
    for (path, content) in AGENTS.iter().flat_map(|agent| agent.files) {
        sandbox.ok(&format!("mkdir -p \"$(dirname ~/{path})\"; cat > ~/{path} <<'END'\n{content}\nEND"));
    }
    // At the same time, as they would be.
    let variables = format!("AGENTS={INSIDE}; PROMPT='add in calc.py is wrong: mend it, and run the tests.'");
    let running = AGENTS.each_ref().map(|agent| {
        let script = format!("cd {}; {variables}; {} < /dev/null", agent.name, agent.command);
        let mut exec = host.viv(&["exec", "fixture", "--", "sh", "-c", &script]);
        let began = std::time::Instant::now();
        let exec = exec.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::spawn(move || (finish_within(exec, DEADLINE), began.elapsed()))
    });
    let placeholder = sandbox.ok("printf %s \"$ANTHROPIC_AUTH_TOKEN\"");
    for ((agent, running), (model, key)) in AGENTS.iter().zip(running).zip(models.iter().zip(&keys)) {
        let (ran, took) = running.join().unwrap();
        eprintln!("{}: {took:?}", agent.name);
        assert_eq!(ran.code, 0, "{}: {ran:?}", agent.name);
        assert!(ran.stdout.contains(&format!("The test passes now, says {}.", agent.name)), "{ran:?}");
        let directory = host.project().join(agent.name);
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        assert_eq!(read("calc.py"), "def add(a, b):\n    return a + b\n");
        assert!(read("tested").ends_with("OK\n"), "{}", read("tested"));

        let requests = model.requests();
        assert!(requests.iter().filter(|request| request.method == "POST").count() >= 4, "{}", requests.len());
        for request in &requests {
            let headers = format!("{:?}", request.headers);
            assert!(headers.contains(key) && !headers.contains(&placeholder), "{}: {headers}", request.path);
            assert!(!String::from_utf8_lossy(&request.body).contains(&placeholder), "{}", request.path);
        }
    }
    assert_in_the_egress_alone(&host, &sandbox, &keys, &placeholder, &marker);
}
