//! Images and their layers in the machine: small ones that the tests make, stacked, attacked, damaged.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use viv_image::{Cache, ImageSource, KernelSource, NoProgress};
use viv_sandbox::{
    AccelChoice, Artifacts, Event, MakeRequest, NetworkSpec, Paths, Plan, Sandbox, SandboxSpec, StartRequest,
    TemplateUse, VmmChoice, Way,
};

use crate::support::{DEADLINE, Host, Ran, finish};

#[path = "../../src/guest_binary.rs"]
mod guest_binary;

/// Small machines: what is tested does not depend on their size.
pub const SMALL: [&str; 5] = ["--cpus", "1", "--memory", "512M", "--cold"];

/// A static program that is many, so that an image needs no other.
const BUSYBOX: &str = "/busybox";

/// A directory that becomes an erofs file.
pub struct Tree {
    pub directory: PathBuf,
}

impl Tree {
    fn new(host: &Host, name: &str) -> Self {
        let directory = host.path(name);
        std::fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    fn place(&self, path: &str) -> PathBuf {
        let place = self.directory.join(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        place
    }

    fn directory(self, path: &str) -> Self {
        std::fs::create_dir_all(self.directory.join(path)).unwrap();
        self
    }

    pub fn file(self, path: &str, text: &str) -> Self {
        std::fs::write(self.place(path), text).unwrap();
        self
    }

    fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.place(path)).unwrap();
        self
    }

    fn busybox(self, path: &str) -> Self {
        let place = self.place(path);
        std::fs::copy(find_program("busybox"), &place).unwrap();
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
        self
    }

    /// What hides a file of the layers below.
    fn whiteout(self, path: &str) -> Self {
        let place = self.place(path);
        let device = rustix::fs::makedev(0, 0);
        rustix::fs::mknodat(rustix::fs::CWD, place, rustix::fs::FileType::CharacterDevice, 0o666.into(), device)
            .unwrap();
        self
    }

    /// A directory that hides the one below.
    fn opaque(self, path: &str) -> Self {
        let tree = self.directory(path);
        let place = tree.directory.join(path);
        rustix::fs::setxattr(place, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
        tree
    }

    fn pack(self) -> PathBuf {
        let image = self.directory.with_extension("erofs");
        let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&self.directory).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        image
    }
}

pub fn find_program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.exists()).expect(name)
}

/// A musl distribution's: a shell that is busybox, no bash, no sudo, groups of its own.
pub fn like_alpine(host: &Host, name: &str) -> Tree {
    let links =
        ["sh", "ash", "cat", "id", "ls", "dd", "sleep", "env", "mkdir", "touch", "stat", "sha256sum", "echo", "true"];
    let tree = Tree::new(host, name)
        .busybox("bin/busybox")
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/ash\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
        .file("etc/group", "root:x:0:root\nwheel:x:10:root\nnobody:x:65534:\n")
        .file("etc/alpine-release", "3.99\n")
        .link("var/run", "../run")
        .link("var/lock", "../run/lock");
    let tree = ["dev", "proc", "sys", "run", "home", "root"].into_iter().fold(tree, Tree::directory);
    links.into_iter().fold(tree, |tree, name| tree.link(&format!("bin/{name}"), "/bin/busybox"))
}

