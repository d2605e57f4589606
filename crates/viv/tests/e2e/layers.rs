//! Packages in real sandboxes, asked for on the command line by an ordinary user.
//!
//! What comes from the host's own registries is the same at each run of the tests, and stays in the shared cache. What
//! has to be built here and now has a name that no run before had, and comes from a registry of the test's own, which
//! the user has configured for one of npm's scopes and for crates.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::nix::Nix;
use crate::registry::{Crate, NpmPackage, Registry};
use crate::spares::ready;
use crate::support::{Host, Ran, finish, finish_within, until};

/// Ten times what all of them took to be fetched and installed on two busy cores.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(1200);

/// What most people begin with.
const PACKAGES: &str = "git,ripgrep,npm:prettier,pip:requests";
const SCRIPT: &str = "rg --version && prettier --version && python3 -c 'import requests'";

/// A number that no earlier run has had.
pub fn unique() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros()
}

/// A user who has npm packages of a scope from a registry of the test's own.
pub struct Scope {
    pub host: Host,
    name: String,
}

impl Scope {
    pub fn new() -> Option<Self> {
        Some(Self::of(Host::ordinary()?))
    }

    fn of(host: Host) -> Self {
        Self { host, name: format!("@viv-{}", unique()) }
    }

    /// A package's name for npm.
    pub fn name(&self, package: &str) -> String {
        format!("{}/{package}", self.name)
    }

    /// The same as it is asked for.
    pub fn package(&self, package: &str) -> String {
        format!("npm:{}", self.name(package))
    }

    /// Has packages come from this registry from now on.
    pub fn serve(&self, registry: Registry) {
        let crates = format!(
            "[source.crates-io]\nreplace-with = 'own'\n[source.own]\nregistry = 'sparse+{}'\n",
            registry.url("index/")
        );
        let npm = format!("{}:registry={}\n", self.name, registry.url("npm/"));
        let cargo = self.host.path("home/.cargo");
        fs::create_dir_all(&cargo).unwrap();
        fs::write(cargo.join("config.toml"), crates).unwrap();
        fs::write(self.host.path("home/.npmrc"), npm).unwrap();
        drop(registry.serve());
    }

    /// A registry with one package, whose program says hello.
    fn with_tool(&self, tool: &str, postinstall: Option<&str>) {
        let mut registry = Registry::new();
        let name = self.name(tool);
        let program = NpmPackage { name: &name, version: "1.0.0", program: Some(tool), ..NpmPackage::default() };
        registry.npm(&NpmPackage { postinstall, ..program });
        self.serve(registry);
    }

    fn build(&self, package: &str) -> Child {
        let mut build = self.host.viv(&["image", "build", "--json", "-p", package]);
        build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What the cache knows of packages of this scope: of a build that did not succeed, nothing.
    fn mentions(&self) -> Vec<PathBuf> {
        let refs = fs::read_dir(self.host.cache().join("refs/layers")).into_iter().flatten().flatten();
        let paths = refs.map(|entry| entry.path());
        paths.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(&self.name))).collect()
    }
}

/// What `--json` told while something was made.
fn preparing(ran: &Ran) -> Vec<String> {
    let events = ran.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let messages = events.filter(|event| event["event"] == "preparing");
    messages.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

/// The layers that `viv image build --json` tells of.
pub fn layers(built: &Ran) -> Vec<Value> {
    assert_eq!(built.code, 0, "{built:?}");
    serde_json::from_str::<Value>(&built.stdout).unwrap()["layers"].as_array().unwrap().clone()
}

#[test]
fn a_known_set_is_used_where_nothing_could_be_built() {
    let Some(host) = Host::ordinary() else { return };
    let first = host.viv(&["run", "-p", PACKAGES, "--", "sh", "-c", SCRIPT]);
    let first = said(first);
    assert!(first.code == 0 && first.stdout.starts_with("ripgrep "), "{first:?}");

    // Of what was made there, all is known here; a build would end where it is to be confined.
    let host = Host::ordinary().unwrap().with_own_cache().with_file("/usr/bin/newuidmap", "");
    let missing = host.run(&["image", "build", "-p", "npm:is-number"]);
    assert!(missing.code == 125 && missing.stderr.contains("newuidmap"), "{missing:?}");
    let template = host.make_template(&["-p", PACKAGES]);
    for (kind, spares, script) in [("template", "1", SCRIPT), ("spare", "0", "rg --version; command -v prettier")] {
        let again = host.run(&["run", "--json", "--spares", spares, "-p", PACKAGES, "--", "sh", "-c", script]);
        assert!(again.code == 0 && again.stdout.starts_with("ripgrep "), "{again:?}");
        assert_eq!(preparing(&again), Vec::<String>::new(), "{again:?}");
        let key = template.file_name().unwrap().to_str().unwrap();
        let way = again.stderr.lines().find(|line| line.contains("\"starting\"")).unwrap();
        assert!(way.contains(kind) && way.contains(key), "{way}");
        until("as many spares are ready as were asked for", || ready(&host).len().to_string() == spares);
    }
    // With other layers it is another machine.
    let other =
        host.run(&["run", "-v", "-p", "git,ripgrep", "--", "sh", "-c", "rg --version && ! command -v prettier"]);
    assert!(other.code == 0 && !other.is_from_template(), "{other:?}");
    host.assert_nothing_is_left();
}

/// Runs to the end, for as long as packages take.
fn said(mut command: std::process::Command) -> Ran {
    finish_within(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), DEADLINE)
}

