//! The program that is PID 1 of every sandbox, embedded by `build.rs`.

use viv_image::GuestBinary;

/// The static ELF binary.
pub const GUEST: GuestBinary<'static> =
    GuestBinary { bytes: include_bytes!(concat!(env!("OUT_DIR"), "/viv-guest")), digest: env!("VIV_GUEST_SHA256") };
