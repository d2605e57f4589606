//! `cargo xtask fuzz`: libFuzzer on the protocol's decoders and on the guest's name server.

use anyhow::{Result, bail};

use crate::command;
use crate::workspace;

/// The targets, one per kind of bytes.
const TARGETS: [&str; 2] = ["decoders", "names"];

/// Runs each fuzz target for this long.
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
    TARGETS.into_iter().try_for_each(|target| {
        let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
        std::fs::create_dir_all(workspace::root().join(&corpus))?;
        let mut fuzz = std::process::Command::new("cargo");
        fuzz.current_dir(workspace::root());
        fuzz.args(["+nightly", "fuzz", "run", target, &corpus, &seeds, "--"]);
        fuzz.arg(format!("-max_total_time={seconds}"));
        // `cargo run` tells nested commands which toolchain to use; this one is to use another.
        fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        command::run(&mut fuzz)
    })
}
