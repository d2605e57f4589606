//! The HTTP proxy, for programs that like one: CONNECT, and plain HTTP by absolute URI (RFC 9112, section 3.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version, upgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::sync::Mutex;

use self::reuse::Reusable;
use super::dial::Refusal;
use super::limits::{LIMIT, Slot};
use super::{Egress, GuestStream};
use crate::event::{Denial, Via};
use crate::policy;

mod reuse;

/// A client that has not finished its header by then is told so and left; it may also be silent as long between
/// requests.
const HEADER_DEADLINE: Duration = Duration::from_secs(15);

/// The longest header of a request, in bytes: a longer one is answered with 431.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The most fields in a header.
const MAX_HEADERS: usize = 128;

/// The header that marks an answer as ours: the rule that refused.
const DENIED_HEADER: &str = "x-viv-denied";

type Body = BoxBody<Bytes, hyper::Error>;

/// What the requests of one client share.
struct Client {
    egress: Arc<Egress>,
    /// The connection of its last plain request.
    reusable: Mutex<Option<Reusable>>,
    /// Held by the tunnels it has become, too.
    slot: Arc<Slot>,
}

/// Serves one client until it goes, or becomes a tunnel.
pub(super) async fn serve(egress: Arc<Egress>, stream: GuestStream, slot: Slot) {
    let client = Arc::new(Client { egress, reusable: Mutex::new(None), slot: Arc::new(slot) });
    let service = service_fn(move |request| {
        let client = Arc::clone(&client);
        async move { Ok::<_, Infallible>(client.respond(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    // A client that breaks off, or does not speak HTTP, has been answered as far as it can be.
    drop(served);
}

impl Client {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let answered =
            if request.method() == Method::CONNECT { self.tunnel(request).await } else { self.forward(request).await };
        answered.unwrap_or_else(|answer| *answer)
    }

    async fn tunnel(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Answer> {
        let missing = || bad_request("CONNECT needs HOST:PORT");
        let authority = request.uri().authority().ok_or_else(missing)?;
        let port = authority.port_u16().ok_or_else(missing)?;
        let host = host_of(authority)?;
        let upstream = self.dial(host, port).await?;
        let egress = Arc::clone(&self.egress);
        let slot = Arc::clone(&self.slot);
        let upgraded = upgrade::on(&mut request);
        tokio::spawn(async move {
            let _slot = slot;
            // Otherwise the client has gone before its answer came.
            if let Ok(upgraded) = upgraded.await
                && let Ok(parts) = upgraded.downcast::<TokioIo<GuestStream>>()
            {
                egress.carry(parts.io.into_inner(), upstream, &parts.read_buf).await;
            }
        });
        Ok(Response::new(Empty::new().map_err(|never| match never {}).boxed()))
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Answer> {
        let uri = request.uri();
        let authority = match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP => authority.clone(),
            (Some(_), _) => return Err(bad_request("only http:// is forwarded; other protocols use CONNECT")),
            _ => return Err(bad_request("this is a proxy: it serves nothing itself")),
        };
        let host = host_of(&authority)?;
        let port = authority.port_u16().unwrap_or(80);
        if !host_header_agrees(request.headers(), host, port) {
            return Err(bad_request("the Host header does not agree with the URI"));
        }
        let request = to_origin(request, &authority);
        let mut reusable = self.reusable.lock().await;
        let request = match reusable.take().filter(|last| last.leads_to(host, port)) {
            // A connection that its server has closed meanwhile gives the request back.
            Some(mut last) => match last.send(request).await {
                Ok(response) => {
                    *reusable = Some(last);
                    return to_client(response);
                }
                Err((error, None)) => return Err(failed(host, port, &error.to_string(), false)),
                Err((_, Some(request))) => request,
            },
            None => request,
        };
        let upstream = self.dial(host, port).await?;
        let mut next = Reusable::new(upstream, host, port).await.map_err(|error| failed(host, port, &error, false))?;
        let response = next.send(request).await.map_err(|(error, _)| failed(host, port, &error.to_string(), false))?;
        *reusable = Some(next);
        to_client(response)
    }

    async fn dial(&self, host: &str, port: u16) -> Result<super::dial::Upstream, Answer> {
        let Some(rules) = &self.egress.policy else { return Err(bad_request("this sandbox has no network")) };
        let request = policy::Request { via: Via::Proxy, host, port };
        self.egress.dial(rules, request).await.map_err(|refusal| match refusal {
            Refusal::Denied(denial) => denied(StatusCode::FORBIDDEN, &denial),
            Refusal::Excess(reason) => denied(StatusCode::TOO_MANY_REQUESTS, &request.denial(LIMIT, reason, None)),
            Refusal::Failed(failure) => failed(host, port, &failure.reason, failure.timed_out),
        })
    }
}

/// An answer of our own, instead of an upstream's.
type Answer = Box<Response<Body>>;

/// The host of an authority. One with a user's name in it is refused: what stands before `@` looks like a host.
fn host_of(authority: &Authority) -> Result<&str, Answer> {
    if authority.as_str().contains('@') {
        return Err(bad_request("a user's name in the URI is not supported"));
    }
    Ok(authority.host())
}

/// Whether there is one Host header, and it means the same host and port (RFC 9112, section 3.2.2).
fn host_header_agrees(headers: &HeaderMap, host: &str, port: u16) -> bool {
    let mut values = headers.get_all(HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        // HTTP/1.0 has no such header.
        return headers.get(HOST).is_none();
    };
    let Ok(named) = Authority::try_from(value.as_bytes()) else { return false };
    named.host().eq_ignore_ascii_case(host) && named.port_u16().unwrap_or(80) == port && !named.as_str().contains('@')
}

/// The request as the origin server gets it.
fn to_origin(mut request: Request<Incoming>, authority: &Authority) -> Request<Incoming> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    strip_hop_by_hop(request.headers_mut());
    if !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    request.headers_mut().append(VIA, HeaderValue::from_static("1.1 viv"));
    request
}

/// The response as the client gets it.
fn to_client(mut response: Response<Incoming>) -> Result<Response<Body>, Answer> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(own_answer(StatusCode::BAD_GATEWAY, "an upgrade nobody asked for", json!({"type": "failed"})));
    }
    strip_hop_by_hop(response.headers_mut());
    response.headers_mut().append(VIA, HeaderValue::from_static("1.1 viv"));
    Ok(response.map(BodyExt::boxed))
}

/// Removes what is meant for this connection only (RFC 9110, section 7.6.1). How a body is delimited is known to
/// hyper, which writes that anew.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Without these two a message would mean another thing.
        .filter(|name| *name != HOST && *name != hyper::header::CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

/// An object that says in `error` what happened, in one sentence, as package registries do: their clients show it.
fn own_answer(status: StatusCode, error: &str, mut details: serde_json::Value) -> Answer {
    details["error"] = error.into();
    let body = details.to_string() + "\n";
    let mut response = Response::new(Full::from(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Box::new(response)
}

fn bad_request(reason: &str) -> Answer {
    own_answer(StatusCode::BAD_REQUEST, reason, json!({"type": "bad_request"}))
}

fn failed(host: &str, port: u16, reason: &str, timed_out: bool) -> Answer {
    let status = if timed_out { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
    let error = format!("{host}:{port} failed: {reason}");
    own_answer(status, &error, json!({"type": "failed", "host": host, "port": port, "reason": reason}))
}

fn denied(status: StatusCode, denial: &Denial) -> Answer {
    let allow = denial.allow.as_ref().map(|allow| format!("--allow {allow}"));
    let permitted = allow.as_ref().map(|allow| format!("; {allow} would permit it")).unwrap_or_default();
    let mut answer = own_answer(
        status,
        &format!("{}{permitted}", denial.reason),
        json!({
            "type": "denied_by_viv",
            "host": denial.host,
            "port": denial.port,
            "rule": denial.rule,
            "reason": denial.reason,
            "allow": allow,
        }),
    );
    let rule = HeaderValue::from_str(&denial.rule).unwrap_or(HeaderValue::from_static("rule"));
    answer.headers_mut().insert(DENIED_HEADER, rule);
    // Most programs show no more of the answer to a CONNECT than its first line (RFC 9112, section 4).
    let phrase = format!("{} (viv: {})", status.canonical_reason().unwrap_or_default(), denial.reason);
    if let Ok(phrase) = ReasonPhrase::try_from(phrase.into_bytes()) {
        answer.extensions_mut().insert(phrase);
    }
    answer
}
