//! Named sandboxes over machines that are files: the same to several processes, and to one after another.

mod faults;
mod model;

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::life::{Begun, Claim, Life, Machines, Step};
use super::place::Place;
use super::state::{EndReason, State};
use super::store::{Busy, Store};
use super::{Named, NewNamed};
use crate::registry::State as RunState;
use crate::{Error, ErrorKind, Paths, Record, Result};

fn paths(root: &Path) -> Paths {
    let below = |name: &str| root.join(name);
    Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") }
}

/// A machine, in a file of its id's name. Beside it, one that its client holds locked.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Machine {
    id: String,
    place: PathBuf,
    state: RunState,
    detached: bool,
}

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// What is returned then is what nobody hears.
    Pretended,
    /// SIGKILL.
    Real,
}

/// The machines as a client has them.
struct Fake {
    root: PathBuf,
    die_at: Option<(Step, Death)>,
    is_dead: Cell<bool>,
    /// The clients' ends: this process's.
    held: RefCell<Vec<(String, File)>>,
    looks: Cell<usize>,
}

impl Fake {
    fn new(root: &Path) -> Self {
        let root = root.join("machines");
        fs::create_dir_all(&root).unwrap();
        Self { root, die_at: None, is_dead: Cell::default(), held: RefCell::default(), looks: Cell::default() }
    }

    fn file(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn client(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}.client"))
    }

    fn write(&self, machine: &Machine) {
        let new = self.root.join(format!(".{}", machine.id));
        fs::write(&new, serde_json::to_vec(machine).unwrap()).unwrap();
        fs::rename(new, self.file(&machine.id)).unwrap();
    }

    fn machine(&self, id: &str) -> Option<Machine> {
        serde_json::from_slice(&fs::read(self.file(id)).ok()?).unwrap()
    }

    fn machines(&self) -> Vec<Machine> {
        let names = fs::read_dir(&self.root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let ids = names.filter(|name| !name.contains('.'));
        ids.filter_map(|id| self.machine(&id)).collect()
    }

    /// Starts one, which is this process's client's.
    fn begin(&self, id: &str, place: &Path, state: RunState) -> String {
        let client = File::create(self.client(id)).unwrap();
        flock(&client, FlockOperation::NonBlockingLockExclusive).unwrap();
        self.held.borrow_mut().push((id.to_owned(), client));
        let machine = Machine { id: id.to_owned(), place: place.to_owned(), state, detached: false };
        self.write(&machine);
        id.to_owned()
    }

    fn detach(&self, id: &str) -> Result<()> {
        let machine = self.machine(id).ok_or_else(|| Error::new(ErrorKind::Monitor, "gone"))?;
        self.write(&Machine { detached: true, ..machine });
        Ok(())
    }

    /// Ends one, with or without a word from its monitor.
    fn end(&self, id: &str, reason: Option<EndReason>) {
        let Some(machine) = self.machine(id) else { return };
        if let (Some(reason), Ok(place)) = (reason, Place::open(&machine.place, id)) {
            place.note(reason, Some(format!("{reason:?}")));
        }
        fs::remove_file(self.file(id)).unwrap();
        let _ = fs::remove_file(self.client(id));
    }

    /// Monitors notice that their clients are gone.
    fn settle_down(&self) {
        for machine in self.machines() {
            let client = File::open(self.client(&machine.id));
            let alone = client.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
            if !machine.detached && alone {
                self.end(&machine.id, Some(EndReason::Interrupted));
            }
        }
    }

    fn reboot(&self) {
        for machine in self.machines() {
            self.end(&machine.id, None);
        }
        fs::write(self.root.join(".boot"), crate::new_id()).unwrap();
    }
}

impl Machines for Fake {
    fn live(&self) -> Result<Vec<Record>> {
        let record = |machine: Machine| {
            serde_json::from_value(serde_json::json!({
                "id": machine.id, "name": null, "labels": {}, "command": [], "state": machine.state,
                "workspace": "/w", "cpus": 1, "memory_mib": 512, "accel": "tcg", "started_at_unix_ms": 0,
                "monitor_pid": 1, "detached": machine.detached, "vmm_pid": null, "processes": [], "file_daemon_pid": null,
            }))
            .unwrap()
        };
        Ok(self.machines().into_iter().map(record).collect())
    }

