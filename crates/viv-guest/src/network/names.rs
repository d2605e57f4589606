//! Asking the host about names.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use viv_link::line::read_line;
use viv_link::{Link, Stream};
use viv_proto::network::{MAX_REQUEST_BYTES, NAMES_PORT, NameAnswer, NameQuery};

/// How many questions are with the host at once; more wait for their turn. Each takes a stream.
pub const MAX_ASKED: usize = 32;

/// How many streams are kept for questions to come.
const MAX_IDLE: usize = 4;

/// How long an answer may take, the turn included. Shorter than what the guest's resolvers wait
/// (`options timeout` in /etc/resolv.conf), so that they hear of a failure.
const PATIENCE: Duration = Duration::from_secs(9);

/// The current session of the link, if there is one.
#[derive(Clone, Default)]
pub struct CurrentLink(Arc<Mutex<Option<Link>>>);

impl CurrentLink {
    /// A new session has begun.
    pub fn set(&self, link: Link) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
    }

    /// It; `None` before the first one.
    #[must_use]
    pub fn get(&self) -> Option<Link> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Asks the host, over streams that are kept.
#[derive(Clone)]
pub struct Names {
    link: CurrentLink,
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Stream>>>,
}

impl Names {
    /// Asks over whatever session there is.
    #[must_use]
    pub fn new(link: CurrentLink) -> Self {
        Self { link, places: Arc::new(Semaphore::new(MAX_ASKED)), idle: Arc::default() }
    }

    /// What the host knows of a name.
    ///
    /// # Errors
    /// If it does not answer in time, or there is no link.
    pub async fn ask(&self, name: &str) -> io::Result<NameAnswer> {
        let asked = async {
            let _place = self.places.acquire().await.map_err(io::Error::other)?;
            let mut line = serde_json::to_vec(&NameQuery { name: name.to_owned() })?;
            line.push(b'\n');
            loop {
                let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(stream) = kept else { break };
                // One that has been kept may be of a session that has ended: another one is tried.
                if let Ok(answer) = self.ask_over(stream, &line).await {
                    return Ok(answer);
                }
            }
            let link = self.link.get().ok_or(io::ErrorKind::NotConnected)?;
            let stream = link.open_with(NAMES_PORT, &line).await.map_err(io::Error::other)?;
            self.ask_over(stream, &[]).await
        };
        tokio::time::timeout(PATIENCE, asked).await?
    }

    async fn ask_over(&self, mut stream: Stream, line: &[u8]) -> io::Result<NameAnswer> {
        stream.write_all(line).await?;
        stream.flush().await?;
        let mut rest = Vec::new();
        let answer = read_line(&mut stream, &mut rest).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        // An answer that nobody asked for would be taken for the next one.
        if answer.len() > MAX_REQUEST_BYTES || !rest.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let answer = serde_json::from_slice(&answer)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(stream);
        }
        Ok(answer)
    }
}
