//! Spares: machines restored ahead of time, for bursts.
//!
//! ```text
//!  a run with `spares = N`                    a spare: a monitor without a client
//!  ───────────────────────                    ────────────────────────────────────
//!  after its start: too few? ───starts──────► restores the template's machine over no shares,
//!                                             runs a program in it to warm it up, makes it stand still
//!  the next run ──── spare.sock, once ──────► lets it go on, `configure`, and is its monitor
//!                                             ends: memory is short, its template is gone or replaced
//! ```
//!
//! A spare is nobody's: it was told no name, no share and no secret. It lives in a directory of its
//! own below the runtime directory, holds the lock there, and is handed out by being connected to:
//! the first one who is has it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use viv_link::Link;
use viv_proto::message::User;
use viv_shares::FileDaemonSpec;
use viv_vmm::LinkCarrier;

use crate::error::{adopt, io};
use crate::memory::bytes_of;
use crate::monitor::attempt::Attempt;
use crate::monitor::children::{MachineState, Machinery};
use crate::monitor::egress::HostPorts;
use crate::monitor::life::{self, Spare};
use crate::plan::StartPlan;
use crate::process::start_detached;
use crate::registry::{open_directory, short_path};
use crate::spec::random_bytes;
use crate::sys::keep_descriptors_to_ourselves;
use crate::template::{Opened, Store, TemplatePlan, run_to_the_end};
use crate::{Error, ErrorKind, FilesAtEnd, Paths, Plan, Result};

/// Below the runtime directory; hidden from those who list sandboxes.
const DIRECTORY: &str = ".spares";

const LOCK: &str = "lock";

/// Where one is handed out.
const SOCKET: &str = "spare.sock";

/// How often a spare looks whether it is still wanted.
const GLANCE: Duration = Duration::from_secs(2);

/// How long a machine may take to come up that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is run in it, twice, so that emulation has translated what every start executes.
const WARM_UP: [&str; 3] = ["sh", "-c", "exec true"];

/// Memory is short if less of it than one part in this many is available,
const LEAST_AVAILABLE: u64 = 10;

/// or if, in the last ten seconds, someone waited for memory more than this part of the time (percent).
const MOST_WAITING: f64 = 5.0;

#[derive(Debug, Serialize, Deserialize)]
struct SpareRequest {
    template: TemplatePlan,
    file_daemon: FileDaemonSpec,
    memory_mib: u64,
    user: User,
    paths: Paths,
}

/// Starts as many spares as a plan's sandbox wants to be there and are not. They outlive this process.
/// Nothing is started while memory is short.
///
/// # Errors
/// If a process cannot be started.
pub fn keep_spares(plan: &Plan, paths: &Paths, executable: &Path) -> Result<()> {
    let StartPlan::Template(template) = &plan.start else { return Ok(()) };
    let there = sweep(&paths.runtime.join(DIRECTORY).join(&template.key));
    if memory_is_short() {
        return Ok(());
    }
    let request = SpareRequest {
        template: (**template).clone(),
        file_daemon: plan.file_daemon.clone(),
        memory_mib: plan.spec.memory_mib,
        user: plan.spec.user.clone(),
        paths: paths.clone(),
    };
    (there..plan.spec.spares as usize)
        .try_for_each(|_| start_detached(executable, "internal-spare", &request))
        .map_err(io("a spare could not be started"))
}

/// How many spares there are of a template.
#[must_use]
pub fn count_spares(paths: &Paths, key: &str) -> usize {
    sweep(&paths.runtime.join(DIRECTORY).join(key))
}

/// Removes what dead spares left, and counts the others.
fn sweep(directory: &Path) -> usize {
    let mut alive = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match File::options().write(true).open(path.join(LOCK)) {
            Ok(lock) if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() => {
                // What stays is tried again by the next look.
                let _ = fs::remove_dir_all(&path);
            }
            // Handed out: a sandbox's now.
            _ if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
            // Without a lock it is being made, or removed.
            Ok(_) | Err(_) => alive += 1,
        }
    }
    alive
}

