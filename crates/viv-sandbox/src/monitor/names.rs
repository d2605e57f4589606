//! `http://NAME.localhost:PORT`: one address of the host for the servers of all named sandboxes.
//!
//! ```text
//!  browser ──► 127.0.0.1:PORT ──► any monitor ──Host: web.localhost──► sandbox.sock of web ──► its server
//!                   └ SO_REUSEPORT: the monitor of every named sandbox listens there
//! ```
//!
//! No process is in charge, so none is missed when it ends. The first request's `Host` decides where a
//! whole connection goes, which leaves WebSockets and long streams alone. Browsers and curl take every
//! name below `localhost` for the loopback interface (RFC 6761, section 6.3), and pool connections by name.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use viv_proto::network::{ConnectAnswer, FORWARD_PORT};

use super::publish::{read_answer, request_line};
use crate::registry::open_directory;
use crate::{Paths, Record};

/// Per direction of a connection, in bytes.
const COPY_BYTES: usize = 16 * 1024;

/// The longest head of a request, in bytes; Apache's limit for each of its lines is half of it.
const LONGEST_HEAD_BYTES: usize = 16 * 1024;

/// The most header fields of a request.
const MOST_HEADERS: usize = 100;

/// How long a client may take to say what it wants.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Out of descriptors: how long until the next connection may have more luck.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections one monitor has open.
const MOST_CONNECTIONS: usize = 256;

/// Serves names for ever. A port that is somebody else's is left to them.
pub(super) async fn serve(paths: Paths, port: u16) {
    let Ok(listener) = listen(port) else { return };
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let paths = paths.clone();
                tokio::spawn(async move {
                    connect(&paths, stream).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.listen(128)
}

async fn connect(paths: &Paths, mut client: TcpStream) {
    let Ok(Some(head)) = tokio::time::timeout(HEAD_PATIENCE, read_head(&mut client)).await else { return };
    let opened = match host_of(&head).as_deref().and_then(target) {
        Some(target) => open(paths, &target).await,
        None => Err("this address is for NAME.localhost, NAME being that of a running sandbox".to_owned()),
    };
    match opened {
        Ok(mut guest) => {
            if guest.write_all(&head).await.is_ok() {
                // Whichever side fails, both are closed.
                let _ = copy_bidirectional_with_sizes(&mut client, &mut guest, COPY_BYTES, COPY_BYTES).await;
            }
        }
        Err(reason) => {
            let answer = format!(
                "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{reason}\n",
                reason.len() + 1
            );
            let _ = client.write_all(answer.as_bytes()).await;
        }
    }
}

/// The bytes up to the end of the first request's head, and what came along behind it.
async fn read_head(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD_BYTES || client.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn host_of(head: &[u8]) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok()?;
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    // Two of them mean that someone is to be fooled (RFC 9112, section 3.2).
    let (host, None) = (hosts.next()?, hosts.next()) else { return None };
    std::str::from_utf8(host.value).ok().map(str::to_ascii_lowercase)
}

/// A sandbox, and which port of it if that is said.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    name: String,
    port: Option<u16>,
}

/// `NAME.localhost` or `PORT.NAME.localhost`, with or without the host's own port.
fn target(host: &str) -> Option<Target> {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let name = host.strip_suffix('.').unwrap_or(host).strip_suffix(".localhost")?;
    match name.split_once('.') {
        Some((port, name)) => Some(Target { name: name.to_owned(), port: Some(port.parse().ok()?) }),
        None => Some(Target { name: name.to_owned(), port: None }),
    }
}

/// A connection to a sandbox's server.
async fn open(paths: &Paths, target: &Target) -> Result<tokio::net::UnixStream, String> {
    let records = crate::list(paths).map_err(|error| error.to_string())?;
    let named = |record: &&Record| record.name.as_deref() == Some(target.name.as_str());
    let record = records.iter().find(named).ok_or_else(|| format!("no running sandbox is called {}", target.name))?;
    let port = target.port.or(record.published.first().map(|shown| shown.guest_port)).ok_or_else(|| {
        format!("{0} shows no port: name one, as in http://8080.{0}.localhost, or start it with --publish", target.name)
    })?;
    let directory = open_directory(&paths.runtime.join(&record.id)).map_err(|_| "the sandbox has ended".to_owned())?;
    let unreachable = |error: std::io::Error| format!("port {port} of {} cannot be reached: {error}", target.name);
    let mut stream = crate::exec::connect(&directory, FORWARD_PORT).await.map_err(|error| error.to_string())?;
    stream.write_all(&request_line(port).map_err(unreachable)?).await.map_err(unreachable)?;
    match read_answer(&mut stream).await.map_err(unreachable)? {
        ConnectAnswer::Connected => Ok(stream),
        ConnectAnswer::Denied { reason } | ConnectAnswer::Failed { reason } => {
            Err(format!("port {port} of {} cannot be reached: {}", target.name, viv_vmm::clean(&reason)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_a_sandbox_and_perhaps_a_port() {
        let to = |name: &str, port| Some(Target { name: name.to_owned(), port });
        assert_eq!(target("web.localhost:7080"), to("web", None));
        assert_eq!(target("web.localhost."), to("web", None));
        assert_eq!(target("3000.web.localhost"), to("web", Some(3000)));
        for other in ["localhost", "localhost:7080", "web.example.com", "x.web.localhost", "127.0.0.1:7080", "[::1]"] {
            assert_eq!(target(other), None, "{other}");
        }
    }

    #[test]
    fn one_host_header_counts() {
        assert_eq!(host_of(b"GET / HTTP/1.1\r\nHost: Web.localhost\r\n\r\n").as_deref(), Some("web.localhost"));
        assert_eq!(host_of(b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n"), None);
        assert_eq!(host_of(b"GET / HTTP/1.1\r\n\r\n"), None);
        assert_eq!(host_of(b"\x16\x03\x01\r\n\r\n"), None);
    }
}
