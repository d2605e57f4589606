//! `viv image` as it is typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use viv_image::{ImageSource, Package};

use super::run::found;
use crate::settings::definitions as d;
use crate::settings::values;
use crate::settings::{DevContainerChoice, Layer};

/// `viv image`
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  viv image ls                           what there is, how large, and what uses it
  viv image build -p git,npm:prettier    make now what `viv run` with these would make first
  viv image pull oci:alpine:3.20         fetch an image anew
  viv image prune --dry-run              what has not been used for a month

Images and layers are kept in the cache and used by every sandbox. What nobody uses can be removed
at any time; it is made or fetched again when it is asked for. See docs/images.md.")]
pub enum ImageCommand {
    /// Make what `viv run` with the same options would need, and run nothing
    #[command(after_help = "\
Examples:
  viv image build                        what `viv run` in this directory needs
  viv image build -p git ripgrep
  viv image build --image oci:alpine:3.20 --json | jq -r .image.digest")]
    Build(ImageBuildArguments),
    /// Fetch an image, newer or not, and make a root of it
    #[command(after_help = "\
Examples:
  viv image pull oci:alpine:3.20
  viv image pull oci:registry.example.com/team/tools@sha256:...")]
    Pull(PullArguments),
    /// Make a root of a file or directory, and give it a name if you like
    #[command(after_help = "\
Examples:
  viv image import rootfs.tar.zst --name tools
  viv run --image name:tools
  viv image import ./rootfs              used as --image dir:./rootfs
  viv image import oci-archive:tools.tar --name tools")]
    Import(ImportArguments),
    /// List images, layers and what they are made from
    #[command(after_help = "\
Examples:
  viv image ls
  viv image ls --json | jq -r 'map(.size) | add'")]
    Ls(ImageListArguments),
    /// Show all that is known of an image or a layer
    #[command(after_help = "\
Examples:
  viv image inspect debian
  viv image inspect oci:alpine:3.20 --json | jq .config
  viv image inspect 3f2a91               a digest may be shortened as long as it fits only one")]
    Inspect(InspectArguments),
    /// Remove images and layers
    #[command(after_help = "\
Examples:
  viv image rm oci:alpine:3.20           by what it was made from, or by its digest
  viv image rm name:tools 3f2a91")]
    Rm(ImageRemoveArguments),
    /// Remove what has not been used for long, and what killed builds left
    #[command(after_help = "\
Examples:
  viv image prune                        what has not been used for 30 days
  viv image prune --older-than 7d --dry-run
  viv image prune --all --json           everything that no sandbox uses

Images with a name stay until `viv image rm`. What images may take in all is `cache-limit` in [image]
of your config.toml.")]
    Prune(ImagePruneArguments),
    /// Write viv.lock: the versions and digests that the project's packages and image have now
    #[command(after_help = "\
Examples:
  viv image lock                         what is missing is added, what is locked stays
  viv image lock -w ../other --json

The file lies beside viv.toml. Runs heed it; commit it, and others get the same versions.")]
    Lock(LockArguments),
    /// Look locked versions up anew, and write them to viv.lock
    #[command(after_help = "\
Examples:
  viv image update                       everything, the image included
  viv image update ripgrep npm:prettier  these packages, the rest stays as it is")]
    Update(UpdateArguments),
    /// Copy an image out of the cache
    #[command(after_help = "\
Examples:
  viv image export debian root.erofs
  viv image export name:tools tools.erofs && viv run --image erofs:tools.erofs")]
    Export(ExportArguments),
}

impl ImageCommand {
    /// Whether JSON is asked for.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match self {
            Self::Build(arguments) => arguments.json,
            Self::Pull(arguments) => arguments.json,
            Self::Import(arguments) => arguments.json,
            Self::Ls(arguments) => arguments.json,
            Self::Inspect(arguments) => arguments.json,
            Self::Rm(arguments) => arguments.json,
            Self::Prune(arguments) => arguments.json,
            Self::Lock(arguments) => arguments.json,
            Self::Update(arguments) => arguments.lock.json,
            Self::Export(arguments) => arguments.json,
        }
    }
}

