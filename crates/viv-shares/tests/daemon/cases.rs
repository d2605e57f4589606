//! The tests.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use libc::{EBUSY, EINVAL, ENOENT, ENOSYS, EPERM, EROFS, ESTALE, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use rustix::process::geteuid;
use viv_shares::ShareSpec;

use crate::guest::{Daemon, Guest, ORDINARY, User};

const MODE: u32 = 1;
const UID_AND_GID: u32 = 2 | 4;
const SIZE: u32 = 8;

/// All tests, by name.
pub const ALL: &[(&str, fn())] = &[
    ("everything_belongs_to_the_host_user", everything_belongs_to_the_host_user),
    ("creating_what_exists_opens_it", creating_what_exists_opens_it),
    ("names_are_one_component", names_are_one_component),
    ("links_are_not_followed_by_the_host", links_are_not_followed_by_the_host),
    ("set_id_bits_are_dropped", set_id_bits_are_dropped),
    ("devices_are_refused", devices_are_refused),
    ("what_does_not_exist_here", what_does_not_exist_here),
    ("read_only_is_enforced_by_the_host", read_only_is_enforced_by_the_host),
    ("protected_paths_stay_where_and_what_they_are", protected_paths_stay_where_and_what_they_are),
    ("nothing_else_is_visible", nothing_else_is_visible),
    ("few_descriptors_are_enough_for_many_files", few_descriptors_are_enough_for_many_files),
    ("a_file_is_found_again_or_is_stale", a_file_is_found_again_or_is_stale),
    ("cached_data_is_kept_while_it_is_true", cached_data_is_kept_while_it_is_true),
    ("failures_have_their_kinds", failures_have_their_kinds),
    ("no_rights_are_left", no_rights_are_left),
    ("it_ends_with_its_vmm", it_ends_with_its_vmm),
];

/// Whether this environment allows what the daemon needs at all.
pub fn namespaces_work() -> bool {
    let host = Host::new(User::Current);
    match Daemon::start(&[host.share("0", "", false, &[])], User::Current, None).ready() {
        Err(report) if report.kind == "namespace_denied" => false,
        Err(report) => panic!("{report:?}"),
        Ok(()) => true,
    }
}

/// A directory of the host, of the user who runs the daemon.
pub struct Host {
    directory: tempfile::TempDir,
    pub user: User,
}

impl Host {
    pub fn new(user: User) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Self { directory, user };
        host.own("");
        host
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn own(&self, path: &str) {
        if self.user == User::Ordinary {
            chown(self.path(path), Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
    }

    pub fn file(&self, path: &str, contents: &str) -> PathBuf {
        self.make_parent(path);
        fs::write(self.path(path), contents).unwrap();
        self.own(path);
        self.path(path)
    }

    fn make_parent(&self, path: &str) {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
            self.directory(parent);
        }
    }

    pub fn directory(&self, path: &str) -> PathBuf {
        if !self.path(path).exists() {
            self.make_parent(path);
            fs::DirBuilder::new().mode(0o755).create(self.path(path)).unwrap();
            self.own(path);
        }
        self.path(path)
    }

    pub fn share(&self, entry: &str, path: &str, read_only: bool, protect: &[&str]) -> ShareSpec {
        let protect = protect.iter().map(PathBuf::from).collect();
        ShareSpec { entry: entry.to_owned(), source: self.path(path), read_only, protect, gathered: None }
    }

    pub fn guest(&self, shares: Vec<ShareSpec>) -> Guest {
        Guest::connect(Daemon::start(&shares, self.user, None))
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.path(path)).unwrap().mode() & 0o7777
    }
}

/// A guest with one writable share for each kind of user, in turn.
pub fn for_each_user(test: impl Fn(&Host)) {
    test(&Host::new(User::Current));
    if geteuid().is_root() {
        test(&Host::new(User::Ordinary));
    }
}

