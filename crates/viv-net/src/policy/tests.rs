use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| Rule::parse(text).unwrap()).collect()
}

fn allowing(texts: &[&str]) -> Policy {
    Policy { allow: rules(texts), ..Policy::default() }
}

fn request(host: &str, port: u16) -> Request<'_> {
    Request { via: Via::Tcp, host, port }
}

/// What the three questions come to, on a host that owns 192.0.2.2.
fn connect(policy: &Policy, host: &str, port: u16, resolved: &str) -> Result<String, Denial> {
    let request = request(host, port);
    let own: HostAddresses =
        ["192.0.2.2", "fd00::2", "127.0.0.1"].map(|text| text.parse().unwrap()).into_iter().collect();
    let (host, grant) = policy.decide_connection(&request)?;
    let address = match &host {
        Host::Address(address) => *address,
        Host::Name(_) => resolved.parse().unwrap(),
    };
    policy.decide_address(&request, &host, address, grant, &own)?;
    Ok(grant.to_string())
}

const PUBLIC: &str = "203.0.113.80";

#[test]
fn names_ports_and_wildcards() {
    let policy = allowing(&["Example.COM", "*.cdn.example:443", "bücher.example", "_srv.example", "[2001:db8::7]:80"]);
    for (host, port, allowed) in [
        ("example.com", 80, true),
        ("EXAMPLE.com.", 443, true),
        ("www.example.com", 443, false),
        ("notexample.com", 443, false),
        ("a.cdn.example", 443, true),
        ("a.b.CDN.example", 443, true),
        ("a.cdn.example", 80, false),
        ("cdn.example", 443, false),
        ("xcdn.example", 443, false),
        ("xn--bcher-kva.example", 443, true),
        ("BÜCHER.example", 443, true),
        ("_srv.example", 443, true),
        ("2001:db8::7", 80, true),
        ("[2001:db8::7]", 80, true),
        ("2001:db8::7", 443, false),
        ("2001:db8::8", 80, false),
        ("example.com", 25, false),
        ("example.com", 0, false),
    ] {
        let outcome = connect(&policy, host, port, PUBLIC);
        assert_eq!(outcome.is_ok(), allowed, "{host}:{port}: {outcome:?}");
    }
    assert!(policy.decide_name("x.cdn.example").is_ok());
    assert!(policy.decide_name("cdn.example").is_err());
}

#[test]
fn denials_name_the_rule_and_what_would_permit_it() {
    let policy = Policy { deny: rules(&["bad.example.com", "10.9.0.0/16"]), ..allowing(&["*.example.com:443"]) };
    let told = |host, port, address| {
        let denial = connect(&policy, host, port, address).unwrap_err();
        format!("{} | {} | {}", denial.rule, denial.reason, denial.allow.unwrap_or_default())
    };
    insta::assert_snapshot!(told("other.net", 443, PUBLIC), @"default | no rule allows other.net:443 | other.net:443");
    insta::assert_snapshot!(told("a.example.com", 80, PUBLIC), @"default | *.example.com:443 allows another port, no rule allows a.example.com:80 | a.example.com:80");
    insta::assert_snapshot!(told("bad.example.com", 443, PUBLIC), @"bad.example.com | the rule that denies bad.example.com refuses it | ");
    insta::assert_snapshot!(told("a.example.com", 443, "10.9.1.1"), @"10.9.0.0/16 | the rule that denies 10.9.0.0/16 refuses it | ");
    insta::assert_snapshot!(told("a.example.com", 443, "127.0.0.1"), @"default | a.example.com resolves to 127.0.0.1, a loopback address, which only an address rule allows | 127.0.0.1:443");
    insta::assert_snapshot!(told("a.example.com", 443, "::1"), @"default | a.example.com resolves to ::1, a loopback address, which only an address rule allows | [::1]:443");
    insta::assert_snapshot!(told("a.example.com", 443, "192.0.2.2"), @"default | a.example.com resolves to 192.0.2.2, an address of the host, which only an address rule allows | 192.0.2.2:443");
    insta::assert_snapshot!(told("a.example.com", 25, PUBLIC), @"default | port 25 (SMTP) is refused unless a rule names it | a.example.com:25");
    insta::assert_snapshot!(told("8.8.8.8", 53, PUBLIC), @"default | no rule allows 8.8.8.8:53 | 8.8.8.8:53");
    insta::assert_snapshot!(told("127.1", 80, PUBLIC), @"default | neither a host name nor an address | ");
}

