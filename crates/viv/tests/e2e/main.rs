//! End-to-end tests: the real `viv`, real QEMU, a real kernel and the real root image.
//!
//! `cargo xtask test` prepares what they need (see `support`). Each test has a home, a project and
//! a runtime directory of its own, so that tests neither see nor disturb each other; the cache of
//! kernels and images is shared. Nothing waits for a time: every wait is for an event, with a
//! deadline of ten times what was seen.

mod agent_homes;
mod agents;
mod canaries;
mod clock;
mod devcontainer;
mod devices;
mod exhaustion;
mod faults;
mod gateway;
mod identity;
mod images;
mod isolation;
mod kernel;
mod key_search;
#[path = "../../../viv-net/tests/netns/mod.rs"]
mod netns;
mod network;
mod network_attacks;
mod nix;
mod packages;
mod protocol;
mod run;
mod spares;
mod support;
mod template_faults;
mod templates;
mod terminal;
mod upstream;
mod workspace;
