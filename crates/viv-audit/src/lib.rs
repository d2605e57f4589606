//! What happened in a sandbox: a timeline whose lines are chained by their hashes, and recordings of terminals.
//!
//! ```text
//!  monitor ─ Journal ─► queue ─► thread ─► Writer ─► timeline-000001.jsonl, head.json
//!             ├ Program (output, end) ───► CastWriter ─► casts/000001.cast
//!             └ transcripts at the end ──────────────────► transcripts/000007
//! ```
//!
//! Who tells of something waits neither for a disk nor for a reader. There is one writer, locked; [`verify()`]
//! and the readers need no lock. Nothing here prints.
//!
//! The chain shows that lines were changed, cut, swapped or inserted by whoever did not also write the head. It
//! is no signature: who may write both files can make both anew. A hash of the chain that was noted elsewhere
//! ([`VerifyOptions::anchor`]) shows that, too.

mod cast;
mod chain;
mod error;
mod event;
mod files;
mod follow;
mod journal;
mod store;
mod transcript;
mod verify;
mod writer;

pub use cast::{CastEvent, CastReader, Header};
pub use chain::{FORMAT, Hash, Head, Line, MAX_LINE_BYTES};
pub use error::{Error, ErrorKind, Result};
pub use event::{
    Event, Exec, FileSummary, LogReference, MAX_TEXT_BYTES, MAX_WORDS_BYTES, ProgramEnd, Recorded, Transcript,
    cut_words,
};
pub use journal::{Journal, Program, ProgramRequest, Recording};
pub use store::{Entry, KEPT, Store};
pub use transcript::FoundTranscript;
pub use verify::{Finding, FindingKind, Verdict, VerifyOptions, verify};
pub use writer::{Limits, Writer};

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
