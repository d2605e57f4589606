//! The host's nix, really run: on packages of the test's own, which take no builder, no binary cache and no network,
//! in a store below a temporary directory, so that neither root nor `/nix` is needed.
//!
//! nix is configured by environment variables, which a test cannot change for itself: each test runs itself again, in
//! a process of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use viv_image::nix::{NixEnvironment, Request, Roots, resolve};
use viv_image::{ErrorKind, NoProgress, Progress, ProgressEvent, Result};

/// The directory of the test that was started again.
const DIRECTORY: &str = "VIV_TEST_NIX_DIRECTORY";

const PACKAGES: &str = r#"{ }: let
  tree = name: path: derivation {
    inherit name;
    system = "x86_64-linux";
    builder = "builtin:buildenv";
    derivations = [ "true" 5 1 path ];
    manifest = "/dummy";
  };
in {
  hello = tree "hello-1.0" ./hello;
  nested = { hello = tree "hello-2.0" ./hello; help = tree "help" ./hello; };
  broken = derivation { name = "broken"; system = "x86_64-linux"; builder = "builtin:no-such-builder"; };
}
"#;

/// Runs `test` in a process whose nix has the packages above; with the flags that make them flakes' as well, or
/// without any package set.
fn with_nix(name: &str, nix_path: Option<&str>, test: impl FnOnce(&Path)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return test(Path::new(&directory));
    }
    if Command::new("nix-build").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "nix is not installed: apt install nix-bin");
        eprintln!("SKIPPED: nix is not installed: apt install nix-bin");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |relative: &str| directory.path().join(relative);
    fs::create_dir_all(path("packages/hello/bin")).unwrap();
    fs::write(path("packages/default.nix"), PACKAGES).unwrap();
    fs::write(path("packages/hello/bin/hello"), "#!/bin/sh\n").unwrap();
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DIRECTORY, directory.path())
        .env("HOME", path("home"))
        .env("NIX_REMOTE", path("store"))
        .env("NIX_PATH", nix_path.map_or(format!("nixpkgs={}", path("packages").display()), str::to_owned))
        .env("NIX_CONFIG", "substituters =\nbuild-users-group =\nflake-registry =\nconnect-timeout = 1")
        .env_remove("XDG_DATA_HOME")
        .status()
        .unwrap();
    assert!(again.success());
}

fn ask(directory: &Path, attributes: &[&str], roots: &Roots) -> Result<NixEnvironment> {
    let attributes = attributes.iter().map(|attribute| (*attribute).to_owned()).collect();
    let environment = resolve(&Request { attributes, ..Request::default() }, roots, &NoProgress);
    assert!(directory.join("store").exists(), "the store is where the test has it");
    environment
}

#[test]
fn packages_are_provided_with_their_closure_and_kept() {
    with_nix("packages_are_provided_with_their_closure_and_kept", None, |directory| {
        let state = directory.join("state");
        let roots = Roots::create(&state, "0123abcd").unwrap();
        let environment = ask(directory, &["hello", "nested.hello"], &roots).unwrap();
        assert_eq!(environment.store, directory.join("store/nix/store"));
        assert_eq!(environment.names.len(), 3, "two packages of one source: {:?}", environment.names);
        assert_eq!(environment.path.len(), 2);
        assert_eq!(environment.shell, None);
        let registration = fs::read_to_string(environment.notes().join("registration")).unwrap();
        assert!(environment.names.iter().all(|name| registration.contains(name.as_str())), "{registration}");

        let collect = || {
            assert!(Command::new("nix-store").arg("--gc").stdout(Stdio::null()).status().unwrap().success());
            environment.names.iter().filter(|name| environment.store.join(name).exists()).count()
        };
        assert_eq!(collect(), 3);
        drop(roots);
        assert_eq!(collect(), 0, "nobody uses them any more");
    });
}

#[test]
fn whoever_waits_is_told_once_there_is_something_to_wait_for() {
    #[derive(Default)]
    struct Kept(Mutex<Vec<ProgressEvent>>);
    impl Progress for Kept {
        fn event(&self, event: ProgressEvent) {
            self.0.lock().unwrap().push(event);
        }
    }
    with_nix("whoever_waits_is_told_once_there_is_something_to_wait_for", None, |directory| {
        let events = |id: &str| {
            let kept = Kept::default();
            let roots = Roots::create(&directory.join("state"), id).unwrap();
            let request = Request { attributes: vec!["hello".to_owned()], ..Request::default() };
            resolve(&request, &roots, &kept).unwrap();
            kept.0.into_inner().unwrap()
        };
        let first = events("first");
        assert_eq!(first.first(), Some(&ProgressEvent::Started { what: "nix:hello".to_owned() }));
        assert_eq!(first.last(), Some(&ProgressEvent::Finished));
        assert_eq!(events("second"), [], "it is there");
    });
}

#[test]
fn what_is_not_there_is_refused_with_what_is_near() {
    with_nix("what_is_not_there_is_refused_with_what_is_near", None, |directory| {
        let roots = Roots::create(&directory.join("state"), "0123abcd").unwrap();
        let error = ask(directory, &["hello", "hallo"], &roots).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::NoSuchPackage, "{error:?}");
        assert_eq!(error.hints(), ["did you mean nix:hello?"]);
        let error = ask(directory, &["nested.helo"], &roots).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::NoSuchPackage, "{error:?}");
        assert_eq!(error.hints(), ["did you mean nix:nested.hello or nix:nested.help?"]);
        let error = ask(directory, &["broken"], &roots).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Build, "{error:?}");
    });
}

#[test]
fn without_a_package_set_that_is_said() {
    with_nix("without_a_package_set_that_is_said", Some(""), |directory| {
        let roots = Roots::create(&directory.join("state"), "0123abcd").unwrap();
        let error = ask(directory, &["hello"], &roots).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Build, "{error:?}");
        assert!(error.hints().iter().any(|hint| hint.contains("NIX_PATH=nixpkgs=")), "{error:?}");
    });
}
