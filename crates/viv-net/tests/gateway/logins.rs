//! Subscriptions: a sentinel in the guest, the token and its refresh on the host.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use serde_json::{Value, json};
use viv_net::gateway::{Credential, Login, LoginKind};
use viv_testkit::{Fault, Options};

use crate::support::{Bench, CANARY, PLACEHOLDER, ask_gateway, call};

fn milliseconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    i64::try_from(now).expect("this age") + seconds * 1000
}

fn bench(kind: LoginKind, file: &Path) -> Bench {
    Bench::new(Options::default(), |spec, model| {
        let token_url = Some(format!("{}/oauth/token", model.url()));
        let credential = Credential::Login(Login { kind, file: file.to_owned(), token_url });
        for upstream in spec.upstreams.values_mut() {
            upstream.credential = credential.clone();
        }
    })
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("read")).expect("JSON")
}

fn claude(token: &str, seconds: i64) -> Value {
    json!({
        "claudeAiOauth": {
            "accessToken": token, "refreshToken": "refresh-1", "expiresAt": milliseconds_from_now(seconds),
            "scopes": ["user:inference"], "subscriptionType": "max",
        },
        "mcpOAuth": {"kept": true},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_is_refreshed_once_for_all_callers() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".credentials.json");
    std::fs::write(&file, claude("old", 60).to_string()).expect("written");
    let bench = bench(LoginKind::Claude, &file);
    let granted = json!({"access_token": CANARY, "refresh_token": "refresh-2", "expires_in": 3600});
    bench.model.grant("refresh-1", granted);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let gateway = std::sync::Arc::clone(&bench.gateway);
        calls.spawn(async move { ask_gateway(&gateway, call("anthropic", PLACEHOLDER, true)).await.status });
    }
    assert!(calls.join_all().await.into_iter().all(|status| status == StatusCode::OK));
    let asked = bench.model.requests();
    let refreshes: Vec<_> = asked.iter().filter(|asked| asked.path == "/oauth/token").collect();
    assert_eq!((refreshes.len(), asked.len()), (1, 21));
    assert_eq!(asked[1].header("authorization"), Some(&*format!("Bearer {CANARY}")));
    assert_eq!(asked[1].header("anthropic-beta"), Some("oauth-2025-04-20"));
    assert_eq!(asked[1].header("x-api-key"), None);
    let written = read(&file);
    assert_eq!(written["claudeAiOauth"]["refreshToken"], "refresh-2");
    assert_eq!(written["claudeAiOauth"]["subscriptionType"], "max");
    assert_eq!(written["mcpOAuth"]["kept"], true);
    assert!(written["claudeAiOauth"]["expiresAt"].as_i64() > Some(milliseconds_from_now(3000)));
    assert_eq!(file.metadata().expect("metadata").permissions().mode() & 0o777, 0o600);
    let mut left: Vec<_> =
        std::fs::read_dir(home.path()).expect("read").map(|entry| entry.expect("an entry").file_name()).collect();
    left.sort_unstable();
    assert_eq!(left, [".credentials.json", ".credentials.json.viv-lock"]);
}

#[tokio::test]
async fn a_login_that_is_refused_is_refreshed_and_the_call_made_again() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("auth.json");
    let login = json!({
        "OPENAI_API_KEY": null, "last_refresh": "2999-01-01T00:00:00Z",
        "tokens": {"id_token": "i", "access_token": "revoked", "refresh_token": "refresh-1", "account_id": "account"},
    });
    std::fs::write(&file, login.to_string()).expect("written");
    let bench = bench(LoginKind::Codex, &file);
    bench.model.grant("refresh-1", json!({"access_token": CANARY, "refresh_token": "refresh-2", "id_token": "j"}));
    assert_eq!(bench.ask(call("responses", PLACEHOLDER, true)).await.status, StatusCode::OK);
    let paths: Vec<_> = bench.model.requests().into_iter().map(|asked| (asked.path, asked.status)).collect();
    assert_eq!(paths, [("/v1/responses".into(), 401), ("/oauth/token".into(), 200), ("/v1/responses".into(), 200)]);
    assert_eq!(bench.model.requests()[2].header("chatgpt-account-id"), Some("account"));
    let written = read(&file);
    assert_eq!((&written["tokens"]["id_token"], &written["tokens"]["account_id"]), (&json!("j"), &json!("account")));
    assert_ne!(written["last_refresh"], login["last_refresh"]);
    assert_eq!(bench.usage().len(), 1);
}

#[tokio::test]
async fn a_login_is_not_refreshed_again_and_again_for_an_upstream_that_refuses_it() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".credentials.json");
    std::fs::write(&file, claude("revoked", 3600).to_string()).expect("written");
    let bench = bench(LoginKind::Claude, &file);
    for (old, new) in [("refresh-1", "refresh-2"), ("refresh-2", "refresh-3")] {
        bench.model.grant(old, json!({"access_token": new, "refresh_token": new, "expires_in": 3600}));
    }
    for _ in 0..3 {
        assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::FORBIDDEN);
    }
    bench.model.rotate_key("refresh-2");
    bench.model.fail_next(Fault::Status(403));
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::FORBIDDEN);
    let refreshes = bench.model.requests().iter().filter(|asked| asked.path == "/oauth/token").count();
    assert_eq!(refreshes, 1);
}

#[tokio::test]
async fn a_login_that_the_hosts_own_program_has_refreshed_is_read_again() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".credentials.json");
    std::fs::write(&file, claude(CANARY, 3600).to_string()).expect("written");
    let bench = bench(LoginKind::Claude, &file);
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::OK);
    bench.model.rotate_key("by-claude-itself");
    std::fs::write(&file, claude("by-claude-itself", 7200).to_string()).expect("written");
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::OK);
    assert!(bench.model.requests().iter().all(|asked| asked.path != "/oauth/token"));
}

#[tokio::test]
async fn a_login_that_cannot_be_refreshed_says_so_and_stays_as_it_is() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".credentials.json");
    let login = claude("old", -10).to_string();
    std::fs::write(&file, &login).expect("written");
    let bench = bench(LoginKind::Claude, &file);
    let answer = bench.ask(call("anthropic", PLACEHOLDER, true)).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    insta::assert_snapshot!(answer.text, @r#"{"error":{"message":"viv: the host's login cannot be refreshed: 400 Bad Request; log in again there","type":"permission_error"},"type":"error"}"#);
    assert_eq!(std::fs::read_to_string(&file).expect("read"), login);
}
