//! Package managers, as they are used, through what this machine's own are configured with: which registries those
//! are is found out as the product does it, and written nowhere here.
//!
//! A program may take many seconds to start under emulation, and some try again what was refused. So how quick a
//! refusal is, is not read off a package manager's whole run: curl measures, inside, one refused connection
//! without its own start, and the log how long the package manager went on trying.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use viv_testkit::FileServer;

use crate::network::host_with_names;
use crate::support::{Host, Ran, finish_within};

/// Ten times what the slowest of these commands took under emulation on two busy cores.
const DEADLINE: Duration = Duration::from_secs(600);

/// How long a refusal may take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How long a package manager may try in vain. It waits 1.5 s at most between its tries (`retry_environment` in
/// viv-net), the rest is emulation under load; left to themselves pip and cargo try for 7.5 s and 10 s.
const IN_VAIN: Duration = Duration::from_secs(5);

/// Where the host's Rust toolchain is inside: the image has none.
const RUST: &str = "/opt/rust";

const NPM: &str = "mkdir -p /tmp/npm && cd /tmp/npm && npm install is-number && ls node_modules";
const PIP: &str = "python3 -m venv --without-pip /tmp/venv && \
                   pip --python /tmp/venv/bin/python install six && \
                   /tmp/venv/bin/python -c 'import six; print(six.__name__)'";
const CARGO: &str = "export PATH=/opt/rust/bin:$PATH; mkdir -p /tmp/cargo/src && cd /tmp/cargo && \
                     printf '[package]\\nname = \"x\"\\nedition = \"2021\"\\n[dependencies]\\ncfg-if = \"1\"\\n' > Cargo.toml && \
                     echo 'fn main() { cfg_if::cfg_if! { if #[cfg(unix)] { println!(\"built\") } } }' > src/main.rs && \
                     cargo build && target/debug/x";
const APT: &str = "export DEBIAN_FRONTEND=noninteractive; \
                   apt-get --error-on=any update && apt-get install -y --no-install-recommends hello && hello";

/// A host with the settings that the package managers of whoever runs the tests have.
fn host() -> Option<Host> {
    Some(Host::new()?.with_own_clients())
}

/// The option that shares the host's Rust toolchain.
fn toolchain() -> String {
    let asked = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    format!("{}:{RUST}:ro", String::from_utf8(asked.stdout).unwrap().trim())
}

/// Runs a script in the fixture, for as long as package managers take.
fn sh(host: &Host, user: &[&str], script: &str) -> Ran {
    let arguments = [&["exec"], user, &["fixture", "--", "sh", "-c", script]].concat();
    let child = host.viv(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    finish_within(child, DEADLINE)
}

/// What the fixture's log has of one kind.
fn events(host: &Host, kind: &str) -> Vec<Value> {
    let log = host.run(&["net", "log", "fixture", "--json"]);
    assert_eq!(log.code, 0, "{log:?}");
    let all = log.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|event| event["event"] == kind).collect()
}

/// The places that events are about.
fn places(events: &[Value]) -> BTreeSet<(String, u64)> {
    let place =
        |event: &Value| Some((event["host"].as_str()?.to_owned(), event["port"].as_u64().filter(|&port| port != 0)?));
    events.iter().filter_map(place).collect()
}

fn url((host, port): &(String, u64)) -> String {
    let scheme = if *port == 80 { "http" } else { "https" };
    format!("{scheme}://{host}:{port}/")
}

