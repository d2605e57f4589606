//! An egress in this process, with a resolver of the test's, and upstreams on loopback.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::mpsc::Receiver;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use viv_net::egress::{Egress, Resolution, Resolve};
use viv_net::event::{Event, What};
use viv_net::log::EventSink;
use viv_net::policy::{Policy, Rule};
use viv_net::spec::{EgressSpec, Limits};
use viv_proto::network::{CONNECT_PORT, ConnectAnswer, ConnectRequest, NAMES_PORT, NameAnswer, NameQuery};

pub type Stream = BufReader<UnixStream>;

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Knows what the test told it: the answers to a name in turn, the last one again and again.
#[derive(Default)]
pub struct Told(Mutex<HashMap<String, Vec<Resolution>>>);

impl Told {
    pub fn tell(&self, name: &str, answers: Vec<Resolution>) {
        self.0.lock().unwrap().insert(name.to_owned(), answers);
    }
}

impl Resolve for Told {
    fn resolve(&self, name: String) -> BoxFuture<'static, Resolution> {
        let mut told = self.0.lock().unwrap();
        let answer = match told.get_mut(&name) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
            None if name.ends_with(".test") => Resolution::Addresses(vec![LOOPBACK]),
            None => Resolution::Unknown,
        };
        async move {
            if answer == Resolution::Failed("stalled".into()) {
                std::future::pending::<()>().await;
            }
            answer
        }
        .boxed()
    }
}

pub struct Net {
    pub events: Receiver<Event>,
    pub told: Arc<Told>,
    pub directory: TempDir,
}

pub fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| Rule::parse(text).unwrap()).collect()
}

/// An egress that allows these; names that end in `.test` are on loopback.
pub fn net(allow: &[&str]) -> Net {
    net_of(Policy { allow: rules(allow), ..Policy::default() }, |_| {})
}

pub fn net_of(policy: Policy, adjust: impl FnOnce(&mut EgressSpec)) -> Net {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = EgressSpec {
        sandbox: "test".into(),
        directory: directory.path().to_owned(),
        policy: Some(policy),
        limits: Limits::default(),
        gateway: None,
        ssh_agent: None,
    };
    adjust(&mut spec);
    let (sink, events) = EventSink::channel(10_000);
    let told = Arc::new(Told::default());
    let egress = Egress::new(&spec, Arc::clone(&told) as Arc<dyn Resolve>, None, sink);
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    tokio::spawn(egress.serve(listener));
    Net { events, told, directory }
}

impl Net {
    /// The answer to the greeting, and the stream.
    pub async fn greet(&self, port: u32) -> (String, Stream) {
        let mut stream = BufReader::new(UnixStream::connect(self.directory.path().join("socket")).await.unwrap());
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        (line, stream)
    }

    pub async fn open(&self, port: u32) -> Stream {
        let (line, stream) = self.greet(port).await;
        assert_eq!(line, "OK\n");
        stream
    }

    pub async fn name(&self, name: &str) -> NameAnswer {
        let mut stream = self.open(NAMES_PORT).await;
        ask_name(&mut stream, name).await
    }

    pub async fn connect(&self, host: &str, port: u16) -> (ConnectAnswer, Stream) {
        let mut stream = self.open(CONNECT_PORT).await;
        let answer = ask(&mut stream, &ConnectRequest { host: host.into(), port }).await;
        (answer, stream)
    }

    pub async fn connected(&self, host: &str, port: u16) -> Stream {
        let (answer, stream) = self.connect(host, port).await;
        assert_eq!(answer, ConnectAnswer::Connected);
        stream
    }

    pub async fn refused(&self, host: &str, port: u16) -> String {
        match self.connect(host, port).await.0 {
            ConnectAnswer::Denied { reason } => reason,
            other => panic!("{host}:{port}: {other:?}"),
        }
    }

    /// Waits for an event; those before it are dropped.
    pub async fn event<T>(&self, pick: impl Fn(What) -> Option<T>) -> T {
        loop {
            while let Ok(event) = self.events.try_recv() {
                if let Some(picked) = pick(event.what) {
                    return picked;
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

pub async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(stream: &mut Stream, question: &Q) -> A {
    let mut line = serde_json::to_vec(question).unwrap();
    line.push(b'\n');
    stream.write_all(&line).await.unwrap();
    line.clear();
    stream.read_until(b'\n', &mut line).await.unwrap();
    serde_json::from_slice(&line).unwrap()
}

pub async fn ask_name(stream: &mut Stream, name: &str) -> NameAnswer {
    ask(stream, &NameQuery { name: name.into() }).await
}

pub async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A stream that is cut has its bytes all the same.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

/// A TCP listener on loopback.
pub async fn upstream() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

pub async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

/// What a TLS client that believes to talk to this server says first.
pub fn hello(server_name: &str) -> Vec<u8> {
    let config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(server_name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
