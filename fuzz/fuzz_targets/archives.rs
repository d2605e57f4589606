//! Archives of strangers, as viv-image makes root images out of them. The checks are those of
//! `crates/viv-image/tests/filesystem/random.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-image/tests/support/archives.rs"]
mod archives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| archives::any_archive(bytes));