/// Sandboxes of `host` with layers of the test's own.
struct Stack<'a> {
    host: &'a Host,
    paths: Paths,
    executable: PathBuf,
    root: PathBuf,
    layers: Vec<PathBuf>,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Stack<'a> {
    fn new(host: &'a Host, root: PathBuf, layers: Vec<PathBuf>) -> Self {
        let paths = Paths {
            runtime: host.path("run/viv"),
            state: host.path("state/viv"),
            cache: host.cache(),
            config: host.path("config/viv"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { host, paths, executable: host.executable().to_owned(), root, layers, runtime }
    }

    fn plan(&self, template: TemplateUse) -> viv_sandbox::Result<Plan> {
        let cache = Cache::open(&self.paths.cache).unwrap();
        let kernel_source = viv_image::preferred_kernel(&cache).unwrap().source;
        let kernel = viv_image::ensure_kernel(&cache, &kernel_source, &NoProgress).unwrap();
        let spec = SandboxSpec {
            id: viv_sandbox::new_id(),
            name: Some("stack".into()),
            labels: BTreeMap::new(),
            command: vec![],
            cpus: 1,
            memory_mib: 512,
            disk_bytes: 20 << 30,
            vmm: VmmChoice::Qemu,
            accel: AccelChoice::Auto,
            kernel: None,
            image: None,
            nix: None,
            packages: vec![],
            workspace: self.host.project(),
            mounts: vec![],
            user: viv_proto::message::User { name: "agent".into(), uid: 1000, gid: 1000, home: "/home/agent".into() },
            hostname: "stack".into(),
            timezone: None,
            template,
            spares: 0,
            environment: BTreeMap::new(),
            files: vec![],
            network: NetworkSpec::default(),
            workspace_mode: viv_sandbox::WorkspaceMode::Live,
            copied: viv_sandbox::CopySelection::default(),
            protect: Vec::new(),
            git_guard: true,
            persistent_disk: None,
            recording: viv_sandbox::Recording::default(),
            transcripts: Vec::new(),
            boot_deadline_seconds: DEADLINE.as_secs(),
        };
        let artifacts = Artifacts {
            initramfs: viv_image::ensure_initramfs(&cache, &kernel, &guest_binary::GUEST).unwrap(),
            kernel: kernel.vmlinux,
            kernel_digest: kernel.digest,
            root: self.root.clone(),
            root_digest: digest(&self.root),
            layers: self.layers.clone(),
            scratch: viv_image::ensure_scratch(&cache, spec.disk_bytes).unwrap(),
        };
        viv_sandbox::plan(&spec, &artifacts, &viv_sandbox::probe_host(&self.paths)?)
    }

    fn start(&self, template: TemplateUse) -> Running<'_> {
        let mut way = None;
        let request = StartRequest {
            plan: self.plan(template).unwrap(),
            paths: self.paths.clone(),
            executable: self.executable.clone(),
            keys: Default::default(),
            withheld: vec![],
            holdings: Default::default(),
            detached: false,
            place: None,
        };
        let started = self.runtime.block_on(viv_sandbox::start(request, |event| {
            if let Event::Starting(begun) = event {
                way = Some(begun.clone());
            }
        }));
        let sandbox = started.unwrap();
        Running { host: self.host, way: way.unwrap(), _sandbox: sandbox }
    }

    fn make_template(&self) {
        let request = MakeRequest::new(&self.plan(TemplateUse::Auto).unwrap(), &self.paths).unwrap();
        self.runtime.block_on(viv_sandbox::make(&request, &self.executable, |_| {})).unwrap();
    }
}

/// Ends when it is dropped.
struct Running<'a> {
    host: &'a Host,
    way: Way,
    _sandbox: Sandbox,
}

impl Running<'_> {
    fn exec(&self, options: &[&str], command: &[&str]) -> Ran {
        self.host.run(&[&["exec", "--workdir", "/"], options, &["stack", "--"], command].concat())
    }

    fn ok(&self, script: &str) -> String {
        let ran = self.exec(&[], &["sh", "-c", script]);
        assert_eq!(ran.code, 0, "{script}: {ran:?}");
        ran.stdout
    }
}

fn digest(file: &Path) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(std::fs::read(file).unwrap()))
}

/// Whoever makes whiteouts is root.
fn roots_host() -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: making layers takes root");
        return None;
    }
    Host::new()
}

/// `/1` of the first layer and so on, and which layer is the highest.
fn plain_layers(host: &Host, count: usize) -> Vec<PathBuf> {
    let layer = |number: usize| {
        Tree::new(host, &format!("layer-{number}"))
            .file(&format!("layers/{number}"), "")
            .file("highest", &format!("{number}\n"))
            .pack()
    };
    (1..=count).map(layer).collect()
}

