//! A model, a gateway before it, and a client of the gateway.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use viv_net::event::{Event, What};
use viv_net::gateway::{
    Agent, Budget, Credential, Gateway, GatewaySpec, Protocol, Record, USAGE_FILE, Upstream, read_usage,
};
use viv_net::log::EventSink;
use viv_net::spec::Keys;
use viv_testkit::{Options, ScriptedModel};

/// What the model demands, and what must be nowhere.
pub const CANARY: &str = "sk-canary-7Qw3";

/// What the agent has instead.
pub const PLACEHOLDER: &str = "viv-placeholder-0";

/// What another agent has instead.
pub const OTHER_PLACEHOLDER: &str = "viv-placeholder-1";

pub struct Bench {
    pub model: ScriptedModel,
    pub spec: GatewaySpec,
    pub gateway: Arc<Gateway>,
    pub directory: TempDir,
    events: Receiver<Event>,
}

pub fn agent(number: u32, token: &str, budget: &str) -> Agent {
    Agent { number, token: token.into(), budget: Budget::parse(budget).expect("a budget") }
}

impl Bench {
    /// A model that demands the canary, and a gateway that has it in a variable.
    pub fn new(options: Options, change: impl FnOnce(&mut GatewaySpec, &ScriptedModel)) -> Self {
        let model = ScriptedModel::start(Options { key: Some(CANARY.into()), ..options });
        let upstream = |protocol| Upstream { protocol, url: model.url(), credential: Credential::Env("KEY".into()) };
        let mut spec = GatewaySpec {
            agents: vec![agent(0, PLACEHOLDER, "unlimited"), agent(1, OTHER_PLACEHOLDER, "unlimited")],
            ..GatewaySpec::default()
        };
        for (name, protocol) in
            [("anthropic", Protocol::Anthropic), ("openai", Protocol::OpenAi), ("gemini", Protocol::Gemini)]
        {
            spec.upstreams.insert(name.into(), upstream(protocol));
        }
        let directory = tempfile::tempdir().expect("a directory");
        if let Some(authority) = model.authority() {
            let path = directory.path().join("authority.pem");
            std::fs::write(&path, authority).expect("written");
            spec.authorities = Some(path);
        }
        change(&mut spec, &model);
        let (sink, events) = EventSink::channel(1000);
        let gateway = Gateway::start(&spec, keys(), directory.path(), sink).expect("a gateway");
        Self { model, spec, gateway, directory, events }
    }

    pub fn plain(options: Options) -> Self {
        Self::new(options, |_, _| {})
    }

    /// Another gateway on the same directory, as after a crash.
    pub fn restart(&mut self) {
        let (sink, events) = EventSink::channel(1000);
        self.gateway = Gateway::start(&self.spec, keys(), self.directory.path(), sink).expect("a gateway");
        self.events = events;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn usage(&self) -> Vec<Record> {
        read_usage(&self.path(USAGE_FILE)).expect("usage")
    }

    /// The calls that were logged until now, as JSON lines.
    pub fn log(&self) -> String {
        self.events.try_iter().map(|event| serde_json::to_string(&event).expect("JSON") + "\n").collect()
    }

    /// Waits until a call has been logged as over: its record has been written then.
    pub async fn wait_for_call(&self) {
        let call = async {
            while !matches!(self.events.try_recv(), Ok(Event { what: What::Call { .. }, .. })) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), call).await.expect("the call is over");
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        send_to(&self.gateway, request).await
    }

    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Answer {
        ask_gateway(&self.gateway, request).await
    }
}

/// Sends a request over a connection of its own.
async fn send_to(gateway: &Arc<Gateway>, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(Arc::clone(gateway).serve(theirs));
    let (mut sender, connection) = handshake(TokioIo::new(ours)).await.expect("a connection");
    tokio::spawn(connection);
    sender.send_request(request).await.expect("an answer")
}

pub async fn ask_gateway(gateway: &Arc<Gateway>, request: Request<Full<Bytes>>) -> Answer {
    let (parts, body) = send_to(gateway, request).await.into_parts();
    let body = body.collect().await.expect("a whole answer").to_bytes();
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&body).into_owned() }
}

pub fn keys() -> Keys {
    let mut keys = Keys::default();
    keys.insert("KEY", CANARY.into());
    keys
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }
}

pub fn post(path: &str, header: (&str, &str), body: &Value) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", "127.0.0.1:4180")
        .header("content-type", "application/json")
        .header(header.0, header.1)
        .body(Full::from(body.to_string()))
        .expect("a request")
}

/// A call of each provider's API as its own client makes it, with this placeholder.
pub fn call(api: &str, token: &str, stream: bool) -> Request<Full<Bytes>> {
    let bearer = format!("Bearer {token}");
    let prompt = json!([{"role": "user", "content": "hello"}]);
    match api {
        "anthropic" => {
            let body = json!({"model": "claude-x", "stream": stream, "messages": prompt});
            post("/anthropic/v1/messages?beta=true", ("x-api-key", token), &body)
        }
        "responses" => {
            let body = json!({"model": "gpt-x", "stream": stream, "input": prompt});
            post("/openai/v1/responses", ("authorization", &bearer), &body)
        }
        "chat" => {
            let options = json!({"include_usage": true});
            let body = json!({"model": "gpt-x", "stream": stream, "stream_options": options, "messages": prompt});
            post("/openai/v1/chat/completions", ("authorization", &bearer), &body)
        }
        "gemini" => {
            let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
            let body = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
            post(&format!("/gemini/v1beta/models/gemini-x:{verb}"), ("x-goog-api-key", token), &body)
        }
        _ => panic!("no API {api}"),
    }
}

pub const APIS: [&str; 4] = ["anthropic", "responses", "chat", "gemini"];
