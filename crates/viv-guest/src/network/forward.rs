//! What programs in the guest connect to, and what the host connects to inside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use viv_link::line::read_line;
use viv_link::{Link, Local, Stream, relay};
use viv_proto::network::{CONNECT_PORT, ConnectAnswer, ConnectRequest, ForwardRequest, MAX_REQUEST_BYTES};

use super::names::CurrentLink;
use super::pool::{Place, Pool};
use super::resolver::Resolver;
use crate::console;

/// How many connections of programs are carried at once, all listeners together. More are reset at once.
pub const MAX_CONNECTIONS: usize = 1024;

/// How many connections of the host are carried at once. More are refused.
pub const MAX_FORWARDS: usize = 128;

/// How long the host may take to connect. It has a shorter deadline of its own; this is for one that
/// does not answer at all.
const CONNECT_PATIENCE: Duration = Duration::from_secs(180);

/// How long the host may take to say where to, and the guest to connect to itself.
const FORWARD_PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing is accepted once nothing can be, for want of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections of programs to the host.
#[derive(Clone)]
pub struct Forwarder {
    link: CurrentLink,
    places: Arc<Semaphore>,
}

impl Forwarder {
    /// One that uses whatever session there is.
    #[must_use]
    pub fn new(link: CurrentLink) -> Self {
        Self { link, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// Serves connections to everywhere, for ever.
    pub async fn serve_captured(self, listener: TcpListener, pool: Pool, resolver: Resolver) {
        loop {
            let (connection, place) = self.accept(|| async { Ok(listener.accept().await?.0) }).await;
            let (forwarder, pool, resolver) = (self.clone(), pool.clone(), resolver.clone());
            tokio::spawn(async move {
                forwarder.captured(connection, &pool, &resolver).await;
                drop(place);
            });
        }
    }

    /// Serves a TCP port of the loopback interface that leads to a port of the host, for ever.
    pub async fn serve_tcp(self, listener: TcpListener, port: u32) {
        loop {
            let (connection, place) = self.accept(|| async { Ok(listener.accept().await?.0) }).await;
            // Small writes are the other side's affair.
            let _ = connection.set_nodelay(true);
            self.carry(connection, port, place);
        }
    }

    /// Serves a Unix socket that leads to a port of the host, for ever.
    pub async fn serve_unix(self, listener: UnixListener, port: u32) {
        loop {
            let (connection, place) = self.accept(|| async { Ok(listener.accept().await?.0) }).await;
            self.carry(connection, port, place);
        }
    }

    /// The next connection that there is a place for.
    async fn accept<L: Local, F: Future<Output = io::Result<L>>>(
        &self,
        next: impl Fn() -> F,
    ) -> (L, OwnedSemaphorePermit) {
        loop {
            match next().await {
                Ok(connection) => match Arc::clone(&self.places).try_acquire_owned() {
                    Ok(place) => return (connection, place),
                    Err(_) => connection.reset(),
                },
                // Whoever it was has gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => tokio::time::sleep(EXHAUSTED_PAUSE).await,
            }
        }
    }

    fn carry<L: Local>(&self, local: L, port: u32, place: OwnedSemaphorePermit) {
        let link = self.link.get();
        tokio::spawn(async move {
            match link {
                None => local.reset(),
                Some(link) => match link.open(port).await {
                    Ok(stream) => relay(local, &link, stream, &[]).await,
                    Err(_) => local.reset(),
                },
            }
            drop(place);
        });
    }

    async fn captured(&self, connection: TcpStream, pool: &Pool, resolver: &Resolver) {
        const NAMES: u16 = 53;
        // The socket's own address is the one that the program wanted.
        let Ok(wanted) = connection.local_addr() else { return };
        if wanted.port() == NAMES {
            // Whoever asks again later connects again.
            let _ = resolver.serve_connection(connection).await;
            return;
        }
        let _ = connection.set_nodelay(true);
        let address = wanted.ip().to_canonical();
        let place = pool.place(address);
        let host = match &place {
            Place::Name(name) => name.name().to_owned(),
            Place::Elsewhere if !address.is_loopback() => address.to_string(),
            Place::Elsewhere | Place::Nowhere => return connection.reset(),
        };
        let Some(link) = self.link.get() else { return connection.reset() };
        let connected = connect(&link, ConnectRequest { host, port: wanted.port() });
        let connected = tokio::select! {
            connected = tokio::time::timeout(CONNECT_PATIENCE, connected) => connected,
            () = given_up(&connection) => return connection.reset(),
        };
        match connected {
            Ok(Ok((stream, first))) => relay(connection, &link, stream, &first).await,
            Ok(Err(_)) | Err(_) => connection.reset(),
        }
    }
}

/// Returns once whoever connected has reset the connection.
async fn given_up(connection: &TcpStream) {
    // Readiness of errors alone: an end or bytes that come early are no giving up.
    if connection.ready(tokio::io::Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Has the host connect; returns what came with its answer.
async fn connect(link: &Link, request: ConnectRequest) -> io::Result<(Stream, Vec<u8>)> {
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    let mut stream = link.open_with(CONNECT_PORT, &line).await.map_err(io::Error::other)?;
    let mut first = Vec::new();
    let answer = read_line(&mut stream, &mut first).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    match serde_json::from_slice(&answer)? {
        ConnectAnswer::Connected => Ok((stream, first)),
        ConnectAnswer::Denied { .. } | ConnectAnswer::Failed { .. } => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

/// Listens on a TCP port of the loopback interface, with both its addresses.
///
/// # Errors
/// If the port is taken.
pub fn listen_on_loopback(port: u16) -> io::Result<Vec<TcpListener>> {
    let listen = |address: IpAddr| {
        let listener = std::net::TcpListener::bind((address, port))?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let mut listeners = vec![listen(Ipv4Addr::LOCALHOST.into())?];
    match listen(Ipv6Addr::LOCALHOST.into()) {
        Ok(listener) => listeners.push(listener),
        // A kernel without IPv6.
        Err(reason) => console::say(&format!("nothing listens on port {port} of ::1: {reason}")),
    }
    Ok(listeners)
}

/// Carries a connection of the host to the guest's loopback interface.
///
/// # Errors
/// The stream's own.
pub async fn serve_forward(mut stream: Stream, link: &Link) -> io::Result<()> {
    let mut first = Vec::new();
    let connected = async {
        let line = read_line(&mut stream, &mut first).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.len() > MAX_REQUEST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let ForwardRequest { port } = serde_json::from_slice(&line)?;
        connect_inside(port).await
    };
    let connected = tokio::time::timeout(FORWARD_PATIENCE, connected).await.unwrap_or_else(|late| Err(late.into()));
    let answer = match &connected {
        Ok(_) => ConnectAnswer::Connected,
        Err(reason) => ConnectAnswer::Failed { reason: reason.to_string() },
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    tokio::io::AsyncWriteExt::write_all(&mut stream, &line).await?;
    match connected {
        Ok(mut local) => {
            tokio::io::AsyncWriteExt::write_all(&mut local, &first).await?;
            relay(local, link, stream, &[]).await;
            Ok(())
        }
        Err(_) => tokio::io::AsyncWriteExt::shutdown(&mut stream).await,
    }
}

async fn connect_inside(port: u16) -> io::Result<TcpStream> {
    let to = |address: IpAddr| TcpStream::connect(SocketAddr::new(address, port));
    let connected = match to(Ipv4Addr::LOCALHOST.into()).await {
        // Servers that listen on one address choose either.
        Err(refused) => to(Ipv6Addr::LOCALHOST.into()).await.map_err(|_| refused),
        connected => connected,
    }?;
    let _ = connected.set_nodelay(true);
    Ok(connected)
}
