//! Connections to a guest's control port, as the monitor looks at them for the timeline. The checks are those of
//! `crates/viv-sandbox/tests/tap.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-sandbox/tests/support/taps.rs"]
mod taps;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| taps::any(bytes));
