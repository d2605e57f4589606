//! `--net bridge`: a port of a bridge on the host, for each sandbox one with addresses of its own.
//!
//! The bridge is made by `viv net setup` and known by its alias, in which the kernel keeps what it
//! was made with; there is no other record of it. Rules are in two tables of the bridge's own, so
//! that those of others are neither changed nor needed. Everything takes root.

mod facts;
mod lease;
mod plan;
mod rules;
mod spec;

use std::path::{Path, PathBuf};

use viv_proto::message::NetworkDevice;

use super::error::io;
use super::{Error, ErrorKind, Resolvers, Result, Step, carry_out, describe};
use facts::Facts;
use lease::LeaseFile;
use spec::check_name;

pub use lease::Sandbox;
pub use spec::BridgeSpec;

/// Makes a bridge, or makes one whole that is there: its steps, each told before it is taken. With
/// `dry_run` none is taken, for which root is not needed. `state` is viv's state directory.
///
/// # Errors
/// [`ErrorKind::NotRoot`]; [`ErrorKind::BridgeRefused`] for a bridge of others or of another set-up;
/// [`ErrorKind::InvalidSpec`] for one that cannot be here; what `ip` and `nft` refuse.
pub fn setup(spec: &BridgeSpec, state: &Path, dry_run: bool, tell: &mut dyn FnMut(&Step)) -> Result<()> {
    if dry_run {
        plan::setup(spec, &Facts::probe(&spec.uplink)?, &[])?.iter().for_each(tell);
        return Ok(());
    }
    require_root("viv net setup")?;
    let file = LeaseFile::lock(state, &spec.name)?;
    let facts = Facts::probe(&spec.uplink)?;
    let live = facts.ports(&spec.name);
    let ports = file.load(spec).ports(spec, &|interface| live.contains(&interface));
    take(&plan::setup(spec, &facts, &ports)?, tell)
        .map_err(|error| error.hint(format!("viv net teardown --bridge {}", spec.name)))
}

/// Removes a bridge and all that came with it: its steps, each told before it is taken. There may be
/// no such bridge. `state` is viv's state directory.
///
/// # Errors
/// [`ErrorKind::NotRoot`]; [`ErrorKind::BridgeRefused`] for a bridge of others;
/// [`ErrorKind::BridgeInUse`] while sandboxes are on it; what `ip` and `nft` refuse.
pub fn teardown(name: &str, state: &Path, dry_run: bool, tell: &mut dyn FnMut(&Step)) -> Result<()> {
    check_name(name)?;
    if dry_run {
        plan::teardown(name, &Facts::probe(name)?)?.iter().for_each(tell);
        return Ok(());
    }
    require_root("viv net teardown")?;
    let file = LeaseFile::lock(state, name)?;
    take(&plan::teardown(name, &Facts::probe(name)?)?, tell)?;
    file.remove()
}

fn take(steps: &[Step], tell: &mut dyn FnMut(&Step)) -> Result<()> {
    steps.iter().try_for_each(|step| {
        tell(step);
        carry_out(step)
    })
}

fn require_root(what: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotRoot, format!("{what} takes root")).hint("run it with sudo"))
}

/// Whether a sandbox could join a bridge, as far as can be told without doing it.
///
/// # Errors
/// [`ErrorKind::ProgramMissing`], [`ErrorKind::NotRoot`], [`ErrorKind::BridgeMissing`] or
/// [`ErrorKind::BridgeRefused`], with the command that mends it.
pub fn check(name: &str) -> Result<BridgeSpec> {
    check_name(name)?;
    require_root("--net bridge").map_err(|error| error.hint("--net nat works without root"))?;
    ["ip", "nft"].into_iter().try_for_each(|program| super::find_program(program).map(drop))?;
    find(name, &Facts::probe(name)?)
}

fn find(name: &str, facts: &Facts) -> Result<BridgeSpec> {
    let note = facts.note(name)?.ok_or_else(|| {
        Error::new(ErrorKind::BridgeMissing, format!("there is no bridge {name}"))
            .hint(format!("viv net setup --bridge {name} --subnet 192.168.83.0/24 --uplink INTERFACE"))
    })?;
    Ok(note.spec)
}

/// A sandbox's place on a bridge. What is left of it when its owner is killed is taken away by the
/// next one that joins.
#[derive(Debug)]
pub struct Membership {
    spec: BridgeSpec,
    interface: String,
    state: PathBuf,
    device: NetworkDevice,
}

/// Puts a sandbox on a bridge: gives it addresses, lets in what comes from these alone, and attaches
/// the interface that `make_interface` makes under the name it is given. `state` is viv's state directory.
///
/// # Errors
/// Those of [`check`]; [`ErrorKind::Exhausted`] for a full subnet; what `make_interface`, `ip` and
/// `nft` refuse.
pub fn join<T>(
    bridge: &str,
    state: &Path,
    sandbox: Sandbox<'_>,
    make_interface: impl FnOnce(&str) -> std::io::Result<T>,
) -> Result<(Membership, T)> {
    check(bridge)?;
    let file = LeaseFile::lock(state, bridge)?;
    let facts = Facts::probe(bridge)?;
    let spec = find(bridge, &facts)?;
    let live = facts.ports(bridge);
    let is_live = |interface: &str| live.contains(&interface);
    let mut leases = file.load(&spec);
    let port = leases.assign(sandbox, &spec, &is_live)?;
    let mut ports = leases.ports(&spec, &is_live);
    ports.push(port.clone());
    file.save(&leases)?;
    // Before the interface can carry anything.
    carry_out(&Step::Rules { ruleset: rules::frames(bridge, &ports) })?;
    let interface = port.interface.clone();
    let made = make_interface(&interface).map_err(io(format!("the interface {interface} could not be made")))?;
    plan::attach(&interface, bridge).iter().try_for_each(carry_out)?;

    let mut addresses = vec![ipnet::Ipv4Net::new_assert(port.v4, spec.subnet.prefix_len()).into()];
    if let (Some(address), Some(subnet)) = (port.v6, spec.subnet6) {
        addresses.push(ipnet::Ipv6Net::new_assert(address, subnet.prefix_len()).into());
    }
    let servers = Resolvers::probe().reachable;
    let device = describe(
        &port.mac,
        addresses,
        spec.gateways().iter().map(ipnet::IpNet::addr),
        servers.into_iter().filter(|server| server.is_ipv4() || spec.subnet6.is_some()),
    );
    Ok((Membership { spec, interface, state: state.to_owned(), device }, made))
}

impl Membership {
    /// What the guest is told of its device.
    #[must_use]
    pub fn device(&self) -> &NetworkDevice {
        &self.device
    }

    /// Takes the sandbox off the bridge; its interface is gone already or goes with its last descriptor.
    ///
    /// # Errors
    /// What `ip` and `nft` refuse. The next sandbox that joins cleans up as well.
    pub fn leave(self) -> Result<()> {
        let Self { spec, interface, state, .. } = self;
        let file = LeaseFile::lock(&state, &spec.name)?;
        let facts = Facts::probe(&spec.name)?;
        let mut leases = file.load(&spec);
        leases.release(&interface);
        file.save(&leases)?;
        let live = facts.ports(&spec.name);
        let ports = leases.ports(&spec, &|other| other != interface && live.contains(&other));
        carry_out(&Step::Rules { ruleset: rules::frames(&spec.name, &ports) })
    }
}
