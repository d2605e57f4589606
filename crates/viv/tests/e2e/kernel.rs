//! Kernels: choosing among them, and the own one's configuration. Building one takes too long for a
//! test; what could keep it from building is looked at instead.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Host, Ran, finish};

/// Files that pass for kernels as long as none is booted: their digests and contents.
const OLDER: (&str, &str) = ("0e3bf0a31714ed3cde58f6458efd25ec70843bb7e93ad231cfcdd4562193a48b", "the older kernel\n");
const NEWER: (&str, &str) = ("a0242f027e5663b2a73235c7b8cf6619e22f1ba5ab491b187992cfbc06a432d6", "the newer kernel\n");

/// `viv` with a cache of its own.
struct OwnCache {
    host: Host,
}

impl OwnCache {
    fn new() -> Option<Self> {
        let host = Host::new()?;
        std::fs::create_dir_all(host.path("cache/viv")).unwrap();
        Some(Self { host })
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.host.path("cache/viv").join(relative)
    }

    /// What was built for all tests, without what is chosen among it.
    fn with_shared_builds(self) -> Self {
        let shared = std::env::var_os("VIV_TEST_CACHE_HOME").map(PathBuf::from).unwrap().join("viv");
        for directory in ["blobs", "host", "locks", "refs", "scratch", "tmp"] {
            symlink(shared.join(directory), self.path(directory)).unwrap();
        }
        self
    }

