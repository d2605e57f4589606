//! A writer of the initramfs archive format (cpio "newc"): pure, and the same bytes for the same
//! entries.

/// One entry of an archive. Owner root, time zero.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'a> {
    /// A directory, mode 0755.
    Directory {
        /// Path without a leading slash.
        path: &'a str,
    },
    /// A regular file.
    File {
        /// Path without a leading slash.
        path: &'a str,
        /// Permission bits.
        mode: u32,
        /// Content; less than 4 GiB.
        content: &'a [u8],
    },
    /// A character device, mode 0600.
    CharacterDevice {
        /// Path without a leading slash.
        path: &'a str,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;

/// The archive, padded with zeros to a multiple of `align` bytes (which the kernel skips).
/// `None` if a file does not fit the format's 32-bit sizes.
pub(crate) fn archive(entries: &[Entry<'_>], align: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let inode = u32::try_from(index + 1).ok()?;
        match *entry {
            Entry::Directory { path } => append(&mut out, inode, path, TYPE_DIRECTORY | 0o755, (0, 0), &[])?,
            Entry::File { path, mode, content } => {
                append(&mut out, inode, path, TYPE_FILE | (mode & 0o7777), (0, 0), content)?;
            }
            Entry::CharacterDevice { path, major, minor } => {
                append(&mut out, inode, path, TYPE_CHARACTER_DEVICE | 0o600, (major, minor), &[])?;
            }
        }
    }
    append(&mut out, 0, "TRAILER!!!", 0, (0, 0), &[])?;
    pad(&mut out, align);
    Some(out)
}

fn append(out: &mut Vec<u8>, inode: u32, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Option<()> {
    let size = u32::try_from(content.len()).ok()?;
    let name_size = u32::try_from(path.len() + 1).ok()?;
    let links = if mode & TYPE_DIRECTORY != 0 && mode & TYPE_FILE == 0 { 2 } else { 1 };
    out.extend_from_slice(b"070701");
    // inode, mode, uid, gid, links, mtime, size, device, device of special files, name size, checksum
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(content);
    pad(out, 4);
    Some(())
}

fn pad(out: &mut Vec<u8>, align: usize) {
    out.resize(out.len().next_multiple_of(align), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        archive(
            &[
                Entry::Directory { path: "dev" },
                Entry::CharacterDevice { path: "dev/console", major: 5, minor: 1 },
                Entry::File { path: "init", mode: 0o755, content: b"#!/bin/sh\n" },
                Entry::File { path: "empty", mode: 0o644, content: b"" },
            ],
            4096,
        )
        .unwrap()
    }

    #[test]
    fn a_listing_by_cpio_itself() {
        use std::io::Write;
        let Ok(mut child) = std::process::Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
        else {
            assert!(std::env::var_os("CI").is_none(), "cpio is not installed");
            eprintln!("SKIPPED: cpio is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap(), @r"
        drwxr-xr-x   2 0        0               0 Jan  1  1970 dev
        crw-------   1 0        0          5,   1 Jan  1  1970 dev/console
        -rwxr-xr-x   1 0        0              10 Jan  1  1970 init
        -rw-r--r--   1 0        0               0 Jan  1  1970 empty
        ");
    }

    #[test]
    fn padded_and_aligned() {
        let archive = sample();
        assert_eq!(archive.len(), 4096);
        assert_eq!(&archive[..6], b"070701");
        insta::assert_snapshot!(String::from_utf8_lossy(&archive[..0x80]).replace('\0', "."), @"07070100000001000041ed0000000000000000000000020000000000000000000000000000000000000000000000000000000400000000dev...070701000000");
    }
}
