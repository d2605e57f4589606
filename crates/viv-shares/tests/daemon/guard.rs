//! What git on the host would run: a guest that owns every request gets at none of it.

use std::fs;

use libc::{EBUSY, EPERM, EROFS, ESTALE, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, RENAME_EXCHANGE};
use viv_shares::{ShareSpec, guarded_entry};

use crate::cases::{Host, for_each_user};
use crate::guest::Guest;

const MODE: u32 = 1;
const SIZE: u32 = 8;

/// All tests, by name.
pub const ALL: &[(&str, fn())] = &[
    ("no_repository_is_changed_wherever_it_is", no_repository_is_changed_wherever_it_is),
    ("no_directory_becomes_a_repository_that_runs_something", no_directory_becomes_a_repository_that_runs_something),
    ("a_repository_of_the_guests_own_works", a_repository_of_the_guests_own_works),
    ("a_configuration_is_let_in_only_as_it_stays", a_configuration_is_let_in_only_as_it_stays),
    ("a_file_without_a_place_is_not_written", a_file_without_a_place_is_not_written),
    ("what_was_not_there_is_not_made", what_was_not_there_is_not_made),
    ("what_the_host_replaces_stays_protected", what_the_host_replaces_stays_protected),
    ("repositories_are_nothing_special_without_a_guard", repositories_are_nothing_special_without_a_guard),
];

fn guarded(host: &Host, protect: &[&str]) -> ShareSpec {
    host.directory("work");
    host.share(&guarded_entry("0"), "work", false, protect)
}

/// The guest's number of a path of the guarded share.
fn at(guest: &mut Guest, path: &str) -> u64 {
    let path = format!("{}/{path}", guarded_entry("0"));
    guest.walk(path.trim_end_matches('/')).unwrap().id
}

/// Makes a file with contents, and closes it.
fn put(guest: &mut Guest, directory: u64, name: &str, text: &str) -> Result<(), i32> {
    let (file, handle) = guest.create(directory, name, O_WRONLY, 0o755)?;
    guest.write(file.id, handle, text.as_bytes()).unwrap();
    guest.release(file.id, handle).map(drop)
}

fn no_repository_is_changed_wherever_it_is() {
    for_each_user(|host| {
        // Nested, of a submodule, of a worktree, bare, and one that no mount protects.
        let repositories = [".git", "lib/.git", ".git/modules/lib", ".git/worktrees/x", "fixtures/bare.git"];
        for repository in repositories {
            host.file(&format!("work/{repository}/HEAD"), "ref: refs/heads/main\n");
            host.file(&format!("work/{repository}/config"), "[core]\n\tpager = less\n");
            host.file(&format!("work/{repository}/hooks/pre-commit"), "#!/bin/sh\n");
            host.file(&format!("work/{repository}/hooks/lib/common"), "");
        }
        let mut guest = host.guest(vec![guarded(host, &[])]);
        for repository in repositories {
            let git = at(&mut guest, repository);
            let hooks = at(&mut guest, &format!("{repository}/hooks"));
            let below = at(&mut guest, &format!("{repository}/hooks/lib"));
            for file in ["config", "hooks/pre-commit", "hooks/lib/common"] {
                let file = at(&mut guest, &format!("{repository}/{file}"));
                for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC] {
                    assert_eq!(guest.open(file, flags).err(), Some(EPERM), "{repository}");
                }
                assert_eq!(guest.setattr(file, SIZE, 0, 0, 0).err(), Some(EPERM));
                // Another name would be another way to write it.
                assert_eq!(guest.link(file, git, "other").err(), Some(EPERM));
                assert!(guest.open(file, O_RDONLY).is_ok());
            }
            let hook = at(&mut guest, &format!("{repository}/hooks/pre-commit"));
            assert_eq!(guest.setattr(hook, MODE, 0o755, 0, 0).err(), Some(EPERM));
            for (directory, name) in [(git, "commondir"), (git, "config.worktree"), (hooks, "post-merge"), (below, "x")]
            {
                assert_eq!(guest.create(directory, name, O_WRONLY, 0o755).err(), Some(EPERM), "{name}");
                assert_eq!(guest.mkdir(directory, name, 0o755).err(), Some(EPERM), "{name}");
                assert_eq!(guest.mknod(directory, name, 0o100_644, 0).err(), Some(EPERM), "{name}");
                assert_eq!(guest.symlink(directory, name, "x").err(), Some(EPERM), "{name}");
            }
            put(&mut guest, git, "evil", "[core]\n\tfsmonitor = evil\n").unwrap();
            for (directory, name) in [(git, "config"), (git, "commondir"), (hooks, "pre-commit"), (hooks, "post-merge")]
            {
                assert_eq!(guest.rename((git, "evil"), (directory, name), 0).err(), Some(EPERM), "{name}");
                assert!(guest.rename((git, "evil"), (directory, name), RENAME_EXCHANGE).is_err(), "{name}");
                let evil = at(&mut guest, &format!("{repository}/evil"));
                assert_eq!(guest.link(evil, directory, name).err(), Some(EPERM), "{name}");
            }
            // What git writes all the time.
            put(&mut guest, git, "HEAD.lock", "ref: refs/heads/topic\n").unwrap();
            guest.rename((git, "HEAD.lock"), (git, "HEAD"), 0).unwrap();
        }
        // Moved with what is above it, it is as before; taken away, it does not come back.
        let (root, fixtures) = (at(&mut guest, ""), at(&mut guest, "fixtures"));
        guest.rename((fixtures, "bare.git"), (root, "moved"), 0).unwrap();
        let config = at(&mut guest, "moved/config");
        assert_eq!(guest.open(config, O_WRONLY).err(), Some(EPERM));
        let moved = at(&mut guest, "moved");
        guest.rename((moved, "hooks"), (root, "free"), 0).unwrap();
        let free = at(&mut guest, "free");
        put(&mut guest, free, "post-merge", "evil").unwrap();
        assert_eq!(guest.rename((root, "free"), (moved, "hooks"), 0).err(), Some(EPERM));
        guest.rename((root, "lib"), (root, "gone"), 0).unwrap();
        guest.mkdir(root, "lib", 0o755).unwrap();
        for repository in repositories {
            if let Ok(config) = fs::read_to_string(host.path(&format!("work/{repository}/config"))) {
                assert_eq!(config, "[core]\n\tpager = less\n");
            }
        }
    });
}