fn everything_belongs_to_the_host_user() {
    for_each_user(|host| {
        host.file("work/mine", "x");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let share = guest.walk("0").unwrap();
        assert!(share.submount);
        let mine = guest.walk("0/mine").unwrap();
        assert_eq!((mine.uid, mine.gid), (1000, 1001));
        let (made, _) = guest.create(share.id, "made", O_WRONLY, 0o644).unwrap();
        guest.mkdir(share.id, "directory", 0o755).unwrap();
        guest.symlink(share.id, "link", "made").unwrap();
        guest.mknod(share.id, "fifo", libc::S_IFIFO | 0o600, 0).unwrap();
        let changed = guest.setattr(made.id, UID_AND_GID, 0, 0, 0).unwrap();
        assert_eq!((changed.uid, changed.gid), (1000, 1001));
        let owner = fs::metadata(host.path("work/mine")).unwrap();
        for name in ["made", "directory", "link", "fifo"] {
            let made = fs::symlink_metadata(host.path("work").join(name)).unwrap();
            assert_eq!((made.uid(), made.gid()), (owner.uid(), owner.gid()), "{name}");
        }
    });
    if geteuid().is_root() {
        // Root's sandbox on somebody else's project: chown must not take the files away from them.
        let host = Host::new(User::Current);
        chown(host.file("work/theirs", "x"), Some(ORDINARY), Some(ORDINARY)).unwrap();
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let theirs = guest.walk("0/theirs").unwrap();
        guest.setattr(theirs.id, UID_AND_GID, 0, 1000, 0).unwrap();
        assert_eq!(fs::metadata(host.path("work/theirs")).unwrap().uid(), ORDINARY);
    }
}

fn creating_what_exists_opens_it() {
    for_each_user(|host| {
        host.file("work/file", "text");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let share = guest.walk("0").unwrap().id;
        let file = guest.walk("0/file").unwrap();
        let (same, handle) = guest.create(share, "file", O_RDWR, 0o600).unwrap();
        assert_eq!((same.id, same.size), (file.id, 4));
        assert_eq!(guest.read_file(same.id, handle, 10).unwrap(), b"text");
        assert_eq!(guest.create(share, "file", O_RDWR | libc::O_EXCL, 0o600).err(), Some(libc::EEXIST));
        guest.symlink(share, "link", "nowhere").unwrap();
        assert!(guest.create(share, "link", O_RDWR, 0o600).is_err());
        assert!(!host.path("work/nowhere").exists());
    });
}

fn names_are_one_component() {
    for_each_user(|host| {
        host.file("work/inside/file", "x");
        host.file("other/secret", "x");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[]), host.share("1", "other", true, &[])]);
        let share = guest.walk("0/inside").unwrap().id;
        let file = guest.walk("0/inside/file").unwrap().id;
        for name in ["", ".", "..", "../inside/file", "../../1/secret", "/1/secret", "file/", "../../../../etc/passwd"]
        {
            assert_eq!(guest.lookup(share, name).err(), Some(EINVAL), "lookup {name}");
            assert_eq!(guest.mkdir(share, name, 0o755).err(), Some(EINVAL), "mkdir {name}");
            assert_eq!(guest.mknod(share, name, libc::S_IFREG | 0o644, 0).err(), Some(EINVAL), "mknod {name}");
            assert_eq!(guest.create(share, name, O_RDWR, 0o644).err(), Some(EINVAL), "create {name}");
            assert_eq!(guest.symlink(share, name, "x").err(), Some(EINVAL), "symlink {name}");
            assert_eq!(guest.link(file, share, name).err(), Some(EINVAL), "link {name}");
            assert_eq!(guest.unlink(share, name).err(), Some(EINVAL), "unlink {name}");
            assert_eq!(guest.rmdir(share, name).err(), Some(EINVAL), "rmdir {name}");
            assert_eq!(guest.rename((share, name), (share, "new"), 0).err(), Some(EINVAL), "rename from {name}");
            assert_eq!(guest.rename((share, "file"), (share, name), 0).err(), Some(EINVAL), "rename to {name}");
        }
        // Nodes it was never told of.
        assert_eq!(guest.lookup(12_345, "file").err(), Some(libc::EBADF));
        assert_eq!(guest.getattr(0).err(), Some(libc::EBADF));
        assert_eq!(guest.getattr(u64::MAX).err(), Some(libc::EBADF));
    });
}

fn links_are_not_followed_by_the_host() {
    for_each_user(|host| {
        host.directory("work");
        host.file("outside/secret", "x");
        symlink(host.path("outside"), host.path("work/directory")).unwrap();
        symlink("/etc/passwd", host.path("work/file")).unwrap();
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        for name in ["directory", "file"] {
            let link = guest.walk(&format!("0/{name}")).unwrap();
            assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
            assert!(guest.open(link.id, O_RDONLY).is_err());
            assert!(guest.lookup(link.id, "secret").is_err());
            assert!(guest.mkdir(link.id, "new", 0o755).is_err());
            assert!(guest.setattr(link.id, SIZE, 0, 0, 0).is_err());
        }
        let share = guest.walk("0").unwrap().id;
        // Flags that would have opened through a link, or created what a mode was never checked for.
        assert!(guest.create(share, "file", O_WRONLY | O_TRUNC, 0o644).is_err());
        let directory = guest.open(share, O_RDWR | libc::O_TMPFILE);
        assert!(directory.is_err(), "{directory:?}");
    });
}

