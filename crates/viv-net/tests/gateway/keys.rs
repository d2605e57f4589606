//! Keys in, placeholders out, and neither anywhere else.

use hyper::StatusCode;
use serde_json::{Value, json};
use viv_net::gateway::{Credential, Gateway, GatewaySpec};
use viv_net::log::EventSink;
use viv_testkit::{Fault, Options};

use crate::support::{APIS, Bench, CANARY, OTHER_PLACEHOLDER, PLACEHOLDER, ask_gateway, call, keys, post};

#[tokio::test]
async fn each_providers_key_is_put_in_and_the_placeholder_is_gone() {
    let bench = Bench::plain(Options::default());
    for (number, (api, stream)) in APIS.iter().flat_map(|api| [(api, false), (api, true)]).enumerate() {
        let mut request = call(api, PLACEHOLDER, stream);
        request.headers_mut().insert("x-unknown", "kept".parse().expect("a value"));
        request.headers_mut().insert("accept-encoding", "gzip".parse().expect("a value"));
        let body = json!({"model": "m", "unknown": {"kept": [1.50, "é"]}}).to_string();
        *request.body_mut() = body.clone().into();
        let answer = bench.ask(request).await;
        assert_eq!(answer.status, StatusCode::OK, "{api}: {}", answer.text);
        let asked = &bench.model.requests()[number];
        assert_eq!(asked.body, body.as_bytes());
        assert_eq!(asked.header("x-unknown"), Some("kept"));
        assert_eq!(asked.header("accept-encoding"), None);
        assert!(!format!("{asked:?}").contains(PLACEHOLDER), "{asked:?}");
        assert!(!answer.text.contains(CANARY) && !format!("{:?}", answer.headers).contains(CANARY));
    }
    let paths: Vec<String> = bench.model.requests().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths[0], "/v1/messages?beta=true");
    assert_eq!(paths[7], "/v1beta/models/gemini-x:streamGenerateContent?alt=sse");
}

#[tokio::test]
async fn a_placeholder_counts_wherever_clients_put_keys() {
    let bench = Bench::plain(Options::default());
    let body = json!({"model": "m", "messages": []});
    let bearer = format!("Bearer {PLACEHOLDER}");
    for header in [("x-api-key", PLACEHOLDER), ("authorization", &*bearer), ("x-goog-api-key", PLACEHOLDER)] {
        assert_eq!(bench.ask(post("/anthropic/v1/messages", header, &body)).await.status, StatusCode::OK);
    }
    let path = format!("/gemini/v1beta/models/m:generateContent?key={PLACEHOLDER}&x=1");
    assert_eq!(bench.ask(post(&path, ("x-x", "y"), &json!({}))).await.status, StatusCode::OK);
    let asked = bench.model.requests();
    assert_eq!(asked[3].path, "/v1beta/models/m:generateContent?x=1");
    for asked in asked {
        assert!(!format!("{asked:?}").contains(PLACEHOLDER));
    }
}

