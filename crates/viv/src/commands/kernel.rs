//! `viv kernel`, and which kernel a run boots.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use viv_image::{Cache, Kernel, KernelSource, OwnKernel};
use viv_sandbox::{KernelChoice, Paths};

use crate::cli::{KernelBuildArguments, KernelCommand};
use crate::error::{Error, ErrorKind, Failure};
use crate::output::{Printer, ProgressReporter, human_duration, print, print_json, table};
use crate::settings::values::human_bytes;

/// The names of kernels that are no ids.
const DEBIAN: &str = "debian";
const OWN: &str = "own";

/// Builds, lists, chooses or removes kernels.
///
/// # Errors
/// A build that fails, an id that fits no kernel or several, a cache that cannot be used.
pub fn kernel(command: &KernelCommand, printer: &Printer) -> Result<u8, Failure> {
    let cache = Cache::open(&Paths::from_environment()?.cache)?;
    match command {
        KernelCommand::Build(arguments) if arguments.config => {
            print(&viv_image::own_kernel_configuration(&cache, &ProgressReporter::new(printer))?)?;
        }
        KernelCommand::Build(arguments) => build(&cache, arguments, printer)?,
        KernelCommand::Ls(arguments) => {
            let kernels = all(&cache)?;
            if arguments.json {
                print_json(&kernels)?;
            } else {
                print(&render(&kernels, SystemTime::now()))?;
            }
        }
        KernelCommand::Use(arguments) => choose(&cache, &arguments.kernel, printer)?,
        KernelCommand::Rm(arguments) => {
            for id in &arguments.kernels {
                remove(&cache, id, printer)?;
            }
        }
    }
    Ok(0)
}

fn build(cache: &Cache, arguments: &KernelBuildArguments, printer: &Printer) -> Result<(), Failure> {
    let processors = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let jobs = arguments.jobs.or(NonZeroU32::new(processors)).unwrap_or(NonZeroU32::MIN);
    let began = SystemTime::now();
    let own = viv_image::build_own_kernel(cache, jobs, &ProgressReporter::new(printer))?;
    viv_image::select_kernel(cache, Some(&own))?;
    if own.built < began && !arguments.json {
        printer.note(&format!("{} has been built already", own.source));
    }
    say_used(&Listed::own(&own, true), printer);
    if arguments.json {
        print_json(&Listed::own(&own, true))?;
    }
    Ok(())
}

fn choose(cache: &Cache, name: &str, printer: &Printer) -> Result<(), Failure> {
    let own = match name {
        DEBIAN => None,
        OWN => Some(newest_own(cache)?),
        id => Some(viv_image::find_own_kernel(cache, id)?),
    };
    viv_image::select_kernel(cache, own.as_ref())?;
    say_used(&own.map_or_else(|| Listed::debian(cache, true), |own| Listed::own(&own, true)), printer);
    Ok(())
}

fn say_used(kernel: &Listed, printer: &Printer) {
    let release = kernel.release.as_deref().map(|release| format!(", Linux {release}")).unwrap_or_default();
    printer.note(&format!("sandboxes boot the kernel {}{release} from now on", kernel.id));
}

fn remove(cache: &Cache, id: &str, printer: &Printer) -> Result<(), Failure> {
    if id == DEBIAN {
        return Err(Error::new(ErrorKind::Usage, "Debian's kernel is what is left when there is no other")
            .hint("viv kernel ls")
            .into());
    }
    let was_used = matches!(viv_image::preferred_kernel(cache)?.source, KernelSource::Own(_));
    let removed = viv_image::remove_own_kernel(cache, id)?;
    let is_used = matches!(viv_image::preferred_kernel(cache)?.source, KernelSource::Own(_));
    printer.note(&format!("removed the kernel {}, Linux {}", removed.id, removed.release));
    if was_used && !is_used {
        say_used(&Listed::debian(cache, true), printer);
    }
    Ok(())
}

fn newest_own(cache: &Cache) -> Result<OwnKernel, Failure> {
    let newest = viv_image::own_kernels(cache)?.into_iter().next();
    newest.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no own kernel has been built yet").hint("viv kernel build").into()
    })
}

/// The kernel a run boots: the one it names, else the one that was chosen.
///
/// # Errors
/// An own kernel that was asked for and has not been built, a cache that cannot be read.
pub fn source(cache: &Cache, choice: Option<&KernelChoice>, printer: &Printer) -> Result<KernelSource, Failure> {
    match choice {
        Some(KernelChoice::File(path)) => Ok(KernelSource::File(path.clone())),
        Some(KernelChoice::Debian) => Ok(KernelSource::Default),
        Some(KernelChoice::Own) => match viv_image::preferred_kernel(cache)?.source {
            chosen @ KernelSource::Own(_) => Ok(chosen),
            _ => Ok(KernelSource::Own(newest_own(cache)?.digest)),
        },
        None => {
            let preferred = viv_image::preferred_kernel(cache)?;
            if let Some(lost) = &preferred.lost {
                printer.warning(
                    &format!("the kernel {lost}, which was chosen, is not in the cache any more: this is Debian's"),
                    Some("viv kernel build, or viv kernel use debian"),
                );
            }
            Ok(preferred.source)
        }
    }
}

