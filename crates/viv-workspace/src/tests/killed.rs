//! `kill -9` at each step of accepting and undoing, and then whatever comes next.

use std::io::Cursor;
use std::process::Command;

use super::*;
use crate::fault::VARIABLE;

/// Where the child of a test finds what it is to work on, and what that is.
const PLACE: &str = "VIV_WORKSPACE_TEST_PLACE";
const WHAT: &str = "VIV_WORKSPACE_TEST_WHAT";

fn project() -> Place {
    let place = Place::new();
    place.write("text", numbered(&[]));
    place.write("gone", "g");
    place.write("dir/file", "becomes a link's directory");
    place
}

fn changes() -> Vec<std::io::Result<Change<Cursor<Vec<u8>>>>> {
    let file = |at: &str, content: &str| {
        Ok(Change::File { path: path(at), mode: 0o644, content: Cursor::new(content.as_bytes().to_vec()) })
    };
    let text = numbered(&[(5, "five")]);
    vec![
        Ok(Change::Deleted { path: path("gone") }),
        Ok(Change::Deleted { path: path("dir") }),
        file("text", &text),
        file("new/file", "n"),
        Ok(Change::Symlink { path: path("dir"), target: b"new".to_vec() }),
    ]
}

/// Not a test of its own: what the others run in a process that dies.
#[test]
fn child() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let store = Place::at(Path::new(&place)).store();
    match std::env::var(WHAT).unwrap().as_str() {
        "accept" => {
            let diff = store.diff("one").unwrap();
            store.accept("one", &diff.all()).unwrap();
        }
        "undo" => drop(store.undo("one", To::Base).unwrap()),
        "redo" => drop(store.redo("one").unwrap()),
        "reject" => drop(store.reject("one", &hunk(&store)).unwrap()),
        other => panic!("{other}"),
    }
}

/// The first hunk of the text.
fn hunk(store: &Store) -> Selection {
    let file = store.diff("one").unwrap().select(&[b"text".to_vec()]).0.remove(0).0;
    Selection(vec![(file, Chosen::Hunks([0].into()))])
}

/// Has a child do something and die at a step; whether it lived, because there are not as many steps.
fn dies_at(place: &Place, what: &str, step: u32) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "tests::killed::child", "--test-threads", "1"]);
    child.env(PLACE, &place.path).env(WHAT, what).env(VARIABLE, step.to_string());
    let output = child.output().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert!(output.status.success() || output.status.signal() == Some(9), "{output:?}");
    output.status.success()
}

/// Kills `what` at each step, in a place that `prepare` makes, and lets the next call come. Then the workspace is
/// `before` or `after`, nothing in between, and the same call makes it `after`.
fn at_each_step(what: &str, prepare: impl Fn() -> Place, again: impl Fn(&Store)) -> u32 {
    let place = prepare();
    let before = place.all();
    assert!(dies_at(&place, what, u32::MAX));
    let after = place.all();
    assert_ne!(before, after);
    for step in 0.. {
        let place = prepare();
        if dies_at(&place, what, step) {
            return step;
        }
        let store = place.store();
        let now = place.all();
        if now == before {
            assert!(store.recovered().is_none(), "step {step}");
            again(&store);
        }
        assert_eq!(place.all(), after, "step {step}");
        assert!(place.store().recovered().is_none());
    }
    unreachable!("steps without end")
}

#[test]
fn an_acceptance_is_done_wholly_or_not_at_all() {
    let prepare = || {
        let place = project();
        place.store().record_base(&copy("one")).unwrap();
        place.store().record_changes("one", changes()).unwrap();
        place
    };
    let steps = at_each_step("accept", prepare, |store| {
        let diff = store.diff("one").unwrap();
        assert!(store.accept("one", &diff.all()).unwrap().is_whole());
    });
    assert!(steps > 10, "{steps}");
}

#[test]
fn so_is_what_takes_it_back() {
    let prepare = || {
        let place = project();
        let store = place.store();
        store.record_base(&copy("one")).unwrap();
        store.record_changes("one", changes()).unwrap();
        let diff = store.diff("one").unwrap();
        store.accept("one", &diff.all()).unwrap();
        place
    };
    at_each_step("undo", prepare, |store| drop(store.undo("one", To::Base).unwrap()));
}

#[test]
fn so_are_undo_and_redo_of_a_live_workspace() {
    let prepare = || {
        let place = project();
        place.store().record_base(&live("one")).unwrap();
        place.write("text", "short\n");
        place.remove("gone");
        place.write("new/file", "n");
        place
    };
    let again = |store: &Store| drop(store.undo("one", To::Base).unwrap());
    at_each_step("undo", prepare, again);
    let undone = || {
        let place = prepare();
        again(&place.store());
        place
    };
    at_each_step("redo", undone, |store| drop(store.redo("one").unwrap()));
}

#[test]
fn what_somebody_changed_after_the_kill_is_left_alone() {
    let place = project();
    place.store().record_base(&copy("one")).unwrap();
    place.store().record_changes("one", changes()).unwrap();
    // Right after the journal was written.
    assert!(!dies_at(&place, "accept", 1));
    place.write("text", "the user's");
    let store = place.store();
    assert_eq!(left(store.recovered().unwrap()), ["text Diverged"]);
    assert_eq!(place.read("text"), "the user's");
    assert_eq!(told(&store.diff("one").unwrap()), ["Modified text"]);
    assert_eq!(place.read("new/file"), "n");
}

#[test]
fn a_rejection_is_done_wholly_or_not_at_all() {
    for step in 0.. {
        let place = project();
        let text = numbered(&[(5, "five"), (30, "thirty")]);
        let report = || {
            let content = Cursor::new(text.clone().into_bytes());
            let change = Ok(Change::File { path: path("text"), mode: 0o644, content });
            place.store().record_changes("one", vec![change]).unwrap();
        };
        place.store().record_base(&copy("one")).unwrap();
        report();
        let lived = dies_at(&place, "reject", step);
        let hunks = || {
            let store = place.store();
            let diff = store.diff("one").unwrap();
            let mut count = 0;
            let told = store.views(&diff.files, |_, view| {
                count += if let View::Text(text) = view { text.hunks.len() } else { 0 };
                Ok::<_, Error>(())
            });
            told.unwrap();
            count
        };
        let now = hunks();
        report();
        assert!(now == 1 && hunks() == 1 || now == 2 && hunks() <= 2, "step {step}");
        if lived {
            assert_eq!((now, hunks()), (1, 1));
            assert!(step >= 3, "{step} steps");
            break;
        }
        if hunks() == 2 {
            assert!(place.store().reject("one", &hunk(&place.store())).unwrap().is_whole());
        }
        assert_eq!(hunks(), 1, "step {step}");
    }
}
