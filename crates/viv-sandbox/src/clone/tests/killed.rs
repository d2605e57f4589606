//! `kill -9` at each step of a sync, and then whatever comes next.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use viv_archive::{Carried, Directory, Packer, RecordReader};

use super::super::fault::VARIABLE;
use super::super::repository::Repository;
use super::super::sync::{Fetched, Receiver, receive_objects};
use super::{repository, run};
use crate::{Paths, Result};

/// Where the child of a test finds what it is to work on, and whether it is to move the branch forward.
const PLACE: &str = "VIV_CLONE_TEST_PLACE";
const FORWARD: &str = "VIV_CLONE_TEST_FORWARD";

/// A workspace, viv's state, and what a guest has made of its copy.
struct Place(PathBuf);

impl Place {
    fn new(root: &Path) -> Self {
        let place = Self(root.canonicalize().unwrap());
        repository(&place.workspace(), &[]);
        run(root, &["clone", "--quiet", "--shared", "workspace", "guest"]);
        let guest = place.guest();
        fs::write(guest.join("a"), "2\n").unwrap();
        fs::create_dir(guest.join("deep")).unwrap();
        fs::write(guest.join("deep/new"), "1\n").unwrap();
        fs::remove_file(guest.join("gone")).unwrap();
        run(&guest, &["add", "--all"]);
        run(&guest, &["commit", "--quiet", "--message=second"]);
        run(&guest, &["checkout", "--quiet", "-b", "topic/one"]);
        fs::write(guest.join("a"), "3\n").unwrap();
        run(&guest, &["commit", "--quiet", "--all", "--message=third"]);
        // One as a pack, the other one loose.
        run(&guest, &["repack", "-q", "--local", "-d"]);
        fs::write(guest.join("a"), "4\n").unwrap();
        run(&guest, &["commit", "--quiet", "--all", "--message=fourth"]);
        place
    }

    fn workspace(&self) -> PathBuf {
        self.0.join("workspace")
    }

    fn guest(&self) -> PathBuf {
        self.0.join("guest")
    }

    fn paths(&self) -> Paths {
        let path = |name: &str| self.0.join(name);
        Paths { runtime: path("run"), state: path("state"), cache: path("cache"), config: path("config") }
    }

    fn receiver(&self) -> Receiver {
        let repository = Repository::of(&self.workspace(), false).unwrap().unwrap();
        Receiver::new(repository, "web", &self.paths()).unwrap()
    }

    fn wanted(&self) -> BTreeMap<String, String> {
        ["main", "topic/one"].map(|branch| (branch.to_owned(), run(&self.guest(), &["rev-parse", branch]))).into()
    }

    fn fetch(&self, host: &Receiver) -> Result<Vec<Fetched>> {
        let mut bytes = Vec::new();
        let mut told = |_: &Carried| {};
        let mut packer = Packer::new(&mut bytes, &mut told);
        let git = Directory::open(&self.guest().join(".git")).unwrap();
        packer.tree(&git, "objects".as_ref(), b"objects", false).unwrap();
        packer.end().unwrap();
        let incoming = host.prepare()?;
        let packs = receive_objects(&mut RecordReader::new(bytes.as_slice()), &incoming)?;
        host.take(&self.wanted(), &packs)
    }

    fn branches(&self) -> BTreeMap<String, String> {
        let told =
            run(&self.workspace(), &["for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads"]);
        told.lines().filter_map(|line| line.split_once(' ')).map(|(name, id)| (name.into(), id.into())).collect()
    }

    /// Everything is as it was before a sync or as it is after it, and git finds nothing that it would not have left.
    fn assert_consistent(&self, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>, when: &str) {
        for (name, commit) in self.branches() {
            assert!([before.get(&name), after.get(&name)].contains(&Some(&commit)), "{when}: {name} is {commit}");
        }
        assert_eq!(run(&self.workspace(), &["status", "--porcelain"]), "", "{when}");
        run(&self.workspace(), &["fsck", "--strict"]);
        let mut left = vec![self.workspace().join(".git")];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                assert!(!entry.file_name().to_string_lossy().ends_with(".lock"), "{when}: {:?}", entry.path());
                left.extend(entry.file_type().unwrap().is_dir().then(|| entry.path()));
            }
        }
    }

    fn quarantines(&self) -> usize {
        let inboxes = fs::read_dir(self.0.join("state/sync")).unwrap().flatten();
        inboxes.filter(|inbox| inbox.path().join("quarantine").exists()).count()
    }
}

