//! A client of registries
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pull>).

mod http;
mod login;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use oci_spec::distribution::Reference;
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::http::{Broken, Connector, Http};
use self::login::Challenge;
use super::access::{Patience, RegistryAccess};
use super::credentials::{self, Credential, Wanted};
use super::digest::{Digest, Hasher};
use super::hosts::{self, Endpoint};
use super::manifest::{self, Blob, MAX_DOCUMENT_BYTES};
use crate::error::{Error, ErrorKind};

type Result<T, E = Error> = std::result::Result<T, E>;

/// However much is gained by each, a download is resumed no more often than this.
const MOST_RESUMPTIONS: u32 = 100;

/// The largest error that is read for what it says. Bytes.
const MAX_COMPLAINT_BYTES: u64 = 64 << 10;

/// One image's place in a registry.
pub(super) struct Registry {
    endpoint: Endpoint,
    /// The registry as people know it.
    name: String,
    connector: Connector,
    credential: Option<Credential>,
    patience: Patience,
    /// What the last challenge was answered with.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A connection to a registry, for one thread.
pub(super) struct Client<'a> {
    registry: &'a Registry,
    http: Http,
    runtime: Runtime,
}

/// What a registry says is wrong.
#[derive(Deserialize)]
struct Complaints {
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// Why a request came to nothing.
enum Failure {
    /// It may do better the next time, or after as long as the server says.
    Passing(String, Option<Duration>),
    Final(Error),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::Passing(broken.to_string(), None)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Registry {
    /// The first of the places of an image that has it, and its manifest or index there.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`], [`ErrorKind::Unauthorized`], [`ErrorKind::Download`]: those of the
    /// last place, which is the registry itself.
    pub(super) fn find(access: &RegistryAccess, reference: &Reference) -> Result<(Self, Vec<u8>, Digest)> {
        let connector = Connector::new(access)?;
        let wanted = reference.digest().map(Digest::parse).transpose()?;
        let asked = wanted.as_ref().map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), Digest::to_string);
        let mut last = None;
        for endpoint in hosts::endpoints(access, reference)? {
            let own = endpoint.host == reference.resolve_registry();
            let registry = if own { reference.registry() } else { &endpoint.host };
            let credential =
                credentials::find(access, Wanted { registry, host: &endpoint.host, repository: &endpoint.repository })?;
            let found = Self {
                name: registry.to_owned(),
                connector: connector.clone(),
                credential,
                patience: access.patience.clone(),
                authorization: Mutex::default(),
                endpoint,
            };
            match found.client().and_then(|client| client.document(&asked)) {
                Ok((bytes, digest)) => {
                    if let Some(wanted) = &wanted {
                        wanted.check(&format!("the manifest of {reference}"), &digest)?;
                    }
                    return Ok((found, bytes, digest));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| no_such(&reference.to_string())))
    }

    /// A connection of the calling thread's own.
    pub(super) fn client(&self) -> Result<Client<'_>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| Error::new(ErrorKind::Io, "cannot wait for connections").source(error))?;
        Ok(Client { registry: self, http: Http::new(self.connector.clone(), self.patience.stall), runtime })
    }

    fn unauthorized(&self, why: &str) -> Error {
        let Endpoint { repository, .. } = &self.endpoint;
        let message = format!("{} does not let {repository} be read: {why}", self.name);
        Error::new(ErrorKind::Unauthorized, message).hint(match self.credential {
            None => {
                format!("log in with `docker login {0}` or `podman login {0}`, if the image is there at all", self.name)
            }
            Some(_) => format!("check the login: `docker login {0}` or `podman login {0}`", self.name),
        })
    }
}

