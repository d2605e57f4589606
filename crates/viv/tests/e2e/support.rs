//! A host for one test: who runs `viv`, where, and what became of it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Ten times what a boot took on a machine of two busy cores, without KVM.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// Between two looks at something that is waited for.
const GLANCE: Duration = Duration::from_millis(20);

/// A host directory tree and the user who runs `viv` in it.
pub struct Host {
    root: tempfile::TempDir,
    viv: PathBuf,
    user: Option<(u32, u32)>,
    cache_home: PathBuf,
    /// A file of the host, and what is in its place for `viv` and what it starts.
    replaced: Option<(&'static str, PathBuf)>,
    /// Whether `viv` is run with the environment of whoever runs the tests.
    own_clients: bool,
    /// A process whose namespaces commands are run in.
    namespaces: Option<u32>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// The exit code, or 128 plus the signal that ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Whether the sandbox was restored from a template in the end, as `-v` says.
    pub fn is_from_template(&self) -> bool {
        self.ways().last().is_some_and(|way| way.starts_with("from template "))
    }

    /// Why it started cold in the end, as `-v` says.
    pub fn cold_because(&self) -> Option<&str> {
        self.ways().last().and_then(|way| way.strip_prefix("cold start: "))
    }

    /// Each way that was tried.
    pub fn ways(&self) -> Vec<&str> {
        let is_way = |line: &&str| line.starts_with("from template ") || line.starts_with("cold start: ");
        self.stderr.lines().filter(is_way).collect()
    }
}

impl Host {
    /// A host for whoever runs the tests; `None`, loudly, where the images were not prepared. In
    /// CI that is a failure.
    pub fn new() -> Option<Self> {
        let cache_home = prepared("VIV_TEST_CACHE_HOME")?;
        Some(Self::with(cache_home.into(), None))
    }

