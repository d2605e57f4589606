//! Bytes pass as they come, and what they used is counted.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::json;
use viv_net::gateway::{Price, Tokens, summarize};
use viv_testkit::{Options, Step, Usage};

use crate::support::{APIS, Bench, OTHER_PLACEHOLDER, PLACEHOLDER, call, post};

async fn next(body: &mut Incoming) -> Option<Bytes> {
    body.frame().await.map(|frame| frame.expect("a frame").into_data().expect("data"))
}

/// The model sends an event only when the client has the one before: any byte held back ends the test.
#[tokio::test]
async fn no_token_is_held_back() {
    let script = vec![Step::text("one two three")];
    for api in ["anthropic", "responses", "chat"] {
        let bench = Bench::plain(Options { script: script.clone(), gated: true, ..Options::default() });
        let response = bench.send(call(api, PLACEHOLDER, true)).await;
        assert_eq!(response.status(), StatusCode::OK, "{api}");
        let mut body = response.into_body();
        let mut events = 0;
        loop {
            bench.model.release(1);
            let Some(data) = next(&mut body).await else { break };
            assert!(data.ends_with(b"\n\n"), "{api}: {data:?}");
            events += 1;
        }
        assert!(events >= 5, "{api}: {events}");
    }
}

#[tokio::test]
async fn streams_and_plain_answers_are_metered_alike() {
    let usage = Usage { input: 100, cached: 40, cache_write: 0, output: 7 };
    let bench = Bench::new(Options { usage: Some(usage), ..Options::default() }, |spec, _| {
        let price = |input, cached, output| Price { input, cached, cache_write: 0, output };
        spec.prices.insert("claude".into(), price(3_000_000, 300_000, 15_000_000));
        spec.prices.insert("claude-x".into(), price(1_000_000, 100_000, 2_000_000));
    });
    for api in APIS {
        for stream in [false, true] {
            let token = if stream { PLACEHOLDER } else { OTHER_PLACEHOLDER };
            assert_eq!(bench.ask(call(api, token, stream)).await.status, StatusCode::OK);
            bench.wait_for_call().await;
        }
    }
    for record in bench.usage() {
        assert_eq!(record.tokens, Tokens { input: 100, cached: 40, cache_write: 0, output: 7 }, "{record:?}");
        assert_eq!((record.status, record.estimated), (Some(200), false));
        let dollars = (record.upstream == "anthropic").then_some(100 + 4 + 14);
        assert_eq!(record.microdollars, dollars);
    }
    let lines: Vec<(u32, Option<String>, u64)> =
        summarize(&bench.usage()).into_iter().map(|line| (line.agent, line.model, line.requests)).collect();
    let line = |agent, model: &str, requests| (agent, Some(model.to_owned()), requests);
    assert_eq!(
        lines,
        [
            line(0, "claude-x", 1),
            line(0, "gemini-x", 1),
            line(0, "gpt-x", 2),
            line(1, "claude-x", 1),
            line(1, "gemini-x", 1),
            line(1, "gpt-x", 2)
        ]
    );
}

#[tokio::test]
async fn a_client_that_leaves_has_used_what_passed() {
    let usage = Usage { input: 100, cached: 0, cache_write: 0, output: 7 };
    let script = vec![Step::text("one two three")];
    let bench = Bench::plain(Options { script, gated: true, usage: Some(usage), ..Options::default() });
    let mut body = bench.send(call("anthropic", PLACEHOLDER, true)).await.into_body();
    bench.model.release(3);
    for _ in 0..3 {
        next(&mut body).await.expect("an event");
    }
    drop(body);
    bench.wait_for_call().await;
    let record = &bench.usage()[0];
    // The provider has told input and one token of output; `"one "` is two more.
    assert_eq!(record.tokens, Tokens { input: 100, output: 3, ..Tokens::default() });
    assert!(record.estimated);
}

#[tokio::test]
async fn a_long_request_passes_and_a_longer_one_is_refused() {
    let bench = Bench::plain(Options::default());
    let text = "x".repeat(5 << 20);
    let body = json!({"messages": [{"role": "user", "content": text}], "model": "late"});
    let answer = bench.ask(post("/anthropic/v1/messages", ("x-api-key", PLACEHOLDER), &body)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["model"], "late");
    assert!(bench.model.requests()[0].body.len() > 5 << 20);
    bench.wait_for_call().await;
    assert_eq!(bench.usage()[0].model.as_deref(), Some("late"));
    let mut request = post("/anthropic/v1/messages", ("x-api-key", PLACEHOLDER), &json!({}));
    *request.body_mut() = Bytes::from(vec![b' '; (64 << 20) + 1]).into();
    assert_eq!(bench.ask(request).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(bench.model.requests().len(), 1);
}
