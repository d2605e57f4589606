//! From what happened to what should be allowed. Pure: events in, rules out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::event::{Denial, Event, What};
use crate::policy::{Host, Rule};

/// From this many hosts below one domain on, on one port, the domain's wildcard stands for them.
const MERGED_HOSTS: usize = 3;

/// The smallest policy that allows the connections that were made: values of `--allow`, names before addresses.
///
/// Hosts become `*.DOMAIN:PORT` where at least three of them are directly below one domain, and the domain is none
/// under which anyone can register a name, as far as its form shows: it has at least two parts, and three where the
/// last two are short (`co.uk`).
#[must_use]
pub fn learn(events: &[Event]) -> Vec<String> {
    let mut names: BTreeSet<(String, u16)> = BTreeSet::new();
    let mut addresses: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
    for event in events {
        let What::Connected { host, port, .. } = &event.what else { continue };
        match Host::parse(host) {
            Ok(Host::Name(name)) => drop(names.insert((name, *port))),
            Ok(Host::Address(address)) => drop(addresses.insert((address, *port))),
            // Not a host that this crate wrote down.
            Err(_) => {}
        }
    }
    let mut below: BTreeMap<(String, u16), BTreeSet<String>> = BTreeMap::new();
    for (name, port) in &names {
        if let Some((_, domain)) = name.split_once('.')
            && may_be_merged(domain)
        {
            below.entry((domain.to_owned(), *port)).or_default().insert(name.clone());
        }
    }
    let mut learned = BTreeSet::new();
    for ((domain, port), hosts) in below {
        if hosts.len() >= MERGED_HOSTS {
            for host in hosts {
                names.remove(&(host, port));
            }
            learned.insert((domain.clone(), format!("*.{domain}:{port}")));
        }
    }
    // By name, so that a domain's rules stand together.
    learned.extend(names.into_iter().map(|(name, port)| (name.clone(), format!("{name}:{port}"))));
    let mut rules: Vec<String> = learned.into_iter().map(|(_, rule)| rule).collect();
    rules.extend(addresses.into_iter().map(|(address, port)| Host::from(address).with_port(Some(port))));
    rules
}

fn may_be_merged(domain: &str) -> bool {
    let labels: Vec<&str> = domain.split('.').collect();
    match labels[..] {
        [] | [_] => false,
        // co.uk, com.au, or.jp.
        [second, top] => second.len() > 3 || top.len() > 2,
        _ => true,
    }
}

/// Something that was refused, and how often.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// The value of `--allow` that would permit it, ready to paste; none if nothing would.
    pub allow: Option<String>,
    /// What was asked for: `HOST:PORT`, or `HOST`.
    pub what: String,
    /// Why it was refused, as told last.
    pub reason: String,
    /// How many refusals the log has: the same one within a second counts once.
    pub count: u64,
    /// When it was refused last, in milliseconds since the Unix epoch.
    pub last_ms: u64,
}

/// What was refused, each rule that would permit it once, the latest last. A name alone is left out where a connection to it was
/// refused too; so are the excesses over a limit.
#[must_use]
pub fn denied(events: &[Event]) -> Vec<Refusal> {
    // By what would permit it, or else by what was asked for.
    let mut found: BTreeMap<Result<String, String>, Refusal> = BTreeMap::new();
    for event in events {
        let What::Denied(denial) = &event.what else { continue };
        if denial.host == "*" {
            continue;
        }
        let what = asked_for(denial);
        // Only what reads as a rule is offered for pasting: it comes from a log that a guest has filled.
        let allow = denial.allow.clone().filter(|allow| Rule::parse(allow).is_ok());
        let key = allow.clone().ok_or_else(|| what.clone());
        let refused =
            found.entry(key).or_insert_with(|| Refusal { allow, what, reason: String::new(), count: 0, last_ms: 0 });
        refused.count += 1;
        refused.last_ms = refused.last_ms.max(event.at_ms);
        refused.reason.clone_from(&denial.reason);
    }
    let with_port: BTreeSet<String> =
        found.values().filter_map(|refused| refused.what.rsplit_once(':').map(|(host, _)| host.to_owned())).collect();
    let mut refused: Vec<Refusal> = found.into_values().filter(|refused| !with_port.contains(&refused.what)).collect();
    refused.sort_by(|a, b| (a.last_ms, &a.what).cmp(&(b.last_ms, &b.what)));
    refused
}