impl Client<'_> {
    /// A manifest or an index by its tag or digest, and its digest.
    pub(super) fn document(&self, reference: &str) -> Result<(Vec<u8>, Digest)> {
        let path = format!("manifests/{reference}");
        let bytes = self.runtime.block_on(self.whole(&path, Some(manifest::ACCEPT), MAX_DOCUMENT_BYTES))?;
        let digest = Digest::of(&bytes);
        if let Ok(wanted) = Digest::parse(reference) {
            wanted.check("the manifest", &digest)?;
        }
        Ok((bytes, digest))
    }

    /// A small blob, such as a configuration.
    pub(super) fn small(&self, blob: &Blob, what: &str) -> Result<Vec<u8>> {
        if blob.size > MAX_DOCUMENT_BYTES {
            return Err(manifest::unsupported(format!("{what} has {} bytes", blob.size)));
        }
        let bytes = self.runtime.block_on(self.whole(&format!("blobs/{}", blob.digest), None, MAX_DOCUMENT_BYTES))?;
        blob.digest.check(what, &Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Downloads a blob: `sink` gets its bytes in order, each once, however often the connection
    /// breaks. Its size and digest are checked.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`], and [`ErrorKind::Cancelled`] as soon as `cancelled` changes.
    pub(super) fn download(
        &self,
        blob: &Blob,
        what: &str,
        cancelled: &mut watch::Receiver<bool>,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.runtime.block_on(async {
            tokio::select! {
                result = self.resuming(blob, what, sink) => result,
                _ = cancelled.wait_for(|cancelled| *cancelled) =>
                    Err(Error::new(ErrorKind::Cancelled, format!("downloading {what} was given up"))),
            }
        })
    }

    async fn resuming(&self, blob: &Blob, what: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut progress = Progress { hasher: Hasher::default(), received: 0 };
        let path = format!("blobs/{}", blob.digest);
        let (mut tried, mut resumed) = (0, 0);
        loop {
            let before = progress.received;
            let result = self.stream(&path, blob, &mut progress, sink).await;
            let Err(failure) = result else { break };
            resumed += 1;
            tried = if progress.received > before { 1 } else { tried + 1 };
            self.pause(failure, if resumed > MOST_RESUMPTIONS { u32::MAX } else { tried }).await?;
        }
        blob.digest.check(what, &progress.hasher.finish())
    }

    /// Reads on from where the last connection ended.
    async fn stream(
        &self,
        path: &str,
        blob: &Blob,
        progress: &mut Progress,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<(), Failure> {
        if progress.received == blob.size {
            return Ok(());
        }
        let response = self.get(path, None, progress.received).await?;
        // A server that knows no ranges begins at the beginning.
        let mut skip = match (progress.received, response.status()) {
            (0, StatusCode::OK) => 0,
            (_, StatusCode::OK) => progress.received,
            (from, _) if begins_at(response.headers()) == Some(from) => 0,
            _ => return Err(Failure::Passing("it sent another part than was asked for".to_owned(), None)),
        };
        let mut body = response.into_body();
        while let Some(data) = self.http.next(&mut body).await? {
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(data.len());
            skip -= passed as u64;
            let data = &data[passed..];
            if data.len() as u64 > blob.size - progress.received {
                let message = format!("{} is damaged: it has more than the {} bytes it should have", path, blob.size);
                return Err(Error::new(ErrorKind::DigestMismatch, message).into());
            }
            progress.hasher.update(data);
            progress.received += data.len() as u64;
            sink(data)?;
        }
        if progress.received < blob.size {
            return Err(Failure::Passing(format!("it ended after {} bytes of {}", progress.received, blob.size), None));
        }
        Ok(())
    }

    /// A whole answer, tried again where that may help.
    async fn whole(&self, path: &str, accept: Option<&str>, limit: u64) -> Result<Vec<u8>> {
        let mut tried = 0;
        loop {
            let attempt = async {
                let response = self.get(path, accept, 0).await?;
                Ok::<_, Failure>(self.http.collect(response.into_body(), limit).await?)
            };
            match attempt.await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => {
                    tried += 1;
                    self.pause(failure, tried).await?;
                }
            }
        }
    }

    /// Waits before the next try, if there is to be one.
    async fn pause(&self, failure: Failure, tried: u32) -> Result<()> {
        let Patience { attempts, pause, longest_pause, .. } = &self.registry.patience;
        let (why, wanted) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(why, wanted) => (why, wanted),
        };
        let failed = |how: String| {
            let message = format!("cannot download from {}{how}", self.registry.name);
            Err(Error::new(ErrorKind::Download, message)
                .source(why.clone())
                .hint("check the network, and the proxy if there is one"))
        };
        if tried >= *attempts {
            return failed(String::new());
        }
        let pause = match wanted {
            Some(wanted) if wanted > *longest_pause => {
                return failed(format!(": it wants to be left alone for {} seconds", wanted.as_secs()));
            }
            Some(wanted) => wanted,
            None => pause.saturating_mul(1 << tried.saturating_sub(1).min(16)).min(*longest_pause),
        };
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// An answer that has what was asked for, whoever the registry wants to know first.
    async fn get(&self, path: &str, accept: Option<&str>, from: u64) -> Result<Response<Incoming>, Failure> {
        let mut answered = false;
        loop {
            let known = lock(&self.registry.authorization).clone();
            let response = self.http.send(self.request(path, accept, from, known.as_ref())?).await?;
            let status = response.status();
            match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if !answered => {
                    // Another thread may have answered meanwhile.
                    if *lock(&self.registry.authorization) == known {
                        self.log_in(response.headers()).await?;
                    }
                    answered = true;
                }
                _ => return Err(self.refused(response, path).await),
            }
        }
    }

    fn request(
        &self,
        path: &str,
        accept: Option<&str>,
        from: u64,
        authorization: Option<&HeaderValue>,
    ) -> Result<Request<Full<Bytes>>> {
        let Endpoint { host, repository, insecure } = &self.registry.endpoint;
        let scheme = if *insecure { "http" } else { "https" };
        let mut request = Request::builder()
            .uri(format!("{scheme}://{host}/v2/{repository}/{path}"))
            .header(USER_AGENT, concat!("viv/", env!("CARGO_PKG_VERSION")));
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let bad = |error| Error::new(ErrorKind::BadReference, format!("{host} is no host")).source(error);
        request.body(Full::default()).map_err(bad)
    }

    async fn log_in(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Registry { endpoint, credential, .. } = self.registry;
        let challenge = Challenge::of(headers)
            .ok_or_else(|| self.registry.unauthorized("it wants a login of a kind that is not known"))?;
        let answer =
            login::answer(&self.http, &challenge, credential.as_ref(), endpoint.insecure, &endpoint.repository);
        let value = answer.await.map_err(|error| match error.kind() {
            ErrorKind::Unauthorized => self.registry.unauthorized(&error.to_string()),
            _ => error,
        })??;
        *lock(&self.registry.authorization) = Some(value);
        Ok(())
    }

    /// What an answer that is none means.
    async fn refused(&self, response: Response<Incoming>, path: &str) -> Failure {
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let said = match self.http.collect(response.into_body(), MAX_COMPLAINT_BYTES).await {
            Ok(body) => complaint(&body),
            Err(_) => None,
        };
        let why = said.unwrap_or_else(|| status.to_string());
        match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Failure::Passing(why, after.map(Duration::from_secs))
            }
            _ if status.is_server_error() => Failure::Passing(why, after.map(Duration::from_secs)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.registry.unauthorized(&why).into(),
            StatusCode::NOT_FOUND => {
                let (kind, asked) = path.split_once('/').unwrap_or(("", path));
                let joint = if asked.contains(':') { "@" } else { ":" };
                let image = format!("{}/{}{joint}{asked}", self.registry.name, self.registry.endpoint.repository);
                let error = if kind == "manifests" {
                    no_such(&image)
                } else {
                    Error::new(ErrorKind::Download, format!("the registry lacks a part of the image, {image}"))
                };
                error.source(why).into()
            }
            _ => {
                let message = format!("{} does not give {path}", self.registry.name);
                Error::new(ErrorKind::Download, message).source(why).into()
            }
        }
    }
}

/// Of a blob on its way.
struct Progress {
    hasher: Hasher,
    received: u64,
}

fn no_such(image: &str) -> Error {
    Error::new(ErrorKind::NoSuchImage, format!("there is no image {image}"))
        .hint("check its name and its tag; the tag is `latest` where none is given")
}

/// The first byte of a part: `bytes 100-199/200`.
fn begins_at(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// What a registry says, fit to be shown.
fn complaint(body: &[u8]) -> Option<String> {
    let complaints: Complaints = serde_json::from_slice(body).ok()?;
    let first = complaints.errors.into_iter().next()?;
    let text = match first.message {
        Some(message) if !message.is_empty() => format!("{}: {message}", first.code),
        _ => first.code,
    };
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What it holds is whole at any time.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
