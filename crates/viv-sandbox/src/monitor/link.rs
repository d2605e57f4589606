//! Keeps the link: connects to the VMM's socket, and again when it breaks.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use viv_link::{Incoming, Link, LinkError};
use viv_proto::ProtocolError;
use viv_proto::handshake::FIRST_TOKEN;

/// Between attempts to make a broken link anew.
const PAUSE: Duration = Duration::from_millis(50);

/// The link as others see it: `None` while it is broken.
pub(super) type Current = watch::Receiver<Option<Link>>;

/// Keeps a link for ever. `cut` breaks it on purpose; `refused` gets the reason if the guest
/// speaks another version, after which there is no point in trying again.
pub(super) async fn keep(
    socket: PathBuf,
    current: watch::Sender<Option<Link>>,
    mut cut: mpsc::Receiver<()>,
    refused: mpsc::Sender<ProtocolError>,
) {
    let mut reset = FIRST_TOKEN;
    loop {
        let session = async { viv_link::host_session(UnixStream::connect(&socket).await?, &reset).await };
        match session.await {
            Ok(session) => {
                reset = session.next_reset;
                current.send_replace(Some(session.link));
                tokio::select! {
                    _ = session.driver.run() => {}
                    () = refuse_all(session.incoming) => {}
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

/// The host serves no port to guests yet. Ends only with the session.
async fn refuse_all(mut incoming: Incoming) {
    while let Some(request) = incoming.next().await {
        let reason = format!("the host serves no port {}", request.port);
        request.refuse(&reason).await;
    }
    std::future::pending().await
}
