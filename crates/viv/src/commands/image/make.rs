//! `viv image build`, `pull`, `import` and `export`

use std::fs::File;
use std::io;

use serde::Serialize;
use viv_image::{Cache, ImageConfig, ImageSource, Layer, RegistryAccess, RootImage};
use viv_sandbox::Paths;

use super::short;
use crate::cli::image::{ExportArguments, ExportFormat, ImageBuildArguments, ImportArguments, PullArguments, absolute};
use crate::commands::prepare;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::clean::clean;
use crate::output::{Printer, ProgressReporter, print_json};
use crate::settings::values::human_bytes;

/// An image as `--json` prints it.
#[derive(Serialize)]
struct Made<'a> {
    source: String,
    digest: &'a str,
    size: u64,
    path: &'a std::path::Path,
    config: &'a ImageConfig,
}

impl<'a> Made<'a> {
    fn new(source: &ImageSource, root: &'a RootImage) -> Self {
        Self {
            source: source.to_string(),
            digest: &root.digest,
            size: root.size,
            path: &root.path,
            config: &root.config,
        }
    }
}

/// What `build --json` prints.
#[derive(Serialize)]
struct Built<'a> {
    image: Made<'a>,
    /// The lowest first.
    layers: Vec<MadeLayer<'a>>,
}

#[derive(Serialize)]
struct MadeLayer<'a> {
    packages: Vec<String>,
    digest: &'a str,
    size: u64,
    path: &'a std::path::Path,
}

fn say(what: &str, digest: &str, size: u64, printer: &Printer) {
    printer.note(&format!("{}: {}, sha256 {}", clean(what), human_bytes(size), short(digest)));
}

pub(super) fn build(arguments: &ImageBuildArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let asked = arguments.layer(&host.directory);
    let resolved = prepare::settings(arguments.workspace.as_deref(), asked, &[], &host, paths)?;
    for warning in &resolved.warnings {
        printer.warning(&warning.message, warning.hint.as_deref());
    }
    let prepare::Built { root, layers, lease, .. } = prepare::build(&resolved, paths, printer)?;
    let source = resolved.sandbox.image.clone().unwrap_or_default();
    let names = |layer: &Layer| layer.packages.iter().map(ToString::to_string).collect::<Vec<_>>();
    if arguments.json {
        let layers = layers.iter().map(|layer| MadeLayer {
            packages: names(layer),
            digest: &layer.digest,
            size: layer.size,
            path: &layer.path,
        });
        print_json(&Built { image: Made::new(&source, &root), layers: layers.collect() })?;
    } else {
        say(&source.to_string(), &root.digest, root.size, printer);
        for layer in &layers {
            say(&names(layer).join(" "), &layer.digest, layer.size, printer);
        }
    }
    drop(lease);
    Ok(0)
}

pub(super) fn pull(arguments: &PullArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let directory = HostEnvironment::probe()?.directory;
    let cache = Cache::open(&paths.cache)?;
    let progress = ProgressReporter::new(printer);
    let mut pulled = Vec::new();
    for source in &arguments.images {
        let source = absolute(source.clone(), &directory);
        let root = viv_image::pull(&cache, &source, &RegistryAccess::of_environment(), &progress)?;
        if !arguments.json {
            say(&source.to_string(), &root.digest, root.size, printer);
        }
        pulled.push((source, root));
    }
    if arguments.json {
        let made: Vec<Made> = pulled.iter().map(|(source, root)| Made::new(source, root)).collect();
        print_json(&made)?;
    }
    Ok(0)
}

pub(super) fn import(arguments: &ImportArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let directory = HostEnvironment::probe()?.directory;
    let cache = Cache::open(&paths.cache)?;
    let progress = ProgressReporter::new(printer);
    let source = match arguments.image.parse()? {
        // A mere path says nothing of what it leads to.
        ImageSource::Erofs(path) if !arguments.image.starts_with("erofs:") => {
            viv_image::guess_source(&directory.join(path))?
        }
        named => absolute(named, &directory),
    };
    let mut lease = cache.lease("import")?;
    let root = loop {
        let root = viv_image::ensure_root(&cache, &source, &progress)?;
        if lease.add([root.path.as_path()])? {
            break root;
        }
    };
    let (root, used_as) = match &arguments.name {
        Some(name) => {
            let named = viv_image::name_image(&cache, name, &source.to_string(), &root, &progress)?;
            (named, ImageSource::Named(name.clone()))
        }
        None => (root, source),
    };
    if arguments.json {
        print_json(&Made::new(&used_as, &root))?;
    } else {
        say(&used_as.to_string(), &root.digest, root.size, printer);
        printer.note(&format!("use it with: viv run --image {}", clean(&used_as.to_string())));
    }
    Ok(0)
}

/// What `export --json` prints.
#[derive(Serialize)]
struct Exported<'a> {
    file: &'a std::path::Path,
    digest: &'a str,
    bytes: u64,
}

pub(super) fn export(arguments: &ExportArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let ExportFormat::Erofs = arguments.format;
    let cache = Cache::open(&paths.cache)?;
    let all = viv_image::list_stored(&cache)?;
    let stored = viv_image::find_stored(&all, &arguments.image)?;
    let mut lease = cache.lease("export")?;
    if !stored.path.is_file() || !lease.add([stored.path.as_path()])? {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{} is no file that could be copied", short(&stored.digest)),
        )
        .hint("viv image ls")
        .into());
    }
    let shown = clean(&arguments.file.to_string_lossy()).into_owned();
    let mut from = File::open(&stored.path).map_err(error::io("cannot read the image"))?;
    let mut to = File::create_new(&arguments.file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::Usage, format!("{shown} is there already")).hint("name another file, or remove it")
        }
        _ => error::io(format!("cannot write {shown}"))(error),
    })?;
    // A clone where the file system can, and else in the kernel.
    let bytes = io::copy(&mut from, &mut to).map_err(|error| {
        // Half an image would pass for one.
        let _ = std::fs::remove_file(&arguments.file);
        error::io(format!("cannot write {shown}"))(error)
    })?;
    if arguments.json {
        print_json(&Exported { file: &arguments.file, digest: &stored.digest, bytes })?;
    } else {
        printer.note(&format!("{shown}: {}", human_bytes(bytes)));
    }
    Ok(0)
}
