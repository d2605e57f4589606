//! What the egress costs without a guest before it: the time that the gateway adds to a call, the memory that
//! connections hold, and how fast it carries bytes. For `cargo xtask bench net`.
//!
//! Usage: `measure_egress VIV RUNS`, with a built `viv` whose `internal-egress` is measured. Prints one JSON
//! object: times to the first streamed byte in nanoseconds, of [`CALLS`] calls in each run, directly and
//! through the gateway in turns; the most that the egress's process held (`VmHWM`), in KiB; and the
//! nanoseconds that [`CARRIED`] bytes took on one connection, one time for each run.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use viv_net::gateway::{Agent, Budget, Credential, GatewaySpec, Protocol, Upstream};
use viv_net::spec::{KEYS_DESCRIPTOR, Keys, LISTENER_DESCRIPTOR, SPEC_DESCRIPTOR};
use viv_proto::network::{CONNECT_PORT, GATEWAY_PORT, PROXY_PORT};
use viv_testkit::{Options, ScriptedModel, Step};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Calls in each run, each way, on connections of both kinds.
const CALLS: u32 = 10;

/// Open at once.
const CONNECTIONS: usize = 1000;

/// What is written and read at once.
const PIECE: usize = 64 * 1024;

/// Bytes of one measurement of how fast they are carried; a multiple of [`PIECE`].
const CARRIED: usize = 256 * 1024 * 1024;

const KEY: &str = "the-key";
const PLACEHOLDER: &str = "the-placeholder";

/// Nothing here takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, viv, runs] = &arguments[..] else { return Err("usage: measure_egress VIV RUNS".into()) };
    let runs: u32 = runs.parse()?;
    let calls = runs * CALLS;
    // Both ends of each connection, and an egress that inherits the limit.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;

    let script = vec![Step::text("one word after the other")];
    let model = ScriptedModel::start(Options { script, key: Some(KEY.into()), ..Options::default() });
    let egress = Egress::start(viv.as_ref(), &model.url())?;
    let direct = || Client::new(TcpStream::connect(model.address())?, "/v1/messages", KEY);
    let gateway = || Client::new(egress.open(GATEWAY_PORT)?, "/anthropic/v1/messages", PLACEHOLDER);
    let fresh = in_turns(calls, || timed(|begun| direct()?.call(begun)), || timed(|begun| gateway()?.call(begun)))?;
    let (mut kept_direct, mut kept_gateway) = (direct()?, gateway()?);
    let kept = in_turns(calls, || timed(|begun| kept_direct.call(begun)), || timed(|begun| kept_gateway.call(begun)))?;
    let carried = carried(&egress, runs)?;
    drop(egress);

    let memory = memory(viv.as_ref())?;
    println!("{}", json!({ "fresh": fresh, "kept": kept, "memory_kib": memory, "carried": carried }));
    Ok(())
}

/// What is called starts at the time it is given, and returns the time of the first streamed byte.
fn timed(call: impl FnOnce(Instant) -> Result<Duration>) -> Result<u64> {
    Ok(u64::try_from(call(Instant::now())?.as_nanos())?)
}

fn in_turns(
    calls: u32,
    mut direct: impl FnMut() -> Result<u64>,
    mut gateway: impl FnMut() -> Result<u64>,
) -> Result<Value> {
    // The first of each finds nothing warm, and does not count.
    direct()?;
    gateway()?;
    let (mut directs, mut gateways) = (Vec::new(), Vec::new());
    for call in 0..calls {
        if call % 2 == 0 {
            directs.push(direct()?);
            gateways.push(gateway()?);
        } else {
            gateways.push(gateway()?);
            directs.push(direct()?);
        }
    }
    Ok(json!({ "direct": directs, "gateway": gateways }))
}

/// A client of the Messages API: what little of HTTP/1.1 that takes, so that none of the time is its own.
struct Client<S: Read> {
    stream: BufReader<S>,
    request: Vec<u8>,
}

impl<S: Read + Write> Client<S> {
    fn new(stream: S, path: &str, key: &str) -> Result<Self> {
        let prompt = json!([{ "role": "user", "content": "hello" }]);
        let body = json!({ "model": "claude-x", "max_tokens": 100, "stream": true, "messages": prompt }).to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(Self { stream: BufReader::new(stream), request: request.into_bytes() })
    }

    /// Makes the call, reads all of its answer, and returns the time from `begun` to the first byte of the
    /// stream of events.
    fn call(&mut self, begun: Instant) -> Result<Duration> {
        self.stream.get_mut().write_all(&self.request)?;
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(format!("the model answered {status:?}").into());
        }
        while self.line()? != "\r\n" {}
        let mut first = None;
        loop {
            let size = usize::from_str_radix(self.line()?.trim_end(), 16)?;
            let mut chunk = vec![0; size + 2];
            if first.is_none() {
                self.stream.read_exact(&mut chunk[..1])?;
                first = Some(begun.elapsed());
                self.stream.read_exact(&mut chunk[1..])?;
            } else {
                self.stream.read_exact(&mut chunk)?;
            }
            if size == 0 {
                return first.ok_or_else(|| "no stream".into());
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err("the connection was closed".into());
        }
        Ok(line)
    }
}