fn asked_for(denial: &Denial) -> String {
    let port = (denial.port != 0).then_some(denial.port);
    match Host::parse(&denial.host) {
        Ok(host) => host.with_port(port),
        Err(_) => denial.host.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Via;
    use crate::policy::{Policy, Request};

    fn connected(host: &str, port: u16) -> Event {
        let address = IpAddr::from([203, 0, 113, 1]);
        let (host, rule) = (host.to_owned(), "open".to_owned());
        Event { at_ms: 1, what: What::Connected { via: Via::Tcp, host, port, address, rule } }
    }

    fn refusal(at_ms: u64, host: &str, port: u16, allow: Option<&str>) -> Event {
        let denial = Request { via: Via::Tcp, host, port }.denial("default", "no rule", allow.map(str::to_owned));
        Event { at_ms, what: What::Denied(denial) }
    }

    #[test]
    fn the_smallest_policy_allows_what_happened_and_merges_only_many() {
        let hosts = [
            ("a.cdn.example", 443),
            ("b.cdn.example", 443),
            ("c.cdn.example", 443),
            ("c.cdn.example", 80),
            ("one.other.example", 443),
            ("two.other.example", 443),
            ("api.example", 443),
            ("api.example", 443),
            ("www.example", 443),
            ("x.example", 443),
            ("a.co.uk", 443),
            ("b.co.uk", 443),
            ("c.co.uk", 443),
            ("203.0.113.7", 22),
            ("2001:db8::1", 22),
            ("cdn.example", 443),
        ];
        let events: Vec<Event> = hosts.iter().map(|(host, port)| connected(host, *port)).collect();
        let learned = learn(&events);
        insta::assert_snapshot!(learned.join("\n"), @r"
        a.co.uk:443
        api.example:443
        b.co.uk:443
        c.cdn.example:80
        c.co.uk:443
        *.cdn.example:443
        cdn.example:443
        one.other.example:443
        two.other.example:443
        www.example:443
        x.example:443
        203.0.113.7:22
        [2001:db8::1]:22
        ");
        let allow = learned.iter().map(|text| Rule::parse(text).unwrap()).collect();
        let policy = Policy { allow, ..Policy::default() };
        for (host, port) in hosts {
            assert!(policy.decide_connection(&Request { via: Via::Tcp, host, port }).is_ok(), "{host}:{port}");
        }
        let other = Request { via: Via::Tcp, host: "three.other.example", port: 443 };
        assert!(policy.decide_connection(&other).is_err());
        assert!(learn(&[]).is_empty());
    }

    #[test]
    fn refusals_are_counted_and_ready_to_paste() {
        let mut name_alone = refusal(1, "a.example", 0, Some("a.example"));
        if let What::Denied(denial) = &mut name_alone.what {
            denial.via = Via::Name;
        }
        let events = [
            name_alone,
            refusal(2, "a.example", 443, Some("a.example:443")),
            refusal(9, "A.example", 443, Some("a.example:443")),
            refusal(3, "b.example", 0, Some("b.example")),
            refusal(4, "c.example", 80, Some("127.0.0.1:80")),
            refusal(5, "d.example", 80, Some("$(reboot)")),
            refusal(6, "e.example", 80, None),
            refusal(7, "*", 0, None),
            connected("f.example", 1),
        ];
        let lines: Vec<String> = denied(&events)
            .iter()
            .map(|refused| {
                format!("{} × {} {:?}", refused.count, refused.what, refused.allow.as_deref().unwrap_or("-"))
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        1 × b.example "b.example"
        1 × c.example:80 "127.0.0.1:80"
        1 × d.example:80 "-"
        1 × e.example:80 "-"
        2 × a.example:443 "a.example:443"
        "#);
    }
}
