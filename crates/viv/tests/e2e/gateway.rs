//! Model APIs as programs inside have them: through the gateway, with a placeholder, within a budget.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use viv_testkit::{Fault, Options, ScriptedModel, Step, Usage};

use crate::isolation::canary;
use crate::key_search::{assert_in_the_egress_alone, egress, marker};
use crate::support::{Host, Sandbox, finish, kill, until};

/// What a model demands.
fn model(key: &str, options: Options) -> ScriptedModel {
    ScriptedModel::start(Options { key: Some(key.to_owned()), ..options })
}

/// Says in the user's configuration where each model is and where its key comes from.
pub fn configure(host: &Host, upstreams: &[(&str, &ScriptedModel, &str)]) {
    let sections: String = upstreams
        .iter()
        .map(|(name, model, key)| format!("[gateway.{name}]\nurl = {:?}\nkey = {key:?}\n", model.url()))
        .collect();
    let path = host.path("config/viv/config.toml");
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(sections.as_bytes()).unwrap();
}

/// Writes a file of the user's that the guest does not see.
fn private(host: &Host, name: &str, content: &str) -> String {
    let path = host.path("home").join(name);
    std::fs::write(&path, content).unwrap();
    host.own(&path);
    path.display().to_string()
}

/// A call of a provider's API as its own client makes it, whose answer is printed with its status.
pub fn call(api: &str, options: &str) -> String {
    let prompt = json!([{"role": "user", "content": "hello"}]);
    let (header, url, body) = match api {
        "anthropic" => (
            "authorization: Bearer $ANTHROPIC_AUTH_TOKEN",
            "$ANTHROPIC_BASE_URL/v1/messages",
            json!({"model": "claude-x", "max_tokens": 9, "stream": true, "messages": prompt}),
        ),
        "openai" => (
            "authorization: Bearer $OPENAI_API_KEY",
            "$OPENAI_BASE_URL/responses",
            json!({"model": "gpt-x", "stream": true, "input": prompt}),
        ),
        _ => (
            "x-goog-api-key: $GEMINI_API_KEY",
            "$GOOGLE_GEMINI_BASE_URL/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
            json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}),
        ),
    };
    let written = r"-w '\n%{http_code}'";
    format!("curl -sSN {written} {options} -H \"{header}\" -H 'content-type: application/json' -d '{body}' \"{url}\"")
}

