//! Which sandbox has which address of a bridge: kept on disk, so that a named one keeps its own.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::spec::{BridgeSpec, Port};
use crate::device::error::io;
use crate::device::{Error, ErrorKind, Result, mac};

/// The first number of a sandbox: 0 is the network's own address, 1 the host's.
const FIRST: u32 = 2;

/// Below the state directory.
const DIRECTORY: &str = "bridges";

/// A sandbox that wants an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox<'a> {
    /// Its id: at most 12 letters and digits.
    pub id: &'a str,
    /// Its name, if it has one, by which it gets the same address again.
    pub name: Option<&'a str>,
}

impl Sandbox<'_> {
    /// What its lease is kept under.
    fn key(&self) -> String {
        self.name.map_or_else(|| format!("id {}", self.id), |name| format!("name {name}"))
    }

    /// Its device's hardware address on any bridge.
    #[must_use]
    pub fn mac(&self) -> String {
        mac(&self.key())
    }

    /// The interface on the host that leads to it.
    #[must_use]
    pub fn interface(&self) -> String {
        format!("viv{}", self.id)
    }
}

/// One sandbox's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// Its number in the subnets.
    number: u32,
    /// The interface on the host while it runs.
    interface: String,
    mac: String,
    /// Whether it outlives its sandbox.
    named: bool,
    /// Grows with each use of the file.
    used: u64,
}

/// All leases of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Leases {
    /// They are of these networks only.
    networks: String,
    uses: u64,
    leases: BTreeMap<String, Lease>,
}

impl Leases {
    fn of(networks: String) -> Self {
        Self { networks, ..Self::default() }
    }

    /// Gives a sandbox its address. `is_live` tells whether an interface is a port of the bridge: the
    /// address of one that is may not be given away.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`] if all addresses are those of running sandboxes;
    /// [`ErrorKind::InvalidSpec`] if a running one has this one's interface or hardware address.
    pub(super) fn assign(
        &mut self,
        sandbox: Sandbox<'_>,
        spec: &BridgeSpec,
        is_live: &dyn Fn(&str) -> bool,
    ) -> Result<Port> {
        let (key, mac, interface) = (sandbox.key(), sandbox.mac(), sandbox.interface());
        // Whoever ended without a word needs none any more.
        self.leases.retain(|_, lease| lease.named || is_live(&lease.interface));
        let double = |lease: &Lease| lease.interface == interface || lease.mac == mac;
        if let Some((other, _)) = self.leases.iter().find(|(_, lease)| is_live(&lease.interface) && double(lease)) {
            return Err(Error::new(
                ErrorKind::InvalidSpec,
                format!("{} is on {} already, as {other}", sandbox.id, spec.name),
            ));
        }
        self.uses += 1;
        let number = match self.leases.get(&key) {
            Some(lease) => lease.number,
            None => self.free_number(spec, is_live)?,
        };
        let lease = Lease { number, interface, mac, named: sandbox.name.is_some(), used: self.uses };
        let port = lease.port(spec);
        self.leases.insert(key, lease);
        Ok(port)
    }

    /// The lowest number that is no one's; else that of the named sandbox that ran longest ago.
    fn free_number(&mut self, spec: &BridgeSpec, is_live: &dyn Fn(&str) -> bool) -> Result<u32> {
        let taken: std::collections::BTreeSet<u32> = self.leases.values().map(|lease| lease.number).collect();
        // The last one is IPv4's broadcast address.
        if let Some(number) = (FIRST..spec.size() - 1).find(|number| !taken.contains(number)) {
            return Ok(number);
        }
        let idle = self.leases.iter().filter(|(_, lease)| !is_live(&lease.interface));
        let oldest = idle.min_by_key(|(_, lease)| lease.used).map(|(key, _)| key.clone());
        let lease = oldest.and_then(|key| self.leases.remove(&key)).ok_or_else(|| {
            Error::new(
                ErrorKind::Exhausted,
                format!("all {} addresses of {} are in use", spec.size() - 1 - FIRST, spec.name),
            )
            .hint("viv ps")
        })?;
        Ok(lease.number)
    }

    /// Forgets a sandbox that ended, unless it has a name.
    pub(super) fn release(&mut self, interface: &str) {
        self.leases.retain(|_, lease| lease.named || lease.interface != interface);
    }

    /// Those of these interfaces that sandboxes have.
    pub(super) fn ports(&self, spec: &BridgeSpec, is_live: &dyn Fn(&str) -> bool) -> Vec<Port> {
        self.leases.values().filter(|lease| is_live(&lease.interface)).map(|lease| lease.port(spec)).collect()
    }
}

impl Lease {
    fn port(&self, spec: &BridgeSpec) -> Port {
        let (v4, v6) = spec.member(self.number);
        Port {
            interface: self.interface.clone(),
            mac: self.mac.clone(),
            v4: v4.addr(),
            v6: v6.map(|address| address.addr()),
        }
    }
}

