//! Shares that several guests write at once.
//!
//! A guest may usually believe for a second what it was told of names and attributes. Two guests that lock a
//! directory of the host by `mkdir` and replace files by `rename` would then look at what was, and lose what the other
//! one wrote. In the shares marked here every name and attribute is asked for anew, and contents are read anew
//! whenever a file is opened; mapping files works as in others.
//!
//! The daemon serves before it knows the shares, and never reads their list. So the mark is in the name of the entry,
//! which the host chooses and no guest can make, and in the number of each node beneath it, which the daemon chooses.

use std::ffi::CStr;
use std::time::Duration;

use crate::nodes::ROOT;

/// How the names of such entries end.
const SUFFIX: &str = ".coherent";

/// What is set in the numbers of nodes beneath them. Others are counted from 1 and never come near.
const MARK: u64 = 1 << 62;

/// The entry called `name`, as one whose contents several guests write at once.
#[must_use]
pub fn coherent_entry(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// What to set in the number of a node found at a place.
pub(crate) fn mark(parent: u64, name: &CStr) -> u64 {
    let entry = parent == ROOT && name.to_bytes().ends_with(SUFFIX.as_bytes());
    if entry || is_coherent(parent) { MARK } else { 0 }
}

/// Whether a node is in such a share.
pub(crate) fn is_coherent(number: u64) -> bool {
    number & MARK != 0
}

/// How long the guest may believe what it is told of a node.
pub(crate) fn timeout(number: u64, usual: Duration) -> Duration {
    if is_coherent(number) { Duration::ZERO } else { usual }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_beneath_a_marked_entry_is_marked() {
        assert!(!is_coherent(ROOT) && mark(ROOT, c"0") == 0 && mark(7, c"x.coherent") == 0);
        let entry = std::ffi::CString::new(coherent_entry("3")).unwrap();
        let share = 9 | mark(ROOT, &entry);
        assert!(is_coherent(share));
        let file = 10 | mark(share, c"file");
        assert!(is_coherent(file));
        assert_eq!(timeout(file, Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(timeout(10, Duration::from_secs(1)), Duration::from_secs(1));
    }
}
