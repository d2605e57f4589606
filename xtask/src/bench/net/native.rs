//! The egress without a guest before it: what the gateway adds to a call, and what connections hold.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::bench::figures::{Figure, median, milliseconds};
use crate::{command, workspace};

/// What the gateway may add until the first streamed byte, in ms.
const ADDED_MS: f64 = 2.0;

/// What 1,000 connections may hold, in MiB.
const HELD_MIB: f64 = 60.0;

/// What `crates/viv-net/examples/measure_egress.rs` prints.
#[derive(Debug, Deserialize)]
struct Measured {
    fresh: Calls,
    kept: Calls,
    memory_kib: Memory,
    carried: Carried,
}

/// Times to the first streamed byte in nanoseconds, in pairs.
#[derive(Debug, Deserialize)]
struct Calls {
    direct: Vec<u64>,
    gateway: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Memory {
    idle: u64,
    open: u64,
    stuck: u64,
}

/// Times that `bytes` took on one connection, in nanoseconds.
#[derive(Debug, Deserialize)]
struct Carried {
    bytes: u64,
    download: Vec<u64>,
    upload: Vec<u64>,
}

/// Measures with the egress of `viv`.
pub fn measure(viv: &Path, runs: u32) -> Result<Vec<Figure>> {
    command::run(workspace::cargo().args([
        "build",
        "--release",
        "--package",
        "viv-net",
        "--example",
        "measure_egress",
    ]))?;
    eprintln!("the egress, natively");
    let program = workspace::target_directory()?.join("release/examples/measure_egress");
    let text = command::capture(Command::new(program).arg(viv).arg(runs.to_string()))?;
    figures(serde_json::from_str(&text).context("measure_egress printed something else than was expected")?)
}

fn figures(measured: Measured) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let names = [
        (measured.fresh, "gateway adds to the first byte, new connection", "for information: that call made directly"),
        (measured.kept, "gateway adds to the first byte, kept connection", "for information: this call made directly"),
    ];
    for (calls, added, directly) in names {
        let (direct, gateway) = (typical(&calls.direct)?, typical(&calls.gateway)?);
        figures.push(Figure::limited(added, gateway - direct, ADDED_MS, "ms"));
        figures.push(Figure::plain(directly, direct, "ms"));
    }
    let mebibytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
    let Memory { idle, open, stuck } = measured.memory_kib;
    figures.push(Figure::plain("for information: egress, no connection", mebibytes(idle), "MiB"));
    figures.push(Figure::limited("egress, 1,000 open connections", mebibytes(open), HELD_MIB, "MiB"));
    figures.push(Figure::limited("egress, 1,000 connections, all stuck", mebibytes(stuck), HELD_MIB, "MiB"));
    let Carried { bytes, download, upload } = measured.carried;
    for (name, times) in
        [("for information: egress alone, download", download), ("for information: egress alone, upload", upload)]
    {
        figures.push(Figure::plain(name, bytes as f64 / (1024.0 * 1024.0) / (typical(&times)? / 1000.0), "MiB/s"));
    }
    Ok(figures)
}

/// The median, in milliseconds.
fn typical(nanoseconds: &[u64]) -> Result<f64> {
    ensure!(!nanoseconds.is_empty(), "measure_egress made no call");
    Ok(milliseconds(median(&mut nanoseconds.iter().copied().map(Duration::from_nanos).collect::<Vec<_>>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: &str = r#"{
        "fresh": { "direct": [1000000, 9000000, 2000000], "gateway": [2500000, 1000000, 9000000] },
        "kept": { "direct": [1000000], "gateway": [4000000] },
        "memory_kib": { "idle": 1024, "open": 61440, "stuck": 61441 },
        "carried": { "bytes": 1048576, "download": [500000000], "upload": [250000000] }
    }"#;

    #[test]
    fn what_is_added_is_the_difference_of_medians() {
        let figures = figures(serde_json::from_str(MEASURED).unwrap()).unwrap();
        let told: Vec<_> = figures.iter().map(|figure| (figure.ours, figure.holds)).collect();
        let (holds, missed, information) = (Some(true), Some(false), None);
        let expected = [
            (0.5, holds),
            (2.0, information),
            (3.0, missed),
            (1.0, information),
            (1.0, information),
            (60.0, holds),
            (61441.0 / 1024.0, missed),
            (2.0, information),
            (4.0, information),
        ];
        assert_eq!(told, expected);
    }
}
