//! Budgets are hard.

use hyper::StatusCode;
use serde_json::json;
use viv_net::gateway::{Budget, GatewaySpec, Price, USAGE_FILE};
use viv_testkit::{Options, Step, Usage};

use crate::support::{APIS, Bench, OTHER_PLACEHOLDER, PLACEHOLDER, agent, call, post};

fn with_budget(options: Options, budget: &str) -> Bench {
    Bench::new(options, |spec, _| spec.budget = Budget::parse(budget).expect("a budget"))
}

const THOUSAND: Usage = Usage { input: 900, cached: 0, cache_write: 0, output: 100 };

#[tokio::test(flavor = "multi_thread")]
async fn fifty_calls_at_once_on_a_budget_of_ten_let_ten_through() {
    let bench = with_budget(Options::default(), "10-requests");
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50 {
        let gateway = std::sync::Arc::clone(&bench.gateway);
        calls.spawn(async move {
            let request = call(APIS[number % 4], PLACEHOLDER, number % 3 > 0);
            crate::support::ask_gateway(&gateway, request).await.status
        });
    }
    let statuses = calls.join_all().await;
    let through = statuses.iter().filter(|status| status.is_success()).count();
    assert_eq!((through, statuses.len()), (10, 50));
    assert!(statuses.iter().all(|status| status.is_success() || [400, 402].contains(&status.as_u16())));
    assert_eq!(bench.model.requests().len(), 10);
    assert_eq!(bench.usage().len(), 10);
}

#[tokio::test]
async fn a_refused_call_says_which_budget_is_spent() {
    let bench = Bench::new(Options { usage: Some(THOUSAND), ..Options::default() }, |spec: &mut GatewaySpec, _| {
        spec.agents = vec![agent(0, PLACEHOLDER, "1k-tokens"), agent(1, OTHER_PLACEHOLDER, "1-requests")];
    });
    let mut shown = String::new();
    for token in [PLACEHOLDER, OTHER_PLACEHOLDER] {
        assert_eq!(bench.ask(call("chat", token, true)).await.status, StatusCode::OK);
        bench.wait_for_call().await;
        let refused = bench.ask(call("chat", token, true)).await;
        shown += &format!("{} {}\n", refused.status, refused.json()["error"]["message"]);
    }
    insta::assert_snapshot!(shown, @r#"
    400 Bad Request "viv: this agent's budget is spent: 1000 of 1000 tokens; the user may grant more with --budget"
    400 Bad Request "viv: this agent's budget is spent: 1 of 1 requests; the user may grant more with --budget"
    "#);
    assert_eq!(bench.model.requests().len(), 2);
    assert_eq!(bench.log().matches("\"event\":\"refused\"").count(), 1);
}

#[tokio::test]
async fn a_budget_goes_on_after_a_restart() {
    let mut bench = with_budget(Options { usage: Some(THOUSAND), ..Options::default() }, "3-requests,2k-tokens");
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::OK);
    bench.wait_for_call().await;
    // A call that was under way when the egress was killed, and a line it did not finish.
    let mut file = std::fs::OpenOptions::new().append(true).open(bench.path(USAGE_FILE)).expect("the record");
    let begun = json!({"call": 2, "at_ms": 1, "upstream": "x", "agent": 0, "model": null, "microdollars": null, "status": null});
    std::io::Write::write_all(&mut file, format!("{begun}\n{{\"call\":3").as_bytes()).expect("written");
    bench.restart();
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::OK);
    bench.wait_for_call().await;
    assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::PAYMENT_REQUIRED);
    let calls: Vec<u64> = bench.usage().iter().map(|record| record.call).collect();
    assert_eq!(calls, [1, 2, 3]);
}

