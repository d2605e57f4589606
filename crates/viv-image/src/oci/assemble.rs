//! Layers into one file system.

use std::io::Read;
use std::path::Path;

use super::digest::Hashing;
use super::image_config::ImageInfo;
use crate::error::Result;
use crate::filesystem::{FileSystem, Limits, Whiteouts, decompress};
use crate::progress::{Progress, ProgressEvent};

/// The layers of an image, the lowest first.
pub(super) trait Layers {
    /// What an error calls it.
    fn name(&self, index: usize) -> String;

    /// Its bytes as they were made, packed or not.
    fn open(&mut self, index: usize) -> Result<Box<dyn Read + '_>>;

    /// That what was read last is what its digest says; also called if it could not be used, since
    /// damage is then the likeliest reason.
    fn verify(&mut self, index: usize) -> Result<()>;
}

/// Writes the file system of an image to `output`.
pub(super) fn assemble(
    output: &Path,
    info: &ImageInfo,
    layers: &mut dyn Layers,
    progress: &dyn Progress,
) -> Result<()> {
    let mut system = FileSystem::create(output, Limits::default())?;
    for (index, diff_id) in info.diff_ids.iter().enumerate() {
        let name = layers.name(index);
        progress.event(ProgressEvent::Step { message: format!("unpacking {name}") });
        let applied = apply(&mut system, layers, index);
        layers.verify(index)?;
        diff_id.check(&format!("what is packed in {name}"), &applied?)?;
    }
    progress.event(ProgressEvent::Step { message: "writing the image".to_owned() });
    system.finish()?;
    Ok(())
}

/// Puts one layer over those below it; says the digest of its content.
fn apply(system: &mut FileSystem, layers: &mut dyn Layers, index: usize) -> Result<super::digest::Digest> {
    let name = layers.name(index);
    let mut content = Hashing::new(decompress(layers.open(index)?)?);
    system.apply_tar(&mut content, Whiteouts::Resolve)?;
    let (digest, _) = content.finish().map_err(|why| {
        crate::error::Error::new(crate::error::ErrorKind::Corrupt, format!("{name} cannot be unpacked")).source(why)
    })?;
    Ok(digest)
}
