//! What a connection to the guest's control port tells the timeline.
//!
//! ```text
//!  client ──request line──┬─frames─► guest        Tap: the request's line, sizes of the terminal
//!  client ◄─answer line───┴─frames── guest        Tap: refused or not, output if it is recorded, the exit
//! ```
//!
//! The bytes are carried whatever the tap makes of them: it only looks, keeps at most a line, and looks no
//! more once it understands nothing. Of frames it reads the heads and skips the rest.

use viv_audit::{Event, Journal, Program, ProgramEnd, ProgramRequest};
use viv_proto::envelope::{Envelope, LineBuffer};
use viv_proto::frame::{FrameKind, HEADER_BYTES};
use viv_proto::message::{Exec, ExitReport, Failure, kind};
use viv_proto::{MAX_FRAME_BYTES, ProtocolError};

/// The longest exit report that is read, in bytes; one of ours has some hundred.
const MAX_REPORT_BYTES: usize = 4096;

/// What is asked of a guest so often, and changes so little, that nobody needs to know.
const UNTOLD: [&str; 3] = [kind::HEARTBEAT, kind::STATUS, kind::CLOCK];

/// Looks at one connection.
pub struct Tap {
    journal: Journal,
    /// Until the request's line is there.
    request: Option<LineBuffer>,
    /// Until the answer's line is there.
    answer: Option<LineBuffer>,
    from_client: Skim,
    from_guest: Skim,
    /// The program that was asked for, until it ends.
    program: Option<Program>,
}

impl Tap {
    /// A tap that tells this journal.
    pub fn new(journal: Journal) -> Self {
        Self {
            journal,
            request: Some(LineBuffer::default()),
            answer: Some(LineBuffer::default()),
            from_client: Skim::default(),
            from_guest: Skim::default(),
            program: None,
        }
    }

    /// These bytes came from the client, and are about to go to the guest.
    pub fn client(&mut self, bytes: &[u8]) {
        let taken = match &mut self.request {
            None => return self.client_frames(bytes),
            Some(request) => take_line(request, bytes),
        };
        match taken {
            Ok(None) => {}
            Ok(Some(line)) => {
                let rest = self.request.take().map(LineBuffer::into_rest).unwrap_or_default();
                self.asked(&line);
                self.client_frames(&rest);
            }
            Err(_) => self.look_no_more(),
        }
    }

    /// These bytes came from the guest.
    pub fn guest(&mut self, bytes: &[u8]) {
        let taken = match &mut self.answer {
            None => return self.guest_frames(bytes),
            Some(answer) => take_line(answer, bytes),
        };
        match taken {
            Ok(None) => {}
            Ok(Some(line)) => {
                let rest = self.answer.take().map(LineBuffer::into_rest).unwrap_or_default();
                self.answered(&line);
                self.guest_frames(&rest);
            }
            Err(_) => self.look_no_more(),
        }
    }

    /// What is not understood is not told; a program that was asked for has then ended unseen.
    fn look_no_more(&mut self) {
        self.request = None;
        self.answer = None;
        self.program = None;
    }

    fn asked(&mut self, line: &[u8]) {
        let Ok(envelope) = Envelope::parse(line) else { return self.look_no_more() };
        if envelope.kind == kind::EXEC {
            let Ok(exec) = envelope.payload_as::<Exec>() else { return self.look_no_more() };
            self.program = Some(self.journal.program(request_of(exec)));
        } else if !UNTOLD.contains(&envelope.kind.as_str()) {
            // A secret's name is told, its value is not.
            let subject = envelope.payload.get("name").and_then(|name| name.as_str()).map(str::to_owned);
            self.journal.record(Event::Request { kind: envelope.kind, subject });
        }
    }

    fn answered(&mut self, line: &[u8]) {
        if self.program.is_none() {
            return;
        }
        match Envelope::parse(line) {
            Ok(answer) if answer.kind == kind::RESULT => {}
            Ok(answer) => {
                let reason = answer.payload_as::<Failure>().map_or_else(|_| answer.kind, |failure| failure.message);
                if let Some(program) = self.program.take() {
                    program.ended(ProgramEnd::Refused { reason });
                }
            }
            Err(_) => self.look_no_more(),
        }
    }