#[test]
fn packages_of_all_managers_in_one_command_line() {
    let Some(nix) = Nix::new() else { return };
    let Nix { host } = nix;
    let scope = Scope::of(host);
    let (tool, version) = (scope.name("tool"), format!("0.1.{}", unique()));
    let mut registry = Registry::new();
    registry.npm(&NpmPackage { name: &tool, version: "1.0.0", program: Some("tool"), ..NpmPackage::default() });
    let main = Some("fn main() { println!(\"a crate says {}\", greeting_viv::WORD) }");
    let needs = Some("greeting-viv");
    registry.cargo(&Crate { name: "hello-viv", version: &version, needs, main, ..Crate::default() });
    registry.cargo(&Crate { name: "greeting-viv", version: "1.0.0", ..Crate::default() });
    scope.serve(registry);
    let (tool, hello) = (scope.package("tool"), format!("cargo:hello-viv@{version}"));
    let nix = Nix { host: scope.host };
    let mut command = nix.viv(&["run", "-p", PACKAGES, &tool, &hello, "nix:hello", "--", "sh", "-c"]);
    let script = "git --version | cut -c1-3; rg --version | head -n 1 | cut -c1-7; command -v prettier >/dev/null && tool && \
                  python3 -c 'import requests; print(requests.__name__)' && hello-viv && hello";
    command.arg(script);
    let ran = said(command);
    let expected = "git\nripgrep\nhello\nrequests\na crate says hello\nhello from nix\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{ran:?}");
    nix.host.assert_nothing_is_left();
}

#[test]
fn what_cannot_be_installed_is_refused_and_leaves_nothing() {
    let Some(scope) = Scope::new() else { return };
    scope.with_tool("broken", Some("echo nothing works; exit 3"));
    let broken = scope.package("broken");
    for _ in 0..2 {
        let refused = scope.host.run(&["run", "-p", "ripgrep", &broken, "--", "true"]);
        assert!(refused.code == 125 && refused.stderr.contains("nothing works"), "{refused:?}");
        assert_eq!(scope.mentions(), Vec::<PathBuf>::new());
    }
    // A registry need not know what is near.
    for (asked, said) in [("ripgrpe", "the nearest names: ripgrep"), (&scope.package("brokn"), "there is no package")] {
        let refused = scope.host.run(&["run", "--json", "-p", asked, "--", "true"]);
        assert!(refused.code == 125 && refused.stderr.contains("no_such_package"), "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    scope.host.assert_nothing_is_left();
}

#[test]
fn two_builders_build_once_and_a_killed_one_is_in_nobodys_way() {
    let Some(scope) = Scope::new() else { return };
    // Its argument is its mark.
    let sleep = format!("sleep 9{}", unique());
    scope.with_tool("tool", Some(&sleep));
    let tool = scope.package("tool");
    let mut build = scope.build(&tool);
    let mark = sleep.replace(' ', "\0") + "\0";
    let sleeps = || processes_with(&mark);
    until("a script of the package runs", || {
        assert!(build.try_wait().unwrap().is_none(), "it ended before");
        sleeps() > 0
    });
    build.kill().unwrap();
    build.wait().unwrap();
    until("nothing of the build runs", || sleeps() == 0);
    assert_eq!(scope.mentions(), Vec::<PathBuf>::new());
    scope.host.assert_nothing_is_left();

    scope.with_tool("tool", None);
    let built = [scope.build(&tool), scope.build(&tool)].map(finish);
    let layers = built.each_ref().map(layers);
    assert!(layers[0].len() == 1 && layers[0] == layers[1], "{built:?}");
    let begun = |ran: &&Ran| preparing(ran).contains(&format!("making packages {tool}"));
    assert_eq!(built.iter().filter(begun).count(), 1, "{built:?}");

    // One bit differs, which neither size nor time tells of.
    flip_a_bit(Path::new(layers[0][0]["path"].as_str().unwrap()));
    let ran = scope.host.run(&["run", "-v", "-p", &tool, "--", "tool"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello\n"), "{ran:?}");
    assert!(ran.stderr.contains("is damaged (layer-0.erofs has other content): making it again"), "{ran:?}");
    scope.host.assert_nothing_is_left();
}

/// How many processes have this command line.
fn processes_with(line: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == line.as_bytes())).count()
}

fn flip_a_bit(file: &Path) {
    let before = file.metadata().unwrap();
    fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
    let opened = File::options().read(true).write(true).open(file).unwrap();
    let middle = before.len() / 2;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, middle).unwrap();
    opened.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    opened.set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(file, before.permissions()).unwrap();
}