/// A spare that fits a plan, which is now the caller's: the socket its monitor is spoken to over.
pub(crate) fn take(paths: &Paths, plan: &Plan) -> Option<std::os::unix::net::UnixStream> {
    let StartPlan::Template(template) = &plan.start else { return None };
    let directory = paths.runtime.join(DIRECTORY).join(&template.key);
    fs::read_dir(directory).into_iter().flatten().flatten().find_map(|entry| {
        let directory = open_directory(&entry.path()).ok()?;
        // Refused if another one was quicker, or if it is not ready yet.
        std::os::unix::net::UnixStream::connect(short_path(&directory, SOCKET)).ok()
    })
}

/// The spare's directory, removed when dropped.
struct Place {
    path: PathBuf,
    directory: std::os::fd::OwnedFd,
    _lock: File,
}

impl Place {
    fn make(paths: &Paths, key: &str) -> Result<Self> {
        paths.create()?;
        let path = paths.runtime.join(DIRECTORY).join(key).join(hex::encode(random_bytes::<4>()));
        let failed = || io(format!("{} could not be made", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed())?;
        let lock = File::options().create_new(true).write(true).open(path.join(LOCK)).map_err(failed())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed()(error.into()))?;
        let directory = open_directory(&path).map_err(failed())?;
        Ok(Self { path, directory, _lock: lock })
    }
}

