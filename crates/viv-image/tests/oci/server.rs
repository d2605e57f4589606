//! A registry with faults: each request is answered as the test says.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::layout::Layout;

/// One request, as far as tests look at it.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<u64>,
    pub body: String,
}

pub enum Answer {
    /// What the layout has there, parts included.
    Usual,
    /// Status, headers, body.
    Other(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// So many bytes of what the layout has there, then silence until the client has gone.
    Stall(usize),
    /// So many bytes, then the connection is closed.
    Cut(usize),
    /// What the layout has there, ranges not being known.
    Whole,
}

type Behaviour = Box<dyn FnMut(&Request) -> Answer + Send>;

pub struct Server {
    pub host: String,
    pub requests: Receiver<Request>,
}

impl Server {
    /// Serves a layout: manifests by tag and digest, blobs by digest.
    pub fn start(layout: Layout, behaviour: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (sender, requests) = channel();
        let layout = Arc::new(layout);
        let behaviour: Arc<Mutex<Behaviour>> = Arc::new(Mutex::new(Box::new(behaviour)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (layout, behaviour, sender) = (Arc::clone(&layout), Arc::clone(&behaviour), sender.clone());
                // A client that goes away in the middle is part of the tests.
                std::thread::spawn(move || serve(stream?, &layout, &behaviour, &sender));
            }
        });
        Self { host, requests }
    }

    /// All requests that came so far.
    pub fn seen(&self) -> Vec<Request> {
        self.requests.try_iter().collect()
    }
}

fn read(stream: &TcpStream) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut request = Request { method, path, authorization: None, range: None, body: String::new() };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => request.range = value.strip_prefix("bytes=").and_then(|v| v.strip_suffix('-')?.parse().ok()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    std::io::Read::read_exact(&mut reader, &mut body)?;
    request.body = String::from_utf8(body).unwrap();
    Ok(Some(request))
}

fn serve(
    mut stream: TcpStream,
    layout: &Layout,
    behaviour: &Mutex<Behaviour>,
    sender: &Sender<Request>,
) -> std::io::Result<()> {
    let Some(request) = read(&stream)? else { return Ok(()) };
    let _ = sender.send(request.clone());
    let answer = (behaviour.lock().unwrap())(&request);
    let content = find(layout, &request.path);
    let range = request.range.filter(|_| !matches!(answer, Answer::Whole));
    let (status, headers, body, sent) = match (answer, content) {
        (Answer::Other(status, headers, body), _) => {
            let all = body.len();
            (status, headers, body, all)
        }
        (_, None) => {
            (404, Vec::new(), br#"{"errors":[{"code":"NOT_FOUND","message":"no such thing"}]}"#.to_vec(), 1000)
        }
        (answer, Some(content)) => {
            let from = usize::try_from(range.unwrap_or(0)).unwrap();
            let part = content[from..].to_vec();
            let end = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            let headers = if range.is_some() { vec![("Content-Range", end)] } else { Vec::new() };
            let sent = match answer {
                Answer::Stall(count) | Answer::Cut(count) => count,
                _ => part.len(),
            };
            if let Answer::Stall(_) = answer {
                head(&mut stream, if from > 0 { 206 } else { 200 }, &headers, part.len())?;
                stream.write_all(&part[..sent])?;
                // The client goes when it has had enough of waiting.
                return std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
            }
            (if range.is_some() { 206 } else { 200 }, headers, part, sent)
        }
    };
    head(&mut stream, status, &headers, body.len())?;
    stream.write_all(&body[..sent.min(body.len())])
}

fn head(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], length: usize) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Test\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        // A server does not know its port before it is asked.
        let value = value.replace("REALM", &stream.local_addr()?.to_string());
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())
}

/// What lies at `/v2/NAME/manifests/REFERENCE` or `/v2/NAME/blobs/DIGEST`.
fn find(layout: &Layout, path: &str) -> Option<Vec<u8>> {
    let (_, reference) = path.split('?').next()?.rsplit_once('/')?;
    let named =
        layout.entries.iter().find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == reference);
    let digest = named.map_or(reference, |entry| entry["digest"].as_str().unwrap());
    layout.blobs.get(digest).cloned()
}
