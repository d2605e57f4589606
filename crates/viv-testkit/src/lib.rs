//! What tests of Vivarium are made with: a scripted stand-in for hosted model APIs, and a server of files.
//!
//! The model speaks Anthropic Messages, OpenAI Responses and Chat Completions and Gemini's generateContent, as
//! streams and as plain JSON, well enough for the real command-line agents. It demands a key, follows a
//! script, writes down what it was asked, and fails as told.
//!
//! ```
//! use viv_testkit::{Options, ScriptedModel, Step};
//!
//! let model = ScriptedModel::start(Options {
//!     script: vec![Step::shell("echo hello > hello.txt"), Step::text("done")],
//!     key: Some("the real key".into()),
//!     ..Options::default()
//! });
//! assert!(model.url().starts_with("http://127.0.0.1:"));
//! assert!(model.requests().is_empty());
//! ```
//!
//! Which step is next follows from the request alone (turns since the last prompt), so agents may run side by
//! side and resume. A prompt may bring a script of its own: `FAKE_SCRIPT=[{"shell":"ls"},{"text":"ok"}]`.

mod files;
mod reply;
mod script;
mod server;
mod tls;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

pub use files::FileServer;
pub use script::{Action, Step};

/// How a model is.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it does, turn by turn; then it says `done`.
    pub script: Vec<Step>,
    /// The key it demands; without one, any will do.
    pub key: Option<String>,
    /// What it says that a turn used; without it, a token per four bytes of the request, and 20.
    pub usage: Option<Usage>,
    /// The names and addresses its certificate is for; without any, it speaks plain HTTP.
    pub tls: Vec<String>,
    /// Each event of a stream, or the fault in its place, waits for [`ScriptedModel::release`].
    pub gated: bool,
    /// Where it listens; port 0 is any.
    pub address: SocketAddr,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            script: Vec::new(),
            key: None,
            usage: None,
            tls: Vec::new(),
            gated: false,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }
}

/// Tokens that a turn used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Input that was not cached.
    pub input: u64,
    /// Input read from a cache.
    pub cached: u64,
    /// Input written to a cache; Anthropic alone tells it.
    pub cache_write: u64,
    /// Output.
    pub output: u64,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is answered.
    StallBeforeHeaders,
    /// Nothing follows these many events of the stream.
    StallAfter(usize),
    /// The connection is reset after these many events of the stream. What the other side has not read by then is lost:
    /// gate the stream to be sure of it.
    ResetAfter(usize),
    /// The answer ends before the length it told.
    ShortBody,
    /// An error with this status, in the provider's shape.
    Status(u16),
    /// A page of HTML, with status 200.
    NotJson,
    /// A redirect to this very server, under `/elsewhere`.
    Redirect,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its path, query included.
    pub path: String,
    /// Its headers, names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// What was answered; 0 if nothing was.
    pub status: u16,
}

impl Request {
    /// The first header of a name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A running model. It ends when dropped.
pub struct ScriptedModel {
    shared: Arc<Shared>,
    address: SocketAddr,
    authority: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    options: Options,
    state: Mutex<State>,
    asked: Condvar,
    gate: Semaphore,
}

#[derive(Default)]
struct State {
    key: Option<String>,
    faults: VecDeque<Fault>,
    grants: BTreeMap<String, Value>,
    requests: Vec<Request>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScriptedModel {
    /// Starts one, in a thread of its own.
    ///
    /// # Panics
    ///
    /// If the host has no more ports, threads or entropy: tests cannot go on without.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let listener = std::net::TcpListener::bind(options.address).expect("a port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("an address");
        let tls = (!options.tls.is_empty()).then(|| tls::identity(&options.tls));
        let (acceptor, authority) = tls.map_or((None, None), |(acceptor, pem)| (Some(acceptor), Some(pem)));
        let state = State { key: options.key.clone(), ..State::default() };
        let shared =
            Arc::new(Shared { options, state: Mutex::new(state), asked: Condvar::new(), gate: Semaphore::new(0) });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // In this thread, since the caller's may have a runtime of its own.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = server::serve(listener, acceptor, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { shared, address, authority, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate authority that signed its certificate, as PEM.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Demands another key from now on.
    pub fn rotate_key(&self, key: &str) {
        self.shared.state().key = Some(key.to_owned());
    }

    /// Fails the next request that asks a model for something; those after it by further calls.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.state().faults.push_back(fault);
    }

    /// Lets these many more events of gated streams pass.
    pub fn release(&self, events: usize) {
        self.shared.gate.add_permits(events);
    }

    /// Answers one `POST /oauth/token` that brings this refresh token; another one with it is refused.
    pub fn grant(&self, refresh_token: &str, answer: Value) {
        self.shared.state().grants.insert(refresh_token.to_owned(), answer);
    }

    /// What it was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Waits until it was asked these many times.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute.
    pub fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut state = self.shared.state();
        while state.requests.len() < count {
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("{} requests of {count}", state.requests.len()));
            (state, _) = self.shared.asked.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.requests.clone()
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
