//! The way from a guest's streams to its egress, and the egress's process.
//!
//! ```text
//!  guest ──stream to port 53xx──► HostPorts ──egress.sock──► `viv internal-egress`
//!                                     └─ the first one starts it
//! ```
//!
//! The socket is the monitor's: it listens before there is an egress, and while one that died is
//! started anew, so that a connection made meanwhile waits instead of failing.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use command_fds::FdMapping;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use viv_link::{Incoming, Link, Request};
use viv_net::spec::{EgressSpec, KEYS_DESCRIPTOR, LISTENER_DESCRIPTOR, SPEC_DESCRIPTOR};
use viv_proto::network::{CONNECT_PORT, GATEWAY_PORT, NAMES_PORT, PROXY_PORT, SSH_AGENT_PORT};
use viv_proto::port::{self, MAX_GREETING_BYTES};
use viv_vmm::Tail;

use crate::Result;
use crate::error::io;
use crate::process::{memory_file, start_child};
use crate::registry::RunDirectory;

/// The socket between monitor and egress, in the run directory.
const SOCKET: &str = "egress.sock";

/// An egress that lives shorter than this has failed to start.
const START_TIME: Duration = Duration::from_secs(2);

/// How often in a row it may fail to start.
const MOST_FAILURES: u32 = 5;

/// How long the next one is waited with, for each failure in a row.
const PAUSE: Duration = Duration::from_millis(100);

/// How many of an egress's last lines are a reason.
const REASON_LINES: usize = 3;

/// The host's ports as a guest may use them: none until an [`Egress`] is prepared behind them.
#[derive(Clone, Default)]
pub(crate) struct HostPorts(Arc<OnceLock<Door>>);

struct Door {
    ports: Vec<u32>,
    socket: PathBuf,
    wanted: Arc<Notify>,
    /// Why there will be no egress any more.
    failure: watch::Receiver<Option<String>>,
}

impl HostPorts {
    /// Serves the streams of a session. Ends only with the session.
    pub(super) async fn serve(&self, link: Link, mut incoming: Incoming) {
        while let Some(request) = incoming.next().await {
            tokio::spawn(self.clone().answer(link.clone(), request));
        }
        std::future::pending().await
    }

    async fn answer(self, link: Link, request: Request) {
        let Some(door) = self.0.get().filter(|door| door.ports.contains(&request.port)) else {
            let reason = format!("the host serves no port {} to this sandbox", request.port);
            return request.refuse(&reason).await;
        };
        door.wanted.notify_one();
        let mut failure = door.failure.clone();
        let opened = tokio::select! {
            opened = open(&door.socket, request.port) => opened,
            failed = failure.wait_for(Option::is_some) => {
                Err(failed.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "the sandbox ends".to_owned()))
            }
        };
        match opened {
            Ok(egress) => {
                if let Ok(guest) = request.accept().await {
                    viv_link::relay(egress, &link, guest, &[]).await;
                }
            }
            Err(reason) => request.refuse(&reason).await,
        }
    }
}

/// Connects to the egress and asks for a port of it.
async fn open(socket: &PathBuf, number: u32) -> std::result::Result<UnixStream, String> {
    let unreachable = |error: std::io::Error| format!("the egress cannot be reached: {error}");
    let mut stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    stream.write_all(port::connect_line(number).as_bytes()).await.map_err(unreachable)?;
    let mut answer = Vec::new();
    loop {
        match stream.read_u8().await.map_err(unreachable)? {
            b'\n' => break,
            byte => answer.push(byte),
        }
        if answer.len() >= MAX_GREETING_BYTES {
            return Err("the egress broke the protocol".to_owned());
        }
    }
    port::parse_answer(&answer).map_err(|error| error.to_string())?.map(|()| stream)
}

/// An egress that is started when it is first wanted, and again when it dies.
pub(super) struct Egress {
    listener: UnixListener,
    spec: File,
    keys: File,
    environment: Vec<(String, String)>,
    wanted: Arc<Notify>,
    failure: watch::Sender<Option<String>>,
}