    fn boot_id(&self) -> Result<String> {
        Ok(fs::read_to_string(self.root.join(".boot")).unwrap_or_default())
    }

    async fn stop(&self, record: &Record) -> Result<()> {
        self.end(&record.id, Some(EndReason::Stopped));
        Ok(())
    }

    async fn kill(&self, record: &Record) -> Result<()> {
        self.end(&record.id, Some(EndReason::Killed));
        Ok(())
    }

    async fn pause(&self, record: &Record) -> Result<()> {
        let machine = self.machine(&record.id).ok_or_else(|| Error::new(ErrorKind::Monitor, "gone"))?;
        self.write(&Machine { state: RunState::Paused, ..machine });
        Ok(())
    }

    async fn resume(&self, record: &Record) -> Result<()> {
        let machine = self.machine(&record.id).ok_or_else(|| Error::new(ErrorKind::Monitor, "gone"))?;
        self.write(&Machine { state: RunState::Running, ..machine });
        Ok(())
    }

    async fn ended(&self, record: &Record) -> Result<()> {
        while self.machine(&record.id).is_some() {
            self.moment().await;
        }
        Ok(())
    }

    async fn moment(&self) {
        self.settle_down();
        self.looks.set(self.looks.get() + 1);
        assert!(self.looks.get() < 100_000, "it waits for what does not happen");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }

    fn reached(&self, step: Step) -> Result<()> {
        match self.die_at {
            Some((at, Death::Real)) if at == step => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                unreachable!("nothing survives SIGKILL");
            }
            Some((at, Death::Pretended)) if at == step => self.is_dead.set(true),
            _ => {}
        }
        if self.is_dead.get() { Err(Error::new(ErrorKind::Other("dead".to_owned()), "dead")) } else { Ok(()) }
    }
}

/// A client of the machines below a directory.
fn client(root: &Path) -> Life<Fake> {
    Life { store: Store::new(&paths(root)), machines: Fake::new(root) }
}

fn new(name: &str, persist: bool) -> NewNamed {
    NewNamed {
        name: name.to_owned(),
        workspace: format!("/projects/{}", &name[..1]).into(),
        definition_file: "/projects/viv.toml".into(),
        persist,
        autostart: false,
        labels: [("a".to_owned(), "b".to_owned())].into(),
    }
}

impl Life<Fake> {
    /// Starts it up to where it would be settled; its disk is an empty file.
    async fn begin(&self, name: &str, keeps_disk: bool) -> Result<Begun<String>> {
        let id = crate::new_id();
        let directory = self.store.directory(name);
        let prepare = || {
            if keeps_disk {
                File::create(directory.join(super::disk::FILE)).unwrap();
            }
            Ok(())
        };
        let claim = Claim { id: id.clone(), keeps_disk };
        self.start(name, claim, prepare, async || Ok(self.machines.begin(&id, &directory, RunState::Running))).await
    }

    async fn finish(&self, name: &str, id: &str, busy: Busy) -> Result<Named> {
        self.settle(name, id, true, busy, async || self.machines.detach(id)).await
    }

    /// As `viv up` does it; whether it was started by this call, and whether its disk is new.
    async fn up(&self, name: &str, keeps_disk: bool) -> Result<Option<bool>> {
        match self.begin(name, keeps_disk).await? {
            Begun::Already(_) => Ok(None),
            Begun::Fresh { machine, is_new, busy } => {
                self.finish(name, &machine, busy).await?;
                Ok(Some(is_new))
            }
        }
    }
}

