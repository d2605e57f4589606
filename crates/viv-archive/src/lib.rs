//! Trees of files as streams of [records](viv_proto::archive), the same on the host and in a guest.
//!
//! ```text
//!   a directory ──Packer──► records ──► link ──► records ──unpack()──► a directory
//! ```
//!
//! Whoever receives trusts nothing: paths were checked by the decoder, and are resolved beneath a directory
//! descriptor and through no link (`openat2(2)`), so that neither names nor links that are there already, nor
//! ones that the other side swaps in meanwhile, lead out of it. Only directories, regular files and symbolic
//! links are made, without setuid and setgid bits; what there is at a name is replaced, never written through.
//! Whoever sends opens every name without following links, too.
//!
//! Memory is bounded by one record, one directory's names for each level, and the paths of the directories that
//! are open: nothing depends on how many files there are.

mod beneath;
mod error;
mod pack;
mod records;
mod unpack;

pub use beneath::{Directory, Look};
pub use error::{Error, ErrorKind, Result};
pub use pack::Packer;
pub use records::{RecordReader, RecordWriter};
pub use unpack::{Limits, Options, Refusal, Top, unpack};

/// What was carried so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Device nodes, FIFOs, sockets, and files that were gone: left out.
    pub skipped: u64,
}