fn set_id_bits_are_dropped() {
    for_each_user(|host| {
        host.directory("work/shared");
        fs::set_permissions(host.path("work/shared"), fs::Permissions::from_mode(0o2775)).unwrap();
        host.file("work/tool", "x");
        fs::set_permissions(host.path("work/tool"), fs::Permissions::from_mode(0o6755)).unwrap();
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let share = guest.walk("0").unwrap().id;
        let (created, handle) = guest.create(share, "created", O_WRONLY, 0o6755).unwrap();
        assert_eq!(host.mode("work/created"), 0o755);
        guest.mknod(share, "made", libc::S_IFREG | 0o6711, 0).unwrap();
        assert_eq!(host.mode("work/made"), 0o711);
        let directory = guest.mkdir(share, "directory", 0o7777).unwrap();
        assert_eq!(host.mode("work/directory"), 0o1777);
        for mode in [0o4755, 0o2755, 0o6755, 0o7777] {
            guest.setattr(created.id, MODE, mode, 0, 0).unwrap();
            assert_eq!(host.mode("work/created"), mode & 0o1777);
            guest.setattr(directory.id, MODE, mode, 0, 0).unwrap();
            assert_eq!(host.mode("work/directory"), mode & 0o1777);
        }
        guest.write(created.id, handle, b"#!/bin/sh\n").unwrap();
        assert_eq!(host.mode("work/created") & 0o6000, 0);

        // A directory that the host shares among a group stays so; a file does not keep its bits once it is touched.
        let shared = guest.walk("0/shared").unwrap();
        guest.setattr(shared.id, MODE, 0o2770, 0, 0).unwrap();
        assert_eq!(host.mode("work/shared"), 0o2770);
        guest.setattr(shared.id, MODE, 0o0770, 0, 0).unwrap();
        guest.setattr(shared.id, MODE, 0o2770, 0, 0).unwrap();
        assert_eq!(host.mode("work/shared"), 0o770);
        let tool = guest.walk("0/tool").unwrap();
        let (handle, _) = guest.open(tool.id, O_WRONLY).unwrap();
        guest.write(tool.id, handle, b"evil").unwrap();
        assert_eq!(host.mode("work/tool"), 0o755);
    });
}

