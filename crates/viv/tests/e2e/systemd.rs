//! Units under a real systemd, whatever runs this machine: one that is the first process of namespaces which are the
//! test's own (`systemd/boot.sh`), with a journal, and for an ordinary user a manager of theirs.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Host, Ran, finish, until};

const SMALL: &str = "memory = \"512M\"\ncpus = 1\ndisk = \"1G\"\n";

/// What the test's systemd runs: the journal, and whatever `WANTS` names.
const UNITS: [(&str, &str); 3] = [
    (
        "systemd-journald.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/systemd/journal/stdout\n\
         ListenDatagram=/run/systemd/journal/socket\nSocketMode=0666\nPassCredentials=yes\nPassSecurity=yes\n",
    ),
    (
        // Before it is told to, it writes to memory, where users have no journal of their own.
        "systemd-journald.service",
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.socket\nAfter=systemd-journald.socket\n\
         [Service]\nType=notify\nExecStart=SYSTEMD/systemd-journald\nExecStartPost=journalctl --flush\n\
         Sockets=systemd-journald.socket\nStandardOutput=null\n",
    ),
    // As user@.service has it, without the login that PAM makes of it.
    (
        "manager.service",
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n\
         [Service]\nType=notify\nUser=UID\nGroup=UID\nDelegate=yes\nKillMode=mixed\nExecStart=SYSTEMD/systemd --user\n\
         Environment=HOME=ROOT/home XDG_RUNTIME_DIR=ROOT/run XDG_CONFIG_HOME=ROOT/config\n",
    ),
];

/// A systemd for one host. Nothing of it is left when it is dropped.
struct Systemd {
    /// Ends it when its standard input ends.
    keeper: Child,
}

impl Systemd {
    /// Starts one, which the host's commands then run beside; `None`, loudly, where that cannot be. In CI that is a
    /// failure.
    fn start(host: &mut Host) -> Option<Self> {
        let places = ["/usr/lib/systemd", "/lib/systemd"];
        let program = places.map(Path::new).into_iter().find(|place| place.join("systemd-journald").exists());
        let Some(program) = program.filter(|_| rustix::process::geteuid().is_root()) else {
            let missing = "a systemd of its own takes root and Debian's systemd: cargo xtask setup --test";
            assert!(std::env::var_os("CI").is_none(), "SKIPPED, which CI may not: {missing}");
            eprintln!("SKIPPED: {missing}");
            return None;
        };
        let directory = host.path("systemd");
        let units = directory.join("units");
        std::fs::create_dir_all(&units).unwrap();
        for (name, text) in [("keep.sh", include_str!("systemd/keep.sh")), ("boot.sh", include_str!("systemd/boot.sh"))]
        {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let root = host.path("");
        let root = root.to_str().unwrap().trim_end_matches('/');
        for (name, text) in UNITS {
            let text = text.replace("SYSTEMD", program.to_str().unwrap()).replace("ROOT", root);
            std::fs::write(units.join(name), text.replace("UID", &host.uid().to_string())).unwrap();
        }
        // What units come after unless they say otherwise; here nothing has to be set up.
        for target in ["sysinit.target", "basic.target", "shutdown.target", "multi-user.target"] {
            std::fs::write(units.join(target), "[Unit]\nDefaultDependencies=no\n").unwrap();
        }
        // Root's units are the system's.
        let wanted = if host.uid() == 0 { "systemd-journald.service" } else { "manager.service" };
        std::fs::write(
            units.join("viv-test.target"),
            format!("[Unit]\nDefaultDependencies=no\nRequires={wanted}\nAfter={wanted}\n"),
        )
        .unwrap();

        let mut keeper = Command::new("unshare");
        keeper.args(["--mount", "sh"]).arg(directory.join("keep.sh")).arg(root).arg(host.cache_home());
        keeper.arg(program.join("systemd")).stdin(Stdio::piped());
        let keeper = keeper.spawn().unwrap();
        let systemd = Self { keeper };
        let mut pid = None;
        until("systemd runs", || {
            let is_it = |(_, line): &(u32, String)| line.contains("\0--unit=viv-test.target\0");
            pid = host.processes().into_iter().find(is_it).map(|(pid, _)| pid);
            pid.is_some()
        });
        host.enter(pid);
        until("what it is to run does", || {
            finish(piped(host.root_command("systemctl").args(["is-active", "viv-test.target"]))).code == 0
        });
        Some(systemd)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ok(host: &Host, arguments: &[&str]) -> Ran {
    let ran = host.run(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    ran
}

/// A program beside systemd, run by the host's user.
fn aside(host: &Host, program: &str, arguments: &[&str]) -> Ran {
    finish(piped(host.command(program).args(arguments)))
}

/// The unit of `web`.
struct Unit<'a> {
    host: &'a Host,
}

impl Unit<'_> {
    fn flags(&self) -> &[&str] {
        if self.host.uid() == 0 { &[] } else { &["--user"] }
    }

    fn systemctl(&self, words: &[&str]) -> Ran {
        aside(self.host, "systemctl", &[self.flags(), words, &["viv@web.service"]].concat())
    }

    fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name]).stdout.trim().to_owned()
    }

    fn until(&self, state: &str) {
        until(&format!("the unit is {state}"), || {
            let now = self.property("ActiveState");
            assert!(state == "failed" || now != "failed", "{:?}", self.systemctl(&["status"]));
            now == state
        });
    }

    /// Ended, and nobody minds.
    fn until_inactive(&self) {
        self.until("inactive");
        assert_eq!(self.property("Result"), "success");
    }

    /// The messages of the journal that have the sandbox as a field, once this one is among them.
    fn until_journal_has(&self, message: &str) -> Vec<Value> {
        let mut entries = Vec::new();
        until(&format!("the journal has {message:?}"), || {
            let arguments = [self.flags(), &["--quiet", "--output", "json", "VIV_SANDBOX=web"]].concat();
            let ran = aside(self.host, "journalctl", &arguments);
            entries = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
            entries.iter().any(|entry| entry["MESSAGE"].as_str().is_some_and(|text| text.contains(message)))
        });
        entries
    }

    /// A process of the sandbox, by its field in the record.
    fn pid(&self, which: &str) -> String {
        self.host.ps()[0][which].to_string()
    }

    fn file(&self, name: &str, pid: &str) -> String {
        let read = aside(self.host, "cat", &[&format!("/proc/{pid}/{name}")]);
        assert_eq!(read.code, 0, "{read:?}");
        read.stdout
    }

    fn kill(&self, which: &str) {
        let killed = aside(self.host, "kill", &["-KILL", &self.pid(which)]);
        assert_eq!(killed.code, 0, "{killed:?}");
    }

    /// Its machine is in the unit's control group and confined by it.
    fn has_the_machine(&self) {
        for which in ["monitor_pid", "vmm_pid"] {
            let pid = self.pid(which);
            assert!(self.file("cgroup", &pid).contains("/viv@web.service"), "{which}");
            let status = self.file("status", &pid);
            assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{which}: {status}");
        }
    }
}