/// Not a test of its own: what the others run in a process that dies.
#[test]
fn child() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let place = Place(place.into());
    let host = place.receiver();
    let fetched = place.fetch(&host).unwrap();
    if std::env::var_os(FORWARD).is_some() {
        assert!(host.fast_forward(&fetched).unwrap());
    }
}

/// Whether a child lived that was to die at this step, because there are not as many.
fn lives(place: &Place, forward: bool, step: u32) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "clone::tests::killed::child", "--test-threads", "1"]);
    child.env(PLACE, &place.0).env(VARIABLE, step.to_string());
    if forward {
        child.env(FORWARD, "1");
    }
    let output = child.output().unwrap();
    assert!(output.status.success() || output.status.signal() == Some(9), "{output:?}");
    output.status.success()
}

#[test]
fn what_comes_after_a_kill_finds_all_in_order() {
    for forward in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path());
        let before = place.branches();
        assert!(lives(&place, forward, u32::MAX));
        let after = place.branches();
        assert_eq!(after.len(), 3);
        assert_eq!(after["main"] == before["main"], !forward);
        for step in 0.. {
            let root = tempfile::tempdir().unwrap();
            let place = Place::new(root.path());
            let (before, wanted) = (place.branches(), place.wanted());
            let after = BTreeMap::from([
                ("main".to_owned(), if forward { wanted["main"].clone() } else { before["main"].clone() }),
                ("viv/web/main".to_owned(), wanted["main"].clone()),
                ("viv/web/topic/one".to_owned(), wanted["topic/one"].clone()),
            ]);
            if lives(&place, forward, step) {
                assert!(step > 10, "{step} steps");
                break;
            }
            // Waits for what git is still at.
            let host = place.receiver();
            assert_eq!(place.quarantines(), 0, "step {step}");
            place.assert_consistent(&before, &after, &format!("step {step}"));
            let fetched = place.fetch(&host).unwrap();
            if forward {
                host.fast_forward(&fetched).unwrap();
            }
            drop(host);
            assert_eq!((place.branches(), place.quarantines()), (after.clone(), 0), "step {step}");
            place.assert_consistent(&after, &after, &format!("after step {step}"));
        }
    }
}

#[test]
fn what_is_left_of_a_git_that_was_killed_and_of_other_workspaces_goes() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path());
    let host = place.receiver();
    place.fetch(&host).unwrap();
    drop(host);
    let inbox = fs::read_dir(root.path().join("state/sync")).unwrap().next().unwrap().unwrap().path();
    let other = inbox.with_file_name("0123");
    for left in [&inbox, &other] {
        fs::create_dir_all(left.join("quarantine/objects")).unwrap();
    }
    let locks = place.workspace().join(".git/refs/heads");
    let own = ["viv/web/main.lock", "viv/web/topic/one.lock"];
    own.iter().chain(&["main.lock"]).for_each(|name| fs::write(locks.join(name), "").unwrap());
    let host = place.receiver();
    assert_eq!(place.quarantines(), 0);
    assert!(own.iter().all(|name| !locks.join(name).exists()));
    assert!(locks.join("main.lock").exists(), "whose it is, nobody knows");
    fs::write(place.guest().join("a"), "5\n").unwrap();
    run(&place.guest(), &["commit", "--quiet", "--all", "--message=fifth"]);
    assert_eq!(place.fetch(&host).unwrap().len(), 2);
}

#[test]
fn a_branch_of_more_files_than_there_can_be_is_fetched_and_not_checked_out() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path());
    let guest = place.guest();
    run(&guest, &["checkout", "--quiet", "main"]);
    let blob = run(&guest, &["hash-object", "-w", "a"]);
    let mut entry = format!("100644 blob {blob}");
    // Ten names for each tree: 10^12 files.
    for _ in 0..12 {
        let names: String = (0..10).map(|name| format!("{entry}\t{name}\n")).collect();
        fs::write(root.path().join("names"), names).unwrap();
        let mut git = Command::new("git");
        git.current_dir(&guest).arg("mktree").stdin(fs::File::open(root.path().join("names")).unwrap());
        entry = format!("040000 tree {}", String::from_utf8(git.output().unwrap().stdout).unwrap().trim_end());
    }
    let tree = entry.rsplit(' ').next().unwrap();
    let commit = run(&guest, &["commit-tree", "-p", "main", "-m", "bomb", tree]);
    run(&guest, &["update-ref", "refs/heads/main", &commit]);
    let host = place.receiver();
    let fetched = place.fetch(&host).unwrap();
    let refused = host.fast_forward(&fetched).unwrap_err();
    assert!(format!("{refused:?}").contains("more than 2000000 files"), "{refused:?}");
    assert_eq!(run(&place.workspace(), &["log", "--format=%s"]), "first");
}
