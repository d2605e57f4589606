//! The client's end of sessions.

use std::os::fd::OwnedFd;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use viv_link::{FrameReader, FrameWriter};

use super::{AttachSession, GREETING, NewSession, SessionAnswer, SessionInfo, SessionRequest};
use crate::client::directory_of;
use crate::error::{from_report, io};
use crate::registry::{SOCKET, short_path};
use crate::{Error, ErrorKind, Paths, Record, Result, Sandbox};

/// A session as a viewer has it.
pub struct SessionConnection {
    /// What is known of it.
    pub session: SessionInfo,
    /// Its output, ending with its exit.
    pub reader: FrameReader<OwnedReadHalf>,
    /// Its input. Closing it leaves the session.
    pub writer: FrameWriter<OwnedWriteHalf>,
}

impl SessionConnection {
    fn new(session: SessionInfo, stream: UnixStream, rest: &[u8]) -> Self {
        let (reader, writer) = stream.into_split();
        Self { session, reader: FrameReader::new(reader, rest), writer: FrameWriter::new(writer) }
    }
}

/// Runs a program in a session of its own. With a viewer, what it shows is in the connection; without, the
/// connection has nothing more to say.
///
/// # Errors
/// As [`Sandbox::exec`], and [`ErrorKind::BadRequest`] beyond [`super::MOST_SESSIONS`] or for a name
/// that is taken.
pub async fn new_session(paths: &Paths, record: &Record, new: NewSession) -> Result<SessionConnection> {
    begin(&directory_of(paths, record)?, new).await
}

/// Looks at a session. One that has ended shows what it showed last, and how it ended.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is none such, [`ErrorKind::BadRequest`] beyond
/// [`super::MOST_VIEWERS`].
pub async fn attach_session(paths: &Paths, record: &Record, attach: AttachSession) -> Result<SessionConnection> {
    let directory = directory_of(paths, record)?;
    let (session, stream, rest) = one(&directory, SessionRequest::Attach(attach)).await?;
    Ok(SessionConnection::new(session, stream, &rest))
}

/// The sessions that run and the last ones that have ended, by number.
///
/// # Errors
/// If the sandbox's monitor does not answer.
pub async fn list_sessions(paths: &Paths, record: &Record) -> Result<Vec<SessionInfo>> {
    match ask(&directory_of(paths, record)?, SessionRequest::List).await?.0 {
        SessionAnswer::Sessions(sessions) => Ok(sessions),
        other => Err(unexpected(other)),
    }
}

/// Hangs up a session's terminal, which ends all that runs on it, and returns once that is under way.
///
/// # Errors
/// [`ErrorKind::NotFound`] if none such runs.
pub async fn end_session(paths: &Paths, record: &Record, session: &str) -> Result<SessionInfo> {
    let directory = directory_of(paths, record)?;
    one(&directory, SessionRequest::End(session.to_owned())).await.map(|(session, ..)| session)
}

impl Sandbox {
    /// Runs a program in a session of its own: see [`new_session`].
    ///
    /// # Errors
    /// As [`new_session`].
    pub async fn new_session(&self, new: NewSession) -> Result<SessionConnection> {
        begin(self.directory(), new).await
    }
}

async fn begin(directory: &OwnedFd, new: NewSession) -> Result<SessionConnection> {
    let (session, stream, rest) = one(directory, SessionRequest::New(Box::new(new))).await?;
    Ok(SessionConnection::new(session, stream, &rest))
}

async fn one(directory: &OwnedFd, request: SessionRequest) -> Result<(SessionInfo, UnixStream, Vec<u8>)> {
    match ask(directory, request).await? {
        (SessionAnswer::Session(session), stream, rest) => Ok((*session, stream, rest)),
        (other, ..) => Err(unexpected(other)),
    }
}

/// Sends a request and reads its answer; also returns the connection, and what came behind the answer.
async fn ask(directory: &OwnedFd, request: SessionRequest) -> Result<(SessionAnswer, UnixStream, Vec<u8>)> {
    let lost = || io("the sandbox's monitor does not answer");
    let mut stream = UnixStream::connect(short_path(directory, SOCKET)).await.map_err(lost())?;
    let request = serde_json::to_string(&request).map_err(|error| lost()(error.into()))?;
    if request.len() >= viv_proto::MAX_LINE_BYTES {
        return Err(Error::new(ErrorKind::BadRequest, "the request is too long").hint(format!(
            "arguments and environment together may take up to {} KiB",
            viv_proto::MAX_LINE_BYTES / 1024
        )));
    }
    stream.write_all(format!("{GREETING}\n{request}\n").as_bytes()).await.map_err(lost())?;
    let mut rest = Vec::new();
    let line = viv_link::line::read_line(&mut stream, &mut rest).await.map_err(lost())?;
    let line = line.ok_or_else(|| lost()(std::io::ErrorKind::UnexpectedEof.into()))?;
    let answer = serde_json::from_slice(&line).map_err(|error| lost()(error.into()))?;
    Ok((answer, stream, rest))
}

fn unexpected(answer: SessionAnswer) -> Error {
    match answer {
        SessionAnswer::Refused(report) => from_report(report),
        _ => Error::new(ErrorKind::Monitor, "the sandbox's monitor gave an answer to another question"),
    }
}