#[test]
fn a_users_unit_is_what_its_sandbox_is() {
    let Some(mut host) = Host::ordinary() else { return };
    let Some(systemd) = Systemd::start(&mut host) else { return };
    let unit = Unit { host: &host };
    host.write("viv.toml", format!("[sandbox]\nname = \"web\"\nnet = \"none\"\n{SMALL}"));
    ok(&host, &["up"]);
    let first = host.ps()[0]["id"].clone();
    let enabled = ok(&host, &["enable", "web"]);
    assert!(enabled.stderr.contains("viv@web.service"), "{enabled:?}");

    // What runs is joined.
    assert_eq!(host.ps()[0]["id"], first);
    let status = unit.systemctl(&["status"]);
    assert_eq!(status.code, 0, "{status:?}");
    for part in ["Vivarium sandbox web", "; enabled;", "active (running)", "Status: \"sandbox web is up\""] {
        assert!(status.stdout.contains(part), "{part}: {status:?}");
    }
    assert_eq!((unit.property("Type").as_str(), unit.property("NRestarts").as_str()), ("notify", "0"));

    // What is lost is brought back, this time in the unit.
    unit.kill("vmm_pid");
    until("it is brought back", || unit.property("NRestarts") == "1" && unit.property("ActiveState") == "active");
    assert_ne!(host.ps()[0]["id"], first);
    assert_eq!(ok(&host, &["exec", "web", "--", "hostname"]).stdout, "web\n");
    unit.has_the_machine();
    let entries = unit.until_journal_has("web has failed: QEMU was killed by signal 9");
    assert!(entries.iter().all(|entry| entry["SYSLOG_IDENTIFIER"] == "viv-web"), "{entries:?}");
    unit.until_journal_has("web is up");

    // What somebody wished is no failure.
    ok(&host, &["stop", "web"]);
    unit.until_inactive();
    unit.until_journal_has("web was stopped");
    assert_eq!(unit.systemctl(&["start"]).code, 0);
    assert_eq!(host.ps()[0]["state"], "running");
    ok(&host, &["down"]);
    // It was seen to have stopped, or not to be there any more; neither is a failure.
    unit.until_inactive();
    // But there is nothing to start any more, and no other attempt is made.
    assert_ne!(unit.systemctl(&["start"]).code, 0);
    unit.until("failed");
    assert_eq!((unit.property("ExecMainStatus").as_str(), unit.property("NRestarts").as_str()), ("78", "0"));

    // Enabled once more, it is as new.
    ok(&host, &["up"]);
    ok(&host, &["enable", "web"]);
    assert_eq!(unit.property("ActiveState"), "active");
    assert_eq!(unit.systemctl(&["stop"]).code, 0);
    unit.until_inactive();
    assert!(host.ps().is_empty());
    assert_eq!(unit.systemctl(&["start"]).code, 0);
    let file = host.path("config/systemd/user/viv@web.service");
    assert!(file.exists());
    ok(&host, &["disable", "web"]);
    assert!(!file.exists() && host.ps().is_empty());
    assert_eq!(unit.property("LoadState"), "not-found");

    // A unit of the user's is not root.
    let mut own = std::fs::read_to_string(host.path("config/viv/config.toml")).unwrap();
    own.push_str(&format!("[sandboxes.lan]\nworkspace = \"{}\"\nnet = \"bridge\"\n", host.project().display()));
    std::fs::write(host.path("config/viv/config.toml"), own).unwrap();
    let up = host.run(&["up", "lan"]);
    assert!(up.code == 125 && up.stderr.contains("takes root"), "{up:?}");
    for arguments in [&["enable", "lan"][..], &["enable", "--print", "lan"]] {
        let refused = host.run(arguments);
        assert!(refused.code == 125 && refused.stderr.contains("lan is described to be on the bridge"), "{refused:?}");
        assert!(refused.stderr.contains("sudo viv up lan && sudo viv enable lan"), "{refused:?}");
    }
    drop(systemd);
    host.enter(None);
    host.assert_nothing_is_left();
}

