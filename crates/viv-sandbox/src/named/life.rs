//! The life of named sandboxes, over whatever their machines are.

use super::place::now_unix_ms;
use super::state::{Answer, EndReason, Fact, Request, State, observe, request};
use super::store::{Busy, Document, Guard, MachineName, Store, no_such};
use super::{Ending, Named, NewNamed};
use crate::registry::State as RunState;
use crate::{Error, ErrorKind, Record, Result};

/// The machines of the host, or a stand-in for them.
pub(super) trait Machines {
    /// Those that are alive.
    fn live(&self) -> Result<Vec<Record>>;

    /// Which boot of the host this is.
    fn boot_id(&self) -> Result<String>;

    /// Ends one in good order; resolves when nothing is left of it.
    async fn stop(&self, record: &Record) -> Result<()>;

    /// Ends one at once; resolves when nothing is left of it.
    async fn kill(&self, record: &Record) -> Result<()>;

    /// Makes one stand still.
    async fn pause(&self, record: &Record) -> Result<()>;

    /// Lets one go on.
    async fn resume(&self, record: &Record) -> Result<()>;

    /// Resolves when nothing is left of one.
    async fn ended(&self, record: &Record) -> Result<()>;

    /// A while, after which something else may be seen.
    async fn moment(&self);

    /// Called between the steps of everything that is done; what it fails with is returned at once, as if
    /// this process were killed there.
    fn reached(&self, _step: Step) -> Result<()> {
        Ok(())
    }
}

/// What has just been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The record says that it starts.
    Claimed,
    /// Its disk is there and sound.
    Prepared,
    /// Its machine runs.
    Begun,
    /// The record says that it runs.
    Noted,
    /// The machine needs this process no more.
    Settled,
    /// The record says that it is about to end.
    Ending,
    /// It has ended.
    Ended,
    /// It stands still, or goes on.
    Switched,
    /// It is out of sight.
    Removed,
}

/// What is about to be started.
pub(super) struct Claim {
    pub(super) id: String,
    pub(super) keeps_disk: bool,
}

/// What a start came to.
pub(super) enum Begun<T> {
    Fresh { machine: T, is_new: bool, busy: Busy },
    Already(Box<Named>),
}

pub(super) struct Life<M> {
    pub(super) store: Store,
    pub(super) machines: M,
}

/// A sandbox as it is: its record, which agrees with what was seen, and its machine.
struct Seen {
    name: String,
    document: Document,
    record: Option<Record>,
}

impl<M: Machines> Life<M> {
    pub(super) fn list(&self) -> Result<Vec<Named>> {
        let held = self.store.lock()?;
        let live = self.machines.live()?;
        let mut all = Vec::new();
        for name in self.store.names(&held)? {
            all.extend(self.look(&held, &name, &live)?.map(Named::from));
        }
        Ok(all)
    }

    pub(super) fn find(&self, wanted: &str) -> Result<Named> {
        let all = self.list()?;
        let is_exact = |named: &&Named| named.name == wanted || named.id.as_deref() == Some(wanted);
        if let Some(exact) = all.iter().find(is_exact) {
            return Ok(exact.clone());
        }
        let fits = |named: &Named| {
            let id = named.id.as_ref().is_some_and(|id| id.starts_with(wanted));
            !wanted.is_empty() && (named.name.starts_with(wanted) || id)
        };
        let fitting: Vec<Named> = all.into_iter().filter(fits).collect();
        match <[Named; 1]>::try_from(fitting) {
            Ok([only]) => Ok(only),
            Err(none) if none.is_empty() => Err(no_such(wanted)),
            Err(several) => {
                let names: Vec<&str> = several.iter().map(|named| named.name.as_str()).collect();
                Err(Error::new(ErrorKind::Ambiguous, format!("{wanted:?} may be any of {}", names.join(", ")))
                    .hint("viv ps --all shows their names whole"))
            }
        }
    }

