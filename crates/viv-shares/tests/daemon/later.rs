//! Tests of the time before the daemon knows its shares, and of who outlives whom.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use libc::{ENOENT, EROFS, O_WRONLY};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use vhost::vhost_user::message::VhostTransferStateDirection;
use viv_shares::{ShareSpec, shares_line};

use crate::cases::{Host, for_each_user, has_no_rights};
use crate::guest::{Daemon, Guest, SPEC, User, children_of};

/// Set in the environment of the process that starts a daemon and waits: the shares it tells it of, if any.
pub const OWNER_VARIABLE: &str = "VIV_SHARES_TEST_OWNER";

/// All tests, by name.
pub const ALL: &[(&str, fn())] = &[
    ("shares_may_come_after_the_vmm", shares_may_come_after_the_vmm),
    ("a_restored_device_waits_for_its_shares", a_restored_device_waits_for_its_shares),
    ("the_host_may_mount_while_it_waits", the_host_may_mount_while_it_waits),
    ("many_shares_are_told_in_pieces", many_shares_are_told_in_pieces),
    ("late_shares_fail_as_early_ones_do", late_shares_fail_as_early_ones_do),
    ("a_helper_that_dies_is_a_failure", a_helper_that_dies_is_a_failure),
    ("it_does_not_outlive_its_vmm_while_it_waits", it_does_not_outlive_its_vmm_while_it_waits),
    ("it_dies_with_its_owner", it_dies_with_its_owner),
    ("helper_and_daemon_die_with_their_owner", helper_and_daemon_die_with_their_owner),
    ("the_helper_dies_with_its_daemon", the_helper_dies_with_its_daemon),
];

/// The VMM of a daemon that waits for its shares, and the helper, which is what waits.
fn waiting(host: &Host) -> (Guest, OwnedFd) {
    let mut daemon = Daemon::begin(host.user, None);
    daemon.say(&SPEC.line());
    // It answers, so it has begun, and so has its helper.
    let guest = Guest::attach(daemon);
    let helper = helper(guest.daemon.child.id());
    (guest, helper)
}

/// The helper of a daemon that waits for its shares.
fn helper(daemon: u32) -> OwnedFd {
    let mut children = children_of(daemon);
    assert_eq!(children.len(), 1);
    let (name, helper) = children.remove(0);
    assert_eq!(name, "viv-mounts");
    helper
}

/// Waits for the end of a process.
fn ends(process: impl AsFd, what: &str) {
    let ten_seconds = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&ten_seconds)).unwrap();
    assert_eq!(ended, 1, "{what} lives");
}

fn mounts(daemon: &Daemon) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.child.id())).unwrap();
    let mut places: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect();
    places.sort();
    places
}

fn tell(guest: &mut Guest, shares: &[ShareSpec]) {
    guest.daemon.say(&shares_line(shares).unwrap());
}

