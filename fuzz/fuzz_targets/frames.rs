//! Frames of a guest, as the guard of viv-net judges and answers them. The checks are those of
//! `crates/viv-net/tests/frames.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-net/tests/support/frames.rs"]
mod frames;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| frames::any_frame(bytes));
