//! The `viv.lock` of a hostile project. The checks are those of `crates/viv-image/tests/lock.rs`, which runs them
//! on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-image/tests/support/lock_text.rs"]
mod lock_text;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        lock_text::any_text(text);
    }
});
