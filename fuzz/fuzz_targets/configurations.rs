//! Configurations of git that a guest writes. The checks are those of `crates/viv-shares/tests/configurations.rs`, which
//! runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-shares/tests/support/configuration.rs"]
mod configuration;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    configuration::any_text(bytes);
});
