//! Kernel modules of the initramfs.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;

use crate::command_line::LinkKind;
use crate::error::{Context, Result};

/// The files to load, in order, as `/modules/order` lists them for a kind of link.
///
/// A line is a file name, optionally followed by `vsock`: needed only where the link is a vsock.
/// Empty lines and names with a slash are passed over.
pub fn wanted(order: &str, link: LinkKind) -> impl Iterator<Item = &str> {
    order.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| !name.contains('/'))?;
        match words.next() {
            Some("vsock") if link != LinkKind::Vsock => None,
            _ => Some(name),
        }
    })
}

/// Loads what the kernel of this initramfs does not have built in. No list means nothing to load.
///
/// # Errors
/// The first module the kernel refuses; one that is there already is fine.
pub fn load(directory: &Path, link: LinkKind) -> Result<()> {
    let Ok(order) = fs::read_to_string(directory.join("order")) else {
        return Ok(());
    };
    for name in wanted(&order, link) {
        let file = File::open(directory.join(name)).context(|| format!("cannot open module {name}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(refusal) => return Err(refusal).context(|| format!("cannot load module {name}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_vsock_left_out_where_not_needed() {
        let order = "00-virtio_blk.ko\n\n01-vsock.ko vsock\n../../etc/passwd\n02-overlay.ko\n";
        let serial: Vec<_> = wanted(order, LinkKind::VirtioSerial).collect();
        assert_eq!(serial, ["00-virtio_blk.ko", "02-overlay.ko"]);
        let vsock: Vec<_> = wanted(order, LinkKind::Vsock).collect();
        assert_eq!(vsock, ["00-virtio_blk.ko", "01-vsock.ko", "02-overlay.ko"]);
    }

    #[test]
    fn no_list_is_nothing_to_load() {
        assert!(load(Path::new("/nonexistent"), LinkKind::Vsock).is_ok());
    }
}
