//! An image of a registry into the cache, against the tools that others unpack images with.
//!
//! The image is the content of the default root in several layers; the registry, Debian's, is on
//! loopback. `viv image pull` ends with an image that can be booted, umoci with a directory.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::cached::{Images, said};
use crate::bench::figures::{Figure, Pairs};
use crate::command;

/// Of the time of skopeo and umoci, at most this much.
const GOAL: f64 = 1.0;

/// What goes into the layers, one by one; the last has what the others have not.
const LAYERS: [&[&str]; 5] =
    [&["./usr/bin", "./usr/sbin"], &["./usr/lib/x86_64-linux-gnu"], &["./usr/lib"], &["./usr/share"], &["."]];

/// The image's name in the registry.
const NAME: &str = "big:1";

pub fn measure(images: &Images<'_>) -> Result<Figure> {
    let directory = images.directory.join("import");
    fs::create_dir(&directory)?;
    let registry = Registry::start(&directory)?;
    publish(images, &directory, &registry)?;
    let mut pairs = Pairs::new();
    // The first round fills the page cache, and does not count.
    for run in 0..=images.runs {
        eprintln!("an import: run {run} of {}", images.runs);
        let place = directory.join("round");
        fs::create_dir(&place)?;
        let (ours, theirs) = if run % 2 == 0 {
            let theirs = theirs(&registry, &place)?;
            (ours(images, &registry, &place)?, theirs)
        } else {
            let ours = ours(images, &registry, &place)?;
            (ours, theirs(&registry, &place)?)
        };
        remove(&place)?;
        said(ours, theirs);
        if run > 0 {
            pairs.push(ours, theirs);
        }
    }
    drop(registry);
    remove(&directory)?;
    Ok(pairs.figure("an image of a registry, against skopeo and umoci", GOAL))
}

/// Pulls into a cache of its own.
fn ours(images: &Images<'_>, registry: &Registry, place: &Path) -> Result<Duration> {
    let mut pull = Command::new(images.viv);
    pull.args(["image", "pull", "--json", &format!("oci:{}/{NAME}", registry.host)]);
    pull.env("XDG_CACHE_HOME", place.join("cache"));
    let begun = Instant::now();
    command::capture(&mut pull)?;
    Ok(begun.elapsed())
}

fn theirs(registry: &Registry, place: &Path) -> Result<Duration> {
    let layout = place.join("layout");
    let mut copy = skopeo(&["--src-tls-verify=false"]);
    copy.arg(format!("docker://{}/{NAME}", registry.host)).arg(format!("oci:{}:big", layout.display()));
    let mut unpack = Command::new("umoci");
    unpack.arg("unpack");
    if !rustix::process::geteuid().is_root() {
        unpack.arg("--rootless");
    }
    unpack.arg("--image").arg(format!("{}:big", layout.display())).arg(place.join("bundle"));
    let begun = Instant::now();
    command::capture(&mut copy)?;
    command::capture(&mut unpack)?;
    Ok(begun.elapsed())
}

fn skopeo(options: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet"]).args(options);
    command
}

/// Makes the image and uploads it.
fn publish(images: &Images<'_>, directory: &Path, registry: &Registry) -> Result<()> {
    eprintln!("an image for the registry");
    let (root, layout) = (directory.join("root"), directory.join("layout"));
    command::capture(Command::new("fsck.erofs").arg(format!("--extract={}", root.display())).arg(images.export()?))?;
    let umoci = |arguments: &[&str]| {
        let mut umoci = Command::new("umoci");
        umoci.args(arguments);
        umoci
    };
    let image = format!("{}:big", layout.display());
    command::capture(umoci(&["init", "--layout"]).arg(&layout))?;
    command::capture(umoci(&["new", "--image"]).arg(&image))?;
    for archive in archives(&root, directory)? {
        command::capture(umoci(&["raw", "add-layer", "--image"]).arg(&image).arg(&archive))?;
        fs::remove_file(archive)?;
    }
    let mut upload = skopeo(&["--dest-tls-verify=false"]);
    upload.arg(format!("oci:{image}")).arg(format!("docker://{}/{NAME}", registry.host));
    command::capture(&mut upload)?;
    remove(&root)?;
    remove(&layout)
}

/// The layers as archives.
fn archives(root: &Path, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    let mut before: Vec<&str> = Vec::new();
    for (index, paths) in LAYERS.iter().enumerate() {
        let archive = directory.join(format!("layer-{index}.tar"));
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(root);
        tar.args(["--format=pax", "--sort=name", "--numeric-owner", "--owner=0", "--group=0", "--anchored"]);
        tar.args(before.iter().map(|path| format!("--exclude={path}"))).args(*paths);
        command::capture(&mut tar)?;
        made.push(archive);
        before.extend(*paths);
    }
    Ok(made)
}

/// Images have directories that may not be written to.
pub fn remove(directory: &Path) -> Result<()> {
    command::capture(Command::new("chmod").args(["-R", "u+rwX", "--"]).arg(directory))?;
    command::capture(Command::new("rm").args(["-rf", "--"]).arg(directory)).map(drop)
}

/// A registry on a loopback port.
struct Registry {
    server: Child,
    host: String,
}

impl Registry {
    fn start(directory: &Path) -> Result<Self> {
        let config = directory.join("registry.yml");
        let data = directory.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            data.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().with_context(|| format!("cannot run {}", command::display(&command)))?;
        let said = server.stderr.take().context("a piped output is there")?;
        // Ends it if it does not come up.
        let mut registry = Self { server, host: String::new() };
        let mut lines = BufReader::new(said).lines();
        registry.host = loop {
            let line = lines.next().context("docker-registry ended")??;
            if let Some(host) = listens_on(&line) {
                break host.to_owned();
            }
        };
        // It must not come to wait for someone to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn listens_on(line: &str) -> Option<&str> {
    line.split_once("listening on ")?.1.split(['"', ',']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_where_it_is() {
        let line = r#"time="2026-01-01T00:00:00Z" level=info msg="listening on 127.0.0.1:40001" go.version=go1.24"#;
        assert_eq!(listens_on(line), Some("127.0.0.1:40001"));
        assert_eq!(listens_on("level=info"), None);
    }

    #[test]
    fn each_file_is_in_one_layer() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        for file in ["usr/bin/a", "usr/lib/x86_64-linux-gnu/b", "usr/lib/c", "usr/share/d", "etc/e"] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        let mut files = Vec::new();
        for archive in archives(&root, scratch.path()).unwrap() {
            let names = command::capture(Command::new("tar").arg("--list").arg("--file").arg(archive)).unwrap();
            files.push(names.lines().filter(|name| !name.ends_with('/')).map(str::to_owned).collect::<Vec<_>>());
        }
        let expected =
            [["./usr/bin/a"], ["./usr/lib/x86_64-linux-gnu/b"], ["./usr/lib/c"], ["./usr/share/d"], ["./etc/e"]];
        assert_eq!(files, expected);
    }
}