/// Which kernel it is, for `--verbose`.
#[must_use]
pub fn describe(kernel: &Kernel, source: &KernelSource) -> String {
    let origin = match source {
        KernelSource::Default => "Debian's".to_owned(),
        KernelSource::Own(_) => "viv's own".to_owned(),
        KernelSource::File(path) => path.to_string_lossy().into_owned(),
    };
    let digest: String = kernel.digest.chars().take(12).collect();
    format!("the kernel is Linux {} ({origin}, {digest})", kernel.release)
}

/// A row of `viv kernel ls`.
#[derive(Debug, Serialize)]
struct Listed {
    /// `debian`, or the id of an own kernel.
    id: String,
    /// As `uname -r` says; none for Debian's before it was first used.
    release: Option<String>,
    /// The package it was built from or is in, `NAME=VERSION` for own ones.
    source: String,
    /// Bytes.
    size: Option<u64>,
    sha256: Option<String>,
    built_at_unix_seconds: Option<u64>,
    path: Option<PathBuf>,
    /// Whether sandboxes boot it where none is named.
    used: bool,
}

impl Listed {
    fn own(own: &OwnKernel, used: bool) -> Self {
        Self {
            id: own.id.clone(),
            release: Some(own.release.clone()),
            source: own.source.clone(),
            size: Some(own.size),
            sha256: Some(own.digest.clone()),
            built_at_unix_seconds: Some(own.built.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
            path: Some(own.vmlinux.clone()),
            used,
        }
    }

    fn debian(cache: &Cache, used: bool) -> Self {
        let kernel = viv_image::default_kernel(cache);
        let path = kernel.as_ref().map(|kernel| kernel.vmlinux.clone());
        Self {
            id: DEBIAN.to_owned(),
            release: kernel.as_ref().map(|kernel| kernel.release.clone()),
            source: viv_image::DEFAULT_KERNEL_PACKAGE.to_owned(),
            size: path.as_ref().and_then(|path| path.metadata().ok()).map(|metadata| metadata.len()),
            sha256: kernel.map(|kernel| kernel.digest),
            built_at_unix_seconds: None,
            path,
            used,
        }
    }
}

fn all(cache: &Cache) -> Result<Vec<Listed>, Failure> {
    let preferred = viv_image::preferred_kernel(cache)?.source;
    let own = viv_image::own_kernels(cache)?;
    let own = own.iter().map(|own| Listed::own(own, preferred == KernelSource::Own(own.digest.clone())));
    Ok([Listed::debian(cache, preferred == KernelSource::Default)].into_iter().chain(own).collect())
}

fn render(kernels: &[Listed], now: SystemTime) -> String {
    let unknown = || "-".to_owned();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let rows: Vec<Vec<String>> = kernels
        .iter()
        .map(|kernel| {
            let age = kernel.built_at_unix_seconds.map(|built| now.saturating_sub(Duration::from_secs(built)));
            vec![
                if kernel.used { "*" } else { "" }.to_owned(),
                kernel.id.clone(),
                kernel.release.clone().unwrap_or_else(unknown),
                kernel.size.map_or_else(unknown, human_bytes),
                kernel.sha256.as_ref().map_or_else(unknown, |digest| digest.chars().take(12).collect()),
                age.map_or_else(unknown, |age| format!("{} ago", human_duration(age))),
                kernel.source.clone(),
            ]
        })
        .collect();
    table(&["", "ID", "RELEASE", "SIZE", "SHA256", "BUILT", "SOURCE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_in_a_table() {
        let debian = Listed {
            id: DEBIAN.to_owned(),
            release: None,
            source: "linux-image-cloud-amd64".to_owned(),
            size: None,
            sha256: None,
            built_at_unix_seconds: None,
            path: None,
            used: false,
        };
        let own = Listed {
            id: "3f2a00112233".to_owned(),
            release: Some("6.12.57-viv".to_owned()),
            source: "linux-source-6.12=6.12.57-1".to_owned(),
            size: Some(20 << 20),
            sha256: Some("3f2a00112233445566778899".to_owned()),
            built_at_unix_seconds: Some(1_700_000_000),
            path: Some("/cache/blobs/sha256-3f2a".into()),
            used: true,
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + 7260);
        insta::assert_snapshot!(render(&[debian, own], now), @r"
           ID            RELEASE      SIZE    SHA256        BUILT          SOURCE
           debian        -            -       -             -              linux-image-cloud-amd64
        *  3f2a00112233  6.12.57-viv  20 MiB  3f2a00112233  2 h 1 min ago  linux-source-6.12=6.12.57-1
        ");
    }
}
