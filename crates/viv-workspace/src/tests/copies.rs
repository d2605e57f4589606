use std::collections::BTreeSet;
use std::io::Cursor;

use super::*;

type Told = std::io::Result<Change<Cursor<Vec<u8>>>>;

fn file(at: &str, mode: u32, content: impl Into<Vec<u8>>) -> Told {
    Ok(Change::File { path: path(at), mode, content: Cursor::new(content.into()) })
}

fn link(at: &str, target: &str) -> Told {
    Ok(Change::Symlink { path: path(at), target: target.into() })
}

fn deleted(at: &str) -> Told {
    Ok(Change::Deleted { path: path(at) })
}

fn project() -> Place {
    let place = Place::new();
    place.write("text", numbered(&[]));
    place.write("run.sh", "1");
    place.mode("run.sh", 0o750);
    place.write("dir/a", "a");
    place.write("dir/b", "b");
    place.store().record_base(&copy("one")).unwrap();
    place
}

fn changes() -> Vec<Told> {
    vec![
        deleted("dir"),
        file("text", 0o100, numbered(&[(5, "five"), (30, "thirty")])),
        file("run.sh", 0o777, "2"),
        file("new/tool", 0o755, "t"),
        link("link", "/etc/passwd"),
    ]
}

#[test]
fn what_is_reported_is_shown_accepted_and_taken_back() {
    let place = project();
    let store = place.store();
    assert_eq!(*store.diff("one").unwrap_err().kind(), ErrorKind::NotFound);
    store.record_changes("one", changes()).unwrap();
    let before = place.all();
    let diff = store.diff("one").unwrap();
    let all = ["Deleted dir/a", "Deleted dir/b", "Added link", "Added new/tool", "Modified run.sh", "Modified text"];
    assert_eq!(told(&diff), all);
    assert_eq!(place.all(), before, "looking writes nothing");

    assert_eq!(left(&store.accept("one", &diff.all()).unwrap()), [""; 0]);
    let after = place.all();
    assert_eq!(after["link"], "-> /etc/passwd");
    assert_eq!((after["run.sh"].as_str(), after["new/tool"].as_str()), ("750 2", "755 t"));
    assert!(!after.contains_key("dir") && after["text"].starts_with("755 "));
    assert!(store.diff("one").unwrap().files.is_empty());

    assert_eq!(left(&store.undo("one", To::Base).unwrap()), [""; 0]);
    assert_eq!(place.all(), before);
    assert_eq!(told(&store.diff("one").unwrap()), all);
    assert_eq!(*store.undo("one", To::Base).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(left(&store.redo("one").unwrap()), [""; 0]);
    assert_eq!(place.all(), after);
}

#[test]
fn a_host_that_has_something_else_keeps_it() {
    let place = project();
    let store = place.store();
    store.record_changes("one", changes()).unwrap();
    place.write("run.sh", "the user's");
    place.write("new/tool", "the user's, too");
    place.write("dir/a", "edited");
    let diff = store.diff("one").unwrap();
    let outcome = store.accept("one", &diff.all()).unwrap();
    assert_eq!(left(&outcome), ["dir/a Diverged", "new/tool Diverged", "run.sh Diverged"]);
    assert_eq!((place.read("run.sh").as_str(), place.read("dir/a").as_str()), ("the user's", "edited"));
    assert!(!place.all().contains_key("dir/b"), "the others are done");
    assert_eq!(told(&store.diff("one").unwrap()), ["Deleted dir/a", "Added new/tool", "Modified run.sh"]);
}

#[test]
fn hunks_go_onto_what_the_host_has_made_of_the_file() {
    let place = project();
    let store = place.store();
    store.record_changes("one", changes()).unwrap();
    place.write("text", numbered(&[(6, "the user's"), (20, "more\nlines")]));
    let diff = store.diff("one").unwrap().select(&[b"text".to_vec()]);
    let hunk = |number: usize| Selection(vec![(diff.0[0].0.clone(), Chosen::Hunks(BTreeSet::from([number])))]);
    assert_eq!(left(&store.accept("one", &hunk(0)).unwrap()), ["text Diverged"]);
    assert_eq!(left(&store.accept("one", &hunk(1)).unwrap()), [""; 0]);
    assert_eq!(place.read("text"), numbered(&[(6, "the user's"), (20, "more\nlines"), (30, "thirty")]));
    // The other hunk is still there to be decided, and taking this one back leaves the user's lines.
    let rest = store.diff("one").unwrap().select(&[b"text".to_vec()]);
    assert_eq!(left(&store.reject("one", &rest).unwrap()), [""; 0]);
    store.undo("one", To::Base).unwrap();
    assert_eq!(place.read("text"), numbered(&[(6, "the user's"), (20, "more\nlines")]));
}

#[test]
fn what_was_rejected_is_not_shown_again_until_it_is_another() {
    let place = project();
    let store = place.store();
    store.record_changes("one", changes()).unwrap();
    let chosen = store.diff("one").unwrap().select(&[b"run.sh".to_vec(), b"new".to_vec(), b"dir/a".to_vec()]);
    assert_eq!(left(&store.reject("one", &chosen).unwrap()), [""; 0]);
    let rest = ["Deleted dir/b", "Added link", "Modified text"];
    assert_eq!(told(&store.diff("one").unwrap()), rest);
    store.record_changes("one", changes()).unwrap();
    assert_eq!(told(&store.diff("one").unwrap()), rest);
    store.record_changes("one", vec![file("run.sh", 0o755, "3"), file("new/tool", 0o755, "t")]).unwrap();
    assert_eq!(told(&store.diff("one").unwrap()), ["Modified run.sh"]);
}

#[test]
fn reports_that_contradict_themselves_are_taken_in_order() {
    let place = project();
    let store = place.store();
    let large = vec![b'x'; (64 << 20) + 1];
    let reported = vec![
        file("dir/a/b/c", 0o644, "beneath a file"),
        file("x/y", 0o644, ""),
        link("x", "elsewhere"),
        deleted("never there"),
        file("large", 0o644, large),
    ];
    let recorded = store.record_changes("one", reported).unwrap();
    assert_eq!(recorded.notes.large, ["large"]);
    let diff = store.diff("one").unwrap();
    assert_eq!(told(&diff), ["Deleted dir/a", "Added dir/a/b/c", "Added x"]);
    assert_eq!(left(&store.accept("one", &diff.all()).unwrap()), [""; 0]);
    assert_eq!(place.read("dir/a/b/c"), "beneath a file");

    let broken: Vec<Told> = vec![Err(std::io::Error::other("the link broke"))];
    assert_eq!(*store.record_changes("one", broken).unwrap_err().kind(), ErrorKind::Io);
    let limits = Limits { total_bytes: 10, ..Limits::default() };
    let store = Store::with_limits(&place.state(), &place.workspace(), limits).unwrap();
    let error = store.record_changes("one", vec![file("a", 0o644, "123456"), file("b", 0o644, "123456")]).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::TooLarge);
}