/// Has a package manager install something through the set it is for, in the fixture. All it connected to is
/// reachable for curl as well, by the proxy's variables and without them.
fn assert_installs(host: &Host, set: &str, user: &[&str], script: &str, said: &str) {
    let ran = sh(host, user, script);
    assert!(ran.code == 0 && ran.stdout.contains(said), "{script}: {ran:?}");
    let connected = events(host, "connected");
    assert!(!connected.is_empty(), "{ran:?}");
    assert!(connected.iter().all(|event| event["rule"].as_str().unwrap().contains(set)), "{connected:?}");
    for place in places(&connected) {
        for how in ["", "--noproxy '*'"] {
            let url = url(&place);
            let ran = sh(host, &[], &format!("curl -sS -o /dev/null -w '%{{http_code}}' {how} {url}"));
            assert!(ran.code == 0 && ran.stdout != "000", "{how} {url}: {ran:?}");
        }
    }
    let ways: BTreeSet<String> =
        events(host, "connected").iter().map(|event| event["via"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ways, ["proxy".to_owned(), "tcp".to_owned()].into());
}

/// Has a package manager try what is not allowed, in the fixture: it fails, gives the reason and does not go on
/// trying.
fn assert_refused(host: &Host, user: &[&str], script: &str, reason: &str) {
    let before = events(host, "denied").len();
    let ran = sh(host, user, script);
    assert!(ran.code != 0 && (ran.stderr.clone() + &ran.stdout).contains(reason), "{script}: {ran:?}");
    let denied = events(host, "denied").split_off(before);
    let times: Vec<u64> = denied.iter().map(|event| event["at_ms"].as_u64().unwrap()).collect();
    let tried = Duration::from_millis(times.last().unwrap() - times[0]);
    assert!(tried < IN_VAIN, "tried for {tried:?}: {ran:?}");
    let places = places(&denied);
    assert!(!places.is_empty(), "{denied:?}");
    for place in places {
        for (how, what) in [("", "403"), ("--noproxy '*'", "Could not resolve host")] {
            let url = url(&place);
            let ran = sh(host, &[], &format!("curl -sSf -o /dev/null -w '%{{time_total}}' {how} {url}"));
            assert!(ran.code != 0 && ran.stderr.contains(what), "{how} {url}: {ran:?}");
            let took = Duration::from_secs_f64(ran.stdout.parse().unwrap());
            assert!(took < AT_ONCE, "{took:?} for {how} {url}");
        }
    }
}

#[test]
fn npm_installs_from_the_hosts_registry() {
    let Some(host) = host() else { return };
    let _sandbox = host.sandbox(&["--allow", "@npm"]);
    assert_installs(&host, "@npm", &[], NPM, "is-number");
}

#[test]
fn pip_installs_from_the_hosts_index() {
    let Some(host) = host() else { return };
    let _sandbox = host.sandbox(&["--allow", "@pip"]);
    assert_installs(&host, "@pip", &[], PIP, "six");
}

#[test]
fn cargo_builds_with_a_dependency_of_the_hosts_registry() {
    let Some(host) = host() else { return };
    let _sandbox = host.sandbox(&["--allow", "@cargo", "--mount", &toolchain()]);
    assert_installs(&host, "@cargo", &[], CARGO, "built");
}

#[test]
fn apt_installs_from_the_hosts_mirror() {
    let Some(host) = host() else { return };
    let _sandbox = host.sandbox(&["--allow", "@apt"]);
    assert_installs(&host, "@apt", &["--root"], APT, "Hello, world!");
}

#[test]
fn package_managers_that_are_not_allowed_say_so_at_once() {
    let Some(host) = host() else { return };
    let _sandbox = host.sandbox(&["--mount", &toolchain()]);
    // npm shows what the proxy answers, pip and apt the first line of it, curl's library only the number.
    assert_refused(&host, &[], NPM, "would permit it");
    assert_refused(&host, &[], PIP, "403 Forbidden (viv: no rule allows ");
    assert_refused(&host, &[], CARGO, "CONNECT tunnel failed, response 403");
    assert_refused(&host, &["--root"], APT, "Forbidden (viv: no rule allows ");

    let denied = host.run(&["net", "denied", "fixture", "--json"]);
    let denied: Vec<Value> = serde_json::from_str(&denied.stdout).unwrap();
    for (host, port) in places(&events(&host, "denied")) {
        let rule = format!("{host}:{port}");
        assert!(denied.iter().any(|refusal| refusal["allow"] == rule), "{rule}: {denied:?}");
    }
}

#[test]
fn git_clones_from_the_projects_remote_and_trusts_what_it_is_told_to() {
    let Some(host) = host_with_names() else { return };
    let served = host.path("served");
    let steps = "git init -q source && cd source && echo content > file && git add file && \
                 git -c user.name=x -c user.email=x@x.test commit -q -m one && \
                 git clone -q --bare . ../project.git && git -C ../project.git update-server-info";
    std::fs::create_dir(&served).unwrap();
    let made = host.command("sh").current_dir(&served).args(["-c", steps]).status().unwrap();
    assert!(made.success());
    let server = FileServer::start(&served, &["upstream.test".to_owned()]);
    let port = server.address().port();
    let remote = format!("https://upstream.test:{port}/project.git");
    let add = host.command("sh").args(["-c", &format!("git init -q && git remote add origin {remote}")]).status();
    assert!(add.unwrap().success());
    let authority = host.path("authority.pem");
    std::fs::write(&authority, server.authority()).unwrap();
    // A name that leads to the loopback interface is reached only if both are allowed.
    let options = ["--allow", &format!("127.0.0.0/8:{port}"), "--trust", authority.to_str().unwrap()];
    let clone = format!("rm -rf /tmp/clone && git clone -q {remote} /tmp/clone && cat /tmp/clone/file");

    let sandbox = host.sandbox(&[&options[..], &["--allow", "@git"]].concat());
    assert_eq!(sandbox.ok(&clone), "content\n");
    let directly = "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY";
    assert_eq!(sandbox.ok(&format!("{directly}; {clone}")), "content\n");
    let connected = events(&host, "connected");
    for via in ["proxy", "tcp"] {
        let rule = format!("upstream.test:{port} (@git)");
        assert!(connected.iter().any(|event| event["via"] == via && event["rule"] == rule), "{via}: {connected:?}");
    }
    drop(sandbox);

    let _sandbox = host.sandbox(&options);
    assert_refused(&host, &[], &clone, "CONNECT tunnel failed, response 403");
}
