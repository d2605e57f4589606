//! References, manifests, configurations and archives of images. The checks are those of
//! `crates/viv-image/tests/documents.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-image/tests/support/documents.rs"]
mod documents;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| documents::every_reader(bytes));
