//! A filtered network in a network namespace of its own, over a link to a host that is played here.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use viv_link::line::read_line;
use viv_link::{HostSession, Link, Request, Stream, host_session};
use viv_proto::handshake::{FIRST_TOKEN, Token};
use viv_proto::message::{Network, NetworkWay, User};
use viv_proto::network::{
    CONNECT_PORT, ConnectAnswer, ConnectRequest, FORWARD_PORT, ForwardRequest, NAMES_PORT, NameAnswer, NameQuery,
    PROXY_LISTENER, PROXY_PORT,
};

use super::forward::MAX_CONNECTIONS;
use super::netlink::{self, LOOPBACK};
use crate::control::Guest;
use crate::link::serve_carrier;

/// Nothing here takes long: what does not come does not come at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Set in the process that has a namespace of its own.
const INSIDE: &str = "VIV_TEST_IN_NAMESPACE";

/// Runs a test in a network namespace of its own, where that is permitted; without it the test fails in CI
/// and says elsewhere that it was left out.
fn in_namespace(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, test).await.expect("the test waits for something that does not come");
        });
        return;
    }
    let permitted = Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success());
    if !permitted {
        assert!(std::env::var_os("CI").is_none(), "network namespaces take root");
        eprintln!("LEFT OUT: {name}: network namespaces take root");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let test = format!("network::tests::{name}");
    let mut command = Command::new("unshare");
    command.arg("--net").arg(program).args(["--exact", &test, "--nocapture"]).env(INSIDE, "1");
    assert!(command.status().unwrap().success());
}

/// The host: it knows every name below `example`, denies those below `denied`, and echoes what is sent to
/// ports other than 1 (denied), 2 (ends at once), 3 (resets after a byte) and 4 (says what it got at its end).
async fn serve_host(request: Request) {
    match request.port {
        NAMES_PORT => {
            let mut stream = request.accept().await.unwrap();
            let mut rest = Vec::new();
            while let Ok(Some(line)) = read_line(&mut stream, &mut rest).await {
                let NameQuery { name } = serde_json::from_slice(&line).unwrap();
                let answer = match name.rsplit('.').next() {
                    Some("example") => NameAnswer::Known,
                    Some("denied") => NameAnswer::Denied { reason: "no".into() },
                    Some("broken") => NameAnswer::Failed { reason: "no".into() },
                    _ => NameAnswer::Unknown,
                };
                stream.write_all(&line_of(&answer)).await.unwrap();
            }
        }
        CONNECT_PORT => {
            let mut stream = request.accept().await.unwrap();
            let mut rest = Vec::new();
            let line = read_line(&mut stream, &mut rest).await.unwrap().unwrap();
            let wanted: ConnectRequest = serde_json::from_slice(&line).unwrap();
            let denied = ConnectAnswer::Denied { reason: "no".into() };
            let answer = if wanted.port == 1 { denied } else { ConnectAnswer::Connected };
            stream.write_all(&line_of(&answer)).await.unwrap();
            match wanted.port {
                1 | 2 => stream.shutdown().await.unwrap(),
                3 => stream.write_all(b"x").await.unwrap(),
                4 => {
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    stream.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
                _ => {
                    stream.write_all(format!("{}\n", wanted.host).as_bytes()).await.unwrap();
                    echo(stream, &rest).await;
                }
            }
        }
        PROXY_PORT => echo(request.accept().await.unwrap(), b"proxy\n").await,
        _ => request.refuse("not here").await,
    }
}

async fn echo(mut stream: Stream, first: &[u8]) {
    let _ = stream.write_all(first).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

fn line_of(answer: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap();
    line.push(b'\n');
    line
}

/// A guest that is connected to such a host.
struct Machine {
    guest: Arc<Guest>,
    carrier: Option<tokio::task::JoinHandle<DuplexStream>>,
    cut: tokio::sync::watch::Sender<bool>,
    reset: Token,
    link: Link,
}

impl Machine {
    async fn new(way: NetworkWay) -> Self {
        netlink::carry_out(&[netlink::Request::Up { interface: LOOPBACK }]).unwrap();
        let guest = Arc::new(Guest::new(0));
        let (host, inside) = duplex(1 << 16);
        tokio::spawn(serve_carrier(Arc::clone(&guest), inside));
        let (carrier, reset, link, cut) = session(host, FIRST_TOKEN).await;
        let user = User { name: "agent".into(), uid: 1000, gid: 1000, home: "/home/agent".into() };
        guest.network().prepare();
        let wanted = Network { way, gateway: false, ssh_agent: None };
        let resolver = guest.network().configure(&wanted, "Quiet-Fox", &user).unwrap();
        match wanted.way {
            NetworkWay::Filtered => {
                assert_eq!(resolver, "nameserver 127.0.0.53\noptions timeout:10 attempts:2\n");
            }
            _ => assert_eq!(resolver, ""),
        }
        Self { guest, carrier: Some(carrier), cut, reset, link }
    }

    /// Ends the session and begins the next one on the same carrier.
    async fn next_session(&mut self) {
        self.cut.send(true).unwrap();
        let host = self.carrier.take().unwrap().await.unwrap();
        let (carrier, reset, link, cut) = session(host, self.reset).await;
        (self.carrier, self.reset, self.link, self.cut) = (Some(carrier), reset, link, cut);
    }
}

type Session = (tokio::task::JoinHandle<DuplexStream>, Token, Link, tokio::sync::watch::Sender<bool>);

async fn session(mut host: DuplexStream, reset: Token) -> Session {
    // The session works on a copy of the carrier's ends, so that the carrier outlives it.
    let (near, mut far) = duplex(1 << 16);
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    let carrier = tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut host, &mut far) => {}
            _ = is_cut.wait_for(|cut| *cut) => {}
        }
        host
    });
    let HostSession { link, next_reset, driver, mut incoming } = host_session(near, &reset).await.unwrap();
    tokio::spawn(driver.run());
    tokio::spawn(async move {
        while let Some(request) = incoming.next().await {
            tokio::spawn(serve_host(request));
        }
    });
    (carrier, next_reset, link, cut)
}

fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    message
}

const A: u8 = 1;
const AAAA: u8 = 28;
const HTTPS: u8 = 65;

/// The response code and, if there is one, the address in an answer.
fn read_answer(answer: &[u8]) -> (u8, Option<IpAddr>) {
    let address = match (answer[7], answer.len()) {
        (0, _) => None,
        (_, length) if answer[length - 6..length - 4] == [0, 4] => {
            Some(IpAddr::from(*answer.last_chunk::<4>().unwrap()))
        }
        _ => Some(IpAddr::from(*answer.last_chunk::<16>().unwrap())),
    };
    (answer[3] & 0xf, address)
}

async fn ask(server: &str, name: &str, kind: u8) -> (u8, Option<IpAddr>) {
    let server: SocketAddr = server.parse().unwrap();
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await.unwrap();
    // Connected: an answer from another address would not be received.
    socket.connect(server).await.unwrap();
    socket.send(&query(name, kind)).await.unwrap();
    let mut answer = [0; 600];
    let length = socket.recv(&mut answer).await.unwrap();
    read_answer(&answer[..length])
}

async fn connect(address: impl Into<IpAddr>, port: u16) -> TcpStream {
    TcpStream::connect((address.into(), port)).await.unwrap()
}

async fn read_line_of(connection: &mut TcpStream) -> String {
    let mut line = Vec::new();
    loop {
        match connection.read_u8().await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn names_and_connections_are_carried_to_the_host() {
    in_namespace("names_and_connections_are_carried_to_the_host", async {
        let _machine = Machine::new(NetworkWay::Filtered).await;
        let (code, v4) = ask("127.0.0.53:53", "Crates.Example", A).await;
        let (_, v6) = ask("127.0.0.53:53", "crates.example", AAAA).await;
        assert_eq!((code, v4), (0, Some(ip("198.19.0.0"))));
        assert_eq!(v6, Some(ip("fd76:6976:6e61:6d65::")));
        // Whoever is asked, the same server answers.
        for server in ["8.8.8.8:53", "[2001:4860:4860::8888]:53", "198.19.4.4:53"] {
            assert_eq!(ask(server, "crates.example", A).await, (0, v4), "{server}");
        }
        let nobody = ask("127.0.0.53:53", "nobody.invalid", A).await;
        assert_eq!(nobody, (3, None));
        assert_eq!(ask("127.0.0.53:53", "www.denied", HTTPS).await, (3, None));
        assert_eq!(ask("127.0.0.53:53", "crates.example", HTTPS).await, (0, None));
        // A service's name is no host's: nobody is asked.
        assert_eq!(ask("127.0.0.53:53", "_http._tcp.crates.example", HTTPS).await, (3, None));
        assert_eq!(ask("127.0.0.53:53", "x.broken", A).await, (2, None));
        assert_eq!(ask("127.0.0.53:53", "a.localhost", AAAA).await, (0, Some(ip("::1"))));
        assert_eq!(ask("127.0.0.53:53", "quiet-fox", A).await, (0, Some(ip("127.0.1.1"))));
        let mut over_tcp = connect(ip("9.9.9.9"), 53).await;
        for _ in 0..2 {
            let query = query("crates.example", A);
            over_tcp.write_u16(query.len() as u16).await.unwrap();
            over_tcp.write_all(&query).await.unwrap();
            let mut answer = vec![0; usize::from(over_tcp.read_u16().await.unwrap())];
            over_tcp.read_exact(&mut answer).await.unwrap();
            assert_eq!(read_answer(&answer), (0, v4));
        }

        for (address, host) in [
            (v4.unwrap(), "crates.example"),
            (v6.unwrap(), "crates.example"),
            (ip("1.2.3.4"), "1.2.3.4"),
            (ip("169.254.169.254"), "169.254.169.254"),
            (ip("2001:db8::1"), "2001:db8::1"),
        ] {
            let mut connection = connect(address, 443).await;
            assert_eq!(read_line_of(&mut connection).await, host);
            assert_eq!(connection.peer_addr().unwrap().ip(), address);
            let sent = vec![7; 1 << 20];
            let (mut reader, mut writer) = connection.split();
            let mut back = vec![0; sent.len()];
            let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut back));
            written.and(read.map(drop)).unwrap();
            assert_eq!(sent, back);
            writer.shutdown().await.unwrap();
            assert_eq!(reader.read(&mut back).await.unwrap(), 0);
        }
        let mut proxy = connect(ip("127.0.0.1"), PROXY_LISTENER).await;
        assert_eq!(read_line_of(&mut proxy).await, "proxy");
        let mut proxy = connect(ip("::1"), PROXY_LISTENER).await;
        assert_eq!(read_line_of(&mut proxy).await, "proxy");
    });
}

