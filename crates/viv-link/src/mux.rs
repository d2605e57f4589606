//! yamux over a carrier, and the port greeting of each stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use viv_proto::ProtocolError;
use viv_proto::port::{self, MAX_GREETING_BYTES};

use crate::carrier::Carrier;
use crate::{LinkError, MAX_GUEST_OPENED, MAX_HOST_OPENED, MAX_RECEIVE_BYTES, MAX_STREAMS};

/// One open stream of the link. Its end is the peer's close; operations carry their own ends.
#[derive(Debug)]
pub struct Stream {
    inner: Compat<yamux::Stream>,
    /// The place of a stream that this side opened.
    _place: Option<OwnedSemaphorePermit>,
}

impl Stream {
    /// Whether nothing can be sent any more: the other side has reset the stream, the session has ended, or
    /// this side has shut it down. yamux shows a reset to a reader as an end; this tells them apart.
    ///
    /// Registers the context as that of this stream's writer.
    pub fn poll_is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        // Nothing is written. Without credit it is pending, which a cut stream never is.
        matches!(Pin::new(&mut self.inner).poll_write(cx, &[]), Poll::Ready(Err(_)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Opens streams to the other side: up to [`MAX_HOST_OPENED`] or [`MAX_GUEST_OPENED`] at once, more wait for
/// their turn.
#[derive(Debug, Clone)]
pub struct Link {
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    places: Arc<Semaphore>,
}

impl Link {
    /// Opens a stream to a port of the other side and waits for its consent.
    ///
    /// # Errors
    /// [`LinkError::Refused`] if the other side does not serve the port, [`LinkError::Closed`] if
    /// the session ends first.
    pub async fn open(&self, number: u32) -> Result<Stream, LinkError> {
        self.open_with(number, b"").await
    }

    /// The same, with the first bytes of what is to be said: they go along with the greeting, which saves
    /// waiting for its answer. If the stream is refused nobody has read them.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub async fn open_with(&self, number: u32, first: &[u8]) -> Result<Stream, LinkError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| LinkError::Closed)?;
        let greeting = [port::connect_line(number).as_bytes(), first].concat();
        // Not given up with its caller: a place whose stream the other side has not seen yet would be free
        // again, and callers that come and go would open more streams than a session has.
        let opening = tokio::spawn(consented(self.requests.clone(), place, number, greeting));
        opening.await.unwrap_or(Err(LinkError::Closed))
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

/// Opens a stream, says the greeting and waits for the answer.
async fn consented(
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    place: OwnedSemaphorePermit,
    number: u32,
    greeting: Vec<u8>,
) -> Result<Stream, LinkError> {
    let (reply, opened) = oneshot::channel();
    requests.send(reply).await.map_err(|_| LinkError::Closed)?;
    let inner = opened.await.map_err(|_| LinkError::Closed)?.compat();
    let mut stream = Stream { inner, _place: Some(place) };
    stream.write_all(&greeting).await.map_err(|_| LinkError::Closed)?;
    let answer = read_greeting(&mut stream).await?;
    match port::parse_answer(&answer)? {
        Ok(()) => Ok(stream),
        Err(reason) => Err(LinkError::Refused { port: number, reason }),
    }
}

/// Streams the other side opens.
pub struct Incoming {
    streams: mpsc::UnboundedReceiver<yamux::Stream>,
    greetings: FuturesUnordered<BoxFuture<'static, Option<Request>>>,
}

impl Incoming {
    /// The next stream whose greeting is complete; `None` once the session has ended.
    ///
    /// A stream with a malformed greeting is refused and dropped. One that never greets holds
    /// nothing but one of [`MAX_STREAMS`] places.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            tokio::select! {
                stream = self.streams.recv() => {
                    self.greetings.push(Box::pin(greet(Stream { inner: stream?.compat(), _place: None })));
                }
                Some(request) = self.greetings.next() => {
                    if request.is_some() {
                        return request;
                    }
                }
            }
        }
    }
}

async fn greet(mut stream: Stream) -> Option<Request> {
    let line = read_greeting(&mut stream).await;
    match line.and_then(|line| Ok(port::parse_connect(&line)?)) {
        Ok(port) => Some(Request { port, stream }),
        Err(LinkError::Protocol(error)) => {
            // Best effort: the stream is dropped whatever becomes of the answer.
            let _ = stream.write_all(port::refusal_line(&error.to_string()).as_bytes()).await;
            None
        }
        Err(_) => None,
    }
}

/// A stream the other side opened, not yet answered.
pub struct Request {
    /// The port it asks for.
    pub port: u32,
    stream: Stream,
}

impl Request {
    /// Lets the stream begin.
    ///
    /// # Errors
    /// If the other side is gone.
    pub async fn accept(mut self) -> std::io::Result<Stream> {
        self.stream.write_all(port::OK_LINE.as_bytes()).await?;
        Ok(self.stream)
    }