#[test]
fn several_begin_with_one_base_and_know_each_other() {
    let place = project();
    let store = place.store();
    place.write("text", "of all of them\n");
    let three = [copy("run-2"), copy("run-10"), copy("run-1")];
    let recorded = store.record_bases(&three, Some("a1")).unwrap();
    assert_eq!(recorded.files, 4);
    assert!(store.is_at_base("run-1").unwrap() && !store.is_at_base("one").unwrap());
    store.record_changes("run-1", vec![file("text", 0o644, "one\n")]).unwrap();
    store.record_changes("run-2", vec![file("text", 0o644, "two\n"), file("two", 0o644, "2")]).unwrap();
    let find = |name: Option<&str>| find(&place.state(), name, &place.workspace());
    let siblings_of = |name: &str| -> Vec<String> {
        let siblings = siblings(&place.state(), &find(Some(name)).unwrap()).unwrap();
        siblings.into_iter().map(|found| found.sandbox.id).collect()
    };
    assert_eq!(siblings_of("run-2"), ["run-1", "run-10"]);
    assert_eq!(siblings_of("one"), [""; 0]);
    let unnamed = find(None).unwrap_err();
    assert_eq!(*unnamed.kind(), ErrorKind::Ambiguous);
    assert_eq!(unnamed.hints(), ["name one of them, such as run-1"]);

    // One is accepted; what another made of the same file would overwrite that.
    let two = store.diff("run-2").unwrap();
    assert_eq!(left(&store.accept("run-2", &two.all()).unwrap()), [""; 0]);
    let one = store.diff("run-1").unwrap();
    let outcome = store.accept("run-1", &one.all()).unwrap();
    assert_eq!(outcome.files[0].1, FileOutcome::Diverged);
    assert_eq!(place.read("text"), "two\n");

    // One of the same name on its own is none of them any more.
    std::thread::sleep(std::time::Duration::from_millis(2));
    store.record_base(&copy("run-10")).unwrap();
    assert_eq!(siblings_of("run-2"), ["run-1"]);
    assert_eq!(find(None).unwrap().sandbox.id, "run-10");
}

#[test]
fn there_is_room_for_all_of_a_run_and_the_newest_others() {
    let place = project();
    let limits = Limits { states: 4, ..Limits::default() };
    let store = Store::with_limits(&place.state(), &place.workspace(), limits).unwrap();
    for name in ["two", "three"] {
        std::thread::sleep(std::time::Duration::from_millis(2));
        store.record_base(&copy(name)).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(2));
    store.record_bases(&[copy("run-1"), copy("run-2"), copy("run-3")], Some("a1")).unwrap();
    let mut kept: Vec<String> = list(&place.state()).unwrap().into_iter().map(|found| found.sandbox.id).collect();
    kept.sort();
    assert_eq!(kept, ["run-1", "run-2", "run-3", "three"]);
    let many: Vec<Sandbox> = (1..=5).map(|number| copy(&format!("run-{number}"))).collect();
    assert_eq!(*store.record_bases(&many, Some("a2")).unwrap_err().kind(), ErrorKind::TooLarge);
}
