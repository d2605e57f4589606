//! Servers on the host's loopback interface for guests to reach, or not to reach.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A server that ends with the test's process.
pub struct Upstream {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// What the clients sent first, a line each.
    lines: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// A web server: `/` answers `hello`, and `/bytes/N` that many zero bytes.
    pub fn web() -> Self {
        Self::start("127.0.0.1:0", |line, mut reader, mut stream| {
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header).unwrap_or(0) < 3 {
                    break;
                }
            }
            let path = line.split(' ').nth(1).unwrap_or("/");
            let body = match path.rsplit_once("/bytes/") {
                Some((_, count)) => vec![0; count.parse().unwrap_or(0)],
                None => b"hello".to_vec(),
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        })
    }

    /// A server that sends back what it is sent, from the first line on.
    pub fn echo() -> Self {
        Self::start("127.0.0.1:0", |line, mut reader, mut stream| {
            let _ = stream.write_all(line.as_bytes());
            let _ = std::io::copy(&mut reader, &mut stream);
        })
    }

    /// A server that keeps the first bytes it is sent and hangs up.
    pub fn recorder() -> Self {
        let server = Self::bind("127.0.0.1:0");
        server.0.serve(server.1, |mut stream, lines| {
            let mut first = [0; 4096];
            let read = stream.read(&mut first).unwrap_or(0);
            lines.lock().unwrap().push(String::from_utf8_lossy(&first[..read]).into_owned());
        })
    }

    /// A server that greets before it is spoken to, as SMTP and SSH do, and then sends back what it is sent.
    pub fn greeter() -> Self {
        let server = Self::bind("127.0.0.1:0");
        server.0.serve(server.1, |mut stream, _| {
            let _ = stream.write_all(b"220 greetings\r\n");
            let mut reader = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut reader, &mut stream);
        })
    }

    fn start(address: &str, answer: fn(String, BufReader<TcpStream>, TcpStream)) -> Self {
        let (upstream, listener) = Self::bind(address);
        upstream.serve(listener, move |stream, lines| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = Vec::new();
            let _ = (&mut reader).take(4096).read_until(b'\n', &mut line);
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap().push(line.clone());
            answer(line, reader, stream);
        })
    }

    fn bind(address: &str) -> (Self, TcpListener) {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        (Self { address, accepted: Arc::default(), lines: Arc::default() }, listener)
    }

    fn serve(
        self,
        listener: TcpListener,
        answer: impl Fn(TcpStream, &Mutex<Vec<String>>) + Clone + Send + 'static,
    ) -> Self {
        let (accepted, lines) = (Arc::clone(&self.accepted), Arc::clone(&self.lines));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (answer, lines) = (answer.clone(), Arc::clone(&lines));
                std::thread::spawn(move || answer(stream, &lines));
            }
        });
        self
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// What the clients sent first.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}
