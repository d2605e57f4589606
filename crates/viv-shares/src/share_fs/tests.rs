use super::*;

#[test]
fn names_are_checked() {
    for bad in [c"", c".", c"..", c"/", c"a/b", c"../a", c"a/"] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
    for good in [c"a", c"...", c".git", c"a b", c"\n", c"\xff"] {
        assert!(check_name(good).is_ok(), "{good:?}");
    }
}
