//! The rules of the house, as `docs/architecture.md` states them, checked on every test run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace a crate may depend on. One way only; what is not listed may not.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "viv",
        &[
            "viv-archive",
            "viv-audit",
            "viv-beneath",
            "viv-error",
            "viv-image",
            "viv-link",
            "viv-net",
            "viv-proto",
            "viv-sandbox",
            "viv-shares",
            "viv-testkit",
            "viv-vmm",
            "viv-workspace",
        ],
    ),
    (
        "viv-sandbox",
        &[
            "viv-archive",
            "viv-audit",
            "viv-beneath",
            "viv-error",
            "viv-image",
            "viv-link",
            "viv-net",
            "viv-proto",
            "viv-shares",
            "viv-vmm",
        ],
    ),
    ("viv-audit", &["viv-error"]),
    ("viv-vmm", &["viv-error", "viv-link", "viv-proto"]),
    ("viv-image", &["viv-error"]),
    ("viv-net", &["viv-error", "viv-proto", "viv-testkit"]),
    ("viv-shares", &["viv-error"]),
    ("viv-archive", &["viv-beneath", "viv-error", "viv-proto"]),
    ("viv-guest", &["viv-archive", "viv-error", "viv-link", "viv-proto"]),
    ("viv-workspace", &["viv-beneath", "viv-error"]),
    ("viv-link", &["viv-proto"]),
    ("viv-proto", &[]),
    ("viv-beneath", &[]),
    ("viv-error", &[]),
    ("viv-testkit", &[]),
    ("xtask", &[]),
];

/// Crates that draw, print or parse command lines: for binaries alone. Nor do libraries erase the
/// kind of an error, which is what `anyhow` is for.
const FOR_BINARIES: &[&str] = &[
    "anstream",
    "anyhow",
    "clap",
    "clap_complete",
    "clap_mangen",
    "console",
    "crossterm",
    "dialoguer",
    "env_logger",
    "indicatif",
    "owo-colors",
    "ratatui",
];

/// The binaries: `viv` renders, the guest speaks to its console, xtask is a tool.
const BINARIES: &[&str] = &["viv", "viv-guest", "xtask"];

/// What only tests may depend on.
const FOR_TESTS: &[&str] = &["viv-testkit"];

const LONGEST_FILE_LINES: usize = 600;

struct Package {
    name: String,
    directory: PathBuf,
    /// Name and kind (`normal`, `build` or `dev`) of each direct dependency.
    dependencies: Vec<(String, String)>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            directory: Path::new(&text(&package["manifest_path"]))
                .parent()
                .expect("a manifest is a file")
                .to_path_buf(),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(|dependency| {
                    (text(&dependency["name"]), dependency["kind"].as_str().unwrap_or("normal").to_owned())
                })
                .collect(),
        })
        .collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The lines of a file that are the library itself: no comments, nothing from the tests at its end.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file is text");
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().to_owned()))
        .collect()
}

fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

fn assert_none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

#[test]
fn dependencies_go_one_way() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut findings = Vec::new();
    for package in &packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            findings.push(format!("{} is not in the table of this test", package.name));
            continue;
        };
        for (dependency, kind) in &package.dependencies {
            let for_tests = FOR_TESTS.contains(&dependency.as_str()) && kind != "dev";
            if ours.contains(dependency.as_str()) && (for_tests || !allowed.contains(&dependency.as_str())) {
                findings.push(format!("{} -> {dependency} ({kind})", package.name));
            }
        }
    }
    assert_none("dependencies against the one way of docs/architecture.md", &findings);
}

/// The table itself has no cycle, and nothing in it depends on a binary.
#[test]
fn the_allowed_way_is_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    fn reaches(allowed: &BTreeMap<&str, &[&str]>, from: &str, to: &str) -> bool {
        allowed[from].iter().any(|next| *next == to || reaches(allowed, next, to))
    }
    for (name, dependencies) in &allowed {
        assert!(!reaches(&allowed, name, name), "{name} reaches itself");
        for dependency in *dependencies {
            assert!(!BINARIES.contains(dependency), "{name} -> {dependency}, which is a binary");
        }
    }
}

