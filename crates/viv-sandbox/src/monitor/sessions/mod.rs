//! The sandbox's sessions, served by the monitor on a thread of their own.
//!
//! ```text
//!   sandbox.sock ── SESSIONS ──► Hub ── new ──► exec on the link ──► Session ◄── frames ──► program
//!                                 │                                    │  Screen (kept), Recorder
//!                                 └── attach ──────────────────────────┴── Viewer, Viewer, …
//! ```
//!
//! What a guest writes is drawn here, and a few bytes can ask for much drawing. On their own thread,
//! sessions keep the monitor's from nothing else: it stops sandboxes, sets clocks and reaps at any time.

mod paint;
pub(super) mod record;
mod reports;
pub(crate) mod screen;
mod session;
mod size;
mod utf8;
mod viewer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use viv_error::Report;
use viv_proto::CONTROL_PORT;
use viv_proto::message::{ExitReport, Started, TerminalSize, kind};

use super::attempt::guest_is_silent;
use super::server::Guest;
use crate::error::io;
use crate::exec::{ask, broken};
use crate::sessions::{
    AttachSession, LONGEST_SESSION_NAME_BYTES, MOST_ENDED_SESSIONS, MOST_SESSIONS, NewSession, Recorder, SessionAnswer,
    SessionInfo, SessionRequest, is_session_name,
};
use crate::{Error, ErrorKind, Result};
use session::{Arrival, Event, Session, Shared, SharedRecorder, now_unix_ms};

/// What a terminal has if nobody says anything else.
const DEFAULT_SIZE: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// How many events wait for a session; more make its viewers wait.
const QUEUED_EVENTS: usize = 64;

/// How much of a command is shown in lists, in bytes.
const SHOWN_COMMAND_BYTES: usize = 256;

/// The way to the sessions' thread.
#[derive(Clone)]
pub(super) struct Sessions(mpsc::UnboundedSender<std::os::unix::net::UnixStream>);

impl Sessions {
    /// Starts the thread. `carrying` counts the programs that run, `ended` is told how one ended with which the
    /// sandbox is to end.
    pub(super) fn start(
        guest: Guest,
        carrying: watch::Sender<usize>,
        ended: mpsc::UnboundedSender<Option<ExitReport>>,
        recorder: Box<dyn Recorder>,
    ) -> Result<Self> {
        let failed = || io("no thread for sessions");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
        let (connections, mut queue) = mpsc::unbounded_channel();
        let recorder = Arc::new(Mutex::new(recorder));
        let hub = Hub { guest, carrying, ended, recorder, table: Arc::default() };
        let serve = async move {
            while let Some(stream) = queue.recv().await {
                // One that cannot be served is closed.
                if let Ok(stream) = UnixStream::from_std(stream) {
                    tokio::spawn(hub.clone().serve(stream));
                }
            }
        };
        let thread = std::thread::Builder::new().name("sessions".to_owned());
        thread.spawn(move || runtime.block_on(serve)).map_err(failed())?;
        Ok(Self(connections))
    }

    /// Serves a connection that has said what it is about.
    pub(super) fn serve(&self, stream: UnixStream) {
        if let Ok(stream) = stream.into_std() {
            // The thread lives as long as the monitor.
            let _ = self.0.send(stream);
        }
    }
}

/// A session as it can be told something.
struct Handle {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
}

#[derive(Default)]
struct Table {
    last_number: u32,
    sessions: BTreeMap<u32, Handle>,
    /// Names of those that are about to begin, and how many these are.
    beginning: Vec<Option<String>>,
}

impl Table {
    /// Those that run.
    fn running(&self) -> impl Iterator<Item = &Handle> {
        self.sessions.values().filter(|handle| handle.shared.info().ended.is_none())
    }

