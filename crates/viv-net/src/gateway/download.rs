//! An answer on its way to the guest: passed on as it comes, metered, and cut where a budget ends.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Protocol;
use super::answer::{self, Fault, Trouble};
use super::ledger::Call;
use super::meter::Meter;
use super::upload::Upload;
use crate::event::What;
use crate::log::EventSink;

/// Tells the log of a call, once, when it is over.
pub(super) struct Report {
    pub(super) events: EventSink,
    pub(super) upstream: String,
    pub(super) agent: u32,
    pub(super) began: std::time::Instant,
    pub(super) status: u16,
    pub(super) model: Option<String>,
}

impl Report {
    pub(super) fn refused(&self, reason: &str) {
        self.events.record(What::Refused {
            upstream: self.upstream.clone(),
            agent: self.agent,
            reason: reason.to_owned(),
        });
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.status != 0 {
            self.events.record(What::Call {
                upstream: std::mem::take(&mut self.upstream),
                agent: self.agent,
                model: self.model.take(),
                status: self.status,
                milliseconds: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
    }
}

/// An answer's use of tokens. Dropped, however the answer ended, it counts what was seen.
pub(super) struct Metering {
    pub(super) meter: Meter,
    pub(super) call: Call,
    pub(super) upload: Arc<Upload>,
    /// Whether tokens that the provider does not tell may be estimated.
    pub(super) estimates: bool,
    pub(super) report: Report,
}

impl Metering {
    fn name_model(&mut self) {
        if let Some(model) = self.upload.model() {
            self.call.name_model(&model);
        }
        if let Some(model) = self.meter.model() {
            self.call.name_model(model);
        }
    }

    /// Which budget this answer passes by now, if one.
    fn passes(&mut self) -> Option<String> {
        self.name_model();
        let passed = self.call.update(self.meter.tokens(), true)?;
        (!self.meter.is_whole()).then_some(passed)
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        self.name_model();
        if self.estimates || self.meter.told() {
            let (tokens, estimated) = self.meter.total(self.upload.passed());
            self.call.update(tokens, estimated);
        } else {
            self.call.update(super::Tokens::default(), false);
        }
        self.report.model = self.call.model().map(str::to_owned);
    }
}

/// The body of an answer.
pub(super) struct Download {
    pub(super) incoming: Incoming,
    pub(super) protocol: Protocol,
    pub(super) stream: bool,
    /// None where the request was no call, or was refused by the upstream.
    pub(super) metering: Option<Metering>,
    pub(super) report: Option<Report>,
    deadline: Pin<Box<Sleep>>,
    patience: Duration,
    /// What is still to be passed on before the end.
    last: VecDeque<Bytes>,
    over: bool,
}

impl Download {
    pub(super) fn new(incoming: Incoming, protocol: Protocol, stream: bool, patience: Duration) -> Self {
        Self {
            incoming,
            protocol,
            stream,
            metering: None,
            report: None,
            deadline: Box::pin(tokio::time::sleep(patience)),
            patience,
            last: VecDeque::new(),
            over: false,
        }
    }

    /// Reads what passes; a stream is cut behind the event with which it passes a budget.
    fn meter(&mut self, data: Bytes) -> Bytes {
        let Some(metering) = &mut self.metering else { return data };
        if !self.stream {
            metering.meter.read(&data);
            return data;
        }
        let mut at = 0;
        while at < data.len() {
            let (passed, ended) = metering.meter.read(&data[at..]);
            at += passed;
            if !ended {
                continue;
            }
            if let Some(reason) = metering.passes() {
                metering.report.refused(&reason);
                let trouble = Trouble::new(Fault::Budget, reason);
                self.last.push_back(answer::event(self.protocol, metering.meter.dialect(), &trouble));
                self.over = true;
                return data.slice(..at);
            }
        }
        data
    }

    /// Nothing more came: told to a client that is between two events, else the connection breaks.
    fn stalled(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        self.over = true;
        let meter = self.metering.as_ref().map(|metering| &metering.meter);
        match meter.filter(|meter| self.stream && meter.between_events()) {
            Some(meter) => {
                let trouble = Trouble::new(Fault::Stalled, stalled(self.patience));
                Some(Ok(Frame::data(answer::event(self.protocol, meter.dialect(), &trouble))))
            }
            None => Some(Err(Broken)),
        }
    }
}

pub(super) fn stalled(patience: Duration) -> String {
    format!("the upstream has sent nothing for {} s", patience.as_secs())
}

/// The upstream's answer broke off, and so does ours.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream's answer broke off")
    }
}

impl std::error::Error for Broken {}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(data) = self.last.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.incoming).poll_frame(context) {
                Poll::Pending => {
                    return match self.deadline.as_mut().poll(context) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(()) => Poll::Ready(self.stalled()),
                    };
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let patience = self.patience;
                    self.deadline.as_mut().reset(Instant::now() + patience);
                    let Ok(data) = frame.into_data() else { continue };
                    return Poll::Ready(Some(Ok(Frame::data(self.meter(data)))));
                }
                Poll::Ready(Some(Err(_))) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(Broken)));
                }
                Poll::Ready(None) => {
                    self.over = true;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_empty() && (self.over || self.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // A stream may end before its time, with an event of ours.
        if self.stream { SizeHint::default() } else { self.incoming.size_hint() }
    }
}
