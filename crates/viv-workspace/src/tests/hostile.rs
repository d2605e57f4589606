use std::os::unix::fs::symlink;

use super::*;

#[test]
fn nothing_is_read_or_written_through_a_link() {
    let place = Place::new();
    let outside = place.path.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "the host's").unwrap();
    place.write("dir/file", "mine");
    place.write("file", "mine");
    let store = place.store();
    store.record_base(&live("one")).unwrap();

    // A directory becomes a link to another of the host's, a file one to a file.
    std::fs::remove_dir_all(place.workspace().join("dir")).unwrap();
    symlink(&outside, place.workspace().join("dir")).unwrap();
    place.remove("file");
    symlink(outside.join("file"), place.workspace().join("file")).unwrap();
    let diff = store.diff("one").unwrap();
    assert_eq!(told(&diff), ["Added dir", "Deleted dir/file", "Modified file"]);
    let outcome = store.undo("one", To::Base).unwrap();
    assert_eq!(left(&outcome), [""; 0]);
    assert_eq!((place.read("dir/file").as_str(), place.read("file").as_str()), ("mine", "mine"));
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "the host's");
    assert!(!place.workspace().join("dir").is_symlink());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn what_a_copy_reports_is_not_written_through_a_link_of_the_hosts() {
    let place = Place::new();
    let outside = place.path.join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, place.workspace().join("link")).unwrap();
    let store = place.store();
    store.record_base(&copy("one")).unwrap();
    // The report makes a directory of it; the host's link is what the base has, and goes first.
    let change =
        |at: &str| Ok(Change::File { path: path(at), mode: 0o644, content: std::io::Cursor::new(b"x".to_vec()) });
    store.record_changes("one", [change("link/file")]).unwrap();
    let diff = store.diff("one").unwrap();
    assert_eq!(told(&diff), ["Deleted link", "Added link/file"]);
    // Only the second is accepted: there is no way to it.
    let second = diff.select(&[b"link/file".to_vec()]);
    assert_eq!(left(&store.accept("one", &second).unwrap()).len(), 1);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(left(&store.accept("one", &diff.all()).unwrap()), [""; 0]);
    assert_eq!((place.read("link/file").as_str(), std::fs::read_dir(&outside).unwrap().count()), ("x", 0));
}

#[test]
fn odd_names_kinds_and_repositories_within_are_told_and_left_alone() {
    let place = Place::new();
    place.write("sub/.git/config", "[core]\n\tfsmonitor = touch /tmp/owned\n");
    place.write("sub/file", "a file like others");
    place.write(".GIT/hooks/post-checkout", "x");
    place.write("new\nline", "1");
    let fifo = place.workspace().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.workspace().join("socket")).unwrap();
    let store = place.store();
    let recorded = store.record_base(&live("one")).unwrap();
    assert_eq!(recorded.files, 2);
    assert_eq!(recorded.notes.repositories, ["sub"]);
    assert_eq!(recorded.notes.refused, [".GIT"]);
    assert_eq!(recorded.notes.others, ["fifo", "socket"]);
    place.remove("sub/file");
    place.write("sub/.git/config", "changed");
    assert_eq!(told(&store.diff("one").unwrap()), ["Deleted sub/file"]);
    store.undo("one", To::Base).unwrap();
    assert_eq!(place.read("sub/file"), "a file like others");
    assert_eq!(place.read("sub/.git/config"), "changed");
}

#[test]
fn what_is_too_much_is_refused_by_name_and_what_is_too_large_is_told_apart() {
    let place = Place::new();
    for number in 0..5 {
        place.write(&number.to_string(), "12345");
    }
    let record = |limits: Limits| {
        Store::with_limits(&place.state(), &place.workspace(), limits).unwrap().record_base(&live("one"))
    };
    let error = record(Limits { files: 4, ..Limits::default() }).unwrap_err();
    assert_eq!(
        (*error.kind(), error.to_string()),
        (ErrorKind::TooLarge, "the workspace has more than 4 files that git would list".to_owned())
    );
    assert_eq!(*record(Limits { total_bytes: 24, ..Limits::default() }).unwrap_err().kind(), ErrorKind::TooLarge);
    place.write("large", "123456");
    place.write("d/e/e/p", "");
    let limits = Limits { file_bytes: 5, depth: 3, ..Limits::default() };
    let recorded = record(limits.clone()).unwrap();
    assert_eq!((recorded.files, recorded.notes.refused), (7, vec![]));
    let store = Store::with_limits(&place.state(), &place.workspace(), limits).unwrap();
    assert!(store.diff("one").unwrap().files.is_empty());
    place.write("large", "654321");
    let diff = store.diff("one").unwrap();
    assert_eq!(told(&diff), ["Modified large"]);
    assert_eq!(left(&store.undo("one", To::Base).unwrap()), ["large Failed(\"its content was not kept\")"]);
    assert_eq!(left(&store.accept("one", &diff.all()).unwrap()), [""; 0]);
    assert!(store.diff("one").unwrap().files.is_empty());
}

#[test]
fn a_pipe_or_an_empty_directory_in_a_files_place_does_not_keep_it_from_coming_back() {
    let place = Place::new();
    for name in ["pipe", "empty", "full"] {
        place.write(name, name);
    }
    place.write(".gitignore", "ignored\n");
    let store = place.store();
    store.record_base(&live("one")).unwrap();
    ["pipe", "empty", "full"].iter().for_each(|name| place.remove(name));
    rustix::fs::mkfifoat(rustix::fs::CWD, place.workspace().join("pipe"), 0o600.into()).unwrap();
    std::fs::create_dir(place.workspace().join("empty")).unwrap();
    place.write("full/ignored", "not ours to remove");
    let outcome = store.undo("one", To::Base).unwrap();
    assert_eq!(left(&outcome), ["full Failed(\"a directory is in its place\")"]);
    assert_eq!((place.read("pipe").as_str(), place.read("empty").as_str()), ("pipe", "empty"));
    assert_eq!(place.read("full/ignored"), "not ours to remove");
}

#[test]
fn ids_are_no_paths() {
    let place = Place::new();
    let store = place.store();
    for id in ["", ".", "..", "a/b", "../../x", "a\0"] {
        assert!(store.record_base(&live(id)).is_err() && store.diff(id).is_err() && !store.has(id), "{id:?}");
    }
}
