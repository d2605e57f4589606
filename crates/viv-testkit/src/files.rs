//! A web server of files, over TLS.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::tls;

/// Serves the files of a directory by HTTPS on the loopback interface, with a certificate that its own authority has
/// signed. After `git update-server-info`, a repository can be cloned from it (gitprotocol-http(5), "Dumb clients").
/// It ends when dropped.
///
/// ```
/// let directory = std::env::temp_dir();
/// let server = viv_testkit::FileServer::start(&directory, &["files.test".into()]);
/// assert!(server.authority().starts_with("-----BEGIN CERTIFICATE-----"));
/// ```
pub struct FileServer {
    address: SocketAddr,
    authority: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FileServer {
    /// Starts one, for these names, in a thread of its own.
    ///
    /// # Panics
    ///
    /// If the host has no more ports, threads or entropy: tests cannot go on without.
    #[must_use]
    pub fn start(directory: &Path, names: &[String]) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("an address");
        let (acceptor, authority) = tls::identity(names);
        let directory: Arc<Path> = directory.into();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let serve = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        let (acceptor, directory) = (acceptor.clone(), Arc::clone(&directory));
                        tokio::spawn(async move {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let service = service_fn(|request: hyper::Request<_>| {
                                let path = path_of(&directory, request.uri().path());
                                async move { Ok::<_, Infallible>(answer(path)) }
                            });
                            let connection = hyper::server::conn::http1::Builder::new();
                            // A client that breaks off is not this server's concern.
                            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, authority, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate authority that signed its certificate, as PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file that a path of a URL means, if it stays in the directory.
fn path_of(directory: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path.strip_prefix('/')?);
    let inside = relative.components().all(|component| matches!(component, Component::Normal(_)));
    inside.then(|| directory.join(relative))
}

fn answer(path: Option<PathBuf>) -> Response<Full<Bytes>> {
    let content = path.and_then(|path| std::fs::read(path).ok());
    let status = if content.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let mut response = Response::new(Full::from(content.unwrap_or_default()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_directory() {
        let of = |path| path_of(Path::new("/srv"), path);
        assert_eq!(of("/a/b").as_deref(), Some(Path::new("/srv/a/b")));
        assert_eq!(of("/../etc/passwd"), None);
        assert_eq!(of("//etc/passwd"), None);
    }
}
