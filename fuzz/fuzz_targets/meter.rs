//! The answers of model APIs, as the gateway of viv-net reads them. The checks are those of
//! `crates/viv-net/tests/meter.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-net/tests/support/meter.rs"]
mod meter;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meter::any_answer(bytes));
