//! What is read of a workspace that strangers write: git's index, paths, texts that are compared and merged. The same
//! properties are tests of viv-workspace, with proptest, on stable Rust.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use viv_workspace::TreePath;
use viv_workspace::hunks::TextDiff;

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<u8>, u8)| {
    let (old, new, other, chosen) = input;
    let _ = viv_workspace::tracked(&old, |_| Some(new.clone()));
    let header = [b"DIRC\0\0\0".as_slice(), &[2 + chosen % 3, 0, 0, 0, 9], &old].concat();
    let _ = viv_workspace::tracked(&header, |_| Some(header.clone()));
    if let Ok(path) = TreePath::new(other.as_slice()) {
        assert!(path.is_beneath(b"") && path.ancestors().all(|above| path.is_beneath(above)));
    }
    let diff = TextDiff::new(old.clone(), new.clone());
    let all: BTreeSet<usize> = (0..diff.hunks.len()).collect();
    let some: BTreeSet<usize> = all.iter().copied().filter(|number| chosen >> (number % 8) & 1 == 1).collect();
    assert_eq!(diff.with(&all), new);
    assert_eq!(diff.onto(&old, &some), Some(diff.with(&some)));
    let _ = diff.onto(&other, &some);
});
