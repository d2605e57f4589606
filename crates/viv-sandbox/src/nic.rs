//! Which network device a sandbox's machine has. Pure, but for the check of the host.

use viv_net::device::bridge::{self, Sandbox};
use viv_net::device::find_program;
use viv_net::device::nat::{MTU, Nat};
use viv_vmm::{NetworkBacking, NetworkCard};

use crate::error::adopt;
use crate::{NetworkMode, NetworkSpec, Result, SandboxSpec};

/// The machine's network device; none unless it was asked for.
pub(crate) fn card(spec: &SandboxSpec) -> Option<NetworkCard> {
    let mac = on_bridge(spec).mac();
    match spec.network.mode {
        NetworkMode::None | NetworkMode::Filtered { .. } => None,
        NetworkMode::Nat => Some(NetworkCard { mac, mtu: Some(MTU), backing: NetworkBacking::Stream }),
        NetworkMode::Bridge { .. } => Some(NetworkCard { mac, mtu: None, backing: NetworkBacking::Tap }),
    }
}

/// How a sandbox is known to a bridge.
pub(crate) fn on_bridge(spec: &SandboxSpec) -> Sandbox<'_> {
    Sandbox { id: &spec.id, name: spec.name.as_deref() }
}

/// Whether the host can be what a network device needs, as far as can be told beforehand.
///
/// # Errors
/// What is missing, and the command that mends it.
pub fn check_network(network: &NetworkSpec) -> Result<()> {
    match &network.mode {
        NetworkMode::None | NetworkMode::Filtered { .. } => Ok(()),
        NetworkMode::Nat => find_program("passt").and_then(|_| Nat::probe()).map(drop).map_err(adopt),
        NetworkMode::Bridge { bridge } => bridge::check(bridge).map(drop).map_err(adopt),
    }
}