    /// Refuses it, with a reason for people.
    pub async fn refuse(mut self, reason: &str) {
        // If the other side is gone there is no one to tell.
        let _ = self.stream.write_all(port::refusal_line(reason).as_bytes()).await;
        let _ = self.stream.shutdown().await;
    }
}

/// A greeting or an answer: byte by byte, since what follows belongs to the stream's user. The
/// bytes are already in this process's memory.
async fn read_greeting(stream: &mut Stream) -> Result<Vec<u8>, LinkError> {
    let mut line = Vec::with_capacity(32);
    loop {
        let byte = stream.read_u8().await.map_err(|_| LinkError::Closed)?;
        if byte == b'\n' {
            return Ok(line);
        }
        line.push(byte);
        if line.len() >= MAX_GREETING_BYTES {
            return Err(ProtocolError::MalformedGreeting.into());
        }
    }
}

/// Moves a session's bytes.
pub struct Driver<T> {
    connection: yamux::Connection<Carrier<T>>,
    requests: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    opening: Option<oneshot::Sender<yamux::Stream>>,
    inbound: mpsc::UnboundedSender<yamux::Stream>,
}

pub(crate) fn start<T>(carrier: Carrier<T>, mode: yamux::Mode) -> (Link, Incoming, Driver<T>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_RECEIVE_BYTES));
    let connection = yamux::Connection::new(carrier, config, mode);
    let (request_sender, requests) = mpsc::channel(MAX_STREAMS);
    // Unbounded, yet bounded: yamux refuses more than `MAX_STREAMS`.
    let (inbound, streams) = mpsc::unbounded_channel();
    let incoming = Incoming { streams, greetings: FuturesUnordered::new() };
    let opened = match mode {
        yamux::Mode::Client => MAX_HOST_OPENED,
        yamux::Mode::Server => MAX_GUEST_OPENED,
    };
    let places = Arc::new(Semaphore::new(opened));
    (Link { requests: request_sender, places }, incoming, Driver { connection, requests, opening: None, inbound })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Runs until the session ends.
    ///
    /// # Errors
    /// [`LinkError::Io`] if the carrier failed or ended, [`LinkError::Closed`] if the other side
    /// broke the yamux protocol.
    pub async fn run(mut self) -> Result<(), LinkError> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            if self.opening.is_none()
                && let Poll::Ready(Some(request)) = self.requests.poll_recv(cx)
            {
                self.opening = Some(request);
            }
            if self.opening.is_some()
                && let Poll::Ready(opened) = self.connection.poll_new_outbound(cx)
            {
                let stream = opened.map_err(session_error)?;
                if let Some(request) = self.opening.take() {
                    // Whoever asked may have gone; the stream then closes by itself.
                    let _ = request.send(stream);
                }
                continue;
            }
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    // No one listens once `Incoming` is dropped: the stream is reset by its drop.
                    let _ = self.inbound.send(stream);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(session_error(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn session_error(error: yamux::ConnectionError) -> LinkError {
    match error {
        yamux::ConnectionError::Io(error) => LinkError::Io(error),
        _ => LinkError::Closed,
    }
}
