//! Sandboxes with a name: they are known before they have a machine and after it has ended.
//!
//! ```text
//! $XDG_STATE_HOME/viv/sandboxes/     0700
//!   .lock                            held while a record is read and changed: never for long
//!   web/                             0700, one per sandbox
//!     record.json                    what it is, and what was last known of it
//!     lock                           held while its machine is made or its disk is worked on
//!     ended.json                     how its last machine ended, by that machine's monitor
//!     disk                           if it is to be kept (see [`disk_path`])
//! ```
//!
//! [`State`] and what changes it are drawn in `state.rs`; nothing else decides. A record is only what was
//! last known: each call first looks at the machines there are ([`crate::list`]) and makes the record agree,
//! so that a restarted host, a killed monitor or a killed `viv` is what the next call says it was.
//!
//! A sandbox that starts belongs to whoever starts it, up to [`Fresh::settle`]: if that process ends before,
//! so does the machine, and nothing half made ready is left running.

mod disk;
mod host;
mod life;
mod place;
mod state;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use disk::open_kept;
pub use disk::{DiskUse, discard_disk, disk_of, disk_path, resize_disk, trim_disk};
pub(crate) use host::boot_id;
pub(crate) use place::Place;
pub use state::{Answer, EndReason, Request, State, request};

use crate::client::{Event, Sandbox, StartRequest};
use crate::{Paths, Record, Result};
use host::Host;
use life::{Claim, Life};
use store::{Busy, Store};

/// A named sandbox as it was found.
#[derive(Debug, Clone, Serialize)]
pub struct Named {
    /// Its name, unique among the named ones: 1 to 63 of `a-z A-Z 0-9 . _ -`, the first a letter or digit.
    pub name: String,
    /// The directory it works in.
    pub workspace: PathBuf,
    /// The file that says what it is; it may be missing, which is the default definition.
    pub definition_file: PathBuf,
    /// What it is doing.
    pub state: State,
    /// The id of its machine, if it has one.
    pub id: Option<String>,
    /// Its machine as everyone sees it; none while it is being made.
    pub record: Option<Record>,
    /// When it was first defined, milliseconds since the Unix epoch.
    pub created_at_unix_ms: u64,
    /// When it was last started, milliseconds since the Unix epoch.
    pub started_at_unix_ms: Option<u64>,
    /// How its last machine ended; none while it has one.
    pub ended: Option<Ending>,
    /// Whether its disk is kept between starts.
    pub persist: bool,
    /// Whether it is to be started with the host.
    pub autostart: bool,
    /// Whether the commands that are run once on a new disk have been run on the one it has.
    pub on_create_done: bool,
    /// The user's marks.
    pub labels: BTreeMap<String, String>,
}

/// How a named sandbox's machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When that was seen, milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// In which way.
    pub reason: EndReason,
    /// What there is to say about it.
    pub message: Option<String>,
}

/// What a named sandbox is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNamed {
    /// As [`Named::name`].
    pub name: String,
    /// As [`Named::workspace`].
    pub workspace: PathBuf,
    /// As [`Named::definition_file`].
    pub definition_file: PathBuf,
    /// As [`Named::persist`].
    pub persist: bool,
    /// As [`Named::autostart`].
    pub autostart: bool,
    /// As [`Named::labels`].
    pub labels: BTreeMap<String, String>,
}

/// What a start came to.
#[derive(Debug)]
pub enum Started {
    /// It has a machine now, which is to be made ready and settled.
    Fresh(Box<Fresh>),
    /// It was running already, perhaps because someone else started it meanwhile.
    Already(Box<Named>),
}

/// A machine that was just started. It ends when this is dropped, or when this process ends.
#[derive(Debug)]
pub struct Fresh {
    /// The machine: secrets are handed over and programs run through it.
    pub sandbox: Sandbox,
    /// Whether the disk is new, so that what is run once on one is to be run.
    pub is_new: bool,
    name: String,
    paths: Paths,
    busy: Busy,
}

impl Fresh {
    /// The sandbox is ready: its machine no longer needs this process, and others may use it.
    /// `on_create_done` says that what is run once on a new disk has been run.
    ///
    /// # Errors
    /// If the machine has ended meanwhile, or the record cannot be written; the machine then ends.
    pub async fn settle(self, on_create_done: bool) -> Result<Named> {
        let Self { sandbox, name, paths, busy, .. } = self;
        let id = sandbox.id().to_owned();
        life(&paths).settle(&name, &id, on_create_done, busy, async || sandbox.detach().await).await
    }
}

/// The longest name, in bytes: as long as a label of a host name (RFC 1035) may be.
pub const LONGEST_NAME_BYTES: usize = 63;

/// Whether this can be a sandbox's name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME_BYTES).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// All named sandboxes, by name.
///
/// # Errors
/// If the state or runtime directory cannot be used.
pub fn list(paths: &Paths) -> Result<Vec<Named>> {
    life(paths).list()
}