#[test]
fn every_name_is_not_every_address() {
    let policy = allowing(&["*"]);
    assert!(connect(&policy, "anything.example", 443, PUBLIC).is_ok());
    assert!(connect(&policy, PUBLIC, 443, PUBLIC).is_err());
    let open = Policy { open: true, deny: rules(&["198.51.100.0/24", "*.ads.example"]), ..Policy::default() };
    assert_eq!(connect(&open, PUBLIC, 443, PUBLIC).unwrap(), "open");
    for (host, port, resolved) in [
        ("127.0.0.1", 80, PUBLIC),
        ("a.example", 80, "10.0.0.1"),
        ("a.example", 80, "198.51.100.3"),
        ("a.example", 80, "64:ff9b::198.51.100.3"),
        ("a.ads.example", 80, PUBLIC),
        ("a.example", 25, PUBLIC),
        ("192.0.2.2", 80, PUBLIC),
    ] {
        assert!(connect(&open, host, port, resolved).is_err(), "{host}:{port} at {resolved}");
    }
    let closed = Policy { open: true, deny: rules(&["*"]), ..Policy::default() };
    assert!(connect(&closed, PUBLIC, 443, PUBLIC).is_err());
    assert!(connect(&closed, "a.example", 443, PUBLIC).is_err());
}

#[test]
fn special_addresses_need_an_address_rule() {
    let special = [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.1.1",
        "169.254.169.254",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.8",
        "198.18.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.2",
        "::",
        "::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "fc00::1",
        "fd12::1",
        "fd00:ec2::254",
        "ff02::1",
        "100::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:c0a8:101::1",
        "2001:0:7f00:1::",
        "2001:0:0808:0808:0:0:80ff:fffe",
        "2001:db8::5efe:10.0.0.1",
        "::ffff:192.0.2.2",
        "64:ff9b::192.0.2.2",
    ];
    let policy = allowing(&["*", "0.0.0.0/0", "::/0"]);
    for address in special {
        let denial = connect(&policy, "a.example", 443, address).unwrap_err();
        let ip: IpAddr = address.parse().unwrap();
        // The rule it asks for is the one that permits it.
        let permitted = allowing(&["*", denial.allow.as_deref().unwrap()]);
        assert!(connect(&permitted, "a.example", 443, address).is_ok(), "{address} by {:?}", denial.allow);
        assert!(connect(&permitted, "a.example", 444, address).is_err(), "{address}");
        assert_ne!(AddressClass::of(ip, &["192.0.2.2".parse().unwrap()].into_iter().collect()), AddressClass::Public);
    }
    for address in [
        "203.0.113.80",
        "192.0.2.3",
        "8.8.8.8",
        "2001:db8::1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1111",
    ] {
        assert!(connect(&policy, "a.example", 443, address).is_ok(), "{address}");
    }
}

#[test]
fn a_private_rule_opens_private_addresses_and_no_more() {
    let policy = Policy {
        allow: vec![Rule::parse("mirror.corp").unwrap().with_origin("@npm").with_private(true)],
        ..Policy::default()
    };
    for address in ["10.0.0.5", "192.168.0.1", "100.64.0.1", "fd12::1", PUBLIC] {
        assert_eq!(connect(&policy, "mirror.corp", 443, address).unwrap(), "mirror.corp (@npm)");
    }
    for address in [
        "127.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "fd00::2",
        "fd00:ec2::254",
        "100.100.100.200",
        "192.0.2.2",
        "0.0.0.0",
    ] {
        assert!(connect(&policy, "mirror.corp", 443, address).is_err(), "{address}");
    }
}

#[test]
fn ports_of_rules() {
    let policy = Policy { deny: rules(&["a.example:22"]), ..allowing(&["a.example", "mail.example:25", "10.0.0.0/8"]) };
    assert!(connect(&policy, "a.example", 22, PUBLIC).is_err());
    assert!(connect(&policy, "a.example", 2222, PUBLIC).is_ok());
    assert!(policy.decide_name("a.example").is_ok());
    assert!(connect(&policy, "mail.example", 25, PUBLIC).is_ok());
    assert!(connect(&policy, "mail.example", 80, PUBLIC).is_err());
    assert!(connect(&policy, "10.0.0.1", 25, PUBLIC).is_err());
    assert!(connect(&policy, "10.0.0.1", 80, PUBLIC).is_ok());
}

