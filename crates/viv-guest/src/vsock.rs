//! The link over vsock, where the host has it, and the control port beside it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufStream, Interest, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use viv_proto::{CONTROL_PORT, VSOCK_LINK_PORT, VsockKey};

use crate::control::{self, Guest};
use crate::{boot, link, sys};

/// The only peer that is listened to. A process of the guest has another address.
const HOST_CONTEXT: u32 = libc::VMADDR_CID_HOST;

const CARRIER_BUFFER_BYTES: usize = 64 * 1024;

/// How long a connection may take to say the key.
const KEY_PATIENCE: Duration = Duration::from_secs(2);

/// How many connections to a port may be at that at once; more are dropped.
const MAX_STRANGERS: usize = 16;

/// Serves the link and the control port over vsock for ever; returns why it cannot go on.
pub(crate) async fn serve(guest: Arc<Guest>) -> io::Error {
    let key = match boot::vsock_key() {
        Ok(key) => key,
        Err(error) => return error,
    };
    tokio::select! {
        error = serve_links(Arc::clone(&guest), key) => error,
        error = serve_control(guest, key) => error,
    }
}

/// Each connection is a carrier; the newest replaces the one before.
async fn serve_links(guest: Arc<Guest>, key: VsockKey) -> io::Error {
    let mut door = match Door::new(VSOCK_LINK_PORT, key) {
        Ok(door) => door,
        Err(error) => return error,
    };
    let mut current: Option<JoinHandle<io::Error>> = None;
    loop {
        let connection = match door.next().await {
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

async fn serve_control(guest: Arc<Guest>, key: VsockKey) -> io::Error {
    let mut door = match Door::new(CONTROL_PORT, key) {
        Ok(door) => door,
        Err(error) => return error,
    };
    loop {
        let connection = match door.next().await {
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

/// A listener that lets in who says the key.
struct Door {
    listener: Listener,
    key: VsockKey,
    strangers: Arc<Semaphore>,
    admit: mpsc::Sender<Connection>,
    admitted: mpsc::Receiver<Connection>,
}

impl Door {
    fn new(port: u32, key: VsockKey) -> io::Result<Self> {
        let (admit, admitted) = mpsc::channel(1);
        let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
        Ok(Self { listener: Listener::new(port)?, key, strangers, admit, admitted })
    }

    /// The next connection that said the key. The others are dropped without an answer.
    async fn next(&mut self) -> io::Result<Connection> {
        loop {
            tokio::select! {
                Some(connection) = self.admitted.recv() => return Ok(connection),
                accepted = self.listener.accept() => self.question(accepted?),
            }
        }
    }

    fn question(&self, mut connection: Connection) {
        let Ok(place) = Arc::clone(&self.strangers).try_acquire_owned() else {
            return;
        };
        let (key, admit) = (self.key, self.admit.clone());
        tokio::spawn(async move {
            if says(&mut connection, &key).await {
                // No one is let in any more if the port is served no more.
                let _ = admit.send(connection).await;
            }
            drop(place);
        });
    }
}

/// Whether the next bytes of a connection are the key.
async fn says(connection: &mut (impl AsyncRead + Unpin), key: &VsockKey) -> bool {
    let mut said = VsockKey::default();
    let heard = tokio::time::timeout(KEY_PATIENCE, connection.read_exact(&mut said)).await;
    // All bytes are compared, wherever the first wrong one is: how long it takes tells nothing.
    matches!(heard, Ok(Ok(_))) && said.iter().zip(key).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_whole_key_at_once_lets_in() {
        let key = *b"0123456789abcdef";
        let mut right = &b"0123456789abcdefvivarium"[..];
        assert!(says(&mut right, &key).await);
        assert_eq!(right, b"vivarium", "what follows the key is the link's");
        for wrong in ["", "0123456789abcde", "0123456789abcdeF", "X123456789abcdef", "x0123456789abcdef"] {
            assert!(!says(&mut wrong.as_bytes(), &key).await, "{wrong}");
        }
    }
}
