//! Really builds layers of npm, pip and cargo packages over the default root, as whoever runs it. The root and
//! what is built lie in the cache directory that `VIV_TEST_CACHE` names, or one that is thrown away. What is
//! installed comes from registries of the test's own on loopback; `cargo` and what belongs to it from the host's
//! Debian mirror.
//!
//! Settings are the host's environment, so each build is a process of its own: this program, as `one_build`.

mod languages;

use std::path::Path;

use languages::registry::{Crate, NpmPackage, Registry};
use languages::{Build, can_build, extract};

/// What a stranger's script would look for: other networks than `lo`, the registry, the user's settings, files of
/// the host, credentials wherever they could be.
fn prying(registry: &str, host_file: &Path) -> String {
    format!(
        r#"echo "network: $(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \n')"
curl --silent --output /dev/null {registry}; echo "registry: curl says $?"
echo "settings: $(ls -A /viv-build/files | tr '\n' ' ')"
echo "homes: $(ls -A /home ~ | grep -v : | tr -d '\n')"
echo "host file: $([ -e {} ] && echo seen || echo unseen)"
echo "credentials: $(grep -rlasE 'secret[-]of' /viv-build /tmp /etc /proc/[0-9]*/environ | tr '\n' ' ')"
"#,
        host_file.display()
    )
}

#[test]
fn one_build() {
    languages::build_if_asked();
}

#[test]
fn npm_packages_and_their_scripts() {
    if !can_build() {
        return;
    }
    let secret = tempfile::NamedTempFile::new().unwrap();
    let curious = format!("1.2.{}", languages::unique());
    let mut registry = Registry::new();
    let prying = prying(&registry.url("npm/tool"), secret.path());
    registry.npm(&NpmPackage { name: "tool", version: "1.0.0", program: Some("tool"), ..NpmPackage::default() });
    registry.npm(&NpmPackage { name: "tool", version: "2.0.0", program: Some("tool"), ..NpmPackage::default() });
    registry.npm(&NpmPackage {
        name: "@own/curious",
        version: &curious,
        postinstall: Some("sh pry.sh > found.txt"),
        file: Some(("pry.sh", &prying)),
        ..NpmPackage::default()
    });
    registry.npm(&NpmPackage {
        name: "broken",
        version: "1.0.0",
        postinstall: Some("echo nothing works; exit 3"),
        ..NpmPackage::default()
    });
    registry.npm(&NpmPackage { name: "tolerant", version: "1.0.0", optional: Some("broken"), ..NpmPackage::default() });
    let registry = registry.serve();
    let build = Build::new()
        .variable("npm_config_registry", &registry.url("npm/"))
        .user_file(".npmrc", &format!("//{}/npm/:_authToken=${{TOKEN}}\n", registry.authority()))
        .variable("TOKEN", "secret-of-npm");

    let curious = format!("npm:@own/curious@{curious}");
    let layers = build.packages(&["npm:tool@1.0.0", &curious, "npm:tolerant"]).unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0].packages, [&curious, "npm:tolerant@1.0.0", "npm:tool@1.0.0"]);
    assert!(registry.requests().iter().any(|request| request.authorization.as_deref() == Some("Bearer secret-of-npm")));

    let root = extract(&layers[0].path);
    let modules = root.path().join("usr/local/lib/node_modules");
    assert!(modules.join("tool/package.json").exists());
    assert_eq!(
        std::fs::read_link(root.path().join("usr/local/bin/tool")).unwrap(),
        Path::new("../lib/node_modules/tool/cli.js")
    );
    let found = std::fs::read_to_string(modules.join("@own/curious/found.txt")).unwrap();
    insta::assert_snapshot!("what_a_script_of_npm_finds", found);
    assert_eq!(names(root.path()), ["usr"], "{:?}", names(root.path()));

    // Nothing is left of what failed, and nothing of it is known.
    let error = build.packages(&["npm:broken"]).unwrap_err();
    assert_eq!(error.kind, "build");
    assert!(error.causes.iter().any(|cause| cause.contains("nothing works")), "{error:?}");
    let again = registry.requests().len();
    assert_eq!(build.packages(&["npm:broken"]).unwrap_err().kind, "build");
    assert!(registry.requests().len() > again, "it is tried again");
    assert!(!build.knows("npm:broken") && build.knows("npm:tolerant"));

    let error = build.packages(&["npm:tool@3"]).unwrap_err();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("no_such_package", "there is no version 3 of npm:tool"));
    assert_eq!(error.hints, ["there are: 2.0.0, 1.0.0"]);
    let error = build.packages(&["npm:tol"]).unwrap_err();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("no_such_package", "there is no package npm:tol"));
    assert_eq!(error.hints, ["the nearest names: npm:tool"]);
}