    pub(super) fn create(&self, new: &NewNamed) -> Result<Named> {
        check_name(&new.name)?;
        let held = self.store.lock()?;
        let live = self.machines.live()?;
        let there = self.store.read(&held, &new.name)?;
        let fresh = || Document {
            workspace: new.workspace.clone(),
            definition_file: new.definition_file.clone(),
            persist: new.persist,
            autostart: new.autostart,
            labels: new.labels.clone(),
            created_at_unix_ms: now_unix_ms(),
            state: State::Stopped,
            machine: None,
            ended: None,
            on_create_done: false,
        };
        let document = match there {
            Some(Ok(document)) if document.workspace != new.workspace => {
                return Err(Error::new(
                    ErrorKind::Ambiguous,
                    format!("{} is the sandbox of {}", new.name, document.workspace.display()),
                )
                .hint(format!("choose another name, or: viv rename {} NEW, or: viv rm {}", new.name, new.name)));
            }
            Some(Ok(document)) => Document {
                definition_file: new.definition_file.clone(),
                persist: new.persist,
                autostart: new.autostart,
                labels: new.labels.clone(),
                ..document
            },
            // A record that cannot be understood is made anew; what else there is stays.
            Some(Err(_)) | None => fresh(),
        };
        self.store.write(&held, &new.name, &document)?;
        self.seen(&held, &new.name, &live).map(Named::from)
    }

