//! Every decoder of viv-proto on any bytes. The checks are those of
//! `crates/viv-proto/tests/garbage.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-proto/tests/support/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::every_decoder(bytes));
