//! Builds layers in processes of their own, and looks into them.

pub mod archive;
pub mod registry;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use viv_error::Report;
use viv_image::{Cache, ImageSource, Package, Progress, ProgressEvent, ensure_layers, ensure_root, missing_tools};

/// Whether everything a build needs is installed.
pub fn can_build() -> bool {
    let missing = missing_tools();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "not installed: {missing:?}");
    eprintln!("SKIPPED: not installed: {missing:?}");
    false
}

/// A layer as the process that made it tells of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuiltLayer {
    pub path: PathBuf,
    pub packages: Vec<String>,
}

type Outcome = Result<Vec<BuiltLayer>, Report>;

/// What the child is asked to build, as words.
const SET: &str = "VIV_TEST_PACKAGES";
/// Where it puts what came of it.
const OUTCOME: &str = "VIV_TEST_OUTCOME";

/// Builds what the environment asks for, if it asks for anything.
pub fn build_if_asked() {
    let (Some(set), Some(place)) = (std::env::var_os(SET), std::env::var_os(OUTCOME)) else { return };
    let set = set.into_string().unwrap();
    let packages: Vec<Package> = set.split_whitespace().map(|package| package.parse().unwrap()).collect();
    let cache = Cache::open(&cache_directory()).unwrap();
    let built = ensure_root(&cache, &ImageSource::Default, &Printer)
        .and_then(|root| ensure_layers(&cache, &root, &packages, &Printer));
    let outcome: Outcome = match built {
        Ok(layers) => Ok(layers
            .into_iter()
            .map(|layer| BuiltLayer {
                path: layer.path,
                packages: layer.packages.iter().map(ToString::to_string).collect(),
            })
            .collect()),
        Err(error) => Err(Report::from(&error)),
    };
    std::fs::write(place, serde_json::to_vec(&outcome).unwrap()).unwrap();
}

struct Printer;

impl Progress for Printer {
    fn event(&self, event: ProgressEvent) {
        println!("{event:?}");
    }
}

fn cache_directory() -> PathBuf {
    let named = std::env::var_os("VIV_TEST_CACHE").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages"))
}

/// A number that no earlier run has had: what an earlier run has built is known to the cache.
pub fn unique() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A user with settings, who builds layers.
pub struct Build {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Build {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// The same with a variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a file in the home directory.
    pub fn user_file(self, name: &str, content: &str) -> Self {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// The layers of packages over the default root.
    pub fn packages(&self, packages: &[&str]) -> Outcome {
        const OF_CLIENTS: [&str; 5] = ["NPM_CONFIG_", "PIP_", "CARGO_HOME", "CARGO_REG", "CARGO_HTTP"];
        let outcome = self.home.path().join("outcome.json");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "one_build", "--nocapture"]);
        for (name, _) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_ascii_uppercase();
            if OF_CLIENTS.iter().any(|prefix| upper.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env("no_proxy", "127.0.0.1")
            .env("NO_PROXY", "127.0.0.1")
            .env(SET, packages.join(" "))
            .env(OUTCOME, &outcome)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = command.output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let outcome = serde_json::from_slice(&std::fs::read(outcome).unwrap()).unwrap();
        println!("{packages:?}: {outcome:#?}");
        outcome
    }

    /// Whether the cache has a layer that was made for this package.
    pub fn knows(&self, package: &str) -> bool {
        let layers = std::fs::read_dir(cache_directory().join("refs/layers")).into_iter().flatten().flatten();
        let mut texts = layers.map(|entry| std::fs::read_to_string(entry.path()).unwrap());
        texts.any(|text| text.contains(package))
    }
}

/// A layer's files, unpacked; what an ordinary user cannot make (devices, owners) is not.
pub fn extract(layer: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("fsck.erofs")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg(format!("--extract={}", directory.path().display()))
        .args(["--no-preserve", "--overwrite"])
        .arg(layer)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}
