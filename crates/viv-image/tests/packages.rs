//! Really builds layers of packages, as whoever runs it: over a small Debian that mmdebstrap makes (about
//! a minute, unless `VIV_TEST_CACHE` names a directory to keep it in), from packages made here. Run it as
//! root and as an ordinary user. What it needs is what `viv doctor` asks for; without it, it skips
//! (and fails if `CI` is set).

mod repository;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use viv_image::{
    Cache, Error, ErrorKind, ImageSource, Layer, Package, Progress, ProgressEvent, RootImage, ensure_layers,
    ensure_root, missing_tools,
};

/// Prints events and keeps them.
#[derive(Default)]
struct Printer(Mutex<Vec<ProgressEvent>>);

impl Progress for Printer {
    fn event(&self, event: ProgressEvent) {
        println!("{event:?}");
        self.0.lock().unwrap().push(event);
    }
}

impl Printer {
    /// How many sets were begun.
    fn started(&self) -> usize {
        let is_set =
            |event: &&ProgressEvent| matches!(event, ProgressEvent::Started { what } if what.starts_with("packages"));
        self.0.lock().unwrap().iter().filter(is_set).count()
    }
}

/// A cache of a test's own, with the image that packages are installed over.
struct Lab {
    directory: tempfile::TempDir,
    cache: Cache,
    root: RootImage,
    printer: Printer,
}

impl Lab {
    fn new() -> Option<Self> {
        let missing = missing_tools();
        if !missing.is_empty() {
            assert!(std::env::var_os("CI").is_none(), "not installed: {missing:?}");
            eprintln!("SKIPPED: not installed: {missing:?}");
            return None;
        }
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let printer = Printer::default();
        let root = ensure_root(&cache, &ImageSource::Erofs(repository::image().to_path_buf()), &printer).unwrap();
        Some(Self { directory, cache, root, printer })
    }

    fn layers(&self, packages: &str) -> Result<Vec<Layer>, Error> {
        layers(&self.cache, &self.root, packages, &self.printer)
    }

    /// A layer's files, with owners if this is root.
    fn extracted(&self, layer: &Layer) -> PathBuf {
        let tree = self.directory.path().join(format!("extracted-{}", &layer.digest[..8]));
        let image = &layer.path;
        let output = Command::new("/usr/bin/env")
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "fsck.erofs"])
            .arg(format!("--extract={}", tree.display()))
            .arg(image)
            .output()
            .unwrap();
        // Whiteouts are devices, which only root can make.
        let root = rustix::process::geteuid().is_root();
        assert!(output.status.success() || !root, "{}", String::from_utf8_lossy(&output.stderr));
        tree
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Trees belong to other ids.
        viv_image::remove_unpacked(&self.cache).unwrap();
    }
}

fn layers(cache: &Cache, root: &RootImage, packages: &str, progress: &dyn Progress) -> Result<Vec<Layer>, Error> {
    let packages: Vec<Package> = packages.split(' ').map(|package| package.parse().unwrap()).collect();
    ensure_layers(cache, root, &packages, progress)
}

fn is_reading(event: &ProgressEvent) -> bool {
    matches!(event, ProgressEvent::Step { message } if message == "reading the package lists")
}

fn names(layers: &[Layer]) -> Vec<String> {
    layers.iter().flat_map(|layer| &layer.packages).map(ToString::to_string).collect()
}

/// An error with its causes and hints.
fn told(error: &Error) -> String {
    let mut text = format!("{error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!("\n{error}"));
        cause = error.source();
    }
    text
}

#[test]
fn sets_share_layers() {
    let Some(lab) = Lab::new() else { return };
    let alpha = lab.layers("alpha").unwrap();
    assert_eq!(names(&alpha), ["alpha@2.0"]);
    let tree = lab.extracted(&alpha[0]);
    assert_eq!(fs::read_to_string(tree.join("usr/share/alpha/version")).unwrap(), "2.0\n");
    assert_eq!(tree.join("usr/share/alpha/version").metadata().unwrap().mtime(), repository::TIME);
    for path in [
        "tmp",
        "run",
        "dev",
        "proc",
        "viv-build",
        "etc/resolv.conf",
        "etc/machine-id",
        "var/lib/apt/lists",
        "var/cache/apt",
        "usr/sbin/policy-rc.d",
    ] {
        assert!(tree.join(path).symlink_metadata().is_err(), "{path}");
    }

    let events = lab.printer.0.lock().unwrap().len();
    assert_eq!(lab.layers("alpha").unwrap(), alpha);
    assert_eq!(lab.printer.0.lock().unwrap().len(), events, "a known set is silent");

    // The rest alone is built.
    let both = lab.layers("beta alpha").unwrap();
    assert_eq!((both.len(), &both[0]), (2, &alpha[0]));
    assert_eq!(names(&both), ["alpha@2.0", "beta@1.0"]);
    let tree = lab.extracted(&both[1]);
    assert!(tree.join("usr/share/beta/version").exists() && !tree.join("usr/share/alpha").exists());

    // Lists are read once, until someone wants them anew.
    let read = || lab.printer.0.lock().unwrap().iter().filter(|event| is_reading(event)).count();
    assert_eq!(read(), 1);
    viv_image::forget_packages(&lab.cache, &["another".parse().unwrap()]).unwrap();

    // An older version is another set, and the version that was the newest is the same.
    assert_eq!(names(&lab.layers("alpha@1.0").unwrap()), ["alpha@1.0"]);
    assert_eq!(read(), 2);
    let started = lab.printer.started();
    assert_eq!(lab.layers("alpha@2.0").unwrap(), alpha);
    assert_eq!(lab.printer.started(), started + 1, "an entry of its own, once");
}

