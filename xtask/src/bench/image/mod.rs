//! `cargo xtask bench image`: what images and packages cost.
//!
//! A layer is built in turns with the package manager by itself (see [`layer`]), an image of a registry
//! imported in turns with the tools that do the same (see [`import`]); starts are measured with and
//! without a set of packages (see [`known`]), and a stack of layers is read in turns with one image of the
//! same content (see [`read`]).

mod cached;
mod import;
mod known;
mod layer;
mod read;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::arguments::BenchArguments;
use crate::setup;
use crate::workspace::{self, Profile};
use cached::Images;

/// `cargo xtask bench image`
#[derive(Debug, Args)]
pub struct ImageArguments {
    #[command(flatten)]
    bench: BenchArguments<Part>,
}

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packages into a layer, against the package manager by itself
    Layer,
    /// What a set of packages that is there adds to a start
    Known,
    /// An image of a registry, against skopeo and umoci
    Import,
    /// Files read inside through layers, against one image
    Read,
}

/// What the figures are compared with.
const FLOORS: &str = "\
The floor of a layer is the image's package manager over the same root, of an import skopeo copy and\n\
umoci unpack, of reading one erofs image with the same content; of what a set adds to a start, it\n\
is the most it may be.";

/// Measures and prints; fails where a goal is missed.
pub fn image(arguments: &ImageArguments) -> Result<()> {
    // The registry and the tools that imports are compared with are what tests take, too.
    setup::run(setup::Purpose::Test, false)?;
    let arguments = &arguments.bench;
    let viv = workspace::build_viv(Profile::Release)?;
    // Beside what is built: where temporary files are may be memory, and the cache is not.
    let place = workspace::target_directory()?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir_in(place)?;
    let images = Images { viv: &viv, directory: scratch.path(), runs: arguments.runs };
    let mut figures = Vec::new();
    if arguments.wants(Part::Layer) {
        figures.push(layer::measure(&images)?);
    }
    if arguments.wants(Part::Known) {
        figures.extend(known::measure(&images)?);
    }
    if arguments.wants(Part::Import) {
        figures.push(import::measure(&images)?);
    }
    if arguments.wants(Part::Read) {
        figures.extend(read::measure(&images)?);
    }
    arguments.conclude(&figures, FLOORS)
}