fn shares_may_come_after_the_vmm() {
    for_each_user(|host| {
        host.file("work/file", "text");
        host.file("docs/file", "text");
        let (mut guest, helper) = waiting(host);
        has_no_rights(&guest.daemon);
        // Even a guest that does not wait sees nothing, and can leave nothing where the shares will be.
        guest.mount();
        assert_eq!(mounts(&guest.daemon), ["/"]);
        let root = guest.getattr(1).unwrap();
        assert_eq!((root.uid, root.mode & libc::S_IFMT), (1000, libc::S_IFDIR));
        assert_eq!(guest.walk("0").err(), Some(ENOENT));
        assert_eq!(guest.mkdir(1, "0", 0o755).err(), Some(EROFS));
        assert_eq!(guest.symlink(1, "0", "/").err(), Some(EROFS));
        assert_eq!(guest.create(1, "0", O_WRONLY, 0o644).err(), Some(EROFS));

        tell(&mut guest, &[host.share("0", "work", false, &[]), host.share("1", "docs", true, &[])]);
        assert_eq!(guest.daemon.ready(), Ok(()));
        ends(helper, "the helper");
        assert!(children_of(guest.daemon.child.id()).is_empty());
        assert_eq!(mounts(&guest.daemon), ["/", "/shares", "/shares/0", "/shares/1"]);
        has_no_rights(&guest.daemon);
        // What it has mounted is still the empty directory.
        assert_eq!(guest.walk("0").err(), Some(ENOENT));
        guest.mount();
        for share in ["0", "1"] {
            let (share, file) = (guest.walk(share).unwrap(), guest.walk(&format!("{share}/file")).unwrap());
            assert!(share.submount);
            let (handle, _) = guest.open(file.id, libc::O_RDONLY).unwrap();
            assert_eq!(guest.read_file(file.id, handle, 10).unwrap(), b"text");
        }
        let (work, docs) = (guest.walk("0").unwrap().id, guest.walk("1").unwrap().id);
        guest.create(work, "new", O_WRONLY, 0o644).unwrap();
        assert!(host.path("work/new").exists());
        assert_eq!(guest.create(docs, "new", O_WRONLY, 0o644).err(), Some(EROFS));
        assert_eq!(guest.mkdir(1, "2", 0o755).err(), Some(EROFS));
        assert!(guest.disconnect().success());
    });
}

fn a_restored_device_waits_for_its_shares() {
    for_each_user(|host| {
        host.file("work/file", "text");
        let state = || memfd_create("state", MemfdFlags::CLOEXEC).unwrap();
        // The device of the machine that was saved had other shares, and no guest had mounted it.
        let (saved, saved_helper) = waiting(host);
        let file = state();
        saved.transfer(VhostTransferStateDirection::SAVE, file.try_clone().unwrap());
        seek(&file, SeekFrom::Start(0)).unwrap();
        saved.disconnect();
        ends(saved_helper, "the helper");

        let (mut guest, _) = waiting(host);
        guest.transfer(VhostTransferStateDirection::LOAD, file);
        tell(&mut guest, &[host.share("0", "work", false, &[])]);
        assert_eq!(guest.daemon.ready(), Ok(()));
        guest.mount();
        assert_eq!(guest.walk("0/file").unwrap().size, 4);
    });
}

/// Unmounts when a test ends, however that is.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn the_host_may_mount_while_it_waits() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root may mount on the host");
        return;
    }
    for_each_user(|host| {
        let mount_tmpfs = |place: &str| {
            let place = host.directory(place);
            mount("none", &place, "tmpfs", MountFlags::empty(), c"mode=0777").unwrap();
            Mounted(place)
        };
        let before = mount_tmpfs("before");
        let (mut guest, helper) = waiting(host);
        unmount(&before.0, UnmountFlags::empty()).unwrap();
        let _after = mount_tmpfs("after");
        host.file("before/file", "bare");
        host.file("after/file", "covered");
        tell(&mut guest, &[host.share("0", "before", false, &[]), host.share("1", "after", false, &[])]);
        assert_eq!(guest.daemon.ready(), Ok(()));
        ends(helper, "the helper");
        guest.mount();
        assert_eq!(guest.walk("0/file").unwrap().size, 4);
        assert_eq!(guest.walk("1/file").unwrap().size, 7);
    });
}

fn many_shares_are_told_in_pieces() {
    let host = Host::new(User::Current);
    host.file("work/file", "text");
    let (mut guest, _) = waiting(&host);
    // More than a socket or a pipe holds: the helper reads while it is being told.
    let shares: Vec<_> = (0..2000)
        .map(|number| {
            let mut share = host.share(&number.to_string(), "work", true, &[]);
            share.protect = vec!["x".repeat(200).into()];
            share
        })
        .collect();
    let line = shares_line(&shares).unwrap();
    assert!(line.len() > 500_000);
    let (first, rest) = line.split_at(line.len() / 3);
    guest.daemon.say(first);
    guest.daemon.say(rest);
    assert_eq!(guest.daemon.ready(), Ok(()));
    guest.mount();
    assert_eq!(guest.walk("1999/file").unwrap().size, 4);
}