#[test]
fn libraries_do_not_depend_on_what_draws_or_prints() {
    let mut findings = Vec::new();
    for package in packages().iter().filter(|package| !BINARIES.contains(&package.name.as_str())) {
        for (dependency, kind) in &package.dependencies {
            if kind != "dev" && FOR_BINARIES.contains(&dependency.as_str()) {
                findings.push(format!("{} -> {dependency}", package.name));
            }
        }
    }
    assert_none("libraries return events and errors, viv renders them", &findings);
}

#[test]
fn libraries_print_nothing() {
    // Longer names first, or `println!` would be found in `eprintln!` and reported by halves.
    let printers = ["eprintln!", "eprint!", "println!", "print!", "dbg!"];
    let mut findings = Vec::new();
    for package in packages().iter().filter(|package| !BINARIES.contains(&package.name.as_str())) {
        for path in rust_files(&package.directory.join("src")).iter().filter(|path| !is_test_file(path)) {
            for (number, line) in code_lines(path) {
                if let Some(printer) = printers.iter().find(|printer| line.contains(*printer)) {
                    findings.push(format!("{}:{number}: {printer}", path.display()));
                }
            }
        }
    }
    assert_none("libraries print nothing", &findings);
}

#[test]
fn unsafe_lives_in_one_module_per_crate() {
    let mut findings = Vec::new();
    for package in packages() {
        let files: Vec<String> = rust_files(&package.directory.join("src"))
            .iter()
            .filter(|path| !is_test_file(path) && !path.components().any(|part| part.as_os_str() == "bin"))
            .filter(|path| {
                code_lines(path).iter().any(|(_, line)| {
                    let words: Vec<&str> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
                    words.contains(&"unsafe") && !line.contains('"')
                })
            })
            .map(|path| path.display().to_string())
            .collect();
        if files.len() > 1 {
            findings.push(format!("{}: {}", package.name, files.join(", ")));
        }
    }
    assert_none("more than one module with unsafe", &findings);
}

#[test]
fn files_stay_readable_in_one_sitting() {
    let mut findings = Vec::new();
    for package in packages() {
        for path in rust_files(&package.directory) {
            let lines = fs::read_to_string(&path).expect("a source file is text").lines().count();
            if lines > LONGEST_FILE_LINES {
                findings.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert_none("files longer than 600 lines", &findings);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let mut findings = Vec::new();
    for package in packages() {
        let manifest = fs::read_to_string(package.directory.join("Cargo.toml")).expect("a manifest");
        if !manifest.contains("[lints]\nworkspace = true") {
            findings.push(package.name);
        }
    }
    assert_none("crates without `[lints] workspace = true`", &findings);
}

/// Every decision page is in the index, and the index names no page that is not there.
#[test]
fn the_index_of_decisions_is_whole() {
    let directory = repository().join("docs/decisions");
    let index = fs::read_to_string(directory.join("README.md")).expect("docs/decisions/README.md");
    let pages: BTreeSet<String> = fs::read_dir(&directory)
        .expect("docs/decisions")
        .map(|entry| entry.expect("a directory entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md")
        .collect();
    let named: BTreeSet<String> = index
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains('/'))
        .map(str::to_owned)
        .collect();
    assert_eq!(named, pages);
}

/// Every end-to-end test that the threat model relies on, `module::function`, exists.
#[test]
fn the_tests_that_the_threat_model_names_exist() {
    let text = fs::read_to_string(repository().join("docs/threat-model.md")).expect("docs/threat-model.md");
    let named: Vec<(&str, &str)> =
        text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.rsplit_once("::")).collect();
    assert!(named.len() > 10, "the names of tests were not found: {named:?}");
    let mut findings = Vec::new();
    for (module, function) in named {
        let path = repository().join(format!("crates/viv/tests/e2e/{}.rs", module.replace("::", "/")));
        let code = fs::read_to_string(path).unwrap_or_default();
        if !code.contains(&format!("fn {function}(")) {
            findings.push(format!("{module}::{function}"));
        }
    }
    assert_none("tests that docs/threat-model.md names and that do not exist", &findings);
}