impl Egress {
    /// Listens for it and opens the guest's way to it. `keys` is a file of its keys, if it needs any,
    /// `environment` all of its environment.
    pub(super) fn prepare(
        spec: &EgressSpec,
        keys: Option<File>,
        environment: Vec<(String, String)>,
        run: &RunDirectory,
        ports: &HostPorts,
    ) -> Result<Self> {
        let failed = || io("the sandbox's egress could not be prepared");
        let socket = run.socket_path(SOCKET);
        let listener = UnixListener::bind(&socket).map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        let text = serde_json::to_vec(spec).map_err(|error| failed()(error.into()))?;
        let keys = match keys {
            Some(keys) => keys,
            None => File::open("/dev/null").map_err(failed())?,
        };
        let wanted = Arc::new(Notify::new());
        let (failure, failed_later) = watch::channel(None);
        let door = Door { ports: ports_of(spec), socket, wanted: Arc::clone(&wanted), failure: failed_later };
        // A spare's ports are opened once, by the one client it gets.
        let _ = ports.0.set(door);
        Ok(Self { listener, spec: memory_file(&text).map_err(failed())?, keys, environment, wanted, failure })
    }

    /// Keeps one running from when it is first wanted, unless it fails to start too often; once it is ending
    /// there is none, and this returns.
    pub(super) async fn keep(self, mut ending: watch::Receiver<bool>) {
        tokio::select! {
            () = self.wanted.notified() => {}
            () = ended(&mut ending) => return,
        }
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let reason = match self.start() {
                Ok((mut child, words)) => tokio::select! {
                    status = child.wait() => match status {
                        Ok(status) => format!("{status}: {}", words.lines(REASON_LINES).join(" ")),
                        Err(error) => error.to_string(),
                    },
                    () = ended(&mut ending) => {
                        // It can only fail if the process has ended already.
                        let _ = child.kill().await;
                        return;
                    }
                },
                Err(error) => viv_error::Report::from(&error).line(),
            };
            failures = if began.elapsed() < START_TIME { failures + 1 } else { 0 };
            if failures >= MOST_FAILURES {
                self.failure.send_replace(Some(format!("the egress cannot be started: {reason}")));
                // Why is told for as long as anyone may ask.
                ended(&mut ending).await;
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE * failures) => {}
                () = ended(&mut ending) => return,
            }
        }
    }

    fn start(&self) -> Result<(Child, Tail)> {
        const FAILED: &str = "the egress could not be started";
        let mut command = Command::new("/proc/self/exe");
        command.arg("internal-egress").env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A file's offset is shared by all who hold it: each egress reads from the start.
        let again = |file: &File| File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(io(FAILED));
        let listener = self.listener.try_clone().map_err(io(FAILED))?;
        let descriptors = vec![
            FdMapping { parent_fd: listener.into(), child_fd: LISTENER_DESCRIPTOR },
            FdMapping { parent_fd: again(&self.spec)?.into(), child_fd: SPEC_DESCRIPTOR },
            FdMapping { parent_fd: again(&self.keys)?.into(), child_fd: KEYS_DESCRIPTOR },
        ];
        start_child(command, descriptors, FAILED)
    }
}

/// Resolves once there is to be no egress any more, also if whoever would say so is gone.
async fn ended(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

/// What a guest may ask an egress for.
fn ports_of(spec: &EgressSpec) -> Vec<u32> {
    let mut ports = Vec::new();
    if spec.policy.is_some() {
        ports.extend([NAMES_PORT, CONNECT_PORT, PROXY_PORT]);
    }
    if spec.gateway.is_some() {
        ports.push(GATEWAY_PORT);
    }
    if spec.ssh_agent.is_some() {
        ports.push(SSH_AGENT_PORT);
    }
    ports
}
