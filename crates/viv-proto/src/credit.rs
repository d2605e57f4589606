//! Per-stream flow control inside one operation: a stalled reader stalls its own stream alone.
//!
//! Each byte stream starts with [`STREAM_WINDOW_BYTES`] of credit. The sender spends it, the
//! receiver grants it anew once the bytes have left its hands. Because a receiver always has room
//! for what it granted, both sides keep reading frames whatever one stream does, and signals and
//! window sizes never queue behind data.

use crate::{ProtocolError, STREAM_WINDOW_BYTES};

/// The sender's side: how much may be sent.
#[derive(Debug)]
pub struct SendCredit(u32);

impl Default for SendCredit {
    fn default() -> Self {
        Self(STREAM_WINDOW_BYTES)
    }
}

impl SendCredit {
    /// Bytes that may be sent now.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.0
    }

    /// Takes credit for bytes about to be sent; `bytes` is at most [`Self::available`].
    pub fn spend(&mut self, bytes: u32) {
        self.0 = self.0.saturating_sub(bytes);
    }

    /// The receiver granted more. A total above the window is a peer's nonsense and is cut.
    pub fn grant(&mut self, bytes: u32) {
        self.0 = self.0.saturating_add(bytes).min(STREAM_WINDOW_BYTES);
    }
}

/// The receiver's side: what may still arrive, and what to grant.
#[derive(Debug)]
pub struct ReceiveCredit {
    granted: u32,
    delivered: u32,
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self { granted: STREAM_WINDOW_BYTES, delivered: 0 }
    }
}

impl ReceiveCredit {
    /// Bytes arrived.
    ///
    /// # Errors
    /// [`ProtocolError::CreditExceeded`] if the sender had no credit for them.
    pub fn receive(&mut self, bytes: u32) -> Result<(), ProtocolError> {
        let rest = self.granted.checked_sub(bytes);
        self.granted = rest.ok_or_else(|| ProtocolError::CreditExceeded(bytes.abs_diff(self.granted)))?;
        Ok(())
    }

    /// Bytes left this side's buffer. Returns the grant to send, batched to a quarter window.
    #[must_use]
    pub fn deliver(&mut self, bytes: u32) -> Option<u32> {
        self.delivered = self.delivered.saturating_add(bytes);
        if self.delivered < STREAM_WINDOW_BYTES / 4 {
            return None;
        }
        let grant = self.delivered;
        self.granted = self.granted.saturating_add(grant);
        self.delivered = 0;
        Some(grant)
    }
}