impl Place {
    /// It counts as a spare no more.
    fn leave_the_others(&mut self) {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hidden = self.path.with_file_name(format!(".{name}"));
        // If that fails, its successor comes one start later.
        if fs::rename(&self.path, &hidden).is_ok() {
            self.path = hidden;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is removed by the next look.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The spare's entry point: `viv internal-spare`, its request as standard input. `files_at_end` is asked once the
/// machine of a sandbox that it became is gone.
#[must_use]
pub fn spare_main(files_at_end: FilesAtEnd) -> ExitCode {
    let Ok(request) = serde_json::from_reader::<_, SpareRequest>(std::io::stdin().lock()) else {
        return ExitCode::from(125);
    };
    keep_descriptors_to_ourselves(3);
    // Whoever started it may close its terminal.
    let _ = rustix::process::setsid();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::from(125);
    };
    // Nobody is there to be told why it ends: the next start does without it.
    runtime.block_on(async { be(&request, files_at_end).await.unwrap_or(ExitCode::from(125)) })
}

async fn be(request: &SpareRequest, files_at_end: FilesAtEnd) -> Result<ExitCode> {
    let mut place = Place::make(&request.paths, &request.template.key)?;
    let store = Store::new(&request.paths);
    let opened = store.open(&request.template).map_err(|miss| Error::new(ErrorKind::NotFound, miss.reason))?;
    let id = opened.id.clone();
    let (publish, current) = watch::channel(None);
    let ports = HostPorts::default();
    let mut attempt = restore(request, opened, &place, publish.clone(), ports.clone())?;
    let up = attempt.restoration();
    let warm = async {
        up.await?;
        warm_up(current, &request.user).await
    };
    tokio::select! {
        warm = tokio::time::timeout(PATIENCE, warm) => match warm {
            Ok(warm) => warm?,
            Err(_) => return Err(Error::new(ErrorKind::BootTimeout, "the guest did not come up")),
        },
        trouble = attempt.children.trouble(false) => return Err(trouble),
    }
    attempt.children.machine.pause().await.map_err(adopt)?;

    let listener = UnixListener::bind(short_path(&place.directory, SOCKET)).map_err(io("the spare cannot listen"))?;
    let client = loop {
        tokio::select! {
            accepted = listener.accept() => break accepted.map_err(io("the spare cannot be reached"))?.0,
            trouble = attempt.children.trouble(false) => return Err(trouble),
            () = tokio::time::sleep(GLANCE) => {
                if memory_is_short() || store.id_of(&request.template.key).as_deref() != Some(&id) {
                    attempt.end().await;
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    };
    // Whoever else is waiting sees the connection closed.
    drop(listener);
    let _ = fs::remove_file(place.path.join(SOCKET));
    place.leave_the_others();
    Ok(hand_out(client, request, files_at_end, Spare { attempt, publish, ports }).await)
}

fn restore(
    request: &SpareRequest,
    opened: Opened,
    place: &Place,
    publish: watch::Sender<Option<Link>>,
    ports: HostPorts,
) -> Result<Attempt> {
    let Opened { id, token, memory, devices, scratch } = opened;
    let machinery = Machinery {
        vmm: &request.template.restore,
        file_daemon: &request.file_daemon,
        shares: None,
        link: LinkCarrier::VirtioSerial,
        key: &random_bytes(),
        scratch: viv_image::clone_disk(&scratch, &request.paths.state).map_err(adopt)?,
        memory_mib: request.memory_mib,
        network: None,
        state: MachineState::Saved { memory, devices },
        sockets: &|name| short_path(&place.directory, name),
    };
    Attempt::launch(machinery, Some(id), token, publish, ports)
}

async fn warm_up(mut current: watch::Receiver<Option<Link>>, user: &User) -> Result<()> {
    let link = current.wait_for(Option::is_some).await.ok().and_then(|link| link.clone());
    let link = link.ok_or_else(|| Error::new(ErrorKind::Monitor, "the link's keeper ended"))?;
    for _ in 0..2 {
        run_to_the_end(&link, &WARM_UP, user).await?;
    }
    Ok(())
}

/// Becomes the monitor of the sandbox that the client asks for.
async fn hand_out(client: UnixStream, request: &SpareRequest, files_at_end: FilesAtEnd, mut spare: Spare) -> ExitCode {
    life::run(client, files_at_end, async |first| {
        let fits = first.plan.start.key() == request.template.key && first.plan.file_daemon == request.file_daemon;
        let told = fits
            && spare.attempt.children.machine.resume().await.is_ok()
            && spare.attempt.children.tell_shares(&first.plan.shares).is_ok();
        if told {
            return Some(spare);
        }
        spare.attempt.end().await;
        None
    })
    .await
}

/// Whether others need the memory more.
fn memory_is_short() -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    is_short(&read("/proc/meminfo"), &read("/proc/pressure/memory"))
}

/// `information` as proc_meminfo(5) has it, `pressure` as the kernel's accounting/psi.rst. What is not
/// there says nothing.
fn is_short(information: &str, pressure: &str) -> bool {
    let waiting = pressure
        .lines()
        .find_map(|line| line.strip_prefix("some avg10="))
        .and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    let scarce = match (bytes_of(information, "MemAvailable:"), bytes_of(information, "MemTotal:")) {
        (Some(available), Some(total)) => available < total / LEAST_AVAILABLE,
        _ => false,
    };
    scarce || waiting.is_some_and(|waiting| waiting > MOST_WAITING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_when_little_is_left_or_others_wait_for_it() {
        let information = |available: u64| format!("MemTotal:       1000 kB\nMemAvailable:   {available} kB\n");
        let calm = "some avg10=0.12 avg60=0.00 avg300=0.00 total=9\nfull avg10=99.00 avg60=0 avg300=0 total=1\n";
        assert!(!is_short(&information(100), calm));
        assert!(is_short(&information(99), calm));
        assert!(is_short(&information(900), "some avg10=5.01 avg60=0.00 avg300=0.00 total=9\n"));
        assert!(!is_short("", ""), "a kernel that does not say");
    }

    #[test]
    fn the_dead_are_swept_and_the_living_counted() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["dead", "alive", ".handed-out"] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join(LOCK), "").unwrap();
        }
        let locks = ["alive", ".handed-out"].map(|name| {
            let lock = File::options().write(true).open(directory.path().join(name).join(LOCK)).unwrap();
            flock(&lock, FlockOperation::LockExclusive).unwrap();
            lock
        });
        assert_eq!(sweep(directory.path()), 1);
        assert!(!directory.path().join("dead").exists() && directory.path().join(".handed-out").exists());
        drop(locks);
        assert_eq!(sweep(directory.path()), 0);
        assert_eq!(sweep(&directory.path().join("nothing")), 0);
    }
}
