//! The egress's process: serves one sandbox's network on a Unix socket.
//!
//! ```text
//!  accept ─ CONNECT <port> ─┬ names ─────── policy ─ resolver
//!                           ├ connections ─ policy ─ resolver ─ policy ─ connect ─ first bytes looked at ─ carry
//!                           ├ HTTP proxy ── the same
//!                           ├ gateway
//!                           └ SSH agent
//! ```
//!
//! One thread does all of it, apart from lookups and the log. Each connection is a task that holds little: bytes
//! are read into one buffer that all share, and only what the other side does not take yet is kept.

mod carry;
mod dial;
mod hello;
mod limits;
mod process;
mod proxy;
mod resolve;
mod streams;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use viv_proto::network::{CONNECT_PORT, GATEWAY_PORT, NAMES_PORT, PROXY_PORT, SSH_AGENT_PORT};
use viv_proto::port::{MAX_GREETING_BYTES, OK_LINE, parse_connect, refusal_line};

pub use hello::{Inspector, MAX_HELLO_BYTES, Verdict};
pub use process::egress_main;
pub use resolve::{HostResolver, Resolution, Resolve};

use crate::event::Via;
use crate::gateway::Gateway;
use crate::log::EventSink;
use crate::policy::Policy;
use crate::spec::EgressSpec;

/// Who connects says at once to which port.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// Connections that have not said so yet; more are not accepted.
const GREETINGS: usize = 256;

/// After a failure to accept, which is one of resources, it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The stream of a guest: what is read with a line stays in a small buffer.
type GuestStream = BufReader<UnixStream>;

/// One sandbox's network.
pub struct Egress {
    policy: Option<Policy>,
    names: resolve::Names,
    interfaces: dial::Interfaces,
    gates: limits::Gates,
    held: carry::Held,
    events: EventSink,
    ssh_agent: Option<PathBuf>,
    gateway: Option<Arc<Gateway>>,
}

impl Egress {
    /// By its specification, with the host's resolver or, in a test, another.
    #[must_use]
    pub fn new(
        spec: &EgressSpec,
        resolver: Arc<dyn Resolve>,
        gateway: Option<Arc<Gateway>>,
        events: EventSink,
    ) -> Arc<Self> {
        Arc::new(Self {
            policy: spec.policy.clone(),
            names: resolve::Names::new(resolver),
            interfaces: dial::Interfaces::default(),
            gates: limits::Gates::new(spec.limits, events.clone()),
            held: carry::Held::default(),
            events,
            ssh_agent: spec.ssh_agent.clone(),
            gateway,
        })
    }

    /// Serves whoever connects, until it is dropped.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let greetings = Arc::new(Semaphore::new(GREETINGS));
        loop {
            let Ok(greeting) = Arc::clone(&greetings).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let egress = Arc::clone(&self);
                    tokio::spawn(async move {
                        let mut stream = BufReader::with_capacity(1024, stream);
                        let port = timeout(GREETING_DEADLINE, greet(&mut stream)).await;
                        drop(greeting);
                        if let Ok(Ok(Some(port))) = port {
                            // A guest that has gone needs no answer, and nobody else is to be told.
                            let _ = egress.serve_port(port, stream).await;
                        }
                    });
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn serve_port(self: Arc<Self>, port: u32, mut stream: GuestStream) -> io::Result<()> {
        let policy = || self.policy.as_ref().ok_or_else(|| "this sandbox has no network".to_owned());
        match port {
            NAMES_PORT => {
                let admitted = policy().and_then(|policy| Ok((policy, self.gates.name_stream()?)));
                let Some((policy, _slot)) = begin(&mut stream, admitted).await? else { return Ok(()) };
                self.serve_names(policy, stream).await
            }
            CONNECT_PORT => {
                let admitted = policy().and_then(|policy| Ok((policy, self.gates.connection(Via::Tcp)?)));
                let Some((policy, _slot)) = begin(&mut stream, admitted).await? else { return Ok(()) };
                self.serve_connection(policy, stream).await
            }
            PROXY_PORT => {
                let admitted = policy().and_then(|_| self.gates.connection(Via::Proxy));
                let Some(slot) = begin(&mut stream, admitted).await? else { return Ok(()) };
                proxy::serve(Arc::clone(&self), stream, slot).await;
                Ok(())
            }
            GATEWAY_PORT => {
                let gateway = self.gateway.clone().ok_or_else(|| "this sandbox has no model gateway".to_owned());
                let admitted = gateway.and_then(|gateway| Ok((gateway, self.gates.gateway()?)));
                let Some((gateway, _slot)) = begin(&mut stream, admitted).await? else { return Ok(()) };
                gateway.serve(stream).await;
                Ok(())
            }
            SSH_AGENT_PORT => {
                let admitted = match self.gates.connection(Via::Tcp) {
                    Ok(slot) => self.ssh_agent().await.map(|agent| (agent, slot)),
                    Err(reason) => Err(reason),
                };
                let Some((agent, _slot)) = begin(&mut stream, admitted).await? else { return Ok(()) };
                self.serve_ssh_agent(stream, agent).await;
                Ok(())
            }
            other => begin(&mut stream, Err::<(), _>(format!("no such port: {other}"))).await.map(|_| ()),
        }
    }
}

/// The port that was asked for; `None` for what is no question.
async fn greet(stream: &mut GuestStream) -> io::Result<Option<u32>> {
    let line = streams::read_line(stream, MAX_GREETING_BYTES).await?;
    Ok(line.and_then(|line| parse_connect(&line).ok()))
}

/// Answers the greeting: `None` if it was refused.
async fn begin<T>(stream: &mut GuestStream, admitted: Result<T, String>) -> io::Result<Option<T>> {
    match admitted {
        Ok(admitted) => {
            stream.write_all(OK_LINE.as_bytes()).await?;
            Ok(Some(admitted))
        }
        Err(reason) => {
            stream.write_all(refusal_line(&reason).as_bytes()).await?;
            Ok(None)
        }
    }
}
