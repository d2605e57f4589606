//! The files of agents' homes, which guests write and the host puts keys into, and the configuration that is imported
//! into them. The checks are those of `crates/viv-sandbox/tests/homes.rs`, which runs them on stable Rust in every test
//! run.

#![no_main]

#[path = "../../crates/viv-sandbox/tests/support/homes.rs"]
mod homes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| homes::hold(bytes));
