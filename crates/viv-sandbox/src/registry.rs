//! Run directories: one per sandbox, locked by its monitor, seen by everyone else.
//!
//! ```text
//! runtime/            0700
//!   .lock             held while a directory is made or found dead
//!   0123abcd/         0700
//!     lock            held by the monitor as long as it lives
//!     record.json     what `viv ps` shows
//!     sandbox.sock    CONNECT <port>, STOP, KILL, WAIT, PAUSE, RESUME, RELINK, PUBLISH, SESSIONS
//! ```
//!
//! A directory whose lock is free has no monitor: its processes are killed (they should have died
//! with it) and it is removed. Every look at the sandboxes does this first.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind as IoErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};
use viv_vmm::Accel;

use crate::error::io;
use crate::process::ProcessName;
use crate::{Error, ErrorKind, Paths, Publish, Result, SandboxSpec, WorkspaceMode};

const LOCK: &str = "lock";
const RECORD: &str = "record.json";

/// The socket others reach the sandbox by.
pub(crate) const SOCKET: &str = "sandbox.sock";

/// What a sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The machine boots.
    Starting,
    /// Programs can be run.
    Running,
    /// The machine stands still.
    Paused,
    /// Shares are flushed, then everything ends.
    Stopping,
}

/// What others see of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// The user's name for it.
    pub name: Option<String>,
    /// The user's marks.
    pub labels: BTreeMap<String, String>,
    /// What it was started for.
    pub command: Vec<String>,
    /// What it is doing.
    pub state: State,
    /// The directory it works in.
    pub workspace: PathBuf,
    /// Whether on that itself.
    #[serde(default, skip_serializing_if = "WorkspaceMode::is_live")]
    pub workspace_mode: WorkspaceMode,
    /// Files and directories of the host, besides its workspace, that it may write to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable: Vec<PathBuf>,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// How its processor is run.
    pub accel: Accel,
    /// When it was started, milliseconds since the Unix epoch.
    pub started_at_unix_ms: u64,
    /// How it reaches others: `none`, `filtered`, `nat` or `bridge`.
    #[serde(default)]
    pub network: String,
    /// Ports of its loopback interface that the host shows.
    #[serde(default)]
    pub published: Vec<Publish>,
    /// Whether it goes on without whoever started it.
    #[serde(default)]
    pub detached: bool,
    /// The boot of the host it belongs to.
    #[serde(default)]
    pub(crate) boot_id: String,
    /// The process that owns it.
    pub monitor_pid: u32,
    /// The VMM, once started.
    pub vmm_pid: Option<u32>,
    /// Every process of it, so that a later look can tell them from strangers.
    pub(crate) processes: Vec<ProcessName>,
    /// The file daemon, once started.
    pub file_daemon_pid: Option<u32>,
}

impl Record {
    pub(crate) fn new(spec: &SandboxSpec, accel: Accel) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let monitor_pid = std::process::id();
        Self {
            id: spec.id.clone(),
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            command: spec.command.clone(),
            state: State::Starting,
            workspace: spec.workspace.clone(),
            workspace_mode: spec.workspace_mode,
            writable: spec.mounts.iter().filter(|mount| !mount.read_only).map(|mount| mount.source.clone()).collect(),
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            accel,
            started_at_unix_ms: now.as_millis() as u64,
            network: spec.network.mode.name().to_owned(),
            published: Vec::new(),
            detached: false,
            // Without it, what it left is not killed, which it then does by itself.
            boot_id: crate::named::boot_id().unwrap_or_default(),
            monitor_pid,
            vmm_pid: None,
            processes: ProcessName::of(monitor_pid).into_iter().collect(),
            file_daemon_pid: None,
        }
    }

    /// As [`SandboxSpec::called`].
    #[must_use]
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// These are its processes now, besides the monitor.
    pub(crate) fn restarted(&mut self, vmm_pid: u32, file_daemon_pid: Option<u32>) {
        self.vmm_pid = Some(vmm_pid);
        self.file_daemon_pid = file_daemon_pid;
        self.processes.truncate(1);
        self.processes.extend([Some(vmm_pid), file_daemon_pid].into_iter().flatten().filter_map(ProcessName::of));
    }
}