fn no_directory_becomes_a_repository_that_runs_something() {
    for_each_user(|host| {
        let mut guest = host.guest(vec![guarded(host, &[])]);
        let root = at(&mut guest, "");
        // Each has one thing that git would obey, and is fine as long as it is no repository.
        let evil = "[core]\n\tfsmonitor = evil\n";
        for (number, obeyed) in ["config", "config.worktree", "commondir"].iter().enumerate() {
            let name = format!("d{number}");
            let directory = guest.mkdir(root, &name, 0o755).unwrap().id;
            put(&mut guest, directory, obeyed, evil).unwrap();
            assert_eq!(put(&mut guest, directory, "HEAD", "").err(), Some(EPERM), "{obeyed}");
            assert_eq!(guest.symlink(directory, "HEAD", "refs/heads/main").err(), Some(EPERM), "{obeyed}");
            put(&mut guest, root, "head", "x").unwrap();
            assert_eq!(guest.rename((root, "head"), (directory, "HEAD"), 0).err(), Some(EPERM), "{obeyed}");
            let head = at(&mut guest, "head");
            assert_eq!(guest.link(head, directory, "HEAD").err(), Some(EPERM), "{obeyed}");
            guest.unlink(root, "head").unwrap();
            // As `.git`, a later `git init` on the host would take it over.
            assert_eq!(guest.rename((root, &name), (root, ".git"), 0).err(), Some(EPERM), "{obeyed}");
        }
        let hooked = guest.mkdir(root, "hooked", 0o755).unwrap().id;
        let hooks = guest.mkdir(hooked, "hooks", 0o755).unwrap().id;
        put(&mut guest, hooks, "pre-commit.sample", "").unwrap();
        put(&mut guest, hooks, "pre-commit", "evil").unwrap();
        assert_eq!(put(&mut guest, hooked, "HEAD", "").err(), Some(EPERM));
        assert_eq!(guest.rename((root, "hooked"), (root, ".git"), 0).err(), Some(EPERM));
        // Nor the other way round: first a repository in the making, then what it obeys.
        let git = guest.mkdir(root, ".git", 0o755).unwrap().id;
        for name in ["config", "config.worktree", "commondir"] {
            assert_eq!(put(&mut guest, git, name, evil).err(), Some(EPERM), "{name}");
        }
        let d0 = at(&mut guest, "d0");
        assert_eq!(guest.rename((d0, "config"), (git, "config"), 0).err(), Some(EPERM));
        assert_eq!(guest.rename((root, "d0"), (git, "hooks"), 0).err(), Some(EPERM));
        let hooks = guest.mkdir(git, "hooks", 0o755).unwrap().id;
        assert_eq!(put(&mut guest, hooks, "pre-commit", "").err(), Some(EPERM));
        put(&mut guest, hooks, "pre-commit.sample", "").unwrap();
        assert_eq!(guest.rename((hooks, "pre-commit.sample"), (hooks, "pre-commit"), 0).err(), Some(EPERM));
        // A link to a directory that is no repository yet.
        assert_eq!(guest.symlink(hooked, ".git", "../d0").err(), Some(EPERM));
        guest.symlink(root, "link", "d0").unwrap();
        assert_eq!(guest.rename((root, "link"), (hooked, ".git"), 0).err(), Some(EPERM));
    });
}

