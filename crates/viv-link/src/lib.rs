//! The link: one byte stream between host and guest that carries many numbered streams.
//!
//! The carrier may be a virtio-serial port, a vsock connection or a Unix socket; this crate needs
//! only [`tokio::io::AsyncRead`] and [`tokio::io::AsyncWrite`] of it. A session begins with the
//! handshake of [`viv_proto::handshake`], which finds its way through the remains of an earlier
//! session, and continues as yamux, the host as its client. A cut carrier ends the session and
//! every stream in it; the next handshake starts another on the same guest.
//!
//! ```text
//!  host                                    guest
//!  host_session(carrier, reset) ───────►   guest_sessions(carrier, on_session)
//!    link.open(5000) ──CONNECT 5000──►       incoming.next() → Request{port: 5000}
//!                    ◄──────OK───────          request.accept() → Stream
//! ```
//!
//! Memory is bounded whatever the other side does: [`MAX_STREAMS`] streams and
//! [`MAX_RECEIVE_BYTES`] of receive windows in a session.

mod carrier;
mod frames;
pub mod line;
mod mux;
mod relay;
pub mod transfer;

use std::convert::Infallible;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use viv_proto::ProtocolError;
use viv_proto::handshake::{self, HELLO_TAIL_BYTES, MarkerScanner, TOKEN_BYTES, Token};

use carrier::{SharedWatch, Watch};
pub use frames::{FrameReader, FrameWriter};
pub use mux::{Driver, Incoming, Link, Request, Stream};
pub use relay::{Local, relay};

/// How many streams the host opens at once; more wait for their turn.
pub const MAX_HOST_OPENED: usize = 320;

/// How many the guest opens at once; more wait for their turn. Each TCP connection out of a guest without a
/// network device is one.
pub const MAX_GUEST_OPENED: usize = 1088;

/// How many streams a session may have open at once. yamux ends a session over one more. A stream that its
/// opener has given up counts until the other side has noticed, which it has once it consents to another in
/// its place: so there are at most two for each that may be open.
pub const MAX_STREAMS: usize = 2 * (MAX_HOST_OPENED + MAX_GUEST_OPENED);

/// The sum of all receive windows of a session, in bytes: yamux grants each of [`MAX_STREAMS`] 256 KiB, and
/// fast ones may share 64 MiB more. Only what has arrived and was not read yet takes memory.
pub const MAX_RECEIVE_BYTES: usize = MAX_STREAMS * 256 * 1024 + 64 * 1024 * 1024;

/// Why the link, or one stream of it, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The session ended.
    #[error("the link was cut")]
    Closed,
    /// The other side refused the port.
    #[error("port {port} was refused: {reason}")]
    Refused {
        /// The port asked for.
        port: u32,
        /// The other side's words; from a guest they are not to be trusted.
        reason: String,
    },
    /// The other side broke the protocol.
    #[error("the other side broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// The carrier failed.
    #[error("the carrier failed")]
    Io(#[from] std::io::Error),
}

/// A session as the host sees it.
pub struct HostSession<T> {
    /// Opens streams to the guest.
    pub link: Link,
    /// Streams the guest opens.
    pub incoming: Incoming,
    /// What the next session on this guest has to begin with.
    pub next_reset: Token,
    /// Moves the session's bytes; to be driven until it returns.
    pub driver: Driver<T>,
}

/// Begins a session on a carrier, from the host's side. Cancel it to give up waiting for a guest
/// that does not answer.
///
/// `reset` is [`HostSession::next_reset`] of the session before, or [`handshake::FIRST_TOKEN`].
///
/// # Errors
/// [`LinkError::Protocol`] for a guest of another version, [`LinkError::Io`] if the carrier fails
/// or ends first.
pub async fn host_session<T>(mut carrier: T, reset: &Token) -> Result<HostSession<T>, LinkError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let nonce = random_token()?;
    carrier.write_all(&handshake::host_hello(reset, &nonce)).await?;
    carrier.flush().await?;
    let after_nonce = find_marker(&mut carrier, nonce).await?;
    let (tail, rest) = read_tail(&mut carrier, after_nonce).await?;
    let next_reset = handshake::parse_tail(&tail)?;
    let (link, incoming, driver) = mux::start(carrier::Carrier::new(carrier, rest, None), yamux::Mode::Client);
    Ok(HostSession { link, incoming, next_reset, driver })
}

