use super::super::facts::*;
use super::*;

fn ready() -> Facts {
    Facts {
        root: false,
        user: "ann".into(),
        kvm: Kvm::Works,
        qemu: Qemu::Found { path: "/usr/bin/qemu-system-x86_64".into(), version: (10, 0) },
        namespaces: Namespaces {
            attempt: Ok(()),
            maximum: Some(60_000),
            unprivileged_clone: None,
            apparmor_restricts: false,
            apparmor_profile: false,
            executable: "/usr/local/bin/viv".into(),
        },
        subordinate: Subordinate { uids: 65536, gids: 65536, next_free: 165_536, tools: true },
        disks: vec![Disk { what: "images", path: "/home/ann/.cache/viv".into(), free: 50 << 30, needed: 3 << 30 }],
        memory: Some(Memory { total: 16 << 30, available: 12 << 30 }),
        missing_tools: vec![],
        kernel_built: true,
        image_built: true,
        templates: Templates { count: 2, disk: 190 << 20 },
        vsock: false,
        missing_network_tools: vec![],
        apt: true,
        backports: None,
    }
}

#[test]
fn a_machine_that_is_ready() {
    let checks = judge(&ready());
    assert!(checks.iter().all(|check| check.status == Status::Ok && check.fix.is_none()), "{checks:#?}");
    insta::assert_json_snapshot!(checks);
}

#[test]
fn a_machine_that_lacks_everything() {
    let facts = Facts {
        kvm: Kvm::Denied { group: Some("kvm".into()), login_pending: false },
        qemu: Qemu::Missing,
        namespaces: Namespaces {
            attempt: Err("private mounts: Permission denied".into()),
            apparmor_restricts: true,
            ..ready().namespaces
        },
        subordinate: Subordinate { uids: 0, gids: 0, next_free: 165_536, tools: false },
        disks: vec![Disk { what: "images", path: "/c".into(), free: 1 << 30, needed: 3 << 30 }],
        memory: Some(Memory { total: 2 << 30, available: 1 << 30 }),
        missing_tools: vec![
            Tool { program: "mmdebstrap".into(), package: "mmdebstrap".into(), needed_for: "build the image".into() },
            Tool { program: "mkfs.erofs".into(), package: "erofs-utils".into(), needed_for: "build the image".into() },
        ],
        kernel_built: false,
        image_built: false,
        missing_network_tools: vec!["passt", "nft"],
        ..ready()
    };
    insta::assert_json_snapshot!(judge(&facts));
}

fn only(facts: &Facts, name: &str) -> Check {
    judge(facts).into_iter().find(|check| check.name == name).expect("the check exists")
}

#[test]
fn an_old_debian_gets_its_qemu_from_its_own_mirrors_backports() {
    let backports = |enabled| {
        Some(Backports { suite: "bookworm-backports".into(), mirror: "http://mirror/debian/".into(), enabled })
    };
    let old = Qemu::Found { path: "/usr/bin/qemu-system-x86_64".into(), version: (7, 2) };
    let fresh = only(&Facts { qemu: old.clone(), backports: backports(false), ..ready() }, "qemu");
    let known = only(&Facts { qemu: old, backports: backports(true), ..ready() }, "qemu");
    assert_eq!(known.status, Status::Fail);
    insta::assert_json_snapshot!([fresh, known]);
}

#[test]
fn each_way_kvm_can_be_missing_has_its_own_remedy() {
    let checks: Vec<Check> = [
        Kvm::Missing { cpu_capable: true },
        Kvm::Missing { cpu_capable: false },
        Kvm::Denied { group: Some("kvm".into()), login_pending: true },
        Kvm::Denied { group: None, login_pending: false },
        Kvm::Broken { reason: "/dev/kvm cannot be used: Operation not permitted".into() },
    ]
    .into_iter()
    .map(|kvm| only(&Facts { kvm, ..ready() }, "kvm"))
    .collect();
    assert!(checks.iter().all(|check| check.status == Status::Warn), "emulation always remains");
    insta::assert_json_snapshot!(checks);
}

#[test]
fn each_way_namespaces_can_be_forbidden_has_its_own_remedy() {
    let failed = Namespaces { attempt: Err("unshare: denied".into()), ..ready().namespaces };
    let checks: Vec<Check> = [
        Namespaces { maximum: Some(0), ..failed.clone() },
        Namespaces { unprivileged_clone: Some(false), ..failed.clone() },
        Namespaces { apparmor_restricts: true, ..failed.clone() },
        failed,
    ]
    .into_iter()
    .map(|namespaces| only(&Facts { namespaces, ..ready() }, "namespaces"))
    .collect();
    assert!(checks.iter().all(|check| check.status == Status::Fail));
    insta::assert_json_snapshot!(checks);
    let root = Namespaces { apparmor_restricts: true, ..ready().namespaces };
    let check = only(&Facts { root: true, namespaces: root, ..ready() }, "namespaces");
    assert_eq!(check.status, Status::Warn);
}

#[test]
fn without_apt_nothing_is_run_but_it_is_said_what_to_install() {
    let tool = Tool { program: "mkfs.erofs".into(), package: "erofs-utils".into(), needed_for: "the image".into() };
    let facts = Facts { apt: false, qemu: Qemu::Missing, missing_tools: vec![tool], ..ready() };
    for name in ["qemu", "image tools"] {
        let fix = only(&facts, name).fix.expect("there is a remedy");
        assert!(fix.steps.is_empty() && fix.note.is_some_and(|note| note.starts_with("install ")));
    }
}

#[test]
fn root_needs_no_subordinate_ids() {
    assert!(!judge(&Facts { root: true, ..ready() }).iter().any(|check| check.name == "subuid"));
}
