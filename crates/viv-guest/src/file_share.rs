//! Single files shared read-write, kept in step instead of mounted.
//!
//! Programs save a file by writing another one and renaming it over the first. Over a mount point
//! that fails, so the file inside is an ordinary one, and its content travels:
//!
//! - inside → host when the file is closed after writing or replaced by a rename, when a program
//!   that keeps it open has not touched it for a second, and before an exit is reported;
//! - host → inside within two seconds of the last change, unless the file inside has changed too:
//!   then the inside wins;
//! - a file deleted inside stays on the host, and does not come back;
//! - mode and owner stay as they are on either side.
//!
//! The share's file is always written in place, so that it remains the file the host has open.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::time::Timespec;
use tokio::sync::oneshot;
use viv_proto::message::User;

use crate::console;

/// Larger files are not kept in step.
pub const MAX_KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// How often both sides are looked at without being told.
const TICK: Duration = Duration::from_secs(1);

/// How long a flush may take; a share that hangs must not keep an exit from being reported.
const FLUSH_DEADLINE: Duration = Duration::from_secs(10);

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let facts = file.metadata()?;
        Ok(Self {
            inode: facts.ino(),
            size: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }
}

/// One side of a file: what was last brought in step, and what was seen since.
struct Side {
    path: PathBuf,
    in_step: Option<Stamp>,
    last_tick: Option<Stamp>,
}

impl Side {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), in_step: None, last_tick: None }
    }

    /// Opens it if it is an ordinary file; a link, a fifo or nothing at all is `None`.
    fn open(&self) -> Option<(File, Stamp)> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path).ok()?;
        let is_file = file.metadata().ok()?.is_file();
        let stamp = Stamp::of(&file).ok()?;
        is_file.then_some((file, stamp))
    }

    /// Whether there is something new; on a tick only if it has been so for a whole one.
    fn has_news(&mut self, stamp: Stamp, on_tick: bool) -> bool {
        let settled = self.last_tick.replace(stamp) == Some(stamp);
        self.in_step != Some(stamp) && (settled || !on_tick)
    }

    fn settle(&mut self, stamp: Option<Stamp>) {
        self.in_step = stamp;
    }
}

/// A file inside and the share's file it is kept in step with.
pub struct KeptFile {
    inside: Side,
    share: Side,
    /// Said once, not every second.
    complaint: Option<String>,
}

impl KeptFile {
    /// Makes the file inside, the user's, with the share's content and mode, in place of whatever
    /// is there.
    ///
    /// # Errors
    /// If either side cannot be read or written.
    pub fn create(share: &Path, inside: &Path, user: &User) -> io::Result<Self> {
        let mut kept = Self { inside: Side::new(inside), share: Side::new(share), complaint: None };
        let (mut file, stamp) = kept.share.open().ok_or_else(not_a_file)?;
        let content = read(&mut file)?;
        match std::fs::remove_file(inside) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => return Err(reason),
            _ => {}
        }
        let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(inside)?;
        copy.write_all(&content)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        copy.set_permissions(std::fs::Permissions::from_mode(mode))?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(&copy, Some(user.uid), Some(user.gid))?;
        }
        kept.share.settle(Some(stamp));
        kept.inside.settle(Some(Stamp::of(&copy)?));
        Ok(kept)
    }

    /// Brings the sides in step, complaining on the console where that fails.
    fn keep(&mut self, on_tick: bool) {
        if let Err(reason) = self.try_keep(on_tick) {
            let complaint = format!("cannot keep {} in step with its share: {reason}", self.inside.path.display());
            if self.complaint.as_ref() != Some(&complaint) {
                console::say(&complaint);
                self.complaint = Some(complaint);
            }
        }
    }

    fn try_keep(&mut self, on_tick: bool) -> io::Result<()> {
        let Some((mut share, share_stamp)) = self.share.open() else {
            return Err(not_a_file());
        };
        let share_news = self.share.has_news(share_stamp, on_tick);
        let Some((mut inside, inside_stamp)) = self.inside.open() else {
            // Deleted, or something else now.
            return Ok(());
        };
        if self.inside.has_news(inside_stamp, on_tick) {
            let content = read(&mut inside)?;
            if read(&mut share)? != content {
                write_in_place(&self.share.path, &content)?;
            }
            // As it was before it was read: what was written meanwhile is news again.
            self.inside.settle(Some(inside_stamp));
            self.share.settle(self.share.open().map(|(_, stamp)| stamp));
        } else if share_news && self.inside.in_step == Some(inside_stamp) {
            let content = read(&mut share)?;
            if read(&mut inside)? != content {
                write_in_place(&self.inside.path, &content)?;
            }
            self.share.settle(Some(share_stamp));
            self.inside.settle(self.inside.open().map(|(_, stamp)| stamp));
        }
        Ok(())
    }
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not an ordinary file")
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_KEPT_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_KEPT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has grown too large"));
    }
    Ok(content)
}

fn write_in_place(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)
}

/// The thread that keeps files in step, as others see it.
pub struct Keeper {
    shared: Arc<Shared>,
}

struct Shared {
    wake: OwnedFd,
    flushes: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Shared {
    fn flushes(&self) -> MutexGuard<'_, Vec<oneshot::Sender<()>>> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    /// Starts to keep files in step.
    ///
    /// # Errors
    /// If there can be no thread or no watch.
    pub fn start(files: Vec<KeptFile>) -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { wake, flushes: Mutex::default() });
        let worker = Worker::new(files, Arc::clone(&shared))?;
        std::thread::Builder::new().name("file-shares".to_owned()).stack_size(256 * 1024).spawn(|| worker.run())?;
        Ok(Self { shared })
    }

    /// Brings everything in step now, and waits until it is.
    pub async fn flush(&self) {
        let (done, waiting) = oneshot::channel();
        self.shared.flushes().push(done);
        // Only a counter that is full refuses, and then the thread is awake.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        let _ = tokio::time::timeout(FLUSH_DEADLINE, waiting).await;
    }
}

