//! Packages into a layer, against the package manager by itself.
//!
//! Both install the same packages over the same root, with the lists read before and the packages
//! downloaded anew. By itself it runs in a plain mount namespace, over an overlay of the unpacked root
//! whose upper directory is thrown away; viv's time is that of all of `viv image build`, and ends with
//! a layer in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::cached::{Images, layers, said};
use crate::bench::figures::{Figure, Pairs};
use crate::command;

/// Of the package manager's own time, at most this much.
const GOAL: f64 = 1.3;

/// Some seconds of work, most of it dpkg's: 106 packages with what these need, 221 MB.
const PACKAGES: &str = "graphviz,imagemagick,postgresql-client,ripgrep,shellcheck,tmux,vim-nox";

/// What is run in the namespaces.
const FLOOR: &str = include_str!("layer-floor.sh");

pub fn measure(images: &Images<'_>) -> Result<Figure> {
    let floor = Floor::prepare(images)?;
    let mut pairs = Pairs::new();
    // The first round fills caches, the unpacked root and the lists, and does not count.
    for run in 0..=images.runs {
        eprintln!("a layer: run {run} of {}", images.runs);
        let (ours, theirs) = if run % 2 == 0 {
            let theirs = floor.install()?;
            (ours(images)?, theirs)
        } else {
            (ours(images)?, floor.install()?)
        };
        said(ours, theirs);
        if run > 0 {
            pairs.push(ours, theirs);
        }
    }
    Ok(pairs.figure("packages into a layer, against apt by itself", GOAL))
}

/// Builds the layer and removes it.
fn ours(images: &Images<'_>) -> Result<Duration> {
    let begun = Instant::now();
    let built = command::capture(&mut images.build(PACKAGES))?;
    let took = begun.elapsed();
    let layers = layers(&built)?;
    for digest in &layers {
        images.remove(digest)?;
    }
    ensure!(layers.len() == 1, "the cache has a part of {PACKAGES} already: remove it with `viv image rm`");
    Ok(took)
}

/// The root unpacked, with apt's lists, for packages to be installed over it again and again.
struct Floor {
    directory: PathBuf,
}

impl Floor {
    fn prepare(images: &Images<'_>) -> Result<Self> {
        eprintln!("a root for apt by itself");
        let image = images.export()?;
        let floor = Self { directory: images.directory.join("floor") };
        std::fs::create_dir(&floor.directory)?;
        std::fs::write(floor.directory.join("apt.conf"), fetch_options(&command::capture(&mut apt_config())?))?;
        command::capture(floor.confined("prepare").arg(&image))?;
        Ok(floor)
    }

    /// Installs the packages, and forgets them.
    fn install(&self) -> Result<Duration> {
        let mut install = self.confined("install");
        install.args(PACKAGES.split(','));
        let begun = Instant::now();
        command::capture(&mut install)?;
        let took = begun.elapsed();
        command::capture(&mut self.confined("forget"))?;
        Ok(took)
    }

    /// One of the script's commands, as the root of namespaces.
    fn confined(&self, what: &str) -> Command {
        confined(&self.directory, what, rustix::process::geteuid().is_root())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // An ordinary user cannot remove what belongs to subordinate ids.
        if let Err(error) = command::capture(&mut self.confined("remove")) {
            eprintln!("the root of the bench stays: {error:#}");
        }
    }
}

fn confined(directory: &Path, what: &str, is_root: bool) -> Command {
    let mut command = Command::new("unshare");
    if !is_root {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", FLOOR, what]).current_dir(directory);
    command
}

fn apt_config() -> Command {
    let mut command = Command::new("apt-config");
    command.arg("dump");
    command
}

/// How the host reaches its mirrors, of what `apt-config dump` says. Files that are named have another place in
/// the root: it gets the host's certificates where they are by default.
fn fetch_options(dump: &str) -> String {
    let carried = |line: &&str| {
        let line = line.to_ascii_lowercase();
        ["acquire::http", "acquire::check-valid-until", "acquire::check-date"].iter().any(|key| line.starts_with(key))
            && !line.contains("::cainfo")
    };
    dump.lines().filter(carried).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_needs_a_namespace_more() {
        let words = |is_root| {
            let command = confined(Path::new("/floor"), "forget", is_root);
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert!(words(false).contains(&"--user".to_owned()));
        assert!(!words(true).contains(&"--user".to_owned()));
        assert_eq!(words(true).last().map(String::as_str), Some("forget"));
    }

    #[test]
    fn how_mirrors_are_reached() {
        let dump = "Acquire::http::Proxy \"http://p.example:1\";\nAcquire::https::CaInfo \"/x.pem\";\nAPT::x \"1\";\n\
                    Acquire::Check-Date \"false\";\n";
        let expected = "Acquire::http::Proxy \"http://p.example:1\";\nAcquire::Check-Date \"false\";\n";
        assert_eq!(fetch_options(dump), expected);
    }
}
