//! What must hold for any text that is called a `viv.lock`. Shared with the fuzz target.

use std::path::Path;

use viv_image::{ImageSource, LockFile, Package};

/// A text is refused, or is a lock that is written and read without a change and pins nothing but versions.
pub fn any_text(text: &str) {
    let Ok(lock) = LockFile::parse(text) else { return };
    let written = lock.to_string();
    assert_eq!(LockFile::parse(&written).expect("what was written is read"), lock);
    let asked: Vec<Package> = lock.packages().map(|(package, _)| package.clone()).collect();
    let applied = lock.apply(Path::new("/project"), &ImageSource::Default, &asked);
    for (asked, pinned) in asked.iter().zip(&applied.packages) {
        assert_eq!((asked.manager, &asked.name), (pinned.manager, &pinned.name));
        // What is pinned is what could have been asked for.
        assert_eq!(pinned.to_string().parse::<Package>().as_ref().ok(), Some(pinned));
    }
}