#[test]
fn python_packages() {
    if !can_build() {
        return;
    }
    let hello = format!("1.{}", languages::unique());
    let mut registry = Registry::new();
    registry.wheel("hello_viv", "1.0", &["other-viv>=2"]);
    registry.wheel("hello_viv", &hello, &["other-viv>=2"]);
    registry.wheel("other_viv", "2.5", &[]);
    registry.wheel("third_viv", "3.0", &["other-viv"]);
    registry.source_only("sdist_viv", "1.0");
    let registry = registry.serve();
    let build = Build::new().user_file(
        ".config/pip/pip.conf",
        &format!("[global]\nindex-url = {}\nrequire-virtualenv = true\n", registry.url("simple/")),
    );

    // Whichever way it is written, it is one name to pip.
    let asked = format!("pip:Hello.Viv@{hello}");
    let layers = build.packages(&[&asked]).unwrap();
    assert_eq!((layers.len(), layers[0].packages.as_slice()), (1, &[asked.clone()][..]));
    let root = extract(&layers[0].path);
    assert!(root.path().join("usr/local/lib/python3.13/dist-packages/other_viv/__init__.py").exists());
    assert!(root.path().join("usr/local/bin/hello_viv").exists());
    assert_eq!(names(root.path()), ["usr"]);

    // What the layer below has is taken as it is.
    let both = build.packages(&[&asked, "pip:third-viv"]).unwrap();
    assert_eq!((both.len(), &both[0].path), (2, &layers[0].path));
    assert_eq!(both[1].packages, ["pip:third-viv@3.0"]);
    let root = extract(&both[1].path);
    let of_third = names(&root.path().join("usr/local/lib/python3.13/dist-packages"));
    assert_eq!(of_third, ["third_viv", "third_viv-3.0.dist-info"]);

    let error = build.packages(&["pip:hello-viv@9"]).unwrap_err();
    assert_eq!((error.kind.as_str(), error.hints), ("no_such_package", vec![format!("there are: {hello}, 1.0")]));
    let error = build.packages(&["pip:unknown-viv"]).unwrap_err();
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("no_such_package", "there is no package pip:unknown-viv")
    );
    let error = build.packages(&["pip:sdist-viv"]).unwrap_err();
    assert_eq!(error.kind, "build");
    assert!(error.message.starts_with("pip:sdist-viv has no wheel for the image's Python"), "{error:?}");
    assert!(!error.hints.is_empty());
}

#[test]
fn programs_of_crates() {
    if !can_build() {
        return;
    }
    let secret = tempfile::NamedTempFile::new().unwrap();
    let mut registry = Registry::new();
    let prying = prying(&registry.url("index/config.json"), secret.path());
    let hello = format!("0.1.{}", languages::unique());
    registry.cargo(&Crate {
        name: "hello-viv",
        version: &hello,
        needs: Some("greeting-viv"),
        main: Some("fn main() { print!(\"{} {}\", greeting_viv::WORD, env!(\"FOUND\").replace(\"; \", \"\\n\")) }"),
        build: Some(&prying),
        ..Crate::default()
    });
    registry.cargo(&Crate { name: "greeting-viv", version: "1.0.0", ..Crate::default() });
    registry.cargo(&Crate {
        name: "future-viv",
        version: "3.0.0",
        main: Some("fn main() {}"),
        rust: Some("1.999"),
        ..Crate::default()
    });
    registry.cargo(&Crate { name: "future-viv", version: "2.0.0", main: Some("fn main() {}"), ..Crate::default() });
    let registry = registry.serve();
    let build = Build::new().variable("CARGO_REGISTRIES_OWN_TOKEN", "secret-of-cargo").user_file(
        ".cargo/config.toml",
        &format!(
            "[source.crates-io]\nreplace-with = 'own'\n[source.own]\nregistry = 'sparse+{}'\n",
            registry.url("index/")
        ),
    );

    let asked = format!("cargo:hello-viv@{hello}");
    let layers = build.packages(&[&asked]).unwrap();
    assert_eq!(layers.len(), 1, "the tools are no part of it");
    assert_eq!(layers[0].packages, [asked]);
    let root = extract(&layers[0].path);
    assert_eq!(names(&root.path().join("usr/local")), ["bin"]);
    assert_eq!(names(&root.path().join("usr/local/bin")), ["hello-viv"]);
    let said = std::process::Command::new(root.path().join("usr/local/bin/hello-viv")).output().unwrap();
    insta::assert_snapshot!("what_a_build_script_finds", String::from_utf8_lossy(&said.stdout));

    let error = build.packages(&["cargo:future-viv"]).unwrap_err();
    assert_eq!(error.kind, "build");
    assert!(
        error.message.starts_with("cargo:future-viv 3.0.0 cannot be built here: it requires rustc 1.999"),
        "{error:?}"
    );
    assert!(error.hints[0].starts_with("cargo:future-viv@2.0.0 is older"), "{error:?}");
    let error = build.packages(&["cargo:greeting-viv"]).unwrap_err();
    assert_eq!(error.message, "cargo:greeting-viv is a library: it has no programs to install");
    let error = build.packages(&["cargo:hello-viv@9.0.0"]).unwrap_err();
    assert_eq!((error.kind.as_str(), error.hints), ("no_such_package", vec![format!("there are: {hello}")]));
    let error = build.packages(&["cargo:hallo-viv"]).unwrap_err();
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("no_such_package", "there is no package cargo:hallo-viv")
    );
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
