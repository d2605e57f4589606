//! What an image says about how its programs are to be run.

use serde::{Deserialize, Serialize};

/// The part of an OCI image's configuration that a sandbox heeds
/// (<https://github.com/opencontainers/image-spec/blob/main/config.md>). Empty for other images.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Variables of every program, in order.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// What is put before a command.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The command where none is given.
    #[serde(default)]
    pub command: Vec<String>,
    /// Where entrypoint and command start; absolute.
    #[serde(default)]
    pub working_directory: Option<String>,
    /// `USER`, `UID`, `USER:GROUP` or `UID:GID`.
    #[serde(default)]
    pub user: Option<String>,
}