    /// A host for an ordinary user: the test user if root runs the tests.
    pub fn ordinary() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return Self::new();
        }
        let name = prepared("VIV_TEST_USER")?;
        let users = std::fs::read_to_string("/etc/passwd").unwrap();
        let fields: Vec<&str> = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields[0] == name)
            .expect("the test user exists");
        let ids = (fields[2].parse().unwrap(), fields[3].parse().unwrap());
        Some(Self::with(Path::new(fields[5]).join(".cache"), Some(ids)))
    }

    fn with(cache_home: PathBuf, user: Option<(u32, u32)>) -> Self {
        let root = tempfile::Builder::new().prefix("viv-e2e-").tempdir().unwrap();
        // The user may not be able to enter the directory that viv was built in.
        let viv = root.path().join("viv");
        std::fs::copy(env!("CARGO_BIN_EXE_viv"), &viv).unwrap();
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let host = Self { root, viv, user, cache_home, replaced: None, own_clients: false, namespaces: None };
        for directory in ["home", "home/project", "run", "state", "config"] {
            let path = host.path(directory);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
            host.own(&path);
        }
        // Templates are made when a test asks for one: a maker in the background would outlive others.
        std::fs::create_dir(host.path("config/viv")).unwrap();
        std::fs::write(host.path("config/viv/config.toml"), "[run]\ntemplate = \"use\"\n").unwrap();
        host.own(&host.path("config/viv"));
        host
    }

    /// The same host with a cache of its own, which holds the prepared kernel and image and no
    /// templates: a test can damage what it makes there.
    pub fn with_own_cache(mut self) -> Self {
        let shared = self.cache();
        self.cache_home = self.path("cache");
        let own = self.cache();
        std::fs::create_dir_all(&own).unwrap();
        for directory in ["blobs", "scratch"] {
            symlink(shared.join(directory), own.join(directory)).unwrap();
        }
        let mut copy = Command::new("cp");
        copy.arg("--archive").args([shared.join("refs"), shared.join("host")]).arg(&own);
        assert!(copy.status().unwrap().success());
        for path in [&self.cache_home, &own] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
            self.own(path);
        }
        self
    }

    /// The same host, on which names mean these addresses. Root's alone: it takes a mount namespace.
    pub fn with_names(self, names: &[(&str, &str)]) -> Self {
        let lines: String = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        self.with_file("/etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{lines}"))
    }

    /// The same host, which has another file in the place of one. Root's alone, too, but `viv` may be
    /// run by the test user.
    pub fn with_file(mut self, path: &'static str, content: &str) -> Self {
        let replacement = self.path("replacement");
        std::fs::write(&replacement, content).unwrap();
        std::fs::set_permissions(&replacement, PermissionsExt::from_mode(0o644)).unwrap();
        self.replaced = Some((path, replacement));
        self
    }

    /// The same host, on which package managers are configured as they are for whoever runs the tests; of what another
    /// user cannot read, npm alone.
    pub fn with_own_clients(mut self) -> Self {
        self.own_clients = true;
        let settings = std::env::home_dir().and_then(|home| std::fs::read(home.join(".npmrc")).ok());
        if let Some(settings) = settings.filter(|_| self.user.is_some()) {
            let copy = self.path("home/.npmrc");
            std::fs::write(&copy, settings).unwrap();
            self.own(&copy);
        }
        self
    }

    /// Has commands run in the namespaces of a process from now on, or where the tests are.
    pub fn enter(&mut self, process: Option<u32>) {
        self.namespaces = process;
    }

    /// The cache that `viv` is told of: `XDG_CACHE_HOME`.
    pub fn cache_home(&self) -> &Path {
        &self.cache_home
    }

    /// What `viv` keeps for later: `XDG_CACHE_HOME/viv`.
    pub fn cache(&self) -> PathBuf {
        self.cache_home.join("viv")
    }

    /// Makes a file or directory the user's.
    pub fn own(&self, path: &Path) {
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// The uid that owns what the user makes.
    pub fn uid(&self) -> u32 {
        self.user.map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, _)| uid)
    }

    /// A path of this host, such as `home/project` or `run`.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(relative)
    }

    /// The directory that `viv` is run in, which the guest sees under the same path.
    pub fn project(&self) -> PathBuf {
        self.path("home/project")
    }

    /// Writes a file of the user's into the project.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.project().join(relative);
        std::fs::write(&path, content).unwrap();
        self.own(&path);
        path
    }

    /// A host program, run by the user in the project.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        if self.namespaces.is_some() {
            return self.entering(program, self.user);
        }
        let mut command = self.roots_command(program);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// A program run in the namespaces by root.
    pub fn root_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.entering(program, None)
    }

    fn entering(&self, program: impl AsRef<OsStr>, user: Option<(u32, u32)>) -> Command {
        let target = self.namespaces.expect("there are namespaces").to_string();
        let mut command = self.roots_command("nsenter");
        command.args(["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        let mut directory = std::ffi::OsString::from("--wdns=");
        directory.push(self.project());
        command.arg(directory);
        if let Some((uid, gid)) = user {
            command.args(["--setuid", &uid.to_string(), "--setgid", &gid.to_string()]);
        }
        command.arg("--").arg(program);
        command
    }

    /// The same, run by whoever runs the tests.
    fn roots_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.project()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.path("home"));
        if self.own_clients {
            command.envs(std::env::vars_os().filter(|(name, _)| self.user.is_none() || name != "HOME"));
        }
        command.env("LANG", "C.UTF-8").env("TERM", "xterm-256color");
        command.env("XDG_CACHE_HOME", &self.cache_home).env("XDG_CONFIG_HOME", self.path("config"));
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("run"));
        command
    }

    /// `viv`, run by the user in the project.
    pub fn viv(&self, arguments: &[&str]) -> Command {
        let Some((path, replacement)) = &self.replaced else {
            let mut command = self.command(&self.viv);
            command.args(arguments);
            return command;
        };
        let mut command = self.roots_command("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec \"$@\""]);
        command.arg(replacement).arg(path);
        if let Some((uid, gid)) = self.user {
            command.args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
        }
        command.arg(&self.viv).args(arguments);
        command
    }

    /// `viv`'s path.
    pub fn executable(&self) -> &Path {
        &self.viv
    }

    /// Runs `viv` to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.viv(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a sandbox that stays until it is dropped, and waits until it runs.
    pub fn sandbox(&self, options: &[&str]) -> Sandbox<'_> {
        self.begin("fixture", "--quiet", options, &[])
    }

    /// The same for one of another name.
    pub fn named_sandbox(&self, name: &'static str, options: &[&str]) -> Sandbox<'_> {
        self.begin(name, "--quiet", options, &[])
    }

    /// The same as `fixture`, with more in the environment of `viv`.
    pub fn sandbox_with(&self, options: &[&str], environment: &[(&str, &str)]) -> Sandbox<'_> {
        self.begin("fixture", "--quiet", options, environment)
    }

    /// The same, which has to come from a template.
    pub fn clone_of_template(&self, options: &[&str]) -> Sandbox<'_> {
        let mut sandbox = self.begin("fixture", "--verbose", options, &[]);
        let mut said = Ran { code: 0, stdout: String::new(), stderr: String::new() };
        // Said before it was up. Byte by byte, so that what is said later is left for others.
        let mut byte = [0];
        while said.ways().is_empty() || !said.stderr.ends_with('\n') {
            sandbox.client.stderr.as_mut().unwrap().read_exact(&mut byte).unwrap();
            said.stderr.push(char::from(byte[0]));
        }
        assert!(said.is_from_template(), "{said:?}");
        sandbox
    }

    fn begin(
        &self,
        name: &'static str,
        verbosity: &str,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Sandbox<'_> {
        let mut arguments = vec!["run", verbosity, "--name", name];
        arguments.extend(options);
        arguments.extend(["--", "sh", "-c", "echo up; exec sleep infinity"]);
        let mut client = self.viv(&arguments);
        client.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = client.spawn().unwrap();
        let mut up = [0; 3];
        let read = client.stdout.as_mut().unwrap().read_exact(&mut up);
        if read.is_err() {
            panic!("the sandbox did not come up: {:?}", finish(client));
        }
        Sandbox { host: self, name, client }
    }

    /// What `viv ps --json` says.
    pub fn ps(&self) -> Vec<Value> {
        let listed = self.run(&["ps", "--json"]);
        assert_eq!(listed.code, 0, "{listed:?}");
        match serde_json::from_str(&listed.stdout).unwrap() {
            Value::Array(records) => records,
            Value::Object(mut object) => match object.remove("sandboxes") {
                Some(Value::Array(records)) => records,
                other => panic!("{other:?}"),
            },
            other => panic!("{other}"),
        }
    }

    /// Waits until no process and no run directory of this host's sandboxes is left, after a `viv`
    /// call that would see them.
    pub fn assert_nothing_is_left(&self) {
        let begun = Instant::now();
        loop {
            let listed = self.ps();
            let directories = std::fs::read_dir(self.path("run/viv"))
                .map_or(0, |entries| entries.filter(|entry| !hidden(entry.as_ref().unwrap())).count());
            let processes = self.processes();
            if listed.is_empty() && directories == 0 && processes.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < DEADLINE,
                "left behind: {listed:?}, {directories} directories, processes {processes:?}"
            );
            std::thread::sleep(GLANCE);
        }
    }

    /// Every process that was started with this host's runtime directory or executable.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = self.root.path().as_os_str().as_encoded_bytes();
        let mentions = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path();
            let numeric = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
            if !numeric || entry.file_name().to_str() == Some(&std::process::id().to_string()) {
                continue;
            }
            let environment = std::fs::read(path.join("environ")).unwrap_or_default();
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let executable = std::fs::read_link(path.join("exe")).unwrap_or_default();
            // A QEMU that writes to a deleted scratch disk in our state directory is one of ours.
            let open = std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
            let holds =
                open.flat_map(|fd| std::fs::read_link(fd.path())).any(|link| link.starts_with(self.root.path()));
            if holds || executable.starts_with(self.root.path()) || mentions(&environment) || mentions(&line) {
                let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap();
                found.push((pid, String::from_utf8_lossy(&line).into_owned()));
            }
        }
        found
    }
}

