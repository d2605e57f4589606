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

#[test]
fn names_are_checked() {
    for bad in [c"", c".", c"..", c"/", c"a/b", c"../a", c"a/"] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
    for good in [c"a", c"...", c".git", c"a b", c"\n", c"\xff"] {
        assert!(check_name(good).is_ok(), "{good:?}");
    }
}
