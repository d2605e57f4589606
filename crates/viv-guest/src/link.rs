//! The link's carrier, seen from inside: the virtio-serial port.
//!
//! The port polls as hung up, and reads as ended, while no one is connected on the host; it
//! becomes usable again when someone is. A readiness type that treats a hang-up as final (as the
//! runtime's does) would spin. So the port sits in an epoll set of its own, edge-triggered, and
//! the runtime watches that set, which is merely readable whenever something has changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::OFlags;
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, BufStream, Interest, ReadBuf};
use viv_proto::CONTROL_PORT;
use viv_proto::network::FORWARD_PORT;

use crate::command_line::LinkKind;
use crate::control::{self, Guest};
use crate::{sys, trace};

/// The name of the virtio-serial port that carries the link.
pub const PORT_NAME: &str = "viv.link";

/// Debug shells of agents answer on this port plus the agent's number.
const FIRST_SHELL_PORT: u32 = 6000;

/// How long the port may take to appear, counted from the first look.
const PORT_DEADLINE: Duration = Duration::from_secs(10);

/// The carrier is read and written in pieces of up to this many bytes.
const CARRIER_BUFFER_BYTES: usize = 64 * 1024;

/// Serves the link for ever; returns why it cannot go on.
pub async fn serve(guest: Arc<Guest>, kind: LinkKind) -> io::Error {
    match kind {
        LinkKind::VirtioSerial => {
            let port = match open_port(PORT_NAME).and_then(SerialPort::new) {
                Ok(port) => port,
                Err(error) => return error,
            };
            trace::mark("link open");
            let carrier = BufStream::with_capacity(CARRIER_BUFFER_BYTES, CARRIER_BUFFER_BYTES, port);
            serve_carrier(guest, carrier).await
        }
        LinkKind::Vsock => crate::vsock::serve(guest).await,
    }
}

/// Serves sessions on one carrier until it fails.
pub(crate) async fn serve_carrier<T>(guest: Arc<Guest>, carrier: T) -> io::Error
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    viv_link::guest_sessions(carrier, |link, mut incoming| {
        trace::mark("session");
        guest.network().set_link(link);
        let guest = Arc::clone(&guest);
        tokio::spawn(async move {
            while let Some(request) = incoming.next().await {
                tokio::spawn(answer(Arc::clone(&guest), request));
            }
        });
    })
    .await
}

async fn answer(guest: Arc<Guest>, request: viv_link::Request) {
    match request.port {
        CONTROL_PORT => {
            let Ok(_place) = Arc::clone(guest.places()).try_acquire_owned() else {
                return request.refuse("too many operations at once").await;
            };
            if let Ok(stream) = request.accept().await {
                control::serve(guest, stream).await;
            }
        }
        FORWARD_PORT => guest.network().forward(request).await,
        FIRST_SHELL_PORT.. => request.refuse("no such agent: this sandbox has none").await,
        port => request.refuse(&format!("nothing answers on port {port}")).await,
    }
}

/// Finds and opens the port, waiting a while for the host to announce it.
fn open_port(name: &str) -> io::Result<File> {
    let deadline = Instant::now() + PORT_DEADLINE;
    loop {
        if let Some(path) = find_port(name) {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(path);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio-serial port named {name}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn find_port(name: &str) -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end() == name).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}

/// Tells when a file may have become readable, or writable, without ever calling it ended.
struct Edge(AsyncFd<OwnedFd>);

impl Edge {
    fn new(file: &File, events: EventFlags) -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&set, file, EventData::new_u64(0), events | EventFlags::ET)?;
        Ok(Self(sys::watch(set, Interest::READABLE)?))
    }

    /// Tries until something is done; `None` from `attempt` means to wait for a change.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut() -> io::Result<Option<T>>,
    ) -> Poll<io::Result<T>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            if let Some(done) = attempt()? {
                return Poll::Ready(Ok(done));
            }
            // Forget the changes so far, and look again before waiting for the next one.
            let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 1];
            epoll::wait(self.0.get_ref(), &mut events[..], Some(&Timespec::default()))?;
            if let Some(done) = attempt()? {
                return Poll::Ready(Ok(done));
            }
            guard.clear_ready();
        }
    }
}

/// A virtio-serial port as a byte stream that never ends: with no one on the host it waits.
struct SerialPort {
    file: File,
    readable: Edge,
    writable: Edge,
}

impl SerialPort {
    fn new(file: File) -> io::Result<Self> {
        let readable = Edge::new(&file, EventFlags::IN)?;
        let writable = Edge::new(&file, EventFlags::OUT)?;
        Ok(Self { file, readable, writable })
    }
}

impl AsyncRead for SerialPort {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &*self;
        let read = ready!(this.readable.poll(context, || {
            match (&this.file).read(buffer.initialize_unfilled()) {
                // Zero: no one is connected on the host.
                Ok(0) => Ok(None),
                Ok(read) => Ok(Some(read)),
                Err(error) => wait_or_fail(error),
            }
        }))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SerialPort {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &*self;
        this.writable.poll(context, || match (&this.file).write(bytes) {
            Ok(written) => Ok(Some(written)),
            Err(error) => wait_or_fail(error),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn wait_or_fail<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}