/// Makes a call inside; returns its status and its body.
fn ask(sandbox: &Sandbox<'_>, api: &str) -> (u16, String) {
    let answer = sandbox.ok(&call(api, ""));
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// What `viv usage --json` says.
fn usage(host: &Host) -> Vec<Value> {
    let ran = host.run(&["usage", "fixture", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

const PROVIDERS: [&str; 3] = ["anthropic", "openai", "gemini"];

#[test]
fn a_budget_lets_just_as_many_calls_through_also_after_the_egress_was_killed() {
    let Some(host) = Host::ordinary() else { return };
    let key = canary();
    let model = model(&key, Options::default());
    let source = format!("file:{}", private(&host, "key", &key));
    configure(&host, &PROVIDERS.map(|name| (name, &model, source.as_str())));
    let sandbox = host.sandbox(&["--gateway", "anthropic,openai,gemini", "--budget", "12-requests"]);

    assert_eq!(ask(&sandbox, "anthropic").0, 200);
    let first = egress(&host);
    kill(first, Signal::KILL);
    let (status, body) = ask(&sandbox, "gemini");
    assert_eq!(status, 200, "{body}");
    assert_ne!(egress(&host), first);

    let calls = PROVIDERS.map(|api| call(api, "-o /tmp/calls/$1"));
    let script = format!(
        "mkdir /tmp/calls; one() {{ case $(($1 % 3)) in 0) {} ;; 1) {} ;; 2) {} ;; esac; }}
        for i in $(seq 50); do (echo \"$i $(one $i | tr -d '\\n')\") & done; wait",
        calls[0], calls[1], calls[2]
    );
    let answers = sandbox.ok(&script);
    let answers: Vec<(&str, &str)> = answers.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(answers.len(), 50);
    let (through, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, status)| *status == "200");
    assert_eq!(through.len(), 10, "{refused:?}");
    assert_eq!(model.requests().len(), 12);
    // Each provider's own words for it, none of which makes its client try again.
    let expected = [
        ("402", "/error/type", json!("billing_error")),
        ("400", "/error/code", json!("insufficient_quota")),
        ("400", "/error/status", json!("FAILED_PRECONDITION")),
    ];
    for (api, (status, pointer, word)) in expected.into_iter().enumerate() {
        let Some((number, answered)) = refused.iter().find(|(number, _)| number.parse::<usize>().unwrap() % 3 == api)
        else {
            panic!("each provider's calls are more than all that may be made: {refused:?}");
        };
        assert_eq!(*answered, status, "{api}");
        let body: Value = serde_json::from_str(&sandbox.ok(&format!("cat /tmp/calls/{number}"))).unwrap();
        assert_eq!(body.pointer(pointer), Some(&word), "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("12 of 12 requests") && message.contains("--budget"), "{message}");
    }
    kill(egress(&host), Signal::KILL);
    assert_eq!(ask(&sandbox, "anthropic").0, 402, "a spent budget stays spent");
    assert_eq!(model.requests().len(), 12);

    let lines = usage(&host);
    let requests: u64 = lines.iter().map(|line| line["requests"].as_u64().unwrap()).sum();
    assert_eq!(requests, 12, "{lines:?}");
    let listed = host.run(&["usage", "fixture"]).stdout;
    assert!(listed.contains("claude-x") && listed.contains("gpt-x") && listed.contains("gemini-x"), "{listed}");
}

#[test]
fn a_stream_is_passed_on_as_it_comes_and_cut_where_it_passes_a_budget() {
    let Some(host) = Host::ordinary() else { return };
    let little = Usage { input: 9, cached: 0, cache_write: 0, output: 3 };
    let gated = model("one", Options { usage: Some(little), gated: true, ..Options::default() });
    let much = Usage { input: 900, cached: 0, cache_write: 0, output: 100 };
    let long = model(
        "two",
        Options { usage: Some(much), script: vec![Step::text("word ".repeat(400))], ..Options::default() },
    );
    configure(&host, &[("anthropic", &gated, "env:ONE"), ("openai", &long, "env:TWO")]);
    let sandbox = host
        .sandbox_with(&["--gateway", "anthropic,openai", "--budget", "500-tokens"], &[("ONE", "one"), ("TWO", "two")]);

    // Each event arrives while the next one is not there yet.
    let script = call("anthropic", "");
    let mut client = host.viv(&["exec", "fixture", "--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut events = Vec::new();
    while events.last().is_none_or(|event| event != "event: message_stop") {
        gated.release(1);
        // Its name, its data and an empty line.
        events.push(lines.next().unwrap().unwrap());
        assert!(lines.next().unwrap().unwrap().starts_with("data: {"), "{events:?}");
        assert_eq!(lines.next().unwrap().unwrap(), "");
    }
    assert!(events.len() > 4, "{events:?}");
    assert_eq!(lines.map(Result::unwrap).collect::<Vec<_>>(), ["", "200"]);
    assert_eq!(finish(client).code, 0);

    let (status, body) = ask(&sandbox, "openai");
    assert_eq!(status, 200);
    let events: Vec<&str> = body.trim_end().split("\n\n").collect();
    let last = events.last().unwrap();
    assert!(events.len() < 400 && last.starts_with("event: response.failed\n"), "{last}");
    assert!(last.contains("insufficient_quota") && last.contains("budget is spent"), "{last}");
    for event in events {
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str::<Value>(data).expect("whole events alone");
    }
    assert_eq!(ask(&sandbox, "openai").0, 400);
    assert_eq!(long.requests().len(), 1);
    until("both are counted", || usage(&host).iter().all(|line| line["unfinished"] == 0));
    let lines = usage(&host);
    let [anthropic, openai] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&anthropic["input"], &anthropic["output"]), (&json!(9), &json!(3)), "{lines:?}");
    assert_eq!(openai["estimated"], 1, "{lines:?}");
}

#[test]
fn without_a_network_the_gateway_works_through_what_goes_wrong() {
    let Some(host) = Host::ordinary() else { return };
    let model = model("old-key", Options::default());
    let file = private(&host, "key", "old-key\n");
    configure(&host, &PROVIDERS.map(|name| (name, &model, "file:~/key")));
    let sandbox = host.sandbox(&["--net", "none", "--gateway", "anthropic,openai,gemini"]);
    for api in PROVIDERS {
        let (status, body) = ask(&sandbox, api);
        assert!(status == 200 && body.contains("done"), "{api}: {status} {body}");
    }

    // The provider has another key from now on, and then the host, too.
    model.rotate_key("new-key");
    let (status, body) = ask(&sandbox, "anthropic");
    assert!(status == 403 && body.contains("permission_error"), "{status} {body}");
    assert!(!body.contains("old-key"), "nothing of the key is in the refusal: {body}");
    std::fs::write(file, "new-key\n").unwrap();
    for api in PROVIDERS {
        assert_eq!(ask(&sandbox, api).0, 200, "{api}");
    }

    // No answer, half of one, one that is broken off, and an error of the provider's own.
    for (fault, begins_with) in
        [(Fault::StallBeforeHeaders, None), (Fault::StallAfter(1), Some("event: message_start"))]
    {
        let before = model.requests().len();
        model.fail_next(fault);
        let script = format!("exec {}", call("anthropic", ""));
        let mut patient = host.viv(&["exec", "fixture", "--", "sh", "-c", &script]);
        let mut patient = patient.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the model was asked", || model.requests().len() > before);
        let mut lines = BufReader::new(patient.stdout.take().unwrap()).lines();
        if let Some(beginning) = begins_with {
            assert_eq!(lines.next().unwrap().unwrap(), beginning);
        }
        // It would wait for as long as models may think.
        sandbox.ok("pkill -KILL -x curl");
        let ran = finish(patient);
        assert_eq!(ran.code, 137, "{fault:?}: {ran:?}");
    }
    model.fail_next(Fault::ResetAfter(1));
    let ran = sandbox.sh(&call("openai", ""));
    assert!(ran.code != 0 && !ran.stdout.contains("response.completed"), "an end that is none: {ran:?}");
    model.fail_next(Fault::Status(529));
    let (status, body) = ask(&sandbox, "anthropic");
    assert!(status == 529 && body.contains("failed as told"), "{status} {body}");
    assert_eq!(ask(&sandbox, "gemini").0, 200);

    // Who has no placeholder reaches no one, and a WebSocket is told at once to be none.
    let before = model.requests().len();
    let ran = sandbox.ok(&format!("ANTHROPIC_AUTH_TOKEN=sk-other; {}", call("anthropic", "")));
    assert!(ran.ends_with("\n401") && ran.contains("authentication_error"), "{ran}");
    let upgrade = "-H 'connection: upgrade' -H 'upgrade: websocket' -H 'sec-websocket-version: 13' -H 'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=='";
    let ran = sandbox.ok(&format!(
        "curl -sS -o /dev/null -w '%{{http_code}}' {upgrade} -H \"authorization: Bearer $OPENAI_API_KEY\" $OPENAI_BASE_URL/responses"
    ));
    assert_eq!(ran, "426");
    assert_eq!(model.requests().len(), before);

    drop(model);
    let (status, body) = ask(&sandbox, "anthropic");
    assert!(status == 502 && body.contains("cannot be reached"), "{status} {body}");
}

/// A file in the user's home that prints what another one there holds.
const KEY_COMMAND: &str = "#!/bin/sh\nexec cat \"$HOME/.$KEY_NAME\"\n";

fn key_command(host: &Host) -> String {
    let path = private(host, "key-command", KEY_COMMAND);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    format!("command:{path}")
}

#[test]
fn a_key_is_nowhere_but_in_the_egress() {
    let Some(host) = Host::ordinary() else { return };
    let marker = marker(&host);
    let keys = [canary(), canary(), canary()];
    let models = keys.each_ref().map(|key| model(key, Options::default()));
    private(&host, "key", &keys[1]);
    private(&host, ".third", &keys[2]);
    let command = key_command(&host);
    configure(
        &host,
        &[
            ("anthropic", &models[0], "env:FIRST"),
            ("openai", &models[1], "file:~/key"),
            ("gemini", &models[2], &command),
        ],
    );
    let sandbox = host.sandbox_with(
        &["--gateway", "anthropic,openai,gemini", "--deploy-key"],
        &[("FIRST", &keys[0]), ("KEY_NAME", "third")],
    );
    // A busy run, of which some goes wrong in ways that providers answer with keys in them.
    models[1].rotate_key("another");
    assert_eq!(ask(&sandbox, "openai").0, 401);
    models[1].rotate_key(&keys[1]);
    for model in &models {
        model.fail_next(Fault::Status(500));
    }
    for (round, status) in [(0, 500), (1, 200), (2, 200)] {
        for api in PROVIDERS {
            assert_eq!(ask(&sandbox, api).0, status, "{round}: {api}");
        }
    }
    let placeholder = sandbox.ok("printf %s \"$ANTHROPIC_AUTH_TOKEN\"");
    for (model, key) in models.iter().zip(&keys) {
        for request in model.requests() {
            let headers = format!("{:?}", request.headers);
            assert!(headers.contains(key) && !headers.contains(&placeholder), "{headers}");
            assert!(!String::from_utf8_lossy(&request.body).contains(&placeholder));
        }
    }

    assert_in_the_egress_alone(&host, &sandbox, &keys, &placeholder, &marker);
}

#[test]
fn a_spares_gateway_has_the_users_environment_and_not_the_spares() {
    let Some(host) = Host::ordinary() else { return };
    let (key, password) = (canary(), canary());
    let model = model(&key, Options { tls: vec!["127.0.0.1".to_owned()], ..Options::default() });
    let authority = private(&host, "authority.pem", model.authority().unwrap());
    private(&host, ".mine", &key);
    configure(&host, &[("anthropic", &model, &key_command(&host))]);
    let first = host.run(&["run", "-v", "--net", "none", "--spares", "1", "--", "true"]);
    assert!(first.code == 0 && first.is_from_template(), "{first:?}");
    until("a spare is ready", || crate::spares::ready(&host).len() == 1);

    // Nothing listens at port 1, which is what is reached where a proxy is used.
    let proxy = format!("http://user:{password}@127.0.0.1:1");
    let run = |no_proxy: &str, script: &str| {
        let mut run = host.viv(&["run", "-v", "--name", "fixture", "--net", "none"]);
        run.args(["--gateway", "anthropic", "--", "sh", "-c", script]);
        run.env("KEY_NAME", "mine").env("SSL_CERT_FILE", &authority).env("HTTPS_PROXY", &proxy);
        run.env("NO_PROXY", no_proxy).stdout(Stdio::piped()).stderr(Stdio::piped());
        run.spawn().unwrap()
    };
    let mut running = run("127.0.0.1", &format!("{}; echo; exec sleep infinity", call("anthropic", "-o /dev/null")));
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!([lines.next(), lines.next()].map(|line| line.unwrap().unwrap()), ["", "200"]);
    assert_eq!(model.requests().len(), 1);
    for (pid, line) in host.processes().into_iter().filter(|(pid, _)| *pid != running.id()) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains(&password), "{line}");
    }
    assert_eq!(host.run(&["stop", "fixture"]).code, 0);
    let ran = finish(running);
    assert!(ran.stderr.contains("a spare of template"), "{ran:?}");

    let ran = finish(run("", &call("anthropic", "")));
    assert!(ran.stdout.ends_with("\n502"), "the proxy is not passed by: {ran:?}");
    assert!(!ran.stdout.contains(&password), "{ran:?}");
    assert_eq!(model.requests().len(), 1);
    host.assert_nothing_is_left();
}
