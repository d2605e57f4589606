//! The envelope: one line of JSON that opens every operation on the control port.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{MAX_LINE_BYTES, PROTOCOL_VERSION, ProtocolError};

/// One message. `payload` is read by type, with [`Envelope::payload_as`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Chosen by the asker; the answer repeats it.
    pub id: String,
    /// What is asked or answered: one of the names in [`crate::message::kind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// Which agent of the sandbox this is about; 0 is the sandbox itself.
    #[serde(default)]
    pub agent_id: u32,
    /// The protocol version. A message without one speaks version 1.
    #[serde(default = "first_version")]
    pub version: u32,
    /// The message's content; its shape follows from the type.
    #[serde(default)]
    pub payload: Value,
}

fn first_version() -> u32 {
    1
}

impl Envelope {
    /// A message of this version, for the sandbox itself.
    ///
    /// # Errors
    /// [`ProtocolError::MalformedMessage`] if the payload has no JSON form.
    pub fn new(id: impl Into<String>, kind: &str, payload: &impl Serialize) -> Result<Self, ProtocolError> {
        Ok(Self {
            id: id.into(),
            kind: kind.to_owned(),
            agent_id: 0,
            version: PROTOCOL_VERSION,
            payload: serde_json::to_value(payload).map_err(malformed)?,
        })
    }

    /// Reads one line, with or without its newline.
    ///
    /// # Errors
    /// Refuses a line that is too long, is not an envelope, or speaks another version.
    pub fn parse(line: &[u8]) -> Result<Self, ProtocolError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(ProtocolError::LineTooLong);
        }
        let envelope: Self = serde_json::from_slice(line).map_err(malformed)?;
        if envelope.version != PROTOCOL_VERSION {
            return Err(ProtocolError::UnknownVersion { theirs: envelope.version });
        }
        Ok(envelope)
    }

    /// The line to send, newline included.
    ///
    /// # Errors
    /// [`ProtocolError::LineTooLong`] if the receiver would refuse it.
    pub fn to_line(&self) -> Result<Vec<u8>, ProtocolError> {
        let mut line = serde_json::to_vec(self).map_err(malformed)?;
        line.push(b'\n');
        if line.len() > MAX_LINE_BYTES {
            return Err(ProtocolError::LineTooLong);
        }
        Ok(line)
    }

    /// The payload as the type that belongs to [`Envelope::kind`].
    ///
    /// # Errors
    /// [`ProtocolError::MalformedMessage`] if it has another shape.
    pub fn payload_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, ProtocolError> {
        T::deserialize(&self.payload).map_err(malformed)
    }
}

fn malformed(error: serde_json::Error) -> ProtocolError {
    ProtocolError::MalformedMessage(error.to_string())
}

/// Collects bytes until a whole line is there.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    searched: usize,
}

impl LineBuffer {
    /// Adds what was read.
    ///
    /// # Errors
    /// [`ProtocolError::LineTooLong`] once more than [`MAX_LINE_BYTES`] wait without a newline.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.bytes.extend_from_slice(bytes);
        if memchr::memchr(b'\n', &self.bytes[self.searched..]).is_none() {
            self.searched = self.bytes.len();
            if self.bytes.len() > MAX_LINE_BYTES {
                return Err(ProtocolError::LineTooLong);
            }
        }
        Ok(())
    }

    /// Takes the next whole line, without its newline.
    ///
    /// # Errors
    /// [`ProtocolError::LineTooLong`] if the line is longer than [`MAX_LINE_BYTES`].
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, ProtocolError> {
        let Some(offset) = memchr::memchr(b'\n', &self.bytes[self.searched..]) else {
            return Ok(None);
        };
        let end = self.searched + offset;
        if end >= MAX_LINE_BYTES {
            return Err(ProtocolError::LineTooLong);
        }
        let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }

    /// The bytes read beyond the last line: the first ones of the frames that follow.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes
    }
}