    fn client_frames(&mut self, bytes: &[u8]) {
        let Some(program) = &mut self.program else { return };
        let skimmed = self.from_client.skim(bytes, |piece| {
            if let Piece::Whole(FrameKind::Resize, &[c0, c1, r0, r1]) = piece {
                program.resize(u16::from_le_bytes([c0, c1]), u16::from_le_bytes([r0, r1]));
            }
        });
        if skimmed.is_err() {
            self.look_no_more();
        }
    }

    fn guest_frames(&mut self, bytes: &[u8]) {
        let Some(program) = &mut self.program else { return };
        let mut report = None;
        let skimmed = self.from_guest.skim(bytes, |piece| match piece {
            Piece::Output(bytes) => program.output(bytes),
            Piece::Whole(FrameKind::Exit, bytes) => report = serde_json::from_slice::<ExitReport>(bytes).ok(),
            Piece::Whole(..) => {}
        });
        if let Some(ExitReport { code, signal, .. }) = report
            && let Some(program) = self.program.take()
        {
            program.ended(ProgramEnd::Exited { code, signal });
        } else if skimmed.is_err() {
            self.look_no_more();
        }
    }
}

/// What a request says of its program; of its environment the names alone.
fn request_of(exec: Exec) -> ProgramRequest {
    ProgramRequest {
        session: None,
        argv: exec.argv,
        user: exec.user,
        cwd: exec.cwd,
        environment: exec.env.into_keys().collect(),
        terminal: exec.terminal.map(|size| (size.columns, size.rows)),
    }
}

fn take_line(buffer: &mut LineBuffer, bytes: &[u8]) -> Result<Option<Vec<u8>>, ProtocolError> {
    buffer.push(bytes)?;
    buffer.next_line()
}

/// A part of a frame that matters.
enum Piece<'a> {
    /// Bytes of the program's output, as they come.
    Output(&'a [u8]),
    /// A small frame, whole.
    Whole(FrameKind, &'a [u8]),
}

/// Reads the heads of frames, in pieces of any size, and keeps the small ones.
#[derive(Default)]
struct Skim {
    head: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the frame that have not come yet.
    left: usize,
    kept: Vec<u8>,
}

/// A frame that is none.
struct NoFrame;

impl Skim {
    fn skim(&mut self, mut bytes: &[u8], mut on: impl FnMut(Piece<'_>)) -> Result<(), NoFrame> {
        loop {
            if self.have < HEADER_BYTES {
                let taken = bytes.len().min(HEADER_BYTES - self.have);
                self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                self.have += taken;
                bytes = &bytes[taken..];
                if self.have < HEADER_BYTES {
                    return Ok(());
                }
                let [_, l0, l1, l2, l3] = self.head;
                let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
                let kind = self.head[0];
                let too_long = kind_is(kind, FrameKind::Exit) && length > MAX_REPORT_BYTES;
                if kind > FrameKind::Exit as u8 || length > MAX_FRAME_BYTES || too_long {
                    return Err(NoFrame);
                }
                self.left = length;
                self.kept.clear();
            }
            let piece = &bytes[..bytes.len().min(self.left)];
            bytes = &bytes[piece.len()..];
            self.left -= piece.len();
            let kind = self.head[0];
            if kind_is(kind, FrameKind::Stdout) || kind_is(kind, FrameKind::Stderr) {
                on(Piece::Output(piece));
            } else if let Some(small) =
                [FrameKind::Exit, FrameKind::Resize].into_iter().find(|small| kind_is(kind, *small))
            {
                self.kept.extend_from_slice(&piece[..piece.len().min(MAX_REPORT_BYTES - self.kept.len())]);
                if self.left == 0 {
                    on(Piece::Whole(small, &self.kept));
                }
            }
            if self.left > 0 {
                return Ok(());
            }
            self.have = 0;
        }
    }
}

fn kind_is(byte: u8, kind: FrameKind) -> bool {
    byte == kind as u8
}
