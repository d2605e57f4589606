//! What crosses the link between the host and a guest: messages, frames and their limits.
//!
//! Nothing here does I/O. Both sides treat every byte from the other as hostile: lengths are
//! bounded before anything is allocated, unknown versions and kinds are refused by name, and no
//! input panics (see the fuzz target in `fuzz/`).
//!
//! ```text
//!  carrier (virtio-serial or vsock): one byte stream per sandbox
//!   └ link handshake          [`handshake`]   who is there, which session
//!      └ yamux                (crate viv-link) many streams, each with flow control
//!         └ `CONNECT <port>`  [`port`]        which service of the other side
//!            └ one JSON line  [`envelope`]    what is asked, what is answered
//!               └ frames      [`frame`]       bytes of a terminal or a pipe, with explicit ends
//!                  └ records  [`archive`]     a tree of files, inside an `archive` operation's frames
//! ```

pub mod archive;
pub mod credit;
pub mod envelope;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod network;
pub mod port;

/// The version of everything in this crate. A peer of another version is refused by name.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest line (envelope or port greeting) either side accepts, in bytes, newline included.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The longest payload of one frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// How many bytes of stdin, stdout or stderr may be under way before the receiver has to grant
/// more with a [`frame::FrameKind::Credit`] frame.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// The control port: every operation on a sandbox starts here.
pub const CONTROL_PORT: u32 = 5000;

/// The vsock port that carries the link. A port of the machine's address: the ports that streams
/// of the link are opened to are others.
pub const VSOCK_LINK_PORT: u32 = 1;

/// The length of the key that every vsock connection to a guest begins with. vsock asks for no
/// permission: any process of the host reaches every guest.
pub const VSOCK_KEY_BYTES: usize = 16;

/// The key opens a block of this many bytes at the end of the scratch disk, after its file system.
pub const VSOCK_KEY_BLOCK_BYTES: usize = 4096;

/// What a vsock connection begins with: fresh random bytes for each machine.
pub type VsockKey = [u8; VSOCK_KEY_BYTES];

/// Why bytes from the other side were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A line did not end within [`MAX_LINE_BYTES`].
    #[error("a line longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
    /// A frame announced more than [`MAX_FRAME_BYTES`].
    #[error("a frame of {0} bytes; the limit is {MAX_FRAME_BYTES}")]
    FrameTooLong(u32),
    /// A frame of a kind this version does not know.
    #[error("an unknown frame kind {0}")]
    UnknownFrameKind(u8),
    /// A frame whose payload does not fit its kind.
    #[error("a malformed {kind} frame: {reason}")]
    MalformedFrame {
        /// The frame's kind.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A line that is not the JSON expected.
    #[error("a malformed message: {0}")]
    MalformedMessage(String),
    /// A port greeting other than `CONNECT <port>`, or an answer other than `OK` or `ERR`.
    #[error("a malformed port greeting")]
    MalformedGreeting,
    /// The other side speaks another version.
    #[error("protocol version {theirs}; this side speaks {PROTOCOL_VERSION}")]
    UnknownVersion {
        /// The version the other side named.
        theirs: u32,
    },
    /// More bytes were sent than the receiver had granted.
    #[error("{0} more bytes than were granted")]
    CreditExceeded(u32),
}
