//! The sandbox's socket: the guest's ports, and commands to the monitor.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use viv_audit::{Event, Journal};
use viv_link::{Link, LinkError};
use viv_proto::CONTROL_PORT;
use viv_proto::port::{self, MAX_GREETING_BYTES};

use super::link::Current;
use super::sessions::Sessions;
use super::tap::Tap;
use super::tapped;
use crate::Publish;
use crate::sessions::GREETING;

/// Per direction of a connection, in bytes: a frame and its header.
const COPY_BYTES: usize = 64 * 1024 + 8;

/// Between two attempts to take a connection, while that fails.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A command of the socket, and the connection that awaits its outcome.
pub(super) enum Command {
    Stop(UnixStream),
    Kill(UnixStream),
    /// Only to hear of its end.
    Wait(UnixStream),
    Pause(UnixStream),
    Resume(UnixStream),
    Relink(UnixStream),
    Publish(Publish, UnixStream),
}

/// A guest as it can be reached once it is configured.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) current: Current,
    pub(super) configured: watch::Receiver<bool>,
    /// Whether its machine stands still.
    pub(super) paused: watch::Receiver<bool>,
    /// What the sandbox is called: its name, or its id.
    pub(super) name: Arc<str>,
}

impl Guest {
    /// The link, once the guest is configured and while it is whole; none if the sandbox ends.
    pub(super) async fn link(&mut self) -> Option<Link> {
        self.configured.wait_for(|configured| *configured).await.ok()?;
        self.current.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// What connections share.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) guest: Guest,
    pub(super) commands: mpsc::Sender<Command>,
    /// How many connections carry something to or from the guest.
    pub(super) carrying: watch::Sender<usize>,
    pub(super) sessions: Sessions,
    /// Where it is told what passes here.
    pub(super) journal: Journal,
}

impl Server {
    /// Serves connections for ever.
    pub(super) async fn run(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(self.clone().serve(stream))),
                // Out of descriptors, or the like, which lasts until others close some.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn serve(mut self, mut stream: UnixStream) {
        let Some(line) = read_greeting(&mut stream).await else {
            return;
        };
        let command = match line.as_slice() {
            b"STOP" => Command::Stop(stream),
            b"KILL" => Command::Kill(stream),
            b"WAIT" => Command::Wait(stream),
            b"PAUSE" => Command::Pause(stream),
            b"RESUME" => Command::Resume(stream),
            b"RELINK" => Command::Relink(stream),
            line if line == GREETING.as_bytes() => return self.sessions.serve(stream),
            line => match parse_publish(line) {
                Some(publish) => Command::Publish(publish, stream),
                None => return self.connect(line, stream).await,
            },
        };
        // A monitor that hears no more commands is ending, which closes the connection.
        let _ = self.commands.send(command).await;
    }

    async fn connect(&mut self, line: &[u8], mut stream: UnixStream) {
        if *self.guest.paused.borrow() {
            // It would wait for ever, and nobody would know for what.
            let refusal = port::refusal_line(&format!("the sandbox is paused: viv resume {}", self.guest.name));
            let _ = stream.write_all(refusal.as_bytes()).await;
            return;
        }
        let number = port::parse_connect(line);
        let is_control = number == Ok(CONTROL_PORT);
        let opened = match number {
            Ok(number) => match self.guest.link().await {
                Some(link) => {
                    if !is_control {
                        self.journal.record(Event::Port { port: number });
                    }
                    link.open(number).await
                }
                None => Err(LinkError::Closed),
            },
            Err(error) => Err(error.into()),
        };
        let answer = match &opened {
            Ok(_) => port::OK_LINE.to_owned(),
            Err(LinkError::Refused { reason, .. }) => port::refusal_line(reason),
            Err(error) => port::refusal_line(&error.to_string()),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if let Ok(mut guest) = opened {
            self.carrying.send_modify(|count| *count += 1);
            if is_control {
                tapped::carry(&mut stream, &mut guest, Tap::new(self.journal.clone()), COPY_BYTES).await;
            } else {
                // Whichever side fails, both are closed.
                let _ = copy_bidirectional_with_sizes(&mut stream, &mut guest, COPY_BYTES, COPY_BYTES).await;
            }
            self.carrying.send_modify(|count| *count -= 1);
        }
    }
}

/// `PUBLISH <address> <port of the guest>`
fn parse_publish(line: &[u8]) -> Option<Publish> {
    let (address, guest_port) = std::str::from_utf8(line).ok()?.strip_prefix("PUBLISH ")?.split_once(' ')?;
    Some(Publish { address: address.parse().ok()?, guest_port: guest_port.parse().ok()? })
}

/// Byte by byte: what follows the line is for the guest.
async fn read_greeting(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    while line.len() < MAX_GREETING_BYTES {
        match stream.read_u8().await.ok()? {
            b'\n' => return Some(line),
            byte => line.push(byte),
        }
    }
    // Best effort: the connection is closed whatever becomes of the answer.
    let _ = stream.write_all(port::refusal_line("a malformed port greeting").as_bytes()).await;
    None
}
