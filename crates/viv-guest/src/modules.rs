//! Kernel modules of the initramfs.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::command_line::LinkKind;
use crate::console;
use crate::error::{Context, Result};

/// Those that nothing waits for, open: they are loaded when their directory is gone.
static LATER: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Those of a network device, open, until it is known whether there is one.
static NETWORK: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// When a module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// While the guest boots.
    Boot,
    /// With the configuration of a network device.
    Network,
    /// When nothing waits any more.
    Later,
}

/// The files to load, in order, as `/modules/order` lists them for a kind of link.
///
/// A line is a file name, optionally followed by `vsock`, needed only where the link is a vsock, by
/// `network`, needed only for a network device, or by `later`, which goes to those that nothing waits for.
/// Empty lines and names with a slash are passed over.
pub fn wanted(order: &str, link: LinkKind, when: When) -> impl Iterator<Item = &str> {
    order.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| !name.contains('/'))?;
        let wanted = match words.next() {
            Some("vsock") => link == LinkKind::Vsock && when == When::Boot,
            Some("network") => when == When::Network,
            Some("later") => when == When::Later,
            _ => when == When::Boot,
        };
        wanted.then_some(name)
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
    for (when, kept) in [(When::Later, &LATER), (When::Network, &NETWORK)] {
        // What nothing waits for, nothing fails for; a missing driver is noticed with its device.
        let files = wanted(&order, link, when).filter_map(|name| File::open(directory.join(name)).ok());
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
    }
    for name in wanted(&order, link, When::Boot) {
        let file = File::open(directory.join(name)).context(|| format!("cannot open module {name}"))?;
        insert(&file).context(|| format!("cannot load module {name}"))?;
    }
    Ok(())
}

/// Loads those that nothing waited for, once; the initramfs they were in may be gone.
pub fn load_later() {
    for file in LATER.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        if let Err(refusal) = insert(&file) {
            console::say(&format!("cannot load a module: {refusal}"));
        }
    }
}

/// Loads those of a network device, once.
///
/// # Errors
/// The first module the kernel refuses.
pub fn load_network() -> Result<()> {
    for file in NETWORK.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        insert(&file).context(|| "cannot load a network device's module".to_owned())?;
    }
    Ok(())
}

/// There is no network device: frees the memory of its modules.
pub fn forget_network() {
    NETWORK.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn insert(module: &File) -> rustix::io::Result<()> {
    match rustix::system::finit_module(module, c"", 0) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_vsock_left_out_where_not_needed() {
        let order = "00-virtio_blk.ko\n\n01-vsock.ko vsock\n../../etc/passwd\n02-overlay.ko\n03-balloon.ko later\n04-net.ko network\n";
        let serial: Vec<_> = wanted(order, LinkKind::VirtioSerial, When::Boot).collect();
        assert_eq!(serial, ["00-virtio_blk.ko", "02-overlay.ko"]);
        let vsock: Vec<_> = wanted(order, LinkKind::Vsock, When::Boot).collect();
        assert_eq!(vsock, ["00-virtio_blk.ko", "01-vsock.ko", "02-overlay.ko"]);
        let later: Vec<_> = wanted(order, LinkKind::Vsock, When::Later).collect();
        assert_eq!(later, ["03-balloon.ko"]);
        let network: Vec<_> = wanted(order, LinkKind::VirtioSerial, When::Network).collect();
        assert_eq!(network, ["04-net.ko"]);
    }

    #[test]
    fn no_list_is_nothing_to_load() {
        assert!(load(Path::new("/nonexistent"), LinkKind::Vsock).is_ok());
    }
}
