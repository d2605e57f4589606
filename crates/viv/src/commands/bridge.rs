//! `viv net setup` and `viv net teardown`

use viv_net::device::Step;
use viv_net::device::bridge::{self, BridgeSpec};
use viv_sandbox::Paths;

use crate::cli::bridge::{SetupArguments, TeardownArguments};
use crate::error::Failure;
use crate::output::{print, print_json};

/// Makes a bridge, showing each step.
///
/// # Errors
/// A bridge that cannot be, or is another's; no root; what `ip` and `nft` refuse.
pub fn setup(arguments: &SetupArguments) -> Result<u8, Failure> {
    let spec = BridgeSpec::new(&arguments.bridge, arguments.subnet, arguments.subnet6, &arguments.uplink)?;
    let state = Paths::from_environment()?.state;
    show(arguments.json, |tell| bridge::setup(&spec, &state, arguments.dry_run, tell))
}

/// Removes a bridge, showing each step.
///
/// # Errors
/// A bridge that is in use, or another's; no root; what `ip` and `nft` refuse.
pub fn teardown(arguments: &TeardownArguments) -> Result<u8, Failure> {
    let state = Paths::from_environment()?.state;
    show(arguments.json, |tell| bridge::teardown(&arguments.bridge, &state, arguments.dry_run, tell))
}

/// Prints steps as they come, or all of them at the end as JSON; on failure those that were begun.
fn show(json: bool, work: impl FnOnce(&mut dyn FnMut(&Step)) -> viv_net::device::Result<()>) -> Result<u8, Failure> {
    let mut steps = Vec::new();
    // Who does not read what is done wants it done all the same.
    let mut printed = Ok(());
    let done = work(&mut |step| {
        if !json && printed.is_ok() {
            printed = print(&format!("{step}\n"));
        }
        steps.push(step.clone());
    });
    if json {
        printed = print_json(&steps);
    }
    done?;
    printed.map(|()| 0)
}
