//! What every request is held against, and what its answer is made of.

use std::ffi::CStr;
use std::io;

use virtiofsd::filesystem::{Context, Entry};

use crate::coherence::timeout;
use crate::nodes::Identity;

/// What the guest is told of a node it has a number for, and how long it may believe it.
pub(crate) fn believed(mut entry: Entry) -> Entry {
    entry.attr_timeout = timeout(entry.inode, entry.attr_timeout);
    entry.entry_timeout = timeout(entry.inode, entry.entry_timeout);
    entry
}

pub(crate) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

pub(crate) fn check_name(name: &CStr) -> io::Result<()> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(errno(libc::EINVAL)),
        name if name.contains(&b'/') => Err(errno(libc::EINVAL)),
        _ => Ok(()),
    }
}

pub(crate) fn without_set_id(mode: u32) -> u32 {
    mode & !(libc::S_ISUID | libc::S_ISGID)
}

pub(crate) fn identity_of(entry: &Entry) -> Identity {
    Identity { number: entry.attr.ino, kind: entry.attr.mode & libc::S_IFMT }
}

/// The caller as far as the host is concerned: with any other, virtiofsd would try to change its credentials.
pub(crate) fn host_context() -> Context {
    Context { uid: 0.into(), gid: 0.into(), pid: 0 }
}