#[tokio::test]
async fn whoever_has_no_placeholder_reaches_no_one() {
    let bench = Bench::plain(Options::default());
    let mut shown = String::new();
    for api in APIS {
        for token in ["", "wrong", CANARY] {
            let answer = bench.ask(call(api, token, true)).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            if token.is_empty() {
                shown += &format!("{}\n", answer.text);
            }
        }
    }
    insta::assert_snapshot!(shown, @r#"
    {"error":{"message":"viv: the key is not the placeholder that this sandbox was given","type":"authentication_error"},"type":"error"}
    {"error":{"code":"invalid_api_key","message":"viv: the key is not the placeholder that this sandbox was given","param":null,"type":"invalid_request_error"}}
    {"error":{"code":"invalid_api_key","message":"viv: the key is not the placeholder that this sandbox was given","param":null,"type":"invalid_request_error"}}
    {"error":{"code":401,"message":"viv: the key is not the placeholder that this sandbox was given","status":"UNAUTHENTICATED"}}
    "#);
    assert!(bench.model.requests().is_empty());
    assert_eq!(bench.usage(), []);
}

#[tokio::test]
async fn unknown_upstreams_websockets_and_paths_that_leave_are_refused() {
    let bench = Bench::plain(Options::default());
    let unknown = bench.ask(post("/mistral/v1/x", ("x-api-key", PLACEHOLDER), &json!({}))).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    insta::assert_snapshot!(unknown.text, @r#"{"error":{"code":"unknown_upstream","message":"viv: there is no model API `mistral` here, only: anthropic, gemini, openai","type":"not_found","upstreams":["anthropic","gemini","openai"]}}"#);
    let mut upgrade = call("responses", PLACEHOLDER, true);
    upgrade.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
    upgrade.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
    let upgrade = bench.ask(upgrade).await;
    assert_eq!(upgrade.status, StatusCode::UPGRADE_REQUIRED);
    assert_eq!(upgrade.headers["upgrade"], "HTTP/1.1");
    insta::assert_snapshot!(upgrade.text, @r#"{"error":{"code":"websocket_not_supported","message":"viv: the gateway speaks HTTP/1.1 alone, no WebSocket","param":null,"type":"invalid_request_error"}}"#);
    let leaves = bench.ask(post("/anthropic/v1/%2e%2e/x", ("x-api-key", PLACEHOLDER), &json!({}))).await;
    assert_eq!(leaves.status, StatusCode::BAD_REQUEST);
    assert!(bench.model.requests().is_empty());
}

#[tokio::test]
async fn a_request_that_asks_for_nothing_is_no_call() {
    let bench = Bench::plain(Options::default());
    let mut request = post("/openai/v1/models", ("authorization", &format!("Bearer {PLACEHOLDER}")), &Value::Null);
    *request.method_mut() = hyper::Method::GET;
    *request.body_mut() = "".into();
    let answer = bench.ask(request).await;
    assert_eq!((answer.status, answer.json()["object"].as_str()), (StatusCode::OK, Some("list")));
    assert_eq!(bench.usage(), []);
    assert_eq!(bench.model.requests()[0].header("authorization"), Some(&*format!("Bearer {CANARY}")));
}

#[tokio::test]
async fn a_key_that_is_rotated_while_running_is_read_again() {
    let bench = Bench::new(Options::default(), |spec, model| {
        let directory = std::env::temp_dir().join(format!("viv-gateway-{}", model.address().port()));
        std::fs::write(&directory, format!("{CANARY}\nlogin: me\n")).expect("written");
        let path = directory.to_str().expect("text").to_owned();
        for (name, credential) in [
            ("anthropic", Credential::File(directory.clone())),
            ("openai", Credential::Command(vec!["head".into(), "-n1".into(), path])),
        ] {
            spec.upstreams.get_mut(name).expect("an upstream").credential = credential;
        }
    });
    let file = std::env::temp_dir().join(format!("viv-gateway-{}", bench.model.address().port()));
    for api in ["anthropic", "chat"] {
        assert_eq!(bench.ask(call(api, PLACEHOLDER, true)).await.status, StatusCode::OK);
    }
    bench.model.rotate_key("sk-rotated");
    // As long as the file has the old key, the refusal is told, without what the upstream says of the key.
    let refused = bench.ask(call("anthropic", PLACEHOLDER, true)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(!refused.text.contains(CANARY));
    insta::assert_snapshot!(refused.text, @r#"{"error":{"message":"viv: the upstream `anthropic` refuses the host's key (401)","type":"permission_error"},"type":"error"}"#);
    std::fs::write(&file, "sk-rotated\n").expect("written");
    for api in ["anthropic", "chat"] {
        assert_eq!(bench.ask(call(api, PLACEHOLDER, true)).await.status, StatusCode::OK, "{api}");
    }
    std::fs::remove_file(file).expect("removed");
    // The command ran again because the key was refused: that call was made twice.
    let tried: Vec<u16> = bench.model.requests().iter().map(|asked| asked.status).collect();
    assert_eq!(tried, [200, 200, 401, 200, 401, 200]);
    assert_eq!(bench.usage().len(), 5);
}

#[tokio::test]
async fn a_host_without_a_key_says_what_is_missing_in_each_providers_shape() {
    let bench = Bench::new(Options::default(), |spec: &mut GatewaySpec, _| {
        let missing = [
            Credential::Env("NOT_SET".into()),
            Credential::File("/nonexistent/key".into()),
            Credential::Command(vec!["false".into()]),
        ];
        for (upstream, credential) in spec.upstreams.values_mut().zip(missing) {
            upstream.credential = credential;
        }
    });
    let mut shown = String::new();
    for api in ["anthropic", "chat", "gemini"] {
        let answer = bench.ask(call(api, PLACEHOLDER, true)).await;
        shown += &format!("{} {}\n", answer.status, answer.text);
    }
    insta::assert_snapshot!(shown, @r#"
    403 Forbidden {"error":{"message":"viv: the variable NOT_SET is not set on the host","type":"permission_error"},"type":"error"}
    401 Unauthorized {"error":{"code":"invalid_api_key","message":"viv: the host's command for the key, `false`, failed: exit status: 1","param":null,"type":"invalid_request_error"}}
    403 Forbidden {"error":{"code":403,"message":"viv: the host's key file cannot be read: entity not found","status":"PERMISSION_DENIED"}}
    "#);
    assert_eq!(bench.usage(), [], "a host without a key uses up nothing");
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_key() {
    let bench = Bench::plain(Options::default());
    bench.model.fail_next(Fault::Redirect);
    let answer = bench.ask(call("anthropic", PLACEHOLDER, false)).await;
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(bench.model.requests().len(), 1);
}

#[tokio::test]
async fn upstreams_are_reached_over_tls_by_the_authorities_that_are_trusted() {
    let bench = Bench::plain(Options { tls: vec!["127.0.0.1".into()], ..Options::default() });
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::OK);
    // The host's own authorities do not know the model's.
    let mut spec = bench.spec.clone();
    spec.authorities = None;
    let other = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&spec, keys(), other.path(), EventSink::nowhere()).expect("a gateway");
    let answer = ask_gateway(&gateway, call("anthropic", PLACEHOLDER, true)).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text.contains("certificate"), "{}", answer.text);
    assert_eq!(bench.model.requests().len(), 1);
}

#[tokio::test]
async fn the_key_is_in_no_log_no_record_no_error_and_no_debug() {
    let bench = Bench::plain(Options::default());
    let mut seen = format!("{:?} {:?} {:?}", bench.gateway, bench.spec, keys());
    for api in APIS {
        for (token, stream) in [(PLACEHOLDER, true), (OTHER_PLACEHOLDER, false), ("wrong", true)] {
            let answer = bench.ask(call(api, token, stream)).await;
            seen += &format!("{:?} {}", answer.headers, answer.text);
        }
    }
    bench.model.rotate_key("another");
    let refused = bench.ask(call("chat", PLACEHOLDER, true)).await;
    seen += &format!("{:?} {}", refused.headers, refused.text);
    seen += &bench.log();
    for entry in std::fs::read_dir(bench.directory.path()).expect("a directory") {
        let path = entry.expect("an entry").path();
        seen += &std::fs::read_to_string(&path).expect("text");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().expect("metadata").permissions().mode() & 0o777, 0o600);
    }
    assert!(seen.contains("claude-x") && seen.contains("\"event\":\"call\""));
    for secret in [CANARY, "canary", PLACEHOLDER] {
        let found = seen.find(secret).map(|at| &seen[at.saturating_sub(60)..(at + 60).min(seen.len())]);
        assert!(secret == PLACEHOLDER || found.is_none(), "{secret}: {found:?}");
    }
}
