//! HTTP: keys, routes, streams, faults.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::reply::{self, Asked, Reply};
use crate::{Fault, Request, Shared, Usage};

type AnswerBody = UnsyncBoxBody<Bytes, Broken>;

static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// The answer ends before its end.
#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken off as told")
    }
}

impl std::error::Error for Broken {}

/// A connection that can be made to end with a reset.
struct Connection {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Relaxed) {
            // An orderly end would come before the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

pub(crate) async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let reset = Arc::new(AtomicBool::new(false));
        let connection = Connection { stream, reset: Arc::clone(&reset) };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match acceptor {
                None => speak(connection, shared, reset).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(connection).await {
                        speak(stream, shared, reset).await;
                    }
                }
            }
        });
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin>(stream: S, shared: Arc<Shared>, reset: Arc<AtomicBool>) {
    let service = service_fn(move |request| {
        let (shared, reset) = (Arc::clone(&shared), Arc::clone(&reset));
        async move { Ok::<_, Infallible>(answer(&shared, request, reset).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    shared: &Arc<Shared>,
    request: hyper::Request<Incoming>,
    reset: Arc<AtomicBool>,
) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let Ok(body) = body.collect().await else { return document(StatusCode::BAD_REQUEST, &json!({})) };
    let mut asked = Request {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers,
        body: body.to_bytes().to_vec(),
        status: 0,
    };
    let outcome = decide(shared, &asked, &parts.method, parts.uri.path());
    asked.status = outcome.status();
    shared.state().requests.push(asked);
    shared.asked.notify_all();
    match outcome {
        Outcome::Document(status, value) => document(status, &value),
        Outcome::Page => {
            let mut response = document(StatusCode::OK, &Value::Null);
            *response.body_mut() = whole("<html>busy</html>".into());
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/html"));
            response
        }
        Outcome::Redirect(path) => {
            let mut response = document(StatusCode::TEMPORARY_REDIRECT, &json!({}));
            let location = HeaderValue::from_str(&path).unwrap_or(HeaderValue::from_static("/elsewhere"));
            response.headers_mut().insert("location", location);
            response
        }
        Outcome::Nothing => std::future::pending().await,
        Outcome::Reply(reply, fault) => {
            if let Some(delay) = reply.delay {
                tokio::time::sleep(delay).await;
            }
            if reply.stream { stream(shared, reply, fault, reset) } else { plain(&reply, fault) }
        }
    }
}

enum Outcome {
    Document(StatusCode, Value),
    Page,
    Redirect(String),
    Nothing,
    Reply(Reply, Option<Fault>),
}

impl Outcome {
    fn status(&self) -> u16 {
        match self {
            Self::Document(status, _) => status.as_u16(),
            Self::Page | Self::Reply(..) => 200,
            Self::Redirect(_) => 307,
            Self::Nothing => 0,
        }
    }
}

fn error(status: u16, message: &str) -> Outcome {
    // All three providers' clients find what they look for.
    let error = json!({"type": "scripted_error", "message": message, "code": status, "status": "SCRIPTED"});
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Outcome::Document(status, json!({"type": "error", "error": error}))
}

fn decide(shared: &Shared, asked: &Request, method: &Method, path: &str) -> Outcome {
    if asked.header("upgrade").is_some() {
        return error(426, "use HTTP");
    }
    if *method != Method::POST {
        if path.ends_with("/models") {
            let ids = ["claude-sonnet-4-5", "claude-haiku-4-5", "gpt-5", "gemini-2.5-pro"];
            let entry = |id: &str| json!({"id": id, "object": "model", "type": "model", "display_name": id});
            let data: Vec<Value> = ids.into_iter().map(entry).collect();
            return Outcome::Document(
                StatusCode::OK,
                json!({"object": "list", "has_more": false, "data": data, "models": []}),
            );
        }
        return if matches!(path, "" | "/") || path.ends_with("/hello") {
            Outcome::Document(StatusCode::OK, json!({"ok": true}))
        } else {
            error(404, path)
        };
    }
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or(Value::Null);
    let mut state = shared.state();
    if path.ends_with("/oauth/token") {
        let granted = body["refresh_token"].as_str().and_then(|token| state.grants.remove(token));
        return granted.map_or_else(|| error(400, "invalid_grant"), |answer| Outcome::Document(StatusCode::OK, answer));
    }
    if state.key.as_deref().is_some_and(|key| !presents(asked, key)) {
        // As one provider does: a part of the wrong key is repeated.
        let presented = asked.header("authorization").or(asked.header("x-api-key")).unwrap_or_default();
        return error(401, &format!("Incorrect API key provided: {presented}"));
    }
    let fault = state.faults.pop_front();
    drop(state);
    match fault {
        Some(Fault::StallBeforeHeaders) => return Outcome::Nothing,
        Some(Fault::Status(status)) => return error(status, "failed as told"),
        Some(Fault::NotJson) => return Outcome::Page,
        Some(Fault::Redirect) => return Outcome::Redirect(format!("/elsewhere{path}")),
        _ => {}
    }
    let counted = (asked.body.len() as u64).div_ceil(4);
    let usage = shared.options.usage.unwrap_or(Usage { input: counted, cached: 0, cache_write: 0, output: 20 });
    let id = format!("{:012x}", LAST_ID.fetch_add(1, Ordering::Relaxed) + 1);
    let asked = Asked { body: &body, script: &shared.options.script, usage, id };
    let reply = if path.ends_with("/messages/count_tokens") {
        return Outcome::Document(StatusCode::OK, json!({"input_tokens": usage.input}));
    } else if path.ends_with("/messages") {
        reply::anthropic(&asked)
    } else if path.ends_with("/responses") {
        reply::responses(&asked)
    } else if path.ends_with("/chat/completions") {
        reply::chat(&asked)
    } else if let Some((model, verb)) = path.rsplit_once("/models/").and_then(|(_, rest)| rest.rsplit_once(':')) {
        match verb {
            "generateContent" => reply::gemini(&asked, model, false),
            "streamGenerateContent" => reply::gemini(&asked, model, true),
            "countTokens" => return Outcome::Document(StatusCode::OK, json!({"totalTokens": usage.input})),
            _ => return error(404, path),
        }
    } else {
        return error(404, path);
    };
    Outcome::Reply(reply, fault)
}

fn presents(asked: &Request, key: &str) -> bool {
    let bearer = asked.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let in_query = asked.path.split_once('?').map_or("", |(_, query)| query);
    let in_query = in_query.split('&').find_map(|pair| pair.strip_prefix("key="));
    [asked.header("x-api-key"), asked.header("x-goog-api-key"), bearer, in_query].contains(&Some(key))
}

fn whole(text: String) -> AnswerBody {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

fn document(status: StatusCode, value: &Value) -> Response<AnswerBody> {
    let mut response = Response::new(whole(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn plain(reply: &Reply, fault: Option<Fault>) -> Response<AnswerBody> {
    if fault != Some(Fault::ShortBody) {
        return document(StatusCode::OK, &reply.document);
    }
    let text = reply.document.to_string();
    let mut response = document(StatusCode::OK, &Value::Null);
    let length = HeaderValue::from(text.len() + 100);
    response.headers_mut().insert("content-length", length);
    // The connection ends when what there is has been sent: the queue has room for one part, and this
    // task is not run before the connection's has nothing more to do.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for part in [Ok(Bytes::from(text)), Err(Broken)] {
            let _ = sender.send(part).await;
        }
    });
    *response.body_mut() = Parts(receiver).boxed_unsync();
    response
}

/// A body that is made while it is sent.
struct Parts(mpsc::Receiver<Result<Bytes, Broken>>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| part.map(Frame::data)))
    }
}

fn stream(shared: &Arc<Shared>, reply: Reply, fault: Option<Fault>, reset: Arc<AtomicBool>) -> Response<AnswerBody> {
    let (sender, receiver) = mpsc::channel(1);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let mut texts: Vec<String> = reply
            .events
            .iter()
            .map(|event| match event["type"].as_str().filter(|_| reply.named) {
                Some(name) => format!("event: {name}\ndata: {event}\n\n"),
                None => format!("data: {event}\n\n"),
            })
            .collect();
        if reply.done {
            texts.push("data: [DONE]\n\n".into());
        }
        for (number, text) in texts.into_iter().enumerate() {
            if shared.options.gated {
                match shared.gate.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return,
                }
            }
            match fault {
                Some(Fault::StallAfter(events)) if events == number => sender.closed().await,
                Some(Fault::ResetAfter(events)) if events == number => {
                    reset.store(true, Ordering::Relaxed);
                    let _ = sender.send(Err(Broken)).await;
                }
                _ => {}
            }
            if sender.send(Ok(text.into())).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Parts(receiver).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache"));
    response
}
