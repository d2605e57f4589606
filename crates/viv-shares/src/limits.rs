//! How many files the daemon may keep open for the guest.
//!
//! A guest's kernel remembers every file it has looked at for as long as its memory allows, and virtiofsd holds one
//! descriptor for each: `find` over 300,000 files would need 300,000 of them, and pin as many inodes in the host's
//! memory. So the number is bounded, by the process's limit and by [`MAX_NODES`], and descriptors of files nobody
//! uses are closed and opened again when needed ([`crate::nodes`]).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Error, ErrorKind, Result};

/// The most files remembered by descriptor. Each costs the host about 1.7 KB of kernel memory that cannot be
/// reclaimed: 110 MB in all.
pub(crate) const MAX_NODES: u64 = 65_536;

/// What the daemon needs for itself: the guest's memory regions, eventfds, sockets, and descriptors that live for the
/// length of one request.
const RESERVE: u64 = 128;

/// The limit below which nothing sensible can be done.
const LEAST: u64 = 256;

/// The limit beyond which nothing is gained: all nodes, and as many open files.
const ENOUGH: u64 = 2 * MAX_NODES + RESERVE;

/// How descriptors are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// Files remembered by descriptor.
    pub(crate) nodes: usize,
    /// Those, and the files the guest has open.
    pub(crate) guest: u64,
}

/// Divides `limit` descriptors.
pub(crate) fn divide(limit: u64, threads: usize) -> Result<OpenFiles> {
    if limit < LEAST {
        return Err(Error::new(
            ErrorKind::OpenFiles,
            format!("the limit of open files is {limit}; sharing files takes at least {LEAST}"),
        )
        .hint("ulimit -n 4096"));
    }
    // A thread opens a descriptor before it is accounted for.
    let guest = limit.saturating_sub(RESERVE + threads as u64).max(1);
    let nodes = (guest / 2).min(MAX_NODES);
    Ok(OpenFiles { nodes: usize::try_from(nodes).unwrap_or(usize::MAX), guest })
}

/// Raises this process's limit as far as it is of use, and gives it.
pub(crate) fn raise() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let soft = now.current.unwrap_or(u64::MAX);
    let hard = now.maximum.unwrap_or(u64::MAX);
    if soft >= ENOUGH {
        return soft;
    }
    // Only root can go beyond the hard limit; for others the second attempt does what can be done.
    for target in [ENOUGH, hard.min(ENOUGH)] {
        let new = Rlimit { current: Some(target), maximum: Some(hard.max(target)) };
        if setrlimit(Resource::Nofile, new).is_ok() {
            return target;
        }
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_limits_leave_room_for_both_and_high_ones_are_capped() {
        let nodes_and_guest = |limit| divide(limit, 0).map(|files| (files.nodes, files.guest)).unwrap();
        assert_eq!(nodes_and_guest(256), (64, 128));
        assert_eq!(nodes_and_guest(1024), (448, 896));
        assert_eq!(nodes_and_guest(4096), (1984, 3968));
        assert_eq!(nodes_and_guest(1_048_576), (65_536, 1_048_448));
        assert_eq!(divide(1024, 4).unwrap().guest, 892);
    }

    #[test]
    fn a_hopeless_limit_is_refused_with_the_command_that_mends_it() {
        let error = divide(100, 0).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::OpenFiles);
        assert_eq!(error.hints(), ["ulimit -n 4096"]);
    }
}
