//! The agents themselves, from their packages, called by name, at work in a sandbox against a scripted model.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use viv_testkit::{Options, ScriptedModel, Step};

use crate::gateway::configure;
use crate::isolation::canary;
use crate::support::{Host, finish_within};
use crate::terminal::Pane;

/// Ten times what the slowest of them took on a machine of two busy cores, without KVM.
const DEADLINE: Duration = Duration::from_secs(1800);

/// A host whose npm is configured as it is for whoever runs the tests. What agents are installed from it stays in the
/// cache.
fn host() -> Option<Host> {
    Some(Host::ordinary()?.with_own_clients())
}

/// How one of them is told what to do.
#[derive(Clone, Copy)]
enum Told {
    /// By its own flags.
    Natively(&'static str),
    /// By words after its name.
    InWords,
    /// On its standard input.
    ByInput,
}

/// One of them, its model API, and how it is told. The slowest comes first.
const AGENTS: [(&str, &str, Told); 3] = [
    ("gemini", "gemini", Told::ByInput),
    ("claude", "anthropic", Told::Natively("-p")),
    ("codex", "openai", Told::InWords),
];

const PROMPT: &str = "add in calc.py is wrong: mend it, and run the tests.";

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
fn agents_called_by_name_mend_a_program_with_keys_that_they_never_have() {
    let Some(host) = host() else { return };
    let key = canary();
    let models = AGENTS.map(|(name, ..)| {
        let script = vec![
            Step::shell("cat calc.py").saying("I look at it first."),
            Step::shell("sed -i 's/a - b/a + b/' calc.py"),
            Step::shell("python3 -m unittest > tested 2>&1; tail -n 1 tested"),
            Step::text(format!("The test passes now, says {name}.")),
        ];
        ScriptedModel::start(Options { script, key: Some(key.clone()), ..Options::default() })
    });
    let upstreams: Vec<(&str, &ScriptedModel, &str)> =
        AGENTS.iter().zip(&models).map(|((_, upstream, _), model)| (*upstream, model, "env:MODEL_KEY")).collect();
    configure(&host, &upstreams);
    // One without a key is refused by name, before anything is installed or starts.
    let keyless = host.run(&["run", "claude", PROMPT]);
    assert!(keyless.code == 125 && keyless.stderr.contains("the key of anthropic is not there"), "{keyless:?}");

    // Two at a time: a machine is emulated by hardly more than one processor.
    let waiting = Mutex::new(AGENTS.iter().zip(&models).collect::<VecDeque<_>>());
    let next = || waiting.lock().unwrap().pop_front();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(((name, _, told), model)) = next() {
                    mends_the_program(&host, name, *told, model, &key);
                }
            });
        }
    });
    // What was told to whom is remembered on the host, outside of the projects and of the user's own.
    for (name, ..) in AGENTS {
        let listed = host.run(&["agent", "home", name, "--workspace", name, "--json"]);
        let homes: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
        let path = PathBuf::from(homes[0]["path"].as_str().unwrap());
        assert!(path.starts_with(host.path("state")), "{}", path.display());
        assert!(!host.path("home").join(format!(".{name}")).exists(), "{name}");
        let mut grep = host.command("grep");
        assert!(grep.args(["-rlsq", "calc.py is wrong"]).arg(&path).status().unwrap().success(), "{name}");
    }
    what_they_ran_is_kept(&host);
    host.assert_nothing_is_left();
}

