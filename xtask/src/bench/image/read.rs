//! Reading inside through layers, against one image with the same content.
//!
//! Two sandboxes run side by side: one with the default root and two layers of packages, one with a
//! single erofs file that mkfs.erofs made of what the first one shows. In turns, the same small program
//! reads the same files in each, with nothing of them in the guest's page cache; the host's has all.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cached::{Images, said};
use super::import::remove;
use crate::bench::figures::{Figure, Pairs};
use crate::bench::sandbox::Running;
use crate::{command, workspace};

/// Of the time that one image takes, at most this much.
const GOAL: f64 = 1.2;

/// What is in the layers: the first set is a subset of the second, so it is the layer below.
const SETS: [&str; 2] = ["python3-django", "python3-django,python3-scipy"];

/// Bytes of the large files together, at most.
const SEQUENTIAL: u64 = 256 << 20;

/// A large file has at least this many bytes.
const LARGE: u64 = 1 << 20;

/// A small file has at most this many.
const SMALL: u64 = 16 << 10;

/// How many of them are read.
const SMALL_FILES: usize = 10_000;

/// A file, as find(1) tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    size: u64,
    path: String,
}

pub fn measure(images: &Images<'_>) -> Result<Vec<Figure>> {
    let below = images.set(SETS[0])?;
    let set = images.set(SETS[1])?;
    ensure!(set.layers.len() == 2, "{} has {} layers, not 2", SETS[1], set.layers.len());
    build_program(images.directory)?;

    eprintln!("an image with the content of a root and two layers");
    let plain = Running::start(images.viv, images.directory, &["--cold"])?;
    let base: BTreeSet<String> = files(&plain)?.into_iter().map(|file| file.path).collect();
    plain.stop()?;
    let layered = Running::start(images.viv, images.directory, &["--cold", "--package", SETS[1]])?;
    let (large, small) = choose(files(&layered)?, &base)?;
    fs::write(images.directory.join("large"), large.join("\n"))?;
    fs::write(images.directory.join("small"), small.join("\n"))?;
    let image = format!("erofs:{}", flatten(&layered, images.directory)?);
    let flat = Running::start(images.viv, images.directory, &["--cold", "--image", &image])?;

    let figures = [
        ("large", "read through layers, large files in sequence"),
        ("small", "read through layers, 10,000 small files"),
    ]
    .into_iter()
    .map(|(list, name)| {
        let mut pairs = Pairs::new();
        // The first round has code translated and the host's page cache filled, and does not count.
        for run in 0..=images.runs {
            eprintln!("{name}: run {run} of {}", images.runs);
            let (ours, theirs) = if run % 2 == 0 {
                let theirs = read(&flat, list)?;
                (read(&layered, list)?, theirs)
            } else {
                (read(&layered, list)?, read(&flat, list)?)
            };
            ensure!(ours.0 == theirs.0, "the two images differ: {} bytes and {}", ours.0, theirs.0);
            said(ours.1, theirs.1);
            if run > 0 {
                pairs.push(ours.1, theirs.1);
            }
        }
        Ok(pairs.figure(name, GOAL))
    })
    .collect();
    flat.stop()?;
    layered.stop()?;
    drop((set, below));
    figures
}

/// Bytes, and how long they took.
fn read(sandbox: &Running<'_>, list: &str) -> Result<(u64, Duration)> {
    measured(&command::capture(&mut sandbox.exec(&["/workspace/read-files", &format!("/workspace/{list}")]))?)
}

fn measured(line: &str) -> Result<(u64, Duration)> {
    let numbers = line.trim().split_once(' ').and_then(|(bytes, time)| Some((bytes.parse().ok()?, time.parse().ok()?)));
    let (bytes, nanoseconds) = numbers.with_context(|| format!("read-files printed {line:?}"))?;
    Ok((bytes, Duration::from_nanos(nanoseconds)))
}

/// The files of the system that nobody changes.
fn files(sandbox: &Running<'_>) -> Result<Vec<Found>> {
    found(&command::capture(&mut sandbox.exec(&["find", "/usr", "-xdev", "-type", "f", "-printf", "%s %p\\n"]))?)
}

fn found(lines: &str) -> Result<Vec<Found>> {
    lines
        .lines()
        .map(|line| {
            let (size, path) = line.split_once(' ').context("find printed a line without a size")?;
            Ok(Found { size: size.parse()?, path: path.to_owned() })
        })
        .collect()
}

