//! The least that can serve one directory to one VMM: `virtiofsd`, the crate, and nothing around it.
//!
//! For `cargo xtask bench start`, which compares viv's start with it. It confines nothing: the guest
//! it serves is the bench's own.
//!
//! Usage: `floor_file_daemon DIRECTORY`, with a listening Unix stream socket as standard input. It
//! ends when the VMM that connected disconnects.

use std::error::Error;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::passthrough::{Config, PassthroughFs};
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

fn main() -> Result<(), Box<dyn Error>> {
    let root_dir = std::env::args().nth(1).ok_or("usage: floor_file_daemon DIRECTORY <LISTENING-SOCKET")?;
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let fs = PassthroughFs::new(Config { root_dir, ..Config::default() })?;
    let backend = VhostUserFsBackendBuilder::default().set_thread_pool_size(0).build(fs)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon =
        VhostUserDaemon::new("floor".to_owned(), Arc::new(backend), memory).map_err(|error| error.to_string())?;
    daemon.start(&mut Listener::from(listener)).map_err(|error| error.to_string())?;
    // How the VMM goes, in good order or killed, is its own affair.
    let _ = daemon.wait();
    Ok(())
}