#[test]
fn a_unit_of_the_system_has_a_bridge() {
    let Some(mut host) = Host::new() else { return };
    let Some(systemd) = Systemd::start(&mut host) else { return };
    let unit = Unit { host: &host };
    // A way out, which leads nowhere.
    let out = "ip link add up0 type veth peer name up1 && ip link set up0 up && ip address add 203.0.113.2/24 dev up0 && \
               ip route add default via 203.0.113.1";
    let made = aside(&host, "sh", &["-c", out]);
    assert_eq!(made.code, 0, "{made:?}");
    ok(&host, &["net", "setup", "--uplink", "up0"]);
    let mut own = std::fs::read_to_string(host.path("config/viv/config.toml")).unwrap();
    own.push_str(&format!("[sandboxes.web]\nworkspace = \"{}\"\nnet = \"bridge\"\n", host.project().display()));
    std::fs::write(host.path("config/viv/config.toml"), own + SMALL).unwrap();
    ok(&host, &["up", "web"]);
    ok(&host, &["stop", "web"]);
    ok(&host, &["enable", "web"]);

    let status = unit.systemctl(&["status"]);
    assert!(status.code == 0 && status.stdout.contains("/etc/systemd/system/viv@web.service; enabled;"), "{status:?}");
    unit.has_the_machine();
    let shown = ok(&host, &["exec", "web", "--", "ip", "-brief", "address", "show", "dev", "eth0"]);
    assert!(shown.stdout.contains(" 192.168.83."), "{shown:?}");
    // What its commands print has the field, too.
    let entries = unit.until_journal_has("web is up");
    let ways = |way: &str| entries.iter().any(|entry| entry["_TRANSPORT"] == way);
    assert!(ways("journal") && ways("stdout"), "{entries:?}");

    unit.kill("monitor_pid");
    until("it is brought back", || unit.property("NRestarts") == "1" && unit.property("ActiveState") == "active");
    assert_eq!(ok(&host, &["exec", "web", "--", "hostname"]).stdout, "web\n");
    ok(&host, &["disable", "web"]);
    assert!(host.ps().is_empty());
    assert_eq!(unit.property("LoadState"), "not-found");
    ok(&host, &["rm", "web"]);
    ok(&host, &["net", "teardown"]);
    drop(systemd);
    host.enter(None);
    host.assert_nothing_is_left();
}
