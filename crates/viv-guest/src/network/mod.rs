//! The network of a guest: what its programs reach, and how.
//!
//! ```text
//!  connect(2) ─ route `local` ─ steer ─► forward ─ relay ─► CONNECT_PORT   ┐
//!  getaddrinfo(3), dig ─────────────────► resolver ─ names ─► NAMES_PORT   │ streams of the link,
//!  HTTP_PROXY, 127.0.0.1:3128 ──────────► forward ─ relay ─► PROXY_PORT    │ opened by the guest
//!  model APIs, 127.0.0.1:4180 ──────────► forward ─ relay ─► GATEWAY_PORT  │
//!  SSH_AUTH_SOCK ───────────────────────► forward ─ relay ─► SSH_AGENT_PORT┘
//!  a server on 127.0.0.1:PORT ◄────────── forward ◄───────── FORWARD_PORT, opened by the host
//! ```
//!
//! Why it is done this way: docs/decisions/014-capture-by-socket-lookup.md.

mod capture;
mod device;
mod forward;
pub mod message;
mod names;
mod netlink;
mod pool;
mod resolver;
mod steer;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use viv_link::{Link, Request};
use viv_proto::message::{self as wire, FailureKind, NetworkWay, User};
use viv_proto::network::{GATEWAY_LISTENER, GATEWAY_PORT, PROXY_LISTENER, PROXY_PORT, SSH_AGENT_PORT};

use crate::error::{Context, Error, Result, error};
use crate::identity::is_plain_path;
use crate::modules;
use capture::Capture;
use device::Plan;
use forward::{Forwarder, MAX_FORWARDS};
use names::{CurrentLink, Names};
use pool::Pool;
use resolver::Resolver;

/// The machine's network.
pub struct Network {
    link: CurrentLink,
    /// Made before it is known whether it is needed, in a template's maker.
    prepared: Mutex<Option<Result<Capture>>>,
    forwards: Arc<Semaphore>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            link: CurrentLink::default(),
            prepared: Mutex::default(),
            forwards: Arc::new(Semaphore::new(MAX_FORWARDS)),
        }
    }
}

/// What /etc/resolv.conf says.
#[must_use]
pub fn resolver_configuration(name_servers: &[IpAddr], options: &str) -> String {
    let lines = name_servers.iter().map(|server| format!("nameserver {server}\n"));
    lines.chain((!options.is_empty()).then(|| format!("options {options}\n"))).collect()
}

impl Network {
    /// A new session of the link has begun.
    pub fn set_link(&self, link: Link) {
        self.link.set(link);
    }

    /// Does what is the same in every sandbox with a filtered network. Whether it could be done matters
    /// only to those.
    pub fn prepare(&self) {
        let capture = Capture::new().context(|| {
            "cannot take connections: a filtered network needs a kernel with IPv6 and BPF (CONFIG_BPF_SYSCALL)"
                .to_owned()
        });
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(capture);
    }

    /// Makes it what was asked for. Returns what /etc/resolv.conf has to say. Called within the runtime.
    ///
    /// # Errors
    /// What was asked for and cannot be had.
    pub fn configure(&self, wanted: &wire::Network, hostname: &str, user: &User) -> Result<String> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let forwarder = Forwarder::new(self.link.clone());
        let resolver_configuration = match &wanted.way {
            NetworkWay::None => {
                modules::forget_network();
                String::new()
            }
            NetworkWay::Filtered => {
                modules::forget_network();
                let capture = prepared.unwrap_or_else(|| Err(unprepared()))?;
                self.filter(capture, &forwarder, hostname).context(|| "cannot set the network up".to_owned())?;
                // Longer than an answer of the host may take (see `names`), which always comes.
                resolver_configuration(&[capture::NAME_SERVER.into()], "timeout:10 attempts:2")
            }
            NetworkWay::Device(device) => {
                let plan = Plan::read(device)?;
                plan.carry_out()?;
                resolver_configuration(&plan.name_servers, "")
            }
        };
        if wanted.gateway {
            listen(&forwarder, GATEWAY_LISTENER, GATEWAY_PORT)
                .context(|| "cannot listen for the model gateway".to_owned())?;
        }
        if let Some(path) = &wanted.ssh_agent {
            serve_ssh_agent(&forwarder, Path::new(path), user).context(|| format!("cannot listen on {path}"))?;
        }
        Ok(resolver_configuration)
    }

    fn filter(&self, capture: Capture, forwarder: &Forwarder, hostname: &str) -> io::Result<()> {
        let (listener, name_server) = capture.start()?;
        let pool = Pool::default();
        let resolver = Resolver::new(Names::new(self.link.clone()), pool.clone(), hostname);
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(forwarder.clone().serve_captured(listener, pool, resolver.clone()));
        tokio::spawn(async move {
            let reason = resolver.serve(name_server).await;
            crate::console::say(&format!("names are not answered any more: {reason}"));
        });
        listen(forwarder, PROXY_LISTENER, PROXY_PORT)
    }

    /// Answers a stream to [`viv_proto::network::FORWARD_PORT`].
    pub async fn forward(&self, request: Request) {
        let Ok(_place) = Arc::clone(&self.forwards).try_acquire_owned() else {
            return request.refuse("too many connections at once").await;
        };
        let Some(link) = self.link.get() else { return };
        if let Ok(stream) = request.accept().await {
            // If the stream failed there is no one to tell.
            let _ = forward::serve_forward(stream, &link).await;
        }
    }
}

fn unprepared() -> Error {
    error(FailureKind::Internal, "the network was not prepared")
}

/// Checks what [`Network::configure`] would stumble over.
///
/// # Errors
/// [`FailureKind::BadRequest`], naming the field.
pub fn check(wanted: &wire::Network) -> Result<()> {
    if let NetworkWay::Device(device) = &wanted.way {
        Plan::read(device)?;
    }
    match &wanted.ssh_agent {
        Some(path) if !is_plain_path(Path::new(path)) => {
            Err(error(FailureKind::BadRequest, "configure: the SSH agent's socket is not a plain absolute path"))
        }
        _ => Ok(()),
    }
}

fn listen(forwarder: &Forwarder, listener: u16, port: u32) -> io::Result<()> {
    for listener in forward::listen_on_loopback(listener)? {
        tokio::spawn(forwarder.clone().serve_tcp(listener, port));
    }
    Ok(())
}

/// The socket is the user's alone.
fn serve_ssh_agent(forwarder: &Forwarder, path: &Path, user: &User) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))?;
    tokio::spawn(forwarder.clone().serve_unix(listener, SSH_AGENT_PORT));
    Ok(())
}
