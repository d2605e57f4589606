//! kill -9 of real processes at each step, and several of them at once.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::*;

/// What this test's own process is started again as: `COMMAND[:STEP]`, and below which directory.
const ROLE: &str = "VIV_NAMED_TEST_ROLE";
const ROOT: &str = "VIV_NAMED_TEST_ROOT";

pub(super) const STEPS: [Step; 9] = [
    Step::Claimed,
    Step::Prepared,
    Step::Begun,
    Step::Noted,
    Step::Settled,
    Step::Ending,
    Step::Ended,
    Step::Switched,
    Step::Removed,
];

fn process(root: &Path, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["named::tests::faults::the_process_that_is_killed", "--exact", "--nocapture"]);
    command.env(ROLE, role).env(ROOT, root).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Not a test by itself.
#[tokio::test]
async fn the_process_that_is_killed() {
    let (Ok(role), Some(root)) = (std::env::var(ROLE), std::env::var_os(ROOT)) else { return };
    let (command, step) = role.split_once(':').unwrap_or((&role, ""));
    let mut life = client(Path::new(&root));
    life.machines.die_at = STEPS.into_iter().find(|at| format!("{at:?}") == step).map(|at| (at, Death::Real));
    match command {
        "up" => println!("up: {:?}", life.up("web", true).await.unwrap()),
        "stop" => println!("stop: {}", life.stop("web").await.unwrap().state),
        "kill" => println!("kill: {}", life.kill("web").await.unwrap().state),
        "pause" => println!("pause: {}", life.pause("web").await.unwrap().state),
        "rename" => println!("rename: {}", life.rename("web", "shop").await.unwrap().name),
        "remove" => life.remove("web").await.unwrap(),
        other => panic!("{other}"),
    }
}

/// Has a process killed at a step; returns what a look shows once monitors have noticed.
fn killed(root: &Path, role: &str) -> Vec<Named> {
    let ended = process(root, role).output().unwrap();
    assert_eq!(ended.status.signal(), Some(9), "{role}: {ended:?}");
    let life = client(root);
    // What is seen before they notice must do no harm.
    life.list().unwrap();
    life.machines.settle_down();
    life.list().unwrap()
}

#[tokio::test]
async fn killed_at_each_step_of_a_start() {
    let interrupted = (State::Stopped, Some(EndReason::Interrupted));
    for (step, expected, disk_is_new) in [
        ("Claimed", interrupted, true),
        ("Prepared", interrupted, true),
        ("Begun", interrupted, true),
        ("Noted", interrupted, false),
        ("Settled", (State::Running, None), false),
    ] {
        let root = tempfile::tempdir().unwrap();
        let life = client(root.path());
        life.create(&new("web", true)).unwrap();
        let seen = killed(root.path(), &format!("up:{step}")).remove(0);
        assert_eq!((seen.state, seen.ended.map(|ended| ended.reason)), expected, "{step}");
        assert_eq!(seen.on_create_done, !disk_is_new, "{step}");
        let started = expected.0 == State::Stopped;
        assert_eq!(life.up("web", true).await.unwrap(), started.then_some(disk_is_new), "{step}");
        assert_eq!(life.find("web").unwrap().state, State::Running);
        assert_eq!(life.machines.machines().len(), 1, "{step}: one machine and no more");
        assert_eq!(life.stop("web").await.unwrap().state, State::Stopped);
        assert!(life.machines.machines().is_empty());
    }
}

#[tokio::test]
async fn killed_at_each_step_of_everything_else() {
    for (role, expected) in [
        ("stop:Ending", State::Running),
        ("stop:Ended", State::Stopped),
        ("kill:Ending", State::Running),
        ("kill:Ended", State::Stopped),
        ("pause:Switched", State::Paused),
    ] {
        let root = tempfile::tempdir().unwrap();
        let life = client(root.path());
        life.create(&new("web", true)).unwrap();
        life.up("web", true).await.unwrap();
        let seen = killed(root.path(), role).remove(0);
        assert_eq!(seen.state, expected, "{role}");
        assert_eq!(life.stop("web").await.unwrap().state, State::Stopped, "{role}");
        assert_eq!(life.up("web", true).await.unwrap(), Some(false), "{role}: its disk is kept");
    }
    for (role, left) in [("rename:Removed", Some("shop")), ("remove:Removed", None)] {
        let root = tempfile::tempdir().unwrap();
        client(root.path()).create(&new("web", true)).unwrap();
        let seen = killed(root.path(), role);
        let names: Vec<&str> = seen.iter().map(|named| named.name.as_str()).collect();
        assert_eq!(names, Vec::from_iter(left), "{role}");
        let entries = fs::read_dir(root.path().join("state/sandboxes")).unwrap().count();
        assert_eq!(entries, names.len() + 1, "{role}: nothing else is left but the lock");
    }
}

#[test]
fn of_many_that_start_it_at_once_one_does() {
    let root = tempfile::tempdir().unwrap();
    client(root.path()).create(&new("web", true)).unwrap();
    let all: Vec<_> = (0..8).map(|_| process(root.path(), "up").spawn().unwrap()).collect();
    let outputs: Vec<_> = all.into_iter().map(|one| one.wait_with_output().unwrap()).collect();
    let said = |what: &str| {
        let says = |output: &&std::process::Output| String::from_utf8_lossy(&output.stdout).contains(what);
        outputs.iter().filter(says).count()
    };
    assert_eq!((said("up: Some(true)"), said("up: None")), (1, 7), "{outputs:?}");
    let life = client(root.path());
    assert_eq!(life.machines.machines().len(), 1);
    assert_eq!(life.find("web").unwrap().state, State::Running);
}
