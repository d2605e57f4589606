//! Really builds the kernel and the root image from Debian's packages, as whoever runs it: about a
//! minute each time, unless `VIV_TEST_CACHE` names a cache directory to keep. Run it as root and as
//! an ordinary user. What it needs is what `viv doctor` asks for; without it, it skips (and fails if
//! `CI` is set).

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use viv_image::{
    Cache, GuestBinary, ImageSource, KernelSource, Progress, ProgressEvent, clone_scratch, ensure_initramfs,
    ensure_kernel, ensure_root, ensure_scratch, is_built, missing_tools,
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

/// Whether everything a build needs is installed.
fn can_build() -> bool {
    let missing = missing_tools();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "not installed: {missing:?}");
    eprintln!("SKIPPED: not installed: {missing:?}");
    false
}

/// The cache to use, and what removes it at the end.
fn cache() -> (Option<tempfile::TempDir>, Cache) {
    if let Some(path) = std::env::var_os("VIV_TEST_CACHE") {
        return (None, Cache::open(Path::new(&path)).unwrap());
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    (Some(directory), cache)
}

fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

#[test]
fn kernel_and_root_from_debian() {
    if !can_build() {
        return;
    }
    let (_directory, cache) = cache();
    let printer = Printer::default();
    let guest = GuestBinary { bytes: b"not a program", digest: "test" };
    let start = Instant::now();
    let kernel = ensure_kernel(&cache, &KernelSource::Default, &printer).unwrap();
    println!("kernel: {:?}", start.elapsed());
    let start = Instant::now();
    let root = ensure_root(&cache, &ImageSource::Default, &printer).unwrap();
    println!("root: {:?}, {} MB", start.elapsed(), root.size / 1_000_000);
    let start = Instant::now();
    let initramfs = ensure_initramfs(&cache, &kernel, &guest).unwrap();
    let scratch = ensure_scratch(&cache, 20 << 30).unwrap();
    println!("initramfs and scratch: {:?}", start.elapsed());
    assert!(is_built(&cache).kernel && is_built(&cache).root);

    let before = printer.0.lock().unwrap().len();
    let start = Instant::now();
    assert_eq!(ensure_kernel(&cache, &KernelSource::Default, &printer).unwrap(), kernel);
    assert_eq!(ensure_initramfs(&cache, &kernel, &guest).unwrap(), initramfs);
    assert_eq!(ensure_root(&cache, &ImageSource::Default, &printer).unwrap(), root);
    assert_eq!(ensure_scratch(&cache, 20 << 30).unwrap(), scratch);
    println!("all of it again: {:?}", start.elapsed());
    let start = Instant::now();
    let disk = clone_scratch(&scratch, cache.root()).unwrap();
    println!("a scratch disk of {} KiB: {:?}", disk.metadata().unwrap().blocks() / 2, start.elapsed());
    assert_eq!(printer.0.lock().unwrap().len(), before, "a warm cache is silent");

    let mut magic = [0; 4];
    fs::File::open(&kernel.vmlinux).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");
    assert!(kernel.release.contains("cloud-amd64"), "{}", kernel.release);
    let modules: Vec<&str> = kernel.modules.iter().map(|module| &module.name[3..]).collect();
    for name in ["virtio_blk.ko", "erofs.ko", "overlay.ko", "vsock.ko", "vmw_vsock_virtio_transport.ko"] {
        assert!(modules.contains(&name), "{name} is not among {modules:?}");
    }
    assert!(initramfs.metadata().unwrap().len().is_multiple_of(4096));
    root_holds_what_it_should(&root.path);
}

fn root_holds_what_it_should(image: &Path) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let tree = directory.path().join("root");
    let extract = tool("fsck.erofs").arg(format!("--extract={}", tree.display())).arg(image).output().unwrap();
    assert!(extract.status.success(), "{}", String::from_utf8_lossy(&extract.stderr));
    let text = |path: &str| fs::read_to_string(tree.join(path)).unwrap();
    let list = |path: &str| -> Vec<String> {
        let entries = fs::read_dir(tree.join(path)).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };

    let programs = "bwrap curl fdfind gcc git jq less make node pip3 ps python3 rg ssh strace sudo tmux vi";
    for program in programs.split(' ') {
        assert!(tree.join("usr/bin").join(program).symlink_metadata().is_ok(), "no {program}");
    }
    assert!(tree.join("usr/sbin/sshd").exists() && tree.join("usr/bin/ip").exists());
    for program in ["fd", "vim", "npm", "npx"] {
        assert!(tree.join("usr/local/bin").join(program).exists(), "no {program}");
    }
    assert!(text("usr/local/lib/node_modules/npm/package.json").contains("\"name\": \"npm\""));
    assert!(tree.join("etc/ssl/certs/ca-certificates.crt").metadata().unwrap().len() > 100_000);
    assert!(tree.join("usr/share/doc/git/copyright").exists(), "licences stay");

    // Nothing that could look after services, and no service that starts.
    assert!(!tree.join("usr/lib/systemd/systemd").exists() && !tree.join("sbin/init").exists());
    assert!(tree.join("etc/ssh/sshd_not_to_be_run").exists());
    assert!(list("etc/ssh").iter().all(|name| !name.starts_with("ssh_host_")));
    assert_eq!(text("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n");

    // Nothing of the host or the build, and no identity.
    for path in ["etc/resolv.conf", "etc/machine-id"] {
        assert_eq!(text(path), "", "{path}");
    }
    assert_eq!(text("etc/hosts"), "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for path in ["etc/hostname", "etc/pip.conf", "viv-build", "root/.config", "root/.pip", "root/.cache", "root/.npm"] {
        assert!(!tree.join(path).exists(), "{path}");
    }
    for path in ["dev", "proc", "run", "sys", "tmp", "mnt", "home", "var/lib/apt/lists", "var/cache/apt"] {
        assert_eq!(list(path), Vec::<String>::new(), "{path}");
    }
    assert_eq!(list("etc/apt/apt.conf.d").iter().filter(|name| name.contains("mmdebstrap")).count(), 0);
    assert!(!text("etc/apt/sources.list").contains('@'));
    if rustix::process::geteuid().is_root() {
        assert_eq!(text("etc/sudoers.d/viv"), "agent ALL=(ALL) NOPASSWD: ALL\n");
        assert!(text("etc/shadow").starts_with("root:*:"), "root has no password");
    }
}

const CHILD: &str = "VIV_TEST_KILLED_CACHE";

/// Not a test of its own: what [`a_killed_build_leaves_nothing`] starts and kills.
#[test]
fn child_that_builds_a_root() {
    if let Some(cache) = std::env::var_os(CHILD) {
        let cache = Cache::open(Path::new(&cache)).unwrap();
        let result = ensure_root(&cache, &ImageSource::Default, &Printer::default());
        panic!("it should have been killed: {result:?}");
    }
}

/// The directories this user's builds work in.
fn build_directories() -> Vec<PathBuf> {
    let me = rustix::process::geteuid().as_raw();
    let entries = fs::read_dir("/var/tmp").unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("viv-build-"))
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == me))
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn a_killed_build_leaves_nothing() {
    if !can_build() {
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let others = build_directories();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_builds_a_root", "--nocapture"])
        .env(CHILD, cache.root())
        .env_remove("TMPDIR")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Until files of other ids lie around.
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let far = lines.map_while(Result::ok).any(|line| line.contains("installing packages"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(far, "the build failed before it could be killed");

    let mut outside = build_directories();
    outside.retain(|path| !others.contains(path));
    assert!(!outside.is_empty());
    // Both locks are free when the last process of the build is gone.
    let locks = fs::read_dir(cache.root().join("locks")).unwrap().flatten().map(|entry| entry.path());
    for path in locks.chain(outside.clone()) {
        if let Ok(file) = fs::File::open(path) {
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        }
    }
    ensure_kernel(&cache, &KernelSource::Default, &Printer::default()).unwrap();
    for path in &outside {
        assert!(!path.exists(), "{} is still there", path.display());
    }
    assert_eq!(fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
    assert!(!is_built(&cache).root);
}
