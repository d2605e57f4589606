//! The host's part of a sandbox's network.
//!
//! ```text
//!  guest                            monitor                 egress: one process per sandbox
//!  program ─TCP──► viv-guest ─link─► CONNECT <port> ─unix──► names, connections, proxy  ─► the network,
//!          ─HTTP─►                                           by policy, logged             as allowed
//!          ─HTTP─►                                           gateway: key in, usage out ─► model APIs
//! ```
//!
//! The monitor carries bytes and knows nothing of them. The egress is a process of its own, `viv
//! internal-egress`, because it alone holds keys: it cannot be dumped or traced, and one that dies
//! is started anew on the same listening socket.

pub mod device;
pub mod egress;
mod error;
pub mod event;
pub mod gateway;
pub mod guest;
pub mod learn;
pub mod log;
pub mod policy;
pub mod sets;
pub mod spec;
#[allow(unsafe_code)]
mod sys;
pub mod trust;

pub use egress::egress_main;
pub use error::{Error, ErrorKind, Result};