/// Serves sessions on a carrier, from the guest's side, one after the other, for ever.
///
/// `on_session` gets each session's parts and must not block: it spawns what serves them. Returns
/// only when the carrier itself fails or ends.
pub async fn guest_sessions<T>(mut carrier: T, mut on_session: impl FnMut(Link, Incoming)) -> std::io::Error
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    match sessions(&mut carrier, &mut on_session).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn sessions<T>(carrier: &mut T, on_session: &mut impl FnMut(Link, Incoming)) -> std::io::Result<Infallible>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut reset = handshake::FIRST_TOKEN;
    let mut after_marker = find_marker(carrier, reset).await?;
    loop {
        let (tail, rest) = read_tail(carrier, after_marker).await?;
        after_marker = match handshake::parse_tail(&tail) {
            Ok(nonce) => guest_session(carrier, &mut reset, nonce, rest, on_session).await?,
            // A host of another version: it learns ours from the answer and gives up.
            Err(_) => {
                let mut nonce = [0; TOKEN_BYTES];
                nonce.copy_from_slice(&tail[HELLO_TAIL_BYTES - TOKEN_BYTES..]);
                carrier.write_all(&handshake::guest_hello(&nonce, &reset)).await?;
                carrier.flush().await?;
                find_marker(carrier, reset).await?
            }
        };
    }
}

/// One session, until the marker of the next one; returns the bytes that followed it.
async fn guest_session<T>(
    carrier: &mut T,
    reset: &mut Token,
    nonce: Token,
    rest: Vec<u8>,
    on_session: &mut impl FnMut(Link, Incoming),
) -> std::io::Result<Vec<u8>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Two guests restored from one template draw the same bytes here, before they are given
    // randomness of their own: the host's nonce makes the difference.
    let mut next_reset = random_token()?;
    next_reset.iter_mut().zip(nonce).for_each(|(byte, fresh)| *byte ^= fresh);
    carrier.write_all(&handshake::guest_hello(&nonce, &next_reset)).await?;
    carrier.flush().await?;
    let current = std::mem::replace(reset, next_reset);
    let watch = SharedWatch::new(Watch::new(next_reset, current));
    let watched = carrier::Carrier::new(&mut *carrier, rest, Some(watch.clone()));
    let (link, incoming, driver) = mux::start(watched, yamux::Mode::Server);
    on_session(link, incoming);
    let ended = driver.run().await;
    if let Some(after_marker) = watch.with(Watch::take_found) {
        return Ok(after_marker);
    }
    if let Err(LinkError::Io(error)) = ended {
        return Err(error);
    }
    // yamux was fed nonsense, perhaps the first half of a marker: look on where it stopped.
    loop {
        let piece = read_piece(carrier).await?;
        if watch.with(|watch| watch.scan(&piece)) {
            return Ok(watch.with(Watch::take_found).unwrap_or_default());
        }
    }
}

/// Reads until the marker; returns the bytes that followed it.
async fn find_marker<T: AsyncRead + Unpin>(carrier: &mut T, marker: Token) -> std::io::Result<Vec<u8>> {
    let mut scanner = MarkerScanner::new(marker);
    loop {
        let mut piece = read_piece(carrier).await?;
        if let Some(after) = scanner.scan(&piece) {
            return Ok(piece.split_off(after));
        }
    }
}

/// Reads version and token, `read` being the first bytes of them and of what follows.
async fn read_tail<T: AsyncRead + Unpin>(
    carrier: &mut T,
    mut read: Vec<u8>,
) -> std::io::Result<([u8; HELLO_TAIL_BYTES], Vec<u8>)> {
    loop {
        if let Some((tail, rest)) = read.split_first_chunk::<HELLO_TAIL_BYTES>() {
            return Ok((*tail, rest.to_vec()));
        }
        read.extend(read_piece(carrier).await?);
    }
}

async fn read_piece<T: AsyncRead + Unpin>(carrier: &mut T) -> std::io::Result<Vec<u8>> {
    let mut piece = vec![0; 4096];
    let read = carrier.read(&mut piece).await?;
    if read == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    piece.truncate(read);
    Ok(piece)
}

/// Fresh bytes from the kernel. A guest may ask before its generator is seeded and must not wait
/// for it: a token only has to differ from what payloads contain by accident.
fn random_token() -> std::io::Result<Token> {
    let mut token = [0; TOKEN_BYTES];
    let mut filled = 0;
    while filled < TOKEN_BYTES {
        filled += rustix::rand::getrandom(&mut token[filled..], rustix::rand::GetRandomFlags::INSECURE)
            .map_err(std::io::Error::from)?;
    }
    Ok(token)
}