#[test]
fn ends_are_ends_and_resets_are_resets() {
    in_namespace("ends_are_ends_and_resets_are_resets", async {
        let mut machine = Machine::new(NetworkWay::Filtered).await;
        let mut byte = [0];
        let mut denied = connect(ip("1.2.3.4"), 1).await;
        assert_eq!(denied.read(&mut byte).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let mut nowhere = connect(ip("198.19.77.77"), 443).await;
        assert_eq!(nowhere.read(&mut byte).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let mut ended = connect(ip("1.2.3.4"), 2).await;
        assert_eq!(ended.read(&mut byte).await.unwrap(), 0, "an end in good order");
        let mut reset = connect(ip("1.2.3.4"), 3).await;
        let mut all = Vec::new();
        assert_eq!(reset.read_to_end(&mut all).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let mut half = connect(ip("1.2.3.4"), 4).await;
        half.write_all(&[1; 70_000]).await.unwrap();
        half.shutdown().await.unwrap();
        all.clear();
        half.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"70000 bytes");

        let mut cut = connect(ip("1.2.3.4"), 443).await;
        assert_eq!(read_line_of(&mut cut).await, "1.2.3.4");
        let (_, asked) = ask("127.0.0.53:53", "crates.example", A).await;
        machine.next_session().await;
        assert_eq!(cut.read(&mut byte).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(ask("127.0.0.53:53", "crates.example", A).await, (0, asked), "addresses outlive a session");
        let mut next = connect(asked.unwrap(), 443).await;
        assert_eq!(read_line_of(&mut next).await, "crates.example");
    });
}

#[test]
fn what_is_the_machines_own_is_left_alone() {
    in_namespace("what_is_the_machines_own_is_left_alone", async {
        let _machine = Machine::new(NetworkWay::Filtered).await;
        let server = TcpListener::bind("[::]:8080").await.unwrap();
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = server.accept().await.unwrap();
                connection.write_all(b"inside\n").await.unwrap();
            }
        });
        for own in ["127.0.0.1", "127.9.9.9", "::1", "198.18.0.1"] {
            assert_eq!(read_line_of(&mut connect(ip(own), 8080).await).await, "inside", "{own}");
        }
        for outside in ["9.9.9.9", "2001:db8::1", "172.17.0.1"] {
            assert_eq!(read_line_of(&mut connect(ip(outside), 8080).await).await, outside);
        }
        let address = "172.17.0.1/16".parse().unwrap();
        netlink::carry_out(&[netlink::Request::Address { interface: LOOPBACK, address }]).unwrap();
        // The kernel tells it to whoever watches, some time.
        while read_line_of(&mut connect(ip("172.17.0.1"), 8080).await).await != "inside" {}

        let udp = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        udp.connect("8.8.8.8:123").await.unwrap();
        udp.send(b"what time is it?").await.unwrap();
        assert_eq!(udp.recv(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let udp = UdpSocket::bind("[::]:0").await.unwrap();
        udp.connect("[2001:db8::1]:443").await.unwrap();
        udp.send(b"QUIC").await.unwrap();
        assert_eq!(udp.recv(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        // A name server of one's own is possible.
        UdpSocket::bind("127.0.0.1:53").await.unwrap();
    });
}

#[test]
fn without_a_network_nothing_is_reachable_at_once() {
    in_namespace("without_a_network_nothing_is_reachable_at_once", async {
        let _machine = Machine::new(NetworkWay::None).await;
        for address in ["1.2.3.4", "2001:db8::1"] {
            let refused = TcpStream::connect((ip(address), 80)).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NetworkUnreachable, "{address}");
        }
        let refused = TcpStream::connect((ip("127.0.0.53"), 53)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn more_connections_than_there_is_room_for_are_reset() {
    in_namespace("more_connections_than_there_is_room_for_are_reset", async {
        let machine = Machine::new(NetworkWay::Filtered).await;
        // Both ends of every connection are in this process.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let limit = rustix::process::Rlimit { current: limit.maximum.or(Some(65_536)), ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut connection = connect(ip("1.2.3.4"), 443).await;
            assert_eq!(read_line_of(&mut connection).await, "1.2.3.4");
            held.push(connection);
        }
        for _ in 0..3000 {
            let mut connection = connect(ip("1.2.3.4"), 443).await;
            assert_eq!(connection.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        assert_eq!(ask("127.0.0.53:53", "crates.example", A).await.0, 0, "names have places of their own");
        assert!(!machine.link.is_closed());
        drop(held);
        // Places come back as the ends are noticed.
        loop {
            let mut connection = connect(ip("1.2.3.4"), 443).await;
            if connection.read(&mut [0]).await.is_ok() {
                break;
            }
        }
        // Resets of the other side, one upon the other, take no place for good.
        for _ in 0..3000 {
            let connection = connect(ip("1.2.3.4"), 443).await;
            connection.set_zero_linger().unwrap();
        }
        assert!(!machine.link.is_closed());
    });
}

#[test]
fn the_host_reaches_servers_inside() {
    in_namespace("the_host_reaches_servers_inside", async {
        let machine = Machine::new(NetworkWay::None).await;
        for address in ["127.0.0.1:8080", "[::1]:8081"] {
            let server = TcpListener::bind(address).await.unwrap();
            let port = server.local_addr().unwrap().port();
            tokio::spawn(async move {
                let (mut connection, _) = server.accept().await.unwrap();
                let mut all = Vec::new();
                connection.read_to_end(&mut all).await.unwrap();
                connection.write_all(&all).await.unwrap();
            });
            let mut first = line_of(&ForwardRequest { port });
            first.extend(b"early, ");
            let mut stream = machine.link.open_with(FORWARD_PORT, &first).await.unwrap();
            stream.write_all(b"late").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let answer = read_line(&mut stream, &mut rest).await.unwrap().unwrap();
            assert_eq!(serde_json::from_slice::<ConnectAnswer>(&answer).unwrap(), ConnectAnswer::Connected);
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"early, late");
        }
        let mut stream = machine.link.open_with(FORWARD_PORT, &line_of(&ForwardRequest { port: 9 })).await.unwrap();
        let answer = read_line(&mut stream, &mut Vec::new()).await.unwrap().unwrap();
        assert!(matches!(serde_json::from_slice(&answer).unwrap(), ConnectAnswer::Failed { .. }));
        let socket = TcpSocket::new_v4().unwrap();
        drop((socket, machine.guest));
    });
}
