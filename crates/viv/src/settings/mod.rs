//! What a sandbox is asked to be, from four places: the command line, `viv.toml` in the
//! workspace, the user's own configuration file, and defaults; the earlier wins.
//!
//! `viv.toml` travels with a repository that may be hostile, so it may ask only for what changes
//! the sandbox itself. Whatever would show the guest more of the host is refused there by name:
//! see [`definitions::ProjectRule`].

pub mod definitions;
pub mod file;
pub mod layer;
pub mod network;
pub mod schema;
pub mod values;

pub use definitions::{DEFAULT_CACHE_LIMIT, DEFAULT_DISK, DEFAULT_MEMORY, default_cpus};
pub use layer::{DevContainerChoice, EnvironmentValue, Layer, MountRequest, Origin};
