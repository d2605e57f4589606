//! The files of a hostile project, as the named sets of viv-net read them. The checks are those of
//! `crates/viv-net/tests/clients.rs`, which runs them on stable Rust in every test run.

#![no_main]

#[path = "../../crates/viv-net/tests/support/clients.rs"]
mod clients;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clients::every_set(bytes));
