//! The egress as a guest sees it: over its socket, with real upstreams on loopback and none of them friendly.

mod names;
mod proxy;
mod streams;
mod support;
