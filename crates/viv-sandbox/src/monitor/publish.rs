//! Ports of the guest's loopback interface that the host shows.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use viv_link::{Link, Stream};
use viv_proto::network::{ConnectAnswer, FORWARD_PORT, ForwardRequest, MAX_REQUEST_BYTES};

use super::server::Guest;
use crate::{Error, ErrorKind, Publish, Result};

/// Out of descriptors: how long until the next connection may have more luck.
const PAUSE: Duration = Duration::from_millis(100);

/// Shows a port from now on; returns where, and the one that is to be kept for it.
pub(super) async fn publish(guest: Guest, wanted: Publish) -> Result<(SocketAddr, impl Future<Output = ()> + Send)> {
    let refused = |error: std::io::Error| {
        let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
        let refusal = Error::new(
            ErrorKind::Publish,
            format!("port {} of the guest cannot be shown at {}", wanted.guest_port, wanted.address),
        )
        .source(error);
        if in_use {
            refusal.hint(format!("--publish 0:{} takes a port that is free", wanted.guest_port))
        } else {
            refusal
        }
    };
    let listener = TcpListener::bind(wanted.address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((address, serve(guest, listener, wanted.guest_port)))
}

async fn serve(guest: Guest, listener: TcpListener, guest_port: u16) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let guest = guest.clone();
                tokio::spawn(async move { connect(guest, stream, guest_port).await });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn connect(mut guest: Guest, stream: TcpStream, port: u16) {
    // Interactive protocols go through here, and the other side's kernel has waited already.
    let _ = stream.set_nodelay(true);
    match forward(&mut guest, port).await {
        Ok((link, inside)) => viv_link::relay(stream, &link, inside, &[]).await,
        // As the guest's own kernel would have answered.
        Err(_) => drop(stream.set_zero_linger()),
    }
}

/// A connection to a port of the guest's loopback interface.
///
/// # Errors
/// The guest's reason, or what became of the link.
pub(super) async fn forward(guest: &mut Guest, port: u16) -> Result<(Link, Stream)> {
    let unreachable = |reason: String| {
        Error::new(ErrorKind::Publish, format!("port {port} of the guest cannot be reached")).source(reason)
    };
    let link = guest.link().await.ok_or_else(|| unreachable("the sandbox ends".to_owned()))?;
    let line = request_line(port).map_err(|error| unreachable(error.to_string()))?;
    let opened = link.open_with(FORWARD_PORT, &line).await;
    let mut stream = opened.map_err(|error| unreachable(error.to_string()))?;
    match read_answer(&mut stream).await.map_err(|error| unreachable(error.to_string()))? {
        ConnectAnswer::Connected => Ok((link, stream)),
        ConnectAnswer::Denied { reason } | ConnectAnswer::Failed { reason } => {
            Err(unreachable(viv_vmm::clean(&reason)))
        }
    }
}

/// What [`FORWARD_PORT`] is asked.
pub(super) fn request_line(port: u16) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&ForwardRequest { port })?;
    line.push(b'\n');
    Ok(line)
}

/// The guest's answer, byte by byte: what follows it belongs to the connection.
pub(super) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<ConnectAnswer> {
    let mut answer = Vec::new();
    while answer.len() < MAX_REQUEST_BYTES {
        match stream.read_u8().await? {
            b'\n' => return Ok(serde_json::from_slice(&answer)?),
            byte => answer.push(byte),
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}
