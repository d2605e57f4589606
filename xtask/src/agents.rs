//! The real command-line agents, for the tests that run them in a sandbox.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;

/// Exactly these, as what they ask of a model differs from version to version. Their programs are all in
/// the packages; npm runs none of them here.
const PACKAGES: [&str; 3] = ["@anthropic-ai/claude-code@2.1.330", "@openai/codex@0.169.0", "@google/gemini-cli@0.61.0"];

/// Says, in the directory, which packages it holds.
const STAMP: &str = "installed";

/// Installs them below the tests' cache, from wherever npm is configured to get packages; once, until
/// other versions are wanted.
pub fn prepare(cache_home: &Path) -> Result<()> {
    let directory = cache_home.join("agents");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(directory.join(STAMP)).is_ok_and(|held| held == wanted) {
        return Ok(());
    }
    // One that was interrupted is not taken for a whole one.
    let fresh = cache_home.join("agents.new");
    for path in [&fresh, &directory] {
        if path.exists() {
            std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    std::fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts", "--prefix"]);
    command::run(install.arg(&fresh).args(PACKAGES)).context("the agents could not be installed")?;
    std::fs::write(fresh.join(STAMP), wanted)?;
    std::fs::rename(&fresh, &directory).with_context(|| format!("cannot make {}", directory.display()))
}