/// The one with this name, id of its machine, or unique beginning of either.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Ambiguous`], and as [`list`].
pub fn find(paths: &Paths, wanted: &str) -> Result<Named> {
    life(paths).find(wanted)
}

/// The one with exactly this name.
pub(crate) fn find_exactly(paths: &Paths, name: &str) -> Result<Named> {
    life(paths).named(name)
}

/// Whether anything is kept of a sandbox with exactly this name, without a look at its machine.
pub(crate) fn is_there(paths: &Paths, name: &str) -> bool {
    is_name(name) && directory_of(paths, name).is_dir()
}

/// Makes sure that there is such a sandbox. One that is there already gets what may be changed: `persist` (from
/// the next start on), `autostart`, labels, and where its definition is.
///
/// # Errors
/// [`crate::ErrorKind::InvalidSpec`] for an impossible name, [`crate::ErrorKind::Ambiguous`] if it is the name of
/// a sandbox of another workspace, and as [`list`].
pub fn create(paths: &Paths, new: &NewNamed) -> Result<Named> {
    life(paths).create(new)
}

/// Gives a sandbox a machine, from a request whose plan has the disk at [`disk_path`] if that is to be kept.
/// If someone else is at it, waits for what comes of that. `request.detached` is set; nothing is left of the
/// machine if the future is dropped, nor if the value it resolves to is.
///
/// # Errors
/// [`crate::ErrorKind::WrongState`] if it is paused, [`crate::ErrorKind::DiskDamaged`] and
/// [`crate::ErrorKind::DiskInUse`] for its disk, and as [`crate::start`].
pub async fn start(paths: &Paths, name: &str, request: StartRequest, on_event: impl FnMut(&Event)) -> Result<Started> {
    let spec = &request.plan.spec;
    let kept = spec.persistent_disk.clone().map(|disk| (disk, spec.disk_bytes));
    let claim = Claim { id: spec.id.clone(), keeps_disk: kept.is_some() };
    let life = life(paths);
    let directory = life.store.directory(name);
    let prepare = || match &kept {
        Some((disk, bytes)) => disk::prepare(disk, *bytes),
        None => Ok(()),
    };
    let begin = async || {
        let request = StartRequest { detached: true, place: Some(directory), ..request };
        crate::start(request, on_event).await
    };
    Ok(match life.start(name, claim, prepare, begin).await? {
        life::Begun::Fresh { machine: sandbox, is_new, busy } => {
            Started::Fresh(Box::new(Fresh { sandbox, is_new, name: name.to_owned(), paths: paths.clone(), busy }))
        }
        life::Begun::Already(named) => Started::Already(named),
    })
}

/// Ends its machine in good order, if it has one, and waits until nothing is left of it.
///
/// # Errors
/// If the monitor does not answer.
pub async fn stop(paths: &Paths, name: &str) -> Result<Named> {
    life(paths).stop(name).await
}

/// Ends its machine at once, if it has one: what its guest had not written is lost.
///
/// # Errors
/// If even the monitor's process cannot be killed.
pub async fn kill(paths: &Paths, name: &str) -> Result<Named> {
    life(paths).kill(name).await
}

/// Makes its machine stand still: it takes no processor time, and keeps its memory.
///
/// # Errors
/// [`crate::ErrorKind::WrongState`] if it has no machine, or if the VMM refuses.
pub async fn pause(paths: &Paths, name: &str) -> Result<Named> {
    life(paths).pause(name).await
}

/// Lets its machine go on, its clock set right.
///
/// # Errors
/// As [`pause`].
pub async fn resume(paths: &Paths, name: &str) -> Result<Named> {
    life(paths).resume(name).await
}

/// Gives it another name.
///
/// # Errors
/// [`crate::ErrorKind::WrongState`] if it has a machine, [`crate::ErrorKind::Ambiguous`] if there is one of that
/// name, [`crate::ErrorKind::InvalidSpec`] if it cannot be one.
pub async fn rename(paths: &Paths, name: &str, to: &str) -> Result<Named> {
    life(paths).rename(name, to).await
}

/// Forgets it, with its disk.
///
/// # Errors
/// [`crate::ErrorKind::WrongState`] if it has a machine.
pub async fn remove(paths: &Paths, name: &str) -> Result<()> {
    life(paths).remove(name).await
}

/// Waits until it has no machine, and nobody makes one: at once if that is so now.
///
/// # Errors
/// If it is removed or renamed meanwhile.
pub async fn wait(paths: &Paths, name: &str) -> Result<Named> {
    life(paths).wait(name).await
}

/// Where a sandbox's record and what else is its own are kept. Other parts of viv may keep files of theirs
/// there, under other names than those above: they go with the sandbox, and move with its name.
#[must_use]
pub fn directory_of(paths: &Paths, name: &str) -> PathBuf {
    Store::new(paths).directory(name)
}

fn life(paths: &Paths) -> Life<Host<'_>> {
    Life { store: Store::new(paths), machines: Host { paths } }
}