    /// Claims the sandbox for a machine, prepares what it needs and begins it, unless it has one.
    pub(super) async fn start<T>(
        &self,
        name: &str,
        claim: Claim,
        prepare: impl FnOnce() -> Result<()>,
        begin: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<Begun<T>> {
        let (busy, is_new) = loop {
            if let Some(claimed) = self.try_claim(name, &claim)? {
                match claimed {
                    Claimed::Mine(busy, is_new) => break (busy, is_new),
                    Claimed::Already(named) => return Ok(Begun::Already(named)),
                }
            }
            self.machines.moment().await;
        };
        self.machines.reached(Step::Claimed)?;
        let outcome = match prepare() {
            Ok(()) => {
                self.machines.reached(Step::Prepared)?;
                begin().await
            }
            Err(error) => Err(error),
        };
        self.machines.reached(Step::Begun)?;
        match outcome {
            Ok(machine) => Ok(Begun::Fresh { machine, is_new, busy }),
            Err(error) => {
                let message = viv_error::Report::from(&error).line();
                self.note_end(name, &claim.id, EndReason::Failed, Some(message))?;
                Err(error)
            }
        }
    }

    fn try_claim(&self, name: &str, claim: &Claim) -> Result<Option<Claimed>> {
        let held = self.store.lock()?;
        let seen = self.look_at(&held, name)?;
        match request(seen.document.state, Request::Start) {
            Answer::Already => Ok(Some(Claimed::Already(Box::new(seen.into())))),
            Answer::Wait => Ok(None),
            Answer::Refuse { instead } => Err(refused(&seen, instead)),
            Answer::Do(state) => {
                sound(&seen)?;
                let Some(busy) = self.store.try_busy(name)? else { return Ok(None) };
                let had_disk = claim.keeps_disk && self.store.directory(name).join(super::disk::FILE).exists();
                let machine = MachineName {
                    id: claim.id.clone(),
                    boot_id: self.machines.boot_id()?,
                    started_at_unix_ms: now_unix_ms(),
                };
                let on_create_done = had_disk && seen.document.on_create_done;
                let document = Document { state, machine: Some(machine), ended: None, on_create_done, ..seen.document };
                self.store.write(&held, name, &document)?;
                Ok(Some(Claimed::Mine(busy, !on_create_done)))
            }
        }
    }

    /// Notes that a machine that was begun is ready, then lets it go on alone.
    pub(super) async fn settle(
        &self,
        name: &str,
        id: &str,
        on_create_done: bool,
        busy: Busy,
        let_go: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<Named> {
        {
            let held = self.store.lock()?;
            let seen = self.look_at(&held, name)?;
            let is_alive = seen.record.as_ref().is_some_and(|record| record.id == id);
            if !is_alive {
                return Err(Error::new(ErrorKind::Monitor, format!("{name} has ended while it was made ready"))
                    .hint(format!("viv inspect {name}")));
            }
            let state = observe(seen.document.state, Fact::Runs);
            let on_create_done = on_create_done || seen.document.on_create_done;
            self.store.write(&held, name, &Document { state, on_create_done, ..seen.document })?;
        }
        self.machines.reached(Step::Noted)?;
        let_go().await?;
        self.machines.reached(Step::Settled)?;
        drop(busy);
        self.named(name)
    }

    pub(super) async fn stop(&self, name: &str) -> Result<Named> {
        self.end(name, Request::Stop).await
    }

    pub(super) async fn kill(&self, name: &str) -> Result<Named> {
        self.end(name, Request::Kill).await
    }

    async fn end(&self, name: &str, wanted: Request) -> Result<Named> {
        loop {
            let record = {
                let held = self.store.lock()?;
                let seen = self.look_at(&held, name)?;
                match (request(seen.document.state, wanted), &seen.record) {
                    (Answer::Already, _) => return Ok(seen.into()),
                    (Answer::Refuse { instead }, _) => return Err(refused(&seen, instead)),
                    (Answer::Do(state), Some(record)) => {
                        let record = record.clone();
                        self.store.write(&held, name, &Document { state, ..seen.document })?;
                        Some(record)
                    }
                    // What is being made is ended as soon as there is something to end.
                    (Answer::Wait | Answer::Do(_), _) => None,
                }
            };
            let Some(record) = record else {
                self.machines.moment().await;
                continue;
            };
            self.machines.reached(Step::Ending)?;
            let outcome = match wanted {
                Request::Kill => self.machines.kill(&record).await,
                _ => self.machines.stop(&record).await,
            };
            self.machines.reached(Step::Ended)?;
            let named = self.named(name)?;
            if named.id.as_ref() != Some(&record.id) {
                // If there is an error, it is how it ended, which is in the record. Another machine that it may
                // have by now is not meant.
                return Ok(named);
            }
            outcome?;
            self.machines.moment().await;
        }
    }

    pub(super) async fn pause(&self, name: &str) -> Result<Named> {
        self.switch(name, Request::Pause).await
    }

    pub(super) async fn resume(&self, name: &str) -> Result<Named> {
        self.switch(name, Request::Resume).await
    }

    async fn switch(&self, name: &str, wanted: Request) -> Result<Named> {
        loop {
            let record = {
                let held = self.store.lock()?;
                let seen = self.look_at(&held, name)?;
                match (request(seen.document.state, wanted), seen.record.clone()) {
                    (Answer::Already, _) => return Ok(seen.into()),
                    (Answer::Refuse { instead }, _) => return Err(refused(&seen, instead)),
                    (Answer::Do(_), Some(record)) => Some(record),
                    (Answer::Wait | Answer::Do(_), _) => None,
                }
            };
            let Some(record) = record else {
                self.machines.moment().await;
                continue;
            };
            // The machine itself says what it does: the record follows it.
            let outcome = match wanted {
                Request::Pause => self.machines.pause(&record).await,
                _ => self.machines.resume(&record).await,
            };
            self.machines.reached(Step::Switched)?;
            let named = self.named(name)?;
            match outcome {
                Ok(()) => return Ok(named),
                Err(error) if named.id.as_deref() == Some(&*record.id) => return Err(error),
                // Ended meanwhile, which is what is said next.
                Err(_) => {}
            }
        }
    }

    pub(super) async fn rename(&self, name: &str, to: &str) -> Result<Named> {
        check_name(to)?;
        let busy = self.work_on(name, Request::Change).await?;
        let held = self.store.lock()?;
        if self.store.read(&held, to)?.is_some() {
            return Err(Error::new(ErrorKind::Ambiguous, format!("there is a sandbox named {to}"))
                .hint(format!("choose another name, or: viv rm {to}")));
        }
        self.store.rename(&held, name, to)?;
        self.machines.reached(Step::Removed)?;
        drop(busy);
        let live = self.machines.live()?;
        self.seen(&held, to, &live).map(Named::from)
    }

    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        let busy = self.work_on(name, Request::Remove).await?;
        let gone = {
            let held = self.store.lock()?;
            self.store.remove(&held, name)?
        };
        self.machines.reached(Step::Removed)?;
        drop(busy);
        // What stays is removed by the next look.
        let _ = std::fs::remove_dir_all(gone);
        Ok(())
    }

    /// Takes the right to work on a sandbox that is at rest, for as long as the value returned lives.
    pub(super) async fn work_on(&self, name: &str, wanted: Request) -> Result<Busy> {
        loop {
            {
                let held = self.store.lock()?;
                let seen = self.look_at(&held, name)?;
                match request(seen.document.state, wanted) {
                    Answer::Refuse { instead } => return Err(refused(&seen, instead)),
                    Answer::Do(_) | Answer::Already => {
                        if let Some(busy) = self.store.try_busy(name)? {
                            return Ok(busy);
                        }
                    }
                    Answer::Wait => {}
                }
            }
            self.machines.moment().await;
        }
    }

    /// Forgets that what is run once on a new disk was run.
    pub(super) fn disk_is_new(&self, name: &str) -> Result<()> {
        let held = self.store.lock()?;
        let seen = self.look_at(&held, name)?;
        sound(&seen)?;
        self.store.write(&held, name, &Document { on_create_done: false, ..seen.document })
    }

    pub(super) async fn wait(&self, name: &str) -> Result<Named> {
        loop {
            let named = self.named(name)?;
            if named.state.is_at_rest() {
                return Ok(named);
            }
            match &named.record {
                // If that cannot be waited for, it is looked at again.
                Some(record) => {
                    if self.machines.ended(record).await.is_err() {
                        self.machines.moment().await;
                    }
                }
                None => self.machines.moment().await,
            }
        }
    }

    pub(super) fn named(&self, name: &str) -> Result<Named> {
        let held = self.store.lock()?;
        self.look_at(&held, name).map(Named::from)
    }

    fn look_at(&self, held: &Guard, name: &str) -> Result<Seen> {
        let live = self.machines.live()?;
        self.seen(held, name, &live)
    }

    fn seen(&self, held: &Guard, name: &str, live: &[Record]) -> Result<Seen> {
        self.look(held, name, live)?.ok_or_else(|| no_such(name))
    }

    /// Makes a record agree with what is seen of its machine.
    fn look(&self, held: &Guard, name: &str, live: &[Record]) -> Result<Option<Seen>> {
        let name = name.to_owned();
        let Some(read) = self.store.read(held, &name)? else { return Ok(None) };
        let document = match read {
            Ok(document) => document,
            Err(why) => return Ok(Some(Seen { document: unreadable(&why), record: None, name })),
        };
        let machine = document.machine.clone();
        let record = live.iter().find(|record| machine.as_ref().is_some_and(|machine| machine.id == record.id));
        let (fact, told) = match (&machine, record) {
            (_, Some(record)) => (self.fact_of(&name, document.state, record), None),
            (Some(machine), None) => self.fact_without(held, &name, document.state, machine)?,
            (None, None) => (Fact::Gone(EndReason::Stopped), None),
        };
        let state = observe(document.state, fact);
        let ended = match fact {
            Fact::Gone(reason) if !document.state.is_at_rest() => {
                Some(told.unwrap_or_else(|| Ending { at_unix_ms: now_unix_ms(), reason, message: None }))
            }
            _ if state.is_at_rest() => document.ended.clone(),
            _ => None,
        };
        let now = Document { state, ended, ..document.clone() };
        if now != document {
            self.store.write(held, &name, &now)?;
        }
        Ok(Some(Seen { name, document: now, record: record.cloned() }))
    }

    fn fact_of(&self, name: &str, state: State, record: &Record) -> Fact {
        match record.state {
            RunState::Stopping => Fact::Ends,
            RunState::Starting => Fact::Starts,
            // Not settled: either someone is about to, or was and is gone, which its monitor is about to notice.
            _ if !record.detached && state != State::Stopping && self.store.is_busy(name) => Fact::Starts,
            _ if !record.detached => Fact::Ends,
            RunState::Running => Fact::Runs,
            RunState::Paused => Fact::StandsStill,
        }
    }

    fn fact_without(
        &self,
        held: &Guard,
        name: &str,
        state: State,
        machine: &MachineName,
    ) -> Result<(Fact, Option<Ending>)> {
        if state == State::Starting && self.store.is_busy(name) {
            return Ok((Fact::Starts, None));
        }
        if let Some(ending) = self.store.told(held, name, &machine.id) {
            return Ok((Fact::Gone(ending.reason), Some(ending)));
        }
        let reason = if machine.boot_id != self.machines.boot_id()? {
            EndReason::HostRestarted
        } else if state == State::Starting {
            EndReason::Interrupted
        } else {
            EndReason::MonitorKilled
        };
        Ok((Fact::Gone(reason), None))
    }

    /// Notes an end that its starter saw, unless there is a later machine.
    fn note_end(&self, name: &str, id: &str, reason: EndReason, message: Option<String>) -> Result<()> {
        let held = self.store.lock()?;
        let Some(Ok(document)) = self.store.read(&held, name)? else { return Ok(()) };
        if document.state.is_at_rest() || document.machine.as_ref().is_none_or(|machine| machine.id != id) {
            return Ok(());
        }
        // How its monitor saw it comes first.
        let ending = self.store.told(&held, name, id).unwrap_or(Ending { at_unix_ms: now_unix_ms(), reason, message });
        let state = observe(document.state, Fact::Gone(ending.reason));
        self.store.write(&held, name, &Document { state, ended: Some(ending), ..document })
    }
}

enum Claimed {
    Mine(Busy, bool),
    Already(Box<Named>),
}

impl From<Seen> for Named {
    fn from(Seen { name, document, record }: Seen) -> Self {
        Self {
            name,
            workspace: document.workspace,
            definition_file: document.definition_file,
            state: document.state,
            id: document.machine.as_ref().filter(|_| !document.state.is_at_rest()).map(|machine| machine.id.clone()),
            record,
            created_at_unix_ms: document.created_at_unix_ms,
            started_at_unix_ms: document.machine.as_ref().map(|machine| machine.started_at_unix_ms),
            ended: document.ended,
            persist: document.persist,
            autostart: document.autostart,
            on_create_done: document.on_create_done,
            labels: document.labels,
        }
    }
}

/// What is shown for a record that cannot be understood: it can be removed, or defined anew.
fn unreadable(why: &str) -> Document {
    Document {
        workspace: std::path::PathBuf::new(),
        definition_file: std::path::PathBuf::new(),
        persist: false,
        autostart: false,
        labels: std::collections::BTreeMap::new(),
        created_at_unix_ms: 0,
        state: State::Failed,
        machine: None,
        ended: Some(Ending {
            at_unix_ms: now_unix_ms(),
            reason: EndReason::Failed,
            message: Some(format!("its record cannot be read: {why}")),
        }),
        on_create_done: false,
    }
}

fn check_name(name: &str) -> Result<()> {
    if super::is_name(name) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidSpec, format!("{name:?} cannot be a sandbox's name"))
        .hint("1 to 63 letters, digits, `.`, `_` and `-`, the first a letter or digit"))
}

/// A record that cannot be understood is not built upon.
fn sound(seen: &Seen) -> Result<()> {
    match &seen.document {
        Document { machine: None, ended: Some(ending), workspace, .. } if workspace.as_os_str().is_empty() => {
            let message = ending.message.clone().unwrap_or_default();
            Err(Error::new(ErrorKind::StateDirectory, format!("{}: {message}", seen.name))
                .hint(format!("viv rm {}, or define it anew: viv up {}", seen.name, seen.name)))
        }
        _ => Ok(()),
    }
}

fn refused(seen: &Seen, instead: &str) -> Error {
    Error::new(ErrorKind::WrongState, format!("{} is {}", seen.name, seen.document.state))
        .hint(format!("{instead} {}", seen.name))
}
