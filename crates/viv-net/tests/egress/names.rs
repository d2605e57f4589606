//! Questions for names.

use std::net::IpAddr;

use viv_net::egress::Resolution;
use viv_net::event::What;
use viv_net::policy::Policy;
use viv_net::spec::Limits;
use viv_proto::network::{NAMES_PORT, NameAnswer};

use crate::support::{ask_name, net, net_of, rules};

fn denied(answer: NameAnswer) -> String {
    match answer {
        NameAnswer::Denied { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_is_known_unknown_or_denied() {
    let net = net(&["*.test:443", "*.example", "127.0.0.0/8:443"]);
    let mut stream = net.open(NAMES_PORT).await;
    assert_eq!(ask_name(&mut stream, "a.test").await, NameAnswer::Known);
    assert_eq!(ask_name(&mut stream, "A.TEST.").await, NameAnswer::Known);
    assert_eq!(ask_name(&mut stream, "a.example").await, NameAnswer::Unknown);
    let reason = denied(ask_name(&mut stream, "other.net").await);
    assert_eq!(reason, "no rule allows other.net (--allow other.net would permit it)");
    assert_eq!(denied(ask_name(&mut stream, "\u{1b}[2J").await), "a host name has letters, digits, hyphens and dots");
    let denial = net.event(|what| if let What::Denied(denial) = what { Some(denial) } else { None }).await;
    assert_eq!((denial.host.as_str(), denial.rule.as_str()), ("other.net", "default"));
}

#[tokio::test]
async fn a_denied_name_is_not_asked_for() {
    let net = net(&["*.test"]);
    // The resolver would never answer.
    net.told.tell("other.net", vec![Resolution::Failed("stalled".into())]);
    denied(net.name("other.net").await);
}

#[tokio::test]
async fn a_name_that_leads_only_to_forbidden_addresses_is_denied() {
    let net = net(&["*"]);
    let private = "10.0.0.1".parse().unwrap();
    net.told.tell("rebound.example", vec![Resolution::Addresses(vec!["127.0.0.1".parse().unwrap(), private])]);
    net.told.tell("mixed.example", vec![Resolution::Addresses(vec![private, IpAddr::from([203, 0, 113, 80])])]);
    let reason = denied(net.name("rebound.example").await);
    assert!(reason.starts_with("rebound.example resolves to 127.0.0.1, a loopback address"), "{reason}");
    assert_eq!(net.name("mixed.example").await, NameAnswer::Known);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_resolver_is_a_failure() {
    let net = net(&["*"]);
    net.told.tell("slow.example", vec![Resolution::Failed("stalled".into())]);
    let NameAnswer::Failed { reason } = net.name("slow.example").await else { panic!("it answered") };
    assert_eq!(reason, "the host's resolver did not answer within 5 s");
}

#[tokio::test]
async fn names_are_limited_in_rate_and_streams_in_number() {
    let limits = Limits { names_per_second: 1, ..Limits::default() };
    let policy = Policy { allow: rules(&["*.example"]), ..Policy::default() };
    let net = net_of(policy, |spec| spec.limits = limits);
    let mut stream = net.open(NAMES_PORT).await;
    let mut reasons = Vec::new();
    for number in 0..10 {
        if let NameAnswer::Denied { reason } = ask_name(&mut stream, &format!("host{number}.example")).await {
            reasons.push(reason);
        }
    }
    assert!(reasons.len() >= 5, "{reasons:?}");
    assert_eq!(reasons[0], "more than 1 names in a second");
    let mut streams = Vec::new();
    let refusal = loop {
        let (line, stream) = net.greet(NAMES_PORT).await;
        if line != "OK\n" {
            break line;
        }
        streams.push(stream);
        assert!(streams.len() < 100);
    };
    assert_eq!(refusal, "ERR more than 64 streams ask for names\n");
}

#[tokio::test]
async fn nonsense_ends_the_stream() {
    use tokio::io::AsyncWriteExt as _;
    let net = net(&["*"]);
    for nonsense in [&b"nonsense\n"[..], b"{}\n", &[b'x'; 5000], b"\xff\xfe\n"] {
        let mut stream = net.open(NAMES_PORT).await;
        stream.write_all(nonsense).await.unwrap();
        assert!(crate::support::read_all(&mut stream).await.is_empty());
    }
    let (line, _) = net.greet(99).await;
    assert_eq!(line, "ERR no such port: 99\n");
    let closed = net_of(Policy::default(), |spec| spec.policy = None);
    assert_eq!(closed.greet(NAMES_PORT).await.0, "ERR this sandbox has no network\n");
}
