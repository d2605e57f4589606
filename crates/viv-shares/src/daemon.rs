//! The daemon's life: hide, confine, serve one VMM, end.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::thread::set_name;
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::{VhostUserFsBackend, VhostUserFsBackendBuilder};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::guard::{Guard, ReservedNames};
use crate::helper::Helper;
use crate::limits::OpenFiles;
use crate::namespace::Owner;
use crate::share_fs::ShareFs;
use crate::spec::FileDaemonSpec;
use crate::{confine, limits, namespace, ready, spec, tree};

/// How long the guest may believe what it was told of a file's attributes and of what is at a path. Changes made on
/// the host are seen at the latest after this; contents are looked at anew whenever a file is opened. See `coherence`
/// for shares where it is nothing.
const TIMEOUT: Duration = Duration::from_secs(1);

type Daemon = VhostUserDaemon<Arc<VhostUserFsBackend<ShareFs>>>;

/// What the threads tell the one that waits for them.
enum Event {
    /// The shares are mounted, or can't be.
    Mounted(Result<()>),
    /// The connection with the VMM has ended.
    Ended(Result<()>),
}

/// Serves the one VMM that connects to `listener`, at first from an empty directory and then with the shares that
/// `input` says, and returns when the VMM disconnects.
///
/// Meant for a process that does nothing else and has one thread: it moves this process for good into namespaces of
/// its own, in which nothing but the shares exists, and drops every right that serving them does not need. It dies
/// with its parent: the *thread* that started this process must live as long as the shares are wanted. When this
/// returns, the process must end; threads of it may still run.
///
/// `input` gives two lines: [`FileDaemonSpec::line`], without which nothing begins, and then
/// [`shares_line`](crate::shares_line), which may come any time later. What follows is not read. If both are known,
/// a file in memory will do. To give the shares later, use a connected pair of stream sockets and write without
/// blocking: a helper process reads as soon as there is something, but a long line takes several writes.
///
/// `listener` is a listening Unix stream socket. One line is written to `ready` when the shares can be used or it is
/// known that they cannot, for [`parse_ready`](crate::parse_ready); then it is closed. Before that a guest that
/// mounts the device finds an empty, read-only directory, and has to mount it again to see the shares.
///
/// # Errors
///
/// Until the process is ready, all kinds; the error is also what `ready` says. Afterwards
/// [`ErrorKind::Serve`] only.
pub fn serve(input: OwnedFd, listener: OwnedFd, ready: OwnedFd) -> Result<()> {
    let prepared = prepare(File::from(input), &[listener.as_fd(), ready.as_fd()]);
    let mut ready = Some(File::from(ready));
    let (daemon, helper, reserved) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return tell(&mut ready, Err(error)),
    };
    let (events, happened) = channel();
    let started = start("viv-vmm", &events, || Event::Ended(connection(daemon, listener)))
        .and_then(|()| start("viv-helper", &events, move || Event::Mounted(helper.wait(&reserved))));
    drop(events);
    if let Err(error) = started {
        return tell(&mut ready, Err(error));
    }
    loop {
        match happened.recv() {
            Ok(Event::Mounted(result)) => tell(&mut ready, result)?,
            Ok(Event::Ended(Err(error))) => return tell(&mut ready, Err(error)),
            Ok(Event::Ended(Ok(()))) => return Ok(()),
            Err(_) => return Err(Error::new(ErrorKind::Serve, "the file daemon has lost its threads")),
        }
    }
}