/// What `git init`, `git clone` and `git commit` ask for, in their order.
fn a_repository_of_the_guests_own_works() {
    for_each_user(|host| {
        let mut guest = host.guest(vec![guarded(host, &[])]);
        let root = at(&mut guest, "");
        for name in [".git", "bare.git"] {
            let git = guest.mkdir(root, name, 0o755).unwrap().id;
            let hooks = guest.mkdir(git, "hooks", 0o755).unwrap().id;
            put(&mut guest, hooks, "pre-commit.sample", "#!/bin/sh").unwrap();
            put(&mut guest, git, "HEAD.lock", "ref: refs/heads/main\n").unwrap();
            guest.rename((git, "HEAD.lock"), (git, "HEAD"), 0).unwrap();
            for text in ["[core]\n\tbare = false\n", "[remote \"origin\"]\n\turl = https://example.com/a.git\n"] {
                put(&mut guest, git, "config.lock", text).unwrap();
                guest.rename((git, "config.lock"), (git, "config"), 0).unwrap();
            }
            let config = at(&mut guest, &format!("{name}/config"));
            assert_eq!(guest.open(config, O_RDWR).err(), Some(EPERM));
            let logs = guest.mkdir(git, "logs", 0o755).unwrap().id;
            put(&mut guest, logs, "HEAD", "x").unwrap();
            let head = at(&mut guest, &format!("{name}/logs/HEAD"));
            assert!(guest.open(head, O_RDWR).is_ok());
        }
        // Ordinary directories may be called as they like.
        let source = guest.mkdir(root, "src", 0o755).unwrap().id;
        let config = guest.mkdir(source, "config", 0o755).unwrap().id;
        put(&mut guest, config, "hooks", "x").unwrap();
        put(&mut guest, source, "head", "x").unwrap();
        let again = at(&mut guest, "src/config/hooks");
        assert!(guest.open(again, O_RDWR).is_ok());
    });
}

fn a_configuration_is_let_in_only_as_it_stays() {
    for_each_user(|host| {
        let mut guest = host.guest(vec![guarded(host, &[])]);
        let root = at(&mut guest, "");
        let git = guest.mkdir(root, ".git", 0o755).unwrap().id;
        let inert = b"[core]\n\tbare = false\n";
        // Still open: what is in it now says nothing of what will be.
        let (file, handle) = guest.create(git, "config.lock", O_RDWR, 0o644).unwrap();
        guest.write(file.id, handle, inert).unwrap();
        assert_eq!(guest.rename((git, "config.lock"), (git, "config"), 0).err(), Some(EPERM));
        guest.release(file.id, handle).unwrap();
        // Another name.
        guest.link(file.id, git, "other").unwrap();
        assert_eq!(guest.rename((git, "config.lock"), (git, "config"), 0).err(), Some(EPERM));
        guest.unlink(git, "other").unwrap();
        guest.rename((git, "config.lock"), (git, "config"), 0).unwrap();
        assert!(guest.open(file.id, O_WRONLY).is_err());
        // Too long to be looked at.
        put(&mut guest, git, "config.lock", &"#".repeat(70_000)).unwrap();
        assert_eq!(guest.rename((git, "config.lock"), (git, "config"), 0).err(), Some(EPERM));
        // Not a file.
        guest.symlink(git, "link", "config.lock").unwrap();
        assert_eq!(guest.rename((git, "link"), (git, "config"), 0).err(), Some(EPERM));
        assert_eq!(guest.mkdir(git, "config", 0o755).err(), Some(EPERM));
        assert_eq!(fs::read(host.path("work/.git/config")).unwrap(), inert);
    });
}