#[test]
fn layers_lie_over_each_other_and_cannot_be_written() {
    let Some(host) = roots_host() else { return };
    let root = like_alpine(&host, "root")
        .file("opt/kept", "root\n")
        .file("opt/gone", "root\n")
        .file("opt/back", "root\n")
        .file("opt/hidden/root", "")
        .file("opt/joined/root", "")
        .file("bin/bash", "not a program")
        .pack();
    let first = Tree::new(&host, "first")
        .whiteout("opt/gone")
        .whiteout("opt/back")
        .file("opt/joined/first", "")
        .file("opt/hidden/first", "")
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/ash\nservice:x:321:321::/srv:/bin/sh\n")
        .file("etc/group", "root:x:0:\nservice:x:321:\nhelpers:x:322:service\n")
        .file("etc/skel/.profile", "first\n")
        .pack();
    let second = Tree::new(&host, "second")
        .file("opt/back", "second\n")
        .opaque("opt/hidden")
        .file("opt/hidden/second", "")
        .file("opt/joined/second", "")
        .whiteout("etc/alpine-release")
        .whiteout("etc/skel/.profile")
        .file("etc/skel/.second", "second\n")
        .pack();
    let files = [root.clone(), first.clone(), second.clone()];
    let digests = files.each_ref().map(|file| digest(file));
    let stack = Stack::new(&host, root, vec![first, second]);
    let sandbox = stack.start(TemplateUse::Never);
    assert_eq!(sandbox.ok("cat /opt/kept /opt/back; ls /opt"), "root\nsecond\nback\nhidden\njoined\nkept\n");
    assert_eq!(sandbox.ok("ls /opt/hidden; ls /opt/joined"), "second\nfirst\nroot\nsecond\n");
    assert_eq!(sandbox.exec(&[], &["ls", "/etc/alpine-release"]).code, 1);
    // What names the user is made of what all of them come to.
    assert_eq!(sandbox.ok("id -un; id -G; echo $SHELL; ls -A ~"), "agent\n1000\n/bin/sh\n.second\n");
    let service = sandbox.exec(&["--user", "service"], &["id"]);
    assert_eq!(service.stdout, "uid=321(service) gid=321(service) groups=321(service),322(helpers)\n", "{service:?}");
    assert_eq!(sandbox.exec(&["--user", "nobody"], &["id"]).code, 125, "the layer's accounts are the only ones");
    // The overlay's own: what was in the image can be changed and removed.
    assert_eq!(sandbox.exec(&["--root"], &["sh", "-c", "rm -r /opt/joined && echo x > /opt/kept && ls /opt"]).code, 0);

    // Root tries to write to each disk but the scratch disk, however it is told that it is read-only.
    let attack = "
        for disk in /sys/block/vd*; do
            serial=$(cat $disk/serial); device=/dev/${disk##*/}
            [ $serial = scratch ] && continue
            echo 0 > $disk/ro; busybox blockdev --setrw $device
            dd if=/dev/zero of=$device bs=4096 count=1 conv=notrunc,fsync && echo wrote $serial
            echo tried $serial
        done 2>/dev/null";
    let attacked = sandbox.exec(&["--root"], &["sh", "-c", attack]);
    let mut tried: Vec<&str> = attacked.stdout.lines().collect();
    tried.sort_unstable();
    assert_eq!(tried, ["tried layer-1", "tried layer-2", "tried root"], "{attacked:?}");
    drop(sandbox);
    assert_eq!(files.each_ref().map(|file| digest(file)), digests);
    host.assert_nothing_is_left();
}

#[test]
fn an_image_of_thirty_layers_boots() {
    let Some(host) = roots_host() else { return };
    let stack = Stack::new(&host, like_alpine(&host, "root").pack(), plain_layers(&host, 30));
    let sandbox = stack.start(TemplateUse::Never);
    assert_eq!(sandbox.ok("ls /layers | busybox wc -l; cat /highest"), "30\n30\n");
}

#[test]
fn more_layers_than_a_machine_takes_are_refused_before_it_starts() {
    let Some(host) = roots_host() else { return };
    let layer = plain_layers(&host, 1).remove(0);
    let stack = Stack::new(&host, layer.clone(), vec![layer; 129]);
    let refusal = stack.plan(TemplateUse::Never).unwrap_err();
    assert_eq!(refusal.to_string(), "129 layers over the root image; a machine takes 128");
    host.assert_nothing_is_left();
}

#[test]
fn a_template_holds_its_layers() {
    let Some(host) = roots_host().map(Host::with_own_cache) else { return };
    let layers = plain_layers(&host, 12);
    let stack = Stack::new(&host, like_alpine(&host, "root").pack(), layers.clone());
    stack.make_template();
    let sandbox = stack.start(TemplateUse::Use);
    assert!(matches!(sandbox.way, Way::Template { .. }), "{:?}", sandbox.way);
    assert_eq!(sandbox.ok("ls /layers | busybox wc -l; cat /highest"), "12\n12\n");
    drop(sandbox);
    host.assert_nothing_is_left();
    // In another order they are another image.
    let turned = Stack { layers: layers.into_iter().rev().collect(), ..stack };
    let sandbox = turned.start(TemplateUse::Use);
    assert!(matches!(sandbox.way, Way::Cold { .. }), "{:?}", sandbox.way);
    assert_eq!(sandbox.ok("cat /highest"), "1\n");
}

#[test]
fn a_small_distribution_runs() {
    let Some(host) = Host::new() else { return };
    let image = like_alpine(&host, "alpine").pack();
    let image = format!("erofs:{}", image.display());
    host.write("question", "who is there?\n");
    let script = "id -un; cat question > answer; cat /workspace/answer; echo $SHELL $HOME $PATH; \
                  touch /tmp/x /run/lock/x ~/x && stat -c %a /tmp && ls /etc/sudoers.d; exec id -G";
    let ran = host.run(&[&["run", "--image", &image], &SMALL[..], &["--entrypoint", "sh -c", "--", script]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let path = "/home/agent/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let expected = format!("agent\nwho is there?\n/bin/sh /home/agent {path}\n1777\nviv\n1000\n");
    assert_eq!(ran.stdout, expected, "{ran:?}");

    // A login shell, fed from here.
    let mut viv = host.viv(&[&["run", "--image", &image], &SMALL[..]].concat());
    let mut viv = viv.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    viv.stdin.take().unwrap().write_all(b"echo $0; exit 7\n").unwrap();
    let ran = finish(viv);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "-sh\n"), "{ran:?}");
    host.assert_nothing_is_left();
}

#[test]
fn an_image_without_a_shell_runs_what_is_named() {
    let Some(host) = Host::new() else { return };
    let image = Tree::new(&host, "distroless")
        .busybox("busybox")
        .file(
            "usr/share/accounts",
            "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n",
        )
        .link("etc/passwd", "/usr/share/accounts")
        .file("etc/group", "root:x:0:\nnonroot:x:65532:\n")
        .link("run", "/var/run")
        .link("var/run", "/run")
        .link("tmp", "/var/tmp")
        .link("etc/ssl", "/nowhere")
        .directory("home/nonroot")
        .pack();
    let ran = host.run(&[&["run", "--image", image.to_str().unwrap()], &SMALL[..]].concat());
    assert_eq!(ran.code, 127, "{ran:?}");
    assert!(ran.stderr.contains("there is no shell inside for agent, no /bin/sh: name a program to run"), "{ran:?}");

    let stack = Stack::new(&host, image, vec![]);
    let sandbox = stack.start(TemplateUse::Never);
    let id = |user: &str| sandbox.exec(&["--user", user], &[BUSYBOX, "id"]).stdout;
    assert_eq!(id("agent"), "uid=1000(agent) gid=1000(agent) groups=1000(agent)\n");
    assert_eq!(id("root"), "uid=0(root) gid=0(root) groups=0(root)\n");
    assert_eq!(id("nonroot"), "uid=65532(nonroot) gid=65532(nonroot) groups=65532(nonroot)\n");
    assert_eq!(id("65532"), id("nonroot"));
    assert_eq!(id("4242"), "uid=4242 gid=0(root) groups=0(root)\n");
    assert_eq!(id("4242:4343"), "uid=4242 gid=4343 groups=4343\n");
    assert_eq!(id("agent:nonroot"), "uid=1000(agent) gid=65532(nonroot) groups=65532(nonroot)\n");
    let stranger = sandbox.exec(&["--user", "stranger"], &[BUSYBOX, "id"]);
    assert_eq!(stranger.code, 125, "{stranger:?}");
    assert!(stranger.stderr.contains("there is no user `stranger` inside"), "{stranger:?}");
    for place in
        ["/tmp/x", "/run/viv", "/var/tmp", "/proc/self/status", "/sys/block", "/dev/pts/ptmx", "/etc/resolv.conf"]
    {
        assert_eq!(sandbox.exec(&["--root"], &[BUSYBOX, "touch", "/tmp/x"]).code, 0);
        let seen = sandbox.exec(&[], &[BUSYBOX, "ls", "-d", place]);
        assert_eq!(seen.code, 0, "{seen:?}");
    }
}

#[test]
fn an_image_of_one_program_runs_it() {
    let Some(host) = Host::new() else { return };
    let image = Tree::new(&host, "scratch").busybox("busybox").pack();
    let stack = Stack::new(&host, image, vec![]);
    let sandbox = stack.start(TemplateUse::Never);
    let passwd = sandbox.exec(&[], &[BUSYBOX, "cat", "/etc/passwd"]);
    assert_eq!(passwd.stdout, "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n", "{passwd:?}");
    let shadow = sandbox.exec(&["--root"], &[BUSYBOX, "cat", "/etc/shadow", "/etc/group"]);
    assert_eq!(shadow.stdout, "agent:*:19000:0:99999:7:::\nroot:x:0:\nagent:x:1000:\n", "{shadow:?}");
    let root = sandbox.exec(&[], &[BUSYBOX, "ls", "/"]);
    let there = "busybox dev etc home proc root run sys tmp usr var workspace";
    for name in there.split(' ') {
        assert!(root.stdout.lines().any(|line| line == name), "no {name}: {root:?}");
    }
    let made = sandbox.exec(&[], &[BUSYBOX, "touch", "/tmp/x", "/var/tmp/x", "/home/agent/x", "/workspace/x"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(host.project().join("x").exists());
    assert_eq!(sandbox.exec(&[], &["true"]).code, 127);
}

#[test]
fn a_damaged_kernel_or_root_image_is_never_booted() {
    let Some(host) = Host::new().map(Host::with_own_cache) else { return };
    // All that a start takes is there, and nothing more can be made.
    let cache = Cache::open(&host.cache()).unwrap();
    let kernel = viv_image::ensure_kernel(&cache, &KernelSource::Default, &NoProgress).unwrap();
    viv_image::ensure_initramfs(&cache, &kernel, &guest_binary::GUEST).unwrap();
    viv_image::ensure_root(&cache, &ImageSource::Default, &NoProgress).unwrap();
    let builds = host.cache().join("tmp");
    if builds.exists() {
        std::fs::remove_dir_all(&builds).unwrap();
    }
    std::fs::write(&builds, "no directory").unwrap();
    let shared = std::fs::canonicalize(host.cache().join("blobs")).unwrap();
    // The kernel last: what is damaged is forgotten, and nothing starts without a kernel.
    for (kind, name) in [("root", "root.erofs"), ("kernel", "vmlinux")] {
        let references = std::fs::read_dir(host.cache().join("refs").join(kind)).unwrap();
        let reference = references.map(|entry| entry.unwrap().path()).next().unwrap();
        let made: serde_json::Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
        let file = made["files"].as_array().unwrap().iter().find(|file| file["name"] == name).unwrap();
        let blob = format!("sha256-{}", file["digest"].as_str().unwrap());
        let blobs = host.cache().join("blobs");
        if blobs.is_symlink() {
            std::fs::remove_file(&blobs).unwrap();
        } else {
            std::fs::remove_dir_all(&blobs).unwrap();
        }
        std::fs::create_dir(&blobs).unwrap();
        for entry in std::fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_name().to_str() != Some(&blob) {
                symlink(entry.path(), blobs.join(entry.file_name())).unwrap();
            }
        }
        // One bit of one byte in the middle differs, and neither the size nor the time tells of it.
        let damaged = blobs.join(&blob);
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--sparse=always"]).arg(shared.join(&blob)).arg(&damaged);
        assert!(copy.status().unwrap().success());
        let modified = damaged.metadata().unwrap().modified().unwrap();
        std::fs::set_permissions(&damaged, PermissionsExt::from_mode(0o600)).unwrap();
        let opened = std::fs::File::options().read(true).write(true).open(&damaged).unwrap();
        let middle = opened.metadata().unwrap().len() / 2;
        let mut byte = [0];
        opened.read_exact_at(&mut byte, middle).unwrap();
        opened.write_all_at(&[byte[0] ^ 1], middle).unwrap();
        opened.set_modified(modified).unwrap();
        std::fs::set_permissions(&damaged, PermissionsExt::from_mode(0o400)).unwrap();

        let ran = host.run(&["run", "--kernel", "debian", "--verbose", "--", "true"]);
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(ran.stderr.contains(&format!("is damaged ({name} has other content): making it again")), "{ran:?}");
        assert!(ran.ways().is_empty(), "{ran:?}");
        host.assert_nothing_is_left();
    }
}