/// Everything up to the first request of the VMM. The helper gets none of the descriptors in `own`.
fn prepare(mut input: File, own: &[BorrowedFd<'_>]) -> Result<(Daemon, Helper, ReservedNames)> {
    let owner = Owner::current();
    owner.bind()?;
    // For those who look at the list of processes; it makes no difference to anything else.
    let _ = set_name(c"viv-files");
    let spec = spec::read_spec(&mut input)?;
    // Before the namespaces: only root of the first one may raise the hard limit.
    let open_files = limits::divide(limits::raise(), spec.thread_pool)?;
    confine::limit_side_effects()?;
    let mut helper = Helper::start(input, own)?;
    namespace::enter(|| helper.map())?;
    owner.bind()?;
    let descriptors = tree::hide()?;
    helper.mount()?;
    confine::drop_capabilities()?;
    owner.bind()?;
    // Before any thread is started: threads inherit the filter.
    confine::filter_system_calls()?;
    let reserved = ReservedNames::default();
    let daemon = daemon(&spec, descriptors, open_files, reserved.clone())
        .map_err(|message| Error::new(ErrorKind::Serve, "cannot start the file daemon").source(message))?;
    Ok((daemon, helper, reserved))
}

/// Says how the start went, if it has not been said yet.
fn tell(ready: &mut Option<File>, result: Result<()>) -> Result<()> {
    let Some(mut ready) = ready.take() else { return result };
    let told = ready.write_all(ready::told(&result).as_bytes());
    // If nobody listens any more, nobody needs to know of an error.
    result?;
    told.context(ErrorKind::Orphaned, || "the owner of the file daemon is gone".to_owned())
}

/// Starts a thread that tells what it has done in the end.
fn start(name: &str, events: &Sender<Event>, run: impl FnOnce() -> Event + Send + 'static) -> Result<()> {
    let events = events.clone();
    thread::Builder::new()
        .name(name.to_owned())
        // If nobody waits any more, the process is about to end.
        .spawn(move || drop(events.send(run())))
        .map(drop)
        .context(ErrorKind::Serve, || "cannot start a thread of the file daemon".to_owned())
}

/// Serves the first VMM that connects, until it disconnects.
fn connection(mut daemon: Daemon, listener: OwnedFd) -> Result<()> {
    // The library's error is no `std::error::Error`.
    let failed =
        |error: DaemonError| Error::new(ErrorKind::Serve, "the file daemon lost the VMM").source(error.to_string());
    let mut listener = Listener::from(UnixListener::from(listener));
    daemon.start(&mut listener).map_err(failed)?;
    // The second VMM to connect would wait for ever.
    drop(listener);
    match daemon.wait() {
        Ok(()) | Err(DaemonError::HandleRequest(VhostUserError::Disconnected | VhostUserError::PartialMessage)) => {
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

fn daemon(
    spec: &FileDaemonSpec,
    descriptors: File,
    open_files: OpenFiles,
    reserved: ReservedNames,
) -> std::result::Result<Daemon, Box<dyn std::error::Error + Send + Sync>> {
    let passthrough = PassthroughFs::new(config(spec, descriptors, open_files.guest))?;
    let fs = ShareFs::new(passthrough, open_files.nodes, Guard::new(reserved));
    let backend = VhostUserFsBackendBuilder::default().set_thread_pool_size(spec.thread_pool).build(fs)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    Ok(VhostUserDaemon::new("viv-shares".to_owned(), Arc::new(backend), memory).map_err(|error| error.to_string())?)
}

/// How virtiofsd is set up; what is not named is off.
fn config(spec: &FileDaemonSpec, descriptors: File, guest_fd_limit: u64) -> Config {
    // All ids but the last, which stands for none.
    const ALL: u32 = u32::MAX;
    let squash = |seen_by_guest| {
        Some(vec![
            // Root of the daemon's user namespace: the host user.
            IdMap::SquashGuest { from_guest: 0, to_host: 0, count: ALL },
            IdMap::SquashHost { from_host: 0, to_guest: seen_by_guest, count: ALL },
        ])
    };
    Config {
        root_dir: tree::SHARES.to_owned(),
        proc_sfd_rawfd: Some(descriptors),
        // Opening by handle is a privilege over the whole host.
        inode_file_handles: InodeFileHandlesMode::Never,
        guest_fd_limit,
        uid_map: squash(spec.guest_uid),
        gid_map: squash(spec.guest_gid),
        // Each share is a file system of its own to the guest: without this, files of two shares could be mistaken
        // for each other, by their inode numbers.
        announce_submounts: true,
        // Close-to-open, like NFS: data is cached, and dropped if the file is found changed when it is opened
        // (`ShareFs::open`) or when its attributes are looked at again. mmap works.
        cache_policy: CachePolicy::Auto,
        entry_timeout: TIMEOUT,
        attr_timeout: TIMEOUT,
        readdirplus: true,
        // The guest would write back later what the host has changed since.
        writeback: false,
        // The next four: see the rules of `share_fs`. Without `FSETID` the host's kernel does on every write what
        // killpriv_v2 asks the daemon to do on some.
        xattr: false,
        killpriv_v2: false,
        ..Config::default()
    }
}
