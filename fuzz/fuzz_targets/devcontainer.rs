//! The text of a hostile project's devcontainer.json. The checks are those of
//! `crates/viv/tests/devcontainer.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv/tests/support/devcontainer.rs"]
mod devcontainer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| devcontainer::any_file(bytes));