#[test]
fn mistakes_are_explained() {
    let explain = |text: &str| {
        let error = Rule::parse(text).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Rule);
        format!("{error} | {}", error.hints().join("; "))
    };
    let texts = [
        "",
        "https://example.com/path",
        "example.com:0",
        "example.com:99999",
        "example.com:http",
        "a.*.com",
        "*com",
        "10.0.0.1/8",
        "10.0.0.0/40",
        "example.com/path",
        "[::1",
        "[::1]x",
        "[1.2.3.4]:80",
        "1.2.3",
        "fe80::1%eth0",
        "a..b",
        "sp ace",
        "@npm",
        "2001:db8::1:80:x",
        "*.",
        "::ffff:10.0.0.0/104",
        "xn--a.example",
        "exa\u{202e}mple",
    ];
    insta::assert_snapshot!(texts.map(explain).join("\n"));
    for text in
        ["*", "*:443", "*.a.b:1", "::1", "[::1]", "[fd00::/8]:443", "fd00::/8", "10.0.0.0/8:22", "1.2.3.4:65535", "a"]
    {
        Rule::parse(text).unwrap();
    }
}

#[test]
fn a_rule_is_written_as_it_was_read() {
    let rule = Rule::parse("*.example.com:443").unwrap().with_origin("@npm").with_private(true);
    let json = serde_json::to_string(&rule).unwrap();
    assert_eq!(json, r#"{"text":"*.example.com:443","origin":"@npm","private":true}"#);
    assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
    assert!(serde_json::from_str::<Rule>(r#"{"text":"a:b"}"#).unwrap_err().to_string().contains("not a rule"));
}

fn name() -> impl Strategy<Value = String> {
    "[a-wyz][a-z0-9-]{0,8}(\\.[a-z][a-z0-9]{0,8}){0,3}"
}

proptest! {
    #[test]
    fn nothing_panics_and_normal_forms_are_stable(text in "\\PC{0,40}") {
        drop(Rule::parse(&text));
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()).unwrap(), host.clone());
            prop_assert!(host.to_string().is_ascii());
            // Whatever can be refused by default can be allowed by the rule that the refusal names.
            let denial = Policy::default().decide_connection(&request(&text, 443)).unwrap_err();
            let policy = allowing(&[denial.allow.as_deref().unwrap()]);
            prop_assert!(policy.decide_connection(&request(&text, 443)).is_ok());
            prop_assert!(policy.decide_connection(&request(&text, 442)).is_err());
        }
    }

    #[test]
    fn deny_wins(name in name(), port in 1u16..) {
        let policy = Policy { deny: rules(&[&name]), open: true, ..allowing(&[&name, "*", &format!("{name}:{port}")]) };
        prop_assert!(policy.decide_connection(&request(&name, port)).is_err());
        prop_assert!(policy.decide_name(&name).is_err());
    }

    #[test]
    fn a_wildcard_matches_below_and_nothing_else(name in name(), below in name()) {
        let policy = allowing(&[&format!("*.{name}")]);
        prop_assert!(policy.decide_name(&name).is_err());
        let under = format!("{below}.{name}");
        prop_assert!(policy.decide_name(&under).is_ok());
        let beside = format!("{below}x{name}");
        // Unless it happens to be below all the same.
        let is_below = beside.ends_with(&format!(".{name}"));
        prop_assert_eq!(policy.decide_name(&beside).is_ok(), is_below);
    }

    #[test]
    fn an_ipv4_address_is_the_same_in_every_clothing(bits: u32) {
        let v4 = std::net::Ipv4Addr::from(bits);
        let [a, b, c, d] = v4.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        let own = HostAddresses::default();
        let plain = AddressClass::of(v4.into(), &own);
        for carrier in [
            [0, 0, 0, 0, 0, 0xffff, high, low],
            [0x64, 0xff9b, 0, 0, 0, 0, high, low],
            [0x2002, high, low, 0, 0, 0, 0, 1],
            [0x2001, 0, 0x808, 0x808, 0, 0, !high, !low],
        ] {
            prop_assert_eq!(AddressClass::of(IpAddr::from(carrier), &own), plain);
        }
    }
}
