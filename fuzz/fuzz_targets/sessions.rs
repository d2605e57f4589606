//! What programs write to a terminal that the monitor keeps. The checks are those that
//! `crates/viv-sandbox/src/monitor/sessions/screen_tests.rs` runs on stable Rust in every test run.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| viv_sandbox::any_terminal_output(bytes));