fn a_file_without_a_place_is_not_written() {
    for_each_user(|host| {
        let mut guest = host.guest(vec![guarded(host, &[])]);
        let root = at(&mut guest, "");
        let directory = guest.mkdir(root, "d", 0o755).unwrap().id;
        put(&mut guest, root, "a", "[core]\n").unwrap();
        let file = at(&mut guest, "a");
        guest.link(file, directory, "config").unwrap();
        // Its place is `a` again, and then nowhere that the daemon knows.
        assert_eq!(at(&mut guest, "a"), file);
        guest.unlink(root, "a").unwrap();
        put(&mut guest, directory, "HEAD", "x").unwrap();
        assert_eq!(guest.open(file, O_WRONLY).err(), Some(ESTALE));
        assert_eq!(guest.setattr(file, SIZE, 0, 0, 0).err(), Some(ESTALE));
        assert_eq!(at(&mut guest, "d/config"), file);
        assert_eq!(guest.open(file, O_WRONLY).err(), Some(EPERM));
        // What is really gone is nobody's any more.
        put(&mut guest, root, "b", "").unwrap();
        let gone = at(&mut guest, "b");
        let (handle, _) = guest.open(gone, O_RDWR).unwrap();
        guest.unlink(root, "b").unwrap();
        guest.setattr(gone, SIZE, 0, 0, 0).unwrap();
        guest.release(gone, handle).unwrap();
    });
}

fn what_was_not_there_is_not_made() {
    for_each_user(|host| {
        host.file("work/.husky/pre-commit", "");
        let mut guest = host.guest(vec![guarded(host, &[".envrc", ".husky/_", "missing/deep/file"])]);
        let (root, husky) = (at(&mut guest, ""), at(&mut guest, ".husky"));
        put(&mut guest, root, "plain", "x").unwrap();
        let plain = at(&mut guest, "plain");
        for (directory, name) in [(root, ".envrc"), (husky, "_"), (root, "missing")] {
            assert_eq!(guest.create(directory, name, O_WRONLY, 0o644).err(), Some(EPERM), "{name}");
            assert_eq!(guest.mkdir(directory, name, 0o755).err(), Some(EPERM), "{name}");
            assert_eq!(guest.symlink(directory, name, "plain").err(), Some(EPERM), "{name}");
            assert_eq!(guest.rename((root, "plain"), (directory, name), 0).err(), Some(EBUSY), "{name}");
            assert_eq!(guest.link(plain, directory, name).err(), Some(EPERM), "{name}");
        }
        assert!(guest.rename((root, ".husky"), (root, "moved"), 0).is_err(), "it is pinned");
        // The same names elsewhere are free.
        put(&mut guest, husky, ".envrc", "x").unwrap();
        put(&mut guest, root, "_", "x").unwrap();
    });
}

fn what_the_host_replaces_stays_protected() {
    for_each_user(|host| {
        host.file("work/.envrc", "1");
        host.file("work/.githooks/pre-commit", "1");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[".envrc", ".githooks"])]);
        let root = guest.walk("0").unwrap().id;
        // As editors save, and as git checks out; with that the mounts are gone.
        host.file("work/new", "2");
        fs::rename(host.path("work/new"), host.path("work/.envrc")).unwrap();
        fs::rename(host.path("work/.githooks"), host.path("old")).unwrap();
        host.file("work/.githooks/pre-commit", "2");
        let (envrc, hook) = (guest.walk("0/.envrc").unwrap().id, guest.walk("0/.githooks/pre-commit").unwrap().id);
        let hooks = guest.walk("0/.githooks").unwrap().id;
        for file in [envrc, hook] {
            assert_eq!(guest.open(file, O_RDWR).err(), Some(EROFS));
            assert_eq!(guest.setattr(file, SIZE, 0, 0, 0).err(), Some(EROFS));
            assert!(guest.link(file, root, "other").is_err());
        }
        assert_eq!(put(&mut guest, hooks, "post-commit", "").err(), Some(EROFS));
        for name in [".envrc", ".githooks"] {
            assert!(guest.rename((root, name), (root, "moved"), 0).is_err(), "{name}");
            assert!(guest.unlink(root, name).is_err() && guest.rmdir(root, name).is_err(), "{name}");
        }
        put(&mut guest, root, "plain", "x").unwrap();
        assert!(guest.rename((root, "plain"), (root, ".envrc"), 0).is_err());
        assert_eq!(fs::read_to_string(host.path("work/.envrc")).unwrap(), "2");
    });
}

fn repositories_are_nothing_special_without_a_guard() {
    for_each_user(|host| {
        host.file("work/.git/HEAD", "");
        host.file("work/.git/config", "");
        let mut guest = host.guest(vec![host.share("0", "work", false, &[])]);
        let config = guest.walk("0/.git/config").unwrap().id;
        assert!(guest.open(config, O_RDWR).is_ok());
        let git = guest.walk("0/.git").unwrap().id;
        put(&mut guest, git, "commondir", "x").unwrap();
    });
}