#[test]
fn what_is_not_there_and_what_fails() {
    let Some(lab) = Lab::new() else { return };
    let error = lab.layers("alpha aplha").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoSuchPackage);
    let text = told(&error);
    assert!(text.contains("there is no package aplha") && text.contains("the nearest names: alpha"), "{text}");
    let error = lab.layers("alpha@3.0").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoSuchPackage);
    assert!(told(&error).contains("there are: 2.0, 1.0"), "{}", told(&error));

    let error = lab.layers("alpha broken").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Build);
    assert!(told(&error).contains("broken on purpose"), "{}", told(&error));
    // No half layer, and nothing in the way.
    let layers = fs::read_dir(lab.cache.root().join("refs/layers")).map_or(0, |entries| entries.count());
    assert_eq!(layers, 0);
    assert_eq!(fs::read_dir(lab.cache.root().join("tmp")).unwrap().count(), 0);
    assert_eq!(lab.benches(), Vec::<PathBuf>::new());
    assert_eq!(names(&lab.layers("alpha").unwrap()), ["alpha@2.0"]);
}

#[test]
fn a_script_has_nothing_of_the_host() {
    let Some(lab) = Lab::new() else { return };
    // Something of this user's that everyone may read, and a variable.
    let secret = lab.directory.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let layers = lab.layers("probe").unwrap();
    let tree = lab.extracted(&layers[0]);
    let report = |name: &str| fs::read_to_string(tree.join("usr/share/probe").join(name)).unwrap();

    let interfaces: Vec<String> = report("interfaces").lines().skip(2).map(|line| line.trim().to_owned()).collect();
    assert!(interfaces.iter().all(|line| line.starts_with("lo:") && line.split_whitespace().skip(1).all(|n| n == "0")));
    assert!(report("routes").lines().count() <= 1, "more than a heading");
    assert_eq!(report("connect"), "refused\n");
    // Nothing of the caller's environment, nor of what fetching had.
    for line in report("environment").lines() {
        let name = line.split('=').next().unwrap();
        let known = [
            "APT_CONFIG",
            "DEBCONF_NONINTERACTIVE_SEEN",
            "DEBIAN_FRONTEND",
            "HOME",
            "LC_ALL",
            "PATH",
            "PWD",
            "TMPDIR",
            "OLDPWD",
            "SHLVL",
            "_",
            "DEBCONF_REDIR",
            "DEBIAN_HAS_FRONTEND",
            "DEBCONF_OLD_FD_BASE",
            "PERL_DL_NONLAZY",
        ];
        assert!(known.contains(&name) || name.starts_with("DPKG_"), "{line}");
    }
    let mounts = report("mounts");
    for line in mounts.lines() {
        let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let place = line.split(' ').nth(4).unwrap();
        let expected = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/run", "/tmp"];
        assert!(
            expected.contains(&place) || place.starts_with("/viv-build") || place.starts_with("/dev/"),
            "{kind} at {place}"
        );
    }
    assert!(!mounts.contains("/viv-build/certificates.pem") && !mounts.contains("resolv.conf"));
    assert_eq!(report("root"), "no secret\n", "{}", secret.display());
    // Only processes of its own.
    let processes: Vec<u32> = report("processes").lines().map(|id| id.parse().unwrap()).collect();
    assert!(processes.contains(&1) && processes.len() < 20, "{processes:?}");
    for descriptor in report("descriptors").lines() {
        let (number, target) = descriptor.split_once(' ').unwrap();
        let number: u32 = number.parse().unwrap();
        assert!(number != 3 || !target.starts_with("pipe"), "the report's");
        assert!(!target.contains(lab.cache.root().to_str().unwrap()), "{descriptor}");
    }
    let status = report("status");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let capabilities = u64::from_str_radix(capabilities.trim(), 16).unwrap();
    assert_eq!(capabilities & (1 << 21 | 1 << 19 | 1 << 12), 0, "no administration, tracing or network");
    assert!(status.contains("NoNewPrivs:\t1"));
    assert_eq!(
        report("attempts"),
        "mount: refused\nunshare: refused\nsysctl: refused\ncache: refused\nmknod: refused\n"
    );
    assert_eq!(report("keys").trim(), "", "no keys");
    assert!(report("cgroup").lines().all(|line| line.ends_with(":/")));
}