/// A running egress.
struct Egress {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Egress {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Egress {
    fn start(viv: &Path, model: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let listener = UnixListener::bind(directory.path().join("socket"))?;
        let credential = Credential::Env("KEY".into());
        let upstream = Upstream { protocol: Protocol::Anthropic, url: model.into(), credential };
        let gateway = GatewaySpec {
            upstreams: [("anthropic".to_owned(), upstream)].into(),
            agents: vec![Agent { number: 0, token: PLACEHOLDER.into(), budget: Budget::default() }],
            ..GatewaySpec::default()
        };
        let spec = json!({
            "sandbox": "measured",
            "directory": directory.path(),
            "policy": { "allow": [{ "text": "127.0.0.0/8" }] },
            "limits": { "connections": 2000, "connections_per_second": 1_000_000, "names_per_second": 1 },
            "gateway": gateway,
        });
        let mut keys = Keys::default();
        keys.insert("KEY", KEY.into());
        let mut command = Command::new(viv);
        command.arg("internal-egress").stdin(Stdio::null()).stdout(Stdio::null());
        let mapping = |parent_fd: OwnedFd, child_fd: i32| FdMapping { parent_fd, child_fd };
        command.fd_mappings(vec![
            mapping(listener.into(), LISTENER_DESCRIPTOR),
            mapping(file_with(&spec.to_string())?, SPEC_DESCRIPTOR),
            mapping(file_with(&serde_json::to_string(&keys)?)?, KEYS_DESCRIPTOR),
        ])?;
        Ok(Self { child: command.spawn()?, directory })
    }

    /// A connection to a port of the host, as the monitor makes it.
    fn open(&self, port: u32) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(self.directory.path().join("socket"))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        expect(&mut stream, "OK\n")?;
        Ok(stream)
    }

    /// A connection to `target`, as viv-guest has it made.
    fn connect(&self, target: SocketAddr) -> Result<UnixStream> {
        let mut stream = self.open(CONNECT_PORT)?;
        writeln!(stream, "{}", json!({ "host": target.ip(), "port": target.port() }))?;
        expect(&mut stream, "{\"outcome\":\"connected\"}\n")?;
        Ok(stream)
    }

    /// The most that its process held so far, in KiB.
    fn most_held(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

fn file_with(text: &str) -> io::Result<OwnedFd> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text.as_bytes())?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Reads exactly this.
fn expect(stream: &mut impl Read, expected: &str) -> Result<()> {
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    if answer != expected.as_bytes() {
        return Err(format!("{:?} instead of {expected:?}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(())
}

/// How long bytes take on one connection, each way in turns.
fn carried(egress: &Egress, runs: u32) -> Result<Value> {
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let mut guest = egress.connect(upstream.local_addr()?)?;
    let mut host = upstream.accept()?.0;
    let (mut downloads, mut uploads) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        downloads.push(carry(&mut host, &mut guest)?);
        uploads.push(carry(&mut guest, &mut host)?);
    }
    Ok(json!({ "bytes": CARRIED, "download": downloads, "upload": uploads }))
}

fn carry(from: &mut (impl Write + Send), to: &mut (impl Read + Send)) -> Result<u64> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let piece = vec![0; PIECE];
            (0..CARRIED / PIECE).try_for_each(|_| from.write_all(&piece))
        });
        let mut piece = vec![0; PIECE];
        let mut left = CARRIED;
        while left > 0 {
            let most = left.min(PIECE);
            match to.read(&mut piece[..most])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                taken => left -= taken,
            }
        }
        written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(u64::try_from(begun.elapsed().as_nanos())?)
}

/// What an egress holds with no connection, with [`CONNECTIONS`] that were used, and with all of them stuck.
fn memory(viv: &Path) -> Result<Value> {
    const PING: &str = "ping";
    let egress = Egress::start(viv, "http://127.0.0.1:9")?;
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let target = upstream.local_addr()?;
    // It serves once there is an answer, and has taken its start's memory by then.
    drop(egress.open(CONNECT_PORT)?);
    let idle = egress.most_held()?;
    let mut pairs = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        let guest = if number % 2 == 0 {
            egress.connect(target)?
        } else {
            let mut guest = egress.open(PROXY_PORT)?;
            write!(guest, "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                guest.read_exact(&mut byte)?;
                answer.extend(byte);
            }
            guest
        };
        pairs.push((guest, upstream.accept()?.0));
    }
    for (guest, host) in &mut pairs {
        guest.write_all(PING.as_bytes())?;
        expect(host, PING)?;
        host.write_all(PING.as_bytes())?;
        expect(guest, PING)?;
    }
    let open = egress.most_held()?;
    for (guest, host) in &pairs {
        guest.set_nonblocking(true)?;
        host.set_nonblocking(true)?;
    }
    let bytes = vec![0; PIECE];
    loop {
        let mut taken = 0;
        for (guest, host) in &mut pairs {
            taken += fill(guest, &bytes)? + fill(host, &bytes)?;
        }
        // Connections are served in turns: once this one is, all others have been.
        drop((egress.connect(target)?, upstream.accept()?));
        if taken == 0 {
            break;
        }
    }
    let stuck = egress.most_held()?;
    Ok(json!({ "idle": idle, "open": open, "stuck": stuck }))
}

/// Writes as long as it is taken at once; returns how much was.
fn fill(stream: &mut impl Write, bytes: &[u8]) -> Result<usize> {
    let mut taken = 0;
    loop {
        match stream.write(bytes) {
            Ok(written) => taken += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
            Err(error) => return Err(error.into()),
        }
    }
}
