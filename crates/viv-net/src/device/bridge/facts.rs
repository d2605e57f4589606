//! What the host's network is like.

use std::net::IpAddr;

use serde::Deserialize;

use super::spec::{Note, Parameter};
use crate::device::step::{output, read_sysctl};
use crate::device::{Error, ErrorKind, Result};

/// An interface of the host, as `ip -json` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Interface {
    #[serde(rename = "ifname")]
    pub(super) name: String,
    #[serde(default, rename = "ifalias")]
    alias: String,
    /// The bridge it is a port of.
    #[serde(default)]
    pub(super) master: Option<String>,
    #[serde(default, rename = "linkinfo")]
    kind: Kind,
    #[serde(default, rename = "addr_info")]
    pub(super) addresses: Vec<Address>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
struct Kind {
    #[serde(default, rename = "info_kind")]
    name: Option<String>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Address {
    pub(super) local: IpAddr,
    #[serde(rename = "prefixlen")]
    pub(super) prefix: u8,
}

/// The host's interfaces, and how it forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) interfaces: Vec<Interface>,
    /// The parameters that a bridge with a certain uplink needs, and what they are; none where the
    /// kernel has no such parameter.
    pub(super) parameters: Vec<(Parameter, Option<String>)>,
}

impl Facts {
    /// Looks at the host.
    pub(super) fn probe(uplink: &str) -> Result<Self> {
        let arguments = ["-details", "-json", "address", "show"].map(str::to_owned);
        Ok(Self {
            interfaces: parse(&output("ip", &arguments, "")?)?,
            parameters: Parameter::ALL.map(|parameter| (parameter, read_sysctl(&parameter.name(uplink)))).to_vec(),
        })
    }

    pub(super) fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    pub(super) fn parameter(&self, wanted: Parameter) -> Option<&str> {
        self.parameters.iter().find(|(parameter, _)| *parameter == wanted)?.1.as_deref()
    }

    /// The note on a bridge; none if there is no such interface.
    ///
    /// # Errors
    /// [`ErrorKind::BridgeRefused`] if there is one and it is none of viv's.
    pub(super) fn note(&self, bridge: &str) -> Result<Option<Note>> {
        let Some(interface) = self.interface(bridge) else { return Ok(None) };
        interface.note().map(Some).ok_or_else(|| {
            Error::new(ErrorKind::BridgeRefused, format!("{bridge} was not made by `viv net setup`, and is left alone"))
                .hint("choose another name with --bridge")
                .hint(format!("if a set-up that was cut off left it: ip link delete dev {bridge}"))
        })
    }

    /// The notes on all bridges of viv's but one.
    pub(super) fn other_notes(&self, bridge: &str) -> Vec<Note> {
        self.interfaces.iter().filter(|interface| interface.name != bridge).filter_map(Interface::note).collect()
    }

    /// The ports of a bridge.
    pub(super) fn ports(&self, bridge: &str) -> Vec<&str> {
        let ports = self.interfaces.iter().filter(|interface| interface.master.as_deref() == Some(bridge));
        ports.map(|interface| interface.name.as_str()).collect()
    }
}

impl Interface {
    fn note(&self) -> Option<Note> {
        (self.kind.name.as_deref() == Some("bridge")).then(|| Note::parse(&self.name, &self.alias)).flatten()
    }
}

fn parse(json: &str) -> Result<Vec<Interface>> {
    let broken =
        |error| Error::new(ErrorKind::Failed, "what `ip` said of the interfaces is not understood").source(error);
    let values: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|error| broken(error.to_string()))?;
    // iproute2 before 6.3 prints empty objects for what it leaves out.
    let whole = values.into_iter().filter(|value| value.get("ifname").is_some());
    whole.map(|value| serde_json::from_value(value).map_err(|error| broken(error.to_string()))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::device::bridge) fn facts(more: &str) -> Facts {
        let json = format!(
            r#"[{{}},
            {{"ifname":"lo","addr_info":[{{"local":"127.0.0.1","prefixlen":8}}]}},
            {{"ifname":"eth0","addr_info":[{{"local":"192.0.2.2","prefixlen":24}},{{"local":"2001:db8::2","prefixlen":64}}]}},
            {{"ifname":"docker0","linkinfo":{{"info_kind":"bridge"}},"addr_info":[{{"local":"172.17.0.1","prefixlen":16}}]}}
            {more}]"#
        );
        let parameters = [
            (Parameter::AcceptAdvertisements, Some("1".to_owned())),
            (Parameter::Forwarding6, Some("0".to_owned())),
            (Parameter::UplinkForwarding, Some("0".to_owned())),
        ];
        Facts { interfaces: parse(&json).unwrap(), parameters: parameters.to_vec() }
    }

    #[test]
    fn a_bridge_of_others_is_not_touched() {
        let facts =
            facts(r#",{"ifname":"a","ifalias":"viv subnet=10.0.0.0/24 uplink=eth0","linkinfo":{"info_kind":"dummy"}}"#);
        assert_eq!(*facts.note("docker0").unwrap_err().kind(), ErrorKind::BridgeRefused);
        assert_eq!(*facts.note("a").unwrap_err().kind(), ErrorKind::BridgeRefused);
        assert_eq!(facts.note("vivbr").unwrap(), None);
        assert!(facts.other_notes("vivbr").is_empty());
    }
}