#[tokio::test]
async fn a_life() {
    let root = tempfile::tempdir().unwrap();
    let life = client(root.path());
    assert!(life.list().unwrap().is_empty());
    assert_eq!(*life.find("web").unwrap_err().kind(), ErrorKind::NotFound);
    let made = life.create(&new("web", false)).unwrap();
    assert_eq!((made.state, made.id, made.ended), (State::Stopped, None, None));
    let again = life.create(&NewNamed { autostart: true, ..new("web", true) }).unwrap();
    assert!(again.persist && again.autostart && again.created_at_unix_ms == made.created_at_unix_ms);
    let other = NewNamed { workspace: "/elsewhere".into(), ..new("web", false) };
    assert_eq!(*life.create(&other).unwrap_err().kind(), ErrorKind::Ambiguous);

    assert_eq!(life.up("web", true).await.unwrap(), Some(true));
    let running = life.find("w").unwrap();
    assert_eq!((running.state, running.on_create_done), (State::Running, true));
    assert_eq!(life.find(&running.id.clone().unwrap()[..4]).unwrap().name, "web");
    assert_eq!(life.up("web", true).await.unwrap(), None);
    for refused in [life.remove("web").await.unwrap_err(), life.rename("web", "x").await.unwrap_err()] {
        assert_eq!(*refused.kind(), ErrorKind::WrongState, "{refused}");
    }
    assert_eq!(life.pause("web").await.unwrap().state, State::Paused);
    assert_eq!(life.pause("web").await.unwrap().state, State::Paused);
    assert_eq!(*life.up("web", true).await.unwrap_err().kind(), ErrorKind::WrongState);
    assert_eq!(life.resume("web").await.unwrap().state, State::Running);
    let stopped = life.stop("web").await.unwrap();
    assert_eq!((stopped.state, stopped.id), (State::Stopped, None));
    assert_eq!(stopped.ended.unwrap().reason, EndReason::Stopped);
    assert_eq!(life.stop("web").await.unwrap().state, State::Stopped);
    assert_eq!(*life.resume("web").await.unwrap_err().kind(), ErrorKind::WrongState);

    assert_eq!(life.rename("web", "shop").await.unwrap().name, "shop");
    assert_eq!(*life.stop("web").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(life.up("shop", true).await.unwrap(), Some(false), "its disk went with its name");
    life.create(&new("sheep", false)).unwrap();
    assert_eq!(*life.rename("sheep", "shop").await.unwrap_err().kind(), ErrorKind::Ambiguous);
    assert_eq!(*life.find("sh").unwrap_err().kind(), ErrorKind::Ambiguous);
    let killed = life.kill("shop").await.unwrap();
    assert_eq!(killed.ended.unwrap().reason, EndReason::Killed);
    life.disk_is_new("shop").unwrap();
    assert_eq!(life.up("shop", true).await.unwrap(), Some(true));
    life.stop("shop").await.unwrap();
    life.remove("shop").await.unwrap();
    assert_eq!(life.list().unwrap().len(), 1);
    let left: Vec<_> = fs::read_dir(root.path().join("state/sandboxes")).unwrap().collect();
    assert_eq!(left.len(), 2, "sheep and the lock: {left:?}");
}

#[tokio::test]
async fn a_disk_that_is_not_kept_is_new_each_time() {
    let root = tempfile::tempdir().unwrap();
    let life = client(root.path());
    life.create(&new("web", false)).unwrap();
    for _ in 0..2 {
        assert_eq!(life.up("web", false).await.unwrap(), Some(true));
        life.stop("web").await.unwrap();
    }
}

#[tokio::test]
async fn ends_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let life = client(root.path());
    life.create(&new("web", false)).unwrap();
    let ends: [(Option<EndReason>, EndReason, State); 4] = [
        (Some(EndReason::PoweredOff), EndReason::PoweredOff, State::Stopped),
        (Some(EndReason::Failed), EndReason::Failed, State::Failed),
        (None, EndReason::MonitorKilled, State::Failed),
        (Some(EndReason::Stopped), EndReason::Stopped, State::Stopped),
    ];
    for (told, reason, state) in ends {
        life.up("web", false).await.unwrap();
        let id = life.find("web").unwrap().id.unwrap();
        life.machines.end(&id, told);
        let named = life.wait("web").await.unwrap();
        assert_eq!((named.state, named.ended.clone().unwrap().reason), (state, reason));
        assert_eq!(life.find("web").unwrap().ended, named.ended, "said once, it stays");
    }
    life.up("web", false).await.unwrap();
    life.machines.reboot();
    let named = life.find("web").unwrap();
    assert_eq!((named.state, named.ended.unwrap().reason), (State::Stopped, EndReason::HostRestarted));

    let failed = life
        .start::<()>(
            "web",
            Claim { id: "0".into(), keeps_disk: false },
            || Ok(()),
            async || Err(Error::new(ErrorKind::BootTimeout, "no answer")),
        )
        .await;
    assert_eq!(*failed.map(drop).unwrap_err().kind(), ErrorKind::BootTimeout);
    let named = life.find("web").unwrap();
    assert_eq!((named.state, named.ended.unwrap().message.as_deref()), (State::Failed, Some("no answer")));
    assert_eq!(life.up("web", false).await.unwrap(), Some(true));
}