fn late_shares_fail_as_early_ones_do() {
    for_each_user(|host| {
        host.file("work/real", "text");
        symlink("real", host.path("work/link")).unwrap();
        let share = |path, protect: &[&str]| shares_line(&[host.share("0", path, false, protect)]).unwrap();
        for (line, kind) in [
            (share("nowhere", &[]), "source_missing"),
            (share("work", &["link"]), "protected_link"),
            (share("work", &["../work"]), "specification"),
            ("garbage\n".to_owned(), "specification"),
            // Cut short, and not told at all.
            (share("work", &[]).trim_end().to_owned(), "specification"),
            (String::new(), "specification"),
        ] {
            let (mut guest, helper) = waiting(host);
            guest.daemon.say(&line);
            guest.daemon.hush();
            let report = guest.daemon.ready().unwrap_err();
            assert_eq!(report.kind, kind, "{report:?}");
            assert!(!guest.daemon.child.wait().unwrap().success());
            ends(helper, "the helper");
        }
        // The first line fails before there is anybody to serve.
        for line in ["", "garbage\n", "[]\n"] {
            let mut daemon = Daemon::begin(host.user, None);
            daemon.say(line);
            daemon.hush();
            assert_eq!(daemon.ready().unwrap_err().kind, "specification", "{line}");
        }
    });
}

fn a_helper_that_dies_is_a_failure() {
    for_each_user(|host| {
        let (mut guest, helper) = waiting(host);
        pidfd_send_signal(&helper, Signal::KILL).unwrap();
        let report = guest.daemon.ready().unwrap_err();
        assert_eq!(report.kind, "mount", "{report:?}");
        assert!(!guest.daemon.child.wait().unwrap().success());
    });
}

fn it_does_not_outlive_its_vmm_while_it_waits() {
    for_each_user(|host| {
        let (guest, helper) = waiting(host);
        assert!(guest.disconnect().success());
        ends(helper, "the helper");
    });
}

fn the_helper_dies_with_its_daemon() {
    for_each_user(|host| {
        let (mut guest, helper) = waiting(host);
        guest.daemon.child.kill().unwrap();
        ends(helper, "the helper");
    });
}

/// The process that starts a daemon, tells its id and waits to be killed.
pub fn owner(shares: &str) -> ExitCode {
    let told = |daemon: &Daemon| {
        println!("{}", daemon.child.id());
        let _ = std::io::stdin().read(&mut [0]);
    };
    match serde_json::from_str::<Option<Vec<ShareSpec>>>(shares).unwrap() {
        Some(shares) => {
            let mut daemon = Daemon::start(&shares, User::Current, None);
            daemon.ready().unwrap();
            told(&daemon);
        }
        None => told(&waiting(&Host::new(User::Current)).0.daemon),
    }
    ExitCode::SUCCESS
}

/// Starts an owner; it, and the id of its daemon.
fn owned(shares: Option<&[ShareSpec]>) -> (Child, u32) {
    let mut owner = Command::new("/proc/self/exe")
        .env(OWNER_VARIABLE, serde_json::to_string(&shares).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (owner, line.trim().parse().unwrap())
}

fn process(id: u32) -> OwnedFd {
    pidfd_open(Pid::from_raw(id.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap()
}

fn it_dies_with_its_owner() {
    let host = Host::new(User::Current);
    let (mut owner, daemon) = owned(Some(&[host.share("0", "", false, &[])]));
    let daemon = process(daemon);
    owner.kill().unwrap();
    owner.wait().unwrap();
    ends(daemon, "the daemon");
}

fn helper_and_daemon_die_with_their_owner() {
    let (mut owner, daemon) = owned(None);
    let (daemon, helper) = (process(daemon), helper(daemon));
    owner.kill().unwrap();
    owner.wait().unwrap();
    ends(daemon, "the daemon");
    ends(helper, "the helper");
}
