//! Requests: over TLS by the host's authorities, through the host's proxy, with a limit on silence.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, LOCATION};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::super::access::RegistryAccess;
use super::Result;
use crate::error::{Error, ErrorKind};

/// As many as registries with a store elsewhere need, and some.
const MOST_REDIRECTS: usize = 5;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Why there was no answer, or not all of one.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Broken {}

impl Broken {
    /// The innermost reason is what tells people something.
    fn because(error: &(dyn StdError + 'static)) -> Self {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self(innermost.to_string())
    }

    fn silent(stall: Duration) -> Self {
        Self(format!("nothing came for {} seconds", stall.as_secs_f32()))
    }
}

/// What all connections of one image share.
#[derive(Clone)]
pub(super) struct Connector {
    direct: HttpsConnector<HttpConnector>,
    tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
}

impl Connector {
    pub(super) fn new(access: &RegistryAccess) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Download, "TLS cannot be set up").source(error))?;
        let tls = Arc::new(tls.with_root_certificates(roots).with_no_client_auth());
        let (proxy, no) = (access.proxy.clone().unwrap_or_default(), access.no_proxy.clone().unwrap_or_default());
        // What is unencrypted is on this host, or in a network that the user has named as its own.
        let proxies = Matcher::builder().https(proxy).no(no).build();
        Ok(Self { direct: over_tls(&tls, tcp()), tls, proxies: Arc::new(proxies) })
    }
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}

fn over_tls<C>(tls: &ClientConfig, connector: C) -> HttpsConnector<C> {
    HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_http1().wrap_connector(connector)
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self.proxies.intercept(&uri) {
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp());
                if let Some(credentials) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(credentials.clone());
                }
                Box::pin(over_tls(&self.tls, tunnel).call(uri))
            }
            None => Box::pin(self.direct.call(uri)),
        }
    }
}

/// A client of one thread.
pub(super) struct Http {
    client: Client<Connector, Full<Bytes>>,
    stall: Duration,
}

impl Http {
    pub(super) fn new(connector: Connector, stall: Duration) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build(connector), stall }
    }

    /// Sends a request and follows where it is sent to. What says who the user is goes to no other
    /// host, and what is encrypted stays so.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken> {
        for _ in 0..=MOST_REDIRECTS {
            let from = request.uri().clone();
            let headers = request.headers().clone();
            let answer = tokio::time::timeout(self.stall, self.client.request(request)).await;
            let answer = answer.map_err(|_| Broken::silent(self.stall))?.map_err(|error| Broken::because(&error))?;
            let moved = matches!(
                answer.status(),
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            if !moved {
                return Ok(answer);
            }
            let to = target(&from, answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()))?;
            request = Request::new(Full::default());
            let same_host = (from.scheme(), from.authority()) == (to.scheme(), to.authority());
            *request.uri_mut() = to;
            *request.headers_mut() = headers;
            if !same_host {
                request.headers_mut().remove(AUTHORIZATION);
            }
        }
        Err(Broken(format!("it was sent on more than {MOST_REDIRECTS} times")))
    }

    /// The next piece of a body; `None` at its end.
    pub(super) async fn next(&self, body: &mut Incoming) -> Result<Option<Bytes>, Broken> {
        loop {
            let frame = tokio::time::timeout(self.stall, body.frame()).await.map_err(|_| Broken::silent(self.stall))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Broken::because(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `limit` bytes; more of it is left unread.
    pub(super) async fn collect(&self, mut body: Incoming, limit: u64) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        while let Some(data) = self.next(&mut body).await? {
            if (all.len() + data.len()) as u64 > limit {
                return Err(Broken(format!("the answer has more than {limit} bytes")));
            }
            all.extend_from_slice(&data);
        }
        Ok(all)
    }
}

/// Where a redirect leads. Its query may hold a signature, so it is not shown.
fn target(from: &Uri, location: Option<&str>) -> Result<Uri, Broken> {
    let location = location.ok_or_else(|| Broken("it was sent on to nowhere".to_owned()))?;
    let joined = url::Url::parse(&from.to_string()).and_then(|base| base.join(location)).ok();
    let to: Uri = joined
        .and_then(|url| url.as_str().parse().ok())
        .ok_or_else(|| Broken("it was sent on to what is no address".to_owned()))?;
    match (from.scheme_str(), to.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(to),
        _ => Err(Broken("it was sent from an encrypted address to one that is not".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_redirects_lead() {
        let from = |from: &str, to: &str| target(&from.parse().unwrap(), Some(to)).map(|uri| uri.to_string());
        assert_eq!(from("https://a.example/v2/x?q", "/y?z=1").unwrap(), "https://a.example/y?z=1");
        assert_eq!(from("http://a.example/", "https://b.example/y").unwrap(), "https://b.example/y");
        from("https://a.example/", "http://a.example/").unwrap_err();
        from("https://a.example/", "file:///etc/passwd").unwrap_err();
        target(&"https://a.example/".parse().unwrap(), None).unwrap_err();
    }
}