struct Worker {
    files: Vec<KeptFile>,
    shared: Arc<Shared>,
    watcher: OwnedFd,
    /// Watched directories, and the files in each.
    watches: HashMap<i32, Vec<usize>>,
}

impl Worker {
    fn new(files: Vec<KeptFile>, shared: Arc<Shared>) -> io::Result<Self> {
        let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut worker = Self { files, shared, watcher, watches: HashMap::new() };
        worker.watch();
        Ok(worker)
    }

    /// Watches the directories the files are in. One that is not there is looked at on ticks only.
    fn watch(&mut self) {
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        self.watches.clear();
        for (index, file) in self.files.iter().enumerate() {
            if let Some(parent) = file.inside.path.parent()
                && let Ok(watch) = inotify::add_watch(&self.watcher, parent, flags)
            {
                self.watches.entry(watch).or_default().push(index);
            }
        }
    }

    fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            if Arc::strong_count(&self.shared) == 1 {
                // No one can ask for anything any more.
                return;
            }
            let patience = next_tick.saturating_duration_since(Instant::now());
            self.wait(patience);
            let flushes = std::mem::take(&mut *self.shared.flushes());
            if !flushes.is_empty() {
                self.files.iter_mut().for_each(|file| file.keep(false));
                for flush in flushes {
                    // Whoever asked may have given up.
                    let _ = flush.send(());
                }
            }
            for index in self.changed() {
                self.files[index].keep(false);
            }
            if Instant::now() >= next_tick {
                self.files.iter_mut().for_each(|file| file.keep(true));
                // A directory may have been replaced.
                self.watch();
                next_tick = Instant::now() + TICK;
            }
        }
    }

    fn wait(&self, patience: Duration) {
        let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut sources = [
            PollFd::from_borrowed_fd(self.shared.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.watcher.as_fd(), PollFlags::IN),
        ];
        // Whatever it says, everything is looked at.
        let _ = rustix::event::poll(&mut sources, Some(&timeout));
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
    }

    /// The files that were closed after writing, or replaced, since the last look.
    fn changed(&self) -> Vec<usize> {
        let mut changed = Vec::new();
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut events = inotify::Reader::new(&self.watcher, &mut buffer);
        while let Ok(event) = events.next() {
            let name = event.file_name().map(|name| name.to_bytes());
            for &index in self.watches.get(&event.wd()).into_iter().flatten() {
                let file_name = self.files[index].inside.path.file_name().map(OsStrExt::as_bytes);
                if name == file_name && !changed.contains(&index) {
                    changed.push(index);
                }
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Setup {
        directory: tempfile::TempDir,
        keeper: Keeper,
    }

    impl Setup {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (share, inside) = (directory.path().join("share"), directory.path().join("inside"));
            fs::write(&share, "first").unwrap();
            fs::set_permissions(&share, fs::Permissions::from_mode(0o640)).unwrap();
            let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            let user = User { name: "agent".into(), uid, gid, home: "/home/agent".into() };
            let kept = KeptFile::create(&share, &inside, &user).unwrap();
            Self { directory, keeper: Keeper::start(vec![kept]).unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        async fn until(&self, name: &str, text: &str) {
            let arrived = async {
                while self.text(name) != text {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), arrived).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_copy_has_content_and_mode() {
        let setup = Setup::new();
        assert_eq!(setup.text("inside"), "first");
        assert_eq!(fs::metadata(setup.path("inside")).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[tokio::test]
    async fn a_replacement_by_rename_lands_in_the_same_host_file() {
        let setup = Setup::new();
        let inode = fs::metadata(setup.path("share")).unwrap().ino();
        fs::write(setup.path("temporary"), "second, and longer").unwrap();
        fs::rename(setup.path("temporary"), setup.path("inside")).unwrap();
        setup.until("share", "second, and longer").await;
        fs::write(setup.path("inside"), "3rd").unwrap();
        setup.until("share", "3rd").await;
        assert_eq!(fs::metadata(setup.path("share")).unwrap().ino(), inode);
    }

    #[tokio::test]
    async fn a_flush_does_not_wait_for_the_file_to_be_closed() {
        let setup = Setup::new();
        let mut open = OpenOptions::new().append(true).open(setup.path("inside")).unwrap();
        open.write_all(b" and more").unwrap();
        setup.keeper.flush().await;
        assert_eq!(setup.text("share"), "first and more");
    }

    #[tokio::test]
    async fn the_hosts_change_arrives_unless_the_inside_has_changed_too() {
        let setup = Setup::new();
        fs::write(setup.path("share"), "from the host").unwrap();
        setup.until("inside", "from the host").await;
        fs::write(setup.path("share"), "host again").unwrap();
        fs::write(setup.path("inside"), "inside wins").unwrap();
        setup.keeper.flush().await;
        assert_eq!(setup.text("share"), "inside wins");
        assert_eq!(setup.text("inside"), "inside wins");
    }

    #[tokio::test]
    async fn what_is_deleted_or_made_a_link_inside_touches_nothing() {
        let setup = Setup::new();
        fs::remove_file(setup.path("inside")).unwrap();
        setup.keeper.flush().await;
        assert_eq!(setup.text("share"), "first");
        fs::write(setup.path("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(setup.path("secret"), setup.path("inside")).unwrap();
        fs::write(setup.path("share"), "host").unwrap();
        setup.keeper.flush().await;
        assert_eq!(setup.text("share"), "host");
        assert_eq!(setup.text("secret"), "secret");
    }
}
