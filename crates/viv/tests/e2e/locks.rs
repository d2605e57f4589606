//! `viv.lock`: what a project had is what it gets.

use std::process::Command;

use serde_json::Value;

use crate::layers::{Scope, layers};
use crate::registry::{NpmPackage, Registry};
use crate::support::Host;

/// Has the registry offer these versions of `tool`, and one of `other`.
fn offer(scope: &Scope, versions: &[&str]) {
    let mut registry = Registry::new();
    let [tool, other] = ["tool", "other"].map(|name| scope.name(name));
    for version in versions {
        registry.npm(&NpmPackage { name: &tool, version, ..NpmPackage::default() });
    }
    registry.npm(&NpmPackage { name: &other, version: "1.0.0", ..NpmPackage::default() });
    scope.serve(registry);
}

#[test]
fn locked_versions_stay_until_they_are_updated() {
    let Some(scope) = Scope::new() else { return };
    let host = &scope.host;
    let [tool, other] = ["tool", "other"].map(|name| scope.package(name));
    offer(&scope, &["1.0.0"]);
    host.write("viv.toml", format!("[image]\npackages = [\"{tool}\"]\n"));
    let locked = host.run(&["image", "lock", "--json"]);
    assert_eq!(locked.code, 0, "{locked:?}");
    let locked: Value = serde_json::from_str(&locked.stdout).unwrap();
    assert_eq!(locked["packages"], serde_json::json!([{ "package": tool, "version": "1.0.0" }]));
    let lock = || std::fs::read_to_string(host.project().join("viv.lock")).unwrap();
    let before = lock();
    assert!(before.contains("version = \"1.0.0\""), "{before}");

    // There is a newer one, and this is not about it.
    offer(&scope, &["1.0.0", "2.0.0"]);
    let had = || layers(&host.run(&["image", "build", "--json"]))[0]["packages"].clone();
    assert_eq!(had(), serde_json::json!([format!("{tool}@1.0.0")]));
    let shown = host.run(&["run", "--dry-run", "--", "true"]);
    assert!(shown.code == 0 && shown.stdout.contains(&format!("{tool}@1.0.0")), "{shown:?}");
    assert_eq!((host.run(&["image", "lock"]).code, lock()), (0, before.clone()), "what is locked stays");

    let updated = host.run(&["image", "update", &tool]);
    assert_eq!(updated.code, 0, "{updated:?}");
    assert!(lock().contains("version = \"2.0.0\"") && !lock().contains("1.0.0"), "{}", lock());
    assert_eq!(had(), serde_json::json!([format!("{tool}@2.0.0")]));

    // A version that nobody has any more is refused with what it was.
    host.write("viv.lock", lock().replace("2.0.0", "3.0.0"));
    let gone = host.run(&["run", "--verbose", "-p", &other, "--", "true"]);
    assert!(gone.code == 125 && gone.stderr.contains(&format!("there is no version 3.0.0 of {tool}")), "{gone:?}");
    assert!(gone.stderr.contains("2.0.0, 1.0.0"), "{gone:?}");
    for said in [format!("{other} is not in viv.lock"), format!("viv.lock has {tool}")] {
        assert!(gone.stderr.contains(&said), "{said}: {gone:?}");
    }
    for garbage in ["[", "version = 2\n", "version = 1\n[[package]]\n", "\u{0}"] {
        host.write("viv.lock", garbage);
        let refused = host.run(&["run", "--json", "--", "true"]);
        assert!(refused.code == 125 && refused.stderr.contains("bad_lock"), "{garbage}: {refused:?}");
    }
    host.assert_nothing_is_left();
}

#[test]
fn a_locked_file_that_changes_is_refused() {
    let Some(host) = Host::ordinary() else { return };
    let tree = host.path("tree");
    std::fs::create_dir(&tree).unwrap();
    let pack = |text: &str| {
        std::fs::write(tree.join("file"), text).unwrap();
        let image = host.write("tools.erofs", "");
        let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&tree).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    pack("one");
    host.write("viv.toml", "[image]\nfrom = \"erofs:tools.erofs\"\n");
    let locked = host.run(&["image", "lock"]);
    assert_eq!(locked.code, 0, "{locked:?}");
    assert_eq!(host.run(&["image", "build"]).code, 0);
    pack("two");
    for command in [&["run", "--json", "--", "true"][..], &["image", "build", "--json"], &["image", "lock", "--json"]] {
        let refused = host.run(command);
        assert!(refused.code == 125 && refused.stderr.contains("bad_lock"), "{refused:?}");
        assert!(refused.stderr.contains("viv image update"), "{refused:?}");
    }
    assert_eq!(host.run(&["image", "update"]).code, 0);
    assert_eq!(host.run(&["image", "build"]).code, 0);
    host.assert_nothing_is_left();
}
