//! When a file is sure to be what it was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use virtiofsd::fuse;

use crate::nodes::Stamp;

/// More than the coarsest time stamps of the file systems people share from: the two seconds of FAT.
const COARSEST_TIME_STAMP: Duration = Duration::from_secs(3);

/// What tells a file's state at `now` from any later one, unless it changed so lately that a change to come could
/// get the same time stamps.
pub(crate) fn settled_stamp(attributes: &fuse::Attr, now: SystemTime) -> Option<Stamp> {
    let changed = UNIX_EPOCH.checked_add(Duration::new(attributes.ctime, attributes.ctimensec))?;
    let settled = now.duration_since(changed).is_ok_and(|age| age >= COARSEST_TIME_STAMP);
    settled.then_some(Stamp {
        size: attributes.size,
        modified: (attributes.mtime, attributes.mtimensec),
        changed: (attributes.ctime, attributes.ctimensec),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_settled_file_has_a_stamp() {
        let attributes = fuse::Attr { ctime: 1_000, ctimensec: 500, size: 7, ..fuse::Attr::default() };
        let at = |seconds: u64| settled_stamp(&attributes, UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(1_003), None, "half a microsecond short of three seconds");
        assert_eq!(at(1_004), Some(Stamp { size: 7, modified: (0, 0), changed: (1_000, 500) }));
        assert_eq!(at(999), None, "from the future");
        // Before 1970, as the kernel and FUSE write it.
        let ancient = fuse::Attr { ctime: u64::MAX, ..fuse::Attr::default() };
        assert_eq!(settled_stamp(&ancient, UNIX_EPOCH), None);
    }
}
