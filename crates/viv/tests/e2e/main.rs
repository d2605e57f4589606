//! End-to-end tests: the real `viv`, real QEMU, a real kernel and the real root image.
//!
//! `cargo xtask test` prepares what they need (see `support`). Each test has a home, a project and
//! a runtime directory of its own, so that tests neither see nor disturb each other; the cache of
//! kernels and images is shared. Nothing waits for a time: every wait is for an event, with a
//! deadline of ten times what was seen.

mod agent_homes;
mod agents;
#[path = "../../../viv-image/tests/languages/archive.rs"]
mod archive;
mod attempts;
mod audit;
mod canaries;
mod clock;
mod clone;
mod clone_attacks;
mod define;
mod devcontainer;
mod devices;
mod exhaustion;
mod faults;
mod gateway;
mod guard;
mod identity;
mod images;
mod isolation;
mod kept_disk;
mod kernel;
mod key_search;
mod layers;
#[path = "../../../viv-image/tests/oci/layout.rs"]
#[expect(dead_code, reason = "not all that an image can have is in those made here")]
mod layout;
mod life;
mod locks;
#[path = "../../../viv-net/tests/netns/mod.rs"]
mod netns;
mod network;
mod network_attacks;
mod nix;
mod oci;
mod packages;
mod protocol;
#[path = "../../../viv-image/tests/languages/registry.rs"]
#[expect(dead_code, reason = "not all kinds of packages are served here")]
mod registry;
mod remote;
mod review;
mod run;
mod sessions;
mod spares;
mod support;
mod systemd;
mod template_faults;
mod templates;
mod terminal;
#[path = "../../../viv-image/tests/oci/tools.rs"]
#[expect(dead_code, reason = "what looks into images is not needed where they are booted")]
mod tools;
mod upstream;
mod workspace;
