//! The plain ones of the egress's ports: names, connections, the SSH agent.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use viv_proto::network::{ConnectAnswer, ConnectRequest, MAX_REQUEST_BYTES, NameAnswer, NameQuery};

use super::carry::{Counts, End, carry};
use super::dial::{Refusal, Upstream};
use super::hello::ACCESS_DENIED;
use super::resolve::Resolution;
use super::{Egress, GuestStream};
use crate::event::{Denial, Via, What};
use crate::policy::{Policy, Request};

/// Reads a line, without its newline; `None` at the end, for one that does not end, and for one that is too long.
pub(super) async fn read_line(stream: &mut GuestStream, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(max_bytes as u64).read_until(b'\n', &mut line).await?;
    Ok((line.pop() == Some(b'\n')).then_some(line))
}

async fn read_request<T: DeserializeOwned>(stream: &mut GuestStream) -> io::Result<Option<T>> {
    let line = read_line(stream, MAX_REQUEST_BYTES).await?;
    Ok(line.and_then(|line| serde_json::from_slice(&line).ok()))
}

async fn answer(stream: &mut GuestStream, answer: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// A refusal as people read it in the guest.
fn told(denial: &Denial) -> String {
    match &denial.allow {
        Some(allow) => format!("{} (--allow {allow} would permit it)", denial.reason),
        None => denial.reason.clone(),
    }
}

impl Egress {
    /// Answers questions for names until there are no more.
    pub(super) async fn serve_names(&self, policy: &Policy, mut stream: GuestStream) -> io::Result<()> {
        while let Some(query) = read_request::<NameQuery>(&mut stream).await? {
            let known = self.name(policy, &query.name).await;
            answer(&mut stream, &known).await?;
        }
        Ok(())
    }

    async fn name(&self, policy: &Policy, name: &str) -> NameAnswer {
        if let Err(reason) = self.gates.name() {
            return NameAnswer::Denied { reason };
        }
        let deny = |denial: Denial| {
            let reason = told(&denial);
            self.events.record(What::Denied(denial));
            NameAnswer::Denied { reason }
        };
        let (host, grant) = match policy.decide_name(name) {
            Ok(allowed) => allowed,
            Err(denial) => return deny(denial),
        };
        match self.resolve(&host).await {
            Resolution::Addresses(addresses) => {
                let request = Request { via: Via::Name, host: name, port: 0 };
                match self.permitted(policy, &request, &host, &addresses, grant) {
                    Ok(_) => NameAnswer::Known,
                    Err(denial) => deny(denial),
                }
            }
            Resolution::Unknown => NameAnswer::Unknown,
            Resolution::Failed(reason) => {
                let host = host.to_string();
                self.events.record(What::Failed { via: Via::Name, host, port: 0, reason: reason.clone() });
                NameAnswer::Failed { reason }
            }
        }
    }

    /// Makes one connection and carries it.
    pub(super) async fn serve_connection(&self, policy: &Policy, mut stream: GuestStream) -> io::Result<()> {
        let Some(wanted) = read_request::<ConnectRequest>(&mut stream).await? else { return Ok(()) };
        let request = Request { via: Via::Tcp, host: &wanted.host, port: wanted.port };
        let upstream = match self.dial(policy, request).await {
            Ok(upstream) => upstream,
            Err(refusal) => {
                let refused = match refusal {
                    Refusal::Denied(denial) => ConnectAnswer::Denied { reason: told(&denial) },
                    Refusal::Excess(reason) => ConnectAnswer::Denied { reason },
                    Refusal::Failed(failure) => ConnectAnswer::Failed { reason: failure.reason },
                };
                return answer(&mut stream, &refused).await;
            }
        };
        answer(&mut stream, &ConnectAnswer::Connected).await?;
        self.carry(stream, upstream, &[]).await;
        Ok(())
    }

    /// Carries a connection to its end, and says in the log how it ended.
    pub(super) async fn carry(&self, mut guest: GuestStream, upstream: Upstream, early: &[u8]) {
        let Upstream { stream: mut up, account, inspector } = upstream;
        match carry(&mut guest, &mut up, early, inspector, &account.counts, &self.held).await {
            End::Done => {}
            End::Failed(reason) => account.failed(reason),
            End::Refused(reason) => {
                account.refused(reason);
                // Seven bytes fit or the guest has not read what came before: then it is not waited for.
                drop(up);
                let _ = guest.get_ref().try_write(&ACCESS_DENIED);
            }
        }
    }

    /// Carries a connection to the host's SSH agent.
    pub(super) async fn serve_ssh_agent(&self, mut stream: GuestStream, mut agent: UnixStream) {
        // What the agent does with it is between it and the guest.
        let _ = carry(&mut stream, &mut agent, &[], None, &Counts::default(), &self.held).await;
    }

    /// Connects to the host's SSH agent, or says why not.
    pub(super) async fn ssh_agent(&self) -> Result<UnixStream, String> {
        let socket: &Path = self.ssh_agent.as_deref().ok_or("this sandbox may not use the host's SSH agent")?;
        UnixStream::connect(socket).await.map_err(|error| format!("the host's SSH agent does not answer: {error}"))
    }
}
