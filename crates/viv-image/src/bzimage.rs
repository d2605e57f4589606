//! Takes the ELF kernel out of a bzImage.
//!
//! A distribution ships its kernel as a program that unpacks itself. QEMU's direct (PVH) boot wants
//! what is inside: it starts about two seconds sooner without hardware acceleration, because the
//! host unpacks it once, instead of every guest at every boot. The header that says where the packed
//! kernel lies is described in the kernel's Documentation/arch/x86/boot.rst.

use crate::compression::decompress;
use crate::elf;

/// No kernel unpacks to more than this.
const LIMIT: u64 = 1 << 30;

/// Why a file is not a kernel that boots directly: one clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadKernel(pub String);

impl std::fmt::Display for BadKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadKernel {}

/// Whether the file begins like a bzImage.
pub(crate) fn is_bzimage(data: &[u8]) -> bool {
    data.get(0x202..0x206) == Some(b"HdrS")
}

/// The ELF kernel inside a bzImage.
///
/// # Errors
/// If the header, the packed data or what comes out of it is not as it must be.
pub(crate) fn extract(image: &[u8]) -> Result<Vec<u8>, BadKernel> {
    let bad = |why: &str| BadKernel(why.to_owned());
    let number = |offset: usize| {
        image.get(offset..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes) as usize)
    };
    let cut = || bad("it is cut short");
    if !is_bzimage(image) {
        return Err(bad("it is not a bzImage"));
    }
    let version = number(0x206).ok_or_else(cut)? & 0xffff;
    if version < 0x0208 {
        return Err(bad("its boot protocol is older than 2.08, so it does not say where the kernel proper is"));
    }
    // Zero means four, for the sake of loaders older than most of their users.
    let setup_sectors = match image.get(0x1f1) {
        None | Some(0) => 4,
        Some(count) => usize::from(*count),
    };
    let (offset, length) = (number(0x248).ok_or_else(cut)?, number(0x24c).ok_or_else(cut)?);
    let start = (setup_sectors + 1) * 512 + offset;
    let payload = image.get(start..).and_then(|rest| rest.get(..length)).ok_or_else(cut)?;
    // All compressors but gzip have the unpacked size appended, and gzip ends with the same number.
    let size = payload.last_chunk().map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(cut)?;
    let kernel = match decompress(payload, LIMIT) {
        Ok(Some(kernel)) if kernel.len() == size as usize => kernel,
        Ok(Some(_)) => return Err(bad("the kernel packed in it has another size than it says")),
        Ok(None) => payload.to_vec(),
        Err(error) => return Err(BadKernel(format!("the kernel packed in it cannot be unpacked: {error}"))),
    };
    check(&kernel)?;
    Ok(kernel)
}

/// Checks that an ELF kernel is whole and can be entered directly.
///
/// # Errors
/// If not.
pub(crate) fn check(kernel: &[u8]) -> Result<(), BadKernel> {
    match elf::has_pvh_note(kernel) {
        Ok(true) => Ok(()),
        Ok(false) => Err(BadKernel("it cannot be booted directly: it was built without CONFIG_PVH".to_owned())),
        Err(elf::NotElf) if kernel.starts_with(b"\x7fELF") => Err(BadKernel("it is cut short".to_owned())),
        Err(elf::NotElf) => Err(BadKernel("it is neither an ELF kernel (vmlinux) nor a bzImage".to_owned())),
    }
}

/// The release an ELF kernel announces, such as `6.12.107-cloud-amd64`.
pub(crate) fn release(kernel: &[u8]) -> Option<String> {
    let mark = b"Linux version ";
    memchr::memmem::find_iter(kernel, mark).find_map(|at| {
        let rest = &kernel[at + mark.len()..];
        let end = rest.iter().take(65).position(|byte| *byte == b' ')?;
        let release = std::str::from_utf8(&rest[..end]).ok()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_' | '~');
        let numbered = release.starts_with(|c: char| c.is_ascii_digit());
        (numbered && release.chars().all(plain)).then(|| release.to_owned())
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn vmlinux() -> Vec<u8> {
        let banner = b"Linux version %s\0Linux version 6.12.1-test (builder) #1 SMP\0";
        let mut kernel = elf::tests::sample(b"Xen\0", 18, ".rodata", banner);
        kernel.resize(kernel.len() + 100_000, 7);
        kernel
    }

    pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 100];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend(payload);
        image.extend([0xcc; 300]);
        image
    }

    #[test]
    fn every_compressor() {
        let kernel = vmlinux();
        for (name, mut packed) in crate::compression::tests::packed(&kernel) {
            if name != "gzip" {
                packed.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
            }
            assert!(extract(&bzimage(&packed)).unwrap() == kernel, "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let kernel = vmlinux();
        let mut packed = zstd::encode_all(&kernel[..], 1).unwrap();
        packed.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
        let image = bzimage(&packed);
        let why = |image: &[u8]| extract(image).unwrap_err().0;
        assert_eq!(why(b"MZ"), "it is not a bzImage");
        assert_eq!(why(&image[..0x20a]), "it is cut short");
        assert_eq!(why(&image[..image.len() - 400]), "it is cut short");
        let mut damaged = image.clone();
        let middle = 3 * 512 + 100 + packed.len() / 2;
        damaged[middle..middle + 8].fill(0x55);
        assert!(extract(&damaged).is_err());
        let mut old = image;
        old[0x206] = 7;
        assert!(why(&old).contains("older than 2.08"));
        let plain = elf::tests::sample(b"GNU\0", 3, ".x", b"");
        assert!(check(&plain).unwrap_err().0.contains("CONFIG_PVH"));
        assert!(check(b"#!/bin/sh").unwrap_err().0.contains("neither"));
    }

    #[test]
    fn no_prefix_panics() {
        let mut packed = zstd::encode_all(&vmlinux()[..], 1).unwrap();
        packed.extend(0_u32.to_le_bytes());
        let image = bzimage(&packed);
        for end in 0..image.len() {
            assert!(extract(&image[..end]).is_err());
        }
    }

    #[test]
    fn the_release_is_the_banner_with_a_number() {
        assert_eq!(release(&vmlinux()).as_deref(), Some("6.12.1-test"));
        assert_eq!(release(b"Linux version ../../x y"), None);
        assert_eq!(release(b"Linux version 6"), None);
    }
}
