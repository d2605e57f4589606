//! QEMU: a `microvm` machine, booted directly from an ELF kernel (PVH).

mod plan;

pub use plan::plan;
