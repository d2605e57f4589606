//! The steps that make a bridge and that remove it. Pure.

use ipnet::IpNet;

use super::facts::Facts;
use super::rules;
use super::spec::{BridgeSpec, Note, Port, overlap};
use crate::device::{Error, ErrorKind, Result, Step, mac};

/// What makes a bridge, or makes one whole that is there. `ports` are its sandboxes'.
///
/// # Errors
/// [`ErrorKind::BridgeRefused`] for one that is another, [`ErrorKind::InvalidSpec`] for one that
/// cannot be on this host.
pub(super) fn setup(spec: &BridgeSpec, facts: &Facts, ports: &[Port]) -> Result<Vec<Step>> {
    let name = &spec.name;
    let there = facts.note(name)?;
    if let Some(note) = there.as_ref().filter(|note| note.spec != *spec) {
        return Err(Error::new(
            ErrorKind::BridgeRefused,
            format!("{name} is there already, with another set-up: {note}"),
        )
        .hint(format!("viv net teardown --bridge {name}")));
    }
    check_host(spec, facts)?;

    let mut before = there.as_ref().map(|note| note.before.clone()).unwrap_or_default();
    let mut parameters = Vec::new();
    for (parameter, now) in &facts.parameters {
        let Some(now) = now else { continue };
        let Some(wanted) = parameter.wanted(spec, now) else { continue };
        if !before.iter().any(|(known, _)| known == parameter) {
            before.push((*parameter, now.clone()));
        }
        parameters.push(Step::sysctl(parameter.name(&spec.uplink), wanted));
    }
    let note = Note { spec: spec.clone(), before };

    // Rules come first and forwarding comes last, so that nothing is open in between.
    let mut steps = vec![Step::Rules { ruleset: rules::routed(spec) + &rules::frames(name, ports) }];
    if there.is_none() {
        let mac = mac(&format!("bridge {name}"));
        steps.push(Step::ip(&format!(
            "link add name {name} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        )));
    }
    // The kernel takes no alias with the creation.
    steps.push(alias(&note));
    if facts.parameter(super::spec::Parameter::Forwarding6).is_some() {
        steps.push(Step::sysctl(format!("net/ipv6/conf/{name}/accept_ra"), 0));
    }
    for gateway in spec.gateways() {
        // No one else can have it; without the check it can be used at once.
        let unchecked = if matches!(gateway, IpNet::V6(_)) { " nodad" } else { "" };
        steps.push(Step::ip(&format!("address replace {gateway} dev {name}{unchecked}")));
    }
    steps.push(Step::ip(&format!("link set dev {name} up")));
    steps.push(Step::sysctl(format!("net/ipv4/conf/{name}/forwarding"), 1));
    steps.extend(parameters);
    Ok(steps)
}

fn check_host(spec: &BridgeSpec, facts: &Facts) -> Result<()> {
    let invalid = |message: String| Error::new(ErrorKind::InvalidSpec, message);
    if facts.interface(&spec.uplink).is_none() {
        return Err(invalid(format!("there is no interface {}", spec.uplink)).hint("ip route show default"));
    }
    if spec.subnet6.is_some() && facts.parameter(super::spec::Parameter::Forwarding6).is_none() {
        return Err(invalid("this machine's kernel has no IPv6".to_owned()).hint("leave --subnet6 out"));
    }
    for interface in facts.interfaces.iter().filter(|interface| interface.name != spec.name) {
        for address in &interface.addresses {
            let subnets = [Some(IpNet::V4(spec.subnet)), spec.subnet6.map(IpNet::V6)];
            if let Some(subnet) =
                subnets.into_iter().flatten().find(|subnet| overlap(*subnet, address.local, address.prefix))
            {
                return Err(invalid(format!(
                    "{subnet} overlaps with {}/{} of {}",
                    address.local, address.prefix, interface.name
                )));
            }
        }
    }
    Ok(())
}

/// What removes a bridge and all that came with it.
///
/// # Errors
/// [`ErrorKind::BridgeRefused`] for one of others, [`ErrorKind::BridgeInUse`] for one with ports.
pub(super) fn teardown(name: &str, facts: &Facts) -> Result<Vec<Step>> {
    let rules = Step::Rules { ruleset: rules::removal(name) };
    // Rules may be left by a set-up that was cut off.
    let Some(note) = facts.note(name)? else { return Ok(vec![rules]) };
    let ports = facts.ports(name);
    if !ports.is_empty() {
        return Err(Error::new(ErrorKind::BridgeInUse, format!("{name} is in use by {}", ports.join(", ")))
            .hint("viv ps")
            .hint("viv stop --all"));
    }
    let mut steps = vec![Step::ip(&format!("link delete dev {name} type bridge"))];
    let mut heirs = facts.other_notes(name);
    for (parameter, value) in note.before.iter().rev() {
        match heirs.iter_mut().find(|heir| parameter.is_shared(&note.spec, &heir.spec)) {
            // Another bridge needs it still, and restores it when it goes.
            Some(heir) => {
                if !heir.before.iter().any(|(known, _)| known == parameter) {
                    heir.before.push((*parameter, value.clone()));
                    steps.push(alias(heir));
                }
            }
            None => steps.push(Step::sysctl(parameter.name(&note.spec.uplink), value)),
        }
    }
    steps.push(rules);
    Ok(steps)
}

/// What makes an interface a port of a bridge, once the rules know it. It is isolated before it is up.
pub(super) fn attach(interface: &str, bridge: &str) -> Vec<Step> {
    [
        format!("link set dev {interface} addrgenmode none"),
        format!("link set dev {interface} master {bridge}"),
        format!("link set dev {interface} type bridge_slave isolated on"),
        format!("link set dev {interface} up"),
    ]
    .map(|arguments| Step::ip(&arguments))
    .to_vec()
}

fn alias(note: &Note) -> Step {
    let mut arguments = words(&format!("link set dev {} alias", note.spec.name));
    arguments.push(note.to_string());
    Step::Ip { arguments }
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::facts;
    use super::*;

    fn spec(name: &str, subnet: &str) -> BridgeSpec {
        BridgeSpec::new(name, subnet.parse().unwrap(), Some("fd00:83::/64".parse().unwrap()), "eth0").unwrap()
    }

    /// Without the rules, which have snapshots of their own.
    fn shown(steps: &[Step]) -> String {
        let lines: Vec<String> =
            steps.iter().map(|step| step.to_string().lines().next().unwrap_or_default().to_owned()).collect();
        lines.join("\n")
    }

    const THERE: &str = r#",{"ifname":"vivbr","linkinfo":{"info_kind":"bridge"},
        "ifalias":"viv subnet=192.168.83.0/24 subnet6=fd00:83::/64 uplink=eth0 accept_ra=1 forwarding6=0 forwarding=0"}"#;

    #[test]
    fn the_steps_of_setup_and_teardown() {
        let spec = spec("vivbr", "192.168.83.0/24");
        insta::assert_snapshot!(shown(&setup(&spec, &facts(""), &[]).unwrap()));
        insta::assert_snapshot!(shown(&setup(&spec, &facts(THERE), &[]).unwrap()));
        insta::assert_snapshot!(shown(&teardown("vivbr", &facts(THERE)).unwrap()));
        assert_eq!(shown(&teardown("vivbr", &facts("")).unwrap()), "nft -f - <<'.'");
        insta::assert_snapshot!(shown(&attach("viv0123abcd", "vivbr")));
    }

    #[test]
    fn what_another_bridge_needs_is_left_to_it() {
        let other =
            r#",{"ifname":"other","linkinfo":{"info_kind":"bridge"},"ifalias":"viv subnet=10.1.0.0/24 uplink=eth0"}"#;
        insta::assert_snapshot!(shown(&teardown("vivbr", &facts(&format!("{THERE}{other}"))).unwrap()));
    }

    #[test]
    fn what_cannot_be_set_up_is_refused() {
        let refused = |spec: BridgeSpec, more: &str| setup(&spec, &facts(more), &[]).unwrap_err();
        let error = refused(spec("docker0", "10.0.0.0/24"), "");
        assert_eq!(error.to_string(), "docker0 was not made by `viv net setup`, and is left alone");
        let error = refused(spec("vivbr", "10.0.0.0/24"), THERE);
        assert_eq!(*error.kind(), ErrorKind::BridgeRefused);
        assert_eq!(error.hints(), ["viv net teardown --bridge vivbr"]);
        let error = refused(spec("vivbr", "172.17.3.0/24"), "");
        assert_eq!(error.to_string(), "172.17.3.0/24 overlaps with 172.17.0.1/16 of docker0");
        let error = refused(BridgeSpec { uplink: "wlan0".into(), ..spec("vivbr", "10.0.0.0/24") }, "");
        assert_eq!(error.to_string(), "there is no interface wlan0");
        let used = format!(r#"{THERE},{{"ifname":"viv0123abcd","master":"vivbr"}}"#);
        let error = teardown("vivbr", &facts(&used)).unwrap_err();
        assert_eq!(error.to_string(), "vivbr is in use by viv0123abcd");
    }
}
