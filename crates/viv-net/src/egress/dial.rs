//! From a request to a connection, or to the one reason why there is none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Egress;
use super::carry::Counts;
use super::hello::Inspector;
use super::resolve::Resolution;
use crate::event::{Denial, Via, What};
use crate::log::EventSink;
use crate::policy::{Grant, Host, HostAddresses, Policy, Request};

/// An upstream that has not answered by then, at any of its addresses, has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long one address is tried alone (RFC 8305, section 5: "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A silent connection is probed after this time: an upstream that has vanished does not hold a slot for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long the addresses of the host's interfaces are believed.
const INTERFACES_FRESH: Duration = Duration::from_secs(2);

/// A connection that policy allowed.
pub(super) struct Upstream {
    pub(super) stream: TcpStream,
    pub(super) account: Account,
    /// What to hold the guest's first bytes against.
    pub(super) inspector: Option<Inspector>,
}

/// Why there is no connection. All of them are in the log already.
#[derive(Debug)]
pub(super) enum Refusal {
    Denied(Denial),
    /// A limit: the same again, later, may do.
    Excess(String),
    /// Allowed, but not to be had.
    Failed(Failure),
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) timed_out: bool,
}

/// A connection in the log: its end is written when this is dropped, however that comes.
pub(super) struct Account {
    pub(super) counts: Counts,
    events: EventSink,
    via: Via,
    host: String,
    port: u16,
    since: Instant,
}

impl Account {
    /// The upstream broke off.
    pub(super) fn failed(&self, reason: String) {
        let (via, host, port) = (self.via, self.host.clone(), self.port);
        self.events.record(What::Failed { via, host, port, reason });
    }

    /// What the guest said first was refused.
    pub(super) fn refused(&self, reason: String) {
        let request = Request { via: self.via, host: &self.host, port: self.port };
        self.events.record(What::Denied(request.denial("tls-server-name", reason, None)));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.events.record(What::Closed {
            host: std::mem::take(&mut self.host),
            port: self.port,
            sent: self.counts.sent.load(Ordering::Relaxed),
            received: self.counts.received.load(Ordering::Relaxed),
            milliseconds: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }
}

impl Egress {
    /// Connects, if policy allows it.
    pub(super) async fn dial(&self, policy: &Policy, request: Request<'_>) -> Result<Upstream, Refusal> {
        self.gates.attempt(request.via).map_err(Refusal::Excess)?;
        let deny = |denial: Denial| {
            self.events.record(What::Denied(denial.clone()));
            Refusal::Denied(denial)
        };
        let (host, grant) = policy.decide_connection(&request).map_err(deny)?;
        let shown = host.to_string();
        let fail = |reason: String, timed_out: bool| {
            let (via, host, port) = (request.via, shown.clone(), request.port);
            self.events.record(What::Failed { via, host, port, reason: reason.clone() });
            Refusal::Failed(Failure { reason, timed_out })
        };
        let addresses = match self.resolve(&host).await {
            Resolution::Addresses(addresses) => addresses,
            Resolution::Unknown => return Err(fail(format!("the host knows no address of {shown}"), false)),
            Resolution::Failed(reason) => return Err(fail(format!("{shown} could not be resolved: {reason}"), true)),
        };
        let addresses = self.permitted(policy, &request, &host, &addresses, grant).map_err(deny)?;
        let (stream, address) = match timeout(DEADLINE, race(&addresses, request.port)).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(fail(error.to_string(), error.kind() == io::ErrorKind::TimedOut)),
            Err(_) => return Err(fail(format!("no answer within {} s", DEADLINE.as_secs()), true)),
        };
        self.events.record(What::Connected {
            via: request.via,
            host: shown.clone(),
            port: request.port,
            address,
            rule: grant.to_string(),
        });
        let account = Account {
            counts: Counts::default(),
            events: self.events.clone(),
            via: request.via,
            host: shown,
            port: request.port,
            since: Instant::now(),
        };
        let inspector = match &host {
            Host::Name(name) => Some(Inspector::new(name)),
            Host::Address(_) => None,
        };
        Ok(Upstream { stream, account, inspector })
    }

    pub(super) async fn resolve(&self, host: &Host) -> Resolution {
        match host {
            Host::Address(address) => Resolution::Addresses(vec![*address]),
            Host::Name(name) => self.names.resolve(name).await,
        }
    }

    /// Those of a host's addresses that may be connected to; if there is none, why the first may not.
    pub(super) fn permitted(
        &self,
        policy: &Policy,
        request: &Request<'_>,
        host: &Host,
        addresses: &[IpAddr],
        grant: Grant<'_>,
    ) -> Result<Vec<IpAddr>, Denial> {
        let own = self.interfaces.addresses();
        let mut permitted = Vec::with_capacity(addresses.len());
        let mut first_denial = None;
        for address in addresses {
            match policy.decide_address(request, host, *address, grant, &own) {
                Ok(()) => permitted.push(address.to_canonical()),
                Err(denial) => drop(first_denial.get_or_insert(denial)),
            }
        }
        match first_denial {
            Some(denial) if permitted.is_empty() => Err(denial),
            _ => Ok(permitted),
        }
    }
}

/// Connects to the first of the addresses that answers: one after the other, each with a head start (RFC 8305).
async fn race(addresses: &[IpAddr], port: u16) -> io::Result<(TcpStream, IpAddr)> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if attempts.is_empty() {
            let Some(address) = waiting.next() else { return Err(failure) };
            attempts.push(connect(address, port));
        }
        tokio::select! {
            Some(outcome) = attempts.next() => match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    failure = error;
                    attempts.extend(waiting.next().map(|address| connect(address, port)));
                }
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {
                attempts.extend(waiting.next().map(|address| connect(address, port)));
            }
        }
    }
}

async fn connect(address: IpAddr, port: u16) -> io::Result<(TcpStream, IpAddr)> {
    let stream = TcpStream::connect(SocketAddr::new(address, port)).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    Ok((stream, address))
}

/// The addresses of the host's interfaces, which come and go.
#[derive(Default)]
pub(super) struct Interfaces {
    last: Mutex<Option<(HostAddresses, Instant)>>,
}

impl Interfaces {
    fn addresses(&self) -> HostAddresses {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((addresses, at)) = &*last
            && at.elapsed() < INTERFACES_FRESH
        {
            return addresses.clone();
        }
        // If the kernel does not say, what it said before still holds.
        if let Ok(interfaces) = getifaddrs() {
            let addresses = interfaces.filter_map(|interface| ip_of(&interface.address?)).collect();
            *last = Some((addresses, Instant::now()));
        }
        last.as_ref().map(|(addresses, _)| addresses.clone()).unwrap_or_default()
    }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = || address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
    v4().or_else(v6)
}
