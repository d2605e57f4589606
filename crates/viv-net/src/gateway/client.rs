//! Connections to upstreams: kept alive, over TLS by the host's authorities, through the host's proxy.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::{Error, ErrorKind, GatewaySpec};
use crate::spec::Keys;

/// Name resolution, TCP, the proxy's answer and TLS together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Shorter than servers wait, so that a call rarely meets a connection that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(15);

const MOST_HEADERS: usize = 256;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client that never follows a redirect.
pub(super) fn client<B>(connector: Connector) -> Client<Connector, B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .http1_max_headers(MOST_HEADERS)
        .build(connector)
}

/// Connects.
#[derive(Clone)]
pub(super) struct Connector {
    direct: HttpsConnector<HttpConnector>,
    tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
}

impl Connector {
    /// By the specification's authorities, or the host's; through the proxy that `keys` name.
    pub(super) fn new(spec: &GatewaySpec, keys: &Keys) -> Result<Self, Error> {
        let tls = Arc::new(tls(spec)?);
        let variable = |names: &[&str]| names.iter().find_map(|name| keys.get(name)).unwrap_or_default().to_owned();
        // Only https goes through the proxy: what is plain HTTP is a model on the user's own network.
        let proxy = variable(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]);
        let proxies = Matcher::builder().https(proxy).no(variable(&["no_proxy", "NO_PROXY"])).build();
        Ok(Self { direct: over_tls(&tls, tcp()), tls, proxies: Arc::new(proxies) })
    }
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(60)));
    connector
}

fn over_tls<C>(tls: &ClientConfig, connector: C) -> HttpsConnector<C> {
    HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_http1().wrap_connector(connector)
}

fn tls(spec: &GatewaySpec) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &spec.authorities {
        for certificate in read_authorities(path)? {
            // One that cannot be used is left out, as the rest may do.
            let _ = roots.add(certificate);
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let secure = spec.upstreams.values().any(|upstream| upstream.url.starts_with("https:"));
    if roots.is_empty() && secure {
        return Err(Error::new(ErrorKind::Gateway, "no certificate authorities to check model APIs by")
            .hint("install ca-certificates, or set SSL_CERT_FILE to a bundle"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Gateway, "TLS cannot be set up").source(error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| {
        Error::new(ErrorKind::Gateway, format!("{} is no bundle of certificates", path.display())).source(error)
    })
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connection = match self.proxies.intercept(&uri) {
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp());
                if let Some(credentials) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(credentials.clone());
                }
                over_tls(&self.tls, tunnel).call(uri)
            }
            None => self.direct.call(uri),
        };
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_DEADLINE, connection).await {
                Ok(connected) => connected,
                Err(_) => Err(Late.into()),
            }
        })
    }
}

#[derive(Debug)]
struct Late;

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection within {} seconds", CONNECT_DEADLINE.as_secs())
    }
}

impl std::error::Error for Late {}

/// The innermost reason, which is what tells people something.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
