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
fn a_rejected_hunk_stays_away_until_its_place_is_changed() {
    let place = project();
    let hunks = |numbers: &[usize]| {
        let diff = place.store().diff("one").unwrap().select(&[b"text".to_vec()]);
        Selection(vec![(diff.0[0].0.clone(), Chosen::Hunks(numbers.iter().copied().collect()))])
    };
    let report = |changed: &[(u32, &str)]| {
        place.store().record_changes("one", vec![file("text", 0o755, numbered(changed))]).unwrap();
    };
    let shown = || {
        let store = place.store();
        let mut lines = Vec::new();
        let diff = store.diff("one").unwrap();
        let told = store.views(&diff.files, |_, view| {
            if let View::Text(text) = view {
                let new = text.new_lines();
                let changed =
                    text.changes.iter().flat_map(|change| &new[change.new.start as usize..change.new.end as usize]);
                lines.extend(changed.map(|line| String::from_utf8_lossy(line).trim_end().to_owned()));
            }
            Ok::<_, Error>(())
        });
        told.unwrap();
        lines
    };
    report(&[(5, "five"), (15, "fifteen"), (30, "thirty")]);
    assert!(place.store().reject("one", &hunks(&[0])).unwrap().is_whole());
    assert_eq!(shown(), ["fifteen", "thirty"]);
    // Another one of what is left, by the next process; then the sandbox says the same, and more elsewhere.
    assert!(place.store().reject("one", &hunks(&[1])).unwrap().is_whole());
    for changed in [
        &[(5, "five"), (15, "fifteen"), (30, "thirty")][..],
        &[(5, "five"), (15, "fifteen"), (21, "more"), (30, "thirty")],
        &[(0, "a\nb\nc"), (5, "five"), (15, "fifteen"), (30, "thirty")],
    ] {
        report(changed);
        assert_eq!(shown().iter().filter(|line| ["five", "thirty"].contains(&line.as_str())).count(), 0);
        assert!(shown().contains(&"fifteen".to_owned()));
    }
    // What is taken has none of it, and is no change any more.
    let all = place.store().diff("one").unwrap().all();
    assert!(place.store().accept("one", &all).unwrap().is_whole());
    assert_eq!(place.read("text"), numbered(&[(0, "a\nb\nc"), (15, "fifteen")]));
    report(&[(0, "a\nb\nc"), (5, "five"), (15, "fifteen"), (30, "thirty")]);
    assert_eq!(shown(), [""; 0]);
    // The place is another, and so is what is next to one.
    report(&[(0, "a\nb\nc"), (5, "FIVE"), (15, "fifteen"), (29, "next"), (30, "thirty")]);
    assert_eq!(shown(), ["FIVE", "next", "thirty"]);
    report(&[(5, "five"), (30, "thirty")]);
    assert!(shown().contains(&"five".to_owned()), "it was forgotten when it was changed");
    // Of what is not there any more nothing is remembered.
    assert!(place.store().reject("one", &hunks(&[1])).unwrap().is_whole());
    place.store().record_changes("one", vec![deleted("text")]).unwrap();
    assert_eq!(told(&place.store().diff("one").unwrap()), ["Deleted text"]);
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
fn what_a_copy_did_not_have_is_not_overwritten() {
    let place = Place::new();
    for (path, content) in [("edited", "mine"), ("untracked", "mine"), ("same", "1")] {
        place.write(path, content);
    }
    place.mode("same", 0o600);
    let committed =
        vec![file("edited", 0o644, "1"), file("same", 0o644, "1"), file("removed", 0o755, "1"), link("l", "x")];
    let store = place.store();
    store.record_bases_of_copies(&[copy("one")], None, |_| false, committed).unwrap();
    store.record_changes("one", Vec::<Told>::new()).unwrap();
    assert_eq!(told(&store.diff("one").unwrap()), [""; 0], "nothing was changed in the copy");
    let changes =
        vec![deleted("l"), file("edited", 0o644, "2"), file("same", 0o644, "2"), file("untracked", 0o644, "its")];
    store.record_changes("one", changes).unwrap();
    let diff = store.diff("one").unwrap();
    assert_eq!(told(&diff), ["Modified edited", "Deleted l", "Modified same", "Added untracked"]);
    assert_eq!(left(&store.accept("one", &diff.all()).unwrap()), ["edited Diverged", "untracked Diverged"]);
    assert_eq!((place.read("edited"), place.read("untracked")), ("mine".into(), "mine".into()));
    assert_eq!(place.all()["same"], "600 2");

    let as_here = |path: &TreePath| path.as_bytes() == b"untracked";
    store.record_bases_of_copies(&[copy("two")], None, as_here, vec![file("edited", 0o644, "1")]).unwrap();
    store.record_changes("two", vec![file("untracked", 0o644, "its")]).unwrap();
    let diff = store.diff("two").unwrap();
    assert_eq!(told(&diff), ["Modified untracked"]);
    assert!(store.accept("two", &diff.all()).unwrap().is_whole());
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
