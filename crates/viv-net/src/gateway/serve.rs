//! HTTP/1.1 with the guest on one side, with upstreams on the other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{self, Fault, Trouble};
use super::client::{Connector, client, root_cause};
use super::credential::{Key, Source};
use super::download::{Broken, Download, Metering, Report, stalled};
use super::ledger::{Call, Ledger};
use super::meter::Meter;
use super::route::{self, Address};
use super::upload::{LONGEST_BODY, ModelCheck, Upload, UploadBody, too_large};
use super::{Agent, Error, ErrorKind, GatewaySpec, Protocol, Upstream};
use crate::log::EventSink;
use crate::spec::Keys;

/// How long a guest may take for a request's head, from its connection or the last request on.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

const MOST_HEADERS: usize = 128;

type AnswerBody = UnsyncBoxBody<Bytes, Broken>;

/// Serves the model APIs of one sandbox.
pub struct Gateway {
    upstreams: BTreeMap<String, Target>,
    agents: Vec<Agent>,
    ledger: Arc<Ledger>,
    client: Client<Connector, UploadBody>,
    events: EventSink,
    patience: Duration,
}

struct Target {
    protocol: Protocol,
    address: Address,
    source: Source,
}

/// A request on its way.
struct Passage<'a> {
    name: &'a str,
    target: &'a Target,
    agent: &'a Agent,
    uri: Uri,
    path: &'a str,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("upstreams", &self.upstreams.keys()).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Makes a gateway that keeps its record of usage in `directory`, and goes on from what is there. Keys are
    /// read when they are first needed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Specification`] where an upstream's URL is none, [`ErrorKind::Gateway`] without
    /// certificate authorities, [`ErrorKind::Usage`] if the record cannot be used.
    pub fn start(spec: &GatewaySpec, keys: Keys, directory: &Path, events: EventSink) -> Result<Arc<Self>, Error> {
        let connector = Connector::new(spec, &keys)?;
        let keys = Arc::new(keys);
        let target = |(name, upstream): (&String, &Upstream)| {
            if name.is_empty() || name.contains('/') {
                let message = format!("`{}` is no name of an upstream", name.escape_debug());
                return Err(Error::new(ErrorKind::Specification, message));
            }
            let address = Address::parse(name, &upstream.url)?;
            let source = Source::new(&upstream.credential, &keys, &connector);
            Ok((name.clone(), Target { protocol: upstream.protocol, address, source }))
        };
        Ok(Arc::new(Self {
            upstreams: spec.upstreams.iter().map(target).collect::<Result<_, Error>>()?,
            agents: spec.agents.clone(),
            ledger: Arc::new(Ledger::open(spec, directory)?),
            client: client(connector),
            events,
            patience: Duration::from_secs(spec.stalled_after),
        }))
    }

    /// Serves one connection until either side is done with it.
    pub async fn serve<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| {
            let gateway = Arc::clone(&self);
            async move { Ok::<_, Infallible>(gateway.answer(request).await) }
        });
        // A guest that breaks off, or speaks no HTTP, has been answered by hyper as far as it can be.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_headers(MOST_HEADERS)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let path = request.uri().path().to_owned();
        let Some((name, target, rest)) = self.target(&path) else { return self.unknown(&path) };
        self.pass(name, target, rest, request).await.unwrap_or_else(|trouble| refusal(target.protocol, &trouble))
    }

    fn target<'a>(&'a self, path: &'a str) -> Option<(&'a str, &'a Target, &'a str)> {
        let (name, rest) = route::split(path)?;
        let (name, target) = self.upstreams.get_key_value(name)?;
        Some((name, target, rest))
    }

    fn unknown(&self, path: &str) -> Response<AnswerBody> {
        let known: Vec<&str> = self.upstreams.keys().map(String::as_str).collect();
        let name = route::split(path).map_or("", |(name, _)| name);
        let message = format!("viv: there is no model API `{name}` here, only: {}", known.join(", "));
        let document = serde_json::json!({
            "error": {"type": "not_found", "code": "unknown_upstream", "message": message, "upstreams": known},
        });
        plain(StatusCode::NOT_FOUND, document.to_string())
    }

    async fn pass(
        &self,
        name: &str,
        target: &Target,
        path: &str,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Trouble> {
        let began = Instant::now();
        if route::is_upgrade(request.method(), request.headers()) {
            return Err(Trouble::new(Fault::WebSocket, "the gateway speaks HTTP/1.1 alone, no WebSocket"));
        }
        let (query, in_query) = route::split_query(request.uri().query());
        let agent = route::caller(&self.agents, request.headers(), &in_query).ok_or_else(|| {
            Trouble::new(Fault::Placeholder, "the key is not the placeholder that this sandbox was given")
        })?;
        if !route::stays_below(path) {
            return Err(Trouble::new(Fault::Request, "the path leaves the upstream's"));
        }
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > LONGEST_BODY) {
            return Err(too_large());
        }
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let uri = target.address.join(&format!("{path}{query}"))?;
        let report = Report {
            events: self.events.clone(),
            upstream: name.to_owned(),
            agent: agent.number,
            began,
            status: 0,
            model: None,
        };
        let passage = Passage { name, target, agent, uri, path };
        let refuse = |trouble: Trouble| {
            report.refused(&trouble.message);
            trouble
        };
        // A key first: a host without one does not use up the budget.
        let key = target.source.key().await.map_err(refuse)?;
        let call = if route::is_call(request.method()) { Some(self.reserve(&passage).map_err(refuse)?) } else { None };
        self.forward(&passage, request, key, call, report).await
    }

    fn reserve(&self, passage: &Passage<'_>) -> Result<Call, Trouble> {
        self.ledger.begin(passage.name, passage.agent.number, route::model_in_path(passage.path).as_deref())
    }

    /// Sends a request, and once more with another key where the first is refused.
    async fn forward(
        &self,
        passage: &Passage<'_>,
        request: Request<Incoming>,
        key: Option<Key>,
        mut call: Option<Call>,
        mut report: Report,
    ) -> Result<Response<AnswerBody>, Trouble> {
        let (mut parts, body) = request.into_parts();
        route::strip_request(&mut parts.headers);
        let check: ModelCheck = if call.is_some() && self.ledger.needs_price(passage.agent.number) {
            let ledger = Arc::clone(&self.ledger);
            Some(Box::new(move |model| ledger.has_price(model)))
        } else {
            None
        };
        let upload = Upload::new(body, route::model_in_path(passage.path), check);
        let mut outcome = self.send(passage, &parts, &upload, key.as_ref()).await;
        if let (Ok(response), Some(refused)) = (&outcome, &key)
            && matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Some(other) =
                passage.target.source.other_than(refused, response.status() == StatusCode::UNAUTHORIZED).await
            && let Some(again) = self.send_again(passage, &parts, &upload, &other).await
        {
            outcome = again;
        }
        if let (Some(call), Some(model)) = (&mut call, upload.model()) {
            call.name_model(&model);
        }
        report.model = upload.model();
        match outcome {
            Ok(response) => Ok(self.pass_back(passage, response, upload, call, report)),
            Err(trouble) => {
                let status = answer::status(passage.target.protocol, trouble.fault).as_u16();
                if let Some(call) = &mut call {
                    call.answered(status);
                }
                if trouble.fault == Fault::Budget {
                    report.refused(&trouble.message);
                }
                report.status = status;
                Err(trouble)
            }
        }
    }

    async fn send_again(
        &self,
        passage: &Passage<'_>,
        parts: &hyper::http::request::Parts,
        upload: &Arc<Upload>,
        key: &Key,
    ) -> Option<Result<Response<Incoming>, Trouble>> {
        // What is too long to be kept was sent for good.
        upload.is_kept().then_some(())?;
        Some(self.send(passage, parts, upload, Some(key)).await)
    }

    async fn send(
        &self,
        passage: &Passage<'_>,
        parts: &hyper::http::request::Parts,
        upload: &Arc<Upload>,
        key: Option<&Key>,
    ) -> Result<Response<Incoming>, Trouble> {
        let gone = || Trouble::new(Fault::Internal, "the request is no longer there");
        let mut request = Request::new(upload.body().ok_or_else(gone)?);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = passage.uri.clone();
        *request.headers_mut() = parts.headers.clone();
        if let Some(key) = key {
            route::put_key(request.headers_mut(), passage.target.protocol, key)?;
        }
        tokio::select! {
            response = self.client.request(request) => response.map_err(|error| {
                upload.refused().unwrap_or_else(|| unreachable(passage.name, &error))
            }),
            () = self.no_progress(upload) => Err(Trouble::new(Fault::Stalled, stalled(self.patience))),
        }
    }

    /// Ends when neither side has sent anything for too long.
    async fn no_progress(&self, upload: &Arc<Upload>) {
        let mut seen = upload.passed();
        loop {
            tokio::time::sleep(self.patience).await;
            let passed = upload.passed();
            if passed == seen {
                return;
            }
            seen = passed;
        }
    }

    fn pass_back(
        &self,
        passage: &Passage<'_>,
        response: Response<Incoming>,
        upload: Arc<Upload>,
        mut call: Option<Call>,
        mut report: Report,
    ) -> Response<AnswerBody> {
        let status = response.status();
        report.status = status.as_u16();
        if let Some(call) = &mut call {
            call.answered(status.as_u16());
        }
        let protocol = passage.target.protocol;
        if status == StatusCode::UNAUTHORIZED {
            // Not passed on: providers repeat parts of the key that they refuse.
            let message = format!("the upstream `{}` refuses the host's key (401)", passage.name);
            return refusal(protocol, &Trouble::new(Fault::Key, message));
        }
        let (mut parts, incoming) = response.into_parts();
        route::strip_answer(&mut parts.headers);
        let is = |prefix: &[u8]| {
            let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
            kind.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        // What is compressed all the same cannot be read, and is estimated.
        let stream = is(b"text/event-stream") && !parts.headers.contains_key(header::CONTENT_ENCODING);
        if stream {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let mut download = Download::new(incoming, protocol, stream, self.patience);
        match call.filter(|_| status.is_success()) {
            Some(call) => {
                let estimates = route::makes_tokens(passage.path);
                download.metering = Some(Metering { meter: Meter::new(stream), call, upload, estimates, report });
            }
            None => download.report = Some(report),
        }
        Response::from_parts(parts, download.boxed_unsync())
    }
}

fn unreachable(name: &str, error: &legacy::Error) -> Trouble {
    let what = if error.is_connect() { "cannot be reached" } else { "broke off before it answered" };
    Trouble::new(Fault::Unreachable, format!("the upstream `{name}` {what}: {}", root_cause(error)))
}

fn refusal(protocol: Protocol, trouble: &Trouble) -> Response<AnswerBody> {
    let mut response = plain(answer::status(protocol, trouble.fault), answer::document(protocol, trouble).to_string());
    let headers = response.headers_mut();
    if trouble.fault == Fault::WebSocket {
        // RFC 9110, section 15.5.22: a 426 says what to upgrade to.
        headers.insert(header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    response
}

fn plain(status: StatusCode, text: String) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
