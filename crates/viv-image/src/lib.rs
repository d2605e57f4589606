//! Kernels, initramfs, root images, scratch disks, and the cache they are kept in.
//!
//! By default everything is made from Debian's packages on this machine, by an ordinary user: the
//! kernel is taken out of Debian's package for virtual machines, the root is built by mmdebstrap into
//! an erofs image. A smaller kernel can be built from Debian's source. Each is made once; a start with a warm cache reads a few small files, spawns no
//! process and takes well under a millisecond.
//!
//! ```no_run
//! # fn main() -> viv_image::Result<()> {
//! use viv_image::{Cache, GuestBinary, ImageSource, KernelSource, NoProgress};
//!
//! let cache = Cache::open("/home/me/.cache/viv".as_ref())?;
//! let kernel = viv_image::ensure_kernel(&cache, &KernelSource::Default, &NoProgress)?;
//! let guest = GuestBinary { bytes: b"the guest's program", digest: "its SHA-256" };
//! let initramfs = viv_image::ensure_initramfs(&cache, &kernel, &guest)?;
//! let root = viv_image::ensure_root(&cache, &ImageSource::Default, &NoProgress)?;
//! let scratch = viv_image::ensure_scratch(&cache, 20 << 30)?;
//! let disk = viv_image::clone_scratch(&scratch, "/run/user/1000/viv/a".as_ref())?;
//! # Ok(())
//! # }
//! ```
//!
//! | Environment variable | |
//! |---|---|
//! | `VIV_DEBIAN_MIRROR` | a Debian mirror's URI, instead of the one the host uses |
//! | `TMPDIR` | where roots and own kernels are built, if everyone may enter it; else `/var/tmp`. Needs about 1.5 GB |
//! | `http_proxy`, `https_proxy`, `no_proxy` | as everywhere |
//! | `REGISTRY_AUTH_FILE`, `DOCKER_CONFIG`, `CONTAINERS_REGISTRIES_CONF` | logins and mirrors of registries, as podman and Docker have them: see [`RegistryAccess`] |
//! | `PIP_*`, `REQUESTS_CA_BUNDLE`, `SSL_CERT_FILE` | for the one package that comes from the Python index |
//!
//! apt's and pip's configuration files on the host are heeded as well. The cache is safe to delete at
//! any time, which is also how to get newer packages; an ordinary user calls [`remove_unpacked`] before
//! that.

mod bootstrap;
mod bzimage;
mod cache;
mod compression;
mod config;
mod cpio;
mod disk;
mod elf;
mod error;
pub mod filesystem;
mod import;
mod initramfs;
mod kernel;
mod lock;
mod modules;
pub mod nix;
mod oci;
mod output;
mod own_kernel;
mod packages;
mod pip;
mod progress;
mod root;
mod run;
mod scratch;
mod source;
mod sources;
mod store;
mod sys;
mod tools;
pub mod unpack;

pub use bootstrap::{KERNEL_PACKAGE as DEFAULT_KERNEL_PACKAGE, is_in_default_root};
pub use cache::{Cache, Lease, Stamp};
pub use config::ImageConfig;
pub use disk::{
    DiskCheck, DiskCondition, HALF_MADE_DISK, check_disk, disk_bytes, disk_condition, make_disk, resize_disk,
};
pub use error::{Error, ErrorKind, Result};
pub use initramfs::{GuestBinary, ensure_initramfs, initramfs_of};
pub use kernel::{Kernel, KernelModule, KernelSource, default_kernel, ensure_kernel};
pub use lock::{Applied, LockFile, LockNote, LockedImage, LockedVersion};
pub use modules::When;
#[doc(hidden)]
pub use oci::read_documents;
pub use oci::{Patience, Platform, RegistryAccess};
pub use own_kernel::{
    OwnKernel, PreferredKernel, build_own_kernel, find_own_kernel, own_kernel_configuration, own_kernels,
    preferred_kernel, remove_own_kernel, select_kernel,
};
pub use packages::{
    Layer, Manager, NPM_MODULES, Package, ensure_layers, forget_packages, known_layers, remove_unpacked,
};
pub use progress::{NoProgress, Progress, ProgressEvent};
pub use root::{RootImage, default_root, ensure_root, ensure_root_with, known_config, pull};
pub use scratch::{clone_disk, clone_scratch, copy_sparse, ensure_scratch};
pub use source::ImageSource;
pub use store::{
    Freed, KeptBecause, RemovalRequest, Stored, StoredKind, find_stored, guess_source, holders, least_recently_used,
    list_stored, name_image, remove_stored, unused_for,
};
pub use tools::{MissingTool, missing_tools};

/// What a cache holds of what is built by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltState {
    /// The kernel and its modules.
    pub kernel: bool,
    /// The root image.
    pub root: bool,
}

/// The digests of what is built by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DefaultDigests {
    /// As [`Kernel::digest`]; `None` before it was ever built.
    pub kernel: Option<String>,
    /// As [`RootImage::digest`]; `None` before it was ever built.
    pub root: Option<String>,
}

/// What the default kernel and root image are known by. Builds nothing and changes nothing.
#[must_use]
pub fn default_digests(cache: &Cache) -> DefaultDigests {
    DefaultDigests {
        kernel: cache.known(&kernel::default_recipe()).map(|made| made.digest()),
        root: cache
            .known(&root::default_recipe())
            .and_then(|made| made.files.into_iter().next())
            .map(|file| file.digest),
    }
}

/// Whether the default kernel and root image are in the cache. Builds nothing and changes nothing;
/// their content is not read.
#[must_use]
pub fn is_built(cache: &Cache) -> BuiltState {
    BuiltState { kernel: cache.has(&kernel::default_recipe()), root: cache.has(&root::default_recipe()) }
}