#[tokio::test]
async fn a_stream_that_passes_the_budget_is_cut_at_the_end_of_an_event() {
    let words = "word ".repeat(400);
    for (api, budget, said) in [
        ("anthropic", "500-tokens", "event: error\n"),
        ("responses", "100-tokens", "event: response.failed\n"),
        ("chat", "100-tokens", "data: {\"error\""),
    ] {
        let options = Options { script: vec![Step::text(&words)], usage: Some(THOUSAND), ..Options::default() };
        let bench = with_budget(options, budget);
        let answer = bench.ask(call(api, PLACEHOLDER, true)).await;
        assert_eq!(answer.status, StatusCode::OK);
        let events: Vec<&str> = answer.text.split_terminator("\n\n").collect();
        assert!(events.len() < 100, "{api}: {} events", events.len());
        let last = events.last().expect("an event");
        assert!(last.starts_with(said.trim_end()) && last.contains("budget is spent"), "{api}: {last}");
        for event in &events {
            let data = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
            serde_json::from_str::<serde_json::Value>(data).expect("whole events alone");
        }
        bench.wait_for_call().await;
        let record = &bench.usage()[0];
        assert!(record.estimated && record.tokens.total() > 100, "{record:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_whole_is_not_cut_for_what_it_used() {
    for api in APIS {
        let bench = with_budget(Options { usage: Some(THOUSAND), ..Options::default() }, "1k-tokens");
        let answer = bench.ask(call(api, PLACEHOLDER, true)).await;
        assert!(!answer.text.contains("budget"), "{api}: {}", answer.text);
        bench.wait_for_call().await;
        assert!(!bench.ask(call(api, PLACEHOLDER, true)).await.status.is_success());
    }
}

#[tokio::test]
async fn under_a_budget_in_dollars_a_model_needs_a_price() {
    let bench = Bench::new(Options { usage: Some(THOUSAND), ..Options::default() }, |spec, _| {
        spec.budget = Budget::parse("0.0025usd").expect("a budget");
        let price = Price { input: 1_000_000, cached: 100_000, cache_write: 0, output: 5_000_000 };
        spec.prices.insert("claude".into(), price);
    });
    let refused = bench.ask(call("chat", PLACEHOLDER, true)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    insta::assert_snapshot!(refused.text, @r#"{"error":{"code":"insufficient_quota","message":"viv: the budget is in dollars and the model `gpt-x` has no price: the user may add one to [prices] in config.toml, \"gpt-x\" = { input = …, cached = …, output = … }","param":null,"type":"insufficient_quota"}}"#);
    let refused = bench.ask(call("gemini", PLACEHOLDER, true)).await;
    assert!(refused.text.contains("gemini-x"), "{}", refused.text);
    for body in [json!({"messages": []}), json!({"model": 5})] {
        let refused = bench.ask(post("/anthropic/v1/messages", ("x-api-key", PLACEHOLDER), &body)).await;
        assert_eq!(refused.status, StatusCode::PAYMENT_REQUIRED);
    }
    // Two names: whichever the upstream takes, one of them was not asked about.
    let mut request = call("anthropic", PLACEHOLDER, true);
    *request.body_mut() = r#"{"model":"claude-a","messages":[],"model":"claude-b"}"#.into();
    assert_eq!(bench.ask(request).await.status, StatusCode::PAYMENT_REQUIRED);
    assert!(bench.model.requests().is_empty(), "nothing of it has reached the upstream whole");
    for _ in 0..2 {
        assert_eq!(bench.ask(call("anthropic", PLACEHOLDER, true)).await.status, StatusCode::OK);
        bench.wait_for_call().await;
    }
    let refused = bench.ask(call("anthropic", PLACEHOLDER, true)).await;
    insta::assert_snapshot!(refused.json()["error"]["message"].as_str().expect("text"), @r#"viv: this sandbox's budget is spent: 0.0028 of 0.0025 US dollars; the user may grant more with --budget"#);
    let spent: u64 = bench.usage().iter().filter_map(|record| record.microdollars).sum();
    assert_eq!(spent, 2 * (900 + 500));
}
