use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

fn git(place: &Place, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").current_dir(place.workspace());
    let output = git.args(["-c", "user.name=n", "-c", "user.email=e"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Something of every kind.
fn project() -> Place {
    let place = Place::new();
    place.write(".gitignore", "target/\n*.log\n");
    place.write("src/main.rs", numbered(&[]));
    place.write("src/old.rs", numbered(&[(3, "moved")]));
    place.write("kept.log", "ignored, but tracked");
    place.write("run.sh", "#!/bin/sh\n");
    place.write("secret", "s");
    place.mode("secret", 0o600);
    place.write("data", b"\0\x01binary");
    place.write("target/out", "ignored");
    symlink("src/main.rs", place.workspace().join("link")).unwrap();
    git(&place, &["init", "-q"]);
    git(&place, &["add", ".gitignore", "src", "run.sh"]);
    git(&place, &["add", "-f", "kept.log"]);
    git(&place, &["commit", "-qm", "one"]);
    // Neither of these is committed.
    place.write("src/main.rs", numbered(&[(1, "uncommitted")]));
    place.write("untracked file", "u");
    place
}

/// What an agent might do to it.
fn work(place: &Place) {
    place.write("src/main.rs", numbered(&[(1, "uncommitted"), (5, "five"), (30, "thirty")]));
    place.remove("src/old.rs");
    place.write("lib/new.rs", numbered(&[(3, "moved")]));
    place.write("kept.log", "changed");
    place.mode("run.sh", 0o755);
    place.remove("secret");
    place.write("data", b"\0\x02binary");
    place.remove("untracked file");
    place.write("made/here\n", "new");
    place.write("target/out", "changed, and ignored");
    place.remove("link");
    symlink("elsewhere", place.workspace().join("link")).unwrap();
}

const WORK: [&str; 9] = [
    "Modified data",
    "Modified kept.log",
    "Renamed src/old.rs => lib/new.rs",
    "Modified link",
    "Added made/here\\n",
    "Mode run.sh",
    "Deleted secret",
    "Modified src/main.rs",
    "Deleted untracked file",
];

#[test]
fn every_kind_of_change_is_seen_and_undone_and_redone() {
    let place = project();
    let store = place.store();
    let recorded = store.record_base(&live("one")).unwrap();
    assert_eq!(recorded.files, 9);
    let before = place.all();
    assert!(store.diff("one").unwrap().files.is_empty());

    work(&place);
    let after = place.all();
    assert_eq!(told(&store.diff("one").unwrap()), WORK);
    assert_eq!(left(&store.undo("one", To::Base).unwrap()), [""; 0]);
    let mut undone = place.all();
    // What is ignored is nobody's to bring back.
    undone.insert("target/out".into(), before["target/out"].clone());
    assert_eq!(undone, before);
    assert!(store.diff("one").unwrap().files.is_empty());

    assert_eq!(left(&store.redo("one").unwrap()), [""; 0]);
    assert_eq!(place.all(), after);
    assert_eq!(told(&store.diff("one").unwrap()), WORK);
    assert_eq!(*store.redo("one").unwrap_err().kind(), ErrorKind::NotFound);
    store.undo("one", To::Base).unwrap();
    assert_eq!(place.read("src/main.rs"), numbered(&[(1, "uncommitted")]));
}

#[test]
fn everything_may_be_gone_with_the_repository_and_comes_back() {
    let place = project();
    place.store().record_base(&live("one")).unwrap();
    let mut before = place.all();
    for entry in std::fs::read_dir(place.workspace()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }
    assert_eq!(left(&place.store().undo("one", To::Base).unwrap()), [""; 0]);
    before.retain(|name, _| !name.starts_with("target"));
    assert_eq!(place.all(), before);
}

#[test]
fn what_is_accepted_is_no_change_any_more_and_stays_when_the_rest_is_undone() {
    let place = project();
    let store = place.store();
    store.record_base(&live("one")).unwrap();
    let before = place.all();
    work(&place);
    let chosen = store.diff("one").unwrap().select(&[b"lib".to_vec(), b"data".to_vec(), b"secret".to_vec()]);
    assert_eq!(left(&store.accept("one", &chosen).unwrap()), [""; 0]);
    let rest = [
        "Modified kept.log",
        "Modified link",
        "Added made/here\\n",
        "Mode run.sh",
        "Modified src/main.rs",
        "Deleted untracked file",
    ];
    assert_eq!(told(&store.diff("one").unwrap()), rest);
    store.undo("one", To::Base).unwrap();
    let all = place.all();
    assert!(all.contains_key("lib/new.rs") && !all.contains_key("src/old.rs") && !all.contains_key("secret"));
    assert_eq!(all["run.sh"], before["run.sh"]);

    assert_eq!(left(&store.undo("one", To::Start).unwrap()), [""; 0]);
    let mut all = place.all();
    all.insert("target/out".into(), before["target/out"].clone());
    assert_eq!(all, before);
    assert!(store.diff("one").unwrap().files.is_empty());
    // Taken back, the base is what it was as well.
    store.redo("one").unwrap();
    assert!(store.diff("one").unwrap().files.is_empty());
    assert!(place.all().contains_key("lib/new.rs"));
}

#[test]
fn hunks_are_accepted_and_rejected_one_by_one() {
    let place = project();
    let store = place.store();
    store.record_base(&live("one")).unwrap();
    place.write("src/main.rs", numbered(&[(1, "uncommitted"), (5, "five"), (20, "twenty"), (35, "last")]));
    let diff = store.diff("one").unwrap();
    let file = diff.files[0].clone();
    let hunks = |numbers: [usize; 1]| Selection(vec![(file.clone(), Chosen::Hunks(BTreeSet::from(numbers)))]);
    assert_eq!(left(&store.accept("one", &hunks([0])).unwrap()), [""; 0]);
    assert_eq!(left(&store.reject("one", &hunks([1])).unwrap()), [""; 0]);
    assert_eq!(place.read("src/main.rs"), numbered(&[(1, "uncommitted"), (5, "five"), (35, "last")]));
    // What was decided of all of it is not what is there now.
    assert_eq!(left(&store.accept("one", &diff.all()).unwrap()), ["src/main.rs Stale"]);
    let View::Text(text) = views(&store, &store.diff("one").unwrap()).remove(0) else { panic!() };
    assert_eq!(text.counts(), (1, 1));
    store.undo("one", To::Base).unwrap();
    assert_eq!(place.read("src/main.rs"), numbered(&[(1, "uncommitted"), (5, "five")]));
}

fn views(store: &Store, diff: &Diff) -> Vec<View> {
    let mut views = Vec::new();
    store
        .views(&diff.files, |_, view| -> Result<()> {
            views.push(view);
            Ok(())
        })
        .unwrap();
    views
}

#[test]
fn what_changed_after_it_was_looked_at_is_left_alone() {
    let place = project();
    let store = place.store();
    store.record_base(&live("one")).unwrap();
    work(&place);
    let diff = store.diff("one").unwrap();
    place.write("data", "somebody's own");
    place.write("made/here\n", "too");
    let outcome = store.reject("one", &diff.all()).unwrap();
    assert_eq!(left(&outcome), ["data Diverged", "made/here\\n Diverged"]);
    assert_eq!((place.read("data").as_str(), place.read("made/here\n").as_str()), ("somebody's own", "too"));
    assert_eq!(told(&store.diff("one").unwrap()), ["Modified data", "Added made/here\\n"]);
}

#[test]
fn rules_that_come_later_hide_nothing_without_its_being_said() {
    let place = project();
    let store = place.store();
    store.record_base(&live("one")).unwrap();
    place.write(".gitignore", "target/\n*.log\nnode_modules\n*.sh\nhidden\n");
    place.write("node_modules/a/b", "x");
    place.write("hidden", "x");
    place.write("other.log", "ignored all along");
    place.write("target/more", "the same");
    place.write("run.sh", "tracked, and so still seen");
    let diff = store.diff("one").unwrap();
    assert_eq!(told(&diff), ["Modified .gitignore", "Modified run.sh"]);
    assert_eq!(diff.notes.newly_ignored, ["hidden", "node_modules/"]);
}

#[test]
fn directories_and_files_take_each_others_places() {
    let place = Place::new();
    place.write("a/b/c", "1");
    place.write("f", "2");
    let store = place.store();
    store.record_base(&live("one")).unwrap();
    let before = place.all();
    std::fs::remove_dir_all(place.workspace().join("a")).unwrap();
    place.write("a", "a file");
    place.remove("f");
    place.write("f/g/h", "3");
    assert_eq!(told(&store.diff("one").unwrap()), ["Added a", "Deleted a/b/c", "Deleted f", "Added f/g/h"]);
    assert_eq!(left(&store.undo("one", To::Base).unwrap()), [""; 0]);
    assert_eq!(place.all(), before);
}

#[test]
fn states_are_found_by_name_id_or_directory_and_the_oldest_go() {
    let place = project();
    let limits = Limits { states: 2, ..Limits::default() };
    let store = Store::with_limits(&place.state(), &place.workspace(), limits).unwrap();
    for id in ["aa11", "aa22", "bb33"] {
        place.write("src/main.rs", id);
        store.record_base(&live(id)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(!store.has("aa11") && store.has("aa22") && store.has("bb33"));
    let find = |wanted, directory: &str| {
        crate::find(&place.state(), wanted, &place.workspace().join(directory)).map(|found| found.sandbox.id)
    };
    assert_eq!(find(None, "src").unwrap(), "bb33");
    assert_eq!(find(Some("web"), "").unwrap(), "bb33");
    assert_eq!(find(Some("aa"), "").unwrap(), "aa22");
    assert_eq!(*find(Some(""), "").unwrap_err().kind(), ErrorKind::NotFound);
    let elsewhere = crate::find(&place.state(), None, &place.path).unwrap_err();
    assert_eq!(*elsewhere.kind(), ErrorKind::NotFound);
    // The contents of what went are gone, those of what stays are not.
    place.write("src/main.rs", "x");
    assert_eq!(told(&store.diff("aa22").unwrap()), ["Modified src/main.rs"]);
    store.undo("aa22", To::Base).unwrap();
    assert_eq!(place.read("src/main.rs"), "aa22");
}
