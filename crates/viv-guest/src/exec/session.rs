//! A running program and its connection: five things at once, none of which waits for another.
//!
//! ```text
//!  host ──frames──► read_frames ──► Input ──feed──► stdin            program
//!                       │ └─ signals, window sizes, credit             │ │
//!  host ◄──frames── write_frames ◄─┬── Output::carry ◄─────────── stdout │
//!                                  └── Output::carry ◄──────────── stderr┘
//! ```

use std::convert::Infallible;
use std::future::pending;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use viv_link::{FrameReader, FrameWriter};
use viv_proto::frame::{ByteStream, Frame};
use viv_proto::message::ExitReport;

use super::pump::{Input, Output};
use super::start::Program;
use crate::control::Guest;
use crate::reaper::{self, Ended};
use crate::status;

/// Frames waiting to be written.
const QUEUED_FRAMES: usize = 4;

/// Carries a program's bytes until it has ended and the host has been told.
///
/// # Errors
/// If the host went away before, or broke the protocol. The program then still runs.
pub(super) async fn carry<S>(guest: &Guest, stream: &mut S, rest: &[u8], program: &mut Program) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let kills_before = guest.out_of_memory_kills_seen();
    let (reader, writer) = tokio::io::split(stream);
    let (frames, queue) = mpsc::channel(QUEUED_FRAMES);
    let stdin = program.stdin.take();
    let program = &*program;
    let input = Input::default();
    let stdout = Output::new(program.stdout.clone(), ByteStream::Stdout, program.terminal);
    let stderr = program.stderr.clone().map(|io| Output::new(io, ByteStream::Stderr, false));
    tokio::select! {
        // The last frame is written before its answer, a closed stream, is looked at.
        biased;
        written = write_frames(queue, FrameWriter::new(writer)) => written,
        reason = read_frames(FrameReader::new(reader, rest), program, &input, &stdout, stderr.as_ref()) => Err(reason),
        never = input.feed(stdin, program.terminal, frames.clone()) => match never {},
        never = finish(guest, program, &stdout, stderr.as_ref(), kills_before, frames) => match never {},
    }
}

/// Writes frames until the last one.
async fn write_frames(
    mut queue: mpsc::Receiver<Frame>,
    mut writer: FrameWriter<impl AsyncWrite + Unpin>,
) -> io::Result<()> {
    while let Some(frame) = queue.recv().await {
        writer.send(&frame).await?;
        if matches!(frame, Frame::Exit(_)) {
            return Ok(());
        }
    }
    // `finish` holds a sender until it has sent the last frame.
    Err(io::ErrorKind::BrokenPipe.into())
}

/// Reads frames until there are no more, or one that makes no sense.
async fn read_frames(
    mut reader: FrameReader<impl AsyncRead + Unpin>,
    program: &Program,
    input: &Input,
    stdout: &Output,
    stderr: Option<&Output>,
) -> io::Error {
    let nonsense = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    loop {
        match reader.next().await {
            Ok(Some(Frame::Data(ByteStream::Stdin, bytes))) => {
                if let Err(reason) = input.push(&bytes) {
                    return io::Error::new(io::ErrorKind::InvalidData, reason);
                }
            }
            Ok(Some(Frame::End(ByteStream::Stdin))) => input.end(),
            Ok(Some(Frame::Credit(ByteStream::Stdout, bytes))) => stdout.grant(bytes),
            Ok(Some(Frame::Credit(ByteStream::Stderr, bytes))) => {
                if let Some(stderr) = stderr {
                    stderr.grant(bytes);
                }
            }
            Ok(Some(Frame::Resize { columns, rows })) => program.resize(columns, rows),
            Ok(Some(Frame::Signal(number))) => program.signal(number),
            Ok(Some(Frame::Data(..) | Frame::End(_) | Frame::Credit(..) | Frame::Exit(_))) => {
                return nonsense("a frame only a guest sends");
            }
            Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
            Err(reason) => return reason,
        }
    }
}

/// Sends everything the program writes and, when it has ended, how.
async fn finish(
    guest: &Guest,
    program: &Program,
    stdout: &Output,
    stderr: Option<&Output>,
    kills_before: u64,
    frames: mpsc::Sender<Frame>,
) -> Infallible {
    let carry_stderr = async {
        if let Some(stderr) = stderr {
            stderr.carry(&frames, program.exit.clone()).await;
        }
    };
    let mut exit = program.exit.clone();
    let ((), (), ended) =
        tokio::join!(stdout.carry(&frames, program.exit.clone()), carry_stderr, reaper::ended(&mut exit));
    guest.flush_files().await;
    if guest.is_going_off() {
        return pending().await;
    }
    let (code, signal) = match ended {
        Ended::Code(code) => (code, None),
        Ended::Signal(signal) => (128 + signal, Some(signal)),
    };
    let kills = if code == 0 { kills_before } else { guest.look_for_out_of_memory_kills() };
    let report = ExitReport {
        code,
        signal,
        out_of_memory_kills: kills.saturating_sub(kills_before),
        scratch_full: status::scratch_full(),
        // Shares are written through, and what was mapped is written as the last one who maps it
        // ends. So where no process is left, the kernel holds nothing back.
        settled: !reaper::reap(),
    };
    // A report of numbers always has a JSON form.
    let report = serde_json::to_vec(&report).unwrap_or_default();
    // With no one left to send to, the connection is over.
    let _ = frames.send(Frame::Exit(report)).await;
    pending().await
}