/// `viv image build`
#[derive(Debug, Args)]
pub struct ImageBuildArguments {
    #[arg(long, value_name = "IMAGE", help = d::IMAGE.help_of_flag())]
    pub image: Option<ImageSource>,
    #[arg(short, long = "package", value_name = "NAME", help = d::PACKAGES.help_of_flag(), value_parser = values::parse_package, value_delimiter = ',', num_args = 1..)]
    pub packages: Vec<Package>,
    #[arg(long, value_name = "NAME", help = d::DEVCONTAINER.help_of_flag(), value_parser = values::parse_devcontainer, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub devcontainer: Option<DevContainerChoice>,
    /// The directory whose viv.toml counts [default: the current directory]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Print one JSON object; progress and errors are JSON on stderr, one object per line
    #[arg(long)]
    pub json: bool,
}

impl ImageBuildArguments {
    /// The settings among the arguments; relative paths are meant from `directory`.
    #[must_use]
    pub fn layer(&self, directory: &Path) -> Layer {
        Layer {
            image: self.image.clone().map(|source| found(absolute(source, directory))),
            packages: self.packages.iter().cloned().map(found).collect(),
            devcontainer: self.devcontainer.clone().map(found),
            ..Layer::default()
        }
    }
}

/// The source with its path, if it has one, meant from `directory`.
#[must_use]
pub fn absolute(source: ImageSource, directory: &Path) -> ImageSource {
    source.try_map_path(|path| Ok::<_, std::convert::Infallible>(directory.join(path))).unwrap_or_default()
}

/// `viv image pull`
#[derive(Debug, Args)]
pub struct PullArguments {
    /// As --image takes them
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<ImageSource>,
    /// Print an array of JSON objects; progress and errors are JSON on stderr, one object per line
    #[arg(long)]
    pub json: bool,
}

/// `viv image import`
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// An archive, compressed or not, a directory, an erofs file, or any image as --image takes it
    #[arg(value_name = "FILE|DIR|IMAGE")]
    pub image: String,
    /// Keep it as name:NAME, until `viv image rm name:NAME`
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Print one JSON object; progress and errors are JSON on stderr, one object per line
    #[arg(long)]
    pub json: bool,
}

/// `viv image ls`
#[derive(Debug, Args)]
pub struct ImageListArguments {
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv image inspect`
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// What it was made from, as `viv image ls` has it, or a unique beginning of its digest
    #[arg(value_name = "NAME|DIGEST")]
    pub image: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `viv image rm`
#[derive(Debug, Args)]
pub struct ImageRemoveArguments {
    /// What they were made from, as `viv image ls` has it, or unique beginnings of digests
    #[arg(value_name = "NAME|DIGEST", required = true)]
    pub images: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `viv image prune`
#[derive(Debug, Args)]
pub struct ImagePruneArguments {
    /// Everything that no sandbox uses and that has no name
    #[arg(long, conflicts_with = "older_than")]
    pub all: bool,
    /// What was not used for so long, such as 7d or 12h
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = values::parse_duration)]
    pub older_than: Duration,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `viv image lock`
#[derive(Debug, Args)]
pub struct LockArguments {
    /// The project's directory [default: the current directory]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Print one JSON object; progress and errors are JSON on stderr, one object per line
    #[arg(long)]
    pub json: bool,
}

/// `viv image update`
#[derive(Debug, Args)]
pub struct UpdateArguments {
    /// Packages, as viv.toml has them, whatever their version [default: all, and the image]
    #[arg(value_name = "PACKAGE", value_parser = values::parse_package)]
    pub packages: Vec<Package>,
    #[command(flatten)]
    pub lock: LockArguments,
}

/// `viv image export`
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// What it was made from, as `viv image ls` has it, or a unique beginning of its digest
    #[arg(value_name = "NAME|DIGEST")]
    pub image: String,
    /// The file to write, which must not be there yet
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Its format: erofs
    #[arg(long, value_name = "FORMAT", default_value = "erofs", value_parser = parse_format)]
    pub format: ExportFormat,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What an image is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// As it is in the cache.
    Erofs,
}

fn parse_format(text: &str) -> Result<ExportFormat, String> {
    match text {
        "erofs" => Ok(ExportFormat::Erofs),
        "tar" | "oci" | "oci-archive" | "docker-archive" => Err(format!(
            "{text} is not written; take erofs, and unpack it with `fsck.erofs --extract=DIR FILE` where needed"
        )),
        _ => Err("the format is erofs".to_owned()),
    }
}
