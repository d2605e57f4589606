//! The initramfs: the guest's first program and the modules it loads, nothing else.

use std::fs;
use std::path::PathBuf;

use crate::cache::{Built, Cache, Recipe};
use crate::cpio::{self, Entry};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::kernel::Kernel;
use crate::modules::When;
use crate::progress::NoProgress;

/// Changes with the layout below.
const VERSION: u32 = 1;

/// QEMU's microvm with ACPI overwrites its own tables if the size of the initramfs is not a multiple
/// of this.
const ALIGN: usize = 4096;

/// The program that becomes PID 1 of every guest.
#[derive(Debug, Clone, Copy)]
pub struct GuestBinary<'a> {
    /// The static executable.
    pub bytes: &'a [u8],
    /// Something that changes whenever `bytes` does, such as their SHA-256, known without reading
    /// them: hashing them at each start would take longer than all else here.
    pub digest: &'a str,
}

/// An initramfs for this kernel: `/init` is the guest program, `/modules/order` lists the files of
/// `/modules` in load order, each alone, or followed by ` vsock` if only that link needs it or by
/// ` later` if nothing waits for it, and there is a `/dev/console`. Not compressed; padded to a multiple of 4096 bytes. Made once for each kernel
/// and guest program, in some milliseconds.
///
/// # Errors
/// [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
pub fn ensure_initramfs(cache: &Cache, kernel: &Kernel, guest: &GuestBinary<'_>) -> Result<PathBuf> {
    let made = cache.ensure(&recipe(&kernel.digest, guest.digest), &NoProgress, |staging| {
        let mut modules = Vec::new();
        for module in &kernel.modules {
            let content = fs::read(&module.path).map_err(io_error("read", &module.path))?;
            modules.push((module.name.as_str(), module.when, content));
        }
        let archive = layout(guest.bytes, &modules)
            .ok_or_else(|| Error::new(ErrorKind::Io, "the guest program is too large for an initramfs"))?;
        let path = staging.directory.join("initramfs");
        fs::write(&path, archive).map_err(io_error("write", &path))?;
        Ok(Built { files: vec![("initramfs".to_owned(), path)], ..Built::default() })
    })?;
    Ok(made.files.first().map(|file| cache.blob(&file.digest)).unwrap_or_default())
}

/// Where the initramfs of a kernel and a guest program lies, both by their digests, if it was ever
/// made. Makes nothing.
#[must_use]
pub fn initramfs_of(cache: &Cache, kernel_digest: &str, guest_digest: &str) -> Option<PathBuf> {
    let made = cache.known(&recipe(kernel_digest, guest_digest))?;
    made.files.first().map(|file| cache.blob(&file.digest))
}

fn recipe(kernel_digest: &str, guest_digest: &str) -> Recipe {
    Recipe {
        kind: "initramfs",
        text: format!("initramfs, version {VERSION}\nkernel {kernel_digest}\nguest {guest_digest}"),
        what: "the initramfs".to_owned(),
    }
}

/// The archive. `None` if a file is too large for it.
fn layout(guest: &[u8], modules: &[(&str, When, Vec<u8>)]) -> Option<Vec<u8>> {
    let order: String = modules
        .iter()
        .map(|(name, when, _)| match when.word() {
            Some(word) => format!("{name} {word}\n"),
            None => format!("{name}\n"),
        })
        .collect();
    let paths: Vec<String> = modules.iter().map(|(name, ..)| format!("modules/{name}")).collect();
    let mut entries = vec![
        Entry::Directory { path: "dev" },
        Entry::CharacterDevice { path: "dev/console", major: 5, minor: 1 },
        Entry::File { path: "init", mode: 0o755, content: guest },
        Entry::Directory { path: "modules" },
        Entry::File { path: "modules/order", mode: 0o644, content: order.as_bytes() },
    ];
    entries.extend(paths.iter().zip(modules).map(|(path, (_, _, content))| Entry::File { path, mode: 0o644, content }));
    cpio::archive(&entries, ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelModule;

    #[test]
    fn made_once_for_each_kernel_and_guest() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let module = directory.path().join("module");
        fs::write(&module, "MODULE").unwrap();
        let kernel = Kernel {
            vmlinux: PathBuf::new(),
            release: "6".to_owned(),
            modules: vec![
                KernelModule { name: "00-erofs.ko".to_owned(), path: module.clone(), when: When::Boot },
                KernelModule { name: "01-vsock.ko".to_owned(), path: module, when: When::Vsock },
            ],
            digest: "k".to_owned(),
        };
        let one = ensure_initramfs(&cache, &kernel, &GuestBinary { bytes: b"GUEST", digest: "1" }).unwrap();
        let same = ensure_initramfs(&cache, &kernel, &GuestBinary { bytes: b"never read", digest: "1" }).unwrap();
        let other = ensure_initramfs(&cache, &kernel, &GuestBinary { bytes: b"OTHER", digest: "2" }).unwrap();
        assert_eq!(one, same);
        assert_eq!(initramfs_of(&cache, "k", "1").as_ref(), Some(&one));
        assert_eq!(initramfs_of(&cache, "k", "3"), None);
        assert_ne!(one, other);
        let archive = fs::read(&one).unwrap();
        assert!(archive.len().is_multiple_of(4096));
        let text = String::from_utf8_lossy(&archive);
        for part in ["dev/console\0", "init\0", "GUEST", "00-erofs.ko\n01-vsock.ko vsock\n", "modules/01-vsock.ko\0"] {
            assert!(text.contains(part), "{part}");
        }
    }
}