#[test]
fn what_a_script_removes_stays_removed() {
    let Some(lab) = Lab::new() else { return };
    let layers = lab.layers("remover").unwrap();
    // Over a tree that is made of the layer's file anew, too.
    for round in 0..2 {
        if round == 1 {
            viv_image::remove_unpacked(&lab.cache).unwrap();
        }
        let over = lab.layers(if round == 0 { "remover looker" } else { "remover looker-again" }).unwrap();
        assert_eq!((over.len(), &over[0]), (2, &layers[0]));
        let tree = lab.extracted(&over[1]);
        let report = fs::read_to_string(tree.join("usr/share/looker/report")).unwrap();
        assert_eq!(
            report, "victim: gone\nold: gone\nnew: here\nowner: 1234:4321 4755\nlinks: 2\nattribute: value\n",
            "round {round}"
        );
    }
    if rustix::process::geteuid().is_root() {
        let tree = lab.extracted(&layers[0]);
        let whiteout = tree.join("usr/share/victims/file").symlink_metadata().unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        let owned = tree.join("usr/share/remover/owned").metadata().unwrap();
        assert_eq!((owned.uid(), owned.gid()), (1234, 4321));
    }
}

#[test]
fn two_builders_build_once() {
    let Some(lab) = Lab::new() else { return };
    let build = || lab.layers("alpha beta").unwrap();
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(build);
        let other = scope.spawn(build);
        (one.join().unwrap(), other.join().unwrap())
    });
    assert_eq!(one, other);
    assert_eq!(lab.printer.started(), 1);
}

const CHILD: &str = "VIV_TEST_KILLED_CACHE";

/// Not a test of its own: what [`a_killed_build_leaves_nothing`] starts and kills.
#[test]
fn child_that_installs() {
    if let Some(cache) = std::env::var_os(CHILD) {
        let cache = Cache::open(Path::new(&cache)).unwrap();
        let printer = Printer::default();
        let root = ensure_root(&cache, &ImageSource::Erofs(repository::image().to_path_buf()), &printer).unwrap();
        let result = layers(&cache, &root, "slow", &printer);
        panic!("it should have been killed: {result:?}");
    }
}

impl Lab {
    /// The directories that builds work in.
    fn benches(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache.root().join("confined")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains("/build-")).collect()
    }

    /// Starts a build, and waits until a package's script runs.
    fn slow_child(&self) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_installs", "--nocapture"])
            .env(CHILD, self.cache.root())
            .env("VIV_TEST_PACKAGES_IMAGE", repository::image())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Read to the end, so that it can go on.
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(drop));
        let deadline = Instant::now() + Duration::from_secs(300);
        while sleepers(self).is_empty() {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "the script did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

/// The programs that the script of `slow` starts, of this test's cache alone; each can be waited for.
fn sleepers(lab: &Lab) -> Vec<OwnedFd> {
    let bench = |id: &str| {
        fs::read_to_string(format!("/proc/{id}/mountinfo")).is_ok_and(|mounts| {
            lab.benches().iter().any(|bench| mounts.contains(bench.file_name().unwrap().to_str().unwrap()))
        })
    };
    let entries =
        fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap_or_default());
    let sleeps = |id: &String| fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line == b"sleep\x00987654\x00");
    let open = |id: String| pidfd_open(Pid::from_raw(id.parse().ok()?)?, PidfdFlags::empty()).ok();
    entries.filter(|id| sleeps(id) && bench(id)).filter_map(open).collect()
}

#[test]
fn a_killed_build_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let mut child = lab.slow_child();
    let sleepers = sleepers(&lab);
    child.kill().unwrap();
    child.wait().unwrap();
    let benches = lab.benches();
    assert_eq!(benches.len(), 1);
    flock(File::open(&benches[0]).unwrap(), FlockOperation::LockExclusive).unwrap();
    // Their first process frees its locks while the kernel kills the others.
    for sleeper in &sleepers {
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(sleeper, PollFlags::IN)], Some(&patience)).unwrap(), 1, "it still runs");
    }

    assert_eq!(names(&lab.layers("alpha").unwrap()), ["alpha@2.0"]);
    assert_eq!(lab.benches(), Vec::<PathBuf>::new(), "the next build removes what was left");
    assert_eq!(fs::read_dir(lab.cache.root().join("tmp")).unwrap().count(), 0);
    // The same again, from the start.
    let mut child = lab.slow_child();
    child.kill().unwrap();
    child.wait().unwrap();
}
