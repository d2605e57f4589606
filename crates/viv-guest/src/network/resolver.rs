//! The name server of a guest without a network device.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use viv_proto::network::NameAnswer;

use super::message::{self, Answer, Kind, MAX_DATAGRAM_BYTES, Question, Refusal};
use super::names::Names;
use super::pool::{self, ANSWER_TTL, Pool};
use crate::sys;

/// How many questions are worked on at once; more are answered by a failure.
const MAX_QUESTIONS: usize = 512;

/// How long a TCP connection may take to ask, and to ask again.
const TCP_PATIENCE: Duration = Duration::from_secs(10);

/// Answers questions.
#[derive(Clone)]
pub struct Resolver {
    names: Names,
    pool: Pool,
    /// The machine's own name, in lower case.
    hostname: Arc<str>,
    places: Arc<Semaphore>,
}

impl Resolver {
    /// A resolver that gives names addresses of `pool` if the host knows them.
    #[must_use]
    pub fn new(names: Names, pool: Pool, hostname: &str) -> Self {
        let hostname = hostname.to_ascii_lowercase().into();
        Self { names, pool, hostname, places: Arc::new(Semaphore::new(MAX_QUESTIONS)) }
    }

    /// Answers datagrams for ever; returns why it cannot go on.
    pub async fn serve(self, socket: OwnedFd) -> io::Error {
        let socket = match sys::watch(socket, Interest::READABLE) {
            Ok(socket) => Arc::new(socket),
            Err(error) => return error,
        };
        loop {
            // One byte more than may be: what is longer was cut, and is refused as malformed.
            let mut buffer = [0; 2 * MAX_DATAGRAM_BYTES];
            let received = socket.async_io(Interest::READABLE, |socket| sys::receive(socket.as_fd(), &mut buffer));
            match received.await {
                Ok((length, ends)) => self.answer_datagram(&socket, &buffer[..length], ends),
                // Errors of earlier answers: whoever asked is gone.
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => {}
                Err(error) => return error,
            }
        }
    }

    fn answer_datagram(&self, socket: &Arc<AsyncFd<OwnedFd>>, message: &[u8], ends: sys::Ends) {
        // A datagram that is not taken is lost, as datagrams are.
        let send =
            move |socket: &AsyncFd<OwnedFd>, answer: &[u8]| drop(sys::answer(socket.get_ref().as_fd(), ends, answer));
        let question = match message::parse(message) {
            Ok(question) => question,
            Err(Refusal::Silence) => return,
            Err(Refusal::Say(answer)) => return send(socket, &answer),
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return send(socket, &question.answer(&Answer::Failure, 0));
        };
        let (resolver, socket) = (self.clone(), Arc::clone(socket));
        tokio::spawn(async move {
            let answer = resolver.answer(&question).await;
            send(&socket, &answer);
            drop(place);
        });
    }

    /// Answers one question after the other.
    ///
    /// # Errors
    /// The connection's; `TimedOut` if nothing is asked any more.
    pub async fn serve_connection(&self, mut connection: TcpStream) -> io::Result<()> {
        loop {
            let read = async {
                let length = connection.read_u16().await?;
                let mut message = vec![0; usize::from(length)];
                connection.read_exact(&mut message).await?;
                io::Result::Ok(message)
            };
            let message = tokio::time::timeout(TCP_PATIENCE, read).await??;
            let answer = match message::parse(&message) {
                Ok(question) => self.answer(&question).await,
                Err(Refusal::Say(answer)) => answer,
                Err(Refusal::Silence) => return Ok(()),
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let answer = [&length.to_be_bytes()[..], &answer].concat();
            tokio::time::timeout(TCP_PATIENCE, connection.write_all(&answer)).await??;
        }
    }

    async fn answer(&self, question: &Question) -> Vec<u8> {
        let ttl = u32::try_from(ANSWER_TTL.as_secs()).unwrap_or(0);
        let Some(name) = question.name.as_deref() else {
            return question.answer(&Answer::NoSuchName, ttl);
        };
        if question.kind == Kind::Ptr || name.ends_with(".arpa") {
            let known = message::address_in(name).and_then(|address| self.pool.name(address));
            return question.answer(&known.as_deref().map_or(Answer::NoSuchName, Answer::Name), ttl);
        }
        let answer = if question.kind == Kind::Other && is_of_a_service(name) {
            // No connection to it can follow, so it is no business of the policy's: apt asks for SRV records and
            // means the host.
            Answer::NoSuchName
        } else if name.is_empty() {
            // The root has no addresses.
            Answer::Nothing
        } else if name == "localhost" || name.ends_with(".localhost") {
            // RFC 6761, section 6.3.
            address(question.kind, Ipv4Addr::LOCALHOST, Some(Ipv6Addr::LOCALHOST))
        } else if name == &*self.hostname {
            // As in /etc/hosts.
            address(question.kind, Ipv4Addr::new(127, 0, 1, 1), None)
        } else {
            self.ask(name, question.kind).await
        };
        question.answer(&answer, ttl)
    }

    async fn ask(&self, name: &str, kind: Kind) -> Answer<'static> {
        match self.names.ask(name).await {
            Ok(NameAnswer::Known) if kind == Kind::Other => Answer::Nothing,
            Ok(NameAnswer::Known) => match self.pool.number(name, Instant::now()) {
                Some(number) => address(kind, pool::v4(number), Some(pool::v6(number))),
                None => Answer::Failure,
            },
            Ok(NameAnswer::Denied { .. } | NameAnswer::Unknown) => Answer::NoSuchName,
            Ok(NameAnswer::Failed { .. }) | Err(_) => Answer::Failure,
        }
    }
}

/// Whether a name stands for a service of a host, as `_http._tcp.host.example` does (RFC 8552).
fn is_of_a_service(name: &str) -> bool {
    name.starts_with('_')
}

fn address(kind: Kind, v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Answer<'static> {
    match (kind, v6) {
        (Kind::A, _) => Answer::V4(v4),
        (Kind::Aaaa, Some(v6)) => Answer::V6(v6),
        _ => Answer::Nothing,
    }
}
