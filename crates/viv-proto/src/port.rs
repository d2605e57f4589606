//! Numbered ports: the first line of every stream, on the link and on the sandbox's Unix socket.
//!
//! The opener writes `CONNECT <port>\n` and waits for `OK\n` or `ERR <reason>\n`. The monitor
//! hands the greeting of a Unix-socket client on to the guest unchanged.

use crate::ProtocolError;

/// The longest greeting or answer, newline included: `ERR ` and a reason.
pub const MAX_GREETING_BYTES: usize = 256;

/// The line that asks for a port.
#[must_use]
pub fn connect_line(port: u32) -> String {
    format!("CONNECT {port}\n")
}

/// Reads the line that asks for a port, without its newline.
///
/// # Errors
/// [`ProtocolError::MalformedGreeting`] for anything but `CONNECT` and a decimal u32.
pub fn parse_connect(line: &[u8]) -> Result<u32, ProtocolError> {
    let digits = line.strip_prefix(b"CONNECT ").ok_or(ProtocolError::MalformedGreeting)?;
    // `u32::from_str` would take a leading `+`, which no one needs to accept.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ProtocolError::MalformedGreeting);
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(ProtocolError::MalformedGreeting)
}

/// The answer that lets the stream begin.
pub const OK_LINE: &str = "OK\n";

/// The answer that refuses; the reason is cut to fit [`MAX_GREETING_BYTES`] and kept on one line.
#[must_use]
pub fn refusal_line(reason: &str) -> String {
    let room = MAX_GREETING_BYTES - "ERR \n".len();
    let mut cleaned: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while cleaned.len() > room {
        cleaned.pop();
    }
    format!("ERR {cleaned}\n")
}

/// Reads an answer, without its newline: `Ok(Ok(()))` to go on, `Ok(Err(reason))` if refused.
///
/// # Errors
/// [`ProtocolError::MalformedGreeting`] for anything else.
pub fn parse_answer(line: &[u8]) -> Result<Result<(), String>, ProtocolError> {
    if line == b"OK" {
        return Ok(Ok(()));
    }
    let reason = line.strip_prefix(b"ERR ").ok_or(ProtocolError::MalformedGreeting)?;
    Ok(Err(String::from_utf8_lossy(reason).into_owned()))
}