    /// As a build would leave it, but for the stamps: those make `viv` read the content again.
    fn with_kernel(self, (digest, content): (&str, &str), built: u64) -> Self {
        for directory in ["blobs", "refs/own-kernel"] {
            std::fs::create_dir_all(self.path(directory)).unwrap();
        }
        std::fs::write(self.path(&format!("blobs/sha256-{digest}")), content).unwrap();
        let stamp = json!({ "size": content.len(), "inode": 0, "modified": [0, 0], "changed": [0, 0] });
        let reference = json!({
            "format": 1,
            "recipe": "a test's",
            "facts": {
                "release": format!("6.12.{built}-viv"),
                "source": format!("linux-source-6.12=6.12.{built}-1"),
                "built": built.to_string(),
            },
            "files": [{ "name": "vmlinux", "digest": digest, "stamp": stamp }],
        });
        std::fs::write(self.path(&format!("refs/own-kernel/{built}.json")), reference.to_string()).unwrap();
        self
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        use std::process::Stdio;
        let mut command = self.host.viv(arguments);
        command.env("XDG_CACHE_HOME", self.host.path("cache")).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn().unwrap())
    }

    /// Ids of all kernels, and of the one in use.
    fn listed(&self) -> (Vec<String>, String) {
        let ran = self.run(&["kernel", "ls", "--json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let kernels: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        let id = |kernel: &Value| kernel["id"].as_str().unwrap().to_owned();
        let used: Vec<String> = kernels.iter().filter(|kernel| kernel["used"] == true).map(id).collect();
        assert_eq!(used.len(), 1, "{kernels:?}");
        (kernels.iter().map(id).collect(), used[0].clone())
    }
}

#[test]
fn kernels_are_listed_chosen_and_removed() {
    let Some(cache) = OwnCache::new() else { return };
    let cache = cache.with_kernel(OLDER, 1).with_kernel(NEWER, 2);
    let (older, newer) = (&OLDER.0[..12], &NEWER.0[..12]);
    let all = ["debian", newer, older].map(str::to_owned).to_vec();
    assert_eq!(cache.listed(), (all.clone(), "debian".to_owned()));

    let used = cache.run(&["kernel", "use", "own"]);
    assert_eq!(
        (used.code, used.stderr),
        (0, format!("sandboxes boot the kernel {newer}, Linux 6.12.2-viv from now on\n"))
    );
    assert_eq!(cache.listed().1, newer);
    assert_eq!(cache.run(&["kernel", "use", &older[..3]]).code, 0);
    assert_eq!(cache.listed().1, older);
    assert_eq!(cache.run(&["kernel", "use", "debian"]).code, 0);
    assert_eq!(cache.listed(), (all, "debian".to_owned()));

    assert_eq!(cache.run(&["kernel", "use", older]).code, 0);
    let table = cache.run(&["kernel", "ls"]).stdout;
    let row = table.lines().find(|line| line.starts_with('*')).unwrap();
    assert!(row.contains(older) && row.contains("6.12.1-viv") && row.contains("17 bytes"), "{table}");
    let removed = cache.run(&["kernel", "rm", older]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(removed.stderr.contains("sandboxes boot the kernel debian"), "{removed:?}");
    assert!(!cache.path(&format!("blobs/sha256-{}", OLDER.0)).exists());
    assert_eq!(cache.listed(), (vec!["debian".to_owned(), newer.to_owned()], "debian".to_owned()));
}

#[test]
fn what_is_no_kernel_is_refused_with_what_mends_it() {
    let Some(cache) = OwnCache::new() else { return };
    let refused = |arguments: &[&str], message: &str, hint: &str| {
        let ran = cache.run(arguments);
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(ran.stderr.contains(message) && ran.stderr.contains(hint), "{ran:?}");
    };
    refused(&["kernel", "use", "own"], "no own kernel has been built yet", "viv kernel build");
    refused(&["kernel", "use", "3f2a"], "there is no own kernel \"3f2a\"", "viv kernel ls");
    refused(&["kernel", "rm", "3f2a"], "there is no own kernel \"3f2a\"", "viv kernel ls");
    refused(&["kernel", "rm", "debian"], "Debian's kernel", "viv kernel ls");
    refused(&["run", "--kernel", "own", "--", "true"], "no own kernel has been built yet", "viv kernel build");
}

#[test]
fn a_chosen_kernel_that_is_gone_gives_way_to_debians_and_that_is_said() {
    let Some(cache) = OwnCache::new() else { return };
    let cache = cache.with_shared_builds();
    std::fs::create_dir(cache.path("kernels")).unwrap();
    std::fs::write(cache.path("kernels/selected"), OLDER.0).unwrap();
    let ran = cache.run(&["run", "--", "uname", "-r"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("cloud"), "{ran:?}");
    assert!(ran.stderr.contains(&OLDER.0[..12]) && ran.stderr.contains("viv kernel build"), "{ran:?}");

    // Named, it is Debian's without a word, and `--verbose` says whose it is.
    let ran = cache.run(&["run", "-v", "--kernel", "debian", "--", "true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.stderr.contains(&OLDER.0[..12]) && ran.stderr.contains("(Debian's, "), "{ran:?}");
}

/// Fetches the source and configures it: what a new version of the source is most likely to break.
#[test]
fn the_newest_source_has_every_option_that_is_asked_for() {
    let Some(host) = Host::ordinary() else { return };
    let ran = host.run(&["kernel", "build", "--config"]);
    if ran.stderr.contains("is not installed") {
        assert!(std::env::var_os("CI").is_none(), "{ran:?}");
        eprintln!("SKIPPED: {}", ran.stderr);
        return;
    }
    assert_eq!(ran.code, 0, "{ran:?}");
    for setting in ["CONFIG_PVH=y", "CONFIG_LOCALVERSION=\"-viv\"", "CONFIG_KVM_INTEL=y", "# CONFIG_MODULES is not set"]
    {
        assert!(ran.stdout.lines().any(|line| line == setting), "no {setting} in:\n{}", ran.stdout);
    }
}

/// A compiler's tool that is not there is named before anything is fetched, with the command that
/// installs it.
#[test]
fn a_missing_tool_is_named_with_its_package() {
    let Some(host) = Host::ordinary() else { return };
    let hide = "if [ -e /usr/bin/flex ]; then mount --bind /dev/null /usr/bin/flex || exit 99; fi; exec \"$@\"";
    let mut command = host.command("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", hide, "sh"]);
    command.arg(host.executable()).args(["kernel", "build"]);
    // Nothing is built in this cache, whatever happens.
    std::fs::create_dir(host.path("home/cache")).unwrap();
    host.own(&host.path("home/cache"));
    command.env("XDG_CACHE_HOME", host.path("home/cache"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("is not installed") && stderr.contains("building a kernel"), "{stderr}");
    assert!(stderr.lines().any(|line| line.contains("apt install") && line.contains("flex")), "{stderr}");
    assert_eq!(output.stdout, b"");
}