/// Nothing that a test started outlives it: what a failed one leaves is ended, and one that leaves something fails.
impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let begun = Instant::now();
            while !self.processes().is_empty() && begun.elapsed() < DEADLINE {
                std::thread::sleep(GLANCE);
            }
        }
        let left = self.processes();
        // Each of them may have started another one meanwhile.
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            let found = self.processes();
            if found.is_empty() {
                break;
            }
            found.into_iter().for_each(|(pid, _)| kill(pid, rustix::process::Signal::KILL));
            std::thread::sleep(GLANCE);
        }
        assert!(left.is_empty() || std::thread::panicking(), "left behind by a test that passed: {left:?}");
    }
}

/// The templates of a cache.
impl Host {
    /// Where they are.
    pub fn templates(&self) -> PathBuf {
        self.cache().join("templates")
    }

    /// What is there of them: templates by their keys, and what begins with a dot.
    pub fn entries(&self) -> (Vec<String>, Vec<String>) {
        let entries = std::fs::read_dir(self.templates()).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).partition(|name| !name.starts_with('.'))
    }

    /// Has the template of these options made, and returns its directory.
    pub fn make_template(&self, options: &[&str]) -> PathBuf {
        let before = self.entries().0;
        let ran = self.run(&[&["template", "build"], options].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        self.until_made(&before)
    }

    /// Waits until a template is there that was not `before`, and its maker gone.
    pub fn until_made(&self, before: &[String]) -> PathBuf {
        let mut made = Vec::new();
        until("a template is made", || {
            let (keys, others) = self.entries();
            if let Some(failure) = others.iter().find(|name| name.starts_with(".failed-")) {
                panic!("{}", std::fs::read_to_string(self.templates().join(failure)).unwrap_or_default());
            }
            made = keys.into_iter().filter(|key| !before.contains(key)).collect();
            !made.is_empty() && self.makers().is_empty()
        });
        assert_eq!(made.len(), 1, "{made:?}");
        self.templates().join(&made[0])
    }

    /// The processes that make templates of this host.
    pub fn makers(&self) -> Vec<u32> {
        let is_maker = |line: &str| line.contains("internal-template-maker");
        self.processes().into_iter().filter(|(_, line)| is_maker(line)).map(|(pid, _)| pid).collect()
    }
}

