//! Builds viv-guest, the static PID 1 of every sandbox, so that `viv` can embed it.
//!
//! The guest is built by a cargo of its own in a target directory of its own: it needs another
//! profile and other flags than `viv`, and must not wait for the lock of the build it is part of.
//! `VIV_GUEST_BINARY` names a guest that was built beforehand, for packagers.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sha2::{Digest, Sha256};

const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    if let Err(error) = build() {
        // The one way a build script can fail with a readable message.
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let manifest_directory = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_directory = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?;
    if !(target.starts_with("x86_64-") && target.contains("-linux-")) {
        return Err(format!("viv runs on x86_64 Linux only; {target} is not supported").into());
    }

    let root = manifest_directory.join("../..");
    for input in [
        "crates/viv-archive/src",
        "crates/viv-archive/Cargo.toml",
        "crates/viv-beneath/src",
        "crates/viv-beneath/Cargo.toml",
        "crates/viv-guest",
        "crates/viv-link",
        "crates/viv-proto/src",
        "crates/viv-proto/Cargo.toml",
        "Cargo.lock",
        "Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed=VIV_GUEST_BINARY");

    let guest = match env::var_os("VIV_GUEST_BINARY") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build_guest(&root, &target_directory(&out_directory)?.join("guest"))?,
    };
    let bytes = fs::read(&guest).map_err(|error| format!("{}: {error}", guest.display()))?;
    refuse_dynamic(&bytes)?;
    fs::write(out_directory.join("viv-guest"), &bytes)?;
    println!("cargo::rustc-env=VIV_GUEST_SHA256={}", hex::encode(Sha256::digest(&bytes)));
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// The outer build's target directory: the one that holds `<profile>/build/<package>/out`.
fn target_directory(out_directory: &Path) -> Result<PathBuf, String> {
    out_directory
        .ancestors()
        .find(|ancestor| ancestor.file_name().is_some_and(|name| name == "build"))
        .and_then(Path::parent)
        .and_then(Path::parent)
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{}: not within a target directory", out_directory.display()))
}

fn build_guest(root: &Path, target_directory: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut command = Command::new(variable("CARGO")?);
    command.current_dir(root);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_build) {
            command.env_remove(name);
        }
    }
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.args(["build", "--package", "viv-guest", "--profile", "guest", "--target", GUEST_TARGET, "--target-dir"]);
    command.arg(target_directory);
    let output = command.output().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Err("viv-guest did not build; its messages are above".into());
    }
    Ok(target_directory.join(GUEST_TARGET).join("guest").join("viv-guest"))
}

/// Variables cargo and its wrappers set for the build this script is part of. What configures
/// cargo itself (its home, its proxies, its registries, the job server) stays.
fn belongs_to_outer_build(name: &str) -> bool {
    const EXACT: &[&str] = &[
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "CLIPPY_ARGS",
        "TARGET",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "DEBUG",
        "PROFILE",
        "OUT_DIR",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_CRATE_NAME",
        "CARGO_BIN_NAME",
        "LD_LIBRARY_PATH",
    ];
    const PREFIXES: &[&str] = &[
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_BIN_EXE_",
        "DEP_",
    ];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A guest with an interpreter would find none in the initramfs and die without a word.
fn refuse_dynamic(elf: &[u8]) -> Result<(), String> {
    const PROGRAM_INTERPRETER: u32 = 3;
    let malformed = || "viv-guest is not a 64-bit ELF file".to_owned();
    let field = |at: usize, length: usize| elf.get(at..at + length).ok_or_else(malformed);
    if field(0, 5)? != b"\x7fELF\x02" {
        return Err(malformed());
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
    let (table, size, count) = (number(field(32, 8)?), number(field(54, 2)?), number(field(56, 2)?));
    for index in 0..count {
        if number(field(table + index * size, 4)?) == PROGRAM_INTERPRETER as usize {
            return Err("viv-guest is not static: it was built without -C target-feature=+crt-static".to_owned());
        }
    }
    Ok(())
}
