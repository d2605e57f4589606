//! Upstreams that stall, reset, lie and are gone.

use http_body_util::BodyExt;
use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use viv_testkit::{Fault, Options};

use crate::support::{Bench, PLACEHOLDER, call};

fn impatient() -> Bench {
    Bench::new(Options::default(), |spec, _| spec.stalled_after = 1)
}

#[tokio::test]
async fn an_upstream_that_stalls_before_it_answers_is_named() {
    let bench = impatient();
    let mut shown = String::new();
    for api in ["anthropic", "responses", "gemini"] {
        bench.model.fail_next(Fault::StallBeforeHeaders);
        let answer = bench.ask(call(api, PLACEHOLDER, true)).await;
        shown += &format!("{} {}\n", answer.status, answer.text);
    }
    insta::assert_snapshot!(shown, @r#"
    504 Gateway Timeout {"error":{"message":"viv: the upstream has sent nothing for 1 s","type":"timeout_error"},"type":"error"}
    504 Gateway Timeout {"error":{"code":"upstream_stalled","message":"viv: the upstream has sent nothing for 1 s","param":null,"type":"server_error"}}
    504 Gateway Timeout {"error":{"code":504,"message":"viv: the upstream has sent nothing for 1 s","status":"DEADLINE_EXCEEDED"}}
    "#);
    assert!(bench.usage().iter().all(|record| record.status == Some(504) && record.tokens.total() == 0));
}

#[tokio::test]
async fn an_upstream_that_stalls_within_a_stream_ends_it_with_an_error() {
    let bench = impatient();
    for api in ["anthropic", "responses", "chat"] {
        bench.model.fail_next(Fault::StallAfter(1));
        let answer = bench.ask(call(api, PLACEHOLDER, true)).await;
        assert_eq!(answer.status, StatusCode::OK);
        let last = answer.text.trim_end().rsplit("\n\n").next().expect("an event").to_owned();
        assert!(last.contains("the upstream has sent nothing for 1 s"), "{api}: {last}");
    }
}

#[tokio::test]
async fn an_upstream_that_resets_within_a_stream_breaks_the_answer_and_counts() {
    let bench = Bench::plain(Options { gated: true, ..Options::default() });
    bench.model.fail_next(Fault::ResetAfter(2));
    let mut body = bench.send(call("anthropic", PLACEHOLDER, true)).await.into_body();
    for _ in 0..2 {
        bench.model.release(1);
        body.frame().await.expect("an event").expect("data");
    }
    bench.model.release(1);
    body.frame().await.expect("an end").expect_err("it breaks off");
    bench.wait_for_call().await;
    let record = bench.usage().remove(0);
    assert!(record.tokens.input > 0 && record.estimated, "{record:?}");
}

#[tokio::test]
async fn an_upstream_that_tells_a_length_it_does_not_keep_breaks_the_answer_and_counts() {
    let bench = Bench::plain(Options::default());
    bench.model.fail_next(Fault::ShortBody);
    let response = bench.send(call("anthropic", PLACEHOLDER, false)).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.expect_err("it breaks off");
    bench.wait_for_call().await;
    assert_eq!(bench.usage()[0].tokens.output, 20);
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_upstreams_own_errors_pass_and_cost_nothing() {
    let bench = Bench::plain(Options::default());
    for status in [429, 500, 529, 403] {
        bench.model.fail_next(Fault::Status(status));
        let answer = bench.ask(call("anthropic", PLACEHOLDER, true)).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.json()["error"]["message"], "failed as told");
    }
    bench.model.fail_next(Fault::NotJson);
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, false)).await.text, "<html>busy</html>");
    bench.wait_for_call().await;
    let records = bench.usage();
    let statuses: Vec<Option<u16>> = records.iter().map(|record| record.status).collect();
    assert_eq!(statuses, [429, 500, 529, 403, 200].map(Some));
    assert!(records[..4].iter().all(|record| record.tokens.total() == 0 && !record.estimated));
    assert!(records[4].estimated);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_named() {
    let bench = Bench::new(Options::default(), |spec, _| {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        spec.upstreams.get_mut("anthropic").expect("an upstream").url = format!("http://{free}");
        spec.upstreams.get_mut("openai").expect("an upstream").url = "http://name.invalid".into();
    });
    let answer = bench.ask(call("anthropic", PLACEHOLDER, true)).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    insta::assert_snapshot!(answer.text, @r#"{"error":{"message":"viv: the upstream `anthropic` cannot be reached: Connection refused (os error 111)","type":"api_error"},"type":"error"}"#);
    assert_eq!(bench.ask(call("chat", PLACEHOLDER, true)).await.status, StatusCode::BAD_GATEWAY);
}

/// What a guest may send to the gateway's port besides HTTP.
#[tokio::test]
async fn heads_that_never_end_and_what_is_no_http_are_answered_or_dropped() {
    let bench = Bench::plain(Options::default());
    for (sent, answered) in [
        (format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(1 << 20)), "431"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1000)), "431"),
        ("\u{0}\u{1}\u{2}\r\n\r\n".to_owned(), "400"),
        ("CONNECT example.com:443 HTTP/1.1\r\n\r\n".to_owned(), "404"),
    ] {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        let served = tokio::spawn(std::sync::Arc::clone(&bench.gateway).serve(theirs));
        // The gateway may stop reading long before the end.
        let _ = ours.write_all(sent.as_bytes()).await;
        let mut answer = [0; 12];
        ours.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {answered}"));
        drop(ours);
        served.await.expect("no panic");
    }
}
