//! Keeps the link: connects to the VMM's socket or to the guest's, and again when it breaks.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::either::Either;
use tokio_vsock::{VsockAddr, VsockStream};
use viv_link::{Link, LinkError};
use viv_proto::handshake::{FIRST_TOKEN, Token};
use viv_proto::{ProtocolError, VSOCK_LINK_PORT, VsockKey};

use super::egress::HostPorts;

/// Between attempts to make a link: it broke, or no one listens yet.
const PAUSE: Duration = Duration::from_millis(50);

/// The link as others see it: `None` while it is broken.
pub(super) type Current = watch::Receiver<Option<Link>>;

/// Where the link's carrier is connected.
pub(super) enum Carrier {
    /// A socket of the VMM's, behind which is a serial port.
    Socket(PathBuf),
    /// The guest itself, by its address; it lets in who begins with the key.
    Vsock { cid: u32, key: VsockKey },
}

impl Carrier {
    /// Over vsock this fails as long as the guest does not listen, and takes two seconds (the
    /// kernel's limit) as long as it does not even have the driver.
    async fn connect(&self) -> std::io::Result<Either<UnixStream, VsockStream>> {
        Ok(match self {
            Self::Socket(path) => Either::Left(UnixStream::connect(path).await?),
            Self::Vsock { cid, key } => {
                let mut stream = VsockStream::connect(VsockAddr::new(*cid, VSOCK_LINK_PORT)).await?;
                stream.write_all(key).await?;
                Either::Right(stream)
            }
        })
    }

    /// What begins the session after one that told `next`. A serial port is one stream as long as
    /// the machine lives, and what it carries next must be told from what is left in it. A vsock
    /// connection is a stream of its own, with its own first session.
    fn next_reset(&self, next: Token) -> Token {
        match self {
            Self::Socket(_) => next,
            Self::Vsock { .. } => FIRST_TOKEN,
        }
    }
}

/// Keeps a link for ever. Its first session begins with `reset`; `ports` are what the guest finds on the
/// host. `cut` breaks it on purpose; `refused` gets the reason if the guest speaks another version, after
/// which there is no point in trying again.
pub(super) async fn keep(
    carrier: Carrier,
    mut reset: Token,
    ports: HostPorts,
    current: watch::Sender<Option<Link>>,
    mut cut: mpsc::Receiver<()>,
    refused: mpsc::Sender<ProtocolError>,
) {
    loop {
        let session = async { viv_link::host_session(carrier.connect().await?, &reset).await };
        match session.await {
            Ok(session) => {
                reset = carrier.next_reset(session.next_reset);
                current.send_replace(Some(session.link.clone()));
                tokio::select! {
                    _ = session.driver.run() => {}
                    () = ports.serve(session.link, session.incoming) => {}
                    Some(()) = cut.recv() => {}
                }
                current.send_replace(None);
            }
            Err(LinkError::Protocol(error)) => {
                // The monitor that listened is ending if no one does.
                let _ = refused.send(error).await;
                return;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
