//! QEMU: a `microvm` machine, booted directly from an ELF kernel (PVH).

mod plan;

pub(crate) use plan::DEVICES_URI;
pub use plan::plan;
