//! Some names of a directory, and none of the others, whatever the guest asks for.

use std::fs;
use std::os::unix::fs::symlink;

use libc::{EINVAL, ENOENT, EROFS, O_RDONLY, O_RDWR, O_WRONLY};
use viv_shares::ShareSpec;

use crate::cases::{Host, for_each_user};
use crate::guest::{Daemon, Guest};

/// All tests, by name.
pub const ALL: &[(&str, fn())] = &[
    ("only_what_is_gathered_is_there_and_only_to_be_read", only_what_is_gathered_is_there_and_only_to_be_read),
    ("the_kernel_knows_no_more_either", the_kernel_knows_no_more_either),
    ("a_name_that_is_not_there_is_a_failure", a_name_that_is_not_there_is_a_failure),
];

fn store(host: &Host, names: &[&str]) -> ShareSpec {
    host.file("store/aa-tool/bin/tool", "tool");
    host.file("store/bb-file", "file");
    host.file("store/cc-other/secret", "secret");
    let link = host.path("store/dd-link");
    if !link.is_symlink() {
        symlink("cc-other", link).unwrap();
    }
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    ShareSpec { gathered: Some(names), ..host.share("store", "store", true, &[]) }
}

fn only_what_is_gathered_is_there_and_only_to_be_read() {
    for_each_user(|host| {
        let shares = vec![store(host, &["aa-tool", "bb-file", "dd-link"])];
        let mut guest = Guest::connect(Daemon::start(&shares, host.user, None));
        let store = guest.walk("store").unwrap().id;
        for path in ["store/aa-tool/bin/tool", "store/bb-file"] {
            let file = guest.walk(path).unwrap();
            let (handle, _) = guest.open(file.id, O_RDONLY).unwrap();
            assert_eq!(guest.read_file(file.id, handle, 100).unwrap().len(), 4);
            assert_eq!(guest.open(file.id, O_RDWR).err(), Some(EROFS));
        }
        // A link is the guest's to follow, to where there is nothing.
        assert!(guest.walk("store/dd-link").is_ok());
        assert_eq!(guest.walk("store/dd-link/secret").err(), Some(libc::ENOTDIR));
        assert_eq!(guest.walk("store/cc-other").err(), Some(ENOENT));
        for name in ["..", "../store/cc-other", "cc-other/secret"] {
            assert_eq!(guest.lookup(store, name).err(), Some(EINVAL), "{name}");
        }
        let tool = guest.walk("store/aa-tool").unwrap().id;
        for directory in [store, tool] {
            assert_eq!(guest.create(directory, "new", O_WRONLY, 0o644).err(), Some(EROFS));
            assert_eq!(guest.mkdir(directory, "cc-other", 0o755).err(), Some(EROFS));
            assert_eq!(guest.symlink(directory, "new", "x").err(), Some(EROFS));
        }
        assert!(guest.rename((store, "aa-tool"), (store, "moved"), 0).is_err());
        assert!(guest.rmdir(store, "aa-tool").is_err());
        assert_eq!(fs::read_to_string(host.path("store/aa-tool/bin/tool")).unwrap(), "tool");
    });
}

fn the_kernel_knows_no_more_either() {
    for_each_user(|host| {
        let guest = Guest::connect(Daemon::start(&[store(host, &["aa-tool", "bb-file"])], host.user, None));
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", guest.daemon.child.id())).unwrap();
        let mut places: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        places.sort_unstable();
        assert_eq!(places, ["/", "/shares", "/shares/store/aa-tool", "/shares/store/bb-file"], "{mounts}");
        for line in mounts.lines() {
            let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
            assert!(["ro", "nosuid", "nodev", "nosymfollow"].iter().all(|option| options.contains(option)), "{line}");
        }
    });
}

fn a_name_that_is_not_there_is_a_failure() {
    for_each_user(|host| {
        let shares = [store(host, &["aa-tool", "zz-missing"])];
        let report = Daemon::start(&shares, host.user, None).ready().unwrap_err();
        assert_eq!(report.kind, "source_missing", "{report:?}");
    });
}
