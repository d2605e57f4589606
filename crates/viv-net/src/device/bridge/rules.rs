//! The rules of a bridge, in nftables' language. Pure.

use std::fmt::Write;

use super::spec::{BridgeSpec, Port};

/// The name of both tables of a bridge: `inet` for routed packets, `bridge` for frames.
pub(super) fn table(bridge: &str) -> String {
    format!("viv_{bridge}")
}

/// What routed packets may do: from a sandbox to the uplink and back. The host answers its sandboxes
/// to a ping of their gateway, and nothing else; whoever is not answered is told so at once.
pub(super) fn routed(spec: &BridgeSpec) -> String {
    let table = table(&spec.name);
    let BridgeSpec { name, subnet, uplink, .. } = spec;
    let gateway = spec.gateway().addr();
    let (mut own6, mut ping6, mut masquerade6) = (String::new(), String::new(), String::new());
    if let (Some(subnet6), Some(gateway6)) = (spec.subnet6, spec.gateway6().map(|gateway| gateway.addr())) {
        own6 = format!("\t\tip6 saddr {subnet6} ip6 daddr != fe80::/10 jump to_uplink\n");
        ping6 = format!(
            "\t\ticmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n\
             \t\tip6 daddr {gateway6} icmpv6 type echo-request accept\n"
        );
        masquerade6 = format!("\t\toifname \"{uplink}\" ip6 saddr {subnet6} masquerade\n");
    }
    format!(
        "table inet {table}\n\
         delete table inet {table}\n\
         table inet {table} {{\n\
         \tchain refuse {{\n\
         \t\tmeta l4proto tcp reject with tcp reset\n\
         \t\treject with icmpx type admin-prohibited\n\
         \t}}\n\
         \tchain input {{\n\
         \t\ttype filter hook input priority filter - 10; policy accept;\n\
         \t\tiifname \"{name}\" jump to_host\n\
         \t}}\n\
         \tchain to_host {{\n\
         \t\tct state established,related accept\n\
         \t\tip daddr {gateway} icmp type echo-request accept\n\
         {ping6}\
         \t\tjump refuse\n\
         \t}}\n\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter - 10; policy accept;\n\
         \t\toifname \"{name}\" jump to_sandbox\n\
         \t\tiifname \"{name}\" jump from_sandbox\n\
         \t}}\n\
         \tchain to_sandbox {{\n\
         \t\tiifname \"{uplink}\" ct state established,related accept\n\
         \t\tiifname \"{name}\" jump refuse\n\
         \t\tdrop\n\
         \t}}\n\
         \tchain from_sandbox {{\n\
         \t\tip saddr {subnet} ip daddr != 169.254.0.0/16 jump to_uplink\n\
         {own6}\
         \t\tdrop\n\
         \t}}\n\
         \tchain to_uplink {{\n\
         \t\toifname \"{uplink}\" accept\n\
         \t\tjump refuse\n\
         \t}}\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\toifname \"{uplink}\" ip saddr {subnet} masquerade\n\
         {masquerade6}\
         \t}}\n\
         }}\n"
    )
}

/// What frames may come in at the ports of sandboxes: from the sandbox's own addresses, in what is
/// said about itself by ARP (RFC 826) and neighbour discovery (RFC 4861) as well. No sandbox is a
/// router, and nothing but IP is carried.
///
/// Replaces the table as a whole, so that it is always that of exactly these ports.
pub(super) fn frames(bridge: &str, ports: &[Port]) -> String {
    let table = table(bridge);
    let mut text = format!("table bridge {table}\ndelete table bridge {table}\ntable bridge {table} {{\n");
    for port in ports {
        // Writing to a string cannot fail.
        let _ = write_port(&mut text, port);
    }
    text.push_str("\tchain prerouting {\n\t\ttype filter hook prerouting priority -300; policy accept;\n");
    for port in ports {
        let _ = writeln!(text, "\t\tiifname \"{0}\" jump from_{0}", port.interface);
    }
    text.push_str("\t}\n}\n");
    text
}

fn write_port(text: &mut String, port: &Port) -> std::fmt::Result {
    let Port { interface, mac, v4, .. } = port;
    writeln!(text, "\tchain from_{interface} {{")?;
    writeln!(text, "\t\tether saddr != {mac} drop")?;
    writeln!(text, "\t\tether type arp arp saddr ether {mac} arp saddr ip {v4} accept")?;
    writeln!(text, "\t\tether type ip ip saddr {v4} accept")?;
    let all_v6 = port.all_v6();
    if !all_v6.is_empty() {
        let addresses: Vec<String> = all_v6.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(", ");
        // The target of an advertisement and of a solicitation: 16 bytes after the first 8. Older
        // versions of nft have no name for it.
        let targets: Vec<String> = all_v6.iter().map(|address| format!("{:#034x}", u128::from(*address))).collect();
        let targets = targets.join(", ");
        writeln!(text, "\t\ticmpv6 type {{ nd-router-advert, nd-redirect }} drop")?;
        writeln!(text, "\t\ticmpv6 type nd-neighbor-advert @th,64,128 != {{ {targets} }} drop")?;
        // Is this address of mine in use? (RFC 4862, 5.4.2)
        writeln!(text, "\t\tip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 {{ {targets} }} accept")?;
        writeln!(text, "\t\tether type ip6 ip6 saddr {{ {addresses} }} accept")?;
    }
    writeln!(text, "\t\tdrop\n\t}}")
}

/// Removes all rules of a bridge, if there are any.
pub(super) fn removal(bridge: &str) -> String {
    let table = table(bridge);
    ["inet", "bridge"].map(|family| format!("table {family} {table}\ndelete table {family} {table}\n")).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_bridge() {
        let spec = |subnet6: Option<&str>| {
            let subnet6 = subnet6.map(|text| text.parse().unwrap());
            BridgeSpec::new("vivbr", "192.168.83.0/24".parse().unwrap(), subnet6, "eth0").unwrap()
        };
        insta::assert_snapshot!(routed(&spec(Some("fd00:83::/64"))));
        let without = routed(&spec(None));
        assert!(!without.contains("ip6"), "{without}");
        insta::assert_snapshot!(removal("vivbr"));
    }

    #[test]
    fn the_rules_of_its_ports() {
        let port = Port {
            interface: "viv0123abcd".into(),
            mac: "02:12:34:56:78:9a".into(),
            v4: "192.168.83.2".parse().unwrap(),
            v6: Some("fd00:83::2".parse().unwrap()),
        };
        let other = Port { interface: "viv76543210".into(), v6: None, ..port.clone() };
        insta::assert_snapshot!(frames("vivbr", &[port, other]));
        insta::assert_snapshot!(frames("vivbr", &[]));
    }
}
