//! Running a program inside: the client's end of the control port.

use std::os::fd::OwnedFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use viv_link::{FrameReader, FrameWriter};
use viv_proto::envelope::Envelope;
use viv_proto::message::{Exec, Failure, FailureKind, Started, kind};
use viv_proto::{CONTROL_PORT, MAX_LINE_BYTES, ProtocolError, port};

use crate::error::io;
use crate::registry::{SOCKET, short_path};
use crate::{Error, ErrorKind, Result};

/// A program that runs inside, and the frames to and from it.
pub struct ExecSession {
    /// What the guest said when it started.
    pub started: Started,
    /// Its output, ending with its exit.
    pub reader: FrameReader<OwnedReadHalf>,
    /// Its input.
    pub writer: FrameWriter<OwnedWriteHalf>,
}

/// Connects to a port of the guest; waits while the guest boots.
pub(crate) async fn connect(run_directory: &OwnedFd, number: u32) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(short_path(run_directory, SOCKET))
        .await
        .map_err(io("the sandbox's socket cannot be reached"))?;
    let lost = || io("the sandbox ended");
    stream.write_all(port::connect_line(number).as_bytes()).await.map_err(lost())?;
    let mut answer = Vec::new();
    loop {
        match stream.read_u8().await.map_err(lost())? {
            b'\n' => break,
            byte if answer.len() < port::MAX_GREETING_BYTES => answer.push(byte),
            _ => return Err(broken(ProtocolError::MalformedGreeting)),
        }
    }
    match port::parse_answer(&answer).map_err(broken)? {
        Ok(()) => Ok(stream),
        Err(reason) => {
            Err(Error::new(ErrorKind::Guest, format!("port {number} was refused: {}", viv_vmm::clean(&reason))))
        }
    }
}

/// Starts a program.
pub(crate) async fn exec(run_directory: &OwnedFd, exec: &Exec) -> Result<ExecSession> {
    let mut stream = connect(run_directory, CONTROL_PORT).await?;
    let (answer, rest) = ask(&mut stream, kind::EXEC, exec).await?;
    let started = answer.payload_as::<Started>().map_err(broken)?;
    let (reader, writer) = stream.into_split();
    Ok(ExecSession { started, reader: FrameReader::new(reader, &rest), writer: FrameWriter::new(writer) })
}

/// Asks the guest for something besides a program.
pub(crate) async fn request(
    run_directory: &OwnedFd,
    message: &str,
    payload: &impl serde::Serialize,
) -> Result<Envelope> {
    let mut stream = connect(run_directory, CONTROL_PORT).await?;
    ask(&mut stream, message, payload).await.map(|(answer, _)| answer)
}

/// Sends one message and reads its answer, which is an error if the guest says so. Also returns
/// the bytes that came along behind it.
pub(crate) async fn ask<S>(
    stream: &mut S,
    message: &str,
    payload: &impl serde::Serialize,
) -> Result<(Envelope, Vec<u8>)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let lost = || io("the guest did not answer");
    let envelope = Envelope::new(crate::new_id(), message, payload).map_err(broken)?;
    let line = envelope.to_line().map_err(|error| {
        Error::new(ErrorKind::BadRequest, format!("the {message} request is too long"))
            .source(error)
            .hint(format!("arguments and environment together may take up to {} KiB", MAX_LINE_BYTES / 1024))
    })?;
    stream.write_all(&line).await.map_err(lost())?;
    let mut rest = Vec::new();
    let line = viv_link::line::read_line(stream, &mut rest).await.map_err(lost())?;
    let line = line.ok_or_else(|| lost()(std::io::ErrorKind::UnexpectedEof.into()))?;
    let answer = Envelope::parse(&line).map_err(broken)?;
    match answer.kind.as_str() {
        kind::RESULT | kind::HEARTBEAT_ACK => Ok((answer, rest)),
        kind::ERROR => Err(refused(&answer.payload_as::<Failure>().map_err(broken)?)),
        _ => Err(broken(ProtocolError::MalformedMessage("an unexpected answer".to_owned()))),
    }
}

fn refused(failure: &Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound => ErrorKind::ProgramNotFound,
        FailureKind::NotExecutable => ErrorKind::ProgramNotExecutable,
        FailureKind::BadDirectory | FailureKind::UnknownUser | FailureKind::BadRequest => ErrorKind::BadRequest,
        FailureKind::Internal | FailureKind::Unknown => ErrorKind::Guest,
    };
    Error::new(kind, viv_vmm::clean(&failure.message))
}

pub(crate) fn broken(error: ProtocolError) -> Error {
    Error::new(ErrorKind::Guest, "the guest broke the protocol").source(error)
}
