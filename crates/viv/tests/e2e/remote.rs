//! OpenSSH's own client, and what uses it, on real sandboxes: without a port, a network or a question.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{DEADLINE, Host, Ran, finish, finish_within, kill, until};

/// Ten times what a layer of one package takes to be built.
const OF_A_LAYER: Duration = Duration::from_secs(1200);

/// A host on which ssh knows the sandboxes, once and for all.
fn host() -> Option<Host> {
    if Command::new("ssh").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no ssh: cargo xtask setup --test");
        eprintln!("SKIPPED: there is no ssh");
        return None;
    }
    let host = Host::ordinary()?;
    let installed = host.run(&["ssh-config", "--install"]);
    assert_eq!(installed.code, 0, "{installed:?}");
    Some(host)
}

/// A program of OpenSSH, as one uses it whose configuration has the one line. It has no terminal to ask at.
fn openssh(host: &Host, program: &str, arguments: &[&str]) -> Command {
    let mut command = host.command("setsid");
    command.args(["--wait", program, "-F"]).arg(host.path("home/.ssh/config")).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ssh(host: &Host, arguments: &[&str]) -> Ran {
    finish(openssh(host, "ssh", arguments).spawn().unwrap())
}

/// What rsync, git and others start in place of `ssh`.
fn as_a_command(host: &Host) -> String {
    format!("ssh -F {}", host.path("home/.ssh/config").display())
}

/// Runs a program of the host to its end, successfully.
fn ok(command: &mut Command) -> Ran {
    let ran = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

#[test]
fn a_session_is_as_one_of_exec() {
    let Some(host) = host() else { return };
    let sandbox = host.sandbox(&["--net", "none", "--env", "GREETING=it's \"me\" $HOME"]);
    // Exit code and streams.
    let ran = ssh(&host, &["viv-fixture", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (7, "out\n", "err\n"), "{ran:?}");
    // Input, whole, and an end.
    let mut command =
        openssh(&host, "ssh", &["viv-fixture", "sha256sum; echo done"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = command.stdin.take().unwrap();
    std::thread::spawn(move || stdin.write_all(&vec![0; 3_000_000]).unwrap());
    let sum = sandbox.ok("head -c 3000000 /dev/zero | sha256sum; echo done");
    assert_eq!(finish(command).stdout, sum);
    // The same person in the same place, who finds the same.
    let facts = "id -un; pwd; umask; ulimit -n";
    assert_eq!(ssh(&host, &["viv-fixture", facts]).stdout, sandbox.ok(facts));
    let variables = |text: &str| -> BTreeMap<String, String> {
        let all = text.split('\0').filter_map(|entry| entry.split_once('='));
        let own = |name: &str| name.starts_with("SSH_") || ["MOTD_SHOWN", "SHLVL", "_", "MAIL"].contains(&name);
        all.filter(|(name, _)| !own(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (here, there) = (ssh(&host, &["viv-fixture", "env -0"]).stdout, sandbox.ok("env -0"));
    let mut expected = variables(&there);
    // What is asked for a program of `viv run` is not for others.
    expected.remove("OLDPWD");
    assert_eq!(variables(&here), expected);
    // A terminal, also of a kind that nobody inside has heard of.
    let mut command = openssh(&host, "ssh", &["-tt", "viv-fixture", "test -t 0 && echo $TERM"]);
    let ran = finish(command.env("TERM", "xterm-of-tomorrow").spawn().unwrap());
    assert!(ran.stdout.contains("xterm-256color\r\n"), "{ran:?}");
    // By its id; by viv, which takes the beginning of one, too.
    let id = sandbox.record()["id"].as_str().unwrap().to_owned();
    assert_eq!(ssh(&host, &[&format!("viv-{id}"), "hostname"]).stdout, "fixture\n");
    let ran = host.run(&["ssh", "fixt", "--", "echo $PPID | grep -c .; exit 5"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (5, "1\n"), "{ran:?}");
    let ran = host.run(&["ssh", &id, "-o", "SetEnv=COLORTERM=truecolor", "--", "echo $COLORTERM"]);
    assert_eq!(ran.stdout, "truecolor\n", "{ran:?}");
    // What ends is no host any more.
    drop(sandbox);
    let ran = ssh(&host, &["viv-fixture", "true"]);
    assert!(ran.code == 255 && ran.stderr.contains("there is no sandbox for ssh's host viv-fixture"), "{ran:?}");
    let ran = host.run(&["ssh", "fixture"]);
    assert!(ran.code == 125 && ran.stderr.contains("there is no sandbox called"), "{ran:?}");
    host.assert_nothing_is_left();
}

#[test]
fn files_and_commits_go_both_ways() {
    let Some(host) = host() else { return };
    let has_rsync = Command::new("rsync").arg("--version").output().is_ok();
    if !has_rsync {
        assert!(std::env::var_os("CI").is_none(), "there is no rsync: cargo xtask setup --test");
        eprintln!("SKIPPED: rsync, which is not there");
    }
    let options: &[&str] = if has_rsync { &["--net", "none", "-p", "rsync"] } else { &["--net", "none"] };
    if has_rsync {
        let built = host.viv(&["image", "build", "-p", "rsync"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let built = finish_within(built.unwrap(), OF_A_LAYER);
        assert_eq!(built.code, 0, "{built:?}");
    }
    let sandbox = host.sandbox(options);
    let content: Vec<u8> = (0..2_000_000_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(2_000_000)
        .collect();
    let out = host.path("home/out ü.bin");
    std::fs::write(&out, &content).unwrap();
    host.own(&out);
    let back = host.path("home/back.bin");

    // scp by SFTP and by its old protocol.
    for protocol in [&[][..], &["-O"]] {
        let to = [protocol, &[out.to_str().unwrap(), "viv-fixture:/tmp/in.bin"]].concat();
        ok(&mut openssh(&host, "scp", &to));
        assert_eq!(sandbox.ok("stat -c '%s %U' /tmp/in.bin"), "2000000 agent\n");
        ok(&mut openssh(&host, "scp", &[protocol, &["viv-fixture:/tmp/in.bin", back.to_str().unwrap()]].concat()));
        assert_eq!(std::fs::read(&back).unwrap(), content);
        std::fs::remove_file(&back).unwrap();
    }
    // What is relative is so to the workspace.
    host.write("here.txt", "here");
    ok(&mut openssh(&host, "scp", &["viv-fixture:here.txt", back.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "here");

    let git = |arguments: &[&str]| {
        let mut git = host.command("git");
        git.args(["-c", "user.name=A", "-c", "user.email=a@example.com"]).args(arguments);
        git.env("GIT_SSH_COMMAND", as_a_command(&host)).current_dir(host.path("home/repository"));
        ok(&mut git).stdout
    };
    std::fs::create_dir(host.path("home/repository")).unwrap();
    host.own(&host.path("home/repository"));
    git(&["init", "-q", "-b", "main"]);
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    sandbox.ok("git init -q --bare -b main /home/agent/there.git");
    git(&["push", "-q", "viv-fixture:/home/agent/there.git", "main"]);
    assert_eq!(sandbox.ok("git -C /home/agent/there.git log --format=%s main"), "first\n");
    sandbox.ok("git clone -q /home/agent/there.git /tmp/clone && git -C /tmp/clone commit -q --allow-empty -m second && git -C /tmp/clone push -q origin main");
    git(&["fetch", "-q", "ssh://viv-fixture/home/agent/there.git", "main"]);
    assert_eq!(git(&["log", "--format=%s", "FETCH_HEAD"]), "second\nfirst\n");

    if has_rsync {
        let rsync = |from: &str, to: &str| {
            ok(host.command("rsync").args(["-a", "-e", &as_a_command(&host), from, to]));
        };
        rsync(out.to_str().unwrap(), "viv-fixture:/tmp/synced.bin");
        assert_eq!(sandbox.ok("cmp /tmp/in.bin /tmp/synced.bin && echo same"), "same\n");
        let tree = host.path("home/tree");
        sandbox.ok("mkdir -p /tmp/tree/a && echo b > /tmp/tree/a/b && ln -s a/b /tmp/tree/link");
        rsync("viv-fixture:/tmp/tree/", tree.to_str().unwrap());
        assert_eq!(std::fs::read_to_string(tree.join("link")).unwrap(), "b\n");
    }
}

/// What editors do: one connection, over which they reach ports of the guest's loopback interface.
#[test]
fn ports_inside_are_reached_over_the_connection() {
    let Some(host) = host() else { return };
    let sandbox = host.sandbox(&["--net", "none"]);
    let serve = "python3 -u -c \"
import socket
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(); print(l.getsockname()[1])
s, _ = l.accept(); s.sendall(s.recv(100).upper()); s.close()\"";
    let mut server = host.viv(&["exec", "fixture", "--", "sh", "-c", serve]).stdout(Stdio::piped()).spawn().unwrap();
    let mut inside = String::new();
    while !inside.ends_with('\n') {
        let mut byte = [0];
        server.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        inside.push(char::from(byte[0]));
    }
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let forward = format!("{free}:127.0.0.1:{}", inside.trim());
    let connection = openssh(&host, "ssh", &["-o", "ExitOnForwardFailure=yes", "-L", &forward, "viv-fixture", "cat"]);
    let mut connection = { connection }.stdin(Stdio::piped()).spawn().unwrap();
    let mut stream = None;
    until("ssh listens", || {
        stream = TcpStream::connect(free).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HELLO");
    // ssh stays as long as a connection does.
    drop(stream);
    drop(connection.stdin.take());
    assert_eq!(finish(connection).code, 0);
    let _ = server.wait();
    // Nothing of it goes on inside.
    until("its sshd has ended", || sandbox.sh("pgrep sshd").code == 1);
}

#[test]
fn a_wrong_host_key_is_refused_and_a_new_sandbox_has_its_own() {
    let Some(host) = host() else { return };
    let known = || std::fs::read_to_string(host.path("state/viv/ssh/known_hosts")).unwrap();
    let sandbox = host.sandbox(&["--net", "none"]);
    // The first time is as good as any: the key is known before ssh asks.
    assert_eq!(ssh(&host, &["viv-fixture", "echo first"]).stdout, "first\n");
    let first = known();
    assert!(first.contains("viv-fixture,viv-"), "{first}");
    // Only root inside, and only in memory.
    let kept = sandbox.root_sh("stat -c '%a %U' /run/viv/ssh/host_key; findmnt -no FSTYPE -T /run/viv/ssh; find / -xdev -name '*host*key*' -not -path '/run/*' -not -path '/usr/*' -not -path '/var/lib/dpkg/*'");
    assert_eq!(kept.stdout, "600 root\ntmpfs\n", "{kept:?}");
    // Of the user's key, the public half alone.
    let public = std::fs::read_to_string(host.path("state/viv/ssh/id_ed25519.pub")).unwrap();
    assert_eq!(sandbox.root_sh("cat /run/viv/ssh/authorized_keys").stdout, public);

    // Someone else answers in its place.
    let other = "mv /usr/sbin/sshd /usr/sbin/sshd.real
ssh-keygen -q -t ed25519 -N '' -f /etc/other
cat > /usr/sbin/sshd <<'E'
#!/bin/sh
sed -i 's,^HostKey .*,HostKey /etc/other,' /run/viv/ssh/sshd_config
exec /usr/sbin/sshd.real \"$@\"
E
chmod 755 /usr/sbin/sshd";
    assert_eq!(sandbox.root_sh(other).code, 0);
    let ran = ssh(&host, &["viv-fixture", "echo reached"]);
    assert!(ran.code == 255 && ran.stdout.is_empty(), "{ran:?}");
    assert!(ran.stderr.contains("Host key verification failed"), "{ran:?}");
    assert_eq!(known(), first, "the list is the host's, whatever the guest says");
    // Or nobody.
    assert_eq!(sandbox.root_sh("rm /usr/sbin/sshd").code, 0);
    let ran = ssh(&host, &["viv-fixture", "true"]);
    assert!(ran.code == 255 && ran.stderr.contains("has no OpenSSH server"), "{ran:?}");
    assert!(ran.stderr.contains("packages = [\"openssh-server\"]"), "{ran:?}");

    // Another sandbox of that name has another key, and nobody is asked about it.
    drop(sandbox);
    let _anew = host.sandbox(&["--net", "none"]);
    let ran = ssh(&host, &["viv-fixture", "echo anew"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("anew\n", ""), "{ran:?}");
    let second = known();
    assert_eq!(second.lines().count(), 2, "what has ended is not on the list: {second}");
    assert_ne!(second, first);
}

#[test]
fn the_file_is_written_once_and_tells_of_the_sandboxes() {
    let Some(host) = host() else { return };
    let main = host.path("home/.ssh/config");
    let text = std::fs::read_to_string(&main).unwrap();
    let again = host.run(&["ssh-config", "--install", "--json"]);
    let again: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&again["changed"], &again["included"]), (&false.into(), &true.into()), "{again}");
    assert_eq!(std::fs::read_to_string(&main).unwrap(), text);
    let printed = host.run(&["ssh-config", "--print"]);
    let file = again["file"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), printed.stdout);
    // Nobody else reads or writes what ssh believes.
    for (path, mode) in [(main.as_path(), "600"), (Path::new(file), "600"), (&host.path("state/viv/ssh"), "700")] {
        let shown = ok(host.command("stat").args(["-c", "%a"]).arg(path));
        assert_eq!(shown.stdout.trim(), mode, "{}", path.display());
    }
    assert!(!printed.stdout.contains("\nHost viv-fixture\n"), "{}", printed.stdout);
}

/// A unit's process, without the systemd that would start it: `NOTIFY_SOCKET` is the test's own.
struct Unit {
    child: Child,
    manager: UnixDatagram,
}

impl Unit {
    fn begin(host: &Host, name: &str) -> Self {
        let socket = host.path("run/notify");
        let _ = std::fs::remove_file(&socket);
        let manager = UnixDatagram::bind(&socket).unwrap();
        host.own(&socket);
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut unit = host.viv(&["internal-unit", name]);
        unit.env("NOTIFY_SOCKET", &socket).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: unit.spawn().unwrap(), manager }
    }

    /// Waits for what it tells systemd next.
    fn told(&mut self) -> String {
        let mut buffer = [0; 512];
        let length = self.manager.recv(&mut buffer).unwrap_or_else(|error| {
            let _ = self.child.kill();
            let mut said = String::new();
            let _ = self.child.stderr.take().unwrap().read_to_string(&mut said);
            panic!("{error}: {said}")
        });
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

/// What ssh takes for a sandbox's key.
fn known_key(host: &Host, name: &str) -> String {
    let known = std::fs::read_to_string(host.path("state/viv/ssh/known_hosts")).unwrap();
    let line = known.lines().find(|line| line.split([',', ' ']).any(|word| word == name));
    line.unwrap_or_else(|| panic!("{name} is not in {known}")).split_once(' ').unwrap().1.to_owned()
}

#[test]
fn a_unit_is_ready_with_its_sandbox_and_ends_with_it() {
    let Some(host) = host() else { return };
    host.write("viv.toml", "[sandbox]\nname = \"web\"\nnet = \"none\"\n");
    let up = host.run(&["up"]);
    assert_eq!(up.code, 0, "{up:?}");
    // What is told of it is told by its record; the text is looked at by systemd itself in another test.
    let text = host.run(&["enable", "--print", "web"]);
    assert!(text.stdout.contains("internal-unit web\n") && text.stdout.contains("Type=notify\n"), "{text:?}");

    // It joins what runs, and stops it when it is told to.
    let mut unit = Unit::begin(&host, "web");
    assert_eq!(unit.told(), "READY=1\nSTATUS=sandbox web is up");
    assert_eq!(ssh(&host, &["viv-web", "echo reached"]).stdout, "reached\n");
    let key = known_key(&host, "viv-web");
    kill(unit.child.id(), Signal::TERM);
    assert_eq!(unit.told(), "STOPPING=1");
    let ended = finish(unit.child);
    assert!(ended.code == 0 && ended.stderr.contains("web is stopped"), "{ended:?}");
    host.assert_nothing_is_left();

    // ssh knows what does not run, and says how to have it run.
    assert!(host.run(&["ssh-config", "--print"]).stdout.contains("\nHost viv-web\n"));
    let refused = ssh(&host, &["viv-web", "true"]);
    assert!(refused.code == 255 && refused.stderr.contains("viv start web"), "{refused:?}");

    // It starts what does not run, and fails with it.
    let prepared = host.run(&["internal-unit", "--prepare", "web"]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let mut unit = Unit::begin(&host, "web");
    assert_eq!(unit.told(), "READY=1\nSTATUS=sandbox web is up");
    assert_eq!(ssh(&host, &["viv-web", "echo again"]).stdout, "again\n");
    assert_eq!(known_key(&host, "viv-web"), key, "the sandbox is the same");
    let machine = host.ps().into_iter().find(|record| record["name"] == "web").unwrap();
    kill(u32::try_from(machine["vmm_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    let ended = finish(unit.child);
    assert!(ended.code == 1 && ended.stderr.contains("web has failed"), "{ended:?}");
    host.assert_nothing_is_left();

    // What is not there any more is not tried again.
    assert_eq!(host.run(&["rm", "web"]).code, 0);
    assert_eq!(host.run(&["internal-unit", "web"]).code, 78);
}