#[tokio::test]
async fn whoever_comes_second_waits_for_the_first() {
    let root = tempfile::tempdir().unwrap();
    let first = client(root.path());
    let second = client(root.path());
    first.create(&new("web", false)).unwrap();
    let Begun::Fresh { machine, busy, .. } = first.begin("web", false).await.unwrap() else { panic!("it has none") };
    assert_eq!(second.find("web").unwrap().state, State::Starting, "it is not ready before it is settled");
    let (come, settled) = tokio::join!(second.up("web", false), async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        first.finish("web", &machine, busy).await
    });
    assert_eq!((come.unwrap(), settled.unwrap().state), (None, State::Running));
    second.stop("web").await.unwrap();

    // The first one gives up: the second one starts it.
    let Begun::Fresh { busy, .. } = first.begin("web", false).await.unwrap() else { panic!("it has none") };
    let (come, ()) = tokio::join!(second.up("web", false), async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        drop(busy);
        first.machines.held.borrow_mut().clear();
    });
    assert_eq!(come.unwrap(), Some(true));
    second.stop("web").await.unwrap();

    // Stopped while it starts: the first one is told.
    let Begun::Fresh { machine, busy, .. } = first.begin("web", false).await.unwrap() else { panic!("it has none") };
    assert_eq!(second.stop("web").await.unwrap().state, State::Stopped);
    assert_eq!(*first.finish("web", &machine, busy).await.unwrap_err().kind(), ErrorKind::Monitor);
    assert_eq!(second.find("web").unwrap().ended.unwrap().reason, EndReason::Stopped);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_shown_and_can_be_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let life = client(root.path());
    for spoilt in [Some(""), Some("{\"workspace\":"), Some("[]"), None] {
        life.create(&new("web", true)).unwrap();
        let directory = life.store.directory("web");
        fs::write(directory.join("disk"), "kept").unwrap();
        match spoilt {
            Some(text) => fs::write(directory.join("record.json"), text).unwrap(),
            None => fs::remove_file(directory.join("record.json")).unwrap(),
        }
        fs::write(directory.join(".record.json.partial"), "{").unwrap();
        let seen = life.list().unwrap().remove(0);
        assert_eq!(seen.state, State::Failed);
        assert!(seen.ended.unwrap().message.unwrap().starts_with("its record cannot be read"));
        assert_eq!(*life.up("web", true).await.unwrap_err().kind(), ErrorKind::StateDirectory);
        assert_eq!(life.create(&new("web", true)).unwrap().state, State::Stopped);
        assert_eq!(fs::read(directory.join("disk")).unwrap(), b"kept");
        life.remove("web").await.unwrap();
    }
}

#[test]
fn names() {
    for name in ["a", "web", "A.b_c-9", &"x".repeat(63)] {
        assert!(super::is_name(name), "{name}");
    }
    for name in ["", ".", "..", ".hidden", "-x", "_x", "a/b", "a b", "ä", "a\n", &"x".repeat(64)] {
        assert!(!super::is_name(name), "{name}");
    }
}
