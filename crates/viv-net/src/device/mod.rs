//! Network devices: what stands behind the NIC of a sandbox that has one.
//!
//! ```text
//!  nat      guest ─virtio-net─► QEMU ─unix─► guard ─unix─► passt ─sockets of the host's user─► network
//!                                            (frames to the host itself are refused)
//!
//!  bridge   guest ─virtio-net─► QEMU ─tap─► bridge ─► the host's routing, NAT ─► uplink ─► network
//!                                    isolated port,   nftables: not to the host,
//!                                    own addresses    not to other sandboxes
//! ```
//!
//! Both give the guest a fixed configuration ([`NetworkDevice`]); there is no DHCP. What is decided
//! is pure and can be printed: [`nat`] has passt's arguments, [`bridge`] the steps and rules. What
//! carries it out calls `ip` and `nft`, and says in their words what went wrong.

pub mod bridge;
mod error;
pub mod guard;
pub mod nat;
mod program;
pub mod refusal;
mod resolvers;
mod step;

pub use error::{Error, ErrorKind, Result};
pub use program::find_program;
pub use resolvers::Resolvers;
pub use step::{Step, carry_out};

use sha2::{Digest, Sha256};
use viv_proto::message::NetworkDevice;

/// The hardware address of a sandbox's device: always the same for the same name, locally
/// administered and unicast (IEEE 802-2014, 8.4).
#[must_use]
pub fn mac(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", digest[0], digest[1], digest[2], digest[3], digest[4])
}

/// The device's description for a guest, from typed addresses.
fn describe(
    mac: &str,
    addresses: impl IntoIterator<Item = ipnet::IpNet>,
    gateways: impl IntoIterator<Item = std::net::IpAddr>,
    name_servers: impl IntoIterator<Item = std::net::IpAddr>,
) -> NetworkDevice {
    NetworkDevice {
        mac: mac.to_owned(),
        addresses: addresses.into_iter().map(|address| address.to_string()).collect(),
        gateways: gateways.into_iter().map(|gateway| gateway.to_string()).collect(),
        name_servers: name_servers.into_iter().map(|server| server.to_string()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_stable_and_locally_administered() {
        assert_eq!(mac("review"), mac("review"));
        assert_ne!(mac("review"), mac("other"));
        for name in ["", "review", "0123abcd"] {
            let first = u8::from_str_radix(&mac(name)[..2], 16).unwrap();
            assert_eq!(first & 0b11, 0b10, "locally administered, not a group");
            assert_eq!(mac(name).len(), 17);
        }
    }
}