fn devices_are_refused() {
    for_each_user(|host| {
        host.file("work/file", "x");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let share = guest.walk("0").unwrap().id;
        for kind in [libc::S_IFBLK, libc::S_IFCHR, libc::S_IFLNK, libc::S_IFDIR] {
            for device in [0, 0x103, 0x801] {
                assert_eq!(guest.mknod(share, "device", kind | 0o666, device).err(), Some(EPERM));
            }
        }
        let whiteout = guest.rename((share, "file"), (share, "moved"), libc::RENAME_WHITEOUT);
        assert_eq!(whiteout.err(), Some(EINVAL));
        guest.mknod(share, "socket", libc::S_IFSOCK | 0o600, 0).unwrap();
        guest.mknod(share, "plain", 0o600, 0x103).unwrap();
        let names: Vec<_> = fs::read_dir(host.path("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    });
}

fn what_does_not_exist_here() {
    for_each_user(|host| {
        host.file("work/file", "x");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let file = guest.walk("0/file").unwrap().id;
        let (handle, _) = guest.open(file, O_RDWR).unwrap();
        let name = Guest::name("security.capability");
        assert_eq!(guest.request(21, file, &[&1_u32.to_le_bytes(), &[0; 4], &name, b"x"]).err(), Some(ENOSYS));
        assert_eq!(guest.request(22, file, &[&64_u32.to_le_bytes(), &[0; 4], &name]).err(), Some(ENOSYS));
        assert_eq!(guest.request(23, file, &[&64_u32.to_le_bytes(), &[0; 4]]).err(), Some(ENOSYS));
        assert_eq!(guest.request(24, file, &[&name]).err(), Some(ENOSYS));
        assert_eq!(guest.request(25, file, &[&handle.to_le_bytes(), &[0; 16]]).err(), Some(ENOSYS));
        assert_eq!(guest.request(39, file, &[&[0; 32]]).err(), Some(ENOSYS));
        assert_eq!(guest.request(51, file, &[&[0; 16], &name]).err(), Some(ENOSYS));
        assert_eq!(guest.request(9_999, file, &[]).err(), Some(ENOSYS));
        // What is absent may be remembered as such: an answer, not an error.
        let answer = guest.request(1, 1, &[&Guest::name("nothing")]).unwrap();
        assert!(answer[..8].iter().all(|byte| *byte == 0));
        assert_eq!(guest.walk("0/nothing").err(), Some(ENOENT));
    });
}

fn read_only_is_enforced_by_the_host() {
    for_each_user(|host| {
        host.file("docs/file", "text");
        host.file("single", "text");
        let shares = vec![host.share("docs", "docs", true, &[]), host.share("single", "single", true, &[])];
        let mut guest = host.guest(shares);
        let root = 1;
        let docs = guest.walk("docs").unwrap().id;
        for path in ["docs/file", "single"] {
            let file = guest.walk(path).unwrap();
            let (handle, _) = guest.open(file.id, O_RDONLY).unwrap();
            assert_eq!(guest.read_file(file.id, handle, 100).unwrap(), b"text");
            assert_eq!(guest.open(file.id, O_RDWR).err(), Some(EROFS));
            assert_eq!(guest.open(file.id, O_RDONLY | O_TRUNC).err(), Some(EROFS));
            assert_eq!(guest.setattr(file.id, MODE, 0o777, 0, 0).err(), Some(EROFS));
            assert_eq!(guest.setattr(file.id, SIZE, 0, 0, 0).err(), Some(EROFS));
        }
        // The root of the device is nobody's to write to either.
        for directory in [docs, root] {
            assert_eq!(guest.create(directory, "new", O_WRONLY, 0o644).err(), Some(EROFS));
            assert_eq!(guest.mkdir(directory, "new", 0o755).err(), Some(EROFS));
            assert_eq!(guest.symlink(directory, "new", "x").err(), Some(EROFS));
            assert_eq!(guest.setattr(directory, MODE, 0o777, 0, 0).err(), Some(EROFS));
        }
        assert_eq!(guest.unlink(docs, "file").err(), Some(EROFS));
        assert_eq!(guest.rename((docs, "file"), (docs, "moved"), 0).err(), Some(EROFS));
        assert!(guest.rename((root, "docs"), (root, "moved"), 0).is_err());
        assert_eq!(fs::read_to_string(host.path("docs/file")).unwrap(), "text");
    });
}

fn protected_paths_stay_where_and_what_they_are() {
    for_each_user(|host| {
        host.file("work/.git/hooks/pre-commit", "");
        host.file("work/.git/config", "[core]");
        host.file("work/a/b/c/kept", "kept");
        let protect = [".git/hooks", ".git/config", "a/b/c/kept", "not/there"];
        let mut guest = host.guest(vec![host.share("0", "work", false, &protect)]);
        let share = guest.walk("0").unwrap().id;
        let git = guest.walk("0/.git").unwrap().id;
        let hooks = guest.walk("0/.git/hooks").unwrap().id;
        let b = guest.walk("0/a/b").unwrap().id;
        assert_eq!(guest.create(hooks, "post-commit", O_WRONLY, 0o755).err(), Some(EROFS));
        let config = guest.walk("0/.git/config").unwrap().id;
        assert_eq!(guest.open(config, O_RDWR).err(), Some(EROFS));
        for (directory, name) in [(share, ".git"), (git, "hooks"), (git, "config"), (share, "a"), (b, "c")] {
            assert_eq!(guest.rename((directory, name), (directory, "moved"), 0).err(), Some(EBUSY), "{name}");
            assert!(guest.rmdir(directory, name).is_err());
            assert!(guest.unlink(directory, name).is_err());
        }
        // Nor can another file be put in the place of one.
        guest.create(git, "config.lock", O_WRONLY, 0o644).unwrap();
        assert_eq!(guest.rename((git, "config.lock"), (git, "config"), 0).err(), Some(EBUSY));
        assert_eq!(guest.rename((git, "config.lock"), (git, "config"), libc::RENAME_EXCHANGE).err(), Some(EBUSY));
        // A hard link into the writable part would be a way round; the kernel sees two mounts, here and in a rename.
        assert_eq!(guest.link(config, git, "linked").err(), Some(libc::EXDEV));
        assert_eq!(fs::read_to_string(host.path("work/.git/config")).unwrap(), "[core]");
    });
}

fn nothing_else_is_visible() {
    for_each_user(|host| {
        host.file("work/file", "x");
        let guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", guest.daemon.child.id())).unwrap();
        let mut places: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        places.sort_unstable();
        assert_eq!(places, ["/", "/shares", "/shares/0"], "{mounts}");
        for line in mounts.lines() {
            // Without such a field, no mount made on the host reaches this namespace.
            assert!(!line.contains("master:") && !line.contains("shared:"), "{line}");
            let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
            assert!(["nosuid", "nodev", "nosymfollow"].iter().all(|option| options.contains(option)), "{line}");
        }
    });
}

fn few_descriptors_are_enough_for_many_files() {
    for_each_user(|host| {
        for directory in 0..20 {
            for file in 0..100 {
                host.file(&format!("work/{directory}/{file}"), &format!("{directory} {file}"));
            }
        }
        let shares = [host.share("0", "work", false, &[])];
        let mut guest = Guest::connect(Daemon::start(&shares, host.user, Some(300)));
        let share = guest.walk("0").unwrap().id;
        let mut files = Vec::new();
        for directory in 0..20 {
            let parent = guest.lookup(share, &directory.to_string()).unwrap().id;
            for file in 0..100 {
                files.push((guest.lookup(parent, &file.to_string()).unwrap().id, format!("{directory} {file}")));
            }
        }
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", guest.daemon.child.id())).map(Iterator::count);
        if let Ok(count) = descriptors() {
            assert!(count < 250, "{count} descriptors");
        }
        // Every one is still what it was, in an order that makes each directory be found again many times.
        for step in 0..files.len() {
            let (node, contents) = &files[step * 7 % files.len()];
            let (handle, _) = guest.open(*node, O_RDONLY).unwrap();
            assert_eq!(&guest.read_file(*node, handle, 100).unwrap(), contents.as_bytes());
            guest.release(*node, handle).unwrap();
        }
        // Looking at one again gives the same node.
        let parent = guest.walk("0/0").unwrap().id;
        assert_eq!(guest.lookup(parent, "0").unwrap().id, files[0].0);
    });
}

fn a_file_is_found_again_or_is_stale() {
    for_each_user(|host| {
        for name in ["kept", "moved", "replaced", "removed", "open", "deep/deeper/deepest"] {
            host.file(&format!("work/{name}"), name);
        }
        for file in 0..400 {
            host.file(&format!("work/many/{file}"), "");
        }
        let shares = [host.share("0", "work", false, &[])];
        let mut guest = Guest::connect(Daemon::start(&shares, host.user, Some(300)));
        let share = guest.walk("0").unwrap().id;
        let deep = guest.walk("0/deep").unwrap().id;
        let node = |guest: &mut Guest, path: &str| guest.walk(&format!("0/{path}")).unwrap().id;
        let (kept, moved, replaced) =
            (node(&mut guest, "kept"), node(&mut guest, "moved"), node(&mut guest, "replaced"));
        let (removed, deepest) = (node(&mut guest, "removed"), node(&mut guest, "deep/deeper/deepest"));
        let open = node(&mut guest, "open");
        let (handle, _) = guest.open(open, O_RDONLY).unwrap();
        guest.unlink(share, "open").unwrap();

        // Twice, because the first round only finds out that none was used since.
        for _ in 0..2 {
            let many = node(&mut guest, "many");
            for file in 0..400 {
                guest.lookup(many, &file.to_string()).unwrap();
            }
        }
        guest.rename((share, "moved"), (deep, "elsewhere"), 0).unwrap();
        guest.rename((share, "deep"), (share, "deep2"), 0).unwrap();
        fs::rename(host.file("work/new", "other"), host.path("work/replaced")).unwrap();
        fs::remove_file(host.path("work/removed")).unwrap();

        assert_eq!(guest.getattr(kept).unwrap().size, 4);
        assert_eq!(guest.getattr(moved).unwrap().size, 5);
        assert_eq!(guest.getattr(deepest).unwrap().size, 19);
        assert_eq!(guest.getattr(replaced).err(), Some(ESTALE));
        assert_eq!(guest.getattr(removed).err(), Some(ESTALE));
        // It has no name any more, but it is open.
        assert_eq!(guest.read_file(open, handle, 100).unwrap(), b"open");
        // The path leads to the file that is there now.
        assert_eq!(guest.walk("0/replaced").unwrap().size, 5);
        assert_eq!(guest.getattr(replaced).err(), Some(ESTALE));
    });
}

fn cached_data_is_kept_while_it_is_true() {
    for_each_user(|host| {
        host.directory("work");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        for contents in ["one", "two", "six"] {
            // Its size and inode stay the same.
            host.file("work/changing", contents);
            let file = guest.walk("0/changing").unwrap().id;
            let (handle, keep) = guest.open(file, O_RDONLY).unwrap();
            assert!(!keep);
            assert_eq!(guest.read_file(file, handle, 10).unwrap(), contents.as_bytes());
            guest.release(file, handle).unwrap();
        }
        if let Some(settled) = settled_file() {
            // A file of the system that has not changed for long.
            let share =
                ShareSpec { entry: "0".into(), source: settled, read_only: true, protect: vec![], gathered: None };
            let mut guest = host.guest(vec![share]);
            let file = guest.walk("0").unwrap().id;
            assert!(!guest.open(file, O_RDONLY).unwrap().1, "the first time");
            assert!(guest.open(file, O_RDONLY).unwrap().1, "the second time");
        }
    });
}

/// A readable file of the system that has not changed for a minute.
fn settled_file() -> Option<PathBuf> {
    ["/etc/passwd", "/etc/hostname", "/bin/sh"].iter().map(PathBuf::from).find(|path| {
        fs::metadata(path).is_ok_and(|metadata| {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs() as i64);
            metadata.is_file() && metadata.ctime() + 60 < now && metadata.mode() & 0o004 != 0
        })
    })
}

fn failures_have_their_kinds() {
    for_each_user(|host| {
        host.directory("work/real");
        symlink("real", host.path("work/link")).unwrap();
        host.file("closed/inside/file", "x");
        fs::set_permissions(host.path("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, host.path("fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
        let report = |share: ShareSpec| Daemon::start(&[share], host.user, None).ready().unwrap_err();
        let missing = report(host.share("0", "nowhere", false, &[]));
        assert_eq!(missing.kind, "source_missing");
        assert!(missing.message.contains("nowhere") && missing.causes[0].contains("No such file"), "{missing:?}");
        assert_eq!(report(host.share("0", "fifo", false, &[])).kind, "source_unsupported");
        assert_eq!(report(host.share("0", "work", false, &["link"])).kind, "protected_link");
        assert_eq!(report(host.share("0", "work", false, &["link/below"])).kind, "protected_link");
        assert_eq!(report(host.share("..", "work", false, &[])).kind, "specification");
        if host.user == User::Ordinary {
            chown(host.path("closed"), Some(0), Some(0)).unwrap();
            assert_eq!(report(host.share("0", "closed/inside", false, &[])).kind, "source_denied");
        }
        // So that it can be removed.
        fs::set_permissions(host.path("closed"), fs::Permissions::from_mode(0o755)).unwrap();
        let few = Daemon::start(&[host.share("0", "work", false, &[])], host.user, Some(100)).ready();
        // Root raises its own limit.
        assert!(host.user == User::Current || few.unwrap_err().kind == "open_files");
    });
}

fn no_rights_are_left() {
    for_each_user(|host| {
        host.file("work/file", "x");
        has_no_rights(&host.guest(vec![host.share("0", "work", false, &[])]).daemon);
    });
}

/// What must be true of a daemon from the moment it can be talked to.
pub fn has_no_rights(daemon: &Daemon) {
    // Every thread of it: some are older than others.
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').trim().to_owned()
        };
        // DAC_OVERRIDE and FOWNER, in a user namespace of its own.
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0b1010), "{set}");
        }
        assert_eq!((field("CapInh"), field("CapAmb")), (format!("{:016x}", 0), format!("{:016x}", 0)));
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
    }
    let namespace = |of: &str, kind: &str| fs::read_link(format!("/proc/{of}/ns/{kind}")).unwrap();
    for kind in ["user", "mnt", "net", "ipc", "uts"] {
        assert_ne!(namespace(&daemon.child.id().to_string(), kind), namespace("self", kind), "{kind}");
    }
}

fn it_ends_with_its_vmm() {
    for_each_user(|host| {
        host.file("work/file", "x");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        guest.walk("0/file").unwrap();
        assert!(guest.disconnect().success());
    });
}