/// A run directory as its monitor holds it. Removed when dropped.
pub(crate) struct RunDirectory {
    path: PathBuf,
    directory: OwnedFd,
    _lock: File,
}

impl RunDirectory {
    /// Makes and locks it.
    pub(crate) fn create(paths: &Paths, record: &Record) -> Result<Self> {
        paths.create()?;
        let _all = lock_all(paths)?;
        if let Some(name) = &record.name
            && live(paths)?.iter().any(|other| other.name.as_ref() == Some(name))
        {
            return Err(Error::new(ErrorKind::Ambiguous, format!("a sandbox named {name} is running"))
                .hint(format!("viv stop {name}, or choose another --name")));
        }
        let path = paths.runtime.join(&record.id);
        let failed = || io(format!("the run directory {} could not be made", path.display()));
        DirBuilder::new().mode(0o700).create(&path).map_err(failed())?;
        let lock = private_file(&path.join(LOCK)).map_err(failed())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed()(error.into()))?;
        let directory = open_directory(&path).map_err(failed())?;
        let run = Self { path, directory, _lock: lock };
        run.write(record)?;
        Ok(run)
    }

    /// Replaces the record, whole.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let failed = || io(format!("the record in {} could not be written", self.path.display()));
        let text = serde_json::to_vec_pretty(record).map_err(|error| failed()(error.into()))?;
        let partial = self.path.join(".record.partial");
        let mut file = private_file(&partial).map_err(failed())?;
        file.set_len(0).and_then(|()| file.write_all(&text)).map_err(failed())?;
        std::fs::rename(&partial, self.path.join(RECORD)).map_err(failed())
    }

    /// A path to one of its sockets that fits `sockaddr_un`, however long its own path is.
    pub(crate) fn socket_path(&self, name: &str) -> PathBuf {
        short_path(&self.directory, name)
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // Left over, it would be removed by the next look.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Opens a directory to name what is in it.
pub(crate) fn open_directory(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// `sockaddr_un` holds 107 bytes of path (unix(7)); the descriptor's path is always shorter.
pub(crate) fn short_path(directory: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn private_file(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn lock_all(paths: &Paths) -> Result<File> {
    let failed = || io(format!("{} could not be locked", paths.runtime.display()));
    let file = private_file(&paths.runtime.join(".lock")).map_err(failed())?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| failed()(error.into()))?;
    Ok(file)
}

/// The running sandboxes, oldest first, after removing what crashed ones left.
///
/// # Errors
/// If the runtime directory cannot be read.
pub fn list(paths: &Paths) -> Result<Vec<Record>> {
    if !paths.runtime.exists() {
        return Ok(Vec::new());
    }
    let _all = lock_all(paths)?;
    live(paths)
}

fn live(paths: &Paths) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let failed = || io(format!("{} could not be read", paths.runtime.display()));
    for entry in std::fs::read_dir(&paths.runtime).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || !path.is_dir() {
            continue;
        }
        let record = std::fs::read(path.join(RECORD)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if has_monitor(&path) {
            records.extend(record);
        } else {
            bury(&path, record);
        }
    }
    records.sort_by_key(|record: &Record| record.started_at_unix_ms);
    Ok(records)
}

fn has_monitor(directory: &Path) -> bool {
    match File::options().write(true).open(directory.join(LOCK)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err(),
        // Directories are made under the lock that is held here, so one without a lock file is a
        // leftover; anything else that keeps it from being opened is no proof of death.
        Err(error) => error.kind() != IoErrorKind::NotFound,
    }
}

fn bury(directory: &Path, record: Option<Record>) {
    // After a restart of the host, a process of the same number may have started at the same tick.
    let ours =
        |record: &Record| record.boot_id.is_empty() || crate::named::boot_id().is_ok_and(|id| id == record.boot_id);
    for process in record.into_iter().filter(ours).flat_map(|record| record.processes) {
        process.kill();
    }
    // What cannot be removed now is tried again by the next look.
    let _ = std::fs::remove_dir_all(directory);
}

/// The running sandbox with this name, id, or unique beginning of either.
///
/// # Errors
/// [`ErrorKind::NotFound`] or [`ErrorKind::Ambiguous`].
pub fn find(paths: &Paths, wanted: &str) -> Result<Record> {
    let records = list(paths)?;
    if let Some(exact) = records.iter().find(|record| record.id == wanted || record.name.as_deref() == Some(wanted)) {
        return Ok(exact.clone());
    }
    let begins = |record: &Record| {
        record.id.starts_with(wanted) || record.name.as_ref().is_some_and(|name| name.starts_with(wanted))
    };
    let mut matching = records.into_iter().filter(|record| !wanted.is_empty() && begins(record));
    match (matching.next(), matching.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            Err(Error::new(ErrorKind::NotFound, format!("no running sandbox is called {wanted:?}")).hint("viv ps"))
        }
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::Ambiguous, format!("more than one sandbox's name or id begins with {wanted:?}"))
                .hint("viv ps shows them whole"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VmmChoice;

    fn paths(root: &Path) -> Paths {
        let below = |name: &str| root.join(name);
        Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") }
    }

    fn record(id: &str, name: Option<&str>) -> Record {
        let spec = SandboxSpec {
            id: id.into(),
            name: name.map(str::to_owned),
            labels: BTreeMap::new(),
            command: vec![],
            cpus: 1,
            memory_mib: 512,
            disk_bytes: 1,
            vmm: VmmChoice::Qemu,
            accel: viv_vmm::AccelChoice::Auto,
            kernel: None,
            image: None,
            packages: vec![],
            nix: None,
            environment: BTreeMap::new(),
            files: vec![],
            workspace: "/w".into(),
            mounts: vec![],
            user: viv_proto::message::User { name: "agent".into(), uid: 1, gid: 1, home: "/home/agent".into() },
            timezone: None,
            template: crate::TemplateUse::Auto,
            spares: 0,
            hostname: "h".into(),
            network: crate::NetworkSpec::default(),
            workspace_mode: crate::WorkspaceMode::Live,
            copied: crate::CopySelection::default(),
            protect: Vec::new(),
            git_guard: true,
            persistent_disk: None,
            recording: viv_audit::Recording::default(),
            transcripts: Vec::new(),
            boot_deadline_seconds: 1,
        };
        Record::new(&spec, Accel::Tcg)
    }

    #[test]
    fn a_directory_lives_as_long_as_its_lock_is_held() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        assert!(list(&paths).unwrap().is_empty());
        let first = RunDirectory::create(&paths, &record("aa000001", Some("web"))).unwrap();
        let second = RunDirectory::create(&paths, &record("aa000002", None)).unwrap();
        assert_eq!(list(&paths).unwrap().len(), 2);
        assert_eq!(find(&paths, "web").unwrap().id, "aa000001");
        assert_eq!(find(&paths, "we").unwrap().id, "aa000001");
        assert_eq!(find(&paths, "aa000002").unwrap().id, "aa000002");
        assert_eq!(*find(&paths, "aa").unwrap_err().kind(), ErrorKind::Ambiguous);
        assert_eq!(*find(&paths, "b").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(*find(&paths, "").unwrap_err().kind(), ErrorKind::NotFound);
        let taken = RunDirectory::create(&paths, &record("aa000003", Some("web"))).map(|_| ()).unwrap_err();
        assert_eq!(*taken.kind(), ErrorKind::Ambiguous);
        drop(first);
        assert_eq!(list(&paths).unwrap().len(), 1);
        drop(second);
    }

    #[test]
    fn what_a_killed_monitor_left_is_buried() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut orphaned = record("bb000001", None);
        orphaned.processes = ProcessName::of(child.id()).into_iter().collect();
        let run = RunDirectory::create(&paths, &orphaned).unwrap();
        let path = run.path.clone();
        // As kill -9 does: the lock goes, the directory stays.
        let RunDirectory { directory, _lock, .. } = &run;
        flock(_lock, FlockOperation::Unlock).unwrap();
        let _ = directory;
        std::mem::forget(run);
        std::fs::create_dir(paths.runtime.join("cc000001")).unwrap();
        assert!(list(&paths).unwrap().is_empty());
        assert!(!path.exists() && !paths.runtime.join("cc000001").exists());
        child.wait().unwrap();
    }
}
