//! Streams of files, as the host writes what a guest sends. The checks are those of
//! `crates/viv-archive/tests/trees.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-archive/tests/support/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::any_stream(bytes));
