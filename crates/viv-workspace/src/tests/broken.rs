//! What a loss of power leaves, and what the host will not read.

use std::os::unix::fs::chown;

use super::*;

/// Every file beneath a directory, the workspace's own left out.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

/// A file system that lost power may have the names of new files without their contents.
#[test]
fn after_a_loss_of_power_the_next_sandbox_is_recorded_all_the_same() {
    let place = Place::new();
    place.write("file", "one");
    place.store().record_base(&live("one")).unwrap();
    place.store().diff("one").unwrap();
    let lost = files(&place.state());
    let lost = lost.iter().filter(|path| path.file_name().is_some_and(|name| name != "about" && name != "workspace"));
    lost.for_each(|path| std::fs::write(path, "").unwrap());

    let error = place.store().diff("one").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().ends_with("states/one/base is damaged"), "{error}");

    place.store().record_base(&live("two")).unwrap();
    place.write("file", "two");
    assert_eq!(told(&place.store().diff("two").unwrap()), ["Modified file"]);
    assert_eq!(left(&place.store().undo("two", To::Base).unwrap()), [""; 0]);
    assert_eq!(place.read("file"), "one");
}

/// Runs as somebody who has to obey permissions, whoever runs the tests: on a thread of its own, which alone is that.
fn as_an_ordinary_user(place: &Place, work: impl FnOnce() + Send) {
    let nobody = rustix::process::Uid::from_raw(65534);
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        for path in files(&place.path).iter().chain([&place.path, &place.workspace()]) {
            chown(path, Some(nobody.as_raw()), None).unwrap();
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if is_root {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            work();
        });
    });
}

#[test]
fn what_cannot_be_read_is_neither_gone_nor_in_the_way_of_the_rest() {
    let place = Place::new();
    place.write("file", "one");
    as_an_ordinary_user(&place, || {
        let closed = place.workspace().join("closed");
        place.write("closed/file", "one");
        place.store().record_base(&live("one")).unwrap();
        place.write("file", "two");
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();

        let diff = place.store().diff("one").unwrap();
        assert_eq!(told(&diff), ["Modified closed/file", "Modified file"]);
        assert_eq!(diff.notes.unreadable.len(), 1);
        let outcome = place.store().undo("one", To::Base).unwrap();
        assert_eq!(left(&outcome).len(), 1);
        assert!(left(&outcome)[0].starts_with("closed/file Failed(\"Permission denied"), "{outcome:?}");
        assert_eq!(place.read("file"), "one");

        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(place.store().diff("one").unwrap().files.is_empty());
    });
}