/// The leases' file, locked: whoever holds this is alone in changing anything about the bridge.
#[derive(Debug)]
pub(super) struct LeaseFile {
    path: PathBuf,
    _lock: File,
}

impl LeaseFile {
    /// Waits for the lock.
    pub(super) fn lock(state: &Path, bridge: &str) -> Result<Self> {
        let directory = state.join(DIRECTORY);
        let cannot = || io(format!("{} cannot be used", directory.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(cannot())?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join(format!("{bridge}.lock")))
            .map_err(cannot())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| cannot()(error.into()))?;
        Ok(Self { path: directory.join(format!("{bridge}.json")), _lock: lock })
    }

    /// What is kept; nothing if it cannot be understood, or is of other networks.
    pub(super) fn load(&self, spec: &BridgeSpec) -> Leases {
        let networks = spec.gateways().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let read = std::fs::read(&self.path).ok();
        let kept: Option<Leases> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        kept.filter(|leases| leases.networks == networks).unwrap_or_else(|| Leases::of(networks))
    }

    /// Replaces the file in one step.
    pub(super) fn save(&self, leases: &Leases) -> Result<()> {
        let cannot = || io(format!("{} cannot be written", self.path.display()));
        let bytes = serde_json::to_vec_pretty(leases).map_err(|error| cannot()(error.into()))?;
        let fresh = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh).map_err(cannot())?;
        file.write_all(&bytes).map_err(cannot())?;
        std::fs::rename(&fresh, &self.path).map_err(cannot())
    }

    /// Forgets everything.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io(format!("{} cannot be removed", self.path.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(subnet: &str) -> BridgeSpec {
        BridgeSpec::new("vivbr", subnet.parse().unwrap(), None, "eth0").unwrap()
    }

    fn named<'a>(id: &'a str, name: &'a str) -> Sandbox<'a> {
        Sandbox { id, name: Some(name) }
    }

    const NONE: &dyn Fn(&str) -> bool = &|_| false;

    #[test]
    fn a_named_sandbox_keeps_its_address_and_hardware_address() {
        let spec = spec("10.0.0.0/24");
        let mut leases = Leases::default();
        let first = leases.assign(named("00000001", "review"), &spec, NONE).unwrap();
        let other = leases.assign(Sandbox { id: "00000002", name: None }, &spec, NONE).unwrap();
        assert_eq!((first.v4.to_string(), other.v4.to_string()), ("10.0.0.2".into(), "10.0.0.3".into()));
        leases.release(&first.interface);
        leases.release(&other.interface);
        let third = leases.assign(Sandbox { id: "00000003", name: None }, &spec, NONE).unwrap();
        assert_eq!(third.v4, other.v4, "an unnamed one's is free again");
        let again = leases.assign(named("00000004", "review"), &spec, NONE).unwrap();
        assert_eq!((again.v4, &again.mac), (first.v4, &first.mac));
        assert_eq!(again.interface, "viv00000004");
    }

    #[test]
    fn a_full_subnet_gives_away_what_has_been_idle_longest_and_nothing_in_use() {
        let spec = spec("10.0.0.0/29");
        let mut leases = Leases::default();
        let ids: Vec<String> = (0..5).map(|number| format!("0000000{number}")).collect();
        for id in &ids {
            leases.assign(named(id, id), &spec, NONE).unwrap();
        }
        // The first one runs again, so that the second one is idle longest.
        leases.assign(named("0000000a", &ids[0]), &spec, NONE).unwrap();
        let new = leases.assign(named("0000000b", "new"), &spec, NONE).unwrap();
        assert_eq!(new.v4.to_string(), "10.0.0.3");
        let error = leases.assign(named("0000000c", "more"), &spec, &|_| true).unwrap_err();
        assert_eq!(error.to_string(), "all 5 addresses of vivbr are in use");
        let error = leases.assign(named("0000000d", "new"), &spec, &|_| true).unwrap_err();
        assert_eq!(error.to_string(), "0000000d is on vivbr already, as name new");
        assert_eq!(leases.ports(&spec, &|interface| interface == "viv0000000b"), [new]);
    }

    #[test]
    fn leases_are_kept_and_those_of_other_networks_are_not() {
        let state = tempfile::tempdir().unwrap();
        let spec = spec("10.0.0.0/24");
        let file = LeaseFile::lock(state.path(), "vivbr").unwrap();
        let mut leases = file.load(&spec);
        leases.assign(named("00000001", "review"), &spec, NONE).unwrap();
        file.save(&leases).unwrap();
        assert_eq!(file.load(&spec), leases);
        assert!(file.load(&self::spec("10.1.0.0/24")).leases.is_empty());
        std::fs::write(&file.path, "{").unwrap();
        assert!(file.load(&spec).leases.is_empty());
        file.remove().unwrap();
        file.remove().unwrap();
    }
}
