//! What the egress of viv-net reads of rules, hosts and first bytes. The checks are those of
//! `crates/viv-net/tests/hostile.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-net/tests/support/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::any_bytes(bytes));
