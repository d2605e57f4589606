//! Gathering from directories made for it. Programs are those of the test's own PATH, or shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

struct Place {
    root: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home").display().to_string();
        let system = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{system}", root.path().join("bin").display());
        let nowhere = root.path().join("xdg").display().to_string();
        let environment = [
            ("HOME".to_owned(), home),
            ("PATH".to_owned(), path),
            ("XDG_CONFIG_DIRS".to_owned(), nowhere),
            ("GIT_CONFIG_NOSYSTEM".to_owned(), "1".to_owned()),
        ];
        Self { root, environment: environment.into() }
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn program(&self, name: &str, script: &str) -> &Self {
        let path = format!("bin/{name}");
        self.write(&path, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(self.root.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn answer(&self, set: SetName) -> SetAnswer {
        let root = self.root.path();
        let clients = gather(&[set], &root.join("home/project"), &root.join("cache"), &self.environment);
        answer(set, &clients).unwrap()
    }

    fn rules(&self, set: SetName) -> Vec<String> {
        self.answer(set).rules.into_iter().map(|rule| rule.text().to_owned()).collect()
    }
}

#[test]
fn npm_is_asked_once_and_without_the_projects_configuration() {
    let place = Place::new();
    place
        .program("npm", "echo \"$3\" >> ${0%/*}/../asked\ncase $3 in registry) pwd | sed 's|^/$|https://npm.example/|' ;; *) echo /nonexistent ;; esac")
        .write("home/project/.npmrc", "registry=https://evil.example/\n");
    assert_eq!(place.rules(SetName::Npm), ["npm.example:443"]);
    assert_eq!(place.answer(SetName::Npm).warnings.len(), 1);
    assert_eq!(fs::read_to_string(place.root.path().join("asked")).unwrap(), "globalconfig\nregistry\n");
    place.write("home/.npmrc", "registry=https://mirror.example/\n");
    assert_eq!(place.rules(SetName::Npm), ["mirror.example:443"]);
}

#[test]
fn cargo_names_its_index_and_knows_where_crates_are() {
    let place = Place::new();
    place
        .program(
            "cargo",
            "echo \"error: failed to download from \\`https://index.example/config.json\\`\" >&2; exit 101",
        )
        .write(
            "home/.cargo/registry/index/index.example-0123456789abcdef/config.json",
            r#"{"dl":"https://dl.example/a"}"#,
        )
        .write(
            "home/.cargo/registry/index/other.example-0123456789abcdef/config.json",
            r#"{"dl":"https://x.example/a"}"#,
        )
        .write("home/project/.cargo/config.toml", "[source.crates-io]\nreplace-with = \"x\"\n");
    assert_eq!(place.rules(SetName::Cargo), ["index.example:443", "dl.example:443"]);
    place.write(
        "home/.cargo/config.toml",
        "[source.crates-io]\nreplace-with = \"m\"\n[source.m]\nregistry = \"sparse+https://other.example/\"\n",
    );
    assert_eq!(place.rules(SetName::Cargo), ["other.example:443", "x.example:443"]);
}

#[test]
fn the_repositorys_configuration_is_only_read() {
    let place = Place::new();
    place
        .write("secret", "[remote \"s\"]\n\turl = https://included.example/x\n")
        .write("home/.gitconfig", "[url \"https://mirror.example/\"]\n\tinsteadOf = https://hub.example/\n")
        .write("home/project/.git/HEAD", "ref: refs/heads/main\n");
    let included = place.root.path().join("secret").display().to_string();
    let touched = place.root.path().join("touched").display().to_string();
    place.write(
        "home/project/.git/config",
        &format!(
            "[include]\n\tpath = {included}\n[core]\n\tfsmonitor = touch {touched}\n\tpager = touch {touched}\n\
             [alias]\n\tconfig = !touch {touched}\n[remote \"origin\"]\n\turl = https://hub.example/x\n"
        ),
    );
    assert_eq!(place.rules(SetName::Git), ["mirror.example:443"]);
    assert!(!place.root.path().join("touched").exists());
}

#[test]
fn a_worktree_has_the_remotes_of_its_repository() {
    let place = Place::new();
    place
        .write("home/repository/.git/config", "[remote \"origin\"]\n\turl = git@hub.example:x\n")
        .write("home/repository/.git/worktrees/project/commondir", "../..\n")
        .write("home/project/.git", "gitdir: ../repository/.git/worktrees/project\n");
    assert_eq!(place.rules(SetName::Git), ["hub.example:22"]);
}

#[test]
fn files_of_pip_and_uv_in_their_places() {
    let place = Place::new();
    place
        .program("python3", "exit 1")
        .write("xdg/pip/pip.conf", "[global]\nindex-url = https://system.example/\n")
        .write("home/.config/pip/pip.conf", "[global]\nextra-index-url = https://user.example/\n")
        .write("xdg/uv/uv.toml", "index-url = \"https://uv.example/\"\n");
    let rules = place.rules(SetName::Pip);
    assert_eq!(rules, ["system.example:443", "user.example:443", "uv.example:443"]);
}

#[test]
fn apt_says_what_it_uses() {
    let place = Place::new();
    place
        .program("apt-get", "echo http://deb.example/debian; echo http://deb.example/debian; echo cdrom:x")
        .program("apt-config", "echo 'Acquire::http::Proxy \"http://me:canary@proxy.example:3142/\";'");
    for _ in 0..2 {
        let answer = place.answer(SetName::Apt);
        let rules: Vec<&str> = answer.rules.iter().map(|rule| rule.text()).collect();
        assert_eq!(rules, ["deb.example:80", "proxy.example:3142"]);
        assert_eq!(answer.warnings.len(), 2, "a login and a proxy");
    }
    let kept = fs::read_dir(place.root.path().join("cache/clients")).unwrap();
    let kept: Vec<String> = kept.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    assert_eq!(kept.len(), 2);
    assert!(!kept.concat().contains("canary"));
}
