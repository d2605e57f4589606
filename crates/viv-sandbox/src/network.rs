//! A sandbox's network: what is asked for, and what that means for its egress and its guest. Pure.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use viv_net::gateway::GatewaySpec;
use viv_net::policy::Policy;
use viv_net::spec::{EgressSpec, Limits};
use viv_proto::message::{self, GuestFile, NetworkWay, Share, ShareKind};
use viv_shares::ShareSpec;

use crate::Result;
use crate::error::io;
use crate::paths::private_directory;

/// Where the guest finds the certificate authorities that the host trusts.
pub const CERTIFICATES: &str = "/run/viv/trust/ca-certificates.crt";

/// The socket of the host's SSH agent inside.
pub const SSH_AGENT: &str = "/run/viv/ssh-agent.sock";

/// The share that the certificate authorities come by.
const CERTIFICATES_ENTRY: &str = "certificates";

/// Below the state directory: a directory for each sandbox, which outlives it.
const LOGS: &str = "network";

/// In a sandbox's log directory: the name it had, if it had one.
pub const NAME_FILE: &str = "name";

/// How many sandboxes' logs are kept.
const LOGS_KEPT: usize = 200;

/// How a sandbox reaches others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum NetworkMode {
    /// Not at all.
    #[default]
    None,
    /// Through its egress, by policy, without a network device.
    Filtered {
        /// What may be connected to.
        policy: Policy,
    },
    /// Through a device whose traffic the host's user sends as its own.
    Nat,
    /// Through a device on a bridge of the host.
    Bridge {
        /// The bridge's name.
        bridge: String,
    },
}

impl NetworkMode {
    /// The word for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Filtered { .. } => "filtered",
            Self::Nat => "nat",
            Self::Bridge { .. } => "bridge",
        }
    }
}

/// A TCP port of the guest's loopback interface that the host shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Where the host listens; port 0 for any that is free.
    pub address: std::net::SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
}

/// What a sandbox has to do with others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// How it reaches others.
    #[serde(flatten)]
    pub mode: NetworkMode,
    /// Which model APIs it may call.
    pub gateway: Option<GatewaySpec>,
    /// The socket of the host's SSH agent, if the guest may use it.
    pub ssh_agent: Option<PathBuf>,
    /// Ports of the guest that the host shows.
    pub publish: Vec<Publish>,
    /// Where the servers of all named sandboxes answer: the host's loopback interface, this port.
    pub names_port: Option<NonZeroU16>,
    /// A PEM file of the host with the certificate authorities to trust.
    pub certificates: Option<PathBuf>,
    /// The environment of every program inside, under what is asked for a program itself.
    pub environment: BTreeMap<String, String>,
    /// Settings for the programs inside.
    pub files: Vec<GuestFile>,
}

impl NetworkSpec {
    /// What the egress is told; none if nothing is left for one to do.
    #[must_use]
    pub fn egress(&self, sandbox: &str, state: &Path) -> Option<EgressSpec> {
        let policy = match &self.mode {
            NetworkMode::Filtered { policy } => Some(policy.clone()),
            _ => None,
        };
        if policy.is_none() && self.gateway.is_none() && self.ssh_agent.is_none() {
            return None;
        }
        Some(EgressSpec {
            sandbox: sandbox.to_owned(),
            directory: logs_of(state).join(sandbox),
            policy,
            limits: Limits::default(),
            gateway: self.gateway.clone(),
            ssh_agent: self.ssh_agent.clone(),
        })
    }

    /// What the guest is told. A device is described by whoever makes it.
    #[must_use]
    pub fn guest(&self) -> message::Network {
        message::Network {
            way: match self.mode {
                NetworkMode::Filtered { .. } => NetworkWay::Filtered,
                _ => NetworkWay::None,
            },
            gateway: self.gateway.is_some(),
            ssh_agent: self.ssh_agent.as_ref().map(|_| SSH_AGENT.to_owned()),
        }
    }

    /// The share that the certificate authorities come by, on both sides.
    #[must_use]
    pub fn certificates(&self) -> Option<(ShareSpec, Share)> {
        let source = self.certificates.clone()?;
        let entry = CERTIFICATES_ENTRY.to_owned();
        Some((
            ShareSpec { entry: entry.clone(), source, read_only: true, protect: Vec::new(), gathered: None },
            Share {
                entry,
                destination: CERTIFICATES.to_owned(),
                kind: ShareKind::File,
                read_only: true,
                writable_overlay: false,
            },
        ))
    }
}

/// The directory that holds a log directory for each sandbox.
#[must_use]
pub fn logs_of(state: &Path) -> PathBuf {
    state.join(LOGS)
}

/// Makes a sandbox's log directory, and removes the oldest ones of others if there are many.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn make_logs(spec: &EgressSpec, name: Option<&str>) -> Result<()> {
    private_directory(&spec.directory)?;
    if let Some(name) = name {
        std::fs::write(spec.directory.join(NAME_FILE), name).map_err(io("the sandbox's log cannot be written"))?;
    }
    let entries = spec.directory.parent().map(std::fs::read_dir).into_iter().flatten().flatten().flatten();
    let mut others: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    others.sort();
    let surplus = others.len().saturating_sub(LOGS_KEPT);
    for (_, oldest) in others.into_iter().take(surplus) {
        // What stays is tried again by the next sandbox.
        let _ = std::fs::remove_dir_all(oldest);
    }
    Ok(())
}