/// What an agent's shell ran is no program to the timeline: it is in a transcript beside it.
fn what_they_ran_is_kept(host: &Host) {
    let json = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let ran = host.run(arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let mut saw = Vec::new();
    for timeline in json(&["audit", "ls", "--json"]) {
        let id = timeline["name"].as_str().unwrap();
        let kept = json(&["logs", id, "--transcripts", "--json"]);
        let texts = kept.iter().map(|kept| std::fs::read_to_string(kept["copy"].as_str().unwrap()).unwrap());
        let text: String = texts.collect();
        for what in [PROMPT, "cat calc.py", "s/a - b/a + b/", "python3 -m unittest"] {
            assert!(text.contains(what), "{what} in {kept:?}");
        }
        assert_eq!(host.run(&["audit", "verify", id]).code, 0);
        saw.push(kept[0]["agent"].as_str().unwrap().to_owned());
    }
    saw.sort();
    assert_eq!(saw, ["claude", "codex", "gemini"]);
}

/// Has an agent do its work in a project of its own.
fn mends_the_program(host: &Host, name: &str, told: Told, model: &ScriptedModel, key: &str) {
    let project = host.project().join(name);
    std::fs::create_dir(&project).unwrap();
    host.own(&project);
    for (file, content) in PROJECT {
        host.write(&format!("{name}/{file}"), content);
    }
    let mut words = vec!["run", "--quiet", "--workspace", name, name];
    match told {
        Told::Natively(flag) => words.extend(["--", flag, PROMPT]),
        Told::InWords => words.extend(PROMPT.split(' ')),
        Told::ByInput => {}
    }
    let mut viv = host.viv(&words);
    viv.env("MODEL_KEY", key).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Told::ByInput = told {
        viv.stdin(Stdio::piped());
    }
    let began = Instant::now();
    let mut viv = viv.spawn().unwrap();
    if let Some(mut input) = viv.stdin.take() {
        input.write_all(PROMPT.as_bytes()).unwrap();
    }
    let ran = finish_within(viv, DEADLINE);
    eprintln!("{name}: {:?}", began.elapsed());
    assert_eq!(ran.code, 0, "{name}: {ran:?}");
    assert!(ran.stdout.contains(&format!("The test passes now, says {name}.")), "{ran:?}");
    let read = |file: &str| std::fs::read_to_string(project.join(file)).unwrap();
    assert_eq!(read("calc.py"), "def add(a, b):\n    return a + b\n");
    assert!(read("tested").ends_with("OK\n"), "{}", read("tested"));

    let requests = model.requests();
    assert!(requests.iter().filter(|request| request.method == "POST").count() >= 4, "{}", requests.len());
    for request in &requests {
        let headers = format!("{:?}", request.headers);
        assert!(headers.contains(key) && !headers.contains("sk-viv-"), "{name}: {headers}");
        assert!(!String::from_utf8_lossy(&request.body).contains("sk-viv-"), "{name}: {}", request.path);
    }
}

/// A screen without what depends on the width, empty lines and the end of lines.
fn lines(screen: &str) -> Vec<&str> {
    screen.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('─')).collect()
}

fn wait_long(pane: &Pane<'_>, what: &str, so: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let screen = pane.screen();
        if so(&screen) {
            return screen;
        }
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}, on:\n{screen}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn claude_at_a_terminal_asks_nothing_and_goes_on_tomorrow_where_it_was() {
    const ANSWER: &str = "It is mended, says the model.";
    let Some(host) = host() else { return };
    let model = ScriptedModel::start(Options { script: vec![Step::text(ANSWER)], ..Options::default() });
    configure(&host, &[("anthropic", &model, "none")]);
    let run = format!("{} run --quiet claude", host.executable().display());
    let ready = |screen: &str| screen.contains("bypass permissions on") && screen.contains('❯');

    let pane = Pane::open(&host, 100, 30);
    pane.line(&run);
    let screen = wait_long(&pane, "claude's prompt", ready);
    let project = host.project().display().to_string();
    let shown = lines(&screen);
    // Its name and version, its model, the directory; the prompt; the mode. No dialog.
    let [name, billing, directory, hints @ .., prompt, mode] = shown.as_slice() else { panic!("{screen}") };
    assert!(name.contains("Claude Code v"), "{screen}");
    assert!(billing.contains("API Usage Billing"), "{screen}");
    assert!(directory.contains(&project), "{screen}");
    // What its model is set to is shown for a moment.
    assert!(hints.iter().all(|hint| hint.ends_with("/effort")), "{screen}");
    assert_eq!(prompt.trim_end(), "❯", "{screen}");
    assert!(mode.contains("bypass permissions on"), "{screen}");

    pane.line("mend it");
    wait_long(&pane, "the answer", |screen| screen.contains(ANSWER) && ready(screen));
    pane.line("/exit");
    let at_host = |screen: &str| screen.lines().rfind(|line| !line.is_empty()).is_some_and(|line| line == "host$");
    wait_long(&pane, "the host's prompt", at_host);

    pane.line("clear");
    wait_long(&pane, "an empty screen", |screen| !screen.contains(ANSWER));
    pane.line(&format!("{run} -- --continue"));
    let screen = wait_long(&pane, "yesterday's session", |screen| screen.contains(ANSWER) && ready(screen));
    assert!(screen.contains("mend it"), "{screen}");
    pane.line("/exit");
    wait_long(&pane, "the host's prompt", at_host);
}
