//! How much a guest may ask for at once: whatever it does, the egress stays small.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::event::{Denial, Via, What};
use crate::log::EventSink;
use crate::spec::Limits;

/// Streams of questions for names: a guest needs one.
const NAME_STREAMS: usize = 64;

/// Connections to the model gateway, apart from all others: a guest that uses up those still has its model.
const GATEWAY_CONNECTIONS: usize = 256;

/// The rule that a [`Denial`] names when a limit refused.
pub(super) const LIMIT: &str = "limit";

/// An open connection: counted until it is dropped.
pub(super) type Slot = OwnedSemaphorePermit;

/// What is counted.
pub(super) struct Gates {
    limits: Limits,
    connections: Arc<Semaphore>,
    name_streams: Arc<Semaphore>,
    gateway: Arc<Semaphore>,
    connect_rate: Bucket,
    name_rate: Bucket,
    told: Mutex<Option<Instant>>,
    events: EventSink,
}

impl Gates {
    pub(super) fn new(limits: Limits, events: EventSink) -> Self {
        Self {
            limits,
            connections: Arc::new(Semaphore::new(limits.connections as usize)),
            name_streams: Arc::new(Semaphore::new(NAME_STREAMS)),
            gateway: Arc::new(Semaphore::new(GATEWAY_CONNECTIONS)),
            connect_rate: Bucket::new(limits.connections_per_second),
            name_rate: Bucket::new(limits.names_per_second),
            told: Mutex::default(),
            events,
        }
    }

    /// One more open connection.
    pub(super) fn connection(&self, via: Via) -> Result<Slot, String> {
        let reason = || format!("more than {} connections are open", self.limits.connections);
        Arc::clone(&self.connections).try_acquire_owned().map_err(|_| self.excess(via, reason()))
    }

    /// One more stream of questions for names.
    pub(super) fn name_stream(&self) -> Result<Slot, String> {
        let reason = || format!("more than {NAME_STREAMS} streams ask for names");
        Arc::clone(&self.name_streams).try_acquire_owned().map_err(|_| self.excess(Via::Name, reason()))
    }

    /// One more connection to the model gateway.
    pub(super) fn gateway(&self) -> Result<Slot, String> {
        let reason = || format!("more than {GATEWAY_CONNECTIONS} connections to the model gateway are open");
        Arc::clone(&self.gateway).try_acquire_owned().map_err(|_| self.excess(Via::Tcp, reason()))
    }

    /// One more attempt to connect.
    pub(super) fn attempt(&self, via: Via) -> Result<(), String> {
        let reason = || format!("more than {} connections in a second", self.limits.connections_per_second);
        if self.connect_rate.take() { Ok(()) } else { Err(self.excess(via, reason())) }
    }

    /// One more question for a name.
    pub(super) fn name(&self) -> Result<(), String> {
        let reason = || format!("more than {} names in a second", self.limits.names_per_second);
        if self.name_rate.take() { Ok(()) } else { Err(self.excess(Via::Name, reason())) }
    }

    /// Tells of it, but not more than once a second, whichever limit it is.
    fn excess(&self, via: Via, reason: String) -> String {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|last| now - last >= Duration::from_secs(1)) {
            *told = Some(now);
            let denial = Denial { via, host: "*".into(), port: 0, rule: LIMIT.into(), reason, allow: None };
            self.events.record(What::Denied(denial.clone()));
            return denial.reason;
        }
        reason
    }
}

/// A token bucket: so many a second on average, twice as many at once.
struct Bucket {
    per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, state: Mutex::new((2.0 * per_second, Instant::now())) }
    }

    fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, last) = &mut *state;
        let passed = now.saturating_duration_since(*last).as_secs_f64();
        *tokens = (*tokens + passed * self.per_second).min(2.0 * self.per_second);
        *last = now;
        let enough = *tokens >= 1.0;
        if enough {
            *tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_twice_its_rate_and_fills_at_its_rate() {
        let bucket = Bucket::new(10);
        let start = Instant::now();
        let taken = |at| std::iter::repeat_with(|| bucket.take_at(at)).take_while(|taken| *taken).count();
        assert_eq!(taken(start), 20);
        assert_eq!(taken(start + Duration::from_millis(550)), 5);
        assert_eq!(taken(start + Duration::from_secs(60)), 20);
    }

    #[test]
    fn excess_is_refused_at_once_and_told_once() {
        let (events, told) = EventSink::channel(16);
        let gates = Gates::new(Limits { connections: 2, connections_per_second: 1, names_per_second: 1 }, events);
        let slots = [gates.connection(Via::Tcp).unwrap(), gates.connection(Via::Tcp).unwrap()];
        assert_eq!(gates.connection(Via::Tcp).unwrap_err(), "more than 2 connections are open");
        assert!(gates.connection(Via::Proxy).is_err());
        drop(slots);
        assert!(gates.connection(Via::Tcp).is_ok());
        assert!(matches!(told.try_recv().unwrap().what, What::Denied(Denial { rule, .. }) if rule == LIMIT));
        assert!(told.try_recv().is_err());
    }
}
