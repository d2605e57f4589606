//! The link over vsock, where the host has it, and the control port beside it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, BufStream, Interest, ReadBuf};
use tokio::task::JoinHandle;
use viv_proto::{CONTROL_PORT, VSOCK_LINK_PORT};

use crate::control::{self, Guest};
use crate::link;
use crate::sys;

/// The only peer that is listened to. A process of the guest has another address.
const HOST_CONTEXT: u32 = libc::VMADDR_CID_HOST;

const CARRIER_BUFFER_BYTES: usize = 64 * 1024;

/// Serves the link and the control port over vsock for ever; returns why it cannot go on.
pub(crate) async fn serve(guest: Arc<Guest>) -> io::Error {
    tokio::select! {
        error = serve_links(Arc::clone(&guest)) => error,
        error = serve_control(guest) => error,
    }
}

/// Each connection is a carrier; the newest replaces the one before.
async fn serve_links(guest: Arc<Guest>) -> io::Error {
    let listener = match Listener::new(VSOCK_LINK_PORT) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let mut current: Option<JoinHandle<io::Error>> = None;
    loop {
        let connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        if let Some(replaced) = current.take() {
            replaced.abort();
        }
        let carrier = BufStream::with_capacity(CARRIER_BUFFER_BYTES, CARRIER_BUFFER_BYTES, connection);
        current = Some(tokio::spawn(link::serve_carrier(Arc::clone(&guest), carrier)));
    }
}

async fn serve_control(guest: Arc<Guest>) -> io::Error {
    let listener = match Listener::new(CONTROL_PORT) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    loop {
        let connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        // With no place left the connection is dropped: there is no greeting to refuse it in.
        if let Ok(place) = Arc::clone(guest.places()).try_acquire_owned() {
            let guest = Arc::clone(&guest);
            tokio::spawn(async move {
                control::serve(guest, connection).await;
                drop(place);
            });
        }
    }
}

struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    fn new(port: u32) -> io::Result<Self> {
        Ok(Self(sys::watch(sys::vsock_listen(port)?, Interest::READABLE)?))
    }

    async fn accept(&self) -> io::Result<Connection> {
        loop {
            let accepted = self.0.async_io(Interest::READABLE, |listener| sys::vsock_accept(listener.as_fd())).await;
            match accepted {
                Ok((socket, HOST_CONTEXT)) => {
                    return Ok(Connection(sys::watch(socket, Interest::READABLE | Interest::WRITABLE)?));
                }
                Ok(_) => {}
                // The peer gave up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A connected vsock.
struct Connection(AsyncFd<OwnedFd>);

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            if let Ok(read) = guard.try_io(|socket| Ok(rustix::io::read(socket, buffer.initialize_unfilled())?)) {
                buffer.advance(read?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|socket| Ok(rustix::io::write(socket, bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = rustix::net::shutdown(self.0.get_ref(), rustix::net::Shutdown::Write);
        Poll::Ready(ended.map_err(io::Error::from))
    }
}
