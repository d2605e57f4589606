//! What every decoder must survive, and the laws it must keep, on any bytes at all.
//!
//! Used by `tests/garbage.rs` on stable Rust with a bounded number of cases, and by the fuzz
//! target in `fuzz/`, which includes this file and runs for as long as it is let.

use viv_proto::archive::{MAX_DATA_BYTES, Record, RecordDecoder, check_path};
use viv_proto::credit::{ReceiveCredit, SendCredit};
use viv_proto::envelope::{Envelope, LineBuffer};
use viv_proto::frame::{Frame, FrameDecoder};
use viv_proto::handshake::{HELLO_TAIL_BYTES, MarkerScanner, TOKEN_BYTES, Token, guest_hello, parse_tail};
use viv_proto::message::{
    Clock, ClockReading, Configure, Configured, Exec, ExitReport, Failure, GuestStatus, Prepare, Started,
};
use viv_proto::port::{MAX_GREETING_BYTES, parse_answer, parse_connect, refusal_line};
use viv_proto::{MAX_FRAME_BYTES, MAX_LINE_BYTES, ProtocolError, STREAM_WINDOW_BYTES};

/// Gives the bytes to every decoder of the crate. Panics where a law is broken.
pub fn every_decoder(bytes: &[u8]) {
    frames(bytes);
    records(bytes);
    lines(bytes);
    greetings(bytes);
    handshake(bytes);
    credit(bytes);
}

/// However the bytes are cut into reads, the same frames and the same refusal come out, and a
/// frame that was accepted encodes to the very bytes it came from.
fn frames(bytes: &[u8]) {
    let (whole, refusal) = decode_frames(std::iter::once(bytes));
    let mut encoded = Vec::new();
    for frame in &whole {
        frame.encode(&mut encoded).expect("an accepted frame can be sent");
    }
    assert!(bytes.starts_with(&encoded), "a frame did not encode to what it was decoded from");
    for piece in [1, 3, HELLO_TAIL_BYTES] {
        let (frames, error) = decode_frames(bytes.chunks(piece));
        assert!(frames == whole && error == refusal, "in pieces of {piece}: {error:?} instead of {refusal:?}");
    }
}

/// The same for records; and no path that is let through could lead out of where it is meant for.
fn records(bytes: &[u8]) {
    let (whole, refusal) = decode_records(std::iter::once(bytes));
    let mut encoded = Vec::new();
    for record in &whole {
        record.encode(&mut encoded).expect("an accepted record can be sent");
    }
    assert!(bytes.starts_with(&encoded), "a record did not encode to what it was decoded from");
    for piece in [1, 7] {
        let (records, error) = decode_records(bytes.chunks(piece));
        assert!(records == whole && error == refusal, "in pieces of {piece}: {error:?} instead of {refusal:?}");
    }
}

