//! What the benches of images have viv do with its cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bench::figures::milliseconds;
use crate::command;

/// What is measured here.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    pub viv: &'a Path,
    /// A project, and place for files.
    pub directory: &'a Path,
    pub runs: u32,
}

/// What one round measured, for who watches.
pub fn said(ours: Duration, floor: Duration) {
    eprintln!("  {:.0} ms, and {:.0} ms", milliseconds(ours), milliseconds(floor));
}

/// A set of packages in the cache, removed from it when this is dropped unless it was there before.
pub struct Set<'a> {
    images: Images<'a>,
    /// Digests of its layers, the lowest first.
    pub layers: Vec<String>,
    made: Vec<String>,
}

impl<'a> Images<'a> {
    /// The command that builds a set of packages.
    pub fn build(&self, packages: &str) -> Command {
        let mut command = self.command(&["image", "build", "--json", "--package", packages]);
        command.current_dir(self.directory);
        command
    }

    /// Has the set in the cache.
    pub fn set(&self, packages: &str) -> Result<Set<'a>> {
        let before = self.digests()?;
        let layers = layers(&command::capture(&mut self.build(packages))?)?;
        let made = layers.iter().filter(|digest| !before.contains(digest)).cloned().collect();
        Ok(Set { images: *self, layers, made })
    }

    /// Copies the default root to a file.
    pub fn export(&self) -> Result<PathBuf> {
        command::capture(self.command(&["image", "build", "--json"]).current_dir(self.directory))?;
        let file = self.directory.join("root.erofs");
        if !file.exists() {
            command::capture(self.command(&["image", "export", "debian"]).arg(&file))?;
        }
        Ok(file)
    }

    /// Removes a layer and its unpacked copy.
    pub fn remove(&self, digest: &str) -> Result<()> {
        for _ in self.digests()?.iter().filter(|listed| *listed == digest) {
            command::capture(&mut self.command(&["image", "rm", digest]))?;
        }
        Ok(())
    }

    fn digests(&self) -> Result<Vec<String>> {
        let listed = command::capture(&mut self.command(&["image", "ls", "--json"]))?;
        let listed: Vec<Value> = serde_json::from_str(&listed).context("`viv image ls --json` printed no array")?;
        listed.iter().map(|image| text(image, "digest")).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.viv);
        command.args(arguments);
        command
    }
}

impl Drop for Set<'_> {
    fn drop(&mut self) {
        for digest in self.made.iter().rev() {
            if let Err(error) = self.images.remove(digest) {
                eprintln!("a layer of the bench stays in the cache: {error:#}");
            }
        }
    }
}

/// The digests of the layers that `viv image build --json` says it has.
pub fn layers(built: &str) -> Result<Vec<String>> {
    let built: Value = serde_json::from_str(built).context("`viv image build --json` printed no JSON")?;
    let layers = built["layers"].as_array().context("`viv image build --json` names no layers")?;
    let digests: Vec<String> = layers.iter().map(|layer| text(layer, "digest")).collect::<Result<_>>()?;
    ensure!(!digests.is_empty(), "`viv image build --json` has no layer");
    Ok(digests)
}

fn text(value: &Value, key: &str) -> Result<String> {
    value[key].as_str().map(str::to_owned).with_context(|| format!("viv names no {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_has_layers() {
        let built = r#"{ "image": { "digest": "0" }, "layers": [{ "digest": "a1" }, { "digest": "b2" }] }"#;
        assert_eq!(layers(built).unwrap(), ["a1", "b2"]);
        assert!(layers(r#"{ "layers": [] }"#).is_err());
        assert!(layers("{}").is_err());
    }
}