    /// Takes a place and a name.
    fn reserve(&mut self, name: Option<&str>) -> Result<()> {
        let bad = |message: String| Err(Error::new(ErrorKind::BadRequest, message));
        if let Some(name) = name {
            if !is_session_name(name) {
                return bad(format!(
                    "a session's name is up to {LONGEST_SESSION_NAME_BYTES} letters, digits, '.', '_' and '-', \
                     beginning with a letter"
                ));
            }
            let taken = self.running().any(|handle| handle.shared.info().name.as_deref() == Some(name));
            if taken || self.beginning.iter().any(|other| other.as_deref() == Some(name)) {
                return bad(format!("a session named {name} is running"));
            }
        }
        if self.running().count() + self.beginning.len() >= MOST_SESSIONS {
            return bad(format!("{MOST_SESSIONS} sessions are running already"));
        }
        self.beginning.push(name.map(str::to_owned));
        Ok(())
    }

    /// Gives back what was reserved.
    fn release(&mut self, name: Option<&str>) {
        if let Some(index) = self.beginning.iter().position(|other| other.as_deref() == name) {
            self.beginning.swap_remove(index);
        }
    }

    /// Forgets all but the last of those that have ended.
    fn forget(&mut self) {
        let ended = |handle: &Handle| handle.shared.info().ended.as_ref().map(|end| end.at_unix_ms);
        let mut ends: Vec<(u64, u32)> =
            self.sessions.iter().filter_map(|(number, handle)| Some((ended(handle)?, *number))).collect();
        ends.sort_unstable();
        for (_, number) in &ends[..ends.len().saturating_sub(MOST_ENDED_SESSIONS)] {
            self.sessions.remove(number);
        }
    }

    /// The session of this number or name; without one, the one that was used last. One that runs comes
    /// before one that has ended.
    fn find(&self, wanted: Option<&str>) -> Result<&Handle> {
        let fits = |handle: &&Handle| {
            let info = handle.shared.info();
            wanted.is_none_or(|wanted| wanted.parse() == Ok(info.number) || info.name.as_deref() == Some(wanted))
        };
        let rank = |handle: &&Handle| (handle.shared.info().ended.is_none(), handle.shared.used());
        self.sessions.values().filter(fits).max_by_key(rank).ok_or_else(|| {
            let message = match wanted {
                Some(wanted) => format!("the sandbox has no session {wanted:?}"),
                None => "the sandbox has no session".to_owned(),
            };
            Error::new(ErrorKind::NotFound, message)
        })
    }
}

/// What connections share.
#[derive(Clone)]
struct Hub {
    guest: Guest,
    carrying: watch::Sender<usize>,
    ended: mpsc::UnboundedSender<Option<ExitReport>>,
    recorder: SharedRecorder,
    table: Arc<Mutex<Table>>,
}