fn decode_records<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Record>, Option<ProtocolError>) {
    let mut decoder = RecordDecoder::default();
    let mut records = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_record() {
                Ok(Some(record)) => {
                    if let Record::Data(bytes) = &record {
                        assert!((1..=MAX_DATA_BYTES).contains(&bytes.len()));
                    }
                    assert!(record.path().is_none_or(|path| check_path(path).is_ok()));
                    records.push(record);
                }
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    (records, None)
}

fn decode_frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<ProtocolError>) {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    if let Frame::Data(_, payload) | Frame::Exit(payload) = &frame {
                        assert!(payload.len() <= MAX_FRAME_BYTES);
                    }
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Lines are bounded, and an envelope that was accepted and can be sent reads back as itself.
fn lines(bytes: &[u8]) {
    let mut buffer = LineBuffer::default();
    let mut taken = 0;
    for piece in bytes.chunks(7) {
        if buffer.push(piece).is_err() {
            return;
        }
        loop {
            match buffer.next_line() {
                Ok(Some(line)) => {
                    assert!(line.len() < MAX_LINE_BYTES);
                    assert_eq!(bytes.get(taken..taken + line.len()), Some(&line[..]));
                    taken += line.len() + 1;
                    envelope(&line);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert_eq!(buffer.into_rest(), &bytes[taken..], "bytes beyond the last line were lost");
    envelope(bytes);
}

fn envelope(line: &[u8]) {
    let Ok(envelope) = Envelope::parse(line) else { return };
    drop(envelope.payload_as::<Configure>());
    drop(envelope.payload_as::<Configured>());
    drop(envelope.payload_as::<Prepare>());
    drop(envelope.payload_as::<Clock>());
    drop(envelope.payload_as::<ClockReading>());
    drop(envelope.payload_as::<Exec>());
    drop(envelope.payload_as::<Started>());
    drop(envelope.payload_as::<ExitReport>());
    drop(envelope.payload_as::<GuestStatus>());
    drop(envelope.payload_as::<Failure>());
    if let Ok(sent) = envelope.to_line() {
        assert_eq!(sent.iter().filter(|byte| **byte == b'\n').count(), 1, "a message is one line");
        // Numbers beyond what JSON carries exactly may come back rounded, so compare what is sent.
        let again = Envelope::parse(&sent).expect("what is sent is accepted").to_line().expect("and fits");
        assert_eq!(again, sent);
    }
}

fn greetings(bytes: &[u8]) {
    if let Ok(port) = parse_connect(bytes) {
        assert_eq!(parse_connect(format!("CONNECT {port}").as_bytes()), Ok(port));
    }
    drop(parse_answer(bytes));
    let refusal = refusal_line(&String::from_utf8_lossy(bytes));
    assert!(refusal.len() <= MAX_GREETING_BYTES && refusal.ends_with('\n'));
    let line = refusal.trim_end_matches('\n');
    assert!(!line.contains(char::is_control), "a refusal is one line without control characters");
    assert!(matches!(parse_answer(line.as_bytes()), Ok(Err(_))));
}

/// The scanner finds a marker exactly where a search of the whole would, however it is cut.
fn handshake(bytes: &[u8]) {
    if let Some(tail) = bytes.first_chunk::<HELLO_TAIL_BYTES>()
        && let Ok(token) = parse_tail(tail)
    {
        assert_eq!(guest_hello(&[0; TOKEN_BYTES], &token)[TOKEN_BYTES..], tail[..]);
    }
    let Some((marker, haystack)) = bytes.split_first_chunk::<TOKEN_BYTES>() else { return };
    let end = TOKEN_BYTES + haystack.len() / 2;
    scan(marker, haystack);
    // Bytes drawn at random hardly ever hold a marker: put one in the middle.
    scan(marker, &[&bytes[TOKEN_BYTES..end], &marker[..], &bytes[end..]].concat());
    // And one that a false start overlaps.
    scan(marker, &[&marker[..TOKEN_BYTES - 1], &marker[..], haystack].concat());
}

fn scan(marker: &Token, haystack: &[u8]) {
    let expected = haystack.windows(TOKEN_BYTES).position(|window| window == marker).map(|at| at + TOKEN_BYTES);
    for piece_bytes in [1, 5, TOKEN_BYTES - 1, TOKEN_BYTES, 64, haystack.len().max(1)] {
        let mut scanner = MarkerScanner::new(*marker);
        let mut found = None;
        for (index, piece) in haystack.chunks(piece_bytes).enumerate() {
            if let Some(offset) = scanner.scan(piece) {
                found = Some(index * piece_bytes + offset);
                break;
            }
        }
        assert_eq!(found, expected, "in pieces of {piece_bytes}");
    }
}

/// A sender that keeps to its credit is never refused, and one that does not always is.
fn credit(bytes: &[u8]) {
    let mut sender = SendCredit::default();
    let mut receiver = ReceiveCredit::default();
    let mut held: u32 = 0;
    for chunk in bytes.chunks(4) {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        let wanted = u32::from_le_bytes(word);
        if wanted.is_multiple_of(2) {
            let sent = wanted % (sender.available() + 1);
            sender.spend(sent);
            assert_eq!(receiver.receive(sent), Ok(()), "an honest sender was refused");
            held += sent;
        } else {
            let delivered = wanted % (held + 1);
            held -= delivered;
            if let Some(grant) = receiver.deliver(delivered) {
                sender.grant(grant);
            }
        }
        assert!(sender.available() <= STREAM_WINDOW_BYTES && held <= STREAM_WINDOW_BYTES);
    }
    let excess = sender.available() + STREAM_WINDOW_BYTES;
    assert!(matches!(receiver.receive(excess), Err(ProtocolError::CreditExceeded(_))));
}