/// Locks and spares are not sandboxes.
fn hidden(entry: &std::fs::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// A running sandbox, named `fixture` unless otherwise asked. Stopped when dropped.
pub struct Sandbox<'a> {
    host: &'a Host,
    name: &'static str,
    client: Child,
}

impl Sandbox<'_> {
    /// Runs a shell script inside, as the agent.
    pub fn sh(&self, script: &str) -> Ran {
        self.host.run(&["exec", self.name, "--", "sh", "-c", script])
    }

    /// Runs a shell script inside, as root.
    pub fn root_sh(&self, script: &str) -> Ran {
        self.host.run(&["exec", "--root", self.name, "--", "sh", "-c", script])
    }

    /// Runs a shell script inside that has to succeed; returns its output.
    pub fn ok(&self, script: &str) -> String {
        let ran = self.sh(script);
        assert_eq!(ran.code, 0, "{script}: {ran:?}");
        ran.stdout
    }

    /// What `viv ps` says of it.
    pub fn record(&self) -> Value {
        self.host.ps().into_iter().find(|record| record["name"] == self.name).expect("it is listed")
    }

    /// A process of it, by its field in the record, or the client.
    pub fn pid(&self, which: &str) -> u32 {
        if which == "client" {
            return self.client.id();
        }
        u32::try_from(self.record()[which].as_u64().unwrap_or_else(|| panic!("no {which} in {}", self.record())))
            .unwrap()
    }

    /// Waits for the client to end by itself.
    pub fn wait(mut self) -> Ran {
        let placeholder = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let client = std::mem::replace(&mut self.client, placeholder);
        finish(client)
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.client.try_wait() {
            let _ = self.host.run(&["stop", self.name]);
        }
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// Waits for a command, reading what it prints.
pub fn finish(child: Child) -> Ran {
    finish_within(child, DEADLINE)
}

/// The same for what takes longer than a test usually does.
pub fn finish_within(child: Child, deadline: Duration) -> Ran {
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output: Output = match receiver.recv_timeout(deadline) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            kill(pid, rustix::process::Signal::KILL);
            let output = receiver.recv_timeout(deadline);
            panic!("not finished after {deadline:?}: {output:?}");
        }
    };
    let status = output.status;
    Ran {
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Sends a signal.
pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(GLANCE);
    }
}

fn prepared(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        let missing = format!("{variable} is not set: run the tests with `cargo xtask test`");
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("SKIPPED: {missing}");
    }
    value
}
