//! What the egress must keep whatever it is given: rules, hosts, the first bytes of a connection.
//!
//! Used by `tests/hostile.rs` on stable Rust with a bounded number of cases, and by the fuzz
//! target in `fuzz/`, which includes this file and runs for as long as it is let.

use viv_net::egress::{Inspector, MAX_HELLO_BYTES, Verdict};
use viv_net::event::{Event, Via};
use viv_net::policy::{Host, Policy, Request, Rule};

/// Gives the bytes to everything that reads a guest's. Panics where a law is broken.
pub fn any_bytes(bytes: &[u8]) {
    first_bytes(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        rule(text);
        host(text);
    }
    if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
        let cleaned = event.what.cleaned();
        assert_eq!(cleaned.clone().cleaned(), cleaned);
    }
}

/// A rule is read the same again, and what denies everything it allows wins.
fn rule(text: &str) {
    let Ok(rule) = Rule::parse(text) else { return };
    assert_eq!(Rule::parse(rule.text()).unwrap(), rule);
    let policy = Policy { allow: vec![rule.clone()], deny: vec![rule], open: true };
    let request = Request { via: Via::Tcp, host: "a.example", port: 443 };
    let alone = Policy { deny: Vec::new(), open: false, ..policy.clone() };
    assert!(alone.decide_connection(&request).is_err() || policy.decide_connection(&request).is_err());
}

/// A host's normal form is stable, and the rule that a refusal names permits what was refused.
fn host(text: &str) {
    let Ok(host) = Host::parse(text) else { return };
    assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(&host));
    let request = Request { via: Via::Tcp, host: text, port: 443 };
    let denial = Policy::default().decide_connection(&request).unwrap_err();
    let rule = Rule::parse(&denial.allow.unwrap()).unwrap();
    let policy = Policy { allow: vec![rule], ..Policy::default() };
    assert!(policy.decide_connection(&request).is_ok());
}

/// However the first bytes are cut into reads, they pass or they do not.
fn first_bytes(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MAX_HELLO_BYTES - 1)];
    let whole = verdict(bytes, MAX_HELLO_BYTES);
    assert_eq!(verdict(bytes, 1), whole);
    assert_eq!(verdict(bytes, 100), whole);
}

fn verdict(bytes: &[u8], size: usize) -> std::mem::Discriminant<Verdict> {
    let mut inspector = Inspector::new("a.example");
    let mut verdicts = bytes.chunks(size).map(|piece| inspector.inspect(piece));
    std::mem::discriminant(&verdicts.find(|verdict| *verdict != Verdict::Wait).unwrap_or(Verdict::Wait))
}