/// The large files and the small ones that are read: half of them, if there are as many, from the layers,
/// the rest from the root below, in the order of their names.
fn choose(mut all: Vec<Found>, base: &BTreeSet<String>) -> Result<(Vec<String>, Vec<String>)> {
    all.sort_by(|one, other| one.path.cmp(&other.path));
    let (below, above): (Vec<&Found>, Vec<&Found>) = all.iter().partition(|file| base.contains(&file.path));
    let of_size = |files: &[&Found], sizes: std::ops::RangeInclusive<u64>| -> Vec<Found> {
        files.iter().filter(|file| sizes.contains(&file.size)).map(|file| (*file).clone()).collect()
    };
    let limited = |files: Vec<Found>, limit: u64| {
        let mut left = limit;
        let mut take = |file: &Found| left.checked_sub(file.size).inspect(|rest| left = *rest).is_some();
        files.into_iter().filter(|file| take(file)).collect::<Vec<_>>()
    };
    let mut large = limited(of_size(&above, LARGE..=u64::MAX), SEQUENTIAL / 2);
    let of_layers: u64 = large.iter().map(|file| file.size).sum();
    large.extend(limited(of_size(&below, LARGE..=u64::MAX), SEQUENTIAL - of_layers));
    let mut small = of_size(&above, 1..=SMALL);
    small.truncate(SMALL_FILES / 2);
    let more = of_size(&below, 1..=SMALL).into_iter().take(SMALL_FILES - small.len());
    eprintln!("{} MiB of large files and {} small ones are the layers'", of_layers >> 20, small.len());
    small.extend(more);
    ensure!(small.len() == SMALL_FILES, "the image has but {} small files", small.len());
    ensure!(of_layers > 0, "the layers have no large file");
    let names = |mut files: Vec<Found>| {
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files.into_iter().map(|file| file.path).collect()
    };
    Ok((names(large), names(small)))
}

/// Makes one image of what a sandbox shows.
fn flatten(sandbox: &Running<'_>, directory: &Path) -> Result<String> {
    let tree = directory.join("flat");
    fs::create_dir(&tree)?;
    let mut pack = sandbox.exec(&["tar", "--create", "--file=-", "--one-file-system", "--directory=/", "."]);
    pack.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let mut packing = pack.spawn().with_context(|| format!("cannot run {}", command::display(&pack)))?;
    let archive = packing.stdout.take().context("a piped output is there")?;
    let mut unpack = Command::new("tar");
    // Sockets and devices are the guest's own business, and no ordinary user can make the latter.
    unpack.args(["--extract", "--file=-", "--no-same-owner", "--exclude=./dev/*", "--directory"]).arg(&tree);
    let unpacked = unpack.stdin(archive).status().context("cannot run tar")?;
    let packed = packing.wait()?;
    // 1 says that something changed while it was read: the directory where the project is mounted does.
    let packed_all = matches!(packed.code(), Some(0 | 1));
    ensure!(unpacked.success() && packed_all, "the content could not be copied: {packed}, {unpacked}");
    let image = directory.join("flat.erofs");
    command::capture(Command::new("mkfs.erofs").args(["--quiet", "--all-root"]).arg(&image).arg(&tree))?;
    remove(&tree)?;
    image.into_os_string().into_string().ok().context("the target directory's name is not UTF-8")
}

/// Compiles the program into the project: one file, static, without a dependency, so rustc alone will do.
fn build_program(directory: &Path) -> Result<()> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-C", "opt-level=3", "-C", "strip=symbols"]);
    rustc.args(["-C", "target-feature=+crt-static", "-o"]).arg(directory.join("read-files"));
    rustc.arg(workspace::root().join("xtask/src/bin/read-files.rs"));
    command::capture(&mut rustc).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read() {
        assert_eq!(measured("1024 5000\n").unwrap(), (1024, Duration::from_micros(5)));
        assert!(measured("").is_err());
        assert!(measured("1024").is_err());
    }

    #[test]
    fn both_the_root_and_the_layers_are_read() {
        let mut lines = String::new();
        for index in 0..SMALL_FILES {
            lines.push_str(&format!("100 /usr/base/{index}\n"));
        }
        lines.push_str(
            "100 /usr/layer/small file\n2097152 /usr/layer/large\n2097152 /usr/base/large\n0 /usr/layer/empty\n",
        );
        lines.push_str(&format!("{SEQUENTIAL} /usr/base/huge\n"));
        let all = found(&lines).unwrap();
        let base = all.iter().map(|file| file.path.clone()).filter(|path| path.starts_with("/usr/base")).collect();
        let (large, small) = choose(all, &base).unwrap();
        assert_eq!(large, ["/usr/base/large", "/usr/layer/large"]);
        assert_eq!(small.len(), SMALL_FILES);
        assert!(small.contains(&"/usr/layer/small file".to_owned()));
    }

    #[test]
    fn an_image_without_layers_is_no_measure() {
        assert!(choose(found("100 /usr/x").unwrap(), &BTreeSet::from(["/usr/x".to_owned()])).is_err());
        assert!(found("nonsense").is_err());
    }
}