impl Hub {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(mut self, mut stream: UnixStream) {
        let mut rest = Vec::new();
        let Ok(Some(line)) = viv_link::line::read_line(&mut stream, &mut rest).await else { return };
        let request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let refusal = Error::new(ErrorKind::BadRequest, "not a request about sessions").source(error);
                return refuse(&mut stream, &refusal).await;
            }
        };
        let outcome = match request {
            SessionRequest::New(new) => self.begin(*new).await,
            SessionRequest::Attach(AttachSession { session, viewing, size_policy }) => {
                let found = self.table().find(session.as_deref()).map(|handle| handle.events.clone());
                match found {
                    Ok(events) => {
                        let arrival = Arrival { stream, rest, viewing, size_policy, is_first: false };
                        // One that is being forgotten closes the connection.
                        let _ = events.send(Event::Attach(arrival)).await;
                        return;
                    }
                    Err(error) => Err(error),
                }
            }
            SessionRequest::List => {
                let sessions = self.table().sessions.values().map(|handle| handle.shared.info().clone()).collect();
                let _ = answer(&mut stream, &SessionAnswer::Sessions(sessions)).await;
                return;
            }
            SessionRequest::End(wanted) => self.end(&wanted).await,
        };
        match outcome {
            Ok(Begun { info, viewing: None, .. }) => {
                let _ = answer(&mut stream, &SessionAnswer::Session(Box::new(info))).await;
            }
            Ok(Begun { viewing: Some(viewing), events, .. }) => {
                let arrival = Arrival { stream, rest, viewing, size_policy: None, is_first: true };
                let _ = events.send(Event::Attach(arrival)).await;
            }
            Err(error) => refuse(&mut stream, &error).await,
        }
    }

    async fn end(&self, wanted: &str) -> Result<Begun> {
        let (info, events) = {
            let table = self.table();
            let handle = table.find(Some(wanted))?;
            (handle.shared.info().clone(), handle.events.clone())
        };
        if info.ended.is_some() {
            return Err(Error::new(ErrorKind::NotFound, format!("session {wanted} has ended already")));
        }
        let _ = events.send(Event::End).await;
        Ok(Begun { info, viewing: None, events })
    }

    async fn begin(&mut self, new: NewSession) -> Result<Begun> {
        self.table().reserve(new.name.as_deref())?;
        let name = new.name.clone();
        let begun = self.begin_reserved(new).await;
        self.table().release(name.as_deref());
        begun
    }

    async fn begin_reserved(&mut self, new: NewSession) -> Result<Begun> {
        let NewSession { mut exec, name, size_policy, ends_sandbox, timeout_ms, viewing } = new;
        let size = screen::bounded(viewing.map(|viewing| viewing.size).or(exec.terminal).unwrap_or(DEFAULT_SIZE));
        exec.terminal = Some(size);
        if *self.guest.paused.borrow() {
            return Err(Error::new(ErrorKind::WrongState, "the sandbox is paused")
                .hint(format!("viv resume {}", self.guest.name)));
        }
        let lost = || Error::new(ErrorKind::Monitor, "the sandbox is ending");
        let link = self.guest.link().await.ok_or_else(lost)?;
        let mut stream = link.open(CONTROL_PORT).await.map_err(guest_is_silent)?;
        let (answer, rest) = ask(&mut stream, kind::EXEC, &exec).await?;
        let started: Started = answer.payload_as().map_err(broken)?;

        let (carrying, ended) = (self.carrying.clone(), self.ended.clone());
        carrying.send_modify(|count| *count += 1);
        let on_end = Box::new(move |report| {
            if ends_sandbox {
                // A monitor that hears no more is ending.
                let _ = ended.send(report);
            }
            carrying.send_modify(|count| *count -= 1);
        });
        let mut table = self.table();
        table.last_number += 1;
        let info = SessionInfo {
            number: table.last_number,
            name,
            command: exec.argv,
            user: exec.user,
            cwd: exec.cwd,
            environment: exec.env.into_keys().collect(),
            pid: started.pid,
            size,
            size_policy,
            began_at_unix_ms: now_unix_ms(),
            viewers: 0,
            ended: None,
        };
        let shared = Arc::new(Shared::new(info));
        let info = shared.info().clone();
        let (events, queue) = mpsc::channel(QUEUED_EVENTS);
        let recorder = Arc::clone(&self.recorder);
        let timeout = timeout_ms.map(Duration::from_millis);
        let session = Session::new(Arc::clone(&shared), stream, &rest, recorder, events.downgrade(), timeout, on_end);
        tokio::spawn(session.run(queue));
        table.sessions.insert(info.number, Handle { shared, events: events.clone() });
        table.forget();
        Ok(Begun { info, viewing, events })
    }
}

/// A session that was begun or asked about.
struct Begun {
    info: SessionInfo,
    viewing: Option<crate::sessions::Viewing>,
    events: mpsc::Sender<Event>,
}

