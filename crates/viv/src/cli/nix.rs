//! What can be typed about the host's nix.

use clap::Args;

use crate::settings::definitions as d;
use crate::settings::layer::Found;
use crate::settings::{Layer, Origin, values};

/// What a sandbox has of the host's nix, beside `nix:` packages.
#[derive(Debug, Clone, Default, Args)]
pub struct NixArguments {
    #[arg(long, value_name = "REF[#SHELL]", help = d::FLAKE.help_of_flag(), value_parser = values::parse_flake, help_heading = "Machine")]
    pub flake: Option<String>,
    #[arg(long, help = d::NIX_STORE.help_of_flag(), help_heading = "Machine")]
    pub nix_store: bool,
}

impl NixArguments {
    /// The settings among the arguments, beside those of `rest`.
    #[must_use]
    pub fn layer(&self, rest: Layer) -> Layer {
        Layer { flake: self.flake.clone().map(found), nix_store: self.nix_store.then(|| found(true)), ..rest }
    }
}

fn found<T>(value: T) -> Found<T> {
    Found { value, origin: Origin::CommandLine }
}
