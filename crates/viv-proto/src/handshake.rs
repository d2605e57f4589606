//! The link's handshake: how both sides of a byte stream that may have been cut find its beginning.
//!
//! A virtio-serial port keeps bytes of a dead session in its queues, and neither side sees every
//! disconnection. So each session begins with a marker that cannot be guessed from outside:
//!
//! ```text
//! host  -> guest   reset token of the last session (or [`FIRST_TOKEN`]) ‖ version u32 ‖ nonce 16
//! guest -> host    nonce 16 ‖ version u32 ‖ its new reset token 16
//! ```
//!
//! The guest looks for its current reset token in everything it reads, so a new session is noticed
//! even in the middle of an old frame. The token is fresh random bytes known to the host alone, so
//! no payload contains it by accident or malice. The host in turn skips what it reads until its
//! nonce comes back. Then yamux begins, the host as its client.

use crate::{PROTOCOL_VERSION, ProtocolError};

/// The length of tokens and nonces, in bytes.
pub const TOKEN_BYTES: usize = 16;

/// A reset token or a nonce.
pub type Token = [u8; TOKEN_BYTES];

/// The token of a guest that has had no session yet.
pub const FIRST_TOKEN: Token = *b"vivarium-link-01";

/// What follows the token: version and nonce, or version and token.
pub const HELLO_TAIL_BYTES: usize = 4 + TOKEN_BYTES;

/// The host's opening bytes.
#[must_use]
pub fn host_hello(reset: &Token, nonce: &Token) -> Vec<u8> {
    hello(reset, nonce)
}

/// The guest's answer.
#[must_use]
pub fn guest_hello(nonce: &Token, next_reset: &Token) -> Vec<u8> {
    hello(nonce, next_reset)
}

fn hello(marker: &Token, value: &Token) -> Vec<u8> {
    [&marker[..], &PROTOCOL_VERSION.to_le_bytes(), &value[..]].concat()
}

/// Reads what follows a marker: the nonce, or the guest's new reset token.
///
/// # Errors
/// [`ProtocolError::UnknownVersion`] if the other side speaks another version.
pub fn parse_tail(tail: &[u8; HELLO_TAIL_BYTES]) -> Result<Token, ProtocolError> {
    let (version, value) = tail.split_at(4);
    let version = u32::from_le_bytes([version[0], version[1], version[2], version[3]]);
    if version != PROTOCOL_VERSION {
        return Err(ProtocolError::UnknownVersion { theirs: version });
    }
    let mut token = [0; TOKEN_BYTES];
    token.copy_from_slice(value);
    Ok(token)
}

/// Looks for a marker in a stream read in pieces of any size.
#[derive(Debug)]
pub struct MarkerScanner {
    marker: Token,
    /// The last bytes seen, fewer than a marker's length.
    tail: Vec<u8>,
    scanned: usize,
}

impl MarkerScanner {
    /// A scanner for `marker`.
    #[must_use]
    pub fn new(marker: Token) -> Self {
        Self { marker, tail: Vec::with_capacity(2 * TOKEN_BYTES), scanned: 0 }
    }

    /// How many bytes it has looked at.
    #[must_use]
    pub fn scanned(&self) -> usize {
        self.scanned
    }

    /// Looks at the next piece. Returns where in it the bytes after the marker begin.
    pub fn scan(&mut self, piece: &[u8]) -> Option<usize> {
        self.scanned = self.scanned.saturating_add(piece.len());
        // The marker may have begun in an earlier piece: look at the seam first.
        let seam_len = piece.len().min(TOKEN_BYTES - 1);
        let held = self.tail.len();
        self.tail.extend_from_slice(&piece[..seam_len]);
        if let Some(at) = memchr::memmem::find(&self.tail, &self.marker) {
            self.tail.clear();
            return Some(at + TOKEN_BYTES - held);
        }
        if let Some(at) = memchr::memmem::find(piece, &self.marker) {
            self.tail.clear();
            return Some(at + TOKEN_BYTES);
        }
        if piece.len() >= TOKEN_BYTES {
            self.tail.clear();
            self.tail.extend_from_slice(&piece[piece.len() - (TOKEN_BYTES - 1)..]);
        } else {
            let excess = self.tail.len().saturating_sub(TOKEN_BYTES - 1);
            self.tail.drain(..excess);
        }
        None
    }
}
