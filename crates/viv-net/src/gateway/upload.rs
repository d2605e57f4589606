//! A request's body on its way to an upstream: passed on as it comes, watched for the model's name,
//! bounded, and kept while it is short, so that it can be sent again with another key.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::answer::{Fault, Trouble};
use super::ledger;
use super::meter::model_name;
use super::scan::{Found, Interest, Scanner, Watch};

/// The longest body passed on, in bytes.
pub(super) const LONGEST_BODY: u64 = 64 << 20;

/// The longest body kept for sending it again, in bytes.
const LONGEST_KEPT: usize = 1 << 20;

/// How long a client may pause within a body.
const CLIENT_DEADLINE: Duration = Duration::from_secs(120);

static WATCHES: &[Watch] = &[Watch { path: &["model"], interest: Interest::Text }];

/// Which models may be called; under a budget in dollars, only those with a price.
pub(super) type ModelCheck = Option<Box<dyn Fn(&str) -> bool + Send>>;

/// A body, from which any number of [`UploadBody`] can be made one after the other.
pub(super) struct Upload(Mutex<State>);

struct State {
    incoming: Incoming,
    /// From the first byte on, unless that has become too much.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    hint: SizeHint,
    passed: u64,
    ended: bool,
    scanner: Scanner,
    model: Option<String>,
    /// Two names, of which the upstream may take either.
    ambiguous: bool,
    check: ModelCheck,
    refused: Option<Trouble>,
    deadline: Pin<Box<Sleep>>,
    /// Which body reads: the latest.
    reader: u32,
}

impl Upload {
    /// The model is named in the path already, or in the body.
    pub(super) fn new(incoming: Incoming, model: Option<String>, check: ModelCheck) -> Arc<Self> {
        let hint = incoming.size_hint();
        Arc::new(Self(Mutex::new(State {
            ended: incoming.is_end_stream(),
            incoming,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            hint,
            passed: 0,
            scanner: Scanner::new(WATCHES),
            model,
            ambiguous: false,
            check,
            refused: None,
            deadline: Box::pin(tokio::time::sleep(CLIENT_DEADLINE)),
            reader: 0,
        })))
    }

    /// The body from its beginning, if all of it so far is kept. Earlier ones end with an error.
    pub(super) fn body(self: &Arc<Self>) -> Option<UploadBody> {
        let mut state = self.state();
        state.kept.as_ref()?;
        state.reader += 1;
        Some(UploadBody { upload: Arc::clone(self), reader: state.reader, position: 0 })
    }

    /// Why it was not passed on, if it was not.
    pub(super) fn refused(&self) -> Option<Trouble> {
        self.state().refused.clone()
    }

    /// The model it names, as far as it has come.
    pub(super) fn model(&self) -> Option<String> {
        self.state().model.clone()
    }

    /// Bytes passed on.
    pub(super) fn passed(&self) -> u64 {
        self.state().passed
    }

    /// Whether it can be sent once more.
    pub(super) fn is_kept(&self) -> bool {
        self.state().kept.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Looks at bytes before they are passed on.
    fn look(&mut self, data: &Bytes) -> Result<(), Trouble> {
        self.passed += data.len() as u64;
        if self.passed > LONGEST_BODY {
            return Err(too_large());
        }
        let Self { scanner, model, ambiguous, .. } = self;
        scanner.push(data, &mut |found| {
            let Found::Text(_, text) = found else { return };
            let name = serde_json::from_slice::<String>(text).ok().and_then(|name| model_name(&name));
            *ambiguous |= model.is_some() && *model != name;
            *model = name;
        });
        self.ended = self.hint.exact() == Some(self.passed);
        self.check(self.ended)
    }

    /// Under a budget in dollars, the end of a body is not passed on before its model is known: upstreams
    /// begin when they have all of it.
    fn check(&self, ended: bool) -> Result<(), Trouble> {
        let Some(check) = &self.check else { return Ok(()) };
        match self.model.as_deref().filter(|_| !self.ambiguous) {
            Some(model) if check(model) => Ok(()),
            None if !ended && !self.ambiguous => Ok(()),
            model => Err(ledger::unpriced(model)),
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Trouble>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Pending => {
                    ready!(self.deadline.as_mut().poll(context));
                    let message = format!("no byte of the request within {} seconds", CLIENT_DEADLINE.as_secs());
                    return Poll::Ready(Some(Err(Trouble::new(Fault::SlowClient, message))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.deadline.as_mut().reset(Instant::now() + CLIENT_DEADLINE);
                    // Trailers are not passed on: no provider knows any.
                    let Ok(data) = frame.into_data() else { continue };
                    return Poll::Ready(Some(self.look(&data).map(|()| data)));
                }
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Some(Err(Trouble::new(Fault::Request, "the request broke off"))));
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    return Poll::Ready(self.check(true).err().map(Err));
                }
            }
        }
    }
}

pub(super) fn too_large() -> Trouble {
    Trouble::new(Fault::TooLarge, format!("the request is longer than {} MiB", LONGEST_BODY >> 20))
}

/// One sending of a body.
pub(super) struct UploadBody {
    upload: Arc<Upload>,
    reader: u32,
    position: usize,
}

/// The body was not sent whole; why is for [`Upload::refused`] to say.
#[derive(Debug)]
pub(super) struct NotSent;

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not passed on")
    }
}

impl std::error::Error for NotSent {}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = NotSent;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NotSent>>> {
        let upload = Arc::clone(&self.upload);
        let mut state = upload.state();
        if state.reader != self.reader || state.refused.is_some() {
            return Poll::Ready(Some(Err(NotSent)));
        }
        if let Some(data) = state.kept.as_ref().and_then(|kept| kept.get(self.position)) {
            self.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        match ready!(state.poll_next(context)) {
            None => Poll::Ready(None),
            Some(Ok(data)) => {
                state.kept_bytes += data.len();
                let keeps = state.kept_bytes <= LONGEST_KEPT;
                if let Some(kept) = state.kept.as_mut().filter(|_| keeps) {
                    kept.push(data.clone());
                    self.position += 1;
                } else {
                    state.kept = None;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(trouble)) => {
                state.refused = Some(trouble);
                Poll::Ready(Some(Err(NotSent)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.upload.state();
        state.ended && state.kept.as_ref().is_none_or(|kept| kept.len() <= self.position)
    }

    fn size_hint(&self) -> SizeHint {
        // Asked for before the first byte is sent: the whole.
        self.upload.state().hint
    }
}