/// A command for lists: its first words.
fn shown(argv: &[String]) -> Vec<String> {
    let mut left = SHOWN_COMMAND_BYTES;
    let fits = |word: &&String| {
        let rest = left.checked_sub(word.len().max(1));
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    let mut words: Vec<String> = argv.iter().take_while(fits).cloned().collect();
    if words.len() < argv.len() {
        words.push("…".to_owned());
    }
    words
}

async fn answer(stream: &mut UnixStream, answer: &SessionAnswer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn refuse(stream: &mut UnixStream, error: &Error) {
    // Whoever asked may be gone.
    let _ = answer(stream, &SessionAnswer::Refused(Report::from(error))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_far_as_they_fit() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(shown(&words(&["vim", "-u", "NONE"])), ["vim", "-u", "NONE"]);
        assert_eq!(shown(&words(&["sh", "-c", &"x".repeat(1000)])), ["sh", "-c", "…"]);
        assert_eq!(shown(&vec![String::new(); 1000]).len(), SHOWN_COMMAND_BYTES + 1);
        assert!(shown(&[]).is_empty());
        // Who keeps what sessions do is told all of it.
        let asked = words(&["sh", "-c", &"x".repeat(1000)]);
        let shared = Shared::new(info(1, None, None, asked.clone()));
        assert_eq!(shared.whole().command, asked);
        assert_eq!(shared.info().command, ["sh", "-c", "…"]);
    }

    fn info(number: u32, name: Option<&str>, ended: Option<u64>, command: Vec<String>) -> SessionInfo {
        SessionInfo {
            number,
            name: name.map(str::to_owned),
            command,
            user: "agent".to_owned(),
            cwd: String::new(),
            environment: Vec::new(),
            pid: 1,
            size: DEFAULT_SIZE,
            size_policy: crate::SizePolicy::default(),
            began_at_unix_ms: 0,
            viewers: 0,
            ended: ended.map(|at_unix_ms| crate::SessionEnd { at_unix_ms, report: None }),
        }
    }

    fn handle(table: &mut Table, name: Option<&str>, ended: Option<u64>) -> u32 {
        table.last_number += 1;
        let shared = Arc::new(Shared::new(info(table.last_number, name, ended, Vec::new())));
        table.sessions.insert(table.last_number, Handle { shared, events: mpsc::channel(1).0 });
        table.last_number
    }

    #[test]
    fn sessions_are_found_by_number_name_and_last_use() {
        let mut table = Table::default();
        let number = |table: &Table, wanted| table.find(wanted).map(|handle| handle.shared.info().number);
        assert_eq!(*number(&table, None).unwrap_err().kind(), ErrorKind::NotFound);
        let [first, second, ended] = [(None, None), (Some("build"), None), (Some("old"), Some(5))]
            .map(|(name, end)| handle(&mut table, name, end));
        assert_eq!(number(&table, None).unwrap(), second);
        assert_eq!(number(&table, Some("1")).unwrap(), first);
        assert_eq!(number(&table, Some("build")).unwrap(), second);
        assert_eq!(number(&table, Some("old")).unwrap(), ended);
        assert!(number(&table, Some("buil")).is_err());
        // A name can be used again once its session has ended.
        let newer = handle(&mut table, Some("old"), None);
        assert_eq!(number(&table, Some("old")).unwrap(), newer);
    }

    #[test]
    fn places_and_names_are_limited() {
        let mut table = Table::default();
        handle(&mut table, Some("build"), None);
        for bad in ["build", "1", "", "a b", "-x", &"n".repeat(33)] {
            assert_eq!(*table.reserve(Some(bad)).unwrap_err().kind(), ErrorKind::BadRequest, "{bad}");
        }
        table.reserve(Some("other")).unwrap();
        assert!(table.reserve(Some("other")).is_err());
        table.release(Some("other"));
        (1..MOST_SESSIONS).for_each(|_| table.reserve(None).unwrap());
        assert!(table.reserve(None).is_err());
        table.release(None);
        table.reserve(Some("other")).unwrap();
    }

    #[test]
    fn the_first_that_ended_are_forgotten() {
        let mut table = Table::default();
        let running = handle(&mut table, None, None);
        for at in 0..40 {
            handle(&mut table, None, Some(100 - at));
        }
        table.forget();
        assert_eq!(table.sessions.len(), MOST_ENDED_SESSIONS + 1);
        assert!(table.sessions.contains_key(&running) && table.sessions.contains_key(&2));
        assert!(!table.sessions.contains_key(&41));
    }
}
