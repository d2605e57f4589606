//! `cargo xtask fuzz`: libFuzzer on whatever reads bytes from outside.

use anyhow::{Result, bail};

use crate::command;
use crate::workspace;

/// The targets, in `fuzz/fuzz_targets`.
const TARGETS: [&str; 17] = [
    "decoders",
    "clients",
    "meter",
    "names",
    "egress",
    "frames",
    "archives",
    "devcontainer",
    "homes",
    "images",
    "unpack",
    "lock",
    "sessions",
    "workspace",
    "tap",
    "trees",
    "configurations",
];

/// Runs each fuzz target for its share of this time.
pub fn run(seconds: u64) -> Result<()> {
    if command::find_program("cargo-fuzz").is_none() {
        bail!(
            "cargo-fuzz is not installed: `cargo install cargo-fuzz --locked` \
             (the same checks, bounded and on stable Rust: `cargo nextest run --package viv-proto`)"
        );
    }
    let mut nightly = std::process::Command::new("cargo");
    if command::capture(nightly.args(["+nightly", "--version"])).is_err() {
        bail!("no nightly compiler, which libFuzzer needs: `rustup toolchain install nightly --profile minimal`");
    }
    for target in TARGETS {
        let mut fuzz = std::process::Command::new("cargo");
        fuzz.current_dir(workspace::root());
        fuzz.args(["+nightly", "fuzz", "run", target]);
        let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
        std::fs::create_dir_all(workspace::root().join(&corpus))?;
        fuzz.arg(corpus);
        if workspace::root().join(&seeds).is_dir() {
            fuzz.arg(seeds);
        }
        fuzz.arg("--").arg(format!("-max_total_time={}", seconds.div_ceil(TARGETS.len() as u64)));
        // `cargo run` tells nested commands which toolchain to use; this one is to use another.
        fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        command::run(&mut fuzz)?;
    }
    Ok(())
}
