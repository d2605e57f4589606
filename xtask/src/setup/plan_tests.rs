//! What would be done on every machine that set-up knows, written out.

use insta::assert_snapshot;

use super::*;

const EVERYTHING: &[&str] = &[
    "gcc",
    "libc6-dev",
    "pkgconf",
    "libseccomp-dev",
    "libcap-ng-dev",
    "qemu-system-data",
    "mmdebstrap",
    "erofs-utils",
    "e2fsprogs",
    "uidmap",
];

fn fresh(distribution: &str, version: &str, codename: &str) -> Facts {
    Facts {
        distribution: distribution.into(),
        distribution_version: version.into(),
        codename: codename.into(),
        privilege: Privilege::Root,
        missing_packages: EVERYTHING.to_vec(),
        qemu: None,
        qemu_candidate: None,
        apt_sources: vec![Source {
            uris: vec!["http://mirror.example/debian".into()],
            suites: vec![codename.into(), format!("{codename}-updates")],
            components: vec!["main".into()],
            signed_by: Some("/usr/share/keyrings/example.gpg".into()),
        }],
        user: "root".into(),
        lacks_subordinate_ids: false,
        next_subordinate_id: 100_000,
        apparmor_in_the_way: false,
        target_directory: "/src/vivarium/target".into(),
        lacks_nextest: true,
    }
}

fn show(facts: &Facts) -> String {
    match plan(facts) {
        Ok(steps) if steps.is_empty() => "nothing".into(),
        Ok(steps) => steps.iter().map(|step| format!("{step}\n")).collect(),
        Err(refusal) => format!("refused: {refusal}"),
    }
}

#[test]
fn debian_12() {
    assert_snapshot!(show(&fresh("debian", "12", "bookworm")));
}

#[test]
fn debian_12_with_backports_configured_and_an_old_qemu() {
    let mut facts = fresh("debian", "12", "bookworm");
    facts.apt_sources[0].suites.push("bookworm-backports".into());
    facts.missing_packages = vec!["erofs-utils"];
    facts.qemu = Some(Version(7, 2));
    facts.qemu_candidate = Some(Version(7, 2));
    facts.lacks_nextest = false;
    assert_snapshot!(show(&facts));
}

#[test]
fn debian_12_with_a_newer_qemu_from_elsewhere_adds_no_source() {
    let mut facts = fresh("debian", "12", "bookworm");
    facts.qemu_candidate = Some(Version(9, 0));
    assert!(!show(&facts).contains("backports"));
}

#[test]
fn debian_12_without_a_source_to_copy() {
    let mut facts = fresh("debian", "12", "bookworm");
    facts.apt_sources.clear();
    assert_snapshot!(show(&facts));
}

#[test]
fn debian_13_as_a_user_with_sudo() {
    let facts = Facts {
        privilege: Privilege::Sudo,
        user: "me".into(),
        lacks_subordinate_ids: true,
        next_subordinate_id: 231_072,
        ..fresh("debian", "13", "trixie")
    };
    assert_snapshot!(show(&facts));
}

#[test]
fn ubuntu_24_04() {
    let mut facts = fresh("ubuntu", "24.04", "noble");
    facts.missing_packages.push("debian-archive-keyring");
    facts.apparmor_in_the_way = true;
    facts.privilege = Privilege::Sudo;
    facts.user = "ubuntu".into();
    assert_snapshot!(show(&facts));
}

#[test]
fn nothing_missing() {
    let facts = Facts {
        missing_packages: Vec::new(),
        qemu: Some(Version(10, 0)),
        lacks_nextest: false,
        privilege: Privilege::None,
        ..fresh("debian", "13", "trixie")
    };
    assert_eq!(show(&facts), "nothing");
    // Then it does not matter what the distribution is, either.
    assert_eq!(show(&Facts { distribution: "nixos".into(), ..facts }), "nothing");
}

#[test]
fn only_nextest_missing_needs_no_root() {
    let facts = Facts {
        missing_packages: Vec::new(),
        qemu: Some(Version(8, 2)),
        privilege: Privilege::None,
        ..fresh("debian", "13", "trixie")
    };
    assert_eq!(show(&facts), "cargo install cargo-nextest --locked\n");
}

#[test]
fn neither_root_nor_sudo() {
    let facts = Facts { privilege: Privilege::None, user: "me".into(), ..fresh("debian", "13", "trixie") };
    assert_snapshot!(show(&facts));
}

#[test]
fn another_distribution() {
    assert_snapshot!(show(&fresh("fedora", "43", "")));
}

#[test]
fn an_older_ubuntu() {
    assert!(show(&fresh("ubuntu", "22.04", "jammy")).starts_with("refused: set-up knows"));
}

#[test]
fn versions() {
    assert_eq!(Version::find_in("1:7.2+dfsg-7+deb12u15"), Some(Version(7, 2)));
    assert_eq!(Version::find_in("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)"), Some(Version(10, 0)));
    assert_eq!(Version::find_in("24.04"), Some(Version(24, 4)));
    assert_eq!(Version::find_in("12"), Some(Version(12, 0)));
    assert_eq!(Version::find_in("(none)"), None);
    assert!(Version(10, 0) > Version(8, 2));
}

#[test]
fn another_suite_is_taken_from_the_same_place_with_its_updates() {
    let source = |uri: &str, suite: &str| Source {
        uris: vec![uri.to_owned()],
        suites: vec![suite.to_owned()],
        components: vec!["main".to_owned()],
        signed_by: None,
    };
    let sources =
        [source("http://mirror.example/debian", "bookworm"), source("http://s.example/d", "bookworm-security")];
    let text = sources_of("bookworm", &sources, "trixie").unwrap();
    insta::assert_snapshot!(text, @"
    Types: deb
    URIs: http://mirror.example/debian
    Suites: trixie
    Components: main

    Types: deb
    URIs: http://s.example/d
    Suites: trixie-security
    Components: main
    ");
    assert_eq!(sources_of("noble", &sources, "trixie"), None);
}
