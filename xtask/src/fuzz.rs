//! `cargo xtask fuzz`: libFuzzer on the protocol's decoders.

use anyhow::{Result, bail};

use crate::command;
use crate::workspace;

/// Runs the fuzz target for this long.
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
    let mut fuzz = std::process::Command::new("cargo");
    fuzz.current_dir(workspace::root());
    fuzz.args(["+nightly", "fuzz", "run", "decoders", "fuzz/corpus/decoders", "fuzz/seeds/decoders", "--"]);
    fuzz.arg(format!("-max_total_time={seconds}"));
    // `cargo run` tells nested commands which toolchain to use; this one is to use another.
    fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    std::fs::create_dir_all(workspace::root().join("fuzz/corpus/decoders"))?;
    command::run(&mut fuzz)
}
